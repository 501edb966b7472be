"""The supervisor of ``serve --workers``, with pretended workers that do what a test has told them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from dynafast.config import Address, Settings, load
from dynafast.errors import ConfigError, RefusedError, WorkerFailedError
from dynafast.net.roster import FILE, Member, Roster, refuse_workers_folder
from dynafast.net.workers import Patience, Supervisor, count_workers, open_roster

DEADLINE_S = 20.0
PATIENCE = Patience(pause_min=0.01, pause_max=0.02, tries=3, stop=DEADLINE_S)

# Argument 1: what each worker does in its first process, its second, ..., the last for ever. It keeps what it was told.
FAKE = """
import json, os, signal, sys
told = {name: value for name, (value, source) in json.loads(sys.stdin.readline()).items()}
name, folder = sys.argv[2], told["data"]
os.makedirs(folder, exist_ok=True)
turn = len(os.listdir(folder))
with open(f"{folder}/{turn}", "w") as file:
    json.dump(told, file)
turns = json.loads(sys.argv[1])[name]
for word in turns[min(turn, len(turns) - 1)].split():
    if word == "ready":
        host, _, port = told["listen"].rpartition(":")
        port = int(port) or 5000 + int(name[-1])
        print(f"ready {name} {host}:{port} cluster=c" + (" resp=h:7" if told["resp"] else ""), flush=True)
    elif word == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif word == "wait":
        signal.pause()
    elif word == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "signal":
        os.kill(os.getppid(), signal.SIGTERM)
    elif word == "left":
        print("left", flush=True)
    elif word.isdigit():
        sys.exit(int(word))
    else:
        code, _, sentence = word.partition("=")
        refused = code != "failed"
        print("failed", json.dumps({"message": sentence, "code": code, "refused": refused}), flush=True)
