"""A bounded cache of the records that are read most, decoded, so that a hot key costs no disk, checksum or parsing.

Source: S3-FIFO (Yang et al., SOSP 2023). What is new enters a small queue; what is not used again before it reaches
the end of that is dropped, so that a scan pushes nothing else out. What is used again, or was dropped only lately,
goes to the main queue, which gives each entry as many rounds as it was used.

Beside it, *guests*: records that are being read in the background. A key that is kept or forgotten meanwhile has been
written, so its guest is turned away: what comes from the disk may be older. One that has arrived is found like any
other record, kept or not, until those that waited for it have seen it.

May not: read or write a store; know whether what it holds is still true. Its owner says so.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memset

from dynafast._ext.codec cimport load_be

cimport cython

cdef enum:
    OVERHEAD = 600                  # bytes of an entry beside its key and values, as measured
    GHOSTS = 1 << 16
    SMALL_SHARE = 10                # the small queue gets one part in so many
    LARGE_SHARE = 16                # a record larger than one part in so many is not kept
    USES_MAX = 3


cdef inline uint64_t _print(bytes key) noexcept:
    """Return what stands for a key among the ghosts: object keys begin with a hash."""
    return load_be(<const uint8_t *>PyBytes_AS_STRING(key), 8) | 1


cdef inline void _append(Queue *queue, Hot hot) noexcept:
    hot.older = queue.newest
    hot.newer = NULL
    if queue.newest == NULL:
        queue.oldest = <void *>hot
    else:
        (<Hot>queue.newest).newer = <void *>hot
    queue.newest = <void *>hot
    queue.size += hot.size


cdef inline void _unlink(Queue *queue, Hot hot) noexcept:
    if hot.older == NULL:
        queue.oldest = hot.newer
    else:
        (<Hot>hot.older).newer = hot.newer
    if hot.newer == NULL:
        queue.newest = hot.older
    else:
        (<Hot>hot.newer).older = hot.older
    queue.size -= hot.size


@cython.final
@cython.no_gc                       # it refers to bytes and a record alone: a collector would walk all for nothing
cdef class Hot:
    pass


cdef class HotRecords:
    """At most about *capacity* bytes of records, by object key; keys have at least 8 bytes."""

    def __init__(self, Py_ssize_t capacity):
        if capacity < 0:
            raise ValueError(f"capacity must be at least 0 bytes, got {capacity}")
        self.capacity = capacity
        self.index = {}
        self.guests = {}

    def __cinit__(self):
        self.ghosts = <uint64_t *>PyMem_Calloc(GHOSTS, sizeof(uint64_t))
        if self.ghosts == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.ghosts)

    @property
    def size(self):
        """Bytes in use."""
        return self.small.size + self.main.size

    def __len__(self):
        """Return the number of records."""
        return len(self.index)

    cdef Hot find(self, bytes key):
        """Return the entry of a key and count the use, or None."""
        cdef Hot hot = self.index.get(key)
        if hot is None:
            return self.guest(key) if self.guests else None
        if hot.uses < USES_MAX:
            hot.uses += 1
        return hot

    cdef Hot guest(self, bytes key):
        """Return the guest that has arrived under a key, or None."""
        cdef Hot hot = self.guests.get(key)
        return None if hot is None or hot.record is None else hot

    cdef int expect(self, bytes key, uint32_t epoch) except -1:
        """A key is being read from now on; its partition has that epoch."""
        cdef Hot hot = Hot.__new__(Hot)
        hot.epoch = epoch
        self.guests[key] = hot
        return 0

    cdef Hot expected(self, bytes key):
        """Return the guest to fill in with what was read, or None: it was written meanwhile."""
        return self.guests.get(key)

    cdef int arrive(self, bytes key, Record record, const Local *local, uint32_t epoch, bint keep) except -1:
        """What was read is there; *keep* it too, else what is kept is no longer true."""
        cdef Hot hot = Hot.__new__(Hot)
        if keep:
            self.keep(key, record, local, epoch)
        else:
            self.forget(key)
        hot.record = record
        hot.local = local[0]
        hot.epoch = epoch
        self.guests[key] = hot
        return 0

    cdef int depart(self, bytes key) except -1:
        """Nobody waits for a key any more."""
        self.guests.pop(key, None)
        return 0

    cdef int keep(self, bytes key, Record record, const Local *local, uint32_t epoch) except -1:
        """Keep a record, in the place of the one there may be."""
        cdef Hot hot = self.index.get(key)
        cdef uint64_t known
        cdef Py_ssize_t size = OVERHEAD + PyBytes_GET_SIZE(key) + record.value_bytes()
        size += record.entry_count * sizeof(record.entries[0]) + record.dot_count * sizeof(record.dots[0])
        if self.guests:
            self.guests.pop(key, None)
        if size > self.capacity // LARGE_SHARE:
            return self.forget(key)
        if hot is None:
            hot = Hot.__new__(Hot)
            hot.key = key
            known = _print(key)
            if self.ghosts[(known >> 1) & (GHOSTS - 1)] == known:
                hot.settled = True
            self.index[key] = hot
        else:
            _unlink(&self.main if hot.settled else &self.small, hot)
            if hot.uses < USES_MAX:
                hot.uses += 1
        hot.record = record
        hot.local = local[0]
        hot.epoch = epoch
        hot.size = size
        _append(&self.main if hot.settled else &self.small, hot)
        return self.shrink()

    cdef int forget(self, bytes key) except -1:
        """Drop a key, if it is there."""
        cdef Hot hot = self.index.pop(key, None)
        if self.guests:
            self.guests.pop(key, None)
        if hot is not None:
            _unlink(&self.main if hot.settled else &self.small, hot)
        return 0

    cdef int shrink(self) except -1:
        """Drop entries until the rest fits."""
        cdef Hot hot
        cdef uint64_t known
        while self.small.size + self.main.size > self.capacity:
            if self.small.oldest != NULL and (
                self.small.size > self.capacity // SMALL_SHARE or self.main.oldest == NULL
            ):
                hot = <Hot>self.small.oldest
                _unlink(&self.small, hot)
                if hot.uses > 0:
                    hot.uses = 0
                    hot.settled = True
                    _append(&self.main, hot)
                    continue
                known = _print(hot.key)
                self.ghosts[(known >> 1) & (GHOSTS - 1)] = known
            else:
                hot = <Hot>self.main.oldest
                _unlink(&self.main, hot)
                if hot.uses > 0:
                    hot.uses -= 1
                    _append(&self.main, hot)
                    continue
            del self.index[hot.key]
        return 0

    # ---- for Python

    def get(self, bytes key not None):
        """Return the record of a key, and count the use; None: it is not kept."""
        cdef Hot hot = self.find(key)
        return None if hot is None else hot.record

    def put(self, bytes key not None, Record record not None):
        """Keep a record."""
        cdef Local local
        memset(&local, 0, sizeof(Local))
        self.keep(key, record, &local, 0)

    def drop(self, bytes key not None):
        """Drop a key, if it is there."""
        self.forget(key)
