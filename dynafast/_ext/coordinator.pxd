"""The request path of a node. See ``_ext/coordinator.pyx``."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from dynafast._ext.clock cimport Local, Record, Version
from dynafast._ext.codec cimport Buffer, Cursor
from dynafast._ext.connection cimport Connection, Handler, Options, Outcome
from dynafast._ext.replica cimport Replica
from dynafast._ext.view cimport Peer, View


cdef enum:
    SLOTS_USUAL = 4                 # three replicas, and one more
    SLOTS_MAX = 32                  # nodes that one request asks: holders, extras, those that stand in, rerouted ones
    SAMPLES_MAX = 4096              # durations of requests kept until somebody takes them


cdef enum State:
    ASKED = 1
    DONE = 2
    FAILED = 3


cdef struct Slot:                   # one node that a request asks
    int state
    int host
    int target                      # index of the slot that it stands in for; -1: none
    bint extra                      # a target without a seat: gets the write, and is not waited for
    bint kept                       # DONE: stored as a hint, or looked up as one that stands in
    bint synced                     # DONE: on disk, fsynced
    bint covered                    # not DONE, but a stand-in or a hint makes up for it
    uint8_t expected                # seats by our view; of a stand-in those of its target
    uint8_t stated                  # seats stated with the answer
    uint64_t digest                 # of the record answered to a get; 0: none
    int64_t sent_ns


cdef class Pending(Outcome):          # an outcome too, since a class has but one base: `Quorum` becomes one
    cdef Coordinator home
    cdef uint64_t rid
    cdef uint64_t sequence          # of the store: waits for a flush that covers it
    cdef int64_t deadline_ns
    cdef bytes object_key
    cdef Record held                # what was there before `written`
    cdef Record written             # staged; None: nothing is
    cdef Py_ssize_t parked_bytes    # of what it wants to write, while it waits for the disk
    cdef int received(self, Peer who, int op, Cursor *body, Cursor *rest) except -1
    cdef int gone(self, Peer who) except -1
    cdef int suspected(self, Peer who) except -1
    cdef int expired(self) except -1
    cdef int covered(self) except -1
    cdef int accepted(self) except -1
    cdef int undo(self) except -1
    cdef int rejected(self, object error) except -1
    cdef int arrived(self, object error) except -1


cdef class Quorum(Pending):
    cdef Connection client
    cdef uint64_t client_id
    cdef bint forwarded
    cdef bint strict                # seats alone count: sloppy=false
    cdef bint replied
    cdef bytes key
    cdef Py_ssize_t partition
    cdef int wanted                 # distinct seats, as asked for
    cdef int need                   # distinct seats on distinct hosts: `wanted`, or as many hosts as there are
    cdef int wanted_primaries       # of `wanted`: how many must not be stood in for
    cdef int primaries              # of `need`, likewise
    cdef int hosts                  # that serve the partition, as our view has it
    cdef int united                 # distinct seats on whatever hosts, as `seats` counted last
    cdef int64_t started_ns
    cdef list peers                 # of the slots
    cdef Slot *slots                # `usual`, or owned; freed in __dealloc__
    cdef Slot[SLOTS_USUAL] usual
    cdef int count
    cdef int make_room(self) except -1
    cdef int place(self, Peer who) noexcept
    cdef int enter(self, Peer who, uint8_t expected, int target, bint extra) except -2
    cdef int stand_in(self, int place) except -2
    cdef int count_nodes(self, const uint8_t *masks, const int *hosts, bint asked) noexcept
    cdef int seats(self, bint primaries, bint asked, bint synced) noexcept
    cdef bint enough(self, bint primaries, bint asked) noexcept
    cdef bint counted(self, int place) noexcept
    cdef bint waits(self) noexcept
    cdef bint met(self) noexcept
    cdef bint hopeless(self) noexcept
    cdef int weigh(self) except -1
    cdef int fail(self, int place) except -1
    cdef int ask(self, int place) except -1
    cdef int make_up(self, int place) except -1
    cdef int reroute(self) except -1
    cdef int conclude(self) except -1
    cdef int give_up(self) except -1
    cdef int settle(self) except -1
    cdef int finish(self) except -1
    cdef int reply(self) except -1
    cdef int refuse(self, str code, str message, object details) except -1
    cdef int receipt(self, Buffer out) except -1


cdef class Get(Quorum):
    cdef Record found
    cdef Record asked_with          # what the digest that was sent stands for; None: none was sent
    cdef uint64_t digest            # of it; 0: none
    cdef uint64_t round             # the least of what was merged
    cdef bint spread                # the other replicas have been asked
    cdef int count_own(self, Record record) except -1
    cdef int conclude_alone(self) except -1
    cdef int ask_all(self) except -1
    cdef int repair(self) except -1


cdef class Put(Quorum):
    cdef Record record
    cdef Record told                # of an overwrite: what replicas have that it does not cover
    cdef Version version            # the one written
    cdef object value               # keeps the bytes of `version` alive
    cdef Options options
    cdef uint64_t round             # of the record when it was read
    cdef int rounds                 # of an overwrite
    cdef int64_t patience_ms        # how long it may take once it is written
    cdef int compare(self, Record theirs) except -1
    cdef int again(self) except -1
    cdef int vote(self, bint synced) except -1
    cdef bint synced_enough(self, bint asked) noexcept
    cdef int most(self, int asked) noexcept
    cdef int send(self, int place, Record record) except -1
    cdef int take_owners(self, object owners) except -1


cdef class Lone(Pending):
    cdef Connection client
    cdef uint64_t client_id
    cdef bint forwarded
    cdef bint give
    cdef bint flush                 # it waits for one
    cdef bint synced
    cdef int wanted                 # seats of this node, all that are asked for
    cdef bytes key
    cdef Py_ssize_t partition
    cdef Record record
    cdef Version version            # the one written; its value belongs to `record`
    cdef int64_t started_ns
    cdef int64_t patience_ms
    cdef int conclude(self, bint synced) except -1


cdef class Relay(Pending):
    cdef Connection client
    cdef uint64_t client_id
    cdef int op
    cdef bytes key
    cdef object value               # of a put
    cdef bytes context
    cdef uint8_t[16] write_id
    cdef bytes fields               # encoded, between id and options
    cdef Options options
    cdef int need                   # for messages alone: the replica that coordinates counts
    cdef list left                  # replicas not yet asked, best last
    cdef list asked                 # those whose answer may still come
    cdef int64_t started_ns
    cdef int next(self) except -1
    cdef int begin(self) except -1
    cdef int take_over(self) except -1
    cdef int lost(self, Peer who) except -1
    cdef int fail(self, str code, str message, object details) except -1


cdef class Parked(Pending):
    cdef Connection conn
    cdef uint64_t id
    cdef bytes key
    cdef int begin(self) except -1


cdef class Acknowledgement(Pending):
    cdef Connection peer
    cdef uint64_t peer_id
    cdef uint8_t seats
    cdef bint kept
    cdef bint flush                 # it waits for one
    cdef object owners              # encoded, or None
    cdef bytes record               # encoded, for the overwriting coordinator; or None


cdef class Home(Handler):
    cdef readonly Replica replica
    cdef object node
    cdef object disk
    cdef dict pending
    cdef dict wheel                 # deadline bucket -> request ids, packed
    cdef list staged                # Pendings whose writes wait for the next `commit`
    cdef Py_ssize_t staged_bytes
    cdef Buffer last_rids           # of the wheel: where the last one went, to `last_bucket`; None: look it up
    cdef int64_t last_bucket
    cdef dict reads                 # object key -> list of Pendings that wait until its record has been read
    cdef object unread              # deque of those of its keys that nobody reads yet
    cdef Py_ssize_t parked          # how many Pendings that are
    cdef Py_ssize_t parked_bytes    # of what they want to write
    cdef object waiting             # deque of Pending, by sequence
    cdef list dirty
    cdef Buffer scratch
    cdef uint64_t next_rid
    cdef readonly int64_t now_ns
    cdef readonly int64_t wall_ms
    cdef uint64_t clock             # hybrid logical time
    cdef uint64_t clock_saved       # no time above it is given out before a larger one is saved
    cdef double[SAMPLES_MAX] samples
    cdef int sample_count
    cdef uint64_t tick_clock(self) except? 0
    cdef int observe(self, uint64_t time) noexcept
    cdef int sample(self, int64_t took_ns) noexcept
    cdef int enlist(self, Pending request, int64_t timeout_ms) except -1
    cdef int remind(self, Pending request, int64_t when_ns) except -1
    cdef int await_flush(self, Pending request) except -1
    cdef int stage(self, Pending request) except -1
    cdef int bound_staged(self) except -1
    cpdef int commit(self) except -1
    cdef Record glance(self, bytes object_key, Local *local)
    cdef Record glance_staged(self, bytes object_key, Local *local)
    cdef int check_parked(self, Py_ssize_t size) except -1
    cdef int await_read(self, Pending request) except -1
    cdef int park(
        self, Parked request, Connection conn, uint64_t id, bytes key, bytes object_key, Py_ssize_t size, int timeout_ms
    ) except -1


cdef class Coordinator(Home):
    cdef readonly View view
    cdef object random64
    cdef object plants
    cdef bint planted
    cdef uint64_t seal              # of contexts
    cdef Record unseen              # what a client has seen that brings no context
    cdef uint64_t boot
    cdef int read_quorum
    cdef int write_quorum
    cdef bint group
    cdef public bint draining       # it ends, and takes no new requests
    cdef public bint starting       # it has not heard yet whether it is what its folder says, and takes none either
    cdef list stale                 # (put, slot, round number, since): frames that were refused as of an old round
    cdef Peer me
    cdef int64_t relayed            # gets passed on
    cdef int64_t hedged             # of them, asked of a second replica because the first was slow
    cdef int start(
        self, Quorum request, Connection conn, uint64_t id, bytes key, uint64_t position, int need, int primaries,
        bint strict
    ) except -1
    cdef int check_reachable(self, Quorum request) except -1
    cdef int begin_put(
        self, Connection conn, uint64_t id, bytes key, object value, bytes context, const uint8_t *write_id,
        const Options *options,
    ) except -1
    cdef int park_put(
        self, Connection conn, uint64_t id, bytes key, bytes object_key, object value, bytes context,
        const uint8_t *write_id, const Options *options,
    ) except -1
    cdef int write(self, Put put, Record held, Local *local, Record seen, bint again) except -1
    cdef Record succeed(
        self, bytes key, Version *version, Record held, Record seen, bint overwrite, Local *local
    )
    cdef int _choose_dot(
        self, bytes key, Version *version, Record held, Record seen, const Local *local
    ) except -1
    cdef int _check_limits(self, Py_ssize_t size, Record held, Record seen) except -1
    cdef int replicate(self, Put put) except -1
    cdef bint _refuse_early(self, Connection conn, uint64_t id) except -1
    cdef bint _takes(self, Connection conn, uint64_t id) except -1
    cdef int _read(self, Get get, int timeout_ms) except -1
    cdef int acknowledge(self, Acknowledgement answer, bint synced) except -1
    cdef Relay forward(
        self, Connection conn, uint64_t id, int op, bytes key, Py_ssize_t partition, const Options *options
    )
    cdef int coordinate_get(
        self, Connection conn, uint64_t id, bytes key, uint64_t position, const Options *options
    ) except -1
    cdef int coordinate_put(
        self, Connection conn, uint64_t id, bytes key, uint64_t position, object value, bytes context,
        const uint8_t *write_id, const Options *options,
    ) except -1
    cdef int wanted_alone(self, Py_ssize_t partition, const Options *options) noexcept
    cdef int put_alone(
        self, Connection conn, uint64_t id, bytes key, uint64_t position, object value, bytes context,
        const uint8_t *write_id, const Options *options, int wanted,
    ) except -1
    cdef int keep_hint(self, Put put, Peer target) except -1
    cdef int retry_stale(self) except -1
