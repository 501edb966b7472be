"""Who serves which partition, as one node sees it. See ``_ext/view.pyx``."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from dynafast._ext.connection cimport Connection


cdef enum:
    SEATS_MAX = 8                   # replicas of a partition (dynafast.limits.REPLICAS_MAX_COUNT)


cdef class Peer:
    cdef readonly bytes id
    cdef readonly uint64_t number   # the id as an integer
    cdef readonly str name
    cdef public int host            # nodes on one machine share it; index, not label
    cdef readonly bint me
    cdef public Connection link     # ready to take requests, or None
    cdef public bint suspected      # by the failure detector of this node alone
    cdef public int64_t heard_ns    # when anything came over the link last
    cdef public double latency_ns   # of its answers on the request path, smoothed; 0: none yet
    cdef bint reachable(self) noexcept
    cdef int answered(self, int64_t took_ns) noexcept


cdef class View:
    cdef readonly tuple peers
    cdef readonly list holders      # per partition the peers that serve it, in preference order
    cdef readonly list extras       # per partition the targets that serve no seat of it yet
    cdef readonly list orders       # per partition one peer for each host, in preference order
    cdef bytearray masks            # SEATS_MAX per partition: the seats of each holder, as bits
    cdef readonly bytearray own     # per partition the seats of this node, as bits
    cdef int shift                  # of a position, to get its partition
    cdef readonly int replicas      # N
    cdef public int most            # distinct hosts that a quorum can ask for at all: at most N
    cdef Py_ssize_t locate(self, uint64_t position) noexcept
    cdef uint8_t mine(self, Py_ssize_t partition) noexcept
    cdef const uint8_t *row(self, Py_ssize_t partition) noexcept


cdef int count_seats(const uint8_t *masks, const int *hosts, int count) noexcept
