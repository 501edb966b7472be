"""Merkle trees of partitions: what two replicas compare to find the few places where they differ.

One tree covers one partition. Its leaves are equal segments of the partition, in the order of positions; a
leaf is the sum, modulo 2**64, of the hashes of the records in its segment, so a write changes it in O(1) and
in any order. Sixteen nodes have one parent; parents are computed when somebody asks for them, not at a write.

The definition, from which another program computes the same bytes (all arithmetic modulo 2**64)::

    mix(x):    x ^= x >> 33;  x *= 0xFF51AFD7ED558CCD;
               x ^= x >> 33;  x *= 0xC4CEB9FE1A85EC53;  x ^= x >> 33
    parent(c): the sum of mix(c[i] ^ (i + 1) * 0x9E3779B97F4A7C15) over the children c[0] .. c[15]

One child that changes always changes its parent. A sum, and no chain of mixes, since a processor works on several
terms at once. The hashes tell differing replicas apart; they keep out no forger: members of a cluster trust each
other. This module may know neither records nor stores: what is hashed, and which records belong to the partition, is
for the caller to say. Source: Dynamo (SOSP 2007), section 4.7.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.number cimport PyNumber_Index
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memset

from dynafast._ext.codec cimport load_be, store_be
from dynafast.errors import PeerProtocolError

cdef extern from "Python.h":
    bint PyLong_CheckExact(object number) noexcept
    # The largest number, and an exception set, when it does not fit.
    unsigned long PyLong_AsUnsignedLong(object number) noexcept
    unsigned long long PyLong_AsUnsignedLongLong(object number) noexcept
    void PyErr_Clear() noexcept

cdef enum:
    FAN_OUT = 16
    FAN_OUT_BITS = 4
    HASH_SIZE = 8
    PARTITION_BITS_MAX = 16  # 65,536 partitions at most

cdef uint64_t U64_MAX = 0xFFFFFFFFFFFFFFFF


cdef inline uint64_t _mix(uint64_t x) noexcept nogil:
    """Return MurmurHash3's finalizer: a bijection in which each bit of *x* reaches all bits of the result."""
    x ^= x >> 33
    x *= <uint64_t>0xFF51AFD7ED558CCD
    x ^= x >> 33
    x *= <uint64_t>0xC4CEB9FE1A85EC53
    x ^= x >> 33
    return x


cdef inline uint64_t _checked(object value, str name, uint64_t top) except? -1:
    """Return *value* if it is in 0..*top*; otherwise ValueError names it (C would say OverflowError)."""
    cdef uint64_t number
    if PyLong_CheckExact(value):
        if sizeof(unsigned long) == sizeof(uint64_t):
            number = PyLong_AsUnsignedLong(value)       # much the faster of the two, where it is wide enough
        else:
            number = PyLong_AsUnsignedLongLong(value)
        if number <= top and number != U64_MAX:
            return number
        PyErr_Clear()
    return _checked_slowly(value, name, top)


cdef uint64_t _checked_slowly(object value, str name, uint64_t top) except? -1:
    cdef object number = PyNumber_Index(value)  # a plain conversion would cut 1.5 down to 1
    if not 0 <= number <= top:
        raise ValueError(f"{name} must be in 0..{top}, got {value}")
    return <uint64_t>number


