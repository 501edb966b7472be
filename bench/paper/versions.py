"""Section 6.3: how many versions reads see when several writers change the same keys at once."""

import random
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from bench.load import LoadError
from bench.output import table
from bench.paper.experiment import Claim, Experiment, Found
from dynafast import AsyncClient
from dynafast.errors import DynafastError
from dynafast.testing import Cluster, Node

PAPER = {"1": "99.94", "2": "0.00057", "3": "0.00047", "4": "0.00009"}  # percent, as printed
KEYS, QUICK_KEYS = 2_000, 200
CHECKERS = 50
MORE = "more"
TOKEN = struct.Struct(">I")  # what a write adds to its key's set


@dataclass(frozen=True, slots=True)
class Level:
    """Writers at once. *own*: each has keys of its own; *failure*: a node is killed and started again meanwhile."""

    writers: int
    own: bool = False
    failure: bool = False

    def __str__(self) -> str:
        failure = ", a node dies and returns" if self.failure else ""
        return f"{self.writers}, {'each on its own keys' if self.own else 'on the same keys'}{failure}"


LEVELS = (Level(16, own=True), Level(16, own=True, failure=True), Level(4), Level(16), Level(64))
QUICK_LEVELS = (Level(8, own=True), Level(8, own=True, failure=True), Level(4), Level(32))


def union(values: Sequence[bytes]) -> set[int]:
    """Return the numbers in any of the sets."""
    return {number for value in values for (number,) in TOKEN.iter_unpack(value)}


class _Writers:
    """Clients that read a key, add a number to the set that it holds, and write it back with the context read."""

    def __init__(self, client: AsyncClient, prefix: str) -> None:
        self._client, self._prefix = client, prefix
        self._number = 0
        self.seen: Counter[str] = Counter()  # reads by how many versions they saw
        self.failed = 0
        self.kept: dict[int, list[int]] = {}  # key -> what was acknowledged

    async def write(self, until: float, keys: Sequence[int], rng: random.Random) -> None:
        """Change keys one after the other until then."""
        while trio.current_time() < until:
            key = rng.choice(keys)
            self._number += 1
            number = self._number
            try:
                found = await self._client.get(self._key(key))
                if found.versions:  # the first read of a key finds none
                    self.seen[str(len(found.versions)) if len(found.versions) <= 4 else MORE] += 1
                whole = union([version.value for version in found.versions]) | {number}
                value = b"".join(TOKEN.pack(one) for one in sorted(whole))
                await self._client.put(self._key(key), value, context=found.context)
            except DynafastError:
                self.failed += 1
            else:
                self.kept.setdefault(key, []).append(number)

    async def lost(self) -> int:
        """Return how many acknowledged writes no version has."""
        lost = 0
        pending = iter(list(self.kept.items()))

        async def look() -> None:
            nonlocal lost
            for key, numbers in pending:
                found = await self._client.get(self._key(key))
                lost += len(set(numbers) - union([version.value for version in found.versions]))

        async with trio.open_nursery() as nursery:
            for _ in range(CHECKERS):
                nursery.start_soon(look)
        return lost

    def _key(self, number: int) -> bytes:
        return f"{self._prefix}/{number}".encode()


async def _measure_level(cluster: Cluster, number: int, level: Level, keys: int, seconds: float) -> dict[str, Any]:
    async with AsyncClient(cluster.addresses) as client:
        one = _Writers(client, f"level-{number}")
        async with trio.open_nursery() as nursery:
            until = trio.current_time() + seconds
            for writer in range(level.writers):
                mine = range(writer, keys, level.writers) if level.own else range(keys)
                nursery.start_soon(one.write, until, mine, random.Random(f"{writer}/writer"))
            if level.failure:
                await _fail(cluster.nodes[1], seconds)
        lost = await one.lost()
    return {
        "level": str(level),
        "writers": level.writers,
        "own": level.own,
        "reads": one.seen,
        "writes": sum(map(len, one.kept.values())),
        "failed": one.failed,
        "lost": lost,
    }


async def _fail(node: Node, seconds: float) -> None:
    """Kill a node after a third of the time, and start it again after two thirds."""
    for change in (node.kill, node.start):
        await trio.sleep(seconds / 3)
        await trio.to_thread.run_sync(change)


def _measure(*, quick: bool) -> Found:
    seconds, keys = (2.0, QUICK_KEYS) if quick else (20.0, KEYS)
    with Cluster(4, durability="interval") as cluster:
        levels = [
            trio.run(_measure_level, cluster, number, level, keys, seconds)
            for number, level in enumerate(QUICK_LEVELS if quick else LEVELS)
        ]
    if not all(level["reads"].total() for level in levels):
        raise LoadError("no read found a value: the load was too short")
    return {"keys": keys, "levels": levels}


def percent(level: Mapping[str, Any], versions: str) -> float:
    """Return the share of reads that saw so many versions."""
    return 100 * float(level["reads"].get(versions, 0)) / sum(level["reads"].values())


def _claims(found: Found) -> list[Claim]:
    alone, failing, *shared = found["levels"]
    one = percent(alone, "1")
    calm, failure, crowd = (100 - percent(level, "1") for level in (alone, failing, shared[-1]))
    rare = [percent(shared[-1], versions) for versions in "234"]
    writes, lost = (sum(level[what] for level in found["levels"]) for what in ("writes", "lost"))
    return [
        Claim(
            "reads that see one version, each writer on its own keys", f"{PAPER['1']} %", f"{one:.3f} %", one >= 99.9
        ),
        Claim(
            "the cause is writers at once, not failures: reads that see several, in calm, with a failure, in the crowd",
            "yes",
            f"{calm:.3f}, {failure:.3f}, {crowd:.3f} %",
            crowd > max(calm, failure),
        ),
        Claim(
            "the more versions the rarer: two, three, four in the crowd",
            f"{', '.join(PAPER[versions] for versions in '234')} %",
            f"{', '.join(f'{share:.3f}' for share in rare)} %",
            rare == sorted(rare, reverse=True),
        ),
        Claim("acknowledged writes lost (6.6)", "none", f"{lost} of {writes:,}", lost == 0),
    ]


def _tables(found: Found) -> str:
    rows: list[list[object]] = [["the paper, in 24 hours", None, None, *(f"{PAPER[v]} %" for v in "1234"), "", None]]
    for level in found["levels"]:
        shares = [f"{percent(level, versions):.3f} %" for versions in (*"1234", MORE)]
        rows.append([level["level"], sum(level["reads"].values()), level["writes"], *shares, level["failed"]])
    return table(["writers", "reads", "writes", "1 version", "2", "3", "4", "more", "failed"], rows)


def _plots(folder: Path, name: str, found: Found) -> list[Path]:
    from bench import plot

    path = folder / f"{name}.svg"
    shared = [level for level in found["levels"] if not level["own"]]
    lines = {
        f"{versions} versions": [(level["writers"], percent(level, versions)) for level in shared] for versions in "234"
    }
    title = "Reads that see several versions (6.3)"
    plot.curves(path, lines, x="writers on the same keys", y="% of reads", title=title, log_x=True, log_y=False)
    return [path]


SECTION_63 = Experiment(
    title="Section 6.3: versions that reads see",
    setting=(
        f"Four nodes, N=3, R=W=2. Each writer picks one of {KEYS:,} keys, reads it, adds a number to the set that it "
        "holds, merges what versions it sees, and writes back with the context read, without a pause: far more at once "
        "on a key than people at a shop. At the end each acknowledged number must be in some version of its key."
    ),
    measure=_measure,
    claims=_claims,
    tables=_tables,
    plots=_plots,
)
