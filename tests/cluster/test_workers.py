"""``serve --workers`` with real processes: several nodes on one machine that are started and stopped as one."""

import contextlib
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynafast import Client
from dynafast.errors import DynafastError
from dynafast.testing import COMMAND
from tests.cluster.load import eventually

DEADLINE_S = 60.0
KEYS = [b"k%d" % number for number in range(50)]


class Crew:
    """One ``serve --workers``: its process, and what it has said."""

    def __init__(self, folder: Path, *options: str, name: str = "crew", workers: int = 2) -> None:
        self.folder, self.name = folder / name, name
        self._log_path = folder / f"{name}.log"
        self._options = ["--name", name, "--workers", str(workers), "--listen", "127.0.0.1:0", *options]
        self.process: subprocess.Popen[bytes]
        self.addresses: list[str] = []
        self.resp: list[str] = []

    def launch(self) -> None:
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "--data", str(self.folder), *self._options], stdout=subprocess.PIPE, stderr=log
            )

    def await_ready(self) -> None:
        assert self.process.stdout is not None
        deadline = time.monotonic() + DEADLINE_S
        said = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while (ready := re.search(rb"^ready (.*)\n", said, re.M)) is None:
                assert selector.select(deadline - time.monotonic()), self.log
                piece = os.read(self.process.stdout.fileno(), 4096)
                assert piece, self.log
                said += piece
        _, addresses, _, *more = ready[1].decode().split()
        self.addresses = addresses.split(",")
        self.resp = more[0].removeprefix("resp=").split(",") if more else []

    def start(self) -> None:
        self.launch()
        self.await_ready()

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    def pids(self, worker: int) -> list[int]:
        """The processes that a worker has had."""
        started = re.findall(rf"worker={self.name}-{worker} event=worker\.started pid=(\d+)", self.log)
        return [int(pid) for pid in started]

    def alive(self) -> list[int]:
        """The processes of workers that have not ended."""
        numbers = {int(pid) for pid in re.findall(r"event=worker\.started pid=(\d+)", self.log)}
        return [pid for pid in numbers if Path(f"/proc/{pid}/cmdline").exists() and not is_zombie(pid)]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        with self.process:  # which closes its pipe
            return self.process.wait(DEADLINE_S)

    def end(self) -> None:
        """Leave nothing behind."""
        with self.process:
            self.process.kill()
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_zombie(pid: int) -> bool:
    """Whether a process has ended, and nobody has asked how: its parent, perhaps, is gone too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@contextlib.contextmanager
def running(folder: Path, *options: str, name: str = "crew", workers: int = 2) -> Iterator[Crew]:
    crew = Crew(folder, *options, name=name, workers=workers)
    try:
        crew.start()
        yield crew
    finally:
        crew.end()


def is_clean(addresses: list[str]) -> bool:
    with Client(addresses) as client, contextlib.suppress(DynafastError):
        check = client.check()
        return not (check["divergent"] or check["unreachable"] or check["hints"])
    return False


def complaint(folder: Path, *options: str) -> tuple[int, str]:
    """Run a ``serve`` that ends by itself; return its status, and the last line on stderr."""
    done = subprocess.run(
        [*COMMAND, "--data", str(folder), "--listen", "127.0.0.1:0", *options],
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
        text=True,
    )
    return done.returncode, done.stderr.splitlines()[-1]


def test_workers_serve_as_one_and_one_that_is_killed_comes_back(tmp_path: Path) -> None:
    with running(tmp_path, "--partitions", "16", "--resp", "127.0.0.1:0") as crew:
        for index, key in enumerate(KEYS):
            with Client([crew.addresses[index % 2]]) as client:
                client.put(key, key)
        with Client(crew.addresses) as client:
            members = client.status()["members"]
            config = client.status(at=crew.addresses[1], config=True)["config"]
        assert {(member["name"], member["host"]) for member in members} == {("crew-0", "crew"), ("crew-1", "crew")}
        assert all(member["partitions"] for member in members), "both have a share"
        assert config["workers"] == {"value": 2, "source": "flag"}
        assert config["data"]["value"] == str(crew.folder / "1")
        for address in crew.resp:
            host, port = address.rsplit(":", 1)
            with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as redis:
                redis.sendall(b"GET k0\r\n")
                assert redis.recv(100) == b"$2\r\nk0\r\n"

        os.kill(crew.pids(1)[0], signal.SIGKILL)
        os.kill(crew.pids(0)[0], signal.SIGTERM)  # in good order, and yet not what it was told to do
        eventually(lambda: crew.log.count("event=worker.ready") == 4, "the workers did not come back")
        assert [len(crew.pids(worker)) for worker in (0, 1)] == [2, 2]
        eventually(lambda: is_clean(crew.addresses), "check was not clean")
        for address in crew.addresses:
            with Client([address]) as client:
                assert [client.get(key).value for key in KEYS] == KEYS

        assert crew.stop() == 0
        assert crew.alive() == []
        assert crew.log.count("event=stop.drained") == 3, "one of them before"


def test_a_folder_of_workers_starts_again_with_all_of_them_and_not_otherwise(tmp_path: Path) -> None:
    with running(tmp_path, "--partitions", "16") as crew:
        with Client(crew.addresses) as client:
            for key in KEYS:
                client.put(key, key)
            before = client.status()["cluster"]["id"], crew.addresses
        assert crew.stop() == 0
        for options, sentence in (
            ((), "was made by serve --workers: give --workers"),
            (("--workers", "1"), "workers must be at least 2"),
            (("--workers", "2", "--name", "other"), "name must stay 'crew'"),
        ):
            status, said = complaint(crew.folder, *options)
            assert (status, sentence in said) == (2, True), said
        crew.start()
        with Client(crew.addresses) as client:
            assert (client.status()["cluster"]["id"], crew.addresses) == before
            assert [client.get(key).value for key in KEYS] == KEYS
    status, said = complaint(crew.folder / "0", "--workers", "2")
    assert status == 2
    assert "has the data of one node: leave --workers out" in said


@pytest.mark.parametrize("replicas", ["1", "3"])
def test_a_worker_that_leaves_hands_over_and_the_other_goes_on(tmp_path: Path, replicas: str) -> None:
    with running(tmp_path, "--partitions", "16", "--replicas", replicas) as crew:
        with Client(crew.addresses) as client:
            for key in KEYS:
                client.put(key, key)
            client.leave("crew-1")
        eventually(lambda: "event=worker.left" in crew.log, "it did not leave")
        with Client(crew.addresses[:1]) as client:
            assert [client.get(key).value for key in KEYS] == KEYS
        assert len(crew.pids(1)) == 1
        assert crew.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_workers_do_not_outlive_their_supervisor(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, "--partitions", "16") as crew:
        assert len(crew.alive()) == 2
        crew.process.send_signal(number)
        crew.process.wait(DEADLINE_S)
        eventually(lambda: not crew.alive(), "workers are left")
        assert crew.log.count("event=stop.drained") == 2


def test_a_port_that_is_taken_ends_all_with_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        crew = Crew(tmp_path, "--partitions", "16", "--resp", f"127.0.0.1:{port}")
        try:
            crew.launch()
            assert crew.process.wait(DEADLINE_S) == 2
        finally:
            crew.end()
        assert crew.alive() == []
        assert crew.log.splitlines()[-1].startswith(f"dynafast: worker crew-0: resp: cannot listen on 127.0.0.1:{port}")


def test_workers_take_no_modules_from_the_current_folder(tmp_path: Path) -> None:
    """As the command itself: only ``python -m`` looks there."""
    (tmp_path / "json.py").write_text("raise SystemExit(9)")
    command = [sys.executable, "-P", *COMMAND[1:]]
    options = ["--data", "d", "--name", "w", "--listen", "127.0.0.1:0", "--workers", "1", "--partitions", "16"]
    with subprocess.Popen([*command, *options], cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"created")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0


def test_three_machines_with_workers_keep_serving_when_one_of_them_dies(tmp_path: Path) -> None:
    """N=3, R=W=2 on three hosts of two workers each: no two replicas of a key are on one host."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(running(tmp_path, "--partitions", "16", name="a"))
        others = [Crew(tmp_path, "--join", first.addresses[0], name=name) for name in ("b", "c")]
        for crew in others:
            stack.callback(crew.end)
            crew.launch()
        for crew in others:
            crew.await_ready()
        crews = [first, *others]
        with Client([address for crew in crews for address in crew.addresses]) as client:
            eventually(lambda: client.status()["cluster"]["quorum_hosts"] == 3, "not all three count")
            eventually(lambda: is_clean(first.addresses), "replicas still move")
            for key in KEYS:
                assert client.put(key, key).receipt.needed == 2
                assert len({name[0] for name in client.ring(key)["preference"][:3]}) == 3
        victim = crews[1]
        for pid in (victim.process.pid, *victim.alive()):
            os.kill(pid, signal.SIGKILL)
        with Client([address for crew in (first, others[1]) for address in crew.addresses]) as client:
            for key in KEYS:
                found = client.get(key, r=2)
                assert found.value == key
                client.put(key, key + b"!", context=found.context, w=2)
