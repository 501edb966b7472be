"""Dotted version sets: what one key holds. See ``_ext/clock.pyx``."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t

from dynafast._ext.codec cimport Buffer, Cursor


cdef struct Entry:                  # of a context: every dot (actor, n <= counter) has been seen
    uint64_t actor
    uint64_t counter
    uint64_t time                   # of the dot (actor, counter); in no hash


cdef struct Version:
    uint64_t actor
    uint64_t counter
    uint64_t time
    uint8_t id[16]                  # write id, chosen by the client
    const uint8_t *value            # inside `owner`
    Py_ssize_t size                 # -1: tombstone
    PyObject *owner                 # a reference of our own to the bytes object; NULL for a tombstone


cdef enum:
    HINTS_MAX = 16                  # nodes that one record can be kept for


cdef struct Local:                  # the private part of a stored record: never replicated, never hashed
    uint64_t actor                  # of the actor rule
    uint64_t boot
    uint64_t counter                # the last that this node issued for the key under `actor`
    int hint_count
    uint64_t[HINTS_MAX] hints       # ids of the nodes that this record is kept for


cdef enum:
    ENTRIES_USUAL = 2               # that lie inside a record
    DOTS_USUAL = 1


cdef class Record:
    cdef Entry *entries             # sorted by actor, one per actor; `usual_entries`, or owned; NULL: none
    cdef Py_ssize_t entry_count
    cdef Version *dots              # sorted by (actor, counter); every dot is covered by `entries`; likewise
    cdef Py_ssize_t dot_count
    cdef Entry[ENTRIES_USUAL] usual_entries
    cdef Version[DOTS_USUAL] usual_dots
    cdef uint64_t hashed            # 0: not computed yet
    cdef bytes sealed               # the context as a client gets it, once it was asked for
    cdef bytes sealed_key
    cdef uint64_t leaf              # what it adds to its leaf of a Merkle tree, under `leaf_key`
    cdef bytes leaf_key
    cdef int allocate_entries(self, Py_ssize_t count) except -1
    cdef int allocate_dots(self, Py_ssize_t count) except -1
    cdef void keep(self, const Version *version) noexcept
    cdef bint covers(self, uint64_t actor, uint64_t counter) noexcept
    cdef uint64_t counter_of(self, uint64_t actor) noexcept
    cdef const Version *find(self, uint64_t actor, uint64_t counter) noexcept
    cdef const Version *find_write(self, const uint8_t *id) noexcept
    cdef Record merged(self, Record other)
    cdef Record with_put(self, const Version *version, Record seen)
    cdef int relation(self, Record other) except -1
    cdef uint64_t hash(self) except? 0
    cdef uint64_t compute_hash(self) except? 0
    cdef Py_ssize_t live_count(self) except -1
    cdef Py_ssize_t value_bytes(self) noexcept
    cdef uint64_t newest(self) noexcept
    cdef bint first_of_write(self, Py_ssize_t index) noexcept
    cdef int write(self, Buffer out) except -1
    cdef int write_stored(self, Buffer out, const Local *local) except -1
    cdef bytes stored(self, const Local *local)


cdef Record read_record(Cursor *c, bytes owner)
cdef Record decode_record(bytes data)
cdef Record load_stored(bytes data, Local *local)
cdef uint64_t context_seal(bytes cluster) except? 0
cdef bytes close_context(Record record, bytes key, uint64_t seal)
cdef Record read_context(bytes sealed, bytes key, uint64_t seal)
