"""What the core asks of a store. Two implementations pass one conformance suite: RocksDB and memory.

The core calls a store from one thread and never waits for a disk through it: `put` and `write` hand the change to the
store's log without a sync, and `sync` (the only call made from another thread) makes everything accepted so far
durable. Nothing here knows what a record means.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from dynafast.errors import CorruptRecordError


class Family(StrEnum):
    """Column families. Keys of `OBJECTS` are ``position (8 bytes, big-endian) + key``: ring order is disk order."""

    OBJECTS = "objects"
    HINTS = "hints"
    MERKLE = "merkle"
    META = "meta"


@dataclass(slots=True)
class Batch:
    """Changes that are kept or refused together, in order."""

    ops: list[tuple[Family, bytes, bytes | None]] = field(default_factory=list)  # None: delete

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        """Add or replace one entry."""
        self.ops.append((family, key, value))

    def delete(self, family: Family, key: bytes) -> None:
        """Delete one entry; one that is not there is no error."""
        self.ops.append((family, key, None))


class Store(Protocol):
    """A store of one node. Not thread-safe but for `sync`.

    Attributes:
        boot: how many times this store was opened, durable before the constructor returns; at least 1.
        was_clean: whether the last `close` was a clean one (True for a new store).
        sequence: number of changes accepted since opening; `sync` tells up to which number they are durable.
    """

    boot: int
    was_clean: bool
    sequence: int

    def get(self, key: bytes) -> bytes | None:
        """Return the object under *key*, or None.

        Raises:
            CorruptRecordError: what was read fails its checksum.
            StoreError: the disk cannot be read.
        """

    def put(self, key: bytes, value: bytes) -> int:
        """Keep *value* under *key* in `Family.OBJECTS` and return the new `sequence`. Errors as for `write`."""

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
        """Return up to *limit* entries with ``start <= key < end`` in key order; a bad one as its error."""

    def sync(self) -> int:
        """Make everything accepted before the call durable; return the sequence number that covers it.

        Blocks; called from the flush thread while the owner goes on writing.

        Raises:
            StoreError: what was accepted may be lost: the node must stop as if it had crashed.
        """

    def usage(self) -> tuple[int, int]:
        """Return (estimated number of objects, bytes on disk or in memory), cheaply."""

    def close(self, *, clean: bool = True) -> None:
        """Close; *clean* syncs and leaves the marker that `was_clean` reads."""


def object_key(position: int, key: bytes) -> bytes:
    """Return the key under which `Family.OBJECTS` holds *key*."""
    return position.to_bytes(8, "big") + key


def entries(items: Iterable[tuple[bytes, bytes | CorruptRecordError]]) -> list[tuple[bytes, bytes]]:
    """Return the readable entries of a scan; raise the first error among them."""
    result: list[tuple[bytes, bytes]] = []
    for key, value in items:
        if isinstance(value, CorruptRecordError):
            raise value
        result.append((key, value))
    return result
