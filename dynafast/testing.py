"""A real cluster for your own tests: node processes on loopback, their data in a temporary folder.

    from dynafast.testing import Cluster

    with Cluster(nodes=3) as cluster, cluster.client() as client:
        client.put(b"cart", b"milk")
        cluster.nodes[0].kill()
        assert client.get(b"cart").value == b"milk"

In pytest the fixture ``dynafast_cluster`` gives each test that names it such a cluster of three.

Every process and folder is gone afterwards. A small process beside the nodes, the reaper, holds the other end of a
pipe: when the testing process dies in any way, even by SIGKILL, the pipe closes, and the reaper ends the nodes and
removes the folder. (A death signal set in the child would do less: it is tied to the thread that made the child.)
"""

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dynafast.client.blocking import Client
from dynafast.client.results import Resolver
from dynafast.errors import DynafastError

try:
    import pytest
except ImportError:  # not in a test run: there is nobody to give a fixture to
    pytest = None  # type: ignore[assignment]

COMMAND = (sys.executable, "-m", "dynafast", "serve")
STOP_TIMEOUT_S = 15.0
POLL_S = 0.02
LAST_WORDS_LINES = 20

_REAPER = """
import os, shutil, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class ClusterError(DynafastError):
    """A node process did not do in time what it was told; the message has the last lines of its log."""


class Node:
    """One node process, started and ended at will. It keeps its data and its address over restarts.

    Attributes:
        name: as the cluster knows it.
        address: "HOST:PORT", known from the first start on.
        resp: the same of where redis clients are served, with the option ``--resp``; else None.
        folder: where its data and its log are.
    """

    def __init__(self, cluster: "Cluster", name: str, options: Sequence[str], *, folder: str) -> None:
        self.name = name
        self.folder = cluster.folder / folder
        self.address = ""
        self.resp: str | None = None
        self._cluster = cluster
        self._options = tuple(options)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id; None while there is no process."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether there is a process, paused or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """All that the node has written to stderr, over restarts."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start the node, the first time or again, and return when it is ready.

        Raises:
            ClusterError: it ended, or was not ready in time.
        """
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start the process without waiting for it."""
        if self.running:
            raise ClusterError(f"{self.name} is running already")
        self._reap()
        self.folder.mkdir(parents=True, exist_ok=True)
        arguments = ["--data", str(self.folder / "data"), "--listen", self.address or "127.0.0.1:0"]
        with (self.folder / "log").open("ab") as log, _interrupt_waits():
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [*self._cluster.command, *arguments, "--name", self.name, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith("DYNAFAST_")},
                start_new_session=True,  # Ctrl-C is for the test, which then ends its nodes
            )
            self._cluster.tell_reaper(f"+{self._process.pid}\n")

    def await_ready(self) -> None:
        """Return when the node has said on stdout that it is ready."""
        process = self._process
        if process is None or process.stdout is None:
            raise ClusterError(f"{self.name} was not started")
        deadline = time.monotonic() + self._cluster.start_timeout_s
        said = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                *lines, _ = said.split(b"\n")
                for line in lines:
                    if line.startswith(b"ready "):
                        words = line.decode().split()
                        self.address = words[2]
                        self.resp = next((word[5:] for word in words[3:] if word.startswith("resp=")), None)
                        return
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._error(f"was not ready within {self._cluster.start_timeout_s:.0f} s")
                piece = os.read(process.stdout.fileno(), 4096)
                if not piece:
                    raise self._error(f"ended with status {process.wait()} before it was ready")
                said += piece

    def stop(self) -> None:
        """End the node in good order (SIGTERM): what is in flight is answered, the store flushed.

        Raises:
            ClusterError: it did not end in time, and was killed.
        """
        if self._process is not None and self.running:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
                raise self._error(f"did not stop within {STOP_TIMEOUT_S:.0f} s") from None
        self._reap()

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Return the exit status of a node that ends by itself, as one does that leaves the cluster.

        Raises:
            ClusterError: it was not started, or did not end in time; it still runs.
        """
        if self._process is None:
            raise ClusterError(f"{self.name} was not started")
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self._error(f"did not end within {timeout_s:.0f} s") from None
        self._reap()
        return status

    def wipe(self) -> None:
        """Lose the disk: the data of a node that does not run is gone. Raises ClusterError if it runs."""
        if self.running:
            raise ClusterError(f"{self.name} is running")
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def kill(self) -> None:
        """End the node at once (SIGKILL), as a crash does."""
        self._signal(signal.SIGKILL)
        self._reap()

    def pause(self) -> None:
        """Freeze the node (SIGSTOP): its connections stay, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused node go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            os.killpg(self._process.pid, number)

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
            self._cluster.tell_reaper(f"-{process.pid}\n")

    def _error(self, what: str) -> ClusterError:
        last_words = "\n".join(self.log.splitlines()[-LAST_WORDS_LINES:])
        return ClusterError(f"{self.name} {what}; the end of its log:\n{last_words or '(nothing)'}")


