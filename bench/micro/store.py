"""The store on disk: what its checksums and its rules cost over bare rocksdict. Nothing is synced here."""

import random
from collections.abc import Callable
from pathlib import Path

from rocksdict import Options, Rdict, WriteBatch, WriteOptions
from xxhash import xxh3_64_intdigest

from bench.micro.case import Case
from dynafast.storage.interface import Batch, Family, object_key
from dynafast.storage.rocks import RocksStore

OBJECTS = 1000
BATCH = 100
VALUE_SIZE = 200

Work = Callable[[], object]


class Databases:
    """Both stores, open while the benchmarks run."""

    store: RocksStore
    bare: Rdict

    def open(self, folder: Path) -> None:
        """Make them below *folder*."""
        options = Options(raw_mode=True)
        options.create_if_missing(create_if_missing=True)
        self.store, self.bare = RocksStore(folder / "store"), Rdict(str(folder / "bare"), options)

    def close(self) -> None:
        """Close both."""
        self.store.close()
        self.bare.close()

    def fill(self, items: dict[bytes, bytes]) -> None:
        """Put all items into both, one by one."""
        for key, value in items.items():
            self.store.put(key, value)
            self.bare.put(key, value)

    def check(self, items: dict[bytes, bytes]) -> None:
        """What was put is there, in both, under keys in their order."""
        assert {key: self.store.get(key) for key in items} == items
        assert {key: self.bare.get(key) for key in items} == items
        found = self.store.scan(Family.OBJECTS, b"", None, limit=OBJECTS)
        assert [key for key, _ in found] == sorted(key for key, _ in found)


databases = Databases()


def cases() -> list[Case]:
    """Return puts, gets and batches of small records; `databases` must be open when they run."""
    rng = random.Random("bench/store")
    names = [b"user/%d/cart" % number for number in range(OBJECTS)]
    items = {object_key(xxh3_64_intdigest(name), name): rng.randbytes(VALUE_SIZE) for name in names}
    return [_puts(items), _gets(items), _batches(dict(list(items.items())[:BATCH]))]


def _case(name: str, calls: int, ours: Work, baseline: Work, verify: Callable[[], None]) -> Case:
    return Case(name=name, against="bare rocksdict", calls=calls, ours=ours, baseline=baseline, verify=verify)


def _puts(items: dict[bytes, bytes]) -> Case:
    def ours() -> object:
        put = databases.store.put
        for key, value in items.items():
            put(key, value)
        return databases.store.sequence

    def baseline() -> object:
        put = databases.bare.put
        for key, value in items.items():
            put(key, value)
        return None

    def verify() -> None:
        ours()
        baseline()
        databases.check(items)

    return _case(f"store put, {VALUE_SIZE} bytes", len(items), ours, baseline, verify)


def _gets(items: dict[bytes, bytes]) -> Case:
    def ours() -> object:
        get = databases.store.get
        for key in items:
            value = get(key)
        return value

    def baseline() -> object:
        get = databases.bare.get
        for key in items:
            value = get(key)
        return value

    def verify() -> None:
        databases.fill(items)
        databases.check(items)

    return _case(f"store get, {VALUE_SIZE} bytes", len(items), ours, baseline, verify)


def _batches(items: dict[bytes, bytes]) -> Case:
    options = WriteOptions()

    def ours() -> object:
        batch = Batch()
        for key, value in items.items():
            batch.put(Family.OBJECTS, key, value)
        return databases.store.write(batch)

    def baseline() -> object:
        batch = WriteBatch(raw_mode=True)
        for key, value in items.items():
            batch.put(key, value)
        databases.bare.write(batch, options)
        return None

    def verify() -> None:
        databases.fill(dict.fromkeys(items, b"old"))
        ours()
        baseline()
        databases.check(items)

    return _case(f"store write, batches of {BATCH}", len(items), ours, baseline, verify)
