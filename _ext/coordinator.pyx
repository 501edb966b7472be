"""The request path: coordinates gets, puts and deletes, and serves the replica's side of them.

Source: Dynamo (SOSP 2007), sections 4.3, 4.5 and 5: one state machine per client request. Rules that this file owns:

* Quorums count distinct seats on distinct hosts, as the answering nodes state them (docs/architecture.md).
* The actor rule: a dot is issued only under an actor whose whole history for the key this node holds.
* Store first: no frame that mentions a dot leaves before the store has accepted it; an acknowledgement that promises
  an fsync leaves only after `flushed` covers it.
* A coordinator sends its whole merged record, never the new version alone.

May not: read a clock, a socket, a file or a random source. Time comes by `at`, randomness by the callable given, bytes
by connections. Nothing here waits.
"""

from collections import deque

from xxhash import xxh3_64_intdigest

from dynafast.errors import (
    BadRequestError,
    CorruptRecordError,
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
from cpython.object cimport PyObject
from libc.string cimport memcpy, memset

from dynafast._ext.clock cimport close_context, decode_record, load_stored, read_context
from dynafast._ext.codec cimport (
    ARRAY,
    CBOR_FALSE,
    CBOR_NULL,
    CBOR_TRUE,
    MAP,
    decode_item,
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
from dynafast._ext.connection cimport ERROR, FETCH, FETCHED, FOUND, GET, OK, PEER, PUT, STORE, STORED, WRITTEN

cdef enum:
    ID_SIZE = 16
    BUCKET_NS = 8_000_000           # deadlines are kept to this: coarse, and cheap
    LINK_BACKLOG_MAX = 64 * 1024 * 1024   # a replica with more unsent is taken for unreachable
    CLOCK_AHEAD_MS = 1000           # hybrid time is saved this far ahead
    CLOCK_FOLLOW_MS = 60_000        # a clock further ahead than this is not followed
    PENDING_MAX = 32768             # requests under way at one node; more are refused at once
    ROUNDS_MAX = 8                  # an overwrite that is beaten writes again at most so often
    RETRY_AFTER_MS = 50
    FLAG_FORWARDED = 2

cdef Py_ssize_t _RECORD_MAX = RECORD_MAX
cdef Py_ssize_t _VERSIONS_MAX = VERSIONS_MAX_COUNT
cdef Py_ssize_t _DIRECT_MAX = FRAME_MAX // 2

__all__ = ["Coordinator", "Peer", "View", "distinct_seats"]

# An error from another coordinator that says: nothing was done here, ask the next one.
_ASK_ANOTHER = frozenset(
    {"not-replica", "no-seat", "stopping", "overloaded", "store-error", "corrupt", "unknown-op", "unavailable"}
)


# ---- seats

cdef bint _seat_host(const uint8_t *masks, int host, int *holder, int *visited) noexcept:
    """Kuhn's augmenting step: find a seat for *host*, moving earlier hosts to other seats of theirs if need be."""
    cdef int seat
    for seat in range(SEATS_MAX):
        if masks[host] >> seat & 1 and not visited[0] >> seat & 1:
            visited[0] |= 1 << seat
            if holder[seat] < 0 or _seat_host(masks, holder[seat], holder, visited):
                holder[seat] = host
                return True
    return False


cdef int _distinct_seats(const uint8_t *masks, const int *hosts, int count) noexcept:
    """Return the largest number of distinct seats on distinct hosts: a matching of hosts with seats."""
    cdef uint8_t merged[SEATS_MAX]
    cdef int names[SEATS_MAX]
    cdef int holder[SEATS_MAX]
    cdef int i, j, distinct = 0, total = 0, visited
    for i in range(count):
        if masks[i] == 0:
            continue
        for j in range(distinct):
            if names[j] == hosts[i]:
                merged[j] |= masks[i]
                break
        else:
            names[distinct] = hosts[i]
            merged[distinct] = masks[i]
            distinct += 1
    for i in range(SEATS_MAX):
        holder[i] = -1
    for i in range(distinct):
        visited = 0
        if _seat_host(merged, i, holder, &visited):
            total += 1
    return total


def distinct_seats(answers):
    """Return the largest number of distinct seats on distinct hosts among *answers* ``(host, seats as bits)``.

    At most 8 answers. This is what R and W count (docs/architecture.md, "Seats").
    """
    cdef uint8_t masks[SEATS_MAX]
    cdef int hosts[SEATS_MAX]
    cdef int count = 0
    for host, mask in answers:
        if count == SEATS_MAX:
            raise ValueError(f"at most {SEATS_MAX} answers")
        hosts[count] = host
        masks[count] = mask
        count += 1
    return _distinct_seats(masks, hosts, count)


cdef class Peer:
    """A member as the request path sees it. ``link`` is set while requests can be sent to it."""

    def __init__(self, *, bytes id not None, str name not None, int host, bint me=False):
        self.id = id
        self.name = name
        self.host = host
        self.me = me

    cdef bint reachable(self) noexcept:
        return self.me or (self.link is not None and not self.link.lost and self.link.out.size < LINK_BACKLOG_MAX)


cdef class View:
    """Who serves which partition, as this node sees it; immutable.

    Args:
        peers: all members.
        table: per partition ``[(peer, seats as bits), ...]`` in preference order, at most 8.
        replicas: N.
        most: the number of distinct hosts that quorums may ask for, 1..N.
    """

    def __init__(self, *, peers, table, int replicas, int most):
        cdef bytearray masks = bytearray(SEATS_MAX * len(table))
        cdef bytearray own = bytearray(len(table))
        cdef list holders = []
        if len(table) == 0 or len(table) & (len(table) - 1):
            raise ValueError(f"the number of partitions must be a power of two, got {len(table)}")
        for partition, row in enumerate(table):
            if len(row) > SEATS_MAX:
                raise ValueError(f"partition {partition} has more than {SEATS_MAX} holders")
            holders.append(tuple([peer for peer, _ in row]))
            for place, (peer, seats) in enumerate(row):
                masks[SEATS_MAX * partition + place] = seats
                if peer.me:
                    own[partition] = seats
        self.peers = tuple(peers)
        self.holders = tuple(holders)
        self.masks = bytes(masks)
        self.own = bytes(own)
        self.shift = 64 - (len(table).bit_length() - 1)
        self.replicas = replicas
        self.most = most

    cdef Py_ssize_t locate(self, uint64_t position) noexcept:
        return 0 if self.shift == 64 else <Py_ssize_t>(position >> self.shift)


# ---- requests under way

cdef class Pending:
    """Something that waits for answers of peers, for a flush, or for its deadline."""

    cdef int received(self, Peer who, int op, Cursor *body, Cursor *rest) except -1:
        return 0

    cdef int gone(self, Peer who) except -1:
        return 0

    cdef int expired(self) except -1:
        return 0

    cdef int covered(self) except -1:
        return 0


cdef class Quorum(Pending):
    """A client's request that this node coordinates: counts who answered, with which seats."""

    cdef int place(self, Peer who) noexcept:
        cdef int i
        for i in range(len(self.holders)):
            if self.holders[i] is who:
                return i
        return -1

    cdef int _count(self, const uint8_t *masks) noexcept:
        cdef int hosts[SEATS_MAX]
        cdef int i, n = <int>len(self.holders)
        for i in range(n):
            hosts[i] = (<Peer>self.holders[i]).host
        return _distinct_seats(masks, hosts, n)

    cdef int have(self) noexcept:
        return self._count(self.stated)

    cdef int could(self) noexcept:
        """How many seats there may still be, if all that were asked answer as expected."""
        cdef uint8_t masks[SEATS_MAX]
        cdef int i
        for i in range(SEATS_MAX):
            masks[i] = self.stated[i] | self.expected[i]
        return self._count(masks)

    cdef int answered(self, int place, uint8_t seats) except -1:
        """Count an answer; a second one of the same replica changes nothing."""
        if self.stated[place] == 0 and seats:
            self.stated[place] = seats
            self.answers += 1
        self.expected[place] = 0
        return 0

    cdef int failed(self, Peer who) except -1:
        """A replica cannot answer any more: the result may be certain now."""
        cdef int place = self.place(who)
        if place >= 0 and self.expected[place]:
            self.expected[place] = 0
            self.weigh()
        return 0

    cdef int weigh(self) except -1:
        if self.have() >= self.need:
            return self.conclude()
        if self.could() < self.need:
            return self.give_up()
        return 0

    cdef int conclude(self) except -1:
        return 0

    cdef int give_up(self) except -1:
        return 0

    cdef int finish(self) except -1:
        self.home.pending.pop(self.rid, None)
        return 0

    cdef int gone(self, Peer who) except -1:
        return self.failed(who)

    cdef int refuse(self, str code, str message, object details) except -1:
        self.finish()
        self.client.fail(self.client_id, code, message, details)
        return 0

    cdef int receipt(self, Buffer out) except -1:
        put_head(out, ARRAY, 6)
        put_uint(out, self.need)
        put_uint(out, self.answers)
        put_uint(out, self.answers)         # each answer that counts comes from a seat: a primary
        put_uint(out, 0)
        put_uint(out, self.synced)
        put_uint(out, FLAG_FORWARDED if self.forwarded else 0)
        return 0


cdef int _put_live(Buffer out, Record record) except -1:
    """Append the versions that a client sees: no tombstones, and versions of one write id once."""
    cdef Py_ssize_t i
    cdef Version *dot
    put_head(out, ARRAY, <uint64_t>record.live_count())
    for i in range(record.dot_count):
        dot = &record.dots[i]
        if dot.size < 0 or not record.first_of_write(i):
            continue
        put_head(out, ARRAY, 5)
        put_uint(out, dot.actor)
        put_uint(out, dot.counter)
        put_uint(out, dot.time)
        put_bytes(out, dot.id, ID_SIZE)
        put_bytes(out, dot.value, dot.size)
    return 0


cdef int _put_context(Buffer out, Record record, bytes key, bytes cluster) except -1:
    cdef bytes sealed
    if record.entry_count == 0:
        return put_byte(out, CBOR_NULL)
    sealed = close_context(record, key, cluster)
    return put_bytes(out, PyBytes_AS_STRING(sealed), PyBytes_GET_SIZE(sealed))


cdef class Get(Quorum):
    """One get: merges what R seats answer. Source: Dynamo, sections 4.5 and 5."""

    cdef int received(self, Peer who, int op, Cursor *body, Cursor *rest) except -1:
        cdef uint64_t seats
        cdef bint same
        cdef int place = self.place(who)
        if op != FETCHED or place < 0:
            return self.failed(who)
        if not read_uint(rest, &seats) or seats > 0xFF:
            return self.failed(who)
        if not read_null(rest) and not read_bool(rest, &same):
            self.found = self.found.merged(
                decode_record(PyBytes_FromStringAndSize(<const char *>rest.at, rest.end - rest.at))
            )
        self.answered(place, <uint8_t>seats)
        return self.weigh()

    cdef int conclude(self) except -1:
        cdef Connection client = self.client
        cdef Buffer out
        cdef Py_ssize_t start
        self.finish()
        if client.lost:
            return 0
        if self.found.value_bytes() < _DIRECT_MAX:
            start = client.begin_message(6, FOUND, self.client_id)
            self.body(client.out)
            return client.end_answer(start)
        out = Buffer()
        put_head(out, ARRAY, 6)
        put_uint(out, FOUND)
        put_uint(out, self.client_id)
        self.body(out)
        client.settle()
        return client.send_message(self.client_id, out.data, out.size)

    cdef int body(self, Buffer out) except -1:
        _put_live(out, self.found)
        _put_context(out, self.found, self.key, self.home.cluster)
        self.receipt(out)
        return put_uint(out, self.home.clock)

    cdef int give_up(self) except -1:
        return self.refuse(
            "unavailable", f"needed {self.need} replicas, reachable {self.could()}",
            {"needed": self.need, "reachable": self.could()},
        )

    cdef int expired(self) except -1:
        return self.refuse(
            "timeout", f"needed {self.need} replicas, {self.have()} answered in time",
            {"needed": self.need, "answered": self.have()},
        )


cdef class Put(Quorum):
    """One put or delete, from the local write to W acknowledgements. Source: Dynamo, sections 4.5 and 4.6."""

    cdef int covered(self) except -1:
        """The local write is durable: our own vote counts."""
        cdef int place = self.place(self.home.me)
        if place >= 0 and self.home.pending.get(self.rid) is self:
            self.synced += 1
            self.answered(place, self.expected[place])
            self.weigh()
        return 0

    cdef int received(self, Peer who, int op, Cursor *body, Cursor *rest) except -1:
        cdef uint64_t seats
        cdef bint synced
        cdef int place = self.place(who)
        if op != STORED or place < 0 or not read_uint(rest, &seats) or seats > 0xFF or not read_bool(rest, &synced):
            return self.failed(who)
        if not read_null(rest):
            self.compare(decode_record(PyBytes_FromStringAndSize(<const char *>rest.at, rest.end - rest.at)))
        if self.stated[place] == 0 and synced:
            self.synced += 1
        self.answered(place, <uint8_t>seats)
        return self.weigh()

    cdef int compare(self, Record theirs) except -1:
        """Remember what a replica holds that an overwrite has not covered."""
        cdef Py_ssize_t i
        cdef Version *dot
        for i in range(theirs.dot_count):
            dot = &theirs.dots[i]
            if not self.record.covers(dot.actor, dot.counter):
                self.beaten = self.beaten or dot.time >= self.version.time
                self.told = theirs if self.told is None else self.told.merged(theirs)
        return 0

    cdef int conclude(self) except -1:
        cdef Connection client = self.client
        cdef Py_ssize_t start
        cdef Buffer out
        if self.told is not None and (self.beaten or self.rounds == 0):
            return self.again()
        self.finish()
        if client.lost:
            return 0
        if not self.options.give or self.record.value_bytes() < _DIRECT_MAX:
            start = client.begin_message(8, WRITTEN, self.client_id)
            self.body(client.out)
            return client.end_answer(start)
        out = Buffer()
        put_head(out, ARRAY, 8)
        put_uint(out, WRITTEN)
        put_uint(out, self.client_id)
        self.body(out)
        client.settle()
        return client.send_message(self.client_id, out.data, out.size)

    cdef int body(self, Buffer out) except -1:
        cdef Py_ssize_t live = self.record.live_count()
        put_head(out, ARRAY, 3)
        put_uint(out, self.version.actor)
        put_uint(out, self.version.counter)
        put_uint(out, self.version.time)
        put_uint(out, <uint64_t>live)
        if self.options.give or live == (0 if self.version.size < 0 else 1):
            _put_context(out, self.record, self.key, self.home.cluster)
        else:
            put_byte(out, CBOR_NULL)        # a context that covers siblings nobody was shown would overwrite them
        self.receipt(out)
        put_uint(out, self.home.clock)
        if self.options.give:
            return _put_live(out, self.record)
        return put_byte(out, CBOR_NULL)

    cdef int again(self) except -1:
        """Cover what was told, and write once more.

        Until nothing newer is told, since an answer of ok says that this value wins; once for what is older, so that
        a coordinator that had missed writes leaves no sibling.
        """
        cdef Coordinator home = self.home
        cdef bytes object_key = _object_key(xxh3_64_intdigest(self.key), self.key)
        cdef Record seen = self.told.merged(self.record)
        self.rounds += 1
        if self.rounds >= ROUNDS_MAX:
            return self.give_up()
        home.observe(self.told.newest())
        self.told = None
        self.beaten = False
        self.finish()
        try:
            home.restart(self)
            home.write(self, object_key, seen, True)
        except (StoreError, RequestError) as error:
            return self.refuse("uncertain", f"the overwrite was beaten and could not be repeated: {error}", {})
        return home.replicate(self)

    cdef int give_up(self) except -1:
        """Too few replicas are left; some may have the write, and this node has."""
        return self.refuse(
            "uncertain", f"write not confirmed: needed {self.need} replicas, {self.have()} answered",
            {"needed": self.need, "answered": self.have()},
        )

    cdef int expired(self) except -1:
        return self.refuse(
            "timeout", f"write not confirmed in time: needed {self.need} replicas, {self.have()} answered",
            {"needed": self.need, "answered": self.have()},
        )


cdef class Relay(Pending):
    """A request for a key of which this node is no replica: asked once of the best replica, answered as that answers.

    A get goes on to the next replica when one fails; a put only when the replica surely did nothing.
    """

    cdef int begin(self) except -1:
        """Send to the next replica that can be reached."""
        cdef Buffer out = self.home.scratch
        cdef int64_t left_ms = (self.deadline_ns - self.home.now_ns) // 1_000_000
        cdef int pairs = 1
        while self.left:
            self.asked = self.left.pop()
            if self.asked.reachable() and left_ms > 0:
                break
        else:
            self.asked = None
            return self.fail("unavailable", f"needed {self.need} replicas, reachable 0",
                             {"needed": self.need, "reachable": 0})
        out.size = 0
        put_head(out, ARRAY, 4 if self.op == GET else 7)
        put_uint(out, self.op)
        put_uint(out, self.rid)
        put_raw(out, PyBytes_AS_STRING(self.fields), PyBytes_GET_SIZE(self.fields))
        pairs += (self.options.need > 0) + (self.options.time > 0) + self.options.overwrite + self.options.give
        put_head(out, MAP, pairs)
        put_text(out, b"timeout", 7)
        put_uint(out, left_ms)
        if self.options.need:
            put_text(out, b"r" if self.op == GET else b"w", 1)
            put_uint(out, self.options.need)
        if self.options.time:
            put_text(out, b"time", 4)
            put_uint(out, self.options.time)
        if self.options.overwrite:
            put_text(out, b"overwrite", 9)
            put_byte(out, CBOR_TRUE)
        if self.options.give:
            put_text(out, b"return", 6)
            put_byte(out, CBOR_TRUE)
        return self.asked.link.send_message(self.rid, out.data, out.size)

    cdef int received(self, Peer who, int op, Cursor *body, Cursor *rest) except -1:
        cdef Buffer out = self.home.scratch
        cdef uint64_t fields = 0
        if who is not self.asked:
            return 0
        message = decode_item(body.at, body.end - body.at) if op == ERROR else None
        read_expect(body, ARRAY, &fields)
        if op == ERROR and fields == 5 and isinstance(message[2], str):
            if message[2] in _ASK_ANOTHER and self.reachable_left():
                return self.begin()
        elif not ((self.op == GET and op == FOUND and fields == 6) or (self.op == PUT and op == WRITTEN and fields == 8)):
            raise ValueError("no answer to the request")
        self.home.pending.pop(self.rid, None)
        out.size = 0
        put_head(out, ARRAY, fields)
        put_uint(out, op)
        put_uint(out, self.client_id)
        put_raw(out, rest.at, rest.end - rest.at)
        self.client.settle()
        return self.client.send_message(self.client_id, out.data, out.size)

    cdef int gone(self, Peer who) except -1:
        if who is not self.asked:
            return 0
        if self.op == GET:
            return self.begin()
        return self.fail("uncertain", "the coordinating replica was lost: the write may or may not be there",
                         {"needed": self.need, "answered": 0})

    cdef int expired(self) except -1:
        return self.fail("timeout", f"needed {self.need} replicas, none answered in time",
                         {"needed": self.need, "answered": 0})

    cdef bint reachable_left(self) except -1:
        for peer in self.left:
            if (<Peer>peer).reachable():
                return True
        return False

    cdef int fail(self, str code, str message, object details) except -1:
        self.home.pending.pop(self.rid, None)
        self.client.fail(self.client_id, code, message, details)
        return 0


cdef class Acknowledgement(Pending):
    """A replica's answer to STORE that waits for the flush which makes it true."""

    cdef int covered(self) except -1:
        return self.home.acknowledge(self, True)


cdef class Call(Pending):
    """A rare request to a peer; ``done(result, error)`` is called exactly once."""

    cdef Peer asked
    cdef object done

    cdef int received(self, Peer who, int op, Cursor *body, Cursor *rest) except -1:
        message = decode_item(body.at, body.end - body.at)
        if op == OK and len(message) == 3:
            return self.end(message[2], None)
        if op == ERROR and len(message) == 5 and isinstance(message[4], dict):
            return self.end(None, error_for(str(message[2]), str(message[3]), message[4]))
        return self.end(None, RefusedError(f"unexpected answer of {who.name}"))

    cdef int gone(self, Peer who) except -1:
        if who is self.asked:
            self.end(None, NotReachedError(f"the connection to {who.name} was lost"))
        return 0

    cdef int expired(self) except -1:
        return self.end(None, NotReachedError(f"{self.asked.name} did not answer in time"))

    cdef int end(self, object result, object error) except -1:
        self.home.pending.pop(self.rid, None)
        self.done(result, error)
        return 0


cdef bytes _object_key(uint64_t position, bytes key):
    """Return ``position (8 bytes, big-endian) + key``, as `dynafast.storage.interface.object_key`."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(key)
    cdef bytes result = PyBytes_FromStringAndSize(NULL, 8 + size)
    cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(result)
    store_be(to, position, 8)
    memcpy(to + 8, PyBytes_AS_STRING(key), size)
    return result


cdef class Coordinator(Handler):
    """All requests of one node, as a coordinator and as a replica.

    Args:
        node: is told ``save_clock(time)``, before a hybrid time above the last one saved is used, and
            ``amnesia(key)``, when a client knows a dot of ours that we do not.
        store: a `dynafast.storage.interface.Store`.
        me: this node.
        cluster: the cluster's id; keys the checksums of contexts.
        boot: random, new at every start (the actor rule).
        random64: returns a random integer in 0..2**64-1.
        read_quorum, write_quorum: R and W for requests that do not say.
        group: acknowledge after a flush (durability ``group``), else at once.
        clock: the hybrid time to start after.
    """

    def __init__(
        self, *, node, store, Peer me not None, bytes cluster not None, uint64_t boot, random64, int read_quorum,
        int write_quorum, bint group, uint64_t clock,
    ):
        self.node = node
        self.disk = store
        self.me = me
        self.cluster = cluster
        self.boot = boot
        self.random64 = random64
        self.read_quorum = read_quorum
        self.write_quorum = write_quorum
        self.group = group
        self.clock = self.clock_saved = clock
        self.pending = {}
        self.wheel = {}
        self.waiting = deque()
        self.dirty = []
        self.scratch = Buffer()
        self.next_rid = 1

    # ---- what the node and the shell call

    def at(self, int64_t now_ns, int64_t wall_ms):
        """Tell the time: monotonic nanoseconds, and the wall clock for hybrid times."""
        self.now_ns = now_ns
        self.wall_ms = wall_ms

    def set_view(self, View view not None):
        """Serve by another view from the next request on."""
        self.view = view

    def link_down(self, Peer peer not None):
        """Requests cannot be sent to *peer* any more; answers will not come."""
        cdef Pending request
        peer.link = None
        for request in list(self.pending.values()):
            if self.pending.get(request.rid) is request:    # else it ended meanwhile
                request.gone(peer)

    def flushed(self, uint64_t sequence):
        """Everything up to *sequence* is durable: release what waited for that."""
        cdef Pending request
        while self.waiting:
            request = self.waiting[0]
            if request.sequence > sequence:
                break
            self.waiting.popleft()
            request.covered()

    @property
    def flush_wanted(self):
        """Whether an answer waits for a flush."""
        return bool(self.waiting)

    def after_flush(self, done not None):
        """Call *done* once everything written so far is durable."""
        cdef AfterFlush request = AfterFlush()
        request.done = done
        self.await_flush(request)

    def sweep(self):
        """End the requests whose deadline has passed."""
        cdef int64_t bucket = self.now_ns // BUCKET_NS
        cdef Buffer rids
        cdef Pending request
        cdef Py_ssize_t i
        for due in sorted([b for b in self.wheel if b <= bucket]):
            rids = self.wheel.pop(due)
            for i in range(rids.size // <Py_ssize_t>sizeof(uint64_t)):
                request = self.pending.get((<uint64_t *>rids.data)[i])
                if request is not None:
                    request.expired()

    def take_dirty(self):
        """Return the connections that have output, or that close, since the last call."""
        cdef list dirty = self.dirty
        self.dirty = []
        return dirty

    @property
    def busy(self):
        """How many requests are under way."""
        return len(self.pending) + len(self.waiting)

    @property
    def time(self):
        """The hybrid time now."""
        return self.clock

    def call(self, Peer peer not None, int op, list fields, *, int timeout_ms, done):
        """Ask *peer*; ``done(result, error)`` is called once, with one of the two."""
        cdef Call call = Call()
        call.asked = peer
        call.done = done
        if not peer.reachable():
            done(None, NotReachedError(f"{peer.name} is not connected"))
            return
        self.enlist(call, timeout_ms)
        peer.link.request(op, call.rid, fields)

    # ---- time

    cdef uint64_t tick_clock(self) except? 0:
        """Return a hybrid time above all earlier ones, here and in what was observed."""
        cdef uint64_t wall = <uint64_t>self.wall_ms << 16
        cdef uint64_t ahead
        self.clock = wall if wall > self.clock else self.clock + 1
        if self.clock > self.clock_saved:
            ahead = self.clock + (<uint64_t>CLOCK_AHEAD_MS << 16)
            self.node.save_clock(ahead)     # may be refused: then it is not saved, and tried again
            self.clock_saved = ahead
        return self.clock

    cdef int observe(self, uint64_t time) noexcept:
        if time > self.clock and (time >> 16) <= <uint64_t>(self.wall_ms + CLOCK_FOLLOW_MS):
            self.clock = time
        return 0

    cdef int enlist(self, Pending request, int64_t timeout_ms) except -1:
        """Give a request its id and its deadline: a little early, so that the answer arrives in time."""
        cdef int64_t bucket
        cdef Buffer rids
        request.home = self
        request.rid = self.next_rid
        self.next_rid += 1
        request.deadline_ns = self.now_ns + timeout_ms * 1_000_000 - timeout_ms * 50_000
        bucket = request.deadline_ns // BUCKET_NS
        rids = self.wheel.get(bucket)
        if rids is None:
            rids = self.wheel[bucket] = Buffer()
        put_raw(rids, &request.rid, sizeof(uint64_t))
        self.pending[request.rid] = request
        return 0

    cdef int await_flush(self, Pending request) except -1:
        request.home = self
        request.sequence = self.disk.sequence
        self.waiting.append(request)
        return 0

    # ---- the handler: what connections call

    cdef int touched(self, Connection conn) except -1:
        self.dirty.append(conn)
        return 0

    cdef int answer(self, Connection conn, int op, uint64_t id, Cursor *body, Cursor *rest) except -1:
        cdef Pending request = self.pending.get(id)
        if request is not None:             # else nobody waits for it any more
            try:
                request.received(conn.peer, op, body, rest)
            except ValueError as error:
                conn.refuse(id, "bad-request", f"malformed answer: {error}", {})
                conn.close()
        return 0

    cdef int get(self, Connection conn, uint64_t id, bytes key, const Options *options) except -1:
        cdef uint64_t position = xxh3_64_intdigest(key)
        cdef Py_ssize_t partition = self.view.locate(position)
        cdef Get get
        self.observe(options.time)
        if not self._takes(conn, id):
            return 0
        if (<const uint8_t *>PyBytes_AS_STRING(self.view.own))[partition] == 0:
            self.scratch.size = 0
            put_bytes(self.scratch, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
            return self.forward(conn, id, GET, self.scratch.take(), partition, options)
        get = Get.__new__(Get)
        try:
            self.start(get, conn, id, key, partition, options.need or self.read_quorum)
            self._read(get, _object_key(position, key), options.timeout_ms)
        except RequestError as error:
            conn.fail(id, error.code, str(error), error.details)
        return 0

    cdef int _read(self, Get get, bytes object_key, int timeout_ms) except -1:
        """Count our own record, and ask the other replicas unless that is enough."""
        cdef int mine = get.place(self.me)
        cdef Local local
        cdef bint held = True
        try:
            get.found = self.load(object_key, &local)
        except StoreError:
            get.found = None                # unreadable is no answer, never "not found"
        if get.found is None:
            held = False
            get.found = Record.__new__(Record)
            get.expected[mine] = 0
        else:
            get.answered(mine, get.expected[mine])
            if get.have() >= get.need:
                get.home = self
                return get.conclude()
        self.check_reachable(get)
        self.enlist(get, timeout_ms)
        return self._fetch_from_replicas(get, held)

    cdef int _fetch_from_replicas(self, Get get, bint held) except -1:
        cdef Peer peer
        cdef Py_ssize_t start
        cdef uint64_t digest = get.found.hash() if held and get.found.entry_count else 0
        cdef int i
        for i in range(len(get.holders)):
            peer = get.holders[i]
            if get.expected[i] == 0 or peer.me:
                continue
            start = peer.link.begin_message(4, FETCH, get.rid)
            put_bytes(peer.link.out, PyBytes_AS_STRING(get.key), PyBytes_GET_SIZE(get.key))
            if digest:
                put_uint(peer.link.out, digest)
            else:
                put_byte(peer.link.out, CBOR_NULL)
            peer.link.end_request(start)
        return 0

    cdef int put(
        self, Connection conn, uint64_t id, bytes key, object value, bytes context, const uint8_t *write_id,
        const Options *options,
    ) except -1:
        cdef uint64_t position = xxh3_64_intdigest(key)
        cdef Py_ssize_t partition = self.view.locate(position)
        cdef Put put
        cdef Record seen
        self.observe(options.time)
        if not self._takes(conn, id):
            return 0
        if (<const uint8_t *>PyBytes_AS_STRING(self.view.own))[partition] == 0:
            return self.forward(
                conn, id, PUT, _put_fields(key, value, context, write_id), partition, options
            )
        put = Put.__new__(Put)
        put.options = options[0]
        put.value = value
        put.version.size = -1 if value is None else PyBytes_GET_SIZE(value)
        put.version.value = NULL if value is None else <uint8_t *>PyBytes_AS_STRING(value)
        put.version.owner = NULL if value is None else <PyObject *>value
        memcpy(put.version.id, write_id, ID_SIZE)
        try:
            self.start(put, conn, id, key, partition, options.need or self.write_quorum)
            self.check_reachable(put)
            seen = Record.__new__(Record) if context is None else read_context(context, key, self.cluster)
            self.write(put, _object_key(position, key), seen, False)
        except RequestError as error:
            conn.fail(id, error.code, str(error), error.details)
            return 0
        except StoreBusyError as error:
            conn.fail(id, "overloaded", str(error), {"retry_after_ms": RETRY_AFTER_MS})
            return 0
        except StoreError as error:
            conn.fail(id, "corrupt" if isinstance(error, CorruptRecordError) else "store-error", str(error))
            return 0
        self.enlist(put, options.timeout_ms)
        return self.replicate(put)

    cdef int fetch(self, Connection conn, uint64_t id, bytes key, bint has_digest, uint64_t digest) except -1:
        cdef uint64_t position = xxh3_64_intdigest(key)
        cdef uint8_t seats = (<const uint8_t *>PyBytes_AS_STRING(self.view.own))[self.view.locate(position)]
        cdef Local local
        cdef Record record
        cdef Buffer out
        if not seats:
            conn.fail(id, "no-seat", "this node serves no seat of the key's partition")
            return 0
        try:
            record = self.load(_object_key(position, key), &local)
        except StoreError as error:
            conn.fail(id, "corrupt" if isinstance(error, CorruptRecordError) else "store-error", str(error))
            return 0
        out = Buffer()
        put_head(out, ARRAY, 4)
        put_uint(out, FETCHED)
        put_uint(out, id)
        put_uint(out, seats)
        if record.entry_count == 0:
            put_byte(out, CBOR_NULL)
        elif has_digest and record.hash() == digest:
            put_byte(out, CBOR_TRUE)
        else:
            record.write(out)
        conn.settle()
        return conn.send_message(id, out.data, out.size)

    cdef int store(self, Connection conn, uint64_t id, bytes key, bint report, bytes record) except -1:
        cdef uint64_t position = xxh3_64_intdigest(key)
        cdef uint8_t seats = (<const uint8_t *>PyBytes_AS_STRING(self.view.own))[self.view.locate(position)]
        cdef Record merged
        cdef Acknowledgement answer
        if not seats:
            conn.fail(id, "no-seat", "this node serves no seat of the key's partition")
            return 0
        try:
            merged = self._merge(_object_key(position, key), decode_record(record))
        except ValueError as error:
            conn.fail(id, "bad-request", f"STORE without a record: {error}")
            return 0
        except StoreBusyError as error:
            conn.fail(id, "overloaded", str(error), {"retry_after_ms": RETRY_AFTER_MS})
            return 0
        except StoreError as error:
            conn.fail(id, "corrupt" if isinstance(error, CorruptRecordError) else "store-error", str(error))
            return 0
        answer = Acknowledgement.__new__(Acknowledgement)
        answer.peer = conn
        answer.peer_id = id
        answer.seats = seats
        answer.record = merged.encode() if report and merged.dot_count > 1 else None
        if self.group:
            return self.await_flush(answer)
        return self.acknowledge(answer, False)

    cdef Record _merge(self, bytes object_key, Record incoming):
        """Merge *incoming* into what is stored, and store that if it is news."""
        cdef Local local
        cdef Record held = self.load(object_key, &local)
        cdef Record merged
        self.observe(incoming.newest())
        if held.entry_count == 0:
            merged = incoming
        elif held.relation(incoming) & 1:
            return held
        else:
            merged = held.merged(incoming)
        self.disk.put(object_key, merged.stored(&local))
        return merged

    cdef int acknowledge(self, Acknowledgement answer, bint synced) except -1:
        cdef Connection conn = answer.peer
        cdef Buffer out = self.scratch
        out.size = 0
        put_head(out, ARRAY, 5)
        put_uint(out, STORED)
        put_uint(out, answer.peer_id)
        put_uint(out, answer.seats)
        put_byte(out, CBOR_TRUE if synced else CBOR_FALSE)
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
        if len(self.pending) >= PENDING_MAX:
            conn.fail(id, "overloaded", f"{len(self.pending)} requests are under way at this node",
                      {"retry_after_ms": RETRY_AFTER_MS})
            return False
        return True

    cdef Record load(self, bytes object_key, Local *local):
        """Return the stored record; an empty one, with an empty local part, when there is none. Raises StoreError."""
        cdef bytes data = self.disk.get(object_key)
        if data is None:
            memset(local, 0, sizeof(Local))
            return Record.__new__(Record)
        return load_stored(data, local)

    cdef int start(
        self, Quorum request, Connection conn, uint64_t id, bytes key, Py_ssize_t partition, int need
    ) except -1:
        if need > self.view.replicas:
            raise BadRequestError(
                f"a quorum of {need} is more than the {self.view.replicas} replicas of this cluster",
                {"replicas": self.view.replicas},
            )
        request.client = conn
        request.client_id = id
        request.forwarded = conn.role_code == PEER
        request.key = key
        request.holders = self.view.holders[partition]
        request.need = need if need < self.view.most else self.view.most
        memcpy(request.expected, &self.view.masks[SEATS_MAX * partition], SEATS_MAX)
        return 0

    cdef int check_reachable(self, Quorum request) except -1:
        """Strike out the replicas that cannot be asked, and refuse now, with nothing done, if too few are left."""
        cdef int i
        for i in range(len(request.holders)):
            if not (<Peer>request.holders[i]).reachable():
                request.expected[i] = 0
        if request.could() < request.need:
            raise UnavailableError(
                f"needed {request.need} replicas, reachable {request.could()}",
                {"needed": request.need, "reachable": request.could()},
            )
        return 0

    cdef int write(self, Put put, bytes object_key, Record seen, bint again) except -1:
        """Issue the dot and store the new record, or find that this write id is stored already."""
        cdef Local local
        cdef Record held = self.load(object_key, &local)
        cdef const Version *earlier = NULL
        if not again:
            earlier = held.find_write(put.version.id)
        if earlier != NULL:                 # a retry: nothing new, but it may still lack replicas
            put.version = earlier[0]
            put.record = held
            return 0
        if put.options.overwrite:
            seen = seen.merged(held)
        self._check_limits(put, held, seen)
        self._choose_dot(put, held, seen, &local)
        put.record = held.with_put(&put.version, seen)
        local.actor = put.version.actor
        local.boot = self.boot
        local.counter = put.version.counter
        self.disk.put(object_key, put.record.stored(&local))
        return 0

    cdef int _choose_dot(self, Put put, Record held, Record seen, const Local *local) except -1:
        """The actor rule: our actor for this key only if this boot issued its last dot, and we still know it."""
        cdef uint64_t actor = local.actor
        cdef bint ours = local.boot == self.boot and actor and held.counter_of(actor) == local.counter
        if ours and seen.counter_of(actor) > local.counter:
            ours = False
            self.node.amnesia(put.key)
        while not ours and (actor == 0 or held.counter_of(actor) or seen.counter_of(actor) or actor == local.actor):
            actor = self.random64()
        put.version.actor = actor
        put.version.counter = local.counter + 1 if ours else 1
        put.version.time = self.tick_clock()
        return 0

    cdef int _check_limits(self, Put put, Record held, Record seen) except -1:
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
        if put.version.size >= 0 and total + put.version.size > _RECORD_MAX:
            raise TooLargeError(
                f"the versions of the key would have {total + put.version.size} bytes together, at most {_RECORD_MAX}:"
                " get it, resolve, and put with the context", {"bytes": total + put.version.size},
            )
        return 0

    cdef int restart(self, Put put) except -1:
        """Prepare a put for another round among the same replicas, within the same deadline."""
        cdef int64_t left_ms = (put.deadline_ns - self.now_ns) // 1_000_000
        cdef Py_ssize_t partition = self.view.locate(xxh3_64_intdigest(put.key))
        memset(put.stated, 0, SEATS_MAX)
        put.answers = put.synced = 0
        put.holders = self.view.holders[partition]
        memcpy(put.expected, &self.view.masks[SEATS_MAX * partition], SEATS_MAX)
        self.check_reachable(put)
        return self.enlist(put, left_ms if left_ms > 1 else 1)

    cdef int replicate(self, Put put) except -1:
        """Send the whole merged record to the other replicas; our own vote waits for the flush that covers it."""
        cdef Buffer out = self.scratch
        cdef Peer peer
        cdef int i, mine = put.place(self.me)
        out.size = 0
        put_head(out, ARRAY, 5)
        put_uint(out, STORE)
        put_uint(out, put.rid)
        put_bytes(out, PyBytes_AS_STRING(put.key), PyBytes_GET_SIZE(put.key))
        put_byte(out, CBOR_TRUE if put.options.overwrite else CBOR_FALSE)
        put.record.write(out)
        for i in range(len(put.holders)):
            peer = put.holders[i]
            if put.expected[i] and not peer.me:
                peer.link.send_message(put.rid, out.data, out.size)
        if self.group:
            return self.await_flush(put)
        if mine >= 0:
            put.answered(mine, put.expected[mine])
        return put.weigh()

    cdef int forward(
        self, Connection conn, uint64_t id, int op, bytes fields, Py_ssize_t partition, const Options *options
    ) except -1:
        """Pass a request on to a replica; one that was passed on already is refused: never twice."""
        cdef Relay relay
        if conn.role_code == PEER:
            conn.fail(id, "not-replica", "this node is no replica of the key: the asking node's view is old")
            return 0
        relay = Relay.__new__(Relay)
        relay.client = conn
        relay.client_id = id
        relay.op = op
        relay.fields = fields
        relay.options = options[0]
        relay.left = list(self.view.holders[partition][::-1])
        relay.need = options.need or (self.read_quorum if op == GET else self.write_quorum)
        if relay.need > self.view.most:
            relay.need = self.view.most
        self.enlist(relay, options.timeout_ms)
        return relay.begin()


cdef class AfterFlush(Pending):
    """A rare step that waits for a flush."""

    cdef object done

    cdef int covered(self) except -1:
        self.done()
        return 0


cdef bytes _put_fields(bytes key, object value, bytes context, const uint8_t *write_id):
    """Encode the fields of a PUT between its id and its options."""
    cdef Buffer out = Buffer()
    put_bytes(out, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
    if value is None:
        put_byte(out, CBOR_NULL)
    else:
        put_bytes(out, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    if context is None:
        put_byte(out, CBOR_NULL)
    else:
        put_bytes(out, PyBytes_AS_STRING(context), PyBytes_GET_SIZE(context))
    put_bytes(out, write_id, ID_SIZE)
    return out.take()
