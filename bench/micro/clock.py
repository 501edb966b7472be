"""Version sets: merge and compare, against dicts."""

import random
from typing import NamedTuple

from bench.micro.case import Case
from dynafast._ext.clock import AFTER, BEFORE, CONCURRENT, EQUAL, Record
from tests.oracle import clock as oracle

PAIRS = 200
ACTORS = 3
COUNTER_MAX = 40
NAMES = {EQUAL: "equal", BEFORE: "before", AFTER: "after", CONCURRENT: "concurrent"}

Dot = tuple[int, int]


class Plain(NamedTuple):
    """A record as plain Python would have it: what a merge needs is one lookup away."""

    context: dict[int, Dot]  # actor -> counter, time
    versions: dict[Dot, tuple[int, bytes, bytes | None]]


NEVER = (0, 0)


def merge(a: Plain, b: Plain) -> Plain:
    """Return the union of two records."""
    seen_a, seen_b = a.context, b.context
    mine, theirs = a.versions, b.versions
    context = {**seen_b, **seen_a}
    for actor, entry in seen_b.items():
        if entry > context[actor]:
            context[actor] = entry
    versions = {dot: version for dot, version in mine.items() if dot in theirs or seen_b.get(dot[0], NEVER)[0] < dot[1]}
    for dot, version in theirs.items():
        if dot not in mine and seen_a.get(dot[0], NEVER)[0] < dot[1]:
            versions[dot] = version  # noqa: PERF403 - mostly nothing is added: a loop is faster
    return Plain(context, versions)


def has_all_of(a: Plain, b: Plain) -> bool:
    """Whether merging b into a would change nothing."""
    for actor, entry in b.context.items():
        if a.context.get(actor, NEVER)[0] < entry[0]:
            return False
    for dot in a.versions:  # noqa: SIM110 - a loop is faster than a generator
        if dot not in b.versions and b.context.get(dot[0], NEVER)[0] >= dot[1]:
            return False
    return True


def compare(a: Plain, b: Plain) -> int:
    """Return what `Record.compare` returns."""
    if has_all_of(a, b):
        return EQUAL if has_all_of(b, a) else AFTER
    return BEFORE if has_all_of(b, a) else CONCURRENT


def _record(rng: random.Random, actors: list[int]) -> oracle.Record:
    """Return a record of three entries with one to three live versions."""
    entries = [(actor, rng.randint(1, COUNTER_MAX), 0) for actor in actors]
    entries = [(actor, counter, 1000 * counter) for actor, counter, _ in entries]
    live = rng.sample(entries, rng.randint(1, len(entries)))
    # A write id is the dot's own, so that both sides of a pair mean the same version by the same dot.
    rows = [(a, n, t, a.to_bytes(8, "big") + n.to_bytes(8, "big"), b"v" * 100) for a, n, t in live]
    return oracle.record(entries, rows)


def _native(record: oracle.Record) -> Record:
    return Record(record.entries(), record.rows())


def _plain(record: oracle.Record) -> Plain:
    context = {actor: (counter, record.times[actor]) for actor, counter in record.context.items()}
    return Plain(context, dict(record.versions))


def cases() -> list[Case]:
    """Return merge and compare of pairs of records with three entries each."""
    rng = random.Random("bench/clock")
    pairs = []
    for _ in range(PAIRS):
        actors = [rng.getrandbits(64) for _ in range(ACTORS)]
        pairs.append((_record(rng, actors), _record(rng, actors)))
    pairs += [(a, a) for a, _ in pairs[:20]]
    native = [(_native(a), _native(b)) for a, b in pairs]
    plain = [(_plain(a), _plain(b)) for a, b in pairs]

    def verify_merge() -> None:
        for (a, b), (x, y), (p, q) in zip(pairs, native, plain, strict=True):
            expected = oracle.merge(a, b)
            merged, found = merge(p, q), x.merge(y)
            assert [list(found.context), list(found.versions)] == [expected.entries(), expected.rows()]
            assert merged == _plain(expected)

    def verify_compare() -> None:
        for (a, b), (x, y), (p, q) in zip(pairs, native, plain, strict=True):
            assert NAMES[x.compare(y)] == NAMES[compare(p, q)] == oracle.compare(a, b)

    def ours_merge() -> object:
        for a, b in native:
            merged = a.merge(b)
        return merged

    def plain_merge() -> object:
        for a, b in plain:
            merged = merge(a, b)
        return merged

    def ours_compare() -> object:
        for a, b in native:
            order = a.compare(b)
        return order

    def plain_compare() -> object:
        for a, b in plain:
            order = compare(a, b)
        return order

    return [
        Case(
            name="version merge, 3 entries",
            against="dicts",
            calls=len(pairs),
            ours=ours_merge,
            baseline=plain_merge,
            verify=verify_merge,
            aim=10,
            floor=12,
        ),
        Case(
            name="version compare, 3 entries",
            against="dicts",
            calls=len(pairs),
            ours=ours_compare,
            baseline=plain_compare,
            verify=verify_compare,
            floor=6,
        ),
    ]
