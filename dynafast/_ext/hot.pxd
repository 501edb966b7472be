"""The records that are read most, decoded. See ``_ext/hot.pyx``."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from dynafast._ext.clock cimport Local, Record


cdef class Hot:
    """One record in the cache, linked into its queue."""
    cdef bytes key
    cdef Record record
    cdef Local local
    cdef uint32_t epoch             # of its partition when it was kept
    cdef Py_ssize_t size
    cdef int uses                   # since it was kept or moved, at most 3
    cdef bint settled               # in the main queue
    cdef void *older                # borrowed: the index owns
    cdef void *newer


cdef struct Queue:
    void *oldest
    void *newest
    Py_ssize_t size                 # bytes


cdef class HotRecords:
    cdef readonly Py_ssize_t capacity
    cdef dict index                 # key -> Hot
    cdef Queue small
    cdef Queue main
    cdef uint64_t *ghosts           # by low bits: what was dropped after one use lately; owned, freed in __dealloc__
    cdef dict guests                # key -> Hot, of keys that are being read: without a record until that is there
    cdef Hot find(self, bytes key)
    cdef int expect(self, bytes key, uint32_t epoch) except -1
    cdef Hot expected(self, bytes key)
    cdef Hot guest(self, bytes key)
    cdef int arrive(self, bytes key, Record record, const Local *local, uint32_t epoch, bint keep) except -1
    cdef int depart(self, bytes key) except -1
    cdef int keep(self, bytes key, Record record, const Local *local, uint32_t epoch) except -1
    cdef int forget(self, bytes key) except -1
    cdef int shrink(self) except -1
