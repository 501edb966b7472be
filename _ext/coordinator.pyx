"""The request path: coordinates gets, puts and deletes, and serves the replica's side of them.

Source: Dynamo (SOSP 2007), sections 4.3, 4.5, 4.6 and 5: one state machine per client request. Rules that this file
owns:

* Quorums count distinct seats on distinct hosts, as the answering nodes state them (docs/architecture.md). A node that
  stands in counts for the seat of the one it stands in for, once.
* The actor rule: a dot is issued only under an actor whose whole history for the key this node holds.
* Store first: no frame that mentions a dot leaves before the store has accepted it; an acknowledgement that promises
  an fsync leaves only after `flushed` covers it.
* A coordinator sends its whole merged record, never the new version alone, with the round number it read it under.
* What only the disk can tell is read in the background (`await_read`): a get goes on with it, anything else has not
  begun before. A key that some request waits for gets no other answer meanwhile than they: all wait in line.

May not: read a clock, a socket, a file or a random source. Time comes by `at`, randomness by the callable given, bytes
by connections. Nothing here waits.

The state machines of the requests are in ``requests/``, a part of this module: each file owns one kind.
"""

from collections import deque
from contextlib import suppress

from dynafast.errors import (
    BadRequestError,
    CorruptRecordError,
    HintsFullError,
    NotReachedError,
    RefusedError,
    RequestError,
    StoreBusyError,
    StoreError,
    TooLargeError,
    UnavailableError,
    error_for,
)
from dynafast.limits import FRAME_MAX, RECORD_MAX, VERSIONS_MAX_COUNT

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.string cimport memcpy, memset

from dynafast._ext.clock cimport close_context, context_seal, decode_record, read_context
from dynafast._ext.codec cimport (
    ARRAY,
    CBOR_FALSE,
    CBOR_NULL,
    CBOR_TRUE,
    MAP,
    decode_item,
    encode_item,
    put_byte,
    put_bytes,
    put_head,
    put_raw,
    put_text,
    put_uint,
    read_bool,
    read_expect,
    read_null,
    read_uint,
    store_be,
)
from dynafast._ext.connection cimport (
    DURABLE,
    ERROR,
    FETCH,
    FETCHED,
    FOUND,
    GET,
    OK,
    PEER,
    PUT,
    REPAIR,
    REPORT,
    STORE,
    STORED,
    WRITTEN,
)
from dynafast._ext.replica cimport GIVEN, NONE
from dynafast._ext.view cimport SEATS_MAX, count_seats
from dynafast._ext.xxh3 cimport hash_bytes

cdef enum:
    ID_SIZE = 16
    BUCKET_NS = 8_000_000           # deadlines are kept to this: coarse, and cheap
    CLOCK_AHEAD_MS = 1000           # hybrid time is saved this far ahead
    CLOCK_FOLLOW_MS = 60_000        # a clock further ahead than this is not followed
    PENDING_MAX = 32768             # requests under way at one node; more are refused at once
    STAGED_MAX = 256                # writes that are accepted together
    STAGED_BYTES_MAX = 256 * 1024   # of their values
    STALE_MAX = 4096                # frames that wait for a round's number
    PARKED_MAX = 8192               # requests that wait for the disk, those included that have ended meanwhile
    PARKED_BYTES_MAX = 64 * 1024 * 1024     # of what they want to write
    PARKED_MS = 5000                # the requests of other nodes have no deadline of their own
    READ_PATIENCE_NS = 50_000_000   # a get waits so long for its own disk until it asks the other replicas
    RETRY_AFTER_MS = 50
    LINGER_NS = 100_000_000         # a get that is answered waits so long for stragglers, to repair them too
    STALE_WAIT_NS = 200_000_000     # a round that a peer knows of reaches this node by then, or is given up there
    HEDGE_MIN_NS = 2_000_000
    HEDGE_FACTOR = 4                # times the usual latency of a replica, until a second one is asked
    HEDGE_SHARE = 20                # of so many gets passed on, one may be asked twice
    SLOW_FACTOR = 4                 # a replica that is so much slower than the fastest is asked last
    FLAG_SLOPPY = 1                 # of a receipt
    FLAG_FORWARDED = 2
    FLAG_NO_PRIMARY = 4
    STORED_SYNCED = 1               # of STORED
    STORED_KEPT = 2                 # as a hint

