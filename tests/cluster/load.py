"""Writers and readers on a real cluster while something happens to it, and what must be there afterwards."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from dynafast import Client
from dynafast.errors import DynafastError, WriteUncertainError
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

    A register is read before it is written, and what was acknowledged last must be there, or a later write whose
    outcome nobody knew. `failures` are requests that were refused, or whose outcome stayed unknown.
    """

    def __init__(self, cluster: Cluster, *, workers: int = 4, size: int = 100) -> None:
        self.failures: list[str] = []
        self.lost: list[str] = []
        self.done = 0
        self._cluster = cluster
        self._size = size
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._once: dict[bytes, bytes] = {}
        self._registers: dict[bytes, list[bytes]] = {}  # what may be there: the last acknowledged, unknown ones since
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
        """Read everything back, once the workers are through."""
        assert self._over.is_set()
        with self._cluster.client(timeout=10.0) as client:
            for key, value in self._once.items():
                self._compare(key, [value], client.get(key).values)
            for key, expected in self._registers.items():
                self._compare(key, expected, client.get(key).values)
        assert self.lost == []
        assert self.done > 0

    def _work(self, worker: int) -> None:
        turn = 0
        while not self._over.wait(PAUSE_S):
            turn += 1
            value = (b"%d/%d;" % (worker, turn)).ljust(self._size, b".")
            try:
                if turn % 2:
                    self._write_once(b"once/%d/%d" % (worker, turn), value)
                else:
                    self._change(b"register/%d/%d" % (worker, turn % REGISTERS), value)
            except DynafastError as error:
                with self._lock:
                    self.failures.append(f"{type(error).__name__}: {error}")
            with self._lock:
                self.done += 1

    def _write_once(self, key: bytes, value: bytes) -> None:
        self._client.put(key, value)
        with self._lock:
            self._once[key] = value

    def _change(self, key: bytes, value: bytes) -> None:
        found = self._client.get(key)
        expected = self._registers.setdefault(key, [])
        if expected:
            self._compare(key, expected, found.values)
        try:
            self._client.put(key, value, context=found.context)
        except WriteUncertainError:
            expected.append(value)
            raise
        expected[:] = [value]

    def _compare(self, key: bytes, expected: list[bytes], found: list[bytes]) -> None:
        if not set(expected) & set(found):
            self.lost.append(f"{key!r}: {[v[:20] for v in found]} where one of {[v[:20] for v in expected]} belongs")


def hints_for(cluster: Cluster, name: str) -> int:
    """Return how many writes wait at running nodes for the node of that name."""
    total = 0
    for node in cluster.nodes:
        if node.running and node.name != name:
            with Client([node.address]) as client:
                rows = client.status(at=node.address)["hints"]
            total += sum(row["count"] for row in rows if row["target"] == name)
    return total
