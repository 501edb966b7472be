"""What the verbs of a client return, and the resolver `lww`.

Terms: a *dot* names one write, as (actor, counter); a *context* is what a read has seen, opaque bytes that go
into the put that replaces it; a *receipt* says how many replicas an answer stands on.

Named tuples and not data classes throughout the client: those would add a third to the time of the import.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from dynafast.errors import ConflictError

Resolver = Callable[[list[bytes]], bytes]


class Version(NamedTuple):
    """One live version of a key.

    Attributes:
        actor, counter: its dot.
        time: hybrid logical time, ``unix milliseconds << 16 | counter``.
        write_id: the 16 bytes that its writer chose.
        value: its bytes.
    """

    actor: int
    counter: int
    time: int
    write_id: bytes
    value: bytes


class Receipt(NamedTuple):
    """What an answer stands on.

    Attributes:
        needed: how many replicas had to answer.
        replicas: how many did; primaries and fallbacks are its parts.
        synced: how many of them hold the write on stable storage.
        sloppy: a node outside the key's replicas was counted.
        forwarded: the node asked holds no replica of the key and passed the request on.
    """

    needed: int
    replicas: int
    primaries: int
    fallbacks: int
    synced: int
    sloppy: bool
    forwarded: bool


def lww(values: list[bytes]) -> bytes:
    """Resolve to the last write: the version with the largest (time, actor, counter).

    A read gives its values in that order, so this is the last of them.
    """
    return values[-1]


class GetResult(NamedTuple):
    """What a read found: every version that no other one has replaced.

    Attributes:
        versions: by (time, actor, counter), the oldest first; empty when there is no value.
        context: to be given to the put or delete that replaces what was read. May be there without versions:
            the key was deleted.
        receipt: what the answer stands on.
        resolver: what `value` asks when there are several versions.
    """

    versions: tuple[Version, ...]
    context: bytes | None
    receipt: Receipt
    resolver: Resolver | None = None

    @property
    def found(self) -> bool:
        """Whether there is a value."""
        return bool(self.versions)

    @property
    def values(self) -> list[bytes]:
        """The surviving values, the oldest first."""
        return [version.value for version in self.versions]

    @property
    def value(self) -> bytes | None:
        """The value; None when there is none; what the resolver makes of several.

        Raises:
            ConflictError: there are several and the client has no resolver.
        """
        if not self.versions:
            return None
        if len(self.versions) == 1:
            return self.versions[0].value
        if self.resolver is None:
            raise ConflictError(self.values)
        return self.resolver(self.values)


class PutResult(NamedTuple):
    """What a write left behind.

    Attributes:
        dot: (actor, counter) of the version written.
        time: its hybrid logical time.
        live: how many values the key has now; for a delete those it did not cover.
        context: for the next put of this key; None unless this write is all there is (read again in that
            case).
        receipt: what the answer stands on.
    """

    dot: tuple[int, int]
    time: int
    live: int
    context: bytes | None
    receipt: Receipt


def in_order(versions: Sequence[Version]) -> tuple[Version, ...]:
    """Return the versions by (time, actor, counter), the oldest first."""
    return tuple(sorted(versions, key=lambda version: (version.time, version.actor, version.counter)))
