# Where requests under way live: their ids and deadlines, what they wait for (a flush, the disk), and the time.


cdef class Home(Handler):
    """The part of a coordinator that knows nothing of what requests are for."""

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
        request.home = <Coordinator>self
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
        request.home = <Coordinator>self
        request.sequence = self.disk.sequence
        self.waiting.append(request)
        return 0

    # ---- writes of one turn are accepted together, before anything that mentions them leaves

    cdef int stage(self, Pending request) except -1:
        """Let a request go on once the store has accepted what it has staged."""
        request.home = <Coordinator>self
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

    # ---- what connections call for all requests

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
