# Puts and deletes, from the accepted record to the last acknowledgement or hint.


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
    Buffer out, Record record, const Version *version, bytes key, bint give, uint64_t seal
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


cdef int _fill_version(Version *to, object value, const uint8_t *write_id) noexcept:
    """Point a version without a dot at a client's value, which must outlive it; None: a tombstone."""
    to.size = -1 if value is None else PyBytes_GET_SIZE(value)
    to.value = NULL if value is None else <uint8_t *>PyBytes_AS_STRING(value)
    to.owner = NULL if value is None else <PyObject *>value
    memcpy(to.id, write_id, ID_SIZE)
    return 0
