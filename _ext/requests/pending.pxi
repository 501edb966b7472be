# What waits for answers of peers, for the disk, for a flush, or for its deadline.


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


cdef class AfterFlush(Pending):
    """A rare step that waits for a flush."""

    cdef object done

    cdef int covered(self) except -1:
        self.done()
        return 0
