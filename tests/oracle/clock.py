"""Dotted version sets with dicts and sets, as the definition says them. Imports nothing of the package.

A dot (actor, n) is the n-th write of an actor. A context {actor: n} has seen its dots 1 to n.
A record is the versions that survive, each under its dot, and the context of all that it has seen.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Dot = tuple[int, int]
Entry = tuple[int, int, int]
Version = tuple[int, int, int, bytes, bytes | None]

U64 = 2**64


@dataclass
class Record:
    """The counters of the context, the time of each newest dot, and what is stored under each survivor."""

    context: dict[int, int] = field(default_factory=dict)
    times: dict[int, int] = field(default_factory=dict)
    versions: dict[Dot, tuple[int, bytes, bytes | None]] = field(default_factory=dict)

    def has_seen(self, dot: Dot) -> bool:
        """Return whether the context covers *dot*."""
        actor, counter = dot
        return counter <= self.context.get(actor, 0)

    def entries(self) -> list[Entry]:
        """Return the context as it travels."""
        return [(actor, self.context[actor], self.times[actor]) for actor in sorted(self.context)]

    def rows(self) -> list[Version]:
        """Return the versions as they travel."""
        return [(*dot, *self.versions[dot]) for dot in sorted(self.versions)]


def record(entries: Iterable[Entry], rows: Iterable[Version]) -> Record:
    """Build a record from its parts."""
    result = Record()
    for actor, counter, time in entries:
        result.context[actor], result.times[actor] = counter, time
    for actor, counter, time, write_id, value in rows:
        result.versions[actor, counter] = time, write_id, value
    return result


def merge(a: Record, b: Record) -> Record:
    """Keep a version that both have, or that the side without it has not seen; know what either knows."""
    result = Record()
    for actor in a.context.keys() | b.context.keys():
        newer = a if a.context.get(actor, 0) >= b.context.get(actor, 0) else b
        result.context[actor], result.times[actor] = newer.context[actor], newer.times[actor]
    for mine, other in ((a, b), (b, a)):
        for dot, version in mine.versions.items():
            if dot in other.versions or not other.has_seen(dot):
                result.versions[dot] = version
    return result


def put(old: Record, new: Version, seen: Sequence[Entry] = ()) -> Record:
    """Replace the versions that the writer had seen by the new one."""
    actor, counter, time, write_id, value = new
    client = record(seen, [])
    result = Record()
    for known in (old, client):
        for a in known.context:
            if known.context[a] > result.context.get(a, 0):
                result.context[a], result.times[a] = known.context[a], known.times[a]
    result.context[actor], result.times[actor] = counter, time
    result.versions = {dot: v for dot, v in old.versions.items() if not client.has_seen(dot)}
    result.versions[actor, counter] = time, write_id, value
    return result


def seen_by(a: Record) -> tuple[dict[int, int], set[Dot]]:
    """Return what a comparison looks at: no times, no values."""
    return a.context, set(a.versions)


def compare(a: Record, b: Record) -> str:
    """Return "equal", "before" (b has seen all of a), "after" or "concurrent"."""
    both = seen_by(merge(a, b))
    if seen_by(a) == seen_by(b):
        return "equal"
    if both == seen_by(b):
        return "before"
    if both == seen_by(a):
        return "after"
    return "concurrent"


def live(a: Record) -> int:
    """Return the number of different writes whose value survives; a tombstone has no value."""
    return len({write_id for _, write_id, value in a.versions.values() if value is not None})


def item(a: Record) -> list[list[list[Any]]]:
    """Return the record as a CBOR item."""
    return [[list(entry) for entry in a.entries()], [list(row) for row in a.rows()]]


def parse(thing: object) -> Record:
    """Return the record that a decoded CBOR item is. Raises ValueError if it is none."""
    if not (isinstance(thing, list) and len(thing) == 2 and all(isinstance(part, list) for part in thing)):
        raise ValueError("a record is an array of two arrays")
    context, versions = thing
    for row, width in [(row, 3) for row in context] + [(row, 5) for row in versions]:
        if not isinstance(row, list) or len(row) != width:
            raise ValueError("a row of a record is an array of 3 or 5")
        for number in row[:3]:
            if type(number) is not int or not 0 <= number < U64:
                raise ValueError("actor, counter and time are unsigned integers of 64 bits")
        if row[1] == 0:
            raise ValueError("counters begin with 1")
    for row in versions:
        if type(row[3]) is not bytes or len(row[3]) != 16:
            raise ValueError("a write id has 16 bytes")
        if row[4] is not None and type(row[4]) is not bytes:
            raise ValueError("a value is bytes or null")
    result = record([tuple(row) for row in context], [tuple(row) for row in versions])
    if len(result.context) < len(context) or len(result.versions) < len(versions):
        raise ValueError("an actor or a dot is there twice")
    if not all(result.has_seen(dot) for dot in result.versions):
        raise ValueError("a version that its own context has not seen")
    if item(result) != thing:
        raise ValueError("the rows of a record are ordered by actor and dot")
    return result


class PlainObject:
    """What dotted versions replaced: one vector clock for all values of a key on a server (riak_test#383).

    The clock cannot say which of the values a stale writer has seen, so none of them may go.
    """

    def __init__(self) -> None:
        self.clock: dict[str, int] = {}
        self.values: list[bytes] = []

    def put(self, server: str, value: bytes, seen: dict[str, int]) -> dict[str, int]:
        """Write with the clock of an earlier read; return the clock of a read right now."""
        if any(self.clock[actor] > seen.get(actor, 0) for actor in self.clock):
            self.values = [*self.values, value]
        else:
            self.values = [value]
        self.clock[server] = self.clock.get(server, 0) + 1
        return dict(self.clock)
