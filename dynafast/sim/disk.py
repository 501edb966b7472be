"""A disk of the simulator: a memory store whose flushes take time and whose medium can fail.

Power loss keeps what was flushed and, as a log does, some of what came right after it. Everything else a disk may do
to a node is a switch here: refuse writes, fail to read, give back damaged bytes, be an old copy of itself.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from random import Random

from dynafast._ext.clock import Record
from dynafast._ext.sealed import unseal
from dynafast.errors import CorruptRecordError, StoreError
from dynafast.storage.interface import ON_DISK, Family, Place
from dynafast.storage.memory import MemoryStore

_LOCAL_SIZE = 25  # actor, boot, counter, number of hints: before the ids of the hints' targets and the record


def bare(data: bytes) -> bytes:
    """Return the encoded record in what a node stores under an object key, without its local part."""
    return data[_LOCAL_SIZE + 8 * data[_LOCAL_SIZE - 1] :]


def hinted_for(data: bytes) -> list[bytes]:
    """Return for which nodes a record is kept as a hint, in what a node stores under an object key."""
    return [data[at : at + 8] for at in range(_LOCAL_SIZE, _LOCAL_SIZE + 8 * data[_LOCAL_SIZE - 1], 8)]


def record_of(data: bytes) -> Record:
    """Return the record in what a node stores under an object key, without its local part."""
    return Record.decode(bare(data))


class Disk(MemoryStore):
    """What one machine keeps.

    Attributes:
        full: writes are refused. unreadable: reads fail.
        away: asked at each read of the request path: whether the object is on the medium alone.
    """

    def __init__(self) -> None:
        self.full = False
        self.unreadable = False
        self.away: Callable[[], bool] = lambda: False
        super().__init__()

    def get(self, key: bytes) -> bytes | None:
        """See `Store`."""
        if self.unreadable:
            raise StoreError("input/output error")
        return super().get(key)

    def glance(self, key: bytes) -> bytes | Place | None:
        """See `Store`."""
        return ON_DISK if key not in self.staged and self.away() else self.get(key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | StoreError | None]:
        """See `Store`."""
        if self.unreadable:
            return [StoreError("input/output error") for _ in keys]
        return super().get_many(keys)

    def _accept(self, changes: Iterable[tuple[Family, bytes, bytes | None]], *, counts: bool = False) -> int:
        changes = list(changes)
        if self.full and (changes or counts or self.staged):
            raise StoreError("no space left on device")
        return super()._accept(changes, counts=counts)

    # ---- flushes that take time

    def begin_flush(self) -> tuple[int, int]:
        """Return what a flush that begins now will cover."""
        return len(self._undo), self._accepted_bytes

    def end_flush(self, mark: tuple[int, int]) -> int:
        """The flush is done: what it covered is durable; return the sequence number of that."""
        covered, self._synced_bytes = mark
        del self._undo[:covered]
        self._synced += covered
        return self._synced

    def lose_power(self, rng: Random) -> int:
        """Keep what was flushed and a beginning of what was not; return how many changes are lost."""
        kept = rng.randint(0, len(self._undo)) if self._undo and rng.random() < 0.5 else 0
        del self._undo[:kept]
        lost = len(self._undo)
        for before in reversed(self._undo):
            for change in before:
                self._set(*change)
        self._undo.clear()
        self._accepted_bytes = self._synced_bytes
        return lost

    # ---- what checks look at, past any fault

    def durable(self, key: bytes) -> bytes | None:
        """Return the object that a power loss now would certainly leave, or None. Raises CorruptRecordError."""
        stored = self._flushed(key, self._stored[Family.OBJECTS].get(key))
        return None if stored is None else unseal(key, stored)

    def present(self, key: bytes) -> bytes | None:
        """Return the object as it was written last, or None. Raises CorruptRecordError."""
        stored = self._stored[Family.OBJECTS].get(key)
        return None if stored is None else unseal(key, stored)

    def copies(self, key: bytes) -> list[tuple[bytes, bool]]:
        """Return the object as written last, and as a power loss would leave it: ``(data, certain)``, what there is.

        A damaged one is left out.
        """
        result: list[tuple[bytes, bool]] = []
        present = self._stored[Family.OBJECTS].get(key)
        flushed = self._flushed(key, present) if self._undo else present
        for stored, certain in ((present, True),) if flushed is present else ((present, False), (flushed, True)):
            if stored is not None:
                with contextlib.suppress(CorruptRecordError):
                    result.append((unseal(key, stored), certain))
        return result

    def _flushed(self, key: bytes, present: bytes | None) -> bytes | None:
        for before in self._undo:
            for family, changed, stored in before:
                if changed == key and family is Family.OBJECTS:
                    return stored
        return present

    def object_keys(self) -> list[bytes]:
        """Return all object keys, in order."""
        return list(self._keys[Family.OBJECTS])

    # ---- damage and copies

    def damage(self, key: bytes) -> bool:
        """Flip a bit of the object under *key*; False when there is none that is intact."""
        try:
            if self.present(key) is None:
                return False
        except CorruptRecordError:
            return False
        stored = self._stored[Family.OBJECTS][key]
        self._stored[Family.OBJECTS][key] = stored[:-1] + bytes([stored[-1] ^ 1])
        return True

    def copy(self) -> "Disk":
        """Return a copy of the folder as it is on the medium now."""
        twin = Disk.__new__(Disk)
        twin.full = twin.unreadable = False
        twin.away = lambda: False
        twin._stored = {family: dict(entries) for family, entries in self._stored.items()}
        twin._keys = {family: list(keys) for family, keys in self._keys.items()}
        twin._size = self._size
        twin._accepted_bytes = twin._synced_bytes = self._accepted_bytes
        twin._undo = []
        twin.staged = {}
        twin.boot, twin.was_clean, twin._is_open = self.boot, self.was_clean, True
        twin.sequence = twin._synced = 0
        return twin
