"""The request path of a node. See ``_ext/coordinator.pyx``."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from dynafast._ext.clock cimport Local, Record, Version
from dynafast._ext.codec cimport Buffer, Cursor
from dynafast._ext.connection cimport Connection, Handler, Options


cdef enum:
    SEATS_MAX = 8                   # replicas of a partition (dynafast.limits.REPLICAS_MAX_COUNT)


cdef class Peer:
    cdef readonly bytes id
    cdef readonly str name
    cdef public int host            # nodes on one machine share it; index, not label
    cdef readonly bint me
    cdef public Connection link     # ready to take requests, or None
    cdef bint reachable(self) noexcept


cdef class View:
    cdef readonly tuple peers
    cdef readonly tuple holders     # per partition the peers that serve it, in preference order
    cdef const uint8_t[::1] masks   # SEATS_MAX per partition: the seats of each holder, as bits
    cdef readonly bytes own         # per partition the seats of this node, as bits
    cdef int shift                  # of a position, to get its partition
    cdef readonly int replicas      # N
    cdef readonly int most          # distinct hosts that a quorum can ask for at all: at most N
    cdef Py_ssize_t locate(self, uint64_t position) noexcept


cdef class Pending:
    cdef Coordinator home
    cdef uint64_t rid
    cdef uint64_t sequence          # of the store: waits for a flush that covers it
    cdef int64_t deadline_ns
    cdef int received(self, Peer who, int op, Cursor *body, Cursor *rest) except -1
    cdef int gone(self, Peer who) except -1
    cdef int expired(self) except -1
    cdef int covered(self) except -1


cdef class Quorum(Pending):
    cdef Connection client
    cdef uint64_t client_id
    cdef bint forwarded
    cdef bytes key
    cdef tuple holders
    cdef int need
    cdef uint8_t expected[SEATS_MAX]    # seats that an asked replica has in our view; 0: not asked, or it has answered
    cdef uint8_t stated[SEATS_MAX]      # seats that a replica stated with its answer
    cdef int answers
    cdef int synced
    cdef int place(self, Peer who) noexcept
    cdef int have(self) noexcept
    cdef int could(self) noexcept
    cdef int _count(self, const uint8_t *masks) noexcept
    cdef int answered(self, int place, uint8_t seats) except -1
    cdef int refuse(self, str code, str message, object details) except -1
    cdef int receipt(self, Buffer out) except -1
    cdef int failed(self, Peer who) except -1
    cdef int weigh(self) except -1
    cdef int conclude(self) except -1
    cdef int give_up(self) except -1
    cdef int finish(self) except -1


cdef class Get(Quorum):
    cdef Record found
    cdef int body(self, Buffer out) except -1


cdef class Put(Quorum):
    cdef Record record
    cdef Record told                # of an overwrite: what replicas have that it does not cover
    cdef bint beaten                # whether that is newer than what was written
    cdef Version version            # the one written
    cdef object value               # keeps the bytes of `version` alive
    cdef Options options
    cdef int rounds
    cdef int compare(self, Record theirs) except -1
    cdef int body(self, Buffer out) except -1
    cdef int again(self) except -1


cdef class Relay(Pending):
    cdef Connection client
    cdef uint64_t client_id
    cdef int op
    cdef bytes fields               # encoded, between id and options
    cdef Options options
    cdef int need                   # for messages alone: the replica that coordinates counts
    cdef list left                  # replicas not yet asked, best last
    cdef Peer asked
    cdef bint reachable_left(self) except -1
    cdef int begin(self) except -1
    cdef int fail(self, str code, str message, object details) except -1


cdef class Acknowledgement(Pending):
    cdef Connection peer
    cdef uint64_t peer_id
    cdef uint8_t seats
    cdef bytes record               # encoded, for the overwriting coordinator; or None


cdef class Coordinator(Handler):
    cdef readonly View view
    cdef object disk                # the store
    cdef object node
    cdef object random64
    cdef bytes cluster
    cdef uint64_t boot
    cdef int read_quorum
    cdef int write_quorum
    cdef bint group
    cdef public bint draining
    cdef dict pending
    cdef dict wheel                 # deadline bucket -> request ids, packed
    cdef object waiting             # deque of Pending, by sequence
    cdef list dirty
    cdef Buffer scratch
    cdef uint64_t next_rid
    cdef readonly int64_t now_ns
    cdef readonly int64_t wall_ms
    cdef uint64_t clock             # hybrid logical time
    cdef uint64_t clock_saved       # no time above it is given out before a larger one is saved
    cdef Peer me
    cdef uint64_t tick_clock(self) except? 0
    cdef int observe(self, uint64_t time) noexcept
    cdef int enlist(self, Pending request, int64_t timeout_ms) except -1
    cdef int await_flush(self, Pending request) except -1
    cdef Record load(self, bytes object_key, Local *local)
    cdef int start(self, Quorum request, Connection conn, uint64_t id, bytes key, Py_ssize_t partition, int need) except -1
    cdef int check_reachable(self, Quorum request) except -1
    cdef int write(self, Put put, bytes object_key, Record seen, bint again) except -1
    cdef int _choose_dot(self, Put put, Record held, Record seen, const Local *local) except -1
    cdef int _check_limits(self, Put put, Record held, Record seen) except -1
    cdef int restart(self, Put put) except -1
    cdef int replicate(self, Put put) except -1
    cdef bint _takes(self, Connection conn, uint64_t id) except -1
    cdef int _read(self, Get get, bytes object_key, int timeout_ms) except -1
    cdef int _fetch_from_replicas(self, Get get, bint held) except -1
    cdef Record _merge(self, bytes object_key, Record incoming)
    cdef int acknowledge(self, Acknowledgement answer, bint synced) except -1
    cdef int forward(
        self, Connection conn, uint64_t id, int op, bytes fields, Py_ssize_t partition, const Options *options
    ) except -1
