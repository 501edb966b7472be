"""Both stores behave as a plain dict does, through any mix of calls, reopenings and (in memory) crashes."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dynafast.storage.interface import Batch, Family, Until, entries
from tests.storage.rigs import MemoryRig, Rig, RocksRig

KEYS = st.binary(min_size=1, max_size=3) | st.sampled_from([b"a", b"b", b"\xff"])
VALUES = st.binary(max_size=10) | st.just(bytes(5000))
RANGES = st.builds(Until, KEYS | st.just(b"\xff" * 4))  # in the place of a value: delete up to that key
OPS = st.lists(st.tuples(st.sampled_from(Family), KEYS, st.none() | VALUES | RANGES), max_size=6)
Contents = dict[tuple[Family, bytes], bytes]


class StoreMachine(RuleBasedStateMachine):
    rig: Rig

    @initialize()
    def start(self) -> None:
        self.store = self.rig.open()
        self.boot = 0
        self.was_clean = True
        self.contents: Contents = {(Family.META, b"store.format"): b"2"}
        self.restarted()

    @rule(key=KEYS, value=VALUES)
    def put(self, key: bytes, value: bytes) -> None:
        self.sequence += 1
        assert self.store.put(key, value) == self.sequence
        self.contents[Family.OBJECTS, key] = value

    @rule(ops=OPS)
    def write(self, ops: list[tuple[Family, bytes, bytes | Until | None]]) -> None:
        batch = Batch()
        for family, key, value in ops:
            if isinstance(value, Until):
                if family is Family.META or value.end < key:
                    continue  # the store's own entries are there; refused
                batch.delete_range(family, key, value.end)
                for inside, _ in self.expected(family, key, value.end):
                    del self.contents[family, inside]
            elif value is None:
                batch.delete(family, key)
                self.contents.pop((family, key), None)
            else:
                batch.put(family, key, value)
                self.contents[family, key] = value
        self.sequence += bool(batch.ops)
        assert self.store.write(batch) == self.sequence

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        assert self.store.get(key) == self.contents.get((Family.OBJECTS, key))

    @rule(family=st.sampled_from(Family), key=KEYS)
    def read(self, family: Family, key: bytes) -> None:
        assert self.store.read(family, key) == self.contents.get((family, key))

    @rule(family=st.sampled_from(Family), start=KEYS, end=st.none() | KEYS, limit=st.integers(1, 5))
    def scan(self, family: Family, start: bytes, end: bytes | None, limit: int) -> None:
        found = self.store.scan(family, start, end, limit=limit)
        assert entries(found) == self.expected(family, start, end)[:limit]

    @rule()
    def sync(self) -> None:
        assert self.store.sync() == self.sequence
        self.synced = dict(self.contents)

    @rule(clean=st.booleans())
    def reopen(self, clean: bool) -> None:
        self.store.close(clean=clean)
        self.store = self.rig.open()
        self.was_clean = clean
        self.restarted()

    def restarted(self) -> None:
        self.boot += 1
        self.sequence = 0
        self.contents[Family.META, b"store.boot"] = b"%d" % self.boot
        self.synced = dict(self.contents)  # counting the boot is a sync

    def expected(self, family: Family, start: bytes, end: bytes | None) -> list[tuple[bytes, bytes]]:
        return sorted(
            (key, value)
            for (kept_in, key), value in self.contents.items()
            if kept_in is family and start <= key and (end is None or key < end)
        )

    @invariant()
    def the_store_knows_its_state(self) -> None:
        assert (self.store.boot, self.store.was_clean) == (self.boot, self.was_clean)
        assert self.store.sequence == self.sequence

    def teardown(self) -> None:
        for family in Family:
            assert self.store.scan(family, b"", None, limit=1000) == self.expected(family, b"", None)
        self.store.close()


class MemoryMachine(StoreMachine):
    def __init__(self) -> None:
        super().__init__()
        self.rig = MemoryRig()

    @rule()
    def crash(self) -> None:
        self.store.crash()
        self.contents = dict(self.synced)
        self.was_clean = False
        self.restarted()


class RocksMachine(StoreMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="dynafast-model-"))
        self.rig = RocksRig(self.folder / "store")

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.folder)


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRocks = RocksMachine.TestCase
TestRocks.settings = settings(max_examples=8, stateful_step_count=40, deadline=None)
