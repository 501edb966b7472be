"""``python -m bench sla``: the paper's promise (section 2.2), 99.9 % within 300 ms, while nodes come and go.

500 requests per second to five nodes from the project's own client, each timed from the moment it was due. Meanwhile a
node is killed, the same is started again, and a sixth joins. A request that the client gives up is a failed one.
"""

import argparse
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from bench.load import Histogram
from bench.output import save, table
from dynafast import AsyncClient, lww
from dynafast.errors import DynafastError
from dynafast.testing import Cluster

NODES = 5
RATE = 500
LIMIT_MS = 300.0
KEYS = 2000
WARMUP_S = 2.0  # connections and rings; not counted
PERIOD_S = 5.0  # for the table


@dataclass(slots=True)
class Outcome:
    """What the requests met with.

    Attributes:
        failures: one line each.
        periods: latency by when the request was due, in steps of `PERIOD_S`.
        events: (seconds from the start, what happened).
    """

    latency: Histogram = field(default_factory=Histogram)
    failures: list[str] = field(default_factory=list)
    periods: list[Histogram] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether the promise was."""
        return not self.failures and len(self.latency) > 0 and self.latency.ms(99.9) < LIMIT_MS

    def add(self, due_s: float, took_s: float) -> None:
        """Count a request."""
        while len(self.periods) <= due_s / PERIOD_S:
            self.periods.append(Histogram())
        for histogram in (self.latency, self.periods[int(due_s / PERIOD_S)]):
            histogram.add([(round(took_s * 1e9), 1)])

    def __str__(self) -> str:
        rows = []
        for number, one in enumerate(self.periods):
            begin = number * PERIOD_S
            events = ", ".join(what for at, what in self.events if begin <= at < begin + PERIOD_S)
            rows.append([f"{begin:.0f} s", len(one), *(one.ms(p) for p in (50, 99, 99.9)), one.max_ms, events])
        one = self.latency
        rows.append(["all", len(one), *(one.ms(p) for p in (50, 99, 99.9)), one.max_ms, ""])
        head = table(["due from", "requests", "p50 ms", "p99", "p99.9", "max", "meanwhile"], rows)
        failures = "".join(f"\nfailed: {line}" for line in self.failures[:10])
        verdict = "kept" if self.kept else "broken"
        return (
            f"{head}\n\np99.9 {one.ms(99.9):.1f} ms, {len(self.failures)} failed: the promise was {verdict}{failures}"
        )


def measure(seconds: float = 60.0, *, rate: int = RATE, seed: int = 1) -> Outcome:
    """Start a cluster, give it the load with the three changes, and return what the requests met with."""
    with Cluster(NODES) as cluster:
        return trio.run(_load, cluster, seconds, rate, random.Random(seed))


async def _load(cluster: Cluster, seconds: float, rate: int, rng: random.Random) -> Outcome:
    outcome = Outcome()
    async with AsyncClient(cluster.addresses, resolver=lww) as client:
        async with trio.open_nursery() as nursery:
            for number in range(KEYS):
                nursery.start_soon(_put, client, _key(number), rng.randbytes(100))
                if number % 50 == 0:
                    await trio.sleep(0.02)
        await _requests(client, rng, rate, WARMUP_S, Outcome())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_changes, cluster, seconds, outcome)
            await _requests(client, rng, rate, seconds, outcome)
    return outcome


async def _requests(client: AsyncClient, rng: random.Random, rate: int, seconds: float, outcome: Outcome) -> None:
    start = trio.current_time()

    async def one(due: float, request: Callable[[], Awaitable[None]]) -> None:
        try:
            await request()
        except DynafastError as error:
            outcome.failures.append(f"{due - start:.2f} s: {type(error).__name__}: {error}")
        outcome.add(due - start, trio.current_time() - due)

    async with trio.open_nursery() as nursery:
        for number in range(round(rate * seconds)):
            due = start + number / rate
            await trio.sleep_until(due)
            key = _key(rng.randrange(KEYS))
            if number % 2:
                nursery.start_soon(one, due, lambda key=key: _put(client, key, rng.randbytes(100)))
            else:
                nursery.start_soon(one, due, lambda key=key: _get(client, key))


async def _put(client: AsyncClient, key: bytes, noise: bytes) -> None:
    await client.put(key, key + noise, overwrite=True)


async def _get(client: AsyncClient, key: bytes) -> None:
    found = await client.get(key)
    if not found.value or not found.value.startswith(key):
        raise DynafastError(f"{key!r} was answered with {found.value!r}")


def _key(number: int) -> bytes:
    return b"key-%06d;" % number


async def _changes(cluster: Cluster, seconds: float, outcome: Outcome) -> None:
    """Kill a node after a sixth of the time, start it again after a third, let one join at half of it."""
    start = trio.current_time()

    async def step(fraction: float, what: str, change: Callable[[], object]) -> None:
        await trio.sleep_until(start + seconds * fraction)
        outcome.events.append((trio.current_time() - start, what))
        await trio.to_thread.run_sync(change)

    victim = cluster.nodes[1]
    await step(1 / 6, f"{victim.name} killed", victim.kill)
    await step(1 / 3, f"{victim.name} started", victim.start)
    await step(1 / 2, "a node joins", cluster.add_node)


def run(arguments: list[str]) -> int:
    """Measure, print, and return 0 if the promise was kept, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench sla", description=__doc__)
    parser.add_argument("--seconds", type=float, help="default 60")
    parser.add_argument("--rate", type=int, default=RATE, help=f"requests per second; default {RATE}")
    parser.add_argument("--quick", action="store_true", help="12 seconds")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    outcome = measure(options.seconds or (12.0 if options.quick else 60.0), rate=options.rate)
    print(outcome)
    save(
        options.json,
        "sla",
        arguments,
        kept=outcome.kept,
        limit_ms=LIMIT_MS,
        failures=outcome.failures,
        events=outcome.events,
        latency=outcome.latency.json(),
        text=str(outcome),
    )
    if not outcome.kept:
        print(f"the promise of {LIMIT_MS:.0f} ms was broken", file=sys.stderr)
    return 0 if outcome.kept else 1
