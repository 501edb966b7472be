"""What a node keeps. See ``_ext/replica.pyx``."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dynafast._ext.clock cimport Local, Record
from dynafast._ext.codec cimport Buffer
from dynafast._ext.hot cimport Hot, HotRecords
from dynafast._ext.merkle cimport MerkleTree


cdef enum Mode:
    NONE = 0                        # nothing: a record counts only while it is kept for others, as a hint
    PULLED = 1                      # a target without a seat: takes every write, and pulls what is there already
    SEATED = 2                      # serves at least one seat
    GIVEN = 3                       # gave its seats away, and keeps its records until all seats have them


cdef class Replica:
    cdef object disk
    cdef dict staged                # of the store: object key -> what it is to have there, sealed
    cdef Buffer scratch
    cdef object plants
    cdef readonly HotRecords hot             # what the store has too, and no longer true where the partition's epoch is another
    cdef uint32_t *epochs           # per partition how often it was cleared; owned, freed in __dealloc__
    cdef readonly int partitions
    cdef int bits                   # log2 of partitions
    cdef bytearray own              # per partition the seats served, as bits
    cdef bytearray given            # per partition the mode it has without a seat
    cdef bytearray modes            # what follows from the two
    cdef list trees                 # per partition a MerkleTree, or None
    cdef list cursors               # per partition: None, or up to where (object key) its tree has been built
    cdef object unbuilt             # deque of partitions to build, or at the start to clean
    cdef readonly uint64_t round
    cdef uint64_t round_written     # at least as high: it counts once it is on disk
    cdef readonly dict hinted       # target -> [number of hints, bytes]
    cdef readonly uint64_t hint_bytes_max
    cdef readonly dict reaped       # object key -> (digest, actors or None)
    cdef readonly set damaged       # object keys whose record cannot be read
    cdef readonly set broken        # partitions of which a range cannot be read
    cdef Py_ssize_t partition_of(self, bytes object_key) noexcept
    cdef uint8_t mode_at(self, Py_ssize_t partition) noexcept
    cdef Record load(self, bytes object_key, Local *local)
    cdef Record glance(self, bytes object_key, Local *local)
    cdef Record counted(self, Hot hot, Py_ssize_t partition, Local *local)
    cdef Record load_cold(self, bytes object_key, Py_ssize_t partition, Local *local)
    cdef Record decoded(self, bytes object_key, Py_ssize_t partition, bytes data, Local *local)
    cdef int expect(self, bytes object_key) except -1
    cdef object arrive(self, bytes object_key, object data)
    cdef int depart(self, bytes object_key) except -1
    cdef int keep(
        self, bytes object_key, Record held, Record record, Local *local, uint64_t target, bint stage
    ) except -1
    cdef bytes sealed(self, bytes object_key, Record record, const Local *local)
    cdef int undo(self, bytes object_key, Record held, Record record) except -1
    cdef int retell(self, bytes object_key, Record held, Record record) except -1
    cdef int _end_hint(self, bytes target, bytes object_key, Record held, Local *local, object others) except -1
    cdef bint was_reaped(self, bytes object_key, Record record) except -1
    cdef int _delete(self, bytes object_key) except -1
    cdef int damage(self, bytes object_key) except -1
    cdef int _build(self, Py_ssize_t partition, int limit) except -1
    cdef int _clean(self, Py_ssize_t partition, int limit) except -1
