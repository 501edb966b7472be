"""Merkle trees of partitions. See ``_ext/merkle.pyx``."""

from libc.stdint cimport uint8_t, uint64_t


cdef class MerkleTree:
    cdef uint64_t *nodes             # owned, `size` long; 0 is the root, the children of i are 16*i+1 ..
    cdef uint8_t *dirty              # owned, one per inner node; a dirty node has only dirty ancestors
    cdef Py_ssize_t inner            # inner nodes: the leaves begin at nodes[inner]
    cdef Py_ssize_t size             # inner nodes and leaves
    cdef readonly Py_ssize_t leaves
    cdef readonly int depth          # of the leaves; the root's is 0

    # For the request path: no checks, no Python. `leaf` comes from `slot`, `partition_bits` is in 0..16.
    cdef Py_ssize_t slot(self, uint64_t position, int partition_bits) noexcept
    cdef void update(self, Py_ssize_t leaf, uint64_t old, uint64_t new) noexcept
    cdef uint64_t fresh(self, Py_ssize_t node) noexcept
