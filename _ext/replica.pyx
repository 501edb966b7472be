"""What a node keeps: the records of its partitions, those it keeps for others, and the trees that sum them up.

One record per key, whatever it is kept for. Each partition has a mode: NONE, PULLED, SEATED or GIVEN. A hint is a
pointer ``target + object key`` in a family of its own, and the target's id in the private head of the record: both are
written in one batch, so neither is ever there without the other. A record in no seat, no pull and no hint is treated
as absent by everything, and deleted.

Does: read, merge and write records; keep hints, Merkle trees and the round number true to them. May not: decide which
modes, whom to hint or what to send, or wait for a flush: its callers do.
"""

from collections import deque

from dynafast._ext.codec import dumps, loads
from dynafast.errors import CorruptRecordError, HintsFullError, InvariantViolation, StoreError
from dynafast.storage.interface import ON_DISK, Batch, Family, partition_range, walk

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.string cimport memset

from dynafast._ext.clock cimport HINTS_MAX, load_stored
from dynafast._ext.codec cimport load_be, store_be
from dynafast._ext.hot cimport Hot, HotRecords
from dynafast._ext.sealed cimport SEAL_BYTES, checksum
from dynafast._ext.xxh3 cimport hash_bytes

cdef enum:
    LEAVES = 256                    # of a partition's tree
    POSITION_SIZE = 8
    DAMAGED_MAX = 100_000           # records remembered as unreadable; more are found again when they are read
    CHUNK = 256                     # records read from the store at once
    BATCH_SIZE = 256 * 1024
    REAPED_MAX = 16384              # records taken away by rounds that are remembered

DEFAULT_HINT_BYTES_MAX = 1 << 30
DEFAULT_CACHE_BYTES = 64 << 20

MODE_NONE, MODE_PULLED, MODE_SEATED, MODE_GIVEN = NONE, PULLED, SEATED, GIVEN
HOLDS_NOTHING, HOLDS_SAME, HOLDS_OTHER, HOLDS_HINT = 0, 1, 2, 3

_MODE = b"mode/"
_MODE_END = b"mode0"                # the first key behind those
_ROUND = b"round"

cdef object _OBJECTS = Family.OBJECTS
cdef object _HINTS = Family.HINTS
cdef object _MERKLE = Family.MERKLE
cdef object _META = Family.META
cdef object _ON_DISK = ON_DISK


cdef inline uint64_t _leaf_hash(bytes object_key, Record record) except? 0:
    """Return what a record adds to its leaf: the hash of key, context and dots. Kept with the record."""
    if record.leaf_key is None or record.leaf_key != object_key:
        record.leaf = hash_bytes(object_key, record.hash())
        record.leaf_key = object_key
    return record.leaf


cdef int _set_leaf(MerkleTree tree, Py_ssize_t leaf, uint64_t total) except -1:
    """Let a leaf be *total*, whatever it was."""
    cdef uint64_t before = tree.nodes[tree.inner + leaf]
    if before != total:
        tree.update(leaf, before, total)
    return 0


cdef inline bytes _id(uint64_t number):
    return (<object>number).to_bytes(8, "big")


cdef int _find(const Local *local, uint64_t target) noexcept:
    cdef int i
    for i in range(local.hint_count):
        if local.hints[i] == target:
            return i
    return -1


