"""The run behind ``dynafast demo``: store, read back and compare, while nodes join, die, come back and leave.

What it needs of the world is passed in: a client, what to do to the cluster, a way to read a file, someone to
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
POLL_S = 0.01

T = TypeVar("T")


class Client(Protocol):
    """The part of `dynafast.AsyncClient` that the demo uses."""

    async def put(self, key: bytes, value: bytes) -> object:
        """Store *value* under *key*. Raises `DynafastError`."""

    async def get(self, key: bytes) -> GetResult:
        """Return what is stored under *key*. Raises `DynafastError`."""


class Changes(Protocol):
    """What happens to the cluster under load, in this order; each returns at once, and the cluster does it behind."""

    def grow(self) -> None:
        """Let one more node join; a quarter of the files are stored."""

    def kill(self, in_flight: int) -> None:
        """Kill a node; half of the files are stored, and so many requests are under way."""

    def restart(self) -> None:
        """Start that node again; everything is stored."""

    async def shrink(self) -> None:
        """Let another node leave; a quarter of the files are read."""


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
    done: int = 0  # requests, answered or not
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
        changes: what happens to the cluster meanwhile. The kill comes when half of the files are stored and
            `IN_FLIGHT_AT_KILL` requests, or all that are left, are under way.
        read_file: returns the bytes of a file; called once to store it and once for each comparison.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        changes: Changes,
        read_file: Callable[[Path], bytes],
        teller: Teller,
    ) -> None:
        self.outcome = Outcome()
        self.stages: list[Stage] = []
        self._corpus = corpus
        self._changes, self._read_file, self._teller = changes, read_file, teller
        self._in_flight = 0
        self._stored: list[Item] = []
        self._wrong: set[Item] = set()
        self._grown = self._killed = False

    async def run(self, client: Client) -> None:
        """Store everything and read it back under changes; what went wrong is in `outcome`."""
        await self._each("put", self._corpus.items, partial(self._store, client))
        self._changes.restart()
        await self._each("get", self._stored, partial(self._compare, client), at_quarter=self._changes.shrink)

    async def read_again(self, client: Client) -> None:
        """Read everything back once more."""
        await self._each("get again", self._stored, partial(self._compare, client))

    async def _each(
        self,
        name: str,
        items: Sequence[Item],
        action: Callable[[Item, Stage], Awaitable[None]],
        *,
        at_quarter: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        stage = Stage(name)
        self.stages.append(stage)
        self._teller.start(name, len(items))
        queue = iter(items)
        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(IN_FLIGHT):
                nursery.start_soon(self._work, queue, action, stage)
            if at_quarter is not None:
                while 4 * stage.done < len(items):
                    await trio.sleep(POLL_S)
                await at_quarter()
        stage.elapsed_s = time.perf_counter() - started

    async def _work(
        self, queue: Iterator[Item], action: Callable[[Item, Stage], Awaitable[None]], stage: Stage
    ) -> None:
        for item in queue:
            try:
                await action(item, stage)
            except (DynafastError, OSError) as error:
                self._note(self.outcome.failed, item, f"{stage.name} {_shown(item)}: {error}")
            stage.done += 1
            self._teller.advance()

    async def _store(self, client: Client, item: Item, stage: Stage) -> None:
        data = self._read_file(item.path)
        await self._timed(client.put(item.key, data), stage, len(data))
        self._stored.append(item)
        self.outcome.files += 1
        self.outcome.size += len(data)
        count = len(self._corpus.items)
        if not self._grown and 4 * len(self._stored) >= count:
            self._grown = True
            self._changes.grow()
        left = count - len(self._stored) - len(self.outcome.failed)
        if not self._killed and 2 * len(self._stored) >= count and self._in_flight >= min(IN_FLIGHT_AT_KILL, left):
            self._killed = True
            self._changes.kill(self._in_flight)

    async def _compare(self, client: Client, item: Item, stage: Stage) -> None:
        found = await self._timed(client.get(item.key), stage, 0)
        stage.size += sum(len(value) for value in found.values)
        data = self._read_file(item.path)
        if found.values != [data]:
            sizes = [len(value) for value in found.values]
            self._note(
                self.outcome.mismatches,
                item,
                f"{_shown(item)}: {len(data)} bytes were stored, the cluster has {sizes or 'nothing'}",
            )

    def _note(self, sentences: list[str], item: Item, sentence: str) -> None:
        """Note what went wrong first with a file."""
        if item not in self._wrong:
            self._wrong.add(item)
            sentences.append(sentence)

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
