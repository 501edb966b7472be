# Requests for keys of which this node is no replica.


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
