"""One connection without its socket: cuts frames, parses requests, hands them to the node, gathers the answers.

Hostile input ends here: whatever the bytes, the outcome is a typed error frame, or a closed connection where the
framing is lost. Hot requests are parsed straight from the received bytes; one that is encoded unusually is decoded in
general, encoded canonically and parsed again, so that every valid CBOR encoding is accepted by one parser.

May not: touch a socket, a clock or a store; know what a record means.
"""

from dynafast.errors import PeerProtocolError, RequestError
from dynafast.limits import KEY_MAX, REPLICAS_MAX_COUNT, TIMEOUT_MAX_MS, VALUE_MAX, WIRE_VERSION

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp

from dynafast._ext.clock cimport Record
from dynafast._ext.codec cimport (
    ARRAY,
    MAP,
    TEXT,
    close_frame,
    decode_item,
    emit_message,
    encode_item,
    load_be,
    open_frame,
    put_head,
    put_raw,
    put_uint,
    read_bool,
    read_bytes,
    read_expect,
    read_null,
    read_uint,
)

cdef enum:
    ID_SIZE = 16                    # of a write id
    NODE_ID_SIZE = 8
    CONTEXT_MAX = 1024 * 1024
    OUTSTANDING_MAX = 1024          # requests of one client's connection waiting for answers
    PEER_OUTSTANDING_MAX = 65536    # of a peer's: it carries those of many clients, and bounds them itself
    RETRY_AFTER_MS = 50

cdef Py_ssize_t _KEY_MAX = KEY_MAX
cdef Py_ssize_t _VALUE_MAX = VALUE_MAX
cdef int _TIMEOUT_MAX_MS = TIMEOUT_MAX_MS
cdef int _REPLICAS_MAX = REPLICAS_MAX_COUNT

__all__ = ["OUTPUT_HIGH", "Connection", "Handler", "Outcome"]

OUTPUT_HIGH = READ_BELOW            # above this much unsent output the shell stops reading from the connection


cdef bint _reject(Problem *why, const char *code, const char *text) noexcept:
    why.code = code
    why.text = text
    return False


cdef inline bint _is(const uint8_t *text, Py_ssize_t size, const char *name, Py_ssize_t length) noexcept:
    return size == length and memcmp(text, name, length) == 0


cdef bint _read_small(Cursor *c, int low, int high, int *value) noexcept:
    cdef uint64_t n
    if not read_uint(c, &n) or n < <uint64_t>low or n > <uint64_t>high:
        return False
    value[0] = <int>n
    return True


cdef bint _read_option(Cursor *c, bint is_put, Options *to, Problem *why) noexcept:
    cdef uint64_t size
    cdef const uint8_t *name
    if not read_expect(c, TEXT, &size) or size > <uint64_t>(c.end - c.at):
        return _reject(why, b"bad-request", b"option names must be text")
    name = c.at
    c.at += size
    if _is(name, size, b"timeout", 7):
        return _read_small(c, 1, _TIMEOUT_MAX_MS, &to.timeout_ms) or _reject(
            why, b"bad-request", b"option timeout must be an integer in 1..60000 (milliseconds)")
    if _is(name, size, b"time", 4):
        return read_uint(c, &to.time) or _reject(why, b"bad-request", b"option time must be an unsigned integer")
    if _is(name, size, b"w" if is_put else b"r", 1):
        return _read_small(c, 1, _REPLICAS_MAX, &to.need) or _reject(
            why, b"bad-request", b"options r and w must be integers in 1..8")
    if _is(name, size, b"pw" if is_put else b"pr", 2):
        return _read_small(c, 1, _REPLICAS_MAX, &to.primaries) or _reject(
            why, b"bad-request", b"options pr and pw must be integers in 1..8")
    if is_put and _is(name, size, b"dw", 2):
        return _read_small(c, 1, _REPLICAS_MAX, &to.durable) or _reject(
            why, b"bad-request", b"option dw must be an integer in 1..8")
    if _is(name, size, b"sloppy", 6):
        if not read_bool(c, &to.strict):
            return _reject(why, b"bad-request", b"option sloppy must be a boolean")
        to.strict = not to.strict
        return True
    if is_put and _is(name, size, b"overwrite", 9):
        return read_bool(c, &to.overwrite) or _reject(why, b"bad-request", b"option overwrite must be a boolean")
    if is_put and _is(name, size, b"return", 6):
        return read_bool(c, &to.give) or _reject(why, b"bad-request", b"option return must be a boolean")
    return _reject(why, b"bad-request", b"unknown option")


