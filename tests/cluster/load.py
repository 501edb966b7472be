"""Writers and readers on a real cluster while something happens to it, and what must be there afterwards."""

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from dynafast import Client
from dynafast.errors import DynafastError
from dynafast.testing import Cluster

DEADLINE_S = 30.0
PAUSE_S = 0.004  # between two turns of a worker: nodes and writers share the cores of one machine
REGISTERS = 40  # keys of one worker that are read, changed and written again


def eventually(condition: Callable[[], bool], what: str, *, within_s: float = DEADLINE_S) -> None:
    """Wait until a condition holds; fail with *what* when it does not come."""
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        pause.wait(0.02)


class Load:
    """Workers that write keys of their own: half of them once, half of them again and again.

    A register is read before it is written, and what was read is replaced. A read may miss the write before it, when
    fallbacks are counted; then both survive. `failures` are requests that were refused or whose outcome stayed unknown.
    """

    def __init__(self, cluster: Cluster, *, workers: int = 4, size: int = 100) -> None:
        self.failures: list[str] = []
        self.done = 0
        self._cluster = cluster
        self._size = size
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._acknowledged: dict[bytes, list[bytes]] = {}  # by key
        self._saw: dict[bytes, list[bytes]] = {}  # value of a register -> what its writer had read
        self._client = cluster.client(timeout=10.0)
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(workers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(DEADLINE_S)
        self._client.close()

    def more(self, count: int) -> None:
        """Wait until so many more turns are done."""
        goal = self.done + count
        eventually(lambda: self.done >= goal, f"{count} more turns; so far {self.done}, failures: {self.failures[:3]}")

    def assert_nothing_lost(self) -> None:
        """Read everything back, once the workers are through: each write is there, or a later one that saw it."""
        assert self._over.is_set()
        assert self._acknowledged
        lost = []
        with self._cluster.client(timeout=10.0) as client:
            for key, values in self._acknowledged.items():
                found = client.get(key).values
                if not set(values) <= kept(found, self._saw):
                    lost.append(f"{key!r}: {[v[:20] for v in found]} where {[v[:20] for v in values]} were written")
        assert lost == []

    def _work(self, worker: int) -> None:
        turn = 0
        while not self._over.wait(PAUSE_S):
            turn += 1
            value = (b"%d/%d;" % (worker, turn)).ljust(self._size, b".")
            try:
                if turn % 2:
                    self._put(b"once/%d/%d" % (worker, turn), value, None)
                else:
                    key = b"register/%d/%d" % (worker, turn % REGISTERS)
                    found = self._client.get(key)
                    self._saw[value] = found.values
                    self._put(key, value, found.context)
            except DynafastError as error:
                with self._lock:
                    self.failures.append(f"{type(error).__name__}: {error}")
            with self._lock:
                self.done += 1

    def _put(self, key: bytes, value: bytes, context: bytes | None) -> None:
        self._client.put(key, value, context=context)
        with self._lock:
            self._acknowledged.setdefault(key, []).append(value)


def kept(there: list[bytes], saw: Mapping[bytes, list[bytes]]) -> set[bytes]:
    """Return the values that are there, and those that they replaced, directly or by others."""
    found: set[bytes] = set()
    left = list(there)
    while left:
        value = left.pop()
        if value not in found:
            found.add(value)
            left += saw.get(value, [])
    return found


def hints_for(cluster: Cluster, name: str) -> int:
    """Return how many writes wait at running nodes for the node of that name."""
    total = 0
    for node in cluster.nodes:
        if node.running and node.name != name:
            with Client([node.address]) as client:
                rows = client.status(at=node.address)["hints"]
            total += sum(row["count"] for row in rows if row["target"] == name)
    return total
