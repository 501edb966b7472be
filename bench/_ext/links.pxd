from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from bench._ext.system cimport CLOCK_MONOTONIC, clock_gettime, timespec
from bench._ext.wire cimport Codec, Settings, Wire


cdef struct Conn:
    Wire wire
    int fd  # -1: there is none
    bint open  # connected, and to be used
    bint dirty  # has output that was not tried to be sent yet
    bint watched  # for room to send
    int node
    int64_t retry_ns
    int32_t *queue  # of an ordered protocol: the slots that wait, from `first` to `last`; a ring
    uint32_t first, last


cdef struct Address:
    uint8_t data[32]
    uint32_t size
    int family


cdef inline int64_t clock() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef class Links:
    cdef Codec codec
    cdef Settings settings
    cdef object kept  # what the settings point into
    cdef Address *addresses
    cdef Conn *conns
    cdef int node_count, conn_count
    cdef int epoll
    cdef readonly int connected
    cdef readonly uint64_t lost_connections

    # For whoever uses them:
    cdef void opened(self, int index) noexcept nogil
    cdef void arrived(self, int index) noexcept nogil
    cdef void lost(self, int index, int64_t now, const uint8_t *why, size_t size) noexcept nogil

    cdef void open_missing(self, int64_t now) noexcept nogil
    cdef void open_one(self, int index, int64_t now) noexcept nogil
    cdef void drop(self, Conn *conn) noexcept nogil
    cdef void lose(self, int index, int64_t now, const char *why) noexcept nogil
    cdef void event(self, int index) noexcept nogil
    cdef void flush(self) noexcept nogil
    cdef void send_output(self, int index) noexcept nogil
    cdef int set_address(self, Address *address, bytes host, int port) except -1
