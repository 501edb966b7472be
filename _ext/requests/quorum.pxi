# Whom a request asks, who answered, with which seats, and whether that is enough. This file owns the counting.


cdef int _count_bits(uint8_t mask) noexcept:
    cdef int i, count = 0
    for i in range(SEATS_MAX):
        count += mask >> i & 1
    return count


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