class Cluster:
    """A cluster of real node processes on loopback; a context manager.

    Args:
        nodes: how many to start with, named n1, n2, ...
        replicas: N of the cluster. r, w: its quorums; None: a majority of N.
        partitions: Q of the cluster; few, so that starting is quick.
        durability: "group" or "interval".
        options: more arguments for ``dynafast serve``, the same for every node.
        start_timeout_s: for one node to be ready, and for all to see each other.
        folder: where to keep the data; None: a temporary folder that is removed.

    Raises:
        ClusterError: on entering, when the cluster does not come up; nothing is left behind.
    """

    def __init__(
        self,
        nodes: int = 3,
        *,
        replicas: int = 3,
        partitions: int = 64,
        r: int | None = None,
        w: int | None = None,
        durability: str = "group",
        options: Sequence[str] = (),
        start_timeout_s: float = 30.0,
        folder: Path | None = None,
    ) -> None:
        self.nodes: list[Node] = []
        self.start_timeout_s = start_timeout_s
        self.command = COMMAND
        self._size = nodes
        self._count = 0  # of the nodes named so far
        self._started: list[Node] = []  # with those that were replaced
        self._common = ["--durability", durability, *options]
        self._creation = ["--replicas", str(replicas), "--partitions", str(partitions)]
        for name, value in (("--r", r), ("--w", w)):
            if value is not None:
                self._creation += [name, str(value)]
        self._kept = folder
        self._folder: Path | None = None
        self._reaper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def folder(self) -> Path:
        """Where the nodes keep their data and logs."""
        if self._folder is None:
            raise ClusterError("the cluster was not started: use it in a with statement")
        return self._folder

    @property
    def addresses(self) -> list[str]:
        """The addresses of all nodes that have been ready, running or not."""
        return [node.address for node in self.nodes if node.address]

    def client(self, *, timeout: float = 5.0, resolver: Resolver | None = None) -> Client:
        """Return a blocking client that knows all nodes; close it after use."""
        return Client(self.addresses, timeout=timeout, resolver=resolver)

    def add_node(self, *options: str, replace: str | None = None) -> Node:
        """Start one more node, let it join, and return it when all running nodes see it up.

        *replace*: the name of a node that is dead for good. The new one, in an empty folder, takes its name and place,
        here in `nodes` too.
        """
        node = self.launch_node(*options, replace=replace)
        node.await_ready()
        self.wait_until_up()
        return node

    def launch_node(self, *options: str, replace: str | None = None) -> Node:
        """Start the process of one more node, as `add_node` does, without waiting for it."""
        node = self._new_node(options, replace)
        node.launch()
        return node

    def wait_until_clean(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Return the last `dynafast.Client.check` once it finds nothing amiss.

        Raises:
            ClusterError: it still does after *timeout_s* (None: as long as a start may take).
        """
        limit_s = self.start_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        found: object = None
        with Client([node.address for node in self.nodes if node.running]) as client:
            while True:
                try:
                    check = client.check()
                except DynafastError as error:
                    found = error
                else:
                    found = check
                    if not (check["divergent"] or check["unreachable"] or check["hints"]):
                        return check
                if time.monotonic() > deadline:
                    raise ClusterError(f"the cluster was not clean within {limit_s:.0f} s: {found}")
                time.sleep(POLL_S)

    def wait_until_up(self) -> None:
        """Return when every running node sees all running nodes up, and the same owners of all keys.

        Raises:
            ClusterError: it did not come to that in time.
        """
        deadline = time.monotonic() + self.start_timeout_s
        running = [node for node in self.nodes if node.running]
        with Client([node.address for node in running], timeout=2.0) as client:
            while True:
                differs = self._differs(client, running)
                if differs is None:
                    return
                if time.monotonic() > deadline:
                    raise ClusterError(f"the cluster was not up within {self.start_timeout_s:.0f} s: {differs}")
                time.sleep(POLL_S)

    def tell_reaper(self, line: str) -> None:
        """Tell which process groups are to be ended if this process dies: "+ID" or "-ID"."""
        if self._reaper is not None and self._reaper.stdin is not None:
            self._reaper.stdin.write(line.encode())
            self._reaper.stdin.flush()

    def _differs(self, client: Client, running: list[Node]) -> str | None:
        """Return what is missing until all nodes see each other; None: nothing."""
        names = {node.name for node in running}
        owners = None
        for node in running:
            try:
                members = client.status(at=node.address)["members"]
                ring = client.ring(at=node.address)
            except DynafastError as error:
                return f"{node.name}: {error}"
            up = {member["name"] for member in members if member["status"] == "up" and member["alive"]}
            if not names <= up:
                return f"{node.name} does not see {', '.join(sorted(names - up))} up"
            if owners is None:
                owners = _owners(ring)
            elif owners != _owners(ring):
                return f"{node.name} and {running[0].name} see different owners"
        return None

    def _start(self) -> None:
        if self._folder is not None:
            raise ClusterError("the cluster is running already")
        with _interrupt_waits():
            self._folder = self._kept or Path(tempfile.mkdtemp(prefix="dynafast-"))
            self._reaper = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-I", "-S", "-c", _REAPER, "" if self._kept else str(self._folder)],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
        self._new_node(self._creation).start()
        others = [self._new_node(()) for _ in range(self._size - 1)]
        for node in others:
            node.launch()
        for node in others:
            node.await_ready()
        self.wait_until_up()

    def _new_node(self, options: Sequence[str], replace: str | None = None) -> Node:
        self._count += 1
        name = folder = f"n{self._count}"
        if replace is not None:
            self.nodes.remove(self._dead(replace))
            name, folder = replace, f"{replace}-{self._count}"
            options = [*options, "--replace", replace]
        seeds = [part for node in self.nodes if node.address for part in ("--join", node.address)]
        node = Node(self, name, [*self._common, *options, *seeds], folder=folder)
        self.nodes.append(node)
        self._started.append(node)
        return node

    def _dead(self, name: str) -> Node:
        """Return the node of that name, which must not run."""
        node = next((node for node in self.nodes if node.name == name), None)
        if node is None or node.running:
            raise ClusterError(f"{name} cannot be replaced: it {'is no node' if node is None else 'is running'}")
        return node

    def _end(self) -> None:
        for node in self._started:
            node.kill()
        if self._reaper is not None and self._reaper.stdin is not None:
            self._reaper.stdin.close()
            self._reaper.wait()
        if self._folder is not None and self._kept is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self.nodes, self._started, self._count, self._folder, self._reaper = [], [], 0, None, None


@contextlib.contextmanager
def _interrupt_waits() -> Iterator[None]:
    """Hold Ctrl-C back: amid the start of a process it would leave one that nobody knows and nobody ends."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if interrupts:
            signal.raise_signal(signal.SIGINT)


def _owners(ring: dict[str, Any]) -> list[str | None]:
    """Return the names of the nodes in every seat: indexes differ from node to node, names do not."""
    names = [str(node["name"]) for node in ring["nodes"]]
    indexes = array("H", ring["table"])
    if sys.byteorder == "little":
        indexes.byteswap()
    return [names[index] if index < len(names) else None for index in indexes]


if pytest is not None:

    @pytest.fixture
    def dynafast_cluster() -> Iterator[Cluster]:
        """Give one test a cluster of three node processes."""
        with Cluster() as cluster:
            yield cluster