cdef bint _read_options(Cursor *c, bint is_put, Options *to, Problem *why) noexcept:
    cdef uint64_t pairs, i
    to.need = to.primaries = to.durable = 0
    to.strict = False
    to.timeout_ms = DEFAULT_TIMEOUT_MS
    to.time = 0
    to.overwrite = False
    to.give = False
    if not read_null(c):
        if not read_expect(c, MAP, &pairs):
            return _reject(why, b"bad-request", b"options must be a map or null")
        for i in range(pairs):
            if not _read_option(c, is_put, to, why):
                return False
    if c.at != c.end:
        return _reject(why, b"bad-request", b"too many fields")
    return True


cdef bint _read_key(Cursor *c, const uint8_t **key, Py_ssize_t *size, Problem *why) noexcept:
    if not read_bytes(c, key, size):
        return _reject(why, b"bad-request", b"the key must be a byte string")
    if size[0] == 0:
        return _reject(why, b"bad-request", b"the key must not be empty")
    if size[0] > _KEY_MAX:
        return _reject(why, b"too-large", b"the key must have at most 4096 bytes")
    return True


cdef class Outcome:
    """What a request has come to; `dynafast._ext.coordinator` has the real ones."""

    cdef int fields(self, Buffer out) except -1:
        raise NotImplementedError

    cdef Record versions(self):
        raise NotImplementedError

    cdef bytes context(self):
        raise NotImplementedError


cdef class Handler:
    """The node as a connection sees it; `dynafast._ext.coordinator` has the real one."""

    cdef int get(self, Connection conn, uint64_t id, bytes key, const Options *options) except -1:
        raise NotImplementedError

    cdef int put(
        self, Connection conn, uint64_t id, bytes key, object value, bytes context, const uint8_t *write_id,
        const Options *options,
    ) except -1:
        raise NotImplementedError

    cdef int fetch(self, Connection conn, uint64_t id, bytes key, bint has_digest, uint64_t digest) except -1:
        raise NotImplementedError

    cdef int store(
        self, Connection conn, uint64_t id, bytes key, uint64_t target, int flags, uint64_t round, bytes record
    ) except -1:
        raise NotImplementedError

    cdef int answer(self, Connection conn, int op, uint64_t id, Cursor *body, Cursor *rest) except -1:
        raise NotImplementedError

    cdef int touched(self, Connection conn) except -1:
        raise NotImplementedError

    cdef int turn(self, int64_t now_ns, int64_t wall_ms) except -1:
        raise NotImplementedError

    cdef list dirtied(self):
        raise NotImplementedError

    cdef bint awaits_flush(self) noexcept:
        return False

    cdef bint wants_reads(self) noexcept:
        return False


