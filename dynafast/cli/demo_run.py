"""The run behind ``dynafast demo``: store, kill a node half-way, read back, compare, restart, report.

What it needs of the world is passed in: a client, a way to kill a node, a way to read a file, someone to
tell. It counts what it sees and never retries, so a request that the client gives up is a failure.
"""

import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import trio

from dynafast.cli.corpus import Corpus, Item
from dynafast.client.results import GetResult
from dynafast.errors import DynafastError

IN_FLIGHT = 32  # low: the cluster idles; high: more memory (a file each), and longer queues in the latencies
IN_FLIGHT_AT_KILL = 16

T = TypeVar("T")


class Client(Protocol):
    """The part of `dynafast.AsyncClient` that the demo uses."""

    async def put(self, key: bytes, value: bytes) -> object:
        """Store *value* under *key*. Raises `DynafastError`."""

    async def get(self, key: bytes) -> GetResult:
        """Return what is stored under *key*. Raises `DynafastError`."""


class Teller(Protocol):
    """Who is told how the run goes."""

    def say(self, text: str) -> None:
        """Show one line."""

    def start(self, label: str, total: int) -> None:
        """Begin a stage of *total* steps."""

    def advance(self) -> None:
        """Count one step of the stage as done."""


@dataclass(slots=True)
class Stage:
    """What one stage has measured. Latencies are in seconds, one for each request that was answered."""

    name: str
    latencies: list[float] = field(default_factory=list)
    size: int = 0  # bytes of values, stored or read
    elapsed_s: float = 0.0

    def quantile(self, share: float) -> float:
        """Return the latency that *share* of the requests did not exceed; 0 when there are none."""
        if not self.latencies:
            return 0.0
        return sorted(self.latencies)[math.ceil(share * len(self.latencies)) - 1]


@dataclass(slots=True)
class Outcome:
    """How the run went. ``failed`` and ``mismatches`` are sentences, one for each file concerned."""

    files: int = 0
    size: int = 0
    failed: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every file was stored, read back, and found equal."""
        return not self.failed and not self.mismatches

    def line(self) -> str:
        """Return the last line of the demo."""
        return (
            f"demo: {'ok' if self.ok else 'failed'} files={self.files} bytes={self.size}"
            f" failed={len(self.failed)} mismatches={len(self.mismatches)}"
        )


class Run:
    """Stores and reads back *corpus* with `IN_FLIGHT` requests at a time.

    Args:
        kill: kills the node, at once; called when half of the files are stored and `IN_FLIGHT_AT_KILL`
            requests, or all that are left, are under way.
        read_file: returns the bytes of a file; called once to store it and once to compare.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        kill: Callable[[], None],
        read_file: Callable[[Path], bytes],
        teller: Teller,
    ) -> None:
        self.outcome = Outcome()
        self.stages: list[Stage] = []
        self.in_flight_at_kill: int | None = None
        self._corpus = corpus
        self._kill, self._read_file, self._teller = kill, read_file, teller
        self._in_flight = 0
        self._stored: list[Item] = []

    async def run(self, client: Client) -> None:
        """Do both stages; what went wrong is in `outcome`."""
        await self._each("put", self._corpus.items, partial(self._store, client))
        await self._each("get", self._stored.copy(), partial(self._compare, client))

    async def _each(self, name: str, items: Sequence[Item], action: Callable[[Item, Stage], Awaitable[None]]) -> None:
        stage = Stage(name)
        self.stages.append(stage)
        self._teller.start(name, len(items))
        queue = iter(items)
        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(IN_FLIGHT):
                nursery.start_soon(self._work, queue, action, stage)
        stage.elapsed_s = time.perf_counter() - started

    async def _work(
        self, queue: Iterator[Item], action: Callable[[Item, Stage], Awaitable[None]], stage: Stage
    ) -> None:
        for item in queue:
            try:
                await action(item, stage)
            except (DynafastError, OSError) as error:
                self.outcome.failed.append(f"{stage.name} {_shown(item)}: {error}")
            self._teller.advance()

    async def _store(self, client: Client, item: Item, stage: Stage) -> None:
        data = self._read_file(item.path)
        await self._timed(client.put(item.key, data), stage, len(data))
        self._stored.append(item)
        self.outcome.files += 1
        self.outcome.size += len(data)
        left = len(self._corpus.items) - len(self._stored) - len(self.outcome.failed)
        if (
            self.in_flight_at_kill is None
            and 2 * len(self._stored) >= len(self._corpus.items)
            and self._in_flight >= min(IN_FLIGHT_AT_KILL, left)
        ):
            self.in_flight_at_kill = self._in_flight
            self._kill()

    async def _compare(self, client: Client, item: Item, stage: Stage) -> None:
        found = await self._timed(client.get(item.key), stage, 0)
        stage.size += sum(len(value) for value in found.values)
        data = self._read_file(item.path)
        if found.values != [data]:
            sizes = [len(value) for value in found.values]
            self.outcome.mismatches.append(
                f"{_shown(item)}: {len(data)} bytes were stored, the cluster has {sizes or 'nothing'}"
            )

    async def _timed(self, request: Awaitable[T], stage: Stage, size: int) -> T:
        self._in_flight += 1
        started = time.perf_counter()
        try:
            answer = await request
        finally:
            self._in_flight -= 1
        stage.latencies.append(time.perf_counter() - started)
        stage.size += size
        return answer


def _shown(item: Item) -> str:
    return item.key.decode(errors="backslashreplace")
