"""A store in memory for tests and simulation, without input or output.

It can crash: then it forgets what was not synced, and nothing else. Values are sealed as on disk, so damage can be
played and is found in the same way.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

from dynafast._ext.sealed import SEAL_SIZE, seal, unseal
from dynafast.errors import CorruptRecordError, StoreError
from dynafast.storage.interface import SCAN_SIZE, Batch, Family, Place, Until
from dynafast.storage.opening import begin, finish

_Change = tuple[Family, bytes, bytes | None]  # a sealed value; None: no entry


class MemoryStore:
    """A `Store` made of dicts, each with a sorted list of its keys."""

    def __init__(self) -> None:
        self._stored: dict[Family, dict[bytes, bytes]] = {family: {} for family in Family}
        self._keys: dict[Family, list[bytes]] = {family: [] for family in Family}
        self._size = 0  # bytes of keys and sealed values
        self._accepted_bytes = self._synced_bytes = 0
        self.staged: dict[bytes, bytes] = {}
        self._undo: list[list[_Change]] = []  # for each change not synced yet: what was there before it
        self.reopen()

    def reopen(self) -> None:
        """Open again after `close`, as a new process would: what was written is there, synced or not."""
        self._is_open = True
        self._synced = 0
        self.sequence = 0
        self.boot, self.was_clean = begin(self)
        self._synced = 0
        self.sequence = 0

    def crash(self) -> None:
        """Lose power and open again: every change after the last `sync` is gone."""
        for before in reversed(self._undo):
            for change in before:
                self._set(*change)
        self._undo.clear()
        self.staged.clear()
        self._accepted_bytes = self._synced_bytes
        self.reopen()

    @property
    def unsynced_bytes(self) -> int:
        """See `Store`."""
        return self._accepted_bytes - self._synced_bytes

    def get(self, key: bytes) -> bytes | None:
        """See `Store`."""
        return self.read(Family.OBJECTS, key)

    def glance(self, key: bytes) -> bytes | Place | None:
        """See `Store`; all of it is in memory here."""
        return self.get(key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | StoreError | None]:
        """See `Store`."""
        return [self._read_stored(key) for key in keys]

    def _read_stored(self, key: bytes) -> bytes | StoreError | None:
        try:
            self._check_open()
            stored = self._stored[Family.OBJECTS].get(key)
            return None if stored is None else unseal(key, stored)
        except StoreError as error:
            return error

    def put(self, key: bytes, value: bytes) -> int:
        """See `Store`."""
        return self._accept(((Family.OBJECTS, key, seal(key, value)),))

    def commit(self) -> None:
        """See `Store`."""
        try:
            self._accept(())
        finally:
            self.staged.clear()

    def read(self, family: Family, key: bytes) -> bytes | None:
        """See `Store`."""
        self._check_open()
        if family is Family.OBJECTS and key in self.staged:
            return unseal(key, self.staged[key])
        stored = self._stored[family].get(key)
        return None if stored is None else unseal(key, stored)

    def write(self, batch: Batch) -> int:
        """See `Store`."""
        changes: list[_Change] = []
        for family, key, value in batch.ops:
            if isinstance(value, Until):
                changes += self._range(changes, family, key, value.end)
            else:
                changes.append((family, key, None if value is None else seal(key, value)))
        return self._accept(changes, counts=bool(batch.ops))

    def scan(
        self, family: Family, start: bytes, end: bytes | None, *, limit: int
    ) -> list[tuple[bytes, bytes | CorruptRecordError]]:
        """See `Store`."""
        self._check_open()
        self._accept(())
        keys = self._keys[family]
        result: list[tuple[bytes, bytes | CorruptRecordError]] = []
        size = 0
        for index in range(bisect_left(keys, start), len(keys)):
            key = keys[index]
            if len(result) >= limit or size >= SCAN_SIZE or (end is not None and key >= end):
                break
            stored = self._stored[family][key]
            size += len(stored)
            try:
                result.append((key, unseal(key, stored)))
            except CorruptRecordError as error:
                result.append((key, error))
        return result

    def sync(self) -> int:
        """See `Store`."""
        self._check_open()
        self._synced_bytes, covered = self._accepted_bytes, len(self._undo)  # once: the owner may write meanwhile
        del self._undo[:covered]
        self._synced += covered
        return self._synced

    def usage(self) -> tuple[int, int]:
        """See `Store`; exact here."""
        self._check_open()
        return len(self._keys[Family.OBJECTS]), self._size

    def close(self, *, clean: bool = True) -> None:
        """See `Store`."""
        if self._is_open and clean:
            finish(self)
        self._is_open = False

    def _accept(self, changes: Iterable[_Change], *, counts: bool = False) -> int:
        """Accept what is staged, then *changes*; *counts*: a change even if it is none, as of a range that is empty."""
        self._check_open()
        changes = [*((Family.OBJECTS, key, stored) for key, stored in self.staged.items()), *changes]
        before = [(family, key, self._stored[family].get(key)) for family, key, _ in changes]
        if counts or changes:
            # The way back is kept first, and all of it at once: a sync at this moment covers all or nothing.
            self._undo.append(before)
            for family, key, stored in changes:
                self._set(family, key, stored)
                self._accepted_bytes += len(key) + (0 if stored is None else len(stored) - SEAL_SIZE)
            self.sequence += 1
            self.staged.clear()
        return self.sequence

    def _range(self, earlier: list[_Change], family: Family, start: bytes, end: bytes) -> list[_Change]:
        """Return the deletions of a range: what is stored in it, and what the batch has put there before."""
        keys = self._keys[family]
        inside = set(keys[bisect_left(keys, start) : bisect_left(keys, end)])
        inside.update(key for kind, key, _ in earlier if kind is family and start <= key < end)
        return [(family, key, None) for key in sorted(inside)]

    def _set(self, family: Family, key: bytes, stored: bytes | None) -> None:
        entries, keys = self._stored[family], self._keys[family]
        replaced = entries.pop(key, None)
        if replaced is not None:
            self._size -= len(key) + len(replaced)
        if stored is not None:
            entries[key] = stored
            self._size += len(key) + len(stored)
        if replaced is None and stored is not None:
            insort(keys, key)
        elif replaced is not None and stored is None:
            del keys[bisect_left(keys, key)]

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreError("the store is closed")
