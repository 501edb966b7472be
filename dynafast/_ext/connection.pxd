"""One connection, without its socket: bytes in, requests to a handler, bytes out. See ``_ext/connection.pyx``."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from dynafast._ext.clock cimport Record
from dynafast._ext.codec cimport Buffer, Cursor, FrameSplitter, PartJoiner


cdef enum:
    READ_BELOW = 4 * 1024 * 1024    # bytes of unsent output
    DEFAULT_TIMEOUT_MS = 5000       # of a request that names none


cdef enum Op:
    HELLO = 0
    PING = 1
    GET = 2
    PUT = 3
    RING = 4
    STATUS = 5
    OK = 8
    FOUND = 9
    WRITTEN = 10
    ERROR = 11
    PART = 12
    FETCHED = 14
    STORED = 15
    FETCH = 16
    STORE = 17
    GOSSIP = 18
    JOIN = 19
    CLAIM = 20
    ROOTS = 21
    KEYS = 22
    READ = 23
    MERGE = 24
    TREE = 25
    ROUND = 26
    REAP = 27
    GIVE = 28
    HINT = 29
    LEAVE = 30
    REMOVE = 31
    WEIGHT = 32
    PLAN = 33
    CHECK = 34
    PERMIT = 35


cdef enum Role:
    NEW = 0                         # accepted, no hello yet
    CLIENT = 1                      # accepted from a client
    PEER = 2                        # accepted from another node: its requests, our answers
    DIALLING = 3                    # opened by us, no hello answer yet
    JOINER = 5                      # accepted from a node that is not yet of the cluster: may only ask to join
    LINK = 4                        # opened by us to another node: our requests, its answers


cdef struct Options:
    int need                        # r or w; 0: the cluster's
    int primaries                   # pr or pw: how many of them must be seats; 0: as many as come
    int durable                     # dw: how many must have it on disk, fsynced; 0: as the node's durability says
    bint strict                     # sloppy=false: nobody stands in
    int timeout_ms
    uint64_t time                   # the client's hybrid time; 0: none
    bint overwrite
    bint give                       # answer the live versions


cdef enum StoreFlag:                # of STORE
    REPORT = 1                      # answer the merged record if it has several versions
    DURABLE = 2                     # answer after a flush, in every durability
    REPAIR = 4                      # no client's write: only for a node that serves or pulls the partition


cdef struct Problem:                # why a frame cannot be taken
    const char *code
    const char *text


cdef class Connection


cdef class Outcome:
    """How a get or a put went; a connection says it in the words of its protocol."""
    cdef int fields(self, Buffer out) except -1     # of the frame FOUND or WRITTEN, behind its id
    cdef Record versions(self)                      # of a get: all that are there, tombstones too
    cdef bytes context(self)                        # of a get: for the put that replaces them; None: nothing is there


cdef class Handler:
    """What a connection asks of its node. Every method may write to any connection's output, and returns at once."""
    # These two return 1 for a request that was passed on or put off: others may take effect before it. Else 0.
    cdef int get(self, Connection conn, uint64_t id, bytes key, const Options *options) except -1
    cdef int put(
        self, Connection conn, uint64_t id, bytes key, object value, bytes context, const uint8_t *write_id,
        const Options *options,
    ) except -1
    cdef int fetch(self, Connection conn, uint64_t id, bytes key, bint has_digest, uint64_t digest) except -1
    cdef int store(
        self, Connection conn, uint64_t id, bytes key, uint64_t target, int flags, uint64_t round, bytes record
    ) except -1
    cdef int answer(self, Connection conn, int op, uint64_t id, Cursor *body, Cursor *rest) except -1
    cdef int touched(self, Connection conn) except -1
    # What the shell asks, when it is compiled too.
    cdef int turn(self, int64_t now_ns, int64_t wall_ms) except -1      # tells the time, before anything else
    cdef list dirtied(self)         # connections with output, or that close, since the last call
    cdef bint awaits_flush(self) noexcept
    cdef bint wants_reads(self) noexcept


cdef class Connection:
    cdef Handler handler
    cdef object node                # answers what is not hot
    cdef FrameSplitter splitter
    cdef PartJoiner parts
    cdef bint joined                # the message at hand came in parts: a part must not hold parts
    cdef Buffer out
    cdef int role_code
    cdef bint dirty                 # the handler knows that there is output
    cdef readonly bint closing      # close once the output is sent
    cdef readonly bint lost         # the transport is gone
    cdef readonly int outstanding   # requests of the other side that wait for an answer
    cdef readonly bint full         # so much waits to be sent, or answered, that the rest of the input has to wait
    cdef public object peer         # of links and peers: the `Peer` at the other end
    cdef int feed_raw(self, const uint8_t *data, Py_ssize_t size) except -1
    cpdef int resume(self) except -1
    cdef bint _begun(self) noexcept
    cdef int touch(self) except -1
    cdef Py_ssize_t begin_message(self, int fields, int op, uint64_t id) except -1
    cdef int end_answer(self, Py_ssize_t start) except -1
    cdef int end_request(self, Py_ssize_t start) except -1
    cdef int send_message(self, uint64_t id, const uint8_t *item, Py_ssize_t size) except -1
    cdef int settle(self) except -1
    cdef int found(self, uint64_t id, Outcome outcome, bint large) except -1
    cdef int written(self, uint64_t id, Outcome outcome, bint large) except -1
    cdef int relayed(self, uint64_t id, int op, uint64_t fields, Cursor *rest) except -1
    cdef int _answer(self, uint64_t id, int fields, int op, Outcome outcome, bint large) except -1
    cdef int refuse(self, uint64_t id, object code, object message, object details) except -1
    cdef int _frame(self, Cursor *body) except -1
    cdef bint _handle(self, Cursor *body, uint64_t *id, Problem *why) except -1
    cdef bint _admit(self, uint64_t id) except -1
    cdef bint _get(self, Cursor *c, uint64_t id, Problem *why) except -1
    cdef bint _put(self, Cursor *c, uint64_t id, Problem *why) except -1
    cdef bint _fetch(self, Cursor *c, uint64_t id, Problem *why) except -1
    cdef bint _store(self, Cursor *c, uint64_t id, Problem *why) except -1
    cdef bint _part(self, Cursor *c, uint64_t id, uint64_t fields, Problem *why) except -1
    cdef bint _cold(self, Cursor *body, int op, uint64_t id) except -1
    cdef bint _hello(self, Cursor *body, uint64_t op, Problem *why) except -1
