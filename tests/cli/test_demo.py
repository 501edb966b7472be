"""``dynafast demo`` on real processes: it passes, it fails when it should, and it leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType

import pytest

from dynafast import AsyncClient, GetResult, UnavailableError
from dynafast.cli.corpus import Corpus, collect
from dynafast.cli.demo_cluster import members_of, run_demo
from dynafast.cli.demo_run import Client
from dynafast.testing import Cluster

FILES = 60
ALTERED = b"031"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Return a folder of sixty files, an empty one among them."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number:03}").write_bytes(os.urandom(100 * number))
    return folder


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder that temporary files go to, here and in processes started from here."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def _processes_of(folder: Path) -> list[str]:
    """Return the command lines that name *folder*."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if os.fsencode(folder) in line:
            found.append(line.replace(b"\0", b" ").decode())
    return found


def _command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "dynafast", "demo", *map(str, words)]


def test_demo_changes_the_cluster_and_gives_every_byte_back(files: Path, scratch: Path) -> None:
    done = subprocess.run(_command(files), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    size = sum(100 * number for number in range(FILES))
    assert lines[-1] == f"demo: ok files={FILES} bytes={size} failed=0 mismatches=0"
    told = [line.removeprefix("demo: ") for line in lines if re.match(r"demo: (?!(put|get|get again) \d)", line)]
    assert [re.sub(r"\d+ requests", "many requests", text) for text in told[2:-1]] == [
        "started n6, which joins",
        "killed n3 (SIGKILL) with many requests in flight",
        "restarted n3",
        "told n5 to leave",
        "n5 has handed over and left",
        "check is clean: all replicas of 64 partitions agree, no hint waits",
    ]
    (in_flight,) = re.findall(r"with (\d+) requests in flight", done.stdout)
    assert int(in_flight) >= 16
    header = next(line for line in lines if line.startswith("requests "))
    assert header.split() == ["requests", "files", "bytes", "requests/s", "p50", "ms", "p99", "ms", "p99.9", "ms"]
    nodes = [line.split() for line in lines[-8:] if re.match(r"n\d ", line)]
    assert [(row[0], row[4:]) for row in nodes] == [
        ("n1", []),
        ("n2", []),
        ("n3", ["killed"]),
        ("n4", []),
        ("n6", ["joined"]),
    ]
    assert sum(int(row[2]) for row in nodes) >= 3 * FILES  # each file is on three of them
    assert list(scratch.iterdir()) == []
    assert _processes_of(scratch) == []


def test_demo_interrupted_leaves_no_process_and_no_folder(files: Path, scratch: Path) -> None:
    process = subprocess.Popen(_command(files), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        assert any("nodes with data in" in line for line in process.stdout)
        assert len(_processes_of(scratch)) >= 5
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "dynafast: interrupted\n"
    assert process.returncode == 130
    assert list(scratch.iterdir()) == []
    assert _processes_of(scratch) == []


def test_demo_interrupt_waits_until_the_client_can_take_it(files: Path, scratch: Path) -> None:
    """In the middle of what the client does, it would leave coroutines that nobody awaits, with a warning each."""
    finished = []

    class Interrupted(Disturbed):
        async def put(self, key: bytes, value: bytes) -> object:
            if not finished:
                signal.raise_signal(signal.SIGINT)
                finished.append(key)
            return await super().put(key, value)

    with pytest.raises(KeyboardInterrupt):
        run_demo(collect(files), nodes=3, keep=False, connect=lambda addresses: Interrupted(addresses, "none"))
    assert len(finished) == 1
    assert list(scratch.iterdir()) == []


def test_demo_keep_leaves_the_data_and_says_where(files: Path, scratch: Path) -> None:
    done = subprocess.run(_command(files, "--nodes", "3", "--keep"), capture_output=True, text=True, check=True)
    (kept,) = scratch.iterdir()
    assert f"demo: kept {kept}\n" in done.stdout
    assert {"n1", "n2", "n3"} <= {path.name for path in kept.iterdir()}
    assert _processes_of(scratch) == []


def test_demo_figures_are_those_of_this_moment() -> None:
    """Each node is asked for its own: what one node knows of the others is up to a second old."""
    with Cluster(nodes=3) as cluster, cluster.client() as client:
        for count in range(1, 4):
            client.put(b"%d" % count, b"v", w=3)
            members = members_of(cluster)
            assert [(member["name"], member["keys"]) for member in members] == [(f"n{n}", count) for n in (1, 2, 3)]


class Disturbed:
    """The real client, but for one key: a get of it has one byte altered, or a put of it is refused."""

    def __init__(self, addresses: Sequence[str], fault: str) -> None:
        self._client = AsyncClient(addresses, timeout=15.0)
        self._fault = fault

    async def __aenter__(self) -> Client:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def put(self, key: bytes, value: bytes) -> object:
        if key == ALTERED and self._fault == "refused":
            raise UnavailableError("needed 2, reachable 1")
        return await self._client.put(key, value)

    async def get(self, key: bytes) -> GetResult:
        found = await self._client.get(key)
        if key == ALTERED and self._fault == "altered":
            (version,) = found.versions
            altered = bytes([version.value[0] ^ 1]) + version.value[1:]
            return found._replace(versions=(version._replace(value=altered),))
        return found


@pytest.mark.parametrize(
    ("fault", "numbers"), [("altered", "failed=0 mismatches=1"), ("refused", "failed=1 mismatches=0")]
)
def test_demo_fails_by_one_altered_byte_and_by_one_refused_request(
    files: Path, scratch: Path, fault: str, numbers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def connect(addresses: Sequence[str]) -> AbstractAsyncContextManager[Client]:
        return Disturbed(addresses, fault)

    corpus: Corpus = collect(files)
    outcome = run_demo(corpus, nodes=3, keep=False, connect=connect)
    assert not outcome.ok
    assert outcome.line().startswith("demo: failed ")
    assert outcome.line().endswith(numbers)
    assert f"{ALTERED.decode()}: " in capsys.readouterr().out
    assert list(scratch.iterdir()) == []