cdef class Replica:
    """All that one node keeps.

    Args:
        store: a `dynafast.storage.interface.Store`.
        partitions: Q.
        hint_bytes_max: bytes of records kept for one other node; at that a further hint is refused.
        cache_bytes: of the records that are kept in memory.
        plants: names of safeguards to leave out, for the canaries of the simulator.

    Attributes:
        round: the number of the last agreed round that this node took part in; frames that carry versions carry it.
        hinted: target -> [number of hints, bytes of their records when they were made].
        reaped: object key -> (digest, actors): what rounds took away last, and of which actors the entries alone.
        damaged: object keys whose record cannot be read. broken: partitions of which a range cannot be read.

    Every method that reads or writes raises StoreError, and CorruptRecordError for what cannot be read.
    """

    def __init__(
        self, store, *, int partitions, uint64_t hint_bytes_max=DEFAULT_HINT_BYTES_MAX,
        Py_ssize_t cache_bytes=DEFAULT_CACHE_BYTES, plants=frozenset(),
    ):
        self.disk = store
        self.staged = store.staged
        self.scratch = Buffer()
        self.hot = HotRecords(cache_bytes)
        self.epochs = <uint32_t *>PyMem_Calloc(partitions, sizeof(uint32_t))
        if self.epochs == NULL:
            raise MemoryError
        self.plants = plants
        self.partitions = partitions
        self.bits = (<object>partitions).bit_length() - 1
        self.own = bytearray(partitions)
        self.given = bytearray(partitions)
        self.modes = bytearray(partitions)
        self.trees = [None] * partitions
        self.cursors = [None] * partitions
        self.unbuilt = deque()
        self.hinted = {}
        self.hint_bytes_max = hint_bytes_max
        self.reaped = {}
        self.damaged = set()
        self.broken = set()
        number = store.read(_META, _ROUND)
        self.round = self.round_written = 0 if number is None else int.from_bytes(number, "big")
        for page in walk(store, _META, _MODE, _MODE_END, limit=1000):
            for key, value in page:
                if isinstance(value, CorruptRecordError):
                    raise value
                self.given[loads(key[len(_MODE):])] = loads(value)[0]
        self._count_hints()

    def __dealloc__(self):
        PyMem_Free(self.epochs)

    def start(self, seats not None):
        """Take the seats of this start, and the trees that the last clean end saved; the rest is built by `build`.

        Args:
            seats: per partition the seats that this node serves, as bits.
        """
        cdef Py_ssize_t partition
        cdef bint fresh = not self.disk.scan(_OBJECTS, b"", None, limit=1)
        self.own[:] = seats
        saved = {}
        if self.disk.was_clean and not fresh:
            for page in walk(self.disk, _MERKLE, b"", None, limit=CHUNK):
                for key, value in page:
                    if not isinstance(value, CorruptRecordError):
                        saved[int.from_bytes(key, "big")] = value
        for partition in range(self.partitions):
            self._settle_mode(partition)
            if self.trees[partition] is not None and (fresh or partition in saved):
                self.cursors[partition] = None
                if partition in saved:
                    self.trees[partition].load(saved[partition])
        self.unbuilt = deque()
        if not fresh:
            self.unbuilt.extend(
                p for p in range(self.partitions) if self.trees[p] is None or self.cursors[p] is not None
            )
        batch = Batch()
        batch.delete_range(_MERKLE, b"", b"\xff" * 5)   # what is written from now on makes them untrue
        self.disk.write(batch)

    def save(self):
        """Write the finished trees, for a start after a clean end. Nothing may be written afterwards."""
        cdef Py_ssize_t partition
        batch, size = Batch(), 0
        for partition in range(self.partitions):
            if self.trees[partition] is None or self.cursors[partition] is not None:
                continue
            batch.put(_MERKLE, (<object>partition).to_bytes(4, "big"), self.trees[partition].dump())
            size += 8 * LEAVES
            if size >= BATCH_SIZE:
                self.disk.write(batch)
                batch, size = Batch(), 0
        if size:
            self.disk.write(batch)

    # ---- the request path

    cdef Py_ssize_t partition_of(self, bytes object_key) noexcept:
        if self.bits == 0:
            return 0
        return <Py_ssize_t>(load_be(<const uint8_t *>PyBytes_AS_STRING(object_key), POSITION_SIZE) >> (64 - self.bits))

    cdef uint8_t mode_at(self, Py_ssize_t partition) noexcept:
        return (<const uint8_t *>PyByteArray_AS_STRING(self.modes))[partition]

    cdef Record load(self, bytes object_key, Local *local):
        """Return the record that counts, an empty one when there is none; its private part goes to *local*."""
        cdef Py_ssize_t partition = self.partition_of(object_key)
        cdef Hot hot = self.hot.find(object_key)
        if hot is None or hot.epoch != self.epochs[partition]:
            return self.load_cold(object_key, partition, local)
        return self.counted(hot, partition, local)

    cdef Record glance(self, bytes object_key, Local *local):
        """As `load`, without touching the disk: None when only that can tell."""
        cdef Py_ssize_t partition = self.partition_of(object_key)
        cdef Hot hot = self.hot.find(object_key)
        cdef object data
        if hot is not None and hot.epoch == self.epochs[partition]:
            return self.counted(hot, partition, local)
        try:
            data = self.disk.glance(object_key)
            if data is _ON_DISK:
                return None
            return self.decoded(object_key, partition, data, local)
        except CorruptRecordError:
            self.damage(object_key)
            raise

    cdef Record counted(self, Hot hot, Py_ssize_t partition, Local *local):
        """Return a record in memory if it counts, else an empty one."""
        if hot.local.hint_count or self.mode_at(partition) != NONE:
            local[0] = hot.local
            return hot.record
        memset(local, 0, sizeof(Local))
        return Record.__new__(Record)

    cdef Record load_cold(self, bytes object_key, Py_ssize_t partition, Local *local):
        """As `load`, from the store, whatever is in memory."""
        try:
            return self.decoded(object_key, partition, self.disk.get(object_key), local)
        except CorruptRecordError:
            self.damage(object_key)
            raise

    cdef Record decoded(self, bytes object_key, Py_ssize_t partition, bytes data, Local *local):
        """Return what the store has, if it counts, and keep it in memory; else an empty record."""
        cdef Record record
        if data is not None:
            record = load_stored(data, local)
            if local.hint_count or self.mode_at(partition) != NONE:
                self.hot.keep(object_key, record, local, self.epochs[partition])
                return record
        memset(local, 0, sizeof(Local))
        return Record.__new__(Record)

    # ---- reads in the background

    cdef int expect(self, bytes object_key) except -1:
        """A record is being read from now on: what changes before `arrive` makes that void."""
        return self.hot.expect(object_key, self.epochs[self.partition_of(object_key)])

    cdef object arrive(self, bytes object_key, object data):
        """Take what a read has found: the object, None, or a StoreError, which is returned.

        Until `depart`, `glance` finds it. Not if the key was written meanwhile, or its partition cleared.
        """
        cdef Py_ssize_t partition = self.partition_of(object_key)
        cdef Hot guest = self.hot.expected(object_key)
        cdef Local local
        cdef Record record
        if guest is None or guest.epoch != self.epochs[partition]:
            self.hot.depart(object_key)
            return None
        memset(&local, 0, sizeof(Local))
        record = Record.__new__(Record)
        try:
            if isinstance(data, StoreError):
                raise data
            if data is not None:
                record = load_stored(data, &local)
        except StoreError as error:
            self.hot.depart(object_key)
            if isinstance(error, CorruptRecordError):
                self.damage(object_key)
            return error
        self.hot.arrive(
            object_key, record, &local, guest.epoch,
            data is not None and (local.hint_count or self.mode_at(partition) != NONE),
        )
        return None

    cdef int depart(self, bytes object_key) except -1:
        """Those that waited for a read have seen what it found."""
        return self.hot.depart(object_key)

    cdef int damage(self, bytes object_key) except -1:
        """A record cannot be read: nor does it count in memory, or it would look like one that needs no mending."""
        self.hot.forget(object_key)
        if len(self.damaged) < DAMAGED_MAX:
            self.damaged.add(object_key)
        return 0

    cdef int keep(
        self, bytes object_key, Record held, Record record, Local *local, uint64_t target, bint stage
    ) except -1:
        """Write *record* in the place of *held*, with *local* as its private part.

        Args:
            target: the number of a node for which the record is kept from now on; 0: none is added.
            stage: the write may wait for the next `commit` of the store.

        Returns 1 when it waits: `undo` if that is refused; else 0.

        Raises:
            HintsFullError: no more may be kept for *target*; nothing was written.
        """
        cdef bytes data, id
        if target == 0 or _find(local, target) >= 0:
            if stage:
                self.staged[object_key] = self.sealed(object_key, record, local)
            else:
                self.disk.put(object_key, record.stored(local))
            self.hot.keep(object_key, record, local, self.epochs[self.partition_of(object_key)])
            self.retell(object_key, held, record)
            return stage
        id = _id(target)
        figures = self.hinted.get(id) or [0, 0]
        if local.hint_count == HINTS_MAX:
            raise HintsFullError(f"the record is kept for {HINTS_MAX} other nodes already")
        local.hints[local.hint_count] = target
        local.hint_count += 1
        data = record.stored(local)
        if figures[1] + len(data) > self.hint_bytes_max:
            local.hint_count -= 1
            raise HintsFullError(f"{figures[1]} bytes are kept for node {id.hex()}: no more until it is back")
        batch = Batch()
        batch.put(_OBJECTS, object_key, data)
        batch.put(_HINTS, id + object_key, len(data).to_bytes(4, "big"))
        try:
            self.disk.write(batch)
        except BaseException:
            local.hint_count -= 1
            raise
        self.hot.forget(object_key)
        self.hinted[id] = [figures[0] + 1, figures[1] + len(data)]
        return self.retell(object_key, held, record)

    cdef bytes sealed(self, bytes object_key, Record record, const Local *local):
        """Return what the store is to have under a key."""
        cdef Buffer out = self.scratch
        out.size = SEAL_BYTES
        record.write_stored(out, local)
        store_be(out.data, checksum(object_key, out.data + SEAL_BYTES, out.size - SEAL_BYTES), SEAL_BYTES)
        return out.take()

    cdef int undo(self, bytes object_key, Record held, Record record) except -1:
        """What was staged was refused: *held* is there still. Of several writes of a key the last one comes first."""
        self.hot.forget(object_key)
        return self.retell(object_key, record, held)

    cdef int retell(self, bytes object_key, Record held, Record record) except -1:
        """Bring the tree of a partition up to a write: *held* was there, *record* is; empty ones stand for nothing."""
        cdef Py_ssize_t partition = self.partition_of(object_key)
        cdef MerkleTree tree = self.trees[partition]
        cdef bytes cursor
        cdef uint64_t position
        if self.damaged:
            self.damaged.discard(object_key)
        if tree is None:
            return 0
        cursor = self.cursors[partition]
        if cursor is not None and object_key >= cursor:
            return 0                        # the scan that builds the tree is still to come there
        position = load_be(<const uint8_t *>PyBytes_AS_STRING(object_key), POSITION_SIZE)
        tree.update(
            tree.slot(position, self.bits),
            _leaf_hash(object_key, held) if held.entry_count else 0,
            _leaf_hash(object_key, record) if record.entry_count else 0,
        )
        return 0

    # ---- modes

    def mode(self, Py_ssize_t partition):
        """Return MODE_NONE, MODE_PULLED, MODE_SEATED or MODE_GIVEN."""
        return self.modes[partition]

    def put_mode(self, batch, Py_ssize_t partition, int mode, bytes cursor=b""):
        """Add to *batch* the mode that a partition has while no seat of it is served; `take_modes` after the write.

        Args:
            cursor: of a pull: up to where it has come (object key).
        """
        key = _MODE + dumps(partition)
        if mode == NONE:
            batch.delete(_META, key)
        else:
            batch.put(_META, key, dumps([mode, cursor]))

    def cursor(self, Py_ssize_t partition):
        """Return up to where (object key) the pull of a partition has come; b"" at its beginning."""
        value = self.disk.read(_META, _MODE + dumps(partition))
        return b"" if value is None else loads(value)[1]

    def take_modes(self, modes, seats=None):
        """Serve by what was written: modes without a seat ``{partition: mode}``, and perhaps new *seats* (as `start`)."""
        cdef Py_ssize_t partition
        for partition, mode in modes.items():
            self.given[partition] = mode
        changed = set(modes)
        if seats is not None:
            changed.update(p for p in range(self.partitions) if self.own[p] != seats[p])
            self.own[:] = seats
        for partition in sorted(changed):
            self._settle_mode(partition)

    def _settle_mode(self, Py_ssize_t partition):
        self.modes[partition] = SEATED if self.own[partition] else self.given[partition]
        if self.modes[partition] == NONE:
            self.trees[partition] = self.cursors[partition] = None
        elif self.trees[partition] is None:
            self.trees[partition] = MerkleTree(LEAVES)
            self.cursors[partition] = b""
            self.unbuilt.append(partition)

    # ---- records, for the machines of the core

    def read(self, bytes object_key not None):
        """Return the record that counts, as the store has it, or None."""
        cdef Local local
        cdef Record record = self.load_cold(object_key, self.partition_of(object_key), &local)
        return record if record.entry_count else None

    def merge(self, bytes object_key not None, Record record not None, bytes hint_for=None):
        """Merge *record* into what is there, and return the result; kept for *hint_for* too, if that is given.

        Raises:
            HintsFullError: nothing was written.
        """
        cdef Local local
        cdef Record held = self.load(object_key, &local)
        cdef Record merged = record if held.entry_count == 0 else held.merged(record)
        cdef uint64_t target = 0 if hint_for is None else int.from_bytes(hint_for, "big")
        if held.entry_count and held.relation(record) & 1 and (target == 0 or _find(&local, target) >= 0):
            return held
        self.keep(object_key, held, merged, &local, target, False)
        return merged

    def restore(self, bytes object_key not None, Record record not None):
        """Put *record* in the place of one that cannot be read; hints of it stay, its leaf is summed up anew."""
        cdef Local local
        cdef Py_ssize_t partition = self.partition_of(object_key)
        memset(&local, 0, sizeof(Local))
        for id in sorted(self.hinted):
            if local.hint_count < HINTS_MAX and self.disk.read(_HINTS, id + object_key) is not None:
                local.hints[local.hint_count] = int.from_bytes(id, "big")
                local.hint_count += 1
        if local.hint_count == 0 and self.mode_at(partition) == NONE:
            raise InvariantViolation("a record that counts for nothing is restored")
        self.disk.put(object_key, record.stored(&local))
        self.hot.forget(object_key)
        self.damaged.discard(object_key)
        self._sum_leaf(partition, object_key)

    def forget(self, bytes object_key not None):
        """Delete a record that cannot be read, with its hints: no other node has anything under its key."""
        batch = Batch()
        batch.delete(_OBJECTS, object_key)
        gone = []
        for id in sorted(self.hinted):
            value = self.disk.read(_HINTS, id + object_key)
            if value is not None:
                batch.delete(_HINTS, id + object_key)
                gone.append((id, int.from_bytes(value, "big")))
        self.disk.write(batch)
        self.hot.forget(object_key)
        for id, size in gone:
            self._uncount(id, size)
        self.damaged.discard(object_key)
        self._sum_leaf(self.partition_of(object_key), object_key)

    def scan(self, Py_ssize_t partition, bytes after not None, int limit):
        """Return up to *limit* ``(object key, Record | CorruptRecordError)`` of a partition, above *after* (b"": all).

        A shorter result does not mean the end; an empty one does. Nothing in mode NONE.
        """
        start, end = partition_range(partition, self.partitions)
        if self.modes[partition] == NONE:
            return []
        return self._readable(partition, after + b"\0" if after else start, end, limit)

    def _readable(self, Py_ssize_t partition, bytes start, bytes end, int limit):
        cdef Local local
        cdef list found = []
        try:
            page = self.disk.scan(_OBJECTS, start, end, limit=limit)
        except CorruptRecordError:
            self.broken.add(partition)
            raise
        for key, value in page:
            if not isinstance(value, CorruptRecordError):
                try:
                    value = load_stored(value, &local)
                except CorruptRecordError as error:
                    value = error
            if isinstance(value, CorruptRecordError):
                self.damage(key)
            found.append((key, value))
        return found

    def keys(self, Py_ssize_t partition, leaf, bytes after not None, int limit):
        """Return ``(list of (object key, digest), whether that is all)`` of a leaf, or with None of the partition.

        Args:
            after: only keys above it; b"" for all. limit: number of keys at most. Unreadable records are left out.

        A leaf that was read as a whole and does not sum up to what the tree says is put right.
        """
        cdef list found = []
        cdef bint whole = leaf is not None and not after and self.cursors[partition] is None
        cdef uint64_t total
        start, end = partition_range(partition, self.partitions) if leaf is None else self._leaf_range(partition, leaf)
        if self.modes[partition] == NONE:
            return found, True
        if after:
            start = max(start, after + b"\0")
        while len(found) < limit:
            page = self._readable(partition, start, end, min(CHUNK, limit - len(found)))
            if not page:
                if whole:           # one that is not their sum would differ from other replicas for ever
                    total = 0
                    for key, digest in found:
                        total += hash_bytes(key, digest)
                    _set_leaf(self.trees[partition], leaf, total)
                return found, True
            whole = whole and all(isinstance(value, Record) for _, value in page)
            found += [(key, (<Record>value).hash()) for key, value in page if isinstance(value, Record)]
            start = page[len(page) - 1][0] + b"\0"
        return found, False

    # ---- trees

    def root(self, Py_ssize_t partition):
        """Return the root of a partition's tree; None while it is not built (or there is none): not ready."""
        if self.trees[partition] is None or self.cursors[partition] is not None:
            if "half-built-tree" not in self.plants or self.trees[partition] is None:
                return None
        return self.trees[partition].root()

    def level(self, Py_ssize_t partition, depth, first, count):
        """Return hashes of one level of a partition's tree, as `MerkleTree.level`; None while it is not ready.

        Raises:
            ValueError: there is no such level, or it is not as wide.
        """
        if self.root(partition) is None:
            return None
        return self.trees[partition].level(depth, first, count)

    def build(self, int budget):
        """Go on building trees, and at the start cleaning up, for about *budget* records; whether more is left."""
        cdef Py_ssize_t partition
        while budget > 0 and self.unbuilt:
            partition = self.unbuilt[0]
            try:
                if self.modes[partition] == NONE:
                    budget -= 1 + self._clean(partition, min(budget, CHUNK))
                elif self.cursors[partition] is not None:
                    budget -= 1 + self._build(partition, min(budget, CHUNK))
                else:
                    self.unbuilt.popleft()
            except CorruptRecordError:
                self.broken.add(partition)
                self.unbuilt.popleft()
        return bool(self.unbuilt)

    cdef int _build(self, Py_ssize_t partition, int limit) except -1:
        cdef MerkleTree tree = self.trees[partition]
        start, end = partition_range(partition, self.partitions)
        page = self._readable(partition, max(start, self.cursors[partition]), end, limit)
        for key, value in page:
            if isinstance(value, Record):
                position = load_be(<const uint8_t *>PyBytes_AS_STRING(key), POSITION_SIZE)
                tree.update(tree.slot(position, self.bits), 0, _leaf_hash(key, value))
        self.cursors[partition] = page[len(page) - 1][0] + b"\0" if page else None
        return <int>len(page)

    cdef int _clean(self, Py_ssize_t partition, int limit) except -1:
        """Delete what counts for nothing in a partition without a mode; all at once: it is at most a few leftovers."""
        cdef Local local
        start, end = partition_range(partition, self.partitions)
        batch, seen = Batch(), 0
        for page in walk(self.disk, _OBJECTS, start, end, limit=CHUNK):
            for key, value in page:
                seen += 1
                if isinstance(value, CorruptRecordError):
                    self.damage(key)
                    continue
                load_stored(value, &local)
                if local.hint_count == 0:
                    batch.delete(_OBJECTS, key)
            if len(batch.ops) >= CHUNK:
                self.disk.write(batch)
                batch = Batch()
        if batch.ops:
            self.disk.write(batch)
        self.unbuilt.popleft()
        return <int>seen

    def rebuild(self, Py_ssize_t partition):
        """Build the tree of a partition anew, from its beginning."""
        if self.trees[partition] is not None:
            self.trees[partition] = MerkleTree(LEAVES)
            self.cursors[partition] = b""
            self.unbuilt.append(partition)

    def _leaf_range(self, Py_ssize_t partition, int leaf):
        return partition_range(partition * LEAVES + leaf, self.partitions * LEAVES)

    def _sum_leaf(self, Py_ssize_t partition, bytes object_key):
        """Sum up anew the leaf of a key: what it held of that key could not be told."""
        cdef MerkleTree tree = self.trees[partition]
        cdef uint64_t total = 0
        cdef Py_ssize_t leaf
        cursor = self.cursors[partition]
        if tree is None or (cursor is not None and object_key >= cursor):
            return
        leaf = tree.slot(load_be(<const uint8_t *>PyBytes_AS_STRING(object_key), POSITION_SIZE), self.bits)
        start, end = self._leaf_range(partition, leaf)
        while page := self._readable(partition, start, end, CHUNK):
            for key, value in page:
                if isinstance(value, Record) and (cursor is None or key < cursor):
                    total += _leaf_hash(key, value)
            start = page[len(page) - 1][0] + b"\0"
        _set_leaf(tree, leaf, total)

    # ---- pulls and drops

    def put_clearance(self, batch, Py_ssize_t partition):
        """Add to *batch* the deletion of a partition's records, those that are kept for others spared.

        Returns the number of records spared. They are read and the batch is written in one turn: nothing comes between.
        """
        self.epochs[partition] += 1         # what is in memory of it counts no more
        start, end = partition_range(partition, self.partitions)
        try:
            empty = not self.disk.scan(_OBJECTS, start, end, limit=1)
        except CorruptRecordError:
            empty = False
        if empty:
            return 0                        # many are: a range deletion for nothing would slow down later scans
        kept = set()
        for id in sorted(self.hinted):
            for page in walk(self.disk, _HINTS, id + start, id + end, limit=CHUNK):
                kept.update([key[len(id):] for key, _ in page])
        spared = []
        for key in sorted(kept):
            try:
                spared.append((key, self.disk.get(key)))
            except CorruptRecordError:      # perhaps the only copy: it stays as it is, to be mended
                batch.delete_range(_OBJECTS, start, key)
                start = key + b"\0"
        batch.delete_range(_OBJECTS, start, end)
        for key, value in spared:
            if value is not None:
                batch.put(_OBJECTS, key, value)
        return len(spared)

    def cleared(self, Py_ssize_t partition):
        """After a clearance was written: what could not be read is gone but for hints, and the tree is built anew."""
        self.damaged = {
            key for key in self.damaged
            if self.partition_of(key) != partition
            or any(self.disk.read(_HINTS, id + key) is not None for id in sorted(self.hinted))
        }
        self.broken.discard(partition)
        self.rebuild(partition)

    # ---- hints

    def hints(self, bytes target not None, bytes after not None, int limit):
        """Return the object keys, in order and above *after* (b"": all), of up to *limit* hints for *target*."""
        start = target + after + b"\0" if after else target
        end = (int.from_bytes(target, "big") + 1).to_bytes(9, "big")[1:]
        page = self.disk.scan(_HINTS, start, end if end > target else None, limit=limit)
        return [key[len(target):] for key, _ in page]

    def hint_targets(self, bytes object_key not None):
        """Return the ids of the nodes that a record is kept for."""
        cdef Local local
        cdef int i
        self.load(object_key, &local)
        return [_id(local.hints[i]) for i in range(local.hint_count)]

    def add_hint(self, bytes object_key not None, bytes target not None):
        """Keep a record that is there for *target* too; whether there is one. Raises HintsFullError."""
        cdef Local local
        cdef Record held = self.load(object_key, &local)
        if held.entry_count == 0:
            return False
        if _find(&local, int.from_bytes(target, "big")) < 0:
            self.keep(object_key, held, held, &local, int.from_bytes(target, "big"), False)
        return True

    def settle_hint(self, bytes target not None, bytes object_key not None, uint64_t digest):
        """*target* has merged the state with that digest: end the hint if the record still is that; whether it is.

        The pointer, and a record that is kept for nothing else, go in one batch.
        """
        cdef Local local
        cdef Record held = self.load(object_key, &local)
        if held.entry_count and held.hash() != digest and "blind-hint-ack" not in self.plants:
            return False
        self._end_hint(target, object_key, held, &local, ())
        return True

    def rehint(self, bytes object_key not None, bytes target not None, others):
        """End the hint for *target*, and keep the record for each of *others* instead, in one batch."""
        cdef Local local
        cdef Record held = self.load(object_key, &local)
        self._end_hint(target, object_key, held, &local, others)

    cdef int _end_hint(self, bytes target, bytes object_key, Record held, Local *local, object others) except -1:
        cdef int at = _find(local, int.from_bytes(target, "big"))
        cdef int i
        cdef bint gone
        value = self.disk.read(_HINTS, target + object_key)
        batch = Batch()
        batch.delete(_HINTS, target + object_key)
        added = []
        if at >= 0:
            for i in range(at, local.hint_count - 1):
                local.hints[i] = local.hints[i + 1]
            local.hint_count -= 1
        if held.entry_count:
            for other in others:
                if _find(local, int.from_bytes(other, "big")) < 0 and local.hint_count < HINTS_MAX:
                    local.hints[local.hint_count] = int.from_bytes(other, "big")
                    local.hint_count += 1
                    added.append(other)
            gone = local.hint_count == 0 and self.mode_at(self.partition_of(object_key)) == NONE
            if gone:
                batch.delete(_OBJECTS, object_key)
            elif at >= 0 or added:
                data = held.stored(local)
                batch.put(_OBJECTS, object_key, data)
                for other in added:
                    batch.put(_HINTS, other + object_key, len(data).to_bytes(4, "big"))
        self.disk.write(batch)
        self.hot.forget(object_key)
        if value is not None:
            self._uncount(target, int.from_bytes(value, "big"))
        for other in added:
            figures = self.hinted.get(other) or [0, 0]
            self.hinted[other] = [figures[0] + 1, figures[1] + len(data)]

    def _uncount(self, bytes target, size):
        figures = self.hinted.get(target) or [0, 0]
        if figures[0] <= 1:
            self.hinted.pop(target, None)
        else:
            self.hinted[target] = [figures[0] - 1, max(0, figures[1] - size)]

    def _count_hints(self):
        for page in walk(self.disk, _HINTS, b"", None, limit=1000):
            for key, value in page:
                size = 0 if isinstance(value, CorruptRecordError) else int.from_bytes(value, "big")
                figures = self.hinted.setdefault(key[:8], [0, 0])
                figures[0] += 1
                figures[1] += size

    # ---- rounds

    def compare(self, bytes object_key not None, uint64_t digest):
        """Say what is stored under a key beside the record with that digest: one of the HOLDS_ numbers.

        What is left over from a seat or a hint, and counts for nothing, is deleted and is nothing.
        """
        cdef Local local
        cdef Record held
        cdef Py_ssize_t partition = self.partition_of(object_key)
        if partition in self.broken:
            return HOLDS_OTHER
        try:
            data = self.disk.get(object_key)
            if data is None:
                return HOLDS_NOTHING
            held = load_stored(data, &local)
        except CorruptRecordError:
            self.damage(object_key)
            return HOLDS_OTHER
        if local.hint_count:
            return HOLDS_HINT
        if self.mode_at(partition) == NONE:
            self._delete(object_key)
            return HOLDS_NOTHING
        return HOLDS_SAME if held.hash() == digest else HOLDS_OTHER

    def reap(self, bytes object_key not None, uint64_t digest, actors=None):
        """Delete a record, or drop the context's entries of *actors*, if it still has that digest and no hint.

        Returns whether it was so. Only what an agreed round allows may call this: it takes away what merges keep.

        Raises:
            ValueError: a version of one of the actors survives; nothing was written.
        """
        cdef Local local
        cdef Record held = self.load(object_key, &local)
        cdef Record record
        if held.entry_count == 0 or local.hint_count or held.hash() != digest:
            return False
        if actors is None:
            record = Record.__new__(Record)
            self._delete(object_key)
        else:
            record = held.without(actors)
            self.disk.put(object_key, record.stored(&local))
            self.hot.forget(object_key)
        self.retell(object_key, held, record)
        self.reaped.pop(object_key, None)
        if len(self.reaped) >= REAPED_MAX:
            self.reaped.pop(next(iter(self.reaped)))
        self.reaped[object_key] = (digest, actors)
        return True

    cdef bint was_reaped(self, bytes object_key, Record record) except -1:
        """Whether a round took away exactly that record: the copy of a replica that has not heard of it yet."""
        if not self.reaped:
            return False
        known = self.reaped.get(object_key)
        return known is not None and known[0] == record.hash()

    cdef int _delete(self, bytes object_key) except -1:
        batch = Batch()
        batch.delete(_OBJECTS, object_key)
        self.disk.write(batch)
        return self.hot.forget(object_key)

    def write_round(self, uint64_t number):
        """Write that frames of rounds before *number* are refused; `take_round` once that is on disk."""
        if number > self.round_written:
            batch = Batch()
            batch.put(_META, _ROUND, (<object>number).to_bytes(8, "big"))
            self.disk.write(batch)
            self.round_written = number

    def take_round(self, uint64_t number):
        """Refuse frames of rounds before *number*, which has been written, from now on."""
        if number > self.round:
            self.round = number

    def raise_round(self, uint64_t number):
        """Refuse frames of rounds before *number* from now on; durable with the next flush."""
        self.write_round(number)
        self.take_round(number)
