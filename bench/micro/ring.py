"""Ring lookup: from a position to the preference list."""

import random
from bisect import bisect_left

from bench.micro.case import Case
from dynafast._ext.ring import Ring, equal_tokens
from tests.oracle import ring as oracle

PARTITIONS = 1024
NODES = 16
REPLICAS = 3
LOOKUPS = 2000


def cases() -> list[Case]:
    """Return lookups over equal partitions, and over the random tokens of the paper's strategy 1."""
    rng = random.Random("bench/ring")
    even = equal_tokens(PARTITIONS)
    uneven = sorted(rng.getrandbits(64) for _ in range(PARTITIONS))
    owners = [rng.randrange(NODES) for _ in range(PARTITIONS)]
    labels = list(range(NODES))
    return [
        _lookup(rng, f"ring lookup, {PARTITIONS} equal partitions", even, owners, labels, floor=5),
        _lookup(rng, f"ring lookup, {PARTITIONS} random tokens", uneven, owners, labels, floor=4),
    ]


def _lookup(
    rng: random.Random, name: str, tokens: list[int], owners: list[int], labels: list[int], *, floor: float
) -> Case:
    ring = Ring.walk(tokens, owners, hosts=labels, zones=[0] * NODES, replicas=REPLICAS)
    rows = [ring.at(index) for index in range(ring.count)]
    rows.append(rows[0])  # the ring wraps: what is past the last token belongs to the first
    positions = [rng.getrandbits(64) for _ in range(LOOKUPS)]

    def ours() -> object:
        preference = ring.preference
        for position in positions:
            row = preference(position)
        return row

    def baseline() -> object:
        for position in positions:
            row = rows[bisect_left(tokens, position)]
        return row

    def verify() -> None:
        for position in positions[:200]:
            index = oracle.find(tokens, position)
            row = oracle.walk(owners, index, hosts=labels, zones=[0] * NODES, replicas=REPLICAS)
            assert list(ring.preference(position)) == list(rows[bisect_left(tokens, position)]) == row

    return Case(
        name=name,
        against="bisect, list",
        calls=LOOKUPS,
        ours=ours,
        baseline=baseline,
        verify=verify,
        aim=3,
        floor=floor,
    )
