# Requests that have not begun: the record of their key is on the disk alone, and is being read.


cdef class Parked(Pending):
    """A request that begins once the record of its key has been read. Nothing of it has been done yet.

    One whose connection has ended or is given up meanwhile never begins, as what was not read from it yet: what another
    node sent before a round must not take effect after it.
    """

    cdef int arrived(self, object error) except -1:
        self.home.pending.pop(self.rid, None)
        if self.conn.closing:
            return 0
        if error is not None:
            return _fail_store(self.conn, self.id, error)
        return self.begin()

    cdef int begin(self) except -1:
        return 0

    cdef int expired(self) except -1:
        self.home.pending.pop(self.rid, None)
        self.conn.fail(self.id, "overloaded", "the disk has not answered in time, and nothing was done",
                       {"retry_after_ms": RETRY_AFTER_MS})
        return 0


cdef class ParkedPut(Parked):
    """A client's write, or one that another node has passed on."""

    cdef object value
    cdef bytes context
    cdef uint8_t[16] write_id
    cdef Options options

    cdef int begin(self) except -1:
        cdef int64_t left_ms = (self.deadline_ns - self.home.now_ns) // 1_000_000
        self.options.timeout_ms = <int>max(1, left_ms)
        return self.home.begin_put(
            self.conn, self.id, self.key, self.value, self.context, self.write_id, &self.options
        )


cdef class ParkedFetch(Parked):
    """A replica's part of a get."""

    cdef bint has_digest
    cdef uint64_t digest

    cdef int begin(self) except -1:
        return self.home.fetch(self.conn, self.id, self.key, self.has_digest, self.digest)


cdef class ParkedStore(Parked):
    """A replica's part of a put."""

    cdef uint64_t target
    cdef int flags
    cdef uint64_t round
    cdef bytes record

    cdef int begin(self) except -1:
        return self.home.store(self.conn, self.id, self.key, self.target, self.flags, self.round, self.record)