cdef class Connection:
    """One end of a connection.

    The shell calls `feed` with what it received, sends what `take` returns, closes the socket when `closing` is set
    and all is sent, and calls `drop` when the transport ends. While `full` is set it reads nothing more from the
    socket; once all is sent it calls `resume`. ``node`` answers what is not hot: ``hello(connection,
    fields)`` returns the fields to answer or raises, ``cold(connection, op, id, fields)``, ``linked(connection,
    fields)``, ``refused(connection, code, message, details)`` and ``dropped(connection)``.
    """

    def __init__(self, Handler handler not None, node, *, hello=None):
        cdef Py_ssize_t start
        self.handler = handler
        self.node = node
        self.splitter = FrameSplitter()
        self.parts = PartJoiner()
        self.out = Buffer()
        if hello is None:
            self.role_code = NEW
        else:
            self.role_code = DIALLING
            self.request(HELLO, 0, [hello])

    @property
    def role(self):
        """``new``, ``client``, ``peer``, ``dialling``, ``link`` or ``joiner``."""
        return ("new", "client", "peer", "dialling", "link", "joiner")[self.role_code]

    @property
    def unsent(self):
        """Bytes of output that wait for `take`."""
        return self.out.size

    @property
    def unfinished(self):
        """Whether more must come soon: the hello is missing, or a frame or a message in parts has only begun."""
        return not self.full and (self.role_code == NEW or self.role_code == DIALLING or self._begun())

    def give_up(self):
        """What is `unfinished` did not go on for too long: close, and say why if something has begun."""
        if self._begun():
            self.refuse(0, "bad-request", "silence in the middle of a frame", {})
        self.close()

    cdef bint _begun(self) noexcept:
        return self.splitter.rest.size > 0 or self.parts.size > 0

    def feed(self, bytes data not None):
        """Handle all frames that *data* completes."""
        self.feed_raw(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int feed_raw(self, const uint8_t *data, Py_ssize_t size) except -1:
        """As `feed`; *data* is not used any more when this returns."""
        cdef Cursor body
        if self.closing or self.lost:
            return 0
        try:
            self.splitter.begin(data, size)
            while not self.closing and not self.full and self.splitter.next(&body):
                self._frame(&body)
                self.full = self.out.size > READ_BELOW
            self.splitter.finish()
        except PeerProtocolError as error:
            self.refuse(0, "bad-request", str(error), {})
            self.close()
        return 0

    cpdef int resume(self) except -1:
        """All output is sent, or there never was any: go on with the input that had to wait while `full`.

        Called again whenever the connection is dirty: it may be `full` of requests that wait, too.
        """
        self.full = False
        return self.feed_raw(NULL, 0)

    def take(self):
        """Return the output gathered so far, as one piece."""
        self.dirty = False
        return self.out.take()

    def close(self):
        """Close after the output is sent; nothing more is read."""
        self.closing = True
        self.touch()

    def drop(self):
        """The transport has ended: forget the output; waiting answers are dropped when they come."""
        if not self.lost:
            self.lost = True
            self.closing = True
            self.out = Buffer()
            self.node.dropped(self)

    def request(self, int op, uint64_t id, list fields not None):
        """Send ``[op, id, *fields]`` to the other node."""
        cdef Buffer body = Buffer()
        encode_item(body, [op, id, *fields], 0)
        self.send_message(id, body.data, body.size)

    def reply(self, uint64_t id, result):
        """Answer a request with OK."""
        cdef Buffer body = Buffer()
        encode_item(body, [<int>OK, id, result], 0)
        self.send_message(id, body.data, body.size)
        self.settle()

    def fail(self, uint64_t id, str code not None, str message not None, details=None):
        """Answer a request with a typed error."""
        self.refuse(id, code, message, details)
        self.settle()

    # ---- output

    cdef int touch(self) except -1:
        if not self.dirty:
            self.dirty = True
            self.handler.touched(self)
        return 0

    cdef Py_ssize_t begin_message(self, int fields, int op, uint64_t id) except -1:
        cdef Py_ssize_t start = open_frame(self.out)
        put_head(self.out, ARRAY, fields)
        put_uint(self.out, op)
        put_uint(self.out, id)
        return start

    cdef int end_answer(self, Py_ssize_t start) except -1:
        close_frame(self.out, start)
        self.settle()
        return self.touch()

    cdef int end_request(self, Py_ssize_t start) except -1:
        close_frame(self.out, start)
        return self.touch()

    cdef int send_message(self, uint64_t id, const uint8_t *item, Py_ssize_t size) except -1:
        if self.lost:
            return 0
        emit_message(self.out, id, item, size)
        return self.touch()

    cdef int settle(self) except -1:
        """One request of the other side has its answer."""
        if self.outstanding > 0:
            self.outstanding -= 1
        return 0

    cdef int found(self, uint64_t id, Outcome outcome, bint large) except -1:
        """Answer a get; *large*: the answer may be too much for one frame."""
        return self._answer(id, 6, FOUND, outcome, large)

    cdef int written(self, uint64_t id, Outcome outcome, bint large) except -1:
        """Answer a put; *large*, as for `found`."""
        return self._answer(id, 8, WRITTEN, outcome, large)

    cdef int _answer(self, uint64_t id, int fields, int op, Outcome outcome, bint large) except -1:
        """Send an answer: straight into the output, or, when it may need parts, as a message of its own first."""
        cdef Buffer out
        cdef Py_ssize_t start
        if not large:
            start = self.begin_message(fields, op, id)
            outcome.fields(self.out)
            return self.end_answer(start)
        out = Buffer()
        put_head(out, ARRAY, fields)
        put_uint(out, op)
        put_uint(out, id)
        outcome.fields(out)
        self.settle()
        return self.send_message(id, out.data, out.size)

    cdef int relayed(self, uint64_t id, int op, uint64_t fields, Cursor *rest) except -1:
        """Pass on what another coordinator has answered: FOUND, WRITTEN or ERROR; *rest* is what follows its id."""
        cdef Buffer out = Buffer()
        put_head(out, ARRAY, fields)
        put_uint(out, op)
        put_uint(out, id)
        put_raw(out, rest.at, rest.end - rest.at)
        self.settle()
        return self.send_message(id, out.data, out.size)

    cdef int refuse(self, uint64_t id, object code, object message, object details) except -1:
        cdef Buffer body = Buffer()
        encode_item(body, [<int>ERROR, id, code, message, details or {}], 0)
        return self.send_message(id, body.data, body.size)

    # ---- input

    cdef int _frame(self, Cursor *body) except -1:
        """Handle one message, or answer why it cannot be taken."""
        cdef Problem why
        cdef Cursor again
        cdef Buffer canonical
        cdef uint64_t id = 0
        _reject(&why, b"bad-request", b"a frame must hold one CBOR array [op, id, ...]")
        if self._handle(body, &id, &why):
            return 0
        canonical = _canonical(body)
        if canonical is not None:
            again.at = canonical.data
            again.end = canonical.data + canonical.size
            if self._handle(&again, &id, &why):
                return 0
        self.refuse(id, (<bytes>why.code).decode(), (<bytes>why.text).decode(), {})
        if self.role_code == NEW or self.role_code == DIALLING:
            self.close()
        return 0

    cdef bint _handle(self, Cursor *body, uint64_t *id, Problem *why) except -1:
        """Parse and handle one message; False, and nothing done, when it cannot be parsed as it stands."""
        cdef Cursor c = body[0]
        cdef uint64_t fields, op
        if not read_expect(&c, ARRAY, &fields) or fields < 2 or not read_uint(&c, &op) or not read_uint(&c, id):
            return False
        if self.role_code == NEW or self.role_code == DIALLING:
            return self._hello(body, op, why)
        if op == PART and (self.role_code == PEER or self.role_code == LINK):
            return self._part(&c, id[0], fields, why)
        if self.role_code == LINK:
            self.handler.answer(self, <int>op if op < 0xFF else 0xFF, id[0], body, &c)
            return True
        if op == GET and fields == 4:
            return self._get(&c, id[0], why)
        if op == PUT and fields == 7:
            return self._put(&c, id[0], why)
        if self.role_code == PEER and op == FETCH and fields == 4:
            return self._fetch(&c, id[0], why)
        if self.role_code == PEER and op == STORE and fields == 7:
            return self._store(&c, id[0], why)
        if (
            op in (PING, RING, STATUS, LEAVE, REMOVE, WEIGHT, PLAN, CHECK)
            or (self.role_code == PEER and (op == GOSSIP or CLAIM <= op <= HINT or op == PERMIT))
            or (self.role_code == JOINER and op == JOIN)
        ):
            return self._cold(body, <int>op, id[0])
        if op in (GET, PUT) or (self.role_code == PEER and op in (FETCH, STORE)):
            return _reject(why, b"bad-request", b"wrong number of fields")
        return _reject(why, b"unknown-op", b"no such operation for this role")

    cdef bint _admit(self, uint64_t id) except -1:
        """Count a request of the other side; answer it at once when too many wait already."""
        cdef int most = PEER_OUTSTANDING_MAX if self.role_code == PEER else OUTSTANDING_MAX
        self.outstanding += 1
        if self.outstanding <= most:
            return True
        self.fail(id, "overloaded", f"more than {most} requests of this connection are waiting",
                  {"retry_after_ms": RETRY_AFTER_MS})
        return False

    cdef bint _get(self, Cursor *c, uint64_t id, Problem *why) except -1:
        cdef const uint8_t *key
        cdef Py_ssize_t size
        cdef Options options
        if not _read_key(c, &key, &size, why) or not _read_options(c, False, &options, why):
            return False
        if self._admit(id):
            self.handler.get(self, id, PyBytes_FromStringAndSize(<const char *>key, size), &options)
        return True

    cdef bint _put(self, Cursor *c, uint64_t id, Problem *why) except -1:
        cdef const uint8_t *key
        cdef const uint8_t *value = NULL
        cdef const uint8_t *context = NULL
        cdef const uint8_t *write_id
        cdef Py_ssize_t key_size, size = 0, context_size = 0, id_size
        cdef Options options
        if not _read_key(c, &key, &key_size, why):
            return False
        if not read_null(c) and not read_bytes(c, &value, &size):
            return _reject(why, b"bad-request", b"the value must be a byte string, or null to delete")
        if size > _VALUE_MAX:
            return _reject(why, b"too-large", b"the value must have at most 8388608 bytes")
        if not read_null(c) and not read_bytes(c, &context, &context_size):
            return _reject(why, b"bad-request", b"the context must be a byte string or null")
        if context_size > CONTEXT_MAX:
            return _reject(why, b"bad-context", b"the context is too long to be one of ours")
        if not read_bytes(c, &write_id, &id_size) or id_size != ID_SIZE:
            return _reject(why, b"bad-request", b"the write id must be a byte string of 16 bytes")
        if not _read_options(c, True, &options, why):
            return False
        if value == NULL and context == NULL:
            return _reject(why, b"bad-request", b"a delete needs the context of a get")
        if self._admit(id):
            self.handler.put(
                self, id, PyBytes_FromStringAndSize(<const char *>key, key_size),
                None if value == NULL else PyBytes_FromStringAndSize(<const char *>value, size),
                None if context == NULL else PyBytes_FromStringAndSize(<const char *>context, context_size),
                write_id, &options,
            )
        return True

    cdef bint _fetch(self, Cursor *c, uint64_t id, Problem *why) except -1:
        cdef const uint8_t *key
        cdef Py_ssize_t size
        cdef uint64_t digest = 0
        cdef bint has_digest
        if not _read_key(c, &key, &size, why):
            return False
        has_digest = read_uint(c, &digest)
        if (not has_digest and not read_null(c)) or c.at != c.end:
            return _reject(why, b"bad-request", b"FETCH must be [16, id, key, digest or null]")
        if self._admit(id):
            self.handler.fetch(self, id, PyBytes_FromStringAndSize(<const char *>key, size), has_digest, digest)
        return True

    cdef bint _store(self, Cursor *c, uint64_t id, Problem *why) except -1:
        cdef const uint8_t *key
        cdef Py_ssize_t size
        cdef const uint8_t *target = NULL
        cdef Py_ssize_t target_size = NODE_ID_SIZE
        cdef int flags
        cdef uint64_t round = 0
        if not _read_key(c, &key, &size, why):
            return False
        if (
            not (read_null(c) or read_bytes(c, &target, &target_size)) or target_size != NODE_ID_SIZE
            or not _read_small(c, 0, REPORT | DURABLE | REPAIR, &flags) or not read_uint(c, &round)
        ):
            return _reject(why, b"bad-request", b"STORE must be [17, id, key, target or null, flags, round, record]")
        if self._admit(id):
            self.handler.store(
                self, id, PyBytes_FromStringAndSize(<const char *>key, size),
                0 if target == NULL else load_be(target, NODE_ID_SIZE), flags, round,
                PyBytes_FromStringAndSize(<const char *>c.at, c.end - c.at),
            )
        return True

    cdef bint _part(self, Cursor *c, uint64_t id, uint64_t fields, Problem *why) except -1:
        cdef const uint8_t *chunk
        cdef Py_ssize_t size
        cdef bint last
        cdef Cursor body
        cdef bytes whole
        if self.joined or fields != 4 or not read_bool(c, &last) or not read_bytes(c, &chunk, &size) or c.at != c.end:
            return _reject(why, b"bad-request", b"PART must be [12, id, last, chunk]")
        whole = self.parts.add(id, last, PyBytes_FromStringAndSize(<const char *>chunk, size))
        if whole is not None:
            body.at = <const uint8_t *><const char *>whole
            body.end = body.at + len(whole)
            self.joined = True
            self._frame(&body)
            self.joined = False
        return True

    cdef bint _cold(self, Cursor *body, int op, uint64_t id) except -1:
        """Hand a rare message to the node as Python objects."""
        cdef list fields
        try:
            fields = decode_item(body.at, body.end - body.at)
        except ValueError:
            return False
        if self._admit(id):
            try:
                self.node.cold(self, op, id, fields[2:])
            except RequestError as error:
                self.fail(id, error.code, str(error), error.details)
        return True

    cdef bint _hello(self, Cursor *body, uint64_t op, Problem *why) except -1:
        """The first message of each side. A refusal is answered with a typed error, then the connection closes."""
        try:
            message = decode_item(body.at, body.end - body.at)
        except ValueError:
            return False
        try:
            if self.role_code == DIALLING:
                self._linked(<int>op, message)
            elif op != HELLO or len(message) != 3 or not isinstance(message[2], dict):
                return _reject(why, b"bad-request", b"the first frame must be a HELLO: [0, 0, map]")
            else:
                answer = self.node.hello(self, message[2])
                if message[2]["role"] == "client":
                    self.role_code = CLIENT
                else:
                    self.role_code = JOINER if message[2].get("cluster") is None else PEER
                self.request(HELLO, 0, [answer])
        except RequestError as error:
            self.refuse(0, error.code, str(error), error.details)
            self.close()
        return True

    def _linked(self, int op, list message):
        if op == HELLO and len(message) == 3 and isinstance(message[2], dict):
            self.role_code = LINK
            self.node.linked(self, message[2])
            return
        if op == ERROR and len(message) == 5:
            self.node.refused(self, str(message[2]), str(message[3]), message[4])
        else:
            self.node.refused(self, "bad-request", "the answer to a HELLO must be a HELLO or an ERROR", None)
        self.close()


cdef Buffer _canonical(Cursor *body):
    """Return the canonical encoding of a message, or None when it is no CBOR item."""
    cdef Buffer result = Buffer()
    try:
        encode_item(result, decode_item(body.at, body.end - body.at), 0)
    except (ValueError, TypeError, OverflowError):
        return None
    return result
