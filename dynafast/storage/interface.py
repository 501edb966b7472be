"""What the core asks of a store. Two implementations pass one conformance suite: RocksDB and memory.

The core calls a store from one thread. The request path never waits for a disk through it: `put` and `write` hand the
change to the store's log without a sync, and `glance` reads what is in memory. `sync`, which makes everything accepted
so far durable, and `get_many`, which reads the disk, are the two calls made from other threads. Nothing here knows
what a record means.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Final, Protocol

from dynafast.errors import CorruptRecordError, InvariantViolation, StoreError
from dynafast.limits import KEY_MAX

SCAN_SIZE = 256 * 1024  # bytes of values after which a scan returns early: it holds up every other request
READ_MAX = 64  # keys of one `get_many`: what it has read is in memory all at once


class Family(StrEnum):
    """Column families.

    Keys of `OBJECTS` are ``position (8 bytes, big-endian) + key``: ring order is disk order. Keys of `META` that
    begin with ``store.`` belong to the store itself; a scan shows them.
    """

    OBJECTS = "objects"
    HINTS = "hints"
    MERKLE = "merkle"
    META = "meta"


class Place(Enum):
    """Where an entry is, when that is all that can be told at once."""

    ON_DISK = "on disk"


ON_DISK: Final = Place.ON_DISK


@dataclass(frozen=True, slots=True)
class Until:
    """In a batch, in the place of a value: delete every entry from the key on up to *end*, not included."""

    end: bytes


@dataclass(slots=True)
class Batch:
    """Changes that are kept or refused together, in order."""

    ops: list[tuple[Family, bytes, bytes | Until | None]] = field(default_factory=list)  # None: delete

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        """Add or replace one entry."""
        self.ops.append((family, key, value))

    def delete(self, family: Family, key: bytes) -> None:
        """Delete one entry; one that is not there is no error."""
        self.ops.append((family, key, None))

    def delete_range(self, family: Family, start: bytes, end: bytes) -> None:
        """Delete every entry with ``start <= key < end``, those put earlier in this batch too.

        Raises:
            InvariantViolation: *end* is before *start*. RocksDB would take nothing more after such a range.
        """
        if end < start:
            raise InvariantViolation(f"a range from {start[:16].hex()} back to {end[:16].hex()}")
        self.ops.append((family, start, Until(end)))


class Store(Protocol):
    """A store of one node. Not thread-safe but for `sync` and `get_many`.

    Attributes:
        boot: how many times this store was opened, durable before the constructor returns; at least 1.
        was_clean: whether the last `close` was a clean one (True for a new store).
        sequence: number of changes accepted since opening, one for each `put`, each `write` of a batch that is
            not empty, and each `commit` of something; `sync` tells up to which number they are durable.
        staged: object key -> sealed value (`dynafast._ext.sealed`): what its owner adds is kept in `Family.OBJECTS`
            with the next `commit`, or with the next change before it. Reads see it at once. Many writes that are
            accepted together cost much less than one by one. The same dict as long as the store is open.

    Every call on a closed store but `close` raises `StoreError`.
    """

    boot: int
    was_clean: bool
    sequence: int
    staged: dict[bytes, bytes]

    @property
    def unsynced_bytes(self) -> int:
        """Size of the keys and values that were accepted and that no finished `sync` covers."""

    def get(self, key: bytes) -> bytes | None:
        """Return the object under *key*, or None.

        Raises:
            CorruptRecordError: what was read fails its checksum.
            StoreError: the disk cannot be read.
        """

    def glance(self, key: bytes) -> bytes | Place | None:
        """As `get`, without touching the disk: `ON_DISK` when only that can tell whether there is one, or has it."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | StoreError | None]:
        """Return what `get` would return or raise for each of at most `READ_MAX` keys, staged objects left out.

        Blocks; called from threads of its own, several at a time, while the owner goes on writing: each object is as it
        was at some moment of the call. Raises nothing, but on a bug.
        """

    def put(self, key: bytes, value: bytes) -> int:
        """Keep *value* under *key* in `Family.OBJECTS`; return the new `sequence`. Errors as for `write`."""

    def commit(self) -> None:
        """Accept what is staged and not accepted yet, as one change. Errors as for `write`: all of it is dropped then.

        A change that takes staged writes along and fails leaves them staged.
        """

    def read(self, family: Family, key: bytes) -> bytes | None:
        """Return the entry of any family, or None. Errors as for `get`."""

    def write(self, batch: Batch) -> int:
        """Apply *batch* atomically and return the new `sequence`.

        Raises:
            StoreBusyError: the store asks for a pause; nothing was kept.
            StoreError: disk full, read-only or broken; nothing was kept.
        """

    def scan(
        self, family: Family, start: bytes, end: bytes | None, *, limit: int
    ) -> list[tuple[bytes, bytes | CorruptRecordError]]:
        """Return the first entries with ``start <= key < end`` in key order; a bad one as its error.

        At most *limit* (1 or more) entries, and no further one once their values make `SCAN_SIZE`. So a short
        result does not mean that the range is done: only an empty one does. `walk` reads a whole range.

        Raises:
            CorruptRecordError: a damaged file hides a part of the range: which keys are there cannot be told.
            StoreError: the disk cannot be read.
        """

    def sync(self) -> int:
        """Make everything accepted before the call durable; return the sequence number that covers it.

        Blocks; called from the flush thread while the owner goes on writing. One call at a time.

        Raises:
            StoreError: what was accepted may be lost: the node must stop as if it had crashed. Every later
                call raises too: a second fsync may succeed without having written what the first one lost.
        """

    def usage(self) -> tuple[int, int]:
        """Return (estimated number of objects, bytes on disk or in memory), cheaply.

        The number may count an object again for each time it was written, and 0 does not prove that there is
        none: an empty scan does.
        """

    def close(self, *, clean: bool = True) -> None:
        """Close; *clean* syncs and leaves the marker that `was_clean` reads. Not while another call is under way."""


def partition_range(partition: int, partitions: int) -> tuple[bytes, bytes]:
    """Return ``(start, end)`` of the keys of a partition in `Family.OBJECTS`, *end* not included."""
    span = 2**64 // partitions
    start = (partition * span).to_bytes(8, "big")
    if partition == partitions - 1:
        return start, b"\xff" * (8 + KEY_MAX + 1)  # above the largest key of the largest position
    return start, ((partition + 1) * span).to_bytes(8, "big")


def object_key(position: int, key: bytes) -> bytes:
    """Return the key under which `Family.OBJECTS` holds *key*."""
    return position.to_bytes(8, "big") + key


def walk(
    store: Store, family: Family, start: bytes, end: bytes | None, *, limit: int
) -> Iterator[list[tuple[bytes, bytes | CorruptRecordError]]]:
    """Yield a whole range in scans of at most *limit* entries; writes made meanwhile are seen or not."""
    while chunk := store.scan(family, start, end, limit=limit):
        yield chunk
        start = chunk[-1][0] + b"\0"  # the next key in byte order


def entries(items: Iterable[tuple[bytes, bytes | CorruptRecordError]]) -> list[tuple[bytes, bytes]]:
    """Return the readable entries of a scan; raise the first error among them."""
    result: list[tuple[bytes, bytes]] = []
    for key, value in items:
        if isinstance(value, CorruptRecordError):
            raise value
        result.append((key, value))
    return result
