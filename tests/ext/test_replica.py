"""A replica does what a dict with a few rules does, through any mix of calls, crashes and restarts."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from xxhash import xxh3_64_intdigest

from dynafast._ext.clock import AFTER, EQUAL, Record
from dynafast._ext.merkle import MerkleTree
from dynafast._ext.replica import (
    HOLDS_HINT,
    HOLDS_NOTHING,
    HOLDS_OTHER,
    HOLDS_SAME,
    MODE_GIVEN,
    MODE_NONE,
    MODE_PULLED,
    MODE_SEATED,
    Replica,
)
from dynafast.errors import CorruptRecordError, HintsFullError, InvariantViolation
from dynafast.storage.interface import Batch, Family, object_key
from dynafast.storage.memory import MemoryStore

PARTITIONS = 4
BITS = 2
SPAN = 2**64 // PARTITIONS
W1 = b"1" * 16
CAP = 700  # bytes kept for one node: a handful of records
HEAD = 25  # bytes of a stored record before its hints

# Two keys of one position, two of one leaf, first and last positions of partitions, and one alone in its partition.
KEYS = [
    object_key(0, b"a"),
    object_key(0, b"b"),
    object_key(SPAN - 1, b"a"),
    object_key(SPAN, b"a"),
    object_key(SPAN + 5, b"c"),
    object_key(2 * SPAN + SPAN // 2, b"d"),
    object_key(2**64 - 1, b"\xff" * 9),
]
TARGETS = [b"target-1", b"target-2", b"\xff" * 8]
MODES = [MODE_NONE, MODE_PULLED, MODE_SEATED, MODE_GIVEN]

keys = st.sampled_from(KEYS)
nodes = st.sampled_from(TARGETS)
partitions = st.integers(0, PARTITIONS - 1)


def partition_of(key: bytes) -> int:
    return int.from_bytes(key[:8], "big") * PARTITIONS >> 64


def _states() -> list[Record]:
    """A small history of one key: writes that saw all, some or nothing of the earlier ones."""
    made = [Record()]
    for number in range(1, 9):
        base = made[(number * 5) % len(made)]
        made.append(
            base.put(
                actor=number % 3 + 1,
                counter=max((c for m in made for a, c, _ in m.context if a == number % 3 + 1), default=0) + 1,
                time=number,
                write_id=W1,
                value=None if number % 4 == 0 else bytes(number * 10),
                context=base.context if number % 2 else (),
            )
        )
    return [*made[1:], made[3].merge(made[6]), made[2].merge(made[7])]


STATES = _states()


@dataclass
class Held:
    record: Record
    hints: list[bytes] = field(default_factory=list)

    def size(self) -> int:
        return HEAD + 8 * len(self.hints) + len(self.record.encode())

    def copy(self) -> "Held":
        return Held(self.record, list(self.hints))


@dataclass
class Model:
    """What a replica holds, said plainly: what it holds for nothing is not in it."""

    held: dict[bytes, Held] = field(default_factory=dict)
    sizes: dict[tuple[bytes, bytes], int] = field(default_factory=dict)  # (target, key) -> size when it was hinted
    modes: list[int] = field(default_factory=lambda: [MODE_NONE] * PARTITIONS)
    round: int = 0
    damaged: set[bytes] = field(default_factory=set)

    def copy(self) -> "Model":
        held = {key: it.copy() for key, it in self.held.items()}
        return Model(held, dict(self.sizes), list(self.modes), self.round, set(self.damaged))

    def kept_for(self, target: bytes) -> list[int]:
        sizes = [size for (to, _), size in self.sizes.items() if to == target]
        return [len(sizes), sum(sizes)]

    def settle(self, key: bytes) -> None:
        """What is held for nothing is held no more."""
        if key in self.held and not self.held[key].hints and self.modes[partition_of(key)] == MODE_NONE:
            del self.held[key]
            self.damaged.discard(key)

    def hint(self, key: bytes, target: bytes, *, capped: bool) -> None:
        it = self.held[key]
        it.hints.append(target)
        if capped and self.kept_for(target)[1] + it.size() > CAP:
            it.hints.pop()
            raise HintsFullError("")
        self.sizes[target, key] = it.size()

    def clear(self, partition: int) -> None:
        """Forget what is kept for nobody else."""
        for key in [key for key in self.held if partition_of(key) == partition]:
            if not self.held[key].hints:
                del self.held[key]
                self.damaged.discard(key)


class ReplicaMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.store = MemoryStore()
        self.model = Model()
        self.open()
        self.sync()

    def open(self) -> None:
        self.replica = Replica(self.store, partitions=PARTITIONS, hint_bytes_max=CAP)
        self.replica.start(self.seats())

    def seats(self) -> bytes:
        return bytes(mode == MODE_SEATED for mode in self.model.modes)

    # ---- records

    @rule(key=keys, state=st.sampled_from(STATES), node=st.none() | nodes)
    def merge(self, key: bytes, state: Record, node: bytes | None) -> None:
        model = self.model
        if node is None and model.modes[partition_of(key)] == MODE_NONE and key not in model.held:
            return  # callers know better
        if key in model.damaged:
            with pytest.raises(CorruptRecordError):
                self.replica.merge(key, state, node)
            return
        before = model.copy()
        it = model.held.setdefault(key, Held(Record()))
        known = node is None or node in it.hints
        if not (known and it.record.context and it.record.compare(state) in (EQUAL, AFTER)):
            it.record = it.record.merge(state)
            try:
                if node is not None and not known:
                    model.hint(key, node, capped=True)
            except HintsFullError:
                self.model = before
                with pytest.raises(HintsFullError):
                    self.replica.merge(key, state, node)
                return
        assert self.replica.merge(key, state, node).digest() == it.record.digest()

    @rule(key=keys, right=st.booleans(), trim=st.booleans())
    def reap(self, key: bytes, right: bool, trim: bool) -> None:
        it = self.model.held.get(key)
        if key in self.model.damaged:
            with pytest.raises(CorruptRecordError):
                self.replica.reap(key, 1)
            return
        digest = it.record.digest() if it is not None and right else 12345
        actors = tuple(actor for actor, _, _ in it.record.dead()) if it is not None and trim else None
        expected = it is not None and right and not it.hints
        assert self.replica.reap(key, digest, actors) == expected
        if expected and it is not None:
            assert self.replica.reaped[key] == (digest, actors)
            if actors is None:
                del self.model.held[key]
            else:
                it.record = Record([e for e in it.record.context if e[0] not in actors], it.record.versions)

    @rule(key=keys, right=st.booleans())
    def compare(self, key: bytes, right: bool) -> None:
        it = self.model.held.get(key)
        expected = HOLDS_NOTHING
        if key in self.model.damaged:
            expected = HOLDS_OTHER
        elif it is not None:
            expected = HOLDS_HINT if it.hints else HOLDS_SAME if right else HOLDS_OTHER
        assert self.replica.compare(key, it.record.digest() if it is not None and right else 12345) == expected

    # ---- hints

    @rule(key=keys, node=nodes, right=st.booleans())
    def settle_hint(self, key: bytes, node: bytes, right: bool) -> None:
        it = self.model.held.get(key)
        if key in self.model.damaged:
            with pytest.raises(CorruptRecordError):
                self.replica.settle_hint(node, key, 1)
            return
        digest = it.record.digest() if it is not None and right else 12345
        done = it is None or right
        assert self.replica.settle_hint(node, key, digest) == done
        if done:
            self.end_hint(key, node)

    @rule(key=keys, node=nodes, others=st.lists(nodes, unique=True))
    def rehint(self, key: bytes, node: bytes, others: list[bytes]) -> None:
        if key in self.model.damaged:
            with pytest.raises(CorruptRecordError):
                self.replica.rehint(key, node, others)
            return
        self.replica.rehint(key, node, others)
        it = self.model.held.get(key)
        if it is not None:
            self.model.sizes.pop((node, key), None)
            it.hints = [hint for hint in it.hints if hint != node]
            added = [other for other in others if other not in it.hints]
            it.hints += added
            self.model.sizes.update({(other, key): it.size() for other in added})
            self.model.settle(key)

    def end_hint(self, key: bytes, target: bytes) -> None:
        self.model.sizes.pop((target, key), None)
        it = self.model.held.get(key)
        if it is not None and target in it.hints:
            it.hints.remove(target)
            self.model.settle(key)

    @rule(key=keys, node=nodes)
    def add_hint(self, key: bytes, node: bytes) -> None:
        it = self.model.held.get(key)
        if key in self.model.damaged:
            with pytest.raises(CorruptRecordError):
                self.replica.add_hint(key, node)
            return
        try:
            if it is not None and node not in it.hints:
                self.model.hint(key, node, capped=True)
        except HintsFullError:
            with pytest.raises(HintsFullError):
                self.replica.add_hint(key, node)
            return
        assert self.replica.add_hint(key, node) == (it is not None)

    # ---- modes

    @rule(partition=partitions, mode=st.sampled_from(MODES), clear=st.booleans())
    def change_mode(self, partition: int, mode: int, clear: bool) -> None:
        """As the node does: what is left from before counts for nothing, so a pull, or a seat, begins with nothing."""
        model = self.model
        before = model.modes[partition]
        clear = clear or before == MODE_NONE
        batch = Batch()
        if not clear and mode == MODE_NONE and any(partition_of(key) == partition for key in model.damaged):
            return
        if clear:
            self.replica.put_clearance(batch, partition)
            model.clear(partition)
        self.replica.put_mode(batch, partition, MODE_NONE if mode == MODE_SEATED else mode, b"cursor")
        self.store.write(batch)
        model.modes[partition] = mode
        self.replica.take_modes({partition: MODE_NONE if mode == MODE_SEATED else mode}, self.seats())
        if clear:
            self.replica.cleared(partition)
        assert self.replica.cursor(partition) == (b"" if mode in (MODE_NONE, MODE_SEATED) else b"cursor")
        for key in list(model.held):
            model.settle(key)

    @rule(budget=st.integers(1, 5))
    def build(self, budget: int) -> None:
        self.replica.build(budget)

    @rule()
    def build_all(self) -> None:
        while self.replica.build(100):
            pass

    @rule(number=st.integers(0, 10))
    def raise_round(self, number: int) -> None:
        self.replica.raise_round(number)
        self.model.round = max(self.model.round, number)

    # ---- the disk

    @rule()
    def sync(self) -> None:
        self.store.sync()
        self.durable = self.model.copy()

    @rule()
    def crash(self) -> None:
        self.store.crash()
        self.model = self.durable.copy()
        self.open()

    @rule()
    def restart(self) -> None:
        self.build_all()
        self.replica.save()
        self.store.close()
        self.store.reopen()
        self.durable = self.model.copy()
        self.open()
        if not self.model.damaged:
            for partition, mode in enumerate(self.model.modes):
                assert (self.replica.root(partition) is not None) == (mode != MODE_NONE), "saved trees are taken over"

    @rule()
    def kill(self) -> None:
        self.store.close(clean=False)
        self.store.reopen()  # which counts the boot, and syncs
        self.durable = self.model.copy()
        self.open()

    @precondition(lambda self: self.model.held and not self.model.damaged)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.model.held)))
        self.sync()
        stored = self.store._stored[Family.OBJECTS]  # there is no other way to its bytes
        stored[key] = stored[key][:-1] + bytes([stored[key][-1] ^ 1])
        self.model.damaged.add(key)
        self.durable = self.model.copy()

    @precondition(lambda self: self.model.damaged)
    @rule(state=st.none() | st.sampled_from(STATES))
    def heal(self, state: Record | None) -> None:
        (key,) = self.model.damaged
        if state is None:
            self.replica.forget(key)
            del self.model.held[key]
            for target in TARGETS:
                self.model.sizes.pop((target, key), None)
        else:
            self.replica.restore(key, state)
            self.model.held[key].record = state
            self.model.held[key].hints.sort()
        self.model.damaged.clear()

    # ---- what is always so

    @invariant()
    def hints_are_those_of_the_model(self) -> None:
        expected = {target: self.model.kept_for(target) for target, _ in self.model.sizes}
        assert self.replica.hinted == expected
        for target in TARGETS:
            held = sorted(key for to, key in self.model.sizes if to == target)
            assert self.replica.hints(target, b"", 100) == held
            assert self.replica.hints(target, b"", 1) == held[:1]
            if held:
                assert self.replica.hints(target, held[0], 100) == held[1:]

    @invariant()
    def records_are_those_of_the_model(self) -> None:
        assert self.replica.round == self.model.round
        assert self.replica.damaged <= self.model.damaged
        for key in KEYS:
            it = self.model.held.get(key)
            if key in self.model.damaged:
                with pytest.raises(CorruptRecordError):
                    self.replica.read(key)
                continue
            found = self.replica.read(key)
            assert (None if found is None else found.encode()) == (None if it is None else it.record.encode())
            assert sorted(self.replica.hint_targets(key)) == sorted([] if it is None else it.hints)

    @invariant()
    def partitions_are_those_of_the_model(self) -> None:
        for partition, mode in enumerate(self.model.modes):
            assert self.replica.mode(partition) == mode
            held = sorted(key for key in self.model.held if partition_of(key) == partition)
            good = [key for key in held if key not in self.model.damaged]
            if mode == MODE_NONE:
                held = good = []
            assert [key for key, _ in self.replica.scan(partition, b"", 100)] == held
            listed = [(key, self.model.held[key].record.digest()) for key in good]
            assert self.replica.keys(partition, None, b"", 100) == (listed, True)
            found, over = self.replica.keys(partition, None, b"", 1)
            assert found == listed[:1]
            assert over == (not listed)

    @invariant()
    def finished_trees_are_those_of_a_fresh_build(self) -> None:
        for partition, mode in enumerate(self.model.modes):
            root = self.replica.root(partition)
            if mode == MODE_NONE:
                assert root is None
                assert self.replica.level(partition, 0, 0, 1) is None
                continue
            if root is None or any(partition_of(key) == partition for key in self.model.damaged):
                continue
            tree = MerkleTree(256)
            for key, it in self.model.held.items():
                if partition_of(key) == partition:
                    leaf = tree.leaf_of(int.from_bytes(key[:8], "big"), BITS)
                    tree.replace(leaf, 0, xxh3_64_intdigest(key, it.record.digest()))
                    assert (key, it.record.digest()) in self.replica.keys(partition, leaf, b"", 100)[0]
            assert root == tree.root()
            assert self.replica.level(partition, 2, 0, 256) == tree.dump()

    def teardown(self) -> None:
        """However it went, a start after a crash ends with all trees built and nothing left that counts for nothing."""
        self.sync()
        self.crash()
        self.build_all()
        for partition, mode in enumerate(self.model.modes):
            assert (self.replica.root(partition) is None) == (mode == MODE_NONE)
        self.finished_trees_are_those_of_a_fresh_build()
        stored = [key for key, _ in self.store.scan(Family.OBJECTS, b"", None, limit=100)]
        assert stored == sorted(self.model.held)
        self.store.close()


TestReplica = ReplicaMachine.TestCase
TestReplica.settings = settings(max_examples=150, stateful_step_count=50, deadline=None, report_multiple_bugs=False)


def replica(*, seats: bytes = b"\1" * PARTITIONS, plants: frozenset[str] = frozenset(), cap: int = 10**6) -> Replica:
    made = Replica(MemoryStore(), partitions=PARTITIONS, hint_bytes_max=cap, plants=plants)
    made.start(seats)
    return made


def test_a_record_is_kept_for_sixteen_nodes_and_no_more() -> None:
    kept = replica(seats=bytes(PARTITIONS))
    for number in range(16):
        kept.merge(KEYS[0], STATES[0], number.to_bytes(8, "big").replace(b"\0\0", b"xx", 1))
    with pytest.raises(HintsFullError, match="16 other nodes"):
        kept.merge(KEYS[0], STATES[0], b"one more")
    assert len(kept.hint_targets(KEYS[0])) == 16
    assert b"one more" not in kept.hinted


def test_a_record_larger_than_the_cap_is_refused_and_nothing_is_written() -> None:
    kept = replica(seats=bytes(PARTITIONS), cap=100)
    large = Record().put(actor=1, counter=1, time=1, write_id=W1, value=bytes(200))
    with pytest.raises(HintsFullError, match="0 bytes are kept"):
        kept.merge(KEYS[0], large, TARGETS[0])
    assert kept.read(KEYS[0]) is None
    assert kept.hinted == {}


def test_what_counts_for_nothing_is_not_restored() -> None:
    with pytest.raises(InvariantViolation, match="counts for nothing"):
        replica(seats=bytes(PARTITIONS)).restore(KEYS[0], STATES[0])


def test_canaries_leave_out_their_safeguard() -> None:
    """half-built-tree answers with a tree that is not built; blind-hint-ack ends a hint whatever was merged."""
    store = MemoryStore()
    first = Replica(store, partitions=PARTITIONS)
    first.start(b"\1" * PARTITIONS)
    first.merge(KEYS[0], STATES[0])
    store.sync()
    store.crash()
    empty = replica().root(0)
    for plants, root in ((frozenset[str](), None), (frozenset({"half-built-tree"}), empty)):
        again = Replica(store, partitions=PARTITIONS, plants=plants)
        again.start(b"\1" * PARTITIONS)
        assert again.root(0) == root
    for plants, settled in ((frozenset[str](), False), (frozenset({"blind-hint-ack"}), True)):
        kept = replica(plants=plants)
        kept.merge(KEYS[0], STATES[0], TARGETS[0])
        assert kept.settle_hint(TARGETS[0], KEYS[0], 12345) == settled


def test_trees_are_saved_for_a_clean_start_alone() -> None:
    """After a crash they are built anew: what was saved before is not what is there now."""
    store = MemoryStore()
    first = Replica(store, partitions=PARTITIONS)
    first.start(b"\1" * PARTITIONS)
    first.merge(KEYS[0], STATES[0])
    root = first.root(0)
    first.save()
    store.close()
    store.reopen()
    second = Replica(store, partitions=PARTITIONS)
    second.start(b"\1" * PARTITIONS)
    assert second.root(0) == root
    assert not second.build(100)
    store.close(clean=False)
    store.reopen()
    third = Replica(store, partitions=PARTITIONS)
    third.start(b"\1" * PARTITIONS)
    assert third.root(0) is None
    while third.build(1):
        pass
    assert third.root(0) == root


def test_a_tombstone_that_a_round_took_away_is_remembered_until_too_many_others_were() -> None:
    kept = replica()
    state = STATES[0]
    for number in range(16_500):
        key = object_key(number << 40, b"k")
        kept.merge(key, state)
        assert kept.reap(key, state.digest())
    assert len(kept.reaped) == 16_384
    assert object_key(0, b"k") not in kept.reaped


def test_a_round_number_that_is_on_its_way_to_the_disk_is_never_lowered() -> None:
    store = MemoryStore()
    kept = Replica(store, partitions=PARTITIONS)
    kept.write_round(7)
    assert kept.round == 0
    kept.raise_round(5)
    assert kept.round == 5
    store.sync()
    store.crash()
    assert Replica(store, partitions=PARTITIONS).round == 7
    kept.take_round(7)
    assert kept.round == 7


def test_a_leaf_that_is_not_the_sum_of_its_records_is_put_right_when_it_is_read_as_a_whole() -> None:
    store = MemoryStore()
    replica = Replica(store, partitions=PARTITIONS)
    replica.start(bytes([1] * PARTITIONS))
    replica.merge(KEYS[0], Record().put(actor=1, counter=1, time=1, write_id=W1, value=b"v"))
    kept = store.get(KEYS[0])
    assert kept is not None
    true = replica.root(0)
    batch = Batch()
    batch.put(Family.OBJECTS, KEYS[1], kept)
    store.write(batch)  # behind its back
    assert replica.keys(0, 1, b"", 10) == ([], True)
    assert replica.root(0) == true
    found, done = replica.keys(0, 0, b"", 10)
    assert (len(found), done) == (2, True)
    assert replica.root(0) != true
    fresh = Replica(store, partitions=PARTITIONS)
    fresh.start(bytes([1] * PARTITIONS))
    while fresh.build(100):
        pass
    assert replica.root(0) == fresh.root(0)