"""


def settings(folder: Path, **flags: object) -> Settings:
    given = {"data": str(folder), "workers": "2", "name": "w", "listen": "127.0.0.1:4000", **flags}
    return load(given, environ={})


def supervisor(
    turns: dict[str, list[str]], folder: Path, *, patience: Patience = PATIENCE, **flags: object
) -> Supervisor:
    """Return a supervisor of as many workers as *turns* has."""
    wanted = settings(folder, **{"workers": str(len(turns)), **flags})
    roster = open_roster(wanted)
    command = (sys.executable, "-I", "-S", "-c", FAKE, json.dumps(turns))
    return Supervisor(wanted, roster, count_workers(wanted, roster), command=command, patience=patience)


def run(supervisor: Supervisor, until: Callable[[], bool] | None = None) -> None:
    """Run until it ends by itself, or until a condition holds; then stop it."""

    async def main() -> None:
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.run)
                if until is not None:
                    while not until():
                        await trio.sleep(0.01)
                    supervisor.stop()

    trio.run(main)


def told(folder: Path, index: int) -> list[dict[str, Any]]:
    """Return the settings of each process of a worker."""
    where = folder / str(index)
    return [json.loads((where / str(turn)).read_text()) for turn in range(len(list(where.iterdir())))]


def processes(folder: Path, index: int) -> int:
    where = folder / str(index)
    return len(list(where.iterdir())) if where.exists() else 0


# ---- the start


def test_new_workers_enter_through_the_first_and_ready_names_all(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    crew = supervisor({key: ["ready wait"] for key in ("w-0", "w-1", "w-2")}, tmp_path, resp="127.0.0.1:0")
    said: list[str] = []  # logged or printed

    def announced() -> bool:
        said.extend(capfd.readouterr().out.splitlines())
        return any(line.startswith("ready ") for line in said)

    run(crew, until=announced)
    assert crew.error is None
    assert said[-1] == "ready w 127.0.0.1:4000,127.0.0.1:4001,127.0.0.1:4002 cluster=c resp=h:7,h:7,h:7"
    first, second, third = (told(tmp_path, index)[0] for index in range(3))
    assert first["join"] == []
    assert "127.0.0.1:4000" in second["join"]
    assert [item["listen"] for item in (first, second, third)] == [f"127.0.0.1:400{index}" for index in range(3)]
    assert [item["name"] for item in (first, second, third)] == ["w-0", "w-1", "w-2"]
    assert {item["host"] for item in (first, second, third)} == {"w"}


def test_with_join_the_first_asks_those_and_the_others_the_first_too(tmp_path: Path) -> None:
    crew = supervisor({"w-0": ["ready wait"], "w-1": ["ready signal wait"]}, tmp_path, join=("seed:1",), host="rack")
    run(crew)
    assert crew.error is None
    assert [item["join"] for item in told(tmp_path, 0) + told(tmp_path, 1)] == [
        ["seed:1"],
        ["127.0.0.1:4000", "seed:1"],
    ]
    assert told(tmp_path, 1)[0]["host"] == "rack"


def test_members_start_at_once_and_keep_their_ports_and_a_new_one_waits_for_any(tmp_path: Path) -> None:
    """Worker 0 never becomes ready again; the new one, which has lower members, enters through worker 1."""
    crew = supervisor({key: ["ready wait"] for key in ("w-0", "w-1")}, tmp_path, listen="127.0.0.1:0")
    run(crew, until=lambda: len(crew._roster.members) == 2)
    assert crew.error is None
    turns = {"w-0": ["wait"], "w-1": ["ready wait"], "w-2": ["ready signal wait"]}
    again = supervisor(turns, tmp_path, listen="127.0.0.1:0", name=None)
    run(again)
    assert again.error is None
    assert [item["listen"] for item in told(tmp_path, 1)] == ["127.0.0.1:0", "127.0.0.1:5001"]
    assert told(tmp_path, 0)[1]["join"] == []
    assert told(tmp_path, 2)[0]["join"] == ["127.0.0.1:5001"]


def test_a_member_whose_folder_was_removed_founds_nothing_beside_the_others(tmp_path: Path) -> None:
    crew = supervisor({key: ["ready wait"] for key in ("w-0", "w-1")}, tmp_path)
    run(crew, until=lambda: len(crew._roster.members) == 2)
    for file in (tmp_path / "0").iterdir():
        file.unlink()
    (tmp_path / "0").rmdir()
    run(supervisor({"w-0": ["ready signal wait"], "w-1": ["ready wait"]}, tmp_path))
    assert told(tmp_path, 0)[0]["join"] == ["127.0.0.1:4001"]


# ---- ends


@pytest.mark.parametrize("end", ["killed", "0", "4", "2"])
def test_a_worker_that_ends_unasked_is_started_anew(tmp_path: Path, end: str) -> None:
    crew = supervisor({"w-0": ["ready wait"], "w-1": [f"ready {end}", "ready signal wait"]}, tmp_path)
    run(crew)
    assert crew.error is None
    assert (processes(tmp_path, 0), processes(tmp_path, 1)) == (1, 2)


@pytest.mark.parametrize(
    ("turn", "why"),
    [
        ("ready killed", "at last by SIGKILL"),
        ("failed=no-disk 4", "at last with status 4: no-disk"),
        ("70", "at last with status 70"),
    ],
)
def test_a_worker_that_ends_again_and_again_stops_all(tmp_path: Path, turn: str, why: str) -> None:
    crew = supervisor({"w-0": ["ready wait"], "w-1": [turn]}, tmp_path)
    run(crew)
    assert isinstance(crew.error, WorkerFailedError)
    assert str(crew.error) == f"worker w-1 could not be kept running: it ended 3 times in a row, {why}"
    assert (processes(tmp_path, 0), processes(tmp_path, 1)) == (1, 3)


def test_failures_long_apart_are_not_counted_together(tmp_path: Path) -> None:
    """With no time to be waited for, every worker that was ready has been started well."""
    patience = Patience(pause_min=0.01, tries=2, quick=0.0)
    crew = supervisor(
        {"w-0": ["ready wait"], "w-1": [*["ready killed"] * 4, "ready signal wait"]}, tmp_path, patience=patience
    )
    run(crew)
    assert crew.error is None
    assert processes(tmp_path, 1) == 5


def test_a_worker_whose_node_has_left_is_over_and_the_others_go_on(tmp_path: Path) -> None:
    crew = supervisor({"w-0": ["ready wait"], "w-1": ["ready left 0"]}, tmp_path)
    run(crew, until=lambda: 1 in crew._roster.members and crew._roster.members[1].gone)
    assert crew.error is None
    assert (processes(tmp_path, 0), processes(tmp_path, 1)) == (1, 1)
    run(supervisor({"w-0": ["ready signal wait"], "w-1": ["ready wait"]}, tmp_path))
    assert processes(tmp_path, 1) == 1, "nor does the next start try it"


def test_when_all_have_left_it_ends_well_and_the_next_start_says_so(tmp_path: Path) -> None:
    crew = supervisor({key: ["ready left 0"] for key in ("w-0", "w-1")}, tmp_path)
    run(crew)
    assert crew.error is None
    again = supervisor({key: ["ready wait"] for key in ("w-0", "w-1")}, tmp_path)
    with pytest.raises(RefusedError, match="all workers of this folder have left"):
        trio.run(again.run)


@pytest.mark.parametrize(("code", "gone"), [("removed", True), ("stale-generation", False)])
def test_a_refused_worker_is_over_and_the_end_says_so(tmp_path: Path, code: str, *, gone: bool) -> None:
    crew = supervisor({"w-0": ["ready wait"], "w-1": [f"ready {code}=old 4"]}, tmp_path)
    run(crew, until=lambda: crew.error is not None)
    assert isinstance(crew.error, RefusedError)
    assert (str(crew.error), crew.error.code) == ("worker w-1: old", code)
    assert (processes(tmp_path, 0), processes(tmp_path, 1)) == (1, 1)
    assert crew._roster.members[1].gone == gone


def test_when_the_first_is_refused_the_others_have_nobody_to_enter_through(tmp_path: Path) -> None:
    crew = supervisor({"w-0": ["name-taken=taken 4"], "w-1": ["ready wait"]}, tmp_path)
    run(crew)
    assert str(crew.error) == "worker w-0: taken"
    assert processes(tmp_path, 1) == 0


def test_a_bad_setting_at_the_start_stops_all_at_once(tmp_path: Path) -> None:
    crew = supervisor({"w-0": ["ready wait"], "w-1": ["failed=listen:-taken 2"]}, tmp_path)
    run(crew)
    assert isinstance(crew.error, ConfigError)
    assert str(crew.error) == "worker w-1: listen:-taken"


def test_a_worker_that_does_not_stop_in_time_is_killed(tmp_path: Path) -> None:
    patience = Patience(stop=0.05)
    crew = supervisor({"w-0": ["deaf ready signal wait wait"], "w-1": ["wait"]}, tmp_path, patience=patience)
    run(crew)
    assert str(crew.error) == "worker w-0 did not stop well, but by SIGKILL"


# ---- the folder and the settings


def test_the_roster_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "crew"
    assert Roster.load(folder) is None
    roster = Roster(folder=folder, name="n", host="h", members={0: Member(listen=1, resp=2), 3: Member(gone=True)})
    roster.save()
    for index in (0, 3):
        (folder / str(index)).mkdir()
    assert Roster.load(folder) == roster
    (folder / "3").rmdir()
    found = Roster.load(folder)
    assert found is not None
    assert list(found.members) == [0], "whose folder is gone is a member no more"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("CURRENT", "x", "has the data of one node: leave --workers out"),
        ("notes.txt", "x", "holds notes.txt, so it is no folder of workers"),
        (FILE, "{}", "is damaged"),
        (FILE, "\0", "is damaged"),
        (FILE, '{"format": 9, "name": "n", "host": "h", "members": {}}', "has format 9, this program reads 1"),
    ],
)
def test_a_folder_that_is_none_of_workers_is_refused(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        Roster.load(tmp_path)
    assert (tmp_path / name).read_text() == content


def test_one_node_does_not_begin_in_the_folder_of_workers(tmp_path: Path) -> None:
    refuse_workers_folder(tmp_path)
    Roster(folder=tmp_path, name="n", host="h").save()
    with pytest.raises(ConfigError, match=f"give --workers, or the folder of one of them, as in --data {tmp_path}/0"):
        refuse_workers_folder(tmp_path)


def member_folder(tmp_path: Path, **members: bool) -> Path:
    """Make a folder of workers; *members*: whether each is gone."""
    roster = Roster(folder=tmp_path, name="w", host="rack")
    for name, gone in members.items():
        (tmp_path / name[1:]).mkdir()
        roster.members[int(name[1:])] = Member(gone=gone)
    roster.save()
    return tmp_path


def test_name_and_host_are_remembered_and_the_name_must_stay(tmp_path: Path) -> None:
    folder = member_folder(tmp_path, w0=False)
    roster = open_roster(settings(folder, name=None))
    assert (roster.name, roster.host) == ("w", "rack")
    assert open_roster(settings(folder, host="other")).host == "other"
    with pytest.raises(ConfigError, match="name must stay 'w'"):
        open_roster(settings(folder, name="x"))


def test_the_default_name_is_of_the_machine_and_the_first_port(tmp_path: Path) -> None:
    roster = open_roster(settings(tmp_path, name=None))
    assert roster.name.endswith("-4000")
    assert roster.host == roster.name
    with pytest.raises(ConfigError, match=r"name must be given with workers when listen has no port"):
        open_roster(settings(tmp_path, name=None, listen="127.0.0.1:0"))


def test_no_worker_with_data_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = member_folder(tmp_path, w0=False, w2=False, w3=True)
    monkeypatch.setattr("dynafast.net.workers._processors", lambda: 2)
    roster = open_roster(settings(folder))
    with pytest.raises(ConfigError, match=r"workers must be at least 3, .*, got 2: .*dynafast leave w-2"):
        count_workers(settings(folder), roster)
    assert count_workers(settings(folder, workers="3"), roster) == 3, "worker 3 has left"
    assert count_workers(settings(folder, workers="auto"), roster) == 3
    assert count_workers(settings(tmp_path / "new", workers="auto"), open_roster(settings(tmp_path / "new"))) == 2


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"listen": "127.0.0.1:65535"}, "listen must leave ports for all workers, and worker 1 would need 65536"),
        ({"resp": "127.0.0.1:4001"}, "resp must be at least 2 ports away from listen"),
        ({"resp": "127.0.0.1:3999"}, "resp must be at least 2 ports away from listen"),
        ({"name": "n" * 63}, "name must be 1 to 64 letters"),
    ],
)
def test_settings_that_fit_one_node_and_not_all_workers_are_refused(
    tmp_path: Path, flags: dict[str, str], sentence: str
) -> None:
    wanted = settings(tmp_path, **flags)
    with pytest.raises(ConfigError, match=sentence):
        count_workers(wanted, open_roster(wanted))


def test_ports_of_redis_clients_may_follow_those_of_the_nodes(tmp_path: Path) -> None:
    wanted = settings(tmp_path, resp="127.0.0.1:4002")
    assert count_workers(wanted, open_roster(wanted)) == 2
    second = wanted.for_worker(1, name="w", host="w").node
    assert (second.listen, second.resp) == (Address("127.0.0.1", 4001), Address("127.0.0.1", 4003))
