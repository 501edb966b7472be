"""One way to open, reopen and damage a store for both of them: what the conformance suite stands on."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from rocksdict import Rdict

from dynafast.storage.interface import Family, Store
from dynafast.storage.memory import MemoryStore
from dynafast.storage.rocks import RocksStore
from dynafast.storage.tuning import database_options, family_options


class Rig(Protocol):
    def open(self) -> Store:
        """Open the store; after a close: open it again, with what it held."""

    def alter(self, family: Family, key: bytes, change: Callable[[bytes], bytes]) -> None:
        """Change the bytes kept under *key*, behind the store's back; it must be closed."""


class MemoryRig:
    def __init__(self) -> None:
        self._store: MemoryStore | None = None

    def open(self) -> MemoryStore:
        if self._store is None:
            self._store = MemoryStore()
        else:
            self._store.reopen()
        return self._store

    def alter(self, family: Family, key: bytes, change: Callable[[bytes], bytes]) -> None:
        stored = self._store._stored[family]  # there is no other way to its bytes
        stored[key] = change(stored[key])


class RocksRig:
    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> RocksStore:
        return RocksStore(self.path)

    def alter(self, family: Family, key: bytes, change: Callable[[bytes], bytes]) -> None:
        database = Rdict(str(self.path), database_options(), family_options())
        raw = database.get_column_family(family.value)
        raw.put(key, change(raw.get(key)))
        raw.close()
        database.close()
