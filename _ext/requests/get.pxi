# Gets, from the digest of this node's own record to read repair.


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


cdef int _put_context(Buffer out, Record record, bytes key, uint64_t seal) except -1:
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
