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


# ---- requests under way

cdef class Pending:
    """Something that waits for answers of peers, for a flush, or for its deadline."""

    cdef int received(self, Peer who, int op, Cursor *body, Cursor *rest) except -1:
        return 0

    cdef int gone(self, Peer who) except -1:
        return 0

    cdef int suspected(self, Peer who) except -1:
        return 0

    cdef int expired(self) except -1:
        return 0

    cdef int covered(self) except -1:
        return 0

    cdef int accepted(self) except -1:
        """The store has accepted what this has staged."""
        return 0

    cdef int undo(self) except -1:
        """The store has refused it: what was noted of it in memory goes."""
        if self.written is not None:
            self.home.replica.undo(self.object_key, self.held, self.written)
        return 0

    cdef int rejected(self, object error) except -1:
        """Answer that; after `undo` of all that was staged together."""
        return 0

    cdef int arrived(self, object error) except -1:
        """The record that this waits for has been read, and is in memory; or could not be read."""
        return 0


cdef class Quorum(Pending):
    """A client's request that this node coordinates: whom it asks, who answered, with which seats."""

    def __cinit__(self):
        self.slots = self.usual

    def __dealloc__(self):
        if self.slots != self.usual:
            PyMem_Free(self.slots)

    cdef int make_room(self) except -1:
        """Move to as many slots as there may be at all, once; the usual ones lie inside the object."""
        cdef Slot *slots
        if self.slots == self.usual:
            slots = <Slot *>PyMem_Malloc(SLOTS_MAX * sizeof(Slot))
            if slots == NULL:
                raise MemoryError
            memcpy(slots, self.usual, sizeof(self.usual))
            self.slots = slots
        return 0

    cdef int place(self, Peer who) noexcept:
        cdef int i
        for i in range(self.count):
            if self.peers[i] is who:
                return i
        return -1

    cdef int enter(self, Peer who, uint8_t expected, int target, bint extra) except -2:
        """Add a node to ask; return its place, -1 without room."""
        cdef Slot *slot
        if self.count == SLOTS_MAX:
            return -1
        if self.count == SLOTS_USUAL:
            self.make_room()
        slot = &self.slots[self.count]
        memset(slot, 0, sizeof(Slot))
        slot.state = ASKED if who.reachable() else FAILED
        slot.host = who.host
        slot.target = target
        slot.extra = extra
        slot.expected = expected
        self.peers.append(who)
        self.count += 1
        return self.count - 1

    cdef int stand_in(self, int place) except -2:
        """Add the next healthy host of the preference list in the place of a holder; return its place, -1 if none."""
        cdef Peer peer
        cdef int i
        cdef bint used
        if self.strict:
            return -1
        for candidate in self.home.view.orders[self.partition]:
            peer = candidate
            if not peer.reachable():
                continue
            used = False
            for i in range(self.count):
                if self.slots[i].host == peer.host:
                    used = True
                    break
            if not used:
                return self.enter(peer, self.slots[place].expected, place, False)
        return -1

    cdef bint counted(self, int place) noexcept:
        """Whether an answer counts: from a seat, or from the first that stands in for one that did not answer."""
        cdef Slot *slot = &self.slots[place]
        cdef int i
        if slot.state != DONE:
            return False
        if slot.target < 0:
            return slot.stated != 0
        if not slot.kept or (self.slots[slot.target].state == DONE and self.slots[slot.target].stated):
            return False
        for i in range(place):
            if self.slots[i].state == DONE and self.slots[i].kept and self.slots[i].target == slot.target:
                return False
        return True

    cdef int seats(self, bint primaries, bint asked, bint synced) noexcept:
        """Count distinct seats on distinct hosts.

        Args:
            primaries: of those that serve a seat alone. asked: those that may still answer too, as our view has them.
            synced: of those alone that have it on disk.
        """
        cdef uint8_t[SLOTS_MAX] masks
        cdef int[SLOTS_MAX] hosts
        cdef Slot *slot
        cdef int i, j, some = 0
        cdef uint8_t mask, every = 0
        cdef bint plain = True              # one seat each, no two the same, each on a host of its own: nearly always
        for i in range(self.count):
            slot = &self.slots[i]
            hosts[i] = slot.host
            masks[i] = mask = 0
            if slot.target < 0:
                if slot.state == DONE:
                    mask = slot.stated if slot.synced or not synced else 0
                elif asked and slot.state == ASKED:
                    mask = slot.expected
            elif not primaries and (
                (asked and slot.state == ASKED) or (self.counted(i) and (slot.synced or not synced))
            ):
                mask = slot.expected
            if mask == 0:
                continue
            if mask & (mask - 1) or mask & every:
                plain = False
            for j in range(i):
                if masks[j] and hosts[j] == slot.host:
                    plain = False
            masks[i] = mask
            every |= mask
            some += 1
        self.united = some if plain else _count_bits(every)
        if self.home.planted and "count-nodes" in self.home.plants:
            return self.count_nodes(masks, hosts, asked)
        return some if plain else count_seats(masks, hosts, self.count)

    cdef int count_nodes(self, const uint8_t *masks, const int *hosts, bint asked) noexcept:
        """A canary: nodes instead of seats, those that state none too."""
        cdef int i, total = 0
        for i in range(self.count):
            if masks[i] or self.slots[i].state == DONE or (asked and self.slots[i].state == ASKED):
                total += 1
        return total

    cdef bint waits(self) noexcept:
        """Whether somebody may still answer."""
        cdef int i
        for i in range(self.count):
            if self.slots[i].state == ASKED:
                return True
        return False

    cdef bint enough(self, bint primaries, bint asked) noexcept:
        """Whether the answers, or with *asked* those that may still come too, make the quorum; or its *primaries*.

        Fewer hosts than asked for are enough if no more serve the partition, but as many seats must be stated as were
        asked for: else a write by an old view and a read by a new one need not meet.
        """
        cdef int least = self.primaries if primaries else self.need
        if least == 0:
            return True
        if self.seats(primaries, asked, False) < least:
            return False
        if self.home.planted and "count-nodes" in self.home.plants:
            return True
        return self.united >= (self.wanted_primaries if primaries else self.wanted)

    cdef bint met(self) noexcept:
        return self.enough(False, False) and self.enough(True, False)

    cdef bint hopeless(self) noexcept:
        return not (self.enough(False, True) and self.enough(True, True))

    def lacking(self, bint asked):
        """Return what is not met: its name, how many are needed, how many there are (*asked*: or may still be)."""
        cdef int have = self.seats(False, asked, False)
        if have >= self.need and self.united < self.wanted:
            return "replicas", self.wanted, self.united     # a seat is on its way from one node to another
        if have >= self.need and self.primaries:
            return "primaries", self.primaries, self.seats(True, asked, False)
        return "replicas", self.need, have

    cdef int weigh(self) except -1:
        """Answer as soon as the outcome is certain; end when nobody can add to it."""
        if not self.replied:
            if self.met():
                return self.conclude()
            if self.hopeless():
                return self.give_up()
        if self.replied and not self.waits():
            return self.settle()
        return 0

    cdef int fail(self, int place) except -1:
        """A node cannot answer any more."""
        if self.slots[place].state == ASKED:
            self.slots[place].state = FAILED
            self.make_up(place)
            return self.weigh()
        return 0

    cdef int ask(self, int place) except -1:
        return 0

    cdef int make_up(self, int place) except -1:
        """Let another stand in for a node that failed or is silent."""
        cdef Slot *slot = &self.slots[place]
        cdef int origin = place if slot.target < 0 else slot.target
        cdef int other
        if slot.covered or slot.extra or slot.expected == 0:
            return 0
        slot.covered = True
        if self.slots[origin].state == DONE and self.slots[origin].stated:
            return 0
        other = self.stand_in(origin)
        if other >= 0:
            return self.ask(other)
        return 0

    cdef int reroute(self) except -1:
        """Ask those too that serve the partition by now: a replica has said that it does not."""
        cdef View view = self.home.view
        cdef const uint8_t *masks = view.row(self.partition)
        cdef tuple holders = view.holders[self.partition]
        cdef int i, at
        for i in range(len(holders)):
            at = self.place(holders[i])
            if at < 0:
                at = self.enter(holders[i], masks[i], -1, False)
                if at >= 0 and self.slots[at].state == ASKED:
                    self.ask(at)
        return 0

    cdef int conclude(self) except -1:
        """The quorum is met: answer, and go on for those that have not answered."""
        self.replied = True
        self.home.sample(self.home.now_ns - self.started_ns)
        if not self.client.lost:
            self.reply()
        if not self.waits():
            return self.settle()
        return 0

    cdef int reply(self) except -1:
        return 0

    cdef int give_up(self) except -1:
        return 0

    cdef int settle(self) except -1:
        return self.finish()

    cdef int finish(self) except -1:
        self.home.pending.pop(self.rid, None)
        return 0

    cdef int gone(self, Peer who) except -1:
        cdef int place = self.place(who)
        return self.fail(place) if place >= 0 else 0

    cdef int suspected(self, Peer who) except -1:
        """It may still answer; meanwhile another stands in."""
        cdef int place = self.place(who)
        if place >= 0 and self.slots[place].state == ASKED:
            return self.make_up(place)
        return 0

    cdef int refuse(self, str code, str message, object details) except -1:
        self.finish()
        self.client.fail(self.client_id, code, message, details)
        return 0

    cdef int receipt(self, Buffer out) except -1:
        cdef int i, primaries = 0, fallbacks = 0, synced = 0
        for i in range(self.count):
            if not self.counted(i):
                continue
            if self.slots[i].target < 0:
                primaries += 1
            else:
                fallbacks += 1
            if self.slots[i].synced:
                synced += 1
        return _put_receipt(out, self.need, primaries, fallbacks, synced, self.forwarded)


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