@cython.final
cdef class MerkleTree:
    """The tree of one partition; a new one is the tree of an empty partition.

    Args:
        leaves: 16, 256 or 4096.

    Attributes:
        leaves: as given.
        depth: the level of the leaves: 1, 2 or 3. Level 0 is the root, level d has ``16**d`` nodes.

    Raises:
        ValueError: a number, here and below, is out of its range; TypeError if it is no integer.

    Cost: about 8.6 bytes per leaf. Not thread-safe without the interpreter's lock.
    """

    def __cinit__(self, leaves):
        if leaves not in (16, 256, 4096):
            raise ValueError(f"leaves must be 16, 256 or 4096, got {leaves}")
        self.leaves = leaves
        self.depth = 0
        while 1 << (FAN_OUT_BITS * self.depth) < self.leaves:
            self.depth += 1
        self.inner = (self.leaves - 1) // (FAN_OUT - 1)
        self.size = self.inner + self.leaves
        self.nodes = <uint64_t *>PyMem_Calloc(self.size, sizeof(uint64_t))
        self.dirty = <uint8_t *>PyMem_Calloc(self.inner, sizeof(uint8_t))
        if self.nodes == NULL or self.dirty == NULL:
            raise MemoryError
        memset(self.dirty, 1, self.inner)

    def __dealloc__(self):
        PyMem_Free(self.nodes)
        PyMem_Free(self.dirty)

    cdef Py_ssize_t slot(self, uint64_t position, int partition_bits) noexcept:
        return <Py_ssize_t>((position << partition_bits) >> (64 - FAN_OUT_BITS * self.depth))

    cdef void update(self, Py_ssize_t leaf, uint64_t old, uint64_t new) noexcept:
        cdef Py_ssize_t node = self.inner + leaf
        self.nodes[node] += new - old
        while node > 0:
            node = (node - 1) // FAN_OUT
            if self.dirty[node]:
                return  # so are all its ancestors: a busy tree pays one step per write
            self.dirty[node] = 1

    cdef uint64_t fresh(self, Py_ssize_t node) noexcept:
        """Return the hash of *node*, computing what is dirty below it and nothing else."""
        cdef Py_ssize_t first, child
        cdef uint64_t hashed = 0, place = 0
        if node < self.inner and self.dirty[node]:
            first = FAN_OUT * node + 1
            if first < self.inner:
                for child in range(first, first + FAN_OUT):
                    if self.dirty[child]:
                        self.fresh(child)
            for child in range(first, first + FAN_OUT):
                place += <uint64_t>0x9E3779B97F4A7C15
                hashed += _mix(self.nodes[child] ^ place)
            self.nodes[node] = hashed
            self.dirty[node] = 0
        return self.nodes[node]

    def leaf_of(self, position, partition_bits):
        """Return the leaf of a position: the bits after the partition's own, as many as number the leaves.

        Args:
            position: of the key, 64 bits.
            partition_bits: log2 of the number of partitions, 0..16; the partition is that many top bits.
        """
        return self.slot(
            _checked(position, "position", U64_MAX),
            <int>_checked(partition_bits, "partition_bits", PARTITION_BITS_MAX),
        )

    @cython.binding(False)          # a call costs as much as the work
    def replace(self, leaf, old, new):
        """Take the hash *old* out of a leaf and put *new* in; 0 stands for no record.

        The tree does not know what is in a leaf: taking out what was never put in makes it differ from a true
        one until it is loaded or built anew.

        Cost: O(1) while the leaf's parent has not been read since its last change, else O(depth).
        """
        self.update(
            <Py_ssize_t>_checked(leaf, "leaf", self.leaves - 1),
            _checked(old, "old", U64_MAX),
            _checked(new, "new", U64_MAX),
        )

    @cython.binding(False)
    def root(self):
        """Return the hash of the partition: equal for equal contents, whatever the order of the writes."""
        return self.fresh(0)

    def level(self, depth, first, count):
        """Return hashes of one level, 8 bytes each, big-endian, in the order of positions.

        The children of node i are the nodes 16*i .. 16*i + 15 of the next level.

        Args:
            depth: 0 (the root) .. `depth` (the leaves).
            first: index of the first node in its level.
            count: how many; all of them are in the level. 0 gives no bytes.
        """
        cdef int at = <int>_checked(depth, "depth", self.depth)
        cdef Py_ssize_t width = <Py_ssize_t>1 << (FAN_OUT_BITS * at)
        cdef Py_ssize_t begin = <Py_ssize_t>_checked(first, "first", width)
        cdef Py_ssize_t many = <Py_ssize_t>_checked(count, "count", width - begin)
        cdef bytes hashes = PyBytes_FromStringAndSize(NULL, HASH_SIZE * many)
        cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(hashes)
        cdef Py_ssize_t i
        begin += (width - 1) // (FAN_OUT - 1)  # the nodes of the levels above come first
        for i in range(many):
            store_be(out + HASH_SIZE * i, self.fresh(begin + i), HASH_SIZE)
        return hashes

    def dump(self):
        """Return the leaves, ``8 * leaves`` bytes: all that `load` needs."""
        return self.level(self.depth, 0, self.leaves)

    def load(self, bytes data not None):
        """Replace the whole tree by one that `dump` returned.

        Raises:
            ValueError: *data* is not ``8 * leaves`` bytes; the tree is as it was.
        """
        cdef const uint8_t *source = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef Py_ssize_t i
        if PyBytes_GET_SIZE(data) != HASH_SIZE * self.leaves:
            raise ValueError(f"a dump has {HASH_SIZE * self.leaves} bytes here, got {len(data)}")
        for i in range(self.leaves):
            self.nodes[self.inner + i] = load_be(source + HASH_SIZE * i, HASH_SIZE)
        memset(self.dirty, 1, self.inner)


def differing(bytes ours not None, bytes theirs not None):
    """Return the indices of the hashes that differ, in increasing order.

    Args:
        ours, theirs: the same nodes of two trees, ``8 * n`` bytes; hash i is bytes ``8*i .. 8*i + 8``.

    Raises:
        PeerProtocolError: the lengths differ or are not a multiple of 8.

    Cost: O(n) time, no allocation but the result. Source: Dynamo, section 4.7.
    """
    cdef Py_ssize_t length = PyBytes_GET_SIZE(ours), i
    cdef const char *mine = PyBytes_AS_STRING(ours)
    cdef const char *other = PyBytes_AS_STRING(theirs)
    cdef list found = []
    if PyBytes_GET_SIZE(theirs) != length or length % HASH_SIZE != 0:
        raise PeerProtocolError(f"levels of {length} and {len(theirs)} bytes cannot be compared")
    for i in range(length // HASH_SIZE):
        if memcmp(mine + HASH_SIZE * i, other + HASH_SIZE * i, HASH_SIZE) != 0:
            found.append(i)
    return found