cdef Py_ssize_t _RECORD_MAX = RECORD_MAX
cdef Py_ssize_t _VERSIONS_MAX = VERSIONS_MAX_COUNT
cdef Py_ssize_t _DIRECT_MAX = FRAME_MAX // 2

__all__ = ["Coordinator"]

# An error from another coordinator that says: nothing was done here, ask the next one.
_ASK_ANOTHER = frozenset(
    {
        "not-replica", "no-seat", "starting", "stopping", "overloaded", "store-error", "corrupt", "unknown-op",
        "unavailable",
    }
)

include "requests/pending.pxi"
include "requests/home.pxi"
include "requests/quorum.pxi"
include "requests/get.pxi"
include "requests/put.pxi"
include "requests/relay.pxi"
include "requests/parked.pxi"


cdef class Acknowledgement(Pending):
    """A replica's answer to STORE that waits for the flush which makes it true."""

    cdef int accepted(self) except -1:
        if self.flush:
            return self.home.await_flush(self)
        return self.home.acknowledge(self, self.home.group)

    cdef int rejected(self, object error) except -1:
        return _fail_store(self.peer, self.peer_id, error)

    cdef int covered(self) except -1:
        return self.home.acknowledge(self, True)


cdef bytes _object_key(uint64_t position, bytes key):
    """Return ``position (8 bytes, big-endian) + key``, as `dynafast.storage.interface.object_key`."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(key)
    cdef bytes result = PyBytes_FromStringAndSize(NULL, 8 + size)
    cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(result)
    store_be(to, position, 8)
    memcpy(to + 8, PyBytes_AS_STRING(key), size)
    return result


cdef class Coordinator(Home):
    """All requests of one node, as a coordinator and as a replica.

    Args:
        node: is told ``save_clock(time)``, before a hybrid time above the last one saved is used, and
            ``amnesia(key)``, when a client knows a dot of ours that we do not; ``peers`` are all it knows, by id.
        store: a `dynafast.storage.interface.Store`.
        replica: what this node keeps in it.
        view: who serves what.
        me: this node.
        cluster: the cluster's id; keys the checksums of contexts.
        boot: random, new at every start (the actor rule).
        random64: returns a random integer in 0..2**64-1.
        read_quorum, write_quorum: R and W for requests that do not say.
        group: acknowledge after a flush (durability ``group``), else at once.
        clock: the hybrid time to start after.
        plants: names of safeguards to leave out, for the canaries of the simulator.
    """

    def __init__(
        self, *, node, store, Replica replica not None, View view not None, Peer me not None, bytes cluster not None,
        uint64_t boot, random64, int read_quorum, int write_quorum, bint group, uint64_t clock, plants=frozenset(),
    ):
        self.node = node
        self.disk = store
        self.replica = replica
        self.view = view
        self.me = me
        self.seal = context_seal(cluster)
        self.boot = boot
        self.random64 = random64
        self.read_quorum = read_quorum
        self.write_quorum = write_quorum
        self.group = group
        self.clock = self.clock_saved = clock
        self.plants = plants
        self.planted = bool(plants)
        self.pending = {}
        self.wheel = {}
        self.waiting = deque()
        self.staged = []
        self.reads = {}
        self.unread = deque()
        self.stale = []
        self.dirty = []
        self.scratch = Buffer()
        self.unseen = Record()
        self.next_rid = 1

    def sweep(self):
        """See `Home`; and send again what an old round number held up."""
        Home.sweep(self)
        if self.stale:
            self.retry_stale()

    def busy_keys(self):
        """Return the object keys of all requests under way."""
        keys = set()
        for request in self.pending.values():
            if isinstance(request, (Quorum, Lone, Parked)):
                keys.add((<Pending>request).object_key)
            elif isinstance(request, Relay):
                key = (<Relay>request).key
                keys.add(_object_key(hash_bytes(key, 0), key))
        return keys

    # ---- the handler: what connections call

    cdef int get(self, Connection conn, uint64_t id, bytes key, const Options *options) except -1:
        cdef uint64_t position = hash_bytes(key, 0)
        cdef Py_ssize_t partition = self.view.locate(position)
        self.observe(options.time)
        if not self._takes(conn, id):
            return 0
        cdef Relay relay
        if self.view.mine(partition):
            return self.coordinate_get(conn, id, key, position, options)
        relay = self.forward(conn, id, GET, key, partition, options)
        if relay is None:
            return 0
        self.scratch.size = 0
        put_bytes(self.scratch, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        relay.fields = self.scratch.take()
        self.relayed += 1
        relay.begin()
        return 1

    cdef int coordinate_get(
        self, Connection conn, uint64_t id, bytes key, uint64_t position, const Options *options
    ) except -1:
        cdef Get get = Get.__new__(Get)
        try:
            self.start(
                get, conn, id, key, position, options.need or self.read_quorum, options.primaries,
                options.strict,
            )
            return self._read(get, options.timeout_ms)
        except RequestError as error:
            conn.fail(id, error.code, str(error), error.details)
        return 0

    cdef int _read(self, Get get, int timeout_ms) except -1:
        """Count our own record, and ask the other replicas unless that is enough. Returns 1 if the disk is asked first.

        With too much waiting for the disk already, our own record is no answer, and the others may be enough.
        """
        cdef int mine = get.place(self.me)
        cdef Local local
        cdef Record record
        get.found = Record.__new__(Record)
        get.round = self.replica.round
        try:
            record = self.glance(get.object_key, &local)
            if record is None:
                self.check_parked(0)
        except StoreError:
            get.slots[mine].state = FAILED  # unreadable is no answer, never "not found"
        else:
            if record is not None:
                get.count_own(record)
                if get.met():
                    get.conclude_alone()
                    return 0
        self.check_reachable(get)
        self.enlist(get, timeout_ms)
        if get.slots[mine].state == ASKED:
            self.await_read(get)
            self.remind(get, self.now_ns + READ_PATIENCE_NS)
            return 1
        get.ask_all()
        return 0

    cdef int put(
        self, Connection conn, uint64_t id, bytes key, object value, bytes context, const uint8_t *write_id,
        const Options *options,
    ) except -1:
        self.observe(options.time)
        if not self._takes(conn, id):
            return 0
        return self.begin_put(conn, id, key, value, context, write_id, options)

    cdef int begin_put(
        self, Connection conn, uint64_t id, bytes key, object value, bytes context, const uint8_t *write_id,
        const Options *options,
    ) except -1:
        cdef uint64_t position = hash_bytes(key, 0)
        cdef Py_ssize_t partition = self.view.locate(position)
        cdef Relay relay
        if self.view.mine(partition):
            return self.coordinate_put(conn, id, key, position, value, context, write_id, options)
        relay = self.forward(conn, id, PUT, key, partition, options)
        if relay is None:
            return 0
        relay.value = value
        relay.context = context
        memcpy(relay.write_id, write_id, ID_SIZE)
        relay.fields = _put_fields(key, value, context, write_id)
        relay.begin()
        return 1

    cdef int coordinate_put(
        self, Connection conn, uint64_t id, bytes key, uint64_t position, object value, bytes context,
        const uint8_t *write_id, const Options *options,
    ) except -1:
        cdef int wanted = self.wanted_alone(self.view.locate(position), options)
        cdef Put put
        cdef Record seen, held
        cdef Local local
        if wanted:
            return self.put_alone(conn, id, key, position, value, context, write_id, options, wanted)
        put = Put.__new__(Put)
        put.options = options[0]
        put.value = value
        _fill_version(&put.version, value, write_id)
        try:
            if options.durable > self.view.replicas:
                raise _too_many(options.durable, self.view.replicas)
            self.start(
                put, conn, id, key, position, options.need or self.write_quorum, options.primaries,
                options.strict,
            )
            self.check_reachable(put)
            seen = self.unseen if context is None else read_context(context, key, self.seal)
            held = self.glance_staged(put.object_key, &local)
            if held is None:
                return self.park_put(conn, id, key, put.object_key, value, context, write_id, options)
            self.write(put, held, &local, seen, False)
        except RequestError as error:
            conn.fail(id, error.code, str(error), error.details)
            return 0
        except StoreError as error:
            return _fail_store(conn, id, error)
        put.patience_ms = options.timeout_ms
        self.bound_staged()
        return 0

    cdef int park_put(
        self, Connection conn, uint64_t id, bytes key, bytes object_key, object value, bytes context,
        const uint8_t *write_id, const Options *options,
    ) except -1:
        """Put a put off, which then begins anew. Returns 1."""
        cdef ParkedPut parked = ParkedPut.__new__(ParkedPut)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(key)
        size += 0 if value is None else PyBytes_GET_SIZE(value)
        size += 0 if context is None else PyBytes_GET_SIZE(context)
        parked.value = value
        parked.context = context
        memcpy(parked.write_id, write_id, ID_SIZE)
        parked.options = options[0]
        self.park(parked, conn, id, key, object_key, size, options.timeout_ms)
        return 1

    cdef int wanted_alone(self, Py_ssize_t partition, const Options *options) noexcept:
        """Return how many seats a put needs here if this node alone decides of it; else 0."""
        cdef tuple holders = self.view.holders[partition]
        cdef int wanted = options.need or self.write_quorum
        if len(holders) != 1 or holders[0] is not self.me or self.planted or self.view.extras[partition]:
            return 0
        wanted = max(wanted, options.primaries, options.durable)
        return wanted if wanted <= _count_bits(self.view.mine(partition)) else 0

    cdef int put_alone(
        self, Connection conn, uint64_t id, bytes key, uint64_t position, object value, bytes context,
        const uint8_t *write_id, const Options *options, int wanted,
    ) except -1:
        cdef Lone put = Lone.__new__(Lone)
        cdef Record seen = self.unseen
        cdef Local local
        cdef const Version *earlier
        put.client = conn
        put.client_id = id
        put.forwarded = conn.role_code == PEER
        put.key = key
        put.object_key = _object_key(position, key)
        put.partition = self.view.locate(position)
        put.wanted = wanted
        put.give = options.give
        put.flush = self.group or options.durable
        put.started_ns = self.now_ns
        put.patience_ms = options.timeout_ms
        _fill_version(&put.version, value, write_id)
        try:
            if context is not None:
                seen = read_context(context, key, self.seal)
            put.held = self.glance_staged(put.object_key, &local)
            if put.held is None:
                return self.park_put(conn, id, key, put.object_key, value, context, write_id, options)
            earlier = put.held.find_write(write_id)
            if earlier != NULL:             # a retry: nothing new
                put.version = earlier[0]
                put.record = put.held
            else:
                put.record = self.succeed(key, &put.version, put.held, seen, options.overwrite, &local)
                if self.replica.keep(put.object_key, put.held, put.record, &local, 0, True):
                    put.written = put.record
        except RequestError as error:
            conn.fail(id, error.code, str(error), error.details)
            return 0
        except StoreError as error:
            return _fail_store(conn, id, error)
        self.stage(put)
        self.bound_staged()
        return 0

    cdef int fetch(self, Connection conn, uint64_t id, bytes key, bint has_digest, uint64_t digest) except -1:
        cdef uint64_t position = hash_bytes(key, 0)
        cdef bytes object_key = _object_key(position, key)
        cdef ParkedFetch parked
        cdef Local local
        cdef Record record
        cdef Buffer out
        if self.starting:
            self._refuse_early(conn, id)
            return 0
        try:
            record = self.glance(object_key, &local)
            if record is None:
                parked = ParkedFetch.__new__(ParkedFetch)
                parked.has_digest = has_digest
                parked.digest = digest
                return self.park(parked, conn, id, key, object_key, 0, PARKED_MS)
        except StoreError as error:
            return _fail_store(conn, id, error)
        out = self.scratch
        out.size = 0
        put_head(out, ARRAY, 5)
        put_uint(out, FETCHED)
        put_uint(out, id)
        put_uint(out, self.view.mine(self.view.locate(position)))
        put_uint(out, self.replica.round)
        if record.entry_count == 0:
            put_byte(out, CBOR_NULL)
        elif has_digest and record.hash() == digest:
            put_byte(out, CBOR_TRUE)
        else:
            record.write(out)
        conn.settle()
        return conn.send_message(id, out.data, out.size)

    cdef int store(
        self, Connection conn, uint64_t id, bytes key, uint64_t target, int flags, uint64_t round, bytes record
    ) except -1:
        cdef uint64_t position = hash_bytes(key, 0)
        cdef Py_ssize_t partition = self.view.locate(position)
        cdef uint8_t seats = self.view.mine(partition)
        cdef uint8_t mode = self.replica.mode_at(partition)
        cdef uint64_t asked_target = target
        cdef bytes object_key
        cdef Record incoming, held, merged
        cdef Local local
        cdef Acknowledgement answer
        cdef ParkedStore parked
        cdef tuple holders
        cdef bint kept = False, known = False
        cdef int i, relation
        if self.starting:
            self._refuse_early(conn, id)
            return 0
        if round < self.replica.round and not (self.planted and "late-frame" in self.plants):
            conn.fail(id, "stale-round", f"the record was read before round {self.replica.round}: read it again",
                      {"round": self.replica.round})
            return 0
        if flags & REPAIR and mode in (NONE, GIVEN):
            conn.fail(id, "no-seat", "this node serves no seat of the key's partition")
            return 0
        if target == self.me.number:
            target = 0
        if not target and mode in (NONE, GIVEN):    # a client's write, by an old view: kept for one that serves it
            holders = self.view.holders[partition]
            for i in range(len(holders)):
                if not (<Peer>holders[i]).me and (target == 0 or (<Peer>holders[i]).reachable()):
                    target = (<Peer>holders[i]).number
                    if (<Peer>holders[i]).reachable():
                        break
            if not target:
                conn.fail(id, "no-seat", "this node serves no seat of the key's partition, and knows nobody who does")
                return 0
        object_key = _object_key(position, key)
        answer = Acknowledgement.__new__(Acknowledgement)
        try:
            incoming = decode_record(record)
            self.observe(incoming.newest())
            if flags & REPAIR and self.replica.was_reaped(object_key, incoming):
                conn.fail(id, "reaped", "an agreed round has taken this record away")
                return 0
            held = self.glance_staged(object_key, &local)
            if held is None:
                parked = ParkedStore.__new__(ParkedStore)
                parked.target = asked_target
                parked.flags = flags
                parked.round = round
                parked.record = record
                return self.park(parked, conn, id, key, object_key, PyBytes_GET_SIZE(record), PARKED_MS)
            for i in range(local.hint_count):
                known = known or local.hints[i] == target
            kept = target != 0
            if kept and self.planted and "drop-hint" in self.plants:
                target = 0
            relation = held.relation(incoming) if held.entry_count else 2
            if relation & 1:
                merged = held
                if target and not known:
                    self.replica.keep(object_key, held, held, &local, target, False)
            else:
                merged = incoming if relation & 2 else held.merged(incoming)
                if self.planted and "lww-merge" in self.plants:
                    merged = _newest_only(merged)
                if self.replica.keep(object_key, held, merged, &local, target, True):
                    answer.object_key, answer.held, answer.written = object_key, held, merged
        except ValueError as error:
            conn.fail(id, "bad-request", f"STORE without a record: {error}")
            return 0
        except StoreError as error:
            return _fail_store(conn, id, error)
        answer.peer = conn
        answer.peer_id = id
        answer.seats = seats
        answer.kept = kept
        if seats == 0 and not flags & REPAIR:
            answer.owners = [[(<Peer>peer).id, mask] for peer, mask in self.view.seats(partition)]
        elif flags & REPORT and merged.dot_count > 1:
            answer.record = merged.encode()
        answer.flush = (self.group or flags & DURABLE) and not (self.planted and "ack-before-flush" in self.plants)
        self.stage(answer)
        return self.bound_staged()

    cdef int acknowledge(self, Acknowledgement answer, bint synced) except -1:
        cdef Connection conn = answer.peer
        cdef Buffer out = self.scratch
        out.size = 0
        put_head(out, ARRAY, 6)
        put_uint(out, STORED)
        put_uint(out, answer.peer_id)
        put_uint(out, answer.seats)
        put_uint(out, (STORED_SYNCED if synced else 0) | (STORED_KEPT if answer.kept else 0))
        if answer.owners is None:
            put_byte(out, CBOR_NULL)
        else:
            encode_item(out, answer.owners, 0)
        if answer.record is None:
            put_byte(out, CBOR_NULL)
        else:
            put_raw(out, PyBytes_AS_STRING(answer.record), PyBytes_GET_SIZE(answer.record))
        conn.settle()
        return conn.send_message(answer.peer_id, out.data, out.size)

    # ---- steps of a request

    cdef bint _takes(self, Connection conn, uint64_t id) except -1:
        if self.draining:
            conn.fail(id, "stopping", "this node is shutting down: ask another")
            return False
        if self.starting:
            return self._refuse_early(conn, id)
        if len(self.pending) >= PENDING_MAX:
            conn.fail(id, "overloaded", f"{len(self.pending)} requests are under way at this node",
                      {"retry_after_ms": RETRY_AFTER_MS})
            return False
        return True

    cdef bint _refuse_early(self, Connection conn, uint64_t id) except -1:
        conn.fail(id, "starting", "this node has just started, and has heard of no other yet: ask another")
        return False

    cdef int start(
        self, Quorum request, Connection conn, uint64_t id, bytes key, uint64_t position, int need, int primaries,
        bint strict
    ) except -1:
        """Fill in whom a request asks: the holders, targets without a seat, and this node if it is none of them."""
        cdef View view = self.view
        cdef Py_ssize_t partition = view.locate(position)
        cdef const uint8_t *masks = view.row(partition)
        cdef tuple holders = view.holders[partition]
        cdef int i, j
        if need > view.replicas or primaries > view.replicas:
            raise _too_many(max(need, primaries), view.replicas)
        request.home = self
        request.client = conn
        request.client_id = id
        request.forwarded = conn.role_code == PEER
        request.strict = strict
        request.key = key
        request.object_key = _object_key(position, key)
        request.partition = partition
        request.hosts = 0
        for i in range(len(holders)):
            for j in range(i):
                if (<Peer>holders[j]).host == (<Peer>holders[i]).host:
                    break
            else:
                request.hosts += 1
        request.wanted = need
        request.need = need if need < request.hosts else request.hosts
        request.wanted_primaries = primaries
        request.primaries = primaries if primaries < request.hosts else request.hosts
        request.peers = []
        request.count = 0
        if request.started_ns == 0:
            request.started_ns = self.now_ns
        for i in range(len(holders)):
            request.enter(holders[i], masks[i], -1, False)
        if view.mine(partition) == 0:
            if request.count == 0:
                raise UnavailableError("nobody is known to serve the key", {"needed": need, "reachable": 0})
            request.enter(self.me, request.slots[0].expected, 0, False)
        if isinstance(request, Put):
            for peer in view.extras[partition]:
                if peer is not self.me and (<Peer>peer).reachable():
                    request.enter(peer, 0, -1, True)
        return 0

    cdef int check_reachable(self, Quorum request) except -1:
        """Let others stand in for the holders that cannot be asked; refuse, with nothing done, if that is too few."""
        cdef int i, j, holders = request.count
        cdef bint stood
        for i in range(holders):
            if request.slots[i].target < 0 and request.slots[i].state == FAILED and not (<Peer>request.peers[i]).me:
                stood = False
                for j in range(request.count):
                    stood = stood or request.slots[j].target == i
                request.slots[i].covered = stood or request.stand_in(i) >= 0
        if request.hopeless():
            what, needed, could = request.lacking(True)
            raise UnavailableError(
                f"needed {needed} {what}, reachable {could}", {"needed": needed, "reachable": could},
            )
        return 0

    cdef int write(self, Put put, Record held, Local *local, Record seen, bint again) except -1:
        """Issue the dot and store the new record, or find that this write id is stored already."""
        cdef const Version *earlier = NULL
        cdef int mine = put.place(self.me)
        cdef uint64_t target = 0
        if put.slots[mine].target >= 0:
            target = (<Peer>put.peers[put.slots[mine].target]).number
        put.round = self.replica.round
        put.written = None
        if not again:
            earlier = held.find_write(put.version.id)
        if earlier != NULL:                 # a retry: nothing new, but it may still lack replicas
            put.version = earlier[0]
            put.record = held
            if target:
                self.replica.merge(put.object_key, held, (<Peer>put.peers[put.slots[mine].target]).id)
            return self.stage(put)
        put.record = self.succeed(put.key, &put.version, held, seen, put.options.overwrite, local)
        put.held = held
        if self.planted:
            self._planted_write(put)
        if self.replica.keep(put.object_key, held, put.record, local, target, True):
            put.written = put.record
        return self.stage(put)

    def _planted_write(self, Put put):
        """Canaries of the write: a context cut short, frames that go out before the store has accepted the batch."""
        cdef int i
        if "trim-early" in self.plants and put.record.entry_count > 3:
            live = {version[0] for version in put.record.versions}
            entries = sorted(put.record.context, key=_entry_time, reverse=True)
            put.record = Record(
                [entry for i, entry in enumerate(entries) if i < 3 or entry[0] in live], put.record.versions
            )
        if "send-before-write" in self.plants:
            self.enlist(put, put.options.timeout_ms)
            for i in range(put.count):
                put.ask(i)

    cdef Record succeed(
        self, bytes key, Version *version, Record held, Record seen, bint overwrite, Local *local
    ):
        """Give a new version its dot; return the record that has it, whose private part goes to *local*."""
        if overwrite:
            seen = seen.merged(held) if seen.entry_count else held
        self._check_limits(version.size, held, seen)
        self._choose_dot(key, version, held, seen, local)
        local.actor = version.actor
        local.boot = self.boot
        local.counter = version.counter
        return held.with_put(version, seen)

    cdef int _choose_dot(
        self, bytes key, Version *version, Record held, Record seen, const Local *local
    ) except -1:
        """The actor rule: our actor for this key only if this boot issued its last dot, and we still know it."""
        cdef uint64_t actor = local.actor
        cdef bint ours = local.boot == self.boot and actor and held.counter_of(actor) == local.counter
        if self.planted and "counter-from-context" in self.plants:
            version.actor = self.me.number
            version.counter = max(held.counter_of(self.me.number), seen.counter_of(self.me.number)) + 1
            version.time = self.tick_clock()
            return 0
        if ours and seen.counter_of(actor) > local.counter:
            ours = False
            self.node.amnesia(key)
        while not ours and (actor == 0 or held.counter_of(actor) or seen.counter_of(actor) or actor == local.actor):
            actor = self.random64()
        version.actor = actor
        version.counter = local.counter + 1 if ours else 1
        version.time = self.tick_clock()
        return 0

    cdef int _check_limits(self, Py_ssize_t size, Record held, Record seen) except -1:
        """Client writes alone are limited: never repair or replication."""
        cdef Py_ssize_t i, live = 0, total = 0
        for i in range(held.dot_count):
            if held.dots[i].size >= 0 and not seen.covers(held.dots[i].actor, held.dots[i].counter):
                live += 1
                total += held.dots[i].size
        if live >= _VERSIONS_MAX:
            raise RefusedError(
                f"the key has {live} versions that this write does not replace: get it, resolve, and put with the"
                " context", {"versions": live}, code="too-many-versions",
            )
        if size >= 0 and total + size > _RECORD_MAX:
            raise TooLargeError(
                f"the versions of the key would have {total + size} bytes together, at most {_RECORD_MAX}:"
                " get it, resolve, and put with the context", {"bytes": total + size},
            )
        return 0

    cdef int replicate(self, Put put) except -1:
        """Send the whole merged record to the others; our own vote waits for the flush that covers it."""
        cdef Buffer out = self.scratch
        cdef Peer peer
        cdef Vote vote
        cdef Record sent = put.record
        cdef int i, flags = (REPORT if put.options.overwrite else 0) | (DURABLE if put.options.durable else 0)
        cdef bint flush = (self.group or put.options.durable) and not (
            self.planted and "ack-before-flush" in self.plants
        )
        if put.count == 1 and not flush:    # nobody to wait for
            return put.vote(self.group)
        if put.rid == 0 or self.pending.get(put.rid) is not put:
            self.enlist(put, put.patience_ms)
        if self.planted and "new-version-only" in self.plants:
            sent = _alone(put.record, put.version.actor, put.version.counter)
        out.size = 0
        _put_store(out, put.rid, put.key, 0, flags, put.round, sent)
        for i in range(put.count):
            peer = put.peers[i]
            if put.slots[i].state == ASKED and put.slots[i].target < 0 and not put.slots[i].extra and not peer.me:
                put.slots[i].sent_ns = self.now_ns
                peer.link.send_message(put.rid, out.data, out.size)
        for i in range(put.count):
            if put.slots[i].state == ASKED and (put.slots[i].target >= 0 or put.slots[i].extra):
                put.send(i, sent)
            elif put.slots[i].state == FAILED:
                put.make_up(i)
        if flush:
            vote = Vote.__new__(Vote)
            vote.put = put
            vote.rounds = put.rounds
            return self.await_flush(vote)
        return put.vote(self.group)

    cdef int keep_hint(self, Put put, Peer target) except -1:
        """Keep the record for a holder that has not got it; not counted."""
        if target.me or (self.planted and "drop-hint" in self.plants):
            return 0
        try:
            self.replica.add_hint(put.object_key, target.id)
        except StoreError:
            pass                            # full, or the disk refuses: the exchange of trees brings it
        return 0

    cdef int retry_stale(self) except -1:
        """Send again, read anew, what was refused as of an old round: once this node knows of the round too."""
        cdef list stale = self.stale
        cdef Put put
        cdef Record held
        cdef Local local
        self.stale = []
        for request, place, number, since in stale:
            put = request
            if self.pending.get(put.rid) is not put or put.slots[<int>place].state != ASKED:
                continue
            if self.replica.round < number:
                if self.now_ns - since >= STALE_WAIT_NS:
                    self.node.follow_round(number)  # nobody asked this node to agree
                self.stale.append((put, place, number, since))
                continue
            try:
                held = self.replica.load(put.object_key, &local)
            except StoreError:
                continue                    # it ends at its deadline
            if held.entry_count:
                put.record = held
            put.round = self.replica.round
            put.send(place, put.record)
        return 0

    cdef Relay forward(
        self, Connection conn, uint64_t id, int op, bytes key, Py_ssize_t partition, const Options *options
    ):
        """Return what is to pass a request on to a replica, or None: it was passed on already, so refused."""
        cdef Relay relay
        if conn.role_code == PEER:
            conn.fail(id, "not-replica", "this node is no replica of the key: the asking node's view is old")
            return None
        relay = Relay.__new__(Relay)
        relay.client = conn
        relay.client_id = id
        relay.op = op
        relay.key = key
        relay.options = options[0]
        relay.asked = []
        relay.left = self._by_speed(self.view.holders[partition])
        relay.need = options.need or (self.read_quorum if op == GET else self.write_quorum)
        relay.started_ns = self.now_ns
        if relay.need > self.view.most:
            relay.need = self.view.most
        self.enlist(relay, options.timeout_ms)
        return relay

    def _by_speed(self, tuple holders):
        """Return the holders that can be reached, best last: in preference order, but for those that are slow."""
        cdef double fastest = 0
        cdef Peer peer
        cdef list reachable = []
        for holder in holders:
            peer = holder
            if peer.reachable():
                reachable.append(peer)
                if peer.latency_ns and (fastest == 0 or peer.latency_ns < fastest):
                    fastest = peer.latency_ns
        slow = [peer for peer in reachable if (<Peer>peer).latency_ns > SLOW_FACTOR * fastest]
        return [*slow[::-1], *[peer for peer in reversed(reachable) if peer not in slow]]


cdef object _too_many(int asked, int replicas):
    return BadRequestError(
        f"a quorum of {asked} is more than the {replicas} replicas of this cluster", {"replicas": replicas}
    )


cdef int _fail_store(Connection conn, uint64_t id, object error) except -1:
    """Answer a request that the store refused."""
    if isinstance(error, StoreBusyError):
        conn.fail(id, "overloaded", str(error), {"retry_after_ms": RETRY_AFTER_MS})
    elif isinstance(error, CorruptRecordError):
        conn.fail(id, "corrupt", str(error))
    elif isinstance(error, HintsFullError):
        conn.fail(id, "hints-full", str(error))
    else:
        conn.fail(id, "store-error", str(error))
    return 0


def _entry_time(entry):
    return entry[2]


cdef Record _newest_only(Record record):
    """A canary: last writer wins in a merge."""
    versions = sorted(record.versions, key=_entry_time, reverse=True)
    return Record(record.context, versions[:1])


cdef Record _alone(Record record, uint64_t actor, uint64_t counter):
    """A canary: the new version alone, with a context of its own."""
    versions = [version for version in record.versions if version[0] == actor and version[1] == counter]
    return Record([(actor, counter, versions[0][2] if versions else 0)], versions)