cdef int _put_context(Buffer out, Record record, bytes key, object seal) except -1:
    cdef bytes sealed
    if record.entry_count == 0:
        return put_byte(out, CBOR_NULL)
    sealed = close_context(record, key, seal)
    return put_bytes(out, PyBytes_AS_STRING(sealed), PyBytes_GET_SIZE(sealed))


cdef class Get(Quorum):
    """One get: merges what R seats answer, then repairs the stale. Source: Dynamo, sections 4.5 and 5."""

    cdef bint met(self) noexcept:
        # One seat at least: a node that stands in may know nothing of a key that all seats have.
        if not Quorum.met(self):
            return False
        if self.seats(True, False, False):
            return True
        return self.found.entry_count > 0 and self.seats(True, True, False) == 0

    cdef int ask(self, int place) except -1:
        cdef Peer peer = self.peers[place]
        cdef Py_ssize_t start
        if self.slots[place].state != ASKED or peer.me:
            return 0
        self.slots[place].sent_ns = self.home.now_ns
        start = peer.link.begin_message(4, FETCH, self.rid)
        put_bytes(peer.link.out, PyBytes_AS_STRING(self.key), PyBytes_GET_SIZE(self.key))
        if self.digest:
            put_uint(peer.link.out, self.digest)
        else:
            put_byte(peer.link.out, CBOR_NULL)
        return peer.link.end_request(start)

    cdef int received(self, Peer who, int op, Cursor *body, Cursor *rest) except -1:
        cdef uint64_t seats = 0, round = 0
        cdef bint same
        cdef Record theirs
        cdef Slot *slot
        cdef int place = self.place(who)
        if place < 0 or self.slots[place].state != ASKED:
            return 0
        slot = &self.slots[place]
        if op != FETCHED or not read_uint(rest, &seats) or seats > 0xFF or not read_uint(rest, &round):
            return self.fail(place)
        who.answered(self.home.now_ns - slot.sent_ns)
        if read_bool(rest, &same):
            slot.digest = self.digest
            if self.home.planted and "same-is-now" in self.home.plants:
                with suppress(StoreError):
                    self.found = self.home.replica.read(self.object_key) or Record.__new__(Record)
            elif self.asked_with is not None and self.asked_with is not self.found:
                self.found = self.found.merged(self.asked_with)
        elif not read_null(rest):
            theirs = decode_record(PyBytes_FromStringAndSize(<const char *>rest.at, rest.end - rest.at))
            slot.digest = theirs.hash()
            self.found = self.found.merged(theirs)
            if round < self.round:
                self.round = round
        slot.state = DONE
        slot.stated = <uint8_t>seats
        slot.kept = slot.target >= 0
        if seats == 0 and slot.target < 0:
            slot.state = FAILED             # it gave its seats away: its record is news, its answer counts for nothing
            self.reroute()
        return self.weigh()

    cdef int count_own(self, Record record) except -1:
        """This node's own record is read."""
        cdef Slot *slot = &self.slots[self.place(self.home.me)]
        slot.state = DONE
        slot.stated = self.home.view.mine(self.partition)
        slot.kept = slot.target >= 0
        if record.entry_count:
            self.digest = slot.digest = record.hash()
            self.asked_with = record
            self.found = self.found.merged(record) if self.found.entry_count else record
        return 0

    cdef int conclude_alone(self) except -1:
        """This node's own record is enough: nobody else is asked."""
        cdef int i
        for i in range(self.count):
            if self.slots[i].state == ASKED:
                self.slots[i].state = FAILED
        return self.conclude()

    cdef int ask_all(self) except -1:
        cdef int i
        self.spread = True
        for i in range(self.count):
            self.ask(i)
        return 0

    cdef int arrived(self, object error) except -1:
        cdef Local local
        cdef Record record = None
        if error is None:
            try:
                record = self.home.glance(self.object_key, &local)
                if record is None:          # it was written meanwhile, and is out of memory again
                    return self.home.await_read(self)
            except StoreError:
                pass
        if record is None:
            self.slots[self.place(self.home.me)].state = FAILED     # unreadable is no answer, never "not found"
        else:
            self.count_own(record)
        if self.spread or self.hopeless():
            return self.weigh()
        if self.met():
            return self.conclude_alone()
        return self.ask_all()

    cdef int conclude(self) except -1:
        self.home.observe(self.found.newest())
        Quorum.conclude(self)
        if self.home.pending.get(self.rid) is self:
            self.home.remind(self, self.home.now_ns + LINGER_NS)
        return 0

    cdef int reply(self) except -1:
        return self.client.found(self.client_id, self, self.found.value_bytes() >= _DIRECT_MAX)

    cdef Record versions(self):
        return self.found

    cdef bytes context(self):
        return close_context(self.found, self.key, self.home.seal) if self.found.entry_count else None

    cdef int fields(self, Buffer out) except -1:
        _put_live(out, self.found)
        _put_context(out, self.found, self.key, self.home.seal)
        self.receipt(out)
        return put_uint(out, self.home.clock)

    cdef int settle(self) except -1:
        self.finish()
        return self.repair()

    cdef int repair(self) except -1:
        """Read repair, after the reply: send the merged record to the seats that answered with less."""
        cdef Coordinator home = self.home
        cdef Peer peer
        cdef Buffer out = home.scratch
        cdef uint64_t digest
        cdef int i
        if self.found.entry_count == 0 or (home.planted and "skip-repair" in home.plants):
            return 0
        if home.replica.was_reaped(self.object_key, self.found):
            return 0                        # absent here, as a round agreed: the others hear of it from there
        digest = self.found.hash()
        for i in range(self.count):
            if self.slots[i].state != DONE or not self.slots[i].stated or self.slots[i].digest == digest:
                continue
            peer = self.peers[i]
            if peer.me:
                if self.round >= home.replica.round and home.view.mine(self.partition):
                    try:
                        home.replica.merge(self.object_key, self.found)
                    except StoreError:
                        pass                # a later get repairs it, or the exchange of trees
            elif peer.reachable():
                out.size = 0
                _put_store(out, home.next_rid, self.key, 0, REPAIR, self.round, self.found)
                peer.link.send_message(home.next_rid, out.data, out.size)
                home.next_rid += 1          # nobody waits for the answer
        return 0

    cdef int give_up(self) except -1:
        what, needed, could = self.lacking(True)
        return self.refuse(
            "unavailable", f"needed {needed} {what}, reachable {could}", {"needed": needed, "reachable": could},
        )

    cdef bint hopeless(self) noexcept:
        return Quorum.hopeless(self) or not self.waits()

    cdef int expired(self) except -1:
        if self.replied:
            return self.settle()
        if self.home.now_ns + BUCKET_NS < self.deadline_ns:     # the own disk is slow
            return 0 if self.spread else self.ask_all()
        what, needed, have = self.lacking(False)
        return self.refuse(
            "timeout", f"needed {needed} {what}, {have} answered in time", {"needed": needed, "answered": have},
        )


cdef int _put_store(
    Buffer out, uint64_t rid, bytes key, uint64_t target, int flags, uint64_t round, Record record
) except -1:
    """Append a STORE message."""
    cdef uint8_t[8] id
    put_head(out, ARRAY, 7)
    put_uint(out, STORE)
    put_uint(out, rid)
    put_bytes(out, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
    if target:
        store_be(id, target, 8)
        put_bytes(out, id, 8)
    else:
        put_byte(out, CBOR_NULL)
    put_uint(out, flags)
    put_uint(out, round)
    return record.write(out)


cdef int _put_written(
    Buffer out, Record record, const Version *version, bytes key, bint give, object seal
) except -1:
    """Append what a put has made: its dot, how many versions are live, and the context if it covers no unseen one."""
    cdef Py_ssize_t live = record.live_count()
    cdef bint alone = (
        live == (0 if version.size < 0 else 1)
        and record.find(version.actor, version.counter) != NULL     # else it is another's: read anew
    )
    put_head(out, ARRAY, 3)
    put_uint(out, version.actor)
    put_uint(out, version.counter)
    put_uint(out, version.time)
    put_uint(out, <uint64_t>live)
    if give or alone:
        return _put_context(out, record, key, seal)
    return put_byte(out, CBOR_NULL)         # a context that covers siblings nobody was shown would overwrite them


cdef int _put_given(Buffer out, Record record, bint give) except -1:
    """Append the live versions, for a put that asked for them."""
    return _put_live(out, record) if give else put_byte(out, CBOR_NULL)


cdef int _put_receipt(Buffer out, int need, int primaries, int fallbacks, int synced, bint forwarded) except -1:
    cdef int flags = FLAG_FORWARDED if forwarded else 0
    if fallbacks:
        flags |= FLAG_SLOPPY
    if primaries == 0:
        flags |= FLAG_NO_PRIMARY
    put_head(out, ARRAY, 6)
    put_uint(out, need)
    put_uint(out, primaries + fallbacks)
    put_uint(out, primaries)
    put_uint(out, fallbacks)
    put_uint(out, synced)
    return put_uint(out, flags)


cdef class Lone(Pending):
    """A put of which this node alone decides, since nobody else serves the key: what its store accepts, and flushes
    where that is asked for, is the quorum. `Put` would come to the same, with a list of one to ask and to count."""

    cdef int accepted(self) except -1:
        if not self.flush:
            return self.conclude(False)
        self.home.enlist(self, self.patience_ms)
        return self.home.await_flush(self)

    cdef int covered(self) except -1:
        if self.home.pending.pop(self.rid, None) is None:
            return 0                        # its time was over
        return self.conclude(True)

    cdef int conclude(self, bint synced) except -1:
        self.synced = synced
        if _count_bits(self.home.view.mine(self.partition)) < self.wanted:
            self.client.fail(
                self.client_id, "uncertain", "write not confirmed: needed 1 replicas, 0 answered",
                {"needed": 1, "answered": 0},
            )                               # the seat was given away meanwhile
            return 0
        self.home.sample(self.home.now_ns - self.started_ns)
        if self.client.lost:
            return 0
        return self.client.written(self.client_id, self, self.give and self.record.value_bytes() >= _DIRECT_MAX)

    cdef int fields(self, Buffer out) except -1:
        _put_written(out, self.record, &self.version, self.key, self.give, self.home.seal)
        _put_receipt(out, 1, 1, 0, self.synced, self.forwarded)
        put_uint(out, self.home.clock)
        return _put_given(out, self.record, self.give)

    cdef int rejected(self, object error) except -1:
        return _fail_store(self.client, self.client_id, error)

    cdef int expired(self) except -1:
        self.home.pending.pop(self.rid, None)
        self.client.fail(
            self.client_id, "timeout", "write not confirmed in time: needed 1 replicas, 0 answered",
            {"needed": 1, "answered": 0},
        )
        return 0


cdef class Vote(Pending):
    """A put's own record waits for the flush that covers it."""

    cdef Put put
    cdef int rounds                         # of the put when this was written: a later one has a vote of its own

    cdef int covered(self) except -1:
        if self.rounds == self.put.rounds and self.home.pending.get(self.put.rid) is self.put:
            return self.put.vote(True)
        return 0


cdef class Put(Quorum):
    """One put or delete, from the local write to W acknowledgements, and on until every replica has it or a hint does.

    Source: Dynamo, sections 4.5 and 4.6.
    """

    cdef bint met(self) noexcept:
        if self.home.planted and "ack-before-w" in self.home.plants:
            return self.seats(False, False, False) >= 1
        return Quorum.met(self) and self.synced_enough(False)

    cdef bint synced_enough(self, bint asked) noexcept:
        """As `enough`, for those that have synced."""
        cdef int wanted = self.options.durable
        return wanted == 0 or (self.seats(False, asked, True) >= self.most(wanted) and self.united >= wanted)

    cdef bint hopeless(self) noexcept:
        return Quorum.hopeless(self) or not self.synced_enough(True)

    def lacking(self, bint asked):
        """See `Quorum`; last of all, those that must have synced."""
        what, needed, have = Quorum.lacking(self, asked)
        if have >= needed and self.options.durable:
            have = self.seats(False, asked, True)
            needed = self.most(self.options.durable)
            if have >= needed:
                needed, have = self.options.durable, self.united
            return "synced replicas", needed, have
        return what, needed, have

    cdef int most(self, int asked) noexcept:
        return asked if asked < self.hosts else self.hosts

    cdef int vote(self, bint synced) except -1:
        """Our own record counts."""
        cdef int place = self.place(self.home.me)
        cdef Slot *slot
        if place < 0 or self.slots[place].state != ASKED:
            return 0
        slot = &self.slots[place]
        slot.state = DONE
        slot.synced = synced
        if slot.target < 0:
            slot.stated = self.home.view.mine(self.partition)
        else:
            slot.kept = True
        return self.weigh()

    cdef int ask(self, int place) except -1:
        return self.send(place, self.record)

    cdef int send(self, int place, Record record) except -1:
        """Send the whole merged record to one node."""
        cdef Buffer out = self.home.scratch
        cdef Slot *slot = &self.slots[place]
        cdef Peer peer = self.peers[place]
        cdef Peer target
        cdef int flags = (REPORT if self.options.overwrite else 0) | (DURABLE if self.options.durable else 0)
        if slot.state != ASKED or peer.me:
            return 0
        slot.sent_ns = self.home.now_ns
        out.size = 0
        if slot.target >= 0:
            target = self.peers[slot.target]
            _put_store(out, self.rid, self.key, target.number, flags, self.round, record)
        else:
            _put_store(out, self.rid, self.key, 0, REPAIR if slot.extra else flags, self.round, record)
        return peer.link.send_message(self.rid, out.data, out.size)

    cdef int make_up(self, int place) except -1:
        """Another host stands in; without one, a surviving replica keeps a hint, which counts for nothing: this one."""
        cdef Slot *slot = &self.slots[place]
        cdef int origin = place if slot.target < 0 else slot.target
        cdef int i
        if slot.covered or slot.extra or slot.expected == 0:
            return 0
        Quorum.make_up(self, place)
        if self.slots[origin].state == DONE and self.slots[origin].stated:
            return 0
        for i in range(self.count):
            if self.slots[i].target == origin and self.slots[i].state in (ASKED, DONE) and not self.slots[i].covered:
                return 0
        return self.home.keep_hint(self, self.peers[origin])

    cdef int received(self, Peer who, int op, Cursor *body, Cursor *rest) except -1:
        cdef uint64_t seats = 0, flags = 0
        cdef Slot *slot
        cdef int place = self.place(who)
        if place < 0 or self.slots[place].state != ASKED:
            return 0
        slot = &self.slots[place]
        if op == ERROR:
            message = decode_item(body.at, body.end - body.at)
            if len(message) == 5 and message[2] == "stale-round" and isinstance(message[4], dict):
                number = message[4].get("round")
                if isinstance(number, int) and 0 <= number < 2**63 and len(self.home.stale) < STALE_MAX:
                    self.home.stale.append((self, place, number, self.home.now_ns))
                    return 0
            return self.fail(place)
        if op != STORED or not read_uint(rest, &seats) or seats > 0xFF or not read_uint(rest, &flags):
            return self.fail(place)
        who.answered(self.home.now_ns - slot.sent_ns)
        if read_null(rest):
            if not read_null(rest):
                self.compare(decode_record(PyBytes_FromStringAndSize(<const char *>rest.at, rest.end - rest.at)))
        else:
            self.take_owners(decode_item(body.at, body.end - body.at)[4])
            slot = &self.slots[place]       # those it asks may have needed more room
        slot.state = DONE
        slot.stated = <uint8_t>seats
        slot.synced = flags & STORED_SYNCED
        slot.kept = slot.target >= 0 and flags & STORED_KEPT
        if slot.target >= 0 and not slot.kept:
            slot.state = FAILED
            self.make_up(place)
        elif seats == 0 and slot.target < 0 and not slot.extra:
            self.reroute()
        return self.weigh()

    cdef int take_owners(self, object owners) except -1:
        """A node without a seat says who has them, as far as it knows: ask these too."""
        cdef int at
        if not isinstance(owners, list):
            raise ValueError("owners must be a list")
        for owner in owners:
            if not isinstance(owner, list) or len(owner) != 2 or not isinstance(owner[1], int) or not 0 < owner[1] < 256:
                raise ValueError("owners must be [node id, seats]")
            peer = self.home.node.peers.get(owner[0]) if isinstance(owner[0], bytes) else None
            if peer is not None and self.place(peer) < 0:
                at = self.enter(peer, owner[1], -1, False)
                if at >= 0:
                    self.ask(at)
        return 0

    cdef int compare(self, Record theirs) except -1:
        """Remember what a replica holds that an overwrite has not covered."""
        cdef Py_ssize_t i
        cdef Version *dot
        for i in range(theirs.dot_count):
            dot = &theirs.dots[i]
            if not self.record.covers(dot.actor, dot.counter):
                self.told = theirs if self.told is None else self.told.merged(theirs)
        return 0

    cdef int conclude(self) except -1:
        if self.told is not None and self.rounds == 0:
            return self.again()
        return Quorum.conclude(self)

    cdef int reply(self) except -1:
        return self.client.written(self.client_id, self, self.options.give and self.record.value_bytes() >= _DIRECT_MAX)

    cdef int fields(self, Buffer out) except -1:
        cdef bint give = self.options.give or (self.home.planted and "put-context" in self.home.plants)
        _put_written(out, self.record, &self.version, self.key, give, self.home.seal)
        self.receipt(out)
        put_uint(out, self.home.clock)
        return _put_given(out, self.record, self.options.give)

    cdef int again(self) except -1:
        """Cover what was told, and write once more: an answer of ok says that this value wins over all that was
        acknowledged before it was asked for.

        Once is enough. Every two write quorums meet, so the first answers have told all of that, and it is covered now.
        What is told later was under way at the same time, and either may win.
        """
        cdef Coordinator home = self.home
        cdef Local local
        cdef Record held, seen = self.told.merged(self.record)
        cdef int64_t left_ms = (self.deadline_ns - home.now_ns) // 1_000_000
        self.rounds += 1
        home.observe(self.told.newest())
        self.told = None
        self.finish()
        try:
            home.start(
                self, self.client, self.client_id, self.key, hash_bytes(self.key, 0), self.wanted,
                self.wanted_primaries, self.strict,
            )
            if self.strict and home.view.mine(self.partition) == 0:     # our own record would stand in for a seat
                raise UnavailableError("this node has given its seat of the key away", {"needed": self.need})
            home.check_reachable(self)
            held = home.replica.load(self.object_key, &local)   # it has just been written: seldom on disk alone
            home.write(self, held, &local, seen, True)
        except (StoreError, RequestError) as error:
            return self.rejected(error)
        self.patience_ms = left_ms if left_ms > 1 else 1
        return 0

    cdef int accepted(self) except -1:
        return self.home.replicate(self)

    cdef int rejected(self, object error) except -1:
        if self.rounds:
            return self.refuse("uncertain", f"the overwrite was beaten and could not be repeated: {error}", {})
        self.finish()
        return _fail_store(self.client, self.client_id, error)

    cdef int give_up(self) except -1:
        """Too few replicas are left; some may have the write, and this node has."""
        what, needed, have = self.lacking(False)
        return self.refuse(
            "uncertain", f"write not confirmed: needed {needed} {what}, {have} answered",
            {"needed": needed, "answered": have},
        )

    cdef int expired(self) except -1:
        cdef int i
        for i in range(self.count):
            if self.slots[i].state == ASKED:
                self.slots[i].state = FAILED
                if self.slots[i].target < 0 and self.slots[i].expected and not self.slots[i].covered:
                    self.home.keep_hint(self, self.peers[i])
        if self.replied:
            return self.finish()
        what, needed, have = self.lacking(False)
        return self.refuse(
            "timeout", f"write not confirmed in time: needed {needed} {what}, {have} answered",
            {"needed": needed, "answered": have},
        )


cdef class Relay(Pending):
    """A request for a key of which this node is no replica: passed on to the best replica, answered as that answers.

    A get goes on to the next replica when one fails, and asks a second one when the first is slow, within a budget. A
    put goes on only when the replica surely did nothing. With no replica left to ask, this node stands in itself.
    """

    cdef int next(self) except -1:
        """Send to the next replica that can be reached; return 0 if there is none."""
        cdef Buffer out = self.home.scratch
        cdef int64_t left_ms = (self.deadline_ns - self.home.now_ns) // 1_000_000
        cdef int pairs = 1
        cdef Peer peer
        while self.left:
            peer = self.left.pop()
            if peer.reachable() and left_ms > 0:
                break
        else:
            return 0
        self.asked.append(peer)
        out.size = 0
        put_head(out, ARRAY, 4 if self.op == GET else 7)
        put_uint(out, self.op)
        put_uint(out, self.rid)
        put_raw(out, PyBytes_AS_STRING(self.fields), PyBytes_GET_SIZE(self.fields))
        pairs += (self.options.need > 0) + (self.options.primaries > 0) + (self.options.durable > 0)
        pairs += self.options.strict + (self.options.time > 0) + self.options.overwrite + self.options.give
        put_head(out, MAP, pairs)
        put_text(out, b"timeout", 7)
        put_uint(out, left_ms)
        if self.options.need:
            put_text(out, b"r" if self.op == GET else b"w", 1)
            put_uint(out, self.options.need)
        if self.options.primaries:
            put_text(out, b"pr" if self.op == GET else b"pw", 2)
            put_uint(out, self.options.primaries)
        if self.options.durable:
            put_text(out, b"dw", 2)
            put_uint(out, self.options.durable)
        if self.options.strict:
            put_text(out, b"sloppy", 6)
            put_byte(out, CBOR_FALSE)
        if self.options.time:
            put_text(out, b"time", 4)
            put_uint(out, self.options.time)
        if self.options.overwrite:
            put_text(out, b"overwrite", 9)
            put_byte(out, CBOR_TRUE)
        if self.options.give:
            put_text(out, b"return", 6)
            put_byte(out, CBOR_TRUE)
        peer.link.send_message(self.rid, out.data, out.size)
        if self.op == GET and peer.latency_ns and self.left:
            self.home.remind(self, self.home.now_ns + max(HEDGE_MIN_NS, <int64_t>(HEDGE_FACTOR * peer.latency_ns)))
        return 1

    cdef int begin(self) except -1:
        """Ask the next replica; when there is none, stand in, or say so."""
        if self.next() or self.asked:
            return 0
        if not self.options.strict:
            return self.take_over()
        return self.fail("unavailable", f"needed {self.need} replicas, reachable 0",
                         {"needed": self.need, "reachable": 0})

    cdef int take_over(self) except -1:
        """No replica can be asked, and none has done anything: this node stands in for one."""
        cdef int64_t left_ms = (self.deadline_ns - self.home.now_ns) // 1_000_000
        cdef uint64_t position = hash_bytes(self.key, 0)
        self.home.pending.pop(self.rid, None)
        self.options.timeout_ms = <int>max(1, left_ms)
        if self.op == GET:
            return self.home.coordinate_get(self.client, self.client_id, self.key, position, &self.options)
        return self.home.coordinate_put(
            self.client, self.client_id, self.key, position, self.value, self.context, self.write_id, &self.options
        )

    cdef int received(self, Peer who, int op, Cursor *body, Cursor *rest) except -1:
        cdef uint64_t fields = 0
        if who not in self.asked:
            return 0
        message = decode_item(body.at, body.end - body.at) if op == ERROR else None
        read_expect(body, ARRAY, &fields)
        if op == ERROR and fields == 5 and isinstance(message[2], str):
            if message[2] in _ASK_ANOTHER:
                self.asked.remove(who)
                if self.next() or self.asked:
                    return 0
                if not self.options.strict:
                    return self.take_over()
        elif not ((self.op == GET and op == FOUND and fields == 6) or (self.op == PUT and op == WRITTEN and fields == 8)):
            raise ValueError("no answer to the request")
        else:
            who.answered(self.home.now_ns - self.started_ns)
            self.home.sample(self.home.now_ns - self.started_ns)
        if not self.client.lost:
            self.client.relayed(self.client_id, op, fields, rest)   # first: if it cannot be read, this still waits
        self.home.pending.pop(self.rid, None)
        return 0

    cdef int lost(self, Peer who) except -1:
        if who not in self.asked:
            return 0
        self.asked.remove(who)
        if self.op == GET:
            return self.begin()
        return self.fail("uncertain", "the coordinating replica was lost: the write may or may not be there",
                         {"needed": self.need, "answered": 0})

    cdef int gone(self, Peer who) except -1:
        return self.lost(who)

    cdef int suspected(self, Peer who) except -1:
        # Of a put the outcome is not known: it may still answer, and nobody else may be asked.
        if self.op == GET and who in self.asked:
            self.next()
        return 0

    cdef int expired(self) except -1:
        cdef Coordinator home = self.home
        if home.now_ns + BUCKET_NS < self.deadline_ns:
            if len(self.asked) == 1 and home.hedged * HEDGE_SHARE < home.relayed:
                home.hedged += self.next()
            return 0
        return self.fail("timeout", f"needed {self.need} replicas, none answered in time",
                         {"needed": self.need, "answered": 0})

    cdef int fail(self, str code, str message, object details) except -1:
        self.home.pending.pop(self.rid, None)
        self.client.fail(self.client_id, code, message, details)
        return 0


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


cdef int _count_bits(uint8_t mask) noexcept:
    cdef int i, count = 0
    for i in range(SEATS_MAX):
        count += mask >> i & 1
    return count


cdef int _fill_version(Version *to, object value, const uint8_t *write_id) noexcept:
    """Point a version without a dot at a client's value, which must outlive it; None: a tombstone."""
    to.size = -1 if value is None else PyBytes_GET_SIZE(value)
    to.value = NULL if value is None else <uint8_t *>PyBytes_AS_STRING(value)
    to.owner = NULL if value is None else <PyObject *>value
    memcpy(to.id, write_id, ID_SIZE)
    return 0


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

    # ---- what the node and the shell call

    def at(self, int64_t now_ns, int64_t wall_ms):
        """Tell the time: monotonic nanoseconds, and the wall clock for hybrid times."""
        self.turn(now_ns, wall_ms)

    cdef int turn(self, int64_t now_ns, int64_t wall_ms) except -1:
        self.now_ns = now_ns
        self.wall_ms = wall_ms
        return 0

    def link_down(self, Peer peer not None):
        """Requests cannot be sent to *peer* any more; answers will not come."""
        cdef Pending request
        self.commit()                       # what stands in is asked at once, with what must be accepted before
        peer.link = None
        for request in list(self.pending.values()):
            if self.pending.get(request.rid) is request:    # else it ended meanwhile
                request.gone(peer)

    def suspect(self, Peer peer not None):
        """*peer* is silent: it gets no new requests, and others stand in for those it has not answered."""
        cdef Pending request
        self.commit()
        peer.suspected = True
        for request in list(self.pending.values()):
            if self.pending.get(request.rid) is request:
                request.suspected(peer)

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
    def reads_wanted(self):
        """Whether a request waits for a record that nobody reads yet."""
        return self.wants_reads()

    cdef bint wants_reads(self) noexcept:
        return bool(self.unread)

    def take_reads(self, int limit):
        """Return the object keys of up to *limit* records that are to be read, the oldest first; `read` is owed."""
        return [self.unread.popleft() for _ in range(min(len(self.unread), limit))]

    def read(self, keys not None, found not None):
        """What a store's `get_many` has found under keys of `take_reads`: those that wait for it go on."""
        cdef bytes key
        cdef list waiters
        cdef Pending request
        for key, data in zip(keys, found):
            waiters = self.reads.pop(key)
            error = self.replica.arrive(key, data)
            for request in waiters:
                self.parked -= 1
                self.parked_bytes -= request.parked_bytes
                if self.pending.get(request.rid) is request:
                    request.arrived(error)
            if key not in self.reads:       # else somebody waits anew: it was written meanwhile
                self.replica.depart(key)

    @property
    def flush_wanted(self):
        """Whether an answer waits for a flush."""
        return self.awaits_flush()

    def after_flush(self, done not None):
        """Call *done* once everything written so far is durable."""
        cdef AfterFlush request = AfterFlush()
        request.done = done
        self.await_flush(request)

    def sweep(self):
        """End the requests whose deadline has passed, and send again what an old round number held up."""
        cdef int64_t bucket = self.now_ns // BUCKET_NS
        cdef Buffer rids
        cdef Pending request
        cdef Py_ssize_t i
        for due in sorted([b for b in self.wheel if b <= bucket]):
            rids = self.wheel.pop(due)
            self.last_rids = None           # it may have been this one
            for i in range(rids.size // <Py_ssize_t>sizeof(uint64_t)):
                request = self.pending.get((<uint64_t *>rids.data)[i])
                if request is not None:
                    request.expired()
        if self.stale:
            self.retry_stale()

    def take_dirty(self):
        """Return the connections that have output, or that close, since the last call."""
        return self.dirtied()

    cdef list dirtied(self):
        self.commit()
        cdef list dirty = self.dirty
        self.dirty = []
        return dirty

    cdef bint awaits_flush(self) noexcept:
        return bool(self.waiting)

    def take_latencies(self):
        """Return the durations (ns) of requests answered since the last call, at most 4096 of them."""
        cdef list taken = [self.samples[i] for i in range(self.sample_count)]
        self.sample_count = 0
        return taken

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
        if peer.me or peer.link is None or peer.link.lost:
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

    cdef int sample(self, int64_t took_ns) noexcept:
        if self.sample_count < SAMPLES_MAX:
            self.samples[self.sample_count] = <double>took_ns
            self.sample_count += 1
        return 0

    cdef int enlist(self, Pending request, int64_t timeout_ms) except -1:
        """Give a request its id and its deadline: a little early, so that the answer arrives in time."""
        request.home = self
        request.rid = self.next_rid
        self.next_rid += 1
        request.deadline_ns = self.now_ns + timeout_ms * 1_000_000 - timeout_ms * 50_000
        self.pending[request.rid] = request
        return self.remind(request, request.deadline_ns)

    cdef int remind(self, Pending request, int64_t when_ns) except -1:
        """Call ``expired`` of a request under way at that time, within a bucket."""
        cdef int64_t bucket = when_ns // BUCKET_NS
        if self.last_rids is None or bucket != self.last_bucket:
            self.last_rids = self.wheel.get(bucket)
            self.last_bucket = bucket
            if self.last_rids is None:
                self.last_rids = self.wheel[bucket] = Buffer()
        return put_raw(self.last_rids, &request.rid, sizeof(uint64_t))

    cdef int await_flush(self, Pending request) except -1:
        request.home = self
        request.sequence = self.disk.sequence
        self.waiting.append(request)
        return 0

    # ---- writes of one turn are accepted together, before anything that mentions them leaves

    cdef int stage(self, Pending request) except -1:
        """Let a request go on once the store has accepted what it has staged."""
        request.home = self
        self.staged.append(request)
        if request.written is not None:
            self.staged_bytes += request.written.value_bytes()
        return 0

    cdef int bound_staged(self) except -1:
        """Commit early when much is staged: a batch holds up everything else."""
        if self.staged_bytes >= STAGED_BYTES_MAX or len(self.staged) >= STAGED_MAX:
            return self.commit()
        return 0

    cpdef int commit(self) except -1:
        """Let the store accept what is staged, and those that wait for that go on; or refuse them all."""
        cdef list staged
        cdef Pending request
        while self.staged:
            staged, self.staged = self.staged, []
            self.staged_bytes = 0
            try:
                self.disk.commit()
            except StoreError as error:
                for request in reversed(staged):
                    request.undo()
                for request in staged:
                    request.rejected(error)
                continue
            for request in staged:
                request.accepted()
        return 0

    cdef Record glance(self, bytes object_key, Local *local):
        """Return the record to answer with, one that the store has accepted; None: `await_read`."""
        if self.reads and object_key in self.reads:
            return None                     # behind those that came before
        if self.staged and object_key in self.replica.staged:
            self.commit()
        return self.replica.glance(object_key, local)

    cdef Record glance_staged(self, bytes object_key, Local *local):
        """Return the record to write upon, perhaps one that is staged; None: `await_read`."""
        if self.reads and object_key in self.reads:
            return None
        return self.replica.glance(object_key, local)

    # ---- reads in the background

    cdef int check_parked(self, Py_ssize_t size) except -1:
        """Refuse what would have to wait for the disk when too much does: it cannot keep up, or hangs."""
        if self.parked >= PARKED_MAX or self.parked_bytes + size > PARKED_BYTES_MAX:
            raise StoreBusyError(f"{self.parked} requests wait for the disk")
        return 0

    cdef int await_read(self, Pending request) except -1:
        """Let a request under way go on (`arrived`) once the record of its key has been read."""
        cdef list waiters = self.reads.get(request.object_key)
        if waiters is None:
            waiters = self.reads[request.object_key] = []
            self.replica.expect(request.object_key)
            self.unread.append(request.object_key)
        waiters.append(request)
        self.parked += 1
        self.parked_bytes += request.parked_bytes
        return 0

    cdef int park(
        self, Parked request, Connection conn, uint64_t id, bytes key, bytes object_key, Py_ssize_t size, int timeout_ms
    ) except -1:
        """Put a request off until the record of its key has been read."""
        self.check_parked(size)
        request.conn = conn
        request.id = id
        request.key = key
        request.object_key = object_key
        request.parked_bytes = size
        self.enlist(request, timeout_ms)
        return self.await_read(request)

    # ---- the handler: what connections call

    cdef int touched(self, Connection conn) except -1:
        self.dirty.append(conn)
        return 0

    cdef int answer(self, Connection conn, int op, uint64_t id, Cursor *body, Cursor *rest) except -1:
        cdef Pending request = self.pending.get(id)
        cdef Peer peer = conn.peer
        peer.heard_ns = self.now_ns
        if request is not None:             # else nobody waits for it any more
            if isinstance(request, Call):   # a machine goes on, and may rely on what it reads
                self.commit()
            try:
                request.received(peer, op, body, rest)
            except ValueError as error:
                conn.refuse(id, "bad-request", f"malformed answer: {error}", {})
                conn.close()
        return 0

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


cdef class AfterFlush(Pending):
    """A rare step that waits for a flush."""

    cdef object done

    cdef int covered(self) except -1:
        self.done()
        return 0


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
