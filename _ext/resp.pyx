"""One connection of a redis client without its socket: commands in (RESP 2 and 3, or typed lines), answers out.

Source: the redis protocol specification; what each command means here is in docs/resp.md. Commands are parsed straight
from the received bytes; the only objects made of them are the key and the value. Answers go out in the order of the
commands: one that is ready before its turn waits in its slot, and one whose turn it is goes straight into the output.

A client of redis expects no refusal because it sends fast, so nothing is refused for that: while much is under way or
unsent, input is kept back, and `full` tells the shell to read no more. A command also waits for earlier ones on the
same key that might otherwise take effect after it.

May not: touch a socket, a clock or a store.
"""

from dynafast.errors import RequestError
from dynafast.limits import KEY_MAX, RECORD_MAX

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from dynafast._ext.clock cimport Record, Version
from dynafast._ext.codec cimport (
    ARRAY,
    Buffer,
    Cursor,
    decode_item,
    put_head,
    put_raw,
    read_bytes,
    read_expect,
    read_null,
    read_uint,
    reserve,
    store_be,
)
from dynafast._ext.commands cimport MORE, REFUSED, WHOLE, WRONG, Argument, CommandReader
from dynafast._ext.connection cimport CLIENT, DEFAULT_TIMEOUT_MS, ERROR, FOUND, READ_BELOW, Connection, Handler, Options, Outcome

cdef enum:
    WINDOW = 512                    # commands, and requests of one command, that wait for answers; a power of two
    SLOT_MASK = WINDOW - 1
    INDEX_SHIFT = 16                # an id of a request is its slot, and behind that its number within a batch
    BUCKETS = 256
    NAME_SHOWN = 64
    UNDERWAY_MAX = 32 * 1024 * 1024 # bytes of values that are being written

cdef enum Kind:                     # of a slot
    FREE = 0
    VALUE = 1                       # GET
    LENGTH = 2                      # STRLEN
    SET = 3
    MANY = 4                        # a `Batch`
    READY = 5                       # answered, before its turn

cdef enum BatchOp:
    MGET = 1
    MSET = 2
    DEL = 3
    EXISTS = 4

cdef enum:                          # of a batch: how far one key is
    UNASKED = 0
    WAITING = 1
    DELETING = 2                    # it was found, and its delete is under way
    ANSWERED = 3

cdef Py_ssize_t _KEY_MAX = KEY_MAX
cdef Py_ssize_t _ANSWER_MAX = RECORD_MAX

__all__ = ["RespConnection"]

# Codes of ours that redis has a word for; the others are sent as they are, in capitals.
_ERR = frozenset({"bad-request", "too-large"})
_UNKNOWN = frozenset({"timeout", "uncertain"})

# ---- bytes

cdef inline bint _named(const Argument *argument, const char *name, Py_ssize_t size) noexcept:
    """Whether an argument is *name*, which is in small letters, in whatever case."""
    cdef Py_ssize_t i
    if argument.size != size:
        return False
    for i in range(size):
        if (argument.at[i] | 0x20) != <uint8_t>name[i]:
            return False
    return True


cdef inline uint8_t _bucket(const uint8_t *key, Py_ssize_t size) noexcept:
    """FNV-1a, folded."""
    cdef uint64_t hash = 0xCBF29CE484222325u
    cdef Py_ssize_t i
    for i in range(size):
        hash = (hash ^ key[i]) * 0x100000001B3u
    return <uint8_t>(hash ^ (hash >> 8) ^ (hash >> 32))


cdef int _put_number(Buffer out, uint8_t kind, int64_t value) except -1:
    """Append *kind*, a decimal number and an end of line."""
    cdef uint8_t[24] digits
    cdef int at = 24
    cdef uint64_t rest = <uint64_t>(-value if value < 0 else value)
    digits[22] = c"\r"
    digits[23] = c"\n"
    at = 22
    while True:
        at -= 1
        digits[at] = <uint8_t>(c"0" + rest % 10)
        rest //= 10
        if rest == 0:
            break
    if value < 0:
        at -= 1
        digits[at] = c"-"
    at -= 1
    digits[at] = kind
    return put_raw(out, digits + at, 24 - at)


cdef int _put_bulk(Buffer out, const void *data, Py_ssize_t size) except -1:
    reserve(out, size + 32)
    _put_number(out, c"$", size)
    put_raw(out, data, size)
    return put_raw(out, b"\r\n", 2)


cdef int _put_bytes(Buffer out, bytes data) except -1:
    return put_raw(out, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef bytes _error_line(str code, str message, dict details, bint written):
    """Return an error in the form of redis: ``-CODE message``, in one line."""
    if written and code in _UNKNOWN:
        message += "; outcome unknown"
    if "retry_after_ms" in details:
        message += f"; retry after {details['retry_after_ms']} ms"
    return _line("ERR" if code in _ERR else code.upper(), message)


cdef bytes _line(str code, str message):
    message = message.replace("\r", " ").replace("\n", " ")
    return f"-{code} {message}\r\n".encode(errors="replace")


cdef const Version *_newest(Record record) noexcept:
    """The version that the resolver `dynafast.lww` chooses of those that a client sees; NULL: there is none."""
    cdef const Version *best = NULL
    cdef const Version *dot
    cdef Py_ssize_t i
    for i in range(record.dot_count):       # by (actor, counter)
        dot = &record.dots[i]
        if dot.size >= 0 and (best == NULL or dot.time >= best.time) and record.first_of_write(i):
            best = dot
    return best


cdef class Batch:
    """One command on several keys: as many requests, one answer."""

    cdef int op
    cdef Py_ssize_t slot
    cdef list keys
    cdef list values                # of MSET
    cdef list results               # of MGET: bytes, or None
    cdef Py_ssize_t size            # bytes of these
    cdef bytearray parts            # per key how far it is
    cdef bytearray marks            # per key whether later commands on it wait
    cdef Py_ssize_t count           # of the keys
    cdef Py_ssize_t next            # the first that is not asked for
    cdef Py_ssize_t done
    cdef Py_ssize_t total           # that exist, or were deleted
    cdef Py_ssize_t failed
    cdef bytes error                # the first one


cdef class RespConnection(Connection):
    """The core's end of a connection that a redis client has opened; driven like any `Connection`.

    ``node`` answers what is not hot: ``command(connection, words)`` returns what to answer, or raises RequestError,
    and ``dropped(connection)``. *number* is random: the ids of this connection's writes begin with it.
    """

    cdef public int protocol        # 2 or 3
    cdef public object name         # that the client has given itself
    cdef public bint in_multi       # a transaction has begun: refused as a whole, since half of it would be worse
    cdef readonly uint64_t number
    cdef uint64_t writes            # number of the last write
    cdef uint64_t time              # the largest hybrid time that other coordinators have told
    cdef CommandReader reader
    cdef Buffer rest                # input that is not handled yet
    cdef bint ending                # nothing more is read; closes when all is answered
    cdef uint64_t head              # the oldest command not answered
    cdef uint64_t tail              # the next command
    cdef uint8_t[WINDOW] kinds
    cdef uint8_t[WINDOW] marks      # whether later commands on the key wait for this
    cdef uint8_t[WINDOW] buckets
    cdef uint32_t[WINDOW] sizes     # of the values that are being written
    cdef Py_ssize_t underway        # bytes of all of them, those of batches too
    cdef list objects               # per slot: its `Batch`, or the `Buffer` of an answer before its turn
    cdef Py_ssize_t ready_count
    cdef Py_ssize_t ready_bytes
    cdef uint16_t[BUCKETS] busy     # marks per bucket of keys
    cdef Py_ssize_t marked          # all of them
    cdef Batch batch                # the last command, while requests of it are still to be sent

    def __init__(self, Handler handler not None, node, uint64_t number):
        self.handler = handler
        self.node = node
        self.number = number
        self.out = Buffer()
        self.rest = Buffer()
        self.reader = CommandReader()
        self.role_code = CLIENT
        self.protocol = 2
        self.name = b""

    # ---- what the shell calls

    @property
    def unfinished(self):
        """See `Connection`: a command has only begun."""
        return not self.full and (self.rest.size > 0 or self.reader.skipping)

    def give_up(self):
        """See `Connection`."""
        self._lose("silence in the middle of a command")
        self.close()

    cdef int feed_raw(self, const uint8_t *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t used
        if self.closing or self.lost or self.ending:
            return 0
        if self.rest.size == 0 and not self.full:
            used = self._run(data, size)
            return put_raw(self.rest, data + used, size - used) if used < size else 0
        put_raw(self.rest, data, size)
        if self.full or self.rest.size < self.reader.needed:
            return 0
        return self._run_rest()

    cpdef int resume(self) except -1:
        return self._run_rest() if self.full and not self.lost and not self.closing else 0

    def drop(self):
        """See `Connection`."""
        Connection.drop(self)
        self.full = False
        self.rest = Buffer()
        self.batch = None
        self.objects = None

    # ---- input

    cdef int _run_rest(self) except -1:
        return self.rest.drop(self._run(self.rest.data, self.rest.size))

    cdef bint _room(self) noexcept:
        return (
            self.tail - self.head < WINDOW and self.ready_bytes < READ_BELOW and self._room_for_part()
        )

    cdef Py_ssize_t _run(self, const uint8_t *data, Py_ssize_t size) except -1:
        """Handle commands; return how many bytes are done with."""
        cdef const uint8_t *at = data
        cdef const uint8_t *end = data + size
        cdef const uint8_t *next
        cdef int parsed
        self.full = False
        while not self.ending:
            if self.batch is not None and not self._go_on():
                self.full = True
                break
            if at == end:
                break
            if not self._room():
                self.full = True
                break
            next = at
            parsed = self.reader.next(&next, end)
            if parsed == WHOLE and self.reader.count and not self._dispatch():
                self.full = True
                break
            at = next
            if parsed == MORE:
                break
            if parsed == REFUSED:
                self._say(_line("ERR", self.reader.problem))
            elif parsed == WRONG:
                self._lose(self.reader.problem)
        self.reader.release()
        return size if self.ending else at - data

    cdef int _lose(self, str why) except -1:
        """The framing is lost: say so, and close once all before it is answered."""
        self.ending = True
        self._say(_line("ERR", f"Protocol error: {why}"))
        return 0

    # ---- commands

    cdef int _dispatch(self) except -1:
        """Handle the command at hand; 0, and nothing done, when it must wait for earlier ones."""
        cdef Argument *name = &self.reader.args[0]
        cdef Py_ssize_t n = self.reader.count
        if self.in_multi:
            return self._rare()
        if name.size == 3:
            if _named(name, b"get", 3):
                return self._lookup(VALUE) if n == 2 else self._arity(b"get")
            if _named(name, b"set", 3):
                if n == 3:
                    return self._set()
                return self._set_option() if n > 3 else self._arity(b"set")
            if _named(name, b"del", 3):
                return self._begin(DEL) if n >= 2 else self._arity(b"del")
        elif name.size == 4:
            if _named(name, b"mget", 4):
                return self._begin(MGET) if n >= 2 else self._arity(b"mget")
            if _named(name, b"mset", 4):
                return self._begin(MSET) if n >= 3 and n % 2 else self._arity(b"mset")
            if _named(name, b"ping", 4):
                if n == 1:
                    return self._say(b"+PONG\r\n")
                return self._echo() if n == 2 else self._arity(b"ping")
            if _named(name, b"echo", 4):
                return self._echo() if n == 2 else self._arity(b"echo")
            if _named(name, b"quit", 4):
                self.ending = True
                return self._say(b"+OK\r\n")
        elif _named(name, b"strlen", 6):
            return self._lookup(LENGTH) if n == 2 else self._arity(b"strlen")
        elif _named(name, b"exists", 6):
            return self._begin(EXISTS) if n >= 2 else self._arity(b"exists")
        return self._rare()

    cdef int _arity(self, bytes name) except -1:
        return self._say(_line("ERR", f"wrong number of arguments for '{name.decode()}' command"))

    cdef int _set_option(self) except -1:
        cdef bytes option = PyBytes_FromStringAndSize(<const char *>self.reader.args[3].at, min(self.reader.args[3].size, NAME_SHOWN))
        return self._say(_line("ERR", f"SET takes no options here, got '{option.decode(errors='replace')}'"))

    cdef int _echo(self) except -1:
        cdef Py_ssize_t slot = self._take_slot(FREE)
        cdef Buffer out = self._open(slot)
        _put_bulk(out, self.reader.args[1].at, self.reader.args[1].size)
        self._close(slot, out)
        return 1

    cdef bint _key_fits(self, const Argument *key) except -1:
        if 0 < key.size <= _KEY_MAX:
            return True
        self._say(
            b"-ERR the key must have at most 4096 bytes\r\n" if key.size else b"-ERR the key must not be empty\r\n"
        )
        return False

    cdef int _lookup(self, int kind) except -1:
        cdef Argument *at = &self.reader.args[1]
        cdef Options options
        cdef Py_ssize_t slot
        cdef bytes key
        if not self._key_fits(at):
            return 1
        if self.marked and self.busy[_bucket(at.at, at.size)]:
            return 0
        self._options(&options)
        slot = self._take_slot(kind)
        key = PyBytes_FromStringAndSize(<const char *>at.at, at.size)
        self.outstanding += 1
        if self.handler.get(self, slot, key, &options) and self.kinds[slot] == kind:
            self._mark_slot(slot, at)
        return 1

    cdef int _set(self) except -1:
        cdef Argument *at = &self.reader.args[1]
        cdef Options options
        cdef Py_ssize_t slot
        cdef uint8_t[16] write_id
        cdef bytes key
        if not self._key_fits(at):
            return 1
        if self.marked and self.busy[_bucket(at.at, at.size)]:
            return 0
        self._options(&options)
        options.overwrite = True
        self._new_write(write_id)
        slot = self._take_slot(SET)
        self.sizes[slot] = <uint32_t>self.reader.args[2].size
        self.underway += self.reader.args[2].size
        key = PyBytes_FromStringAndSize(<const char *>at.at, at.size)
        self.outstanding += 1
        if self.handler.put(
            self, slot, key, PyBytes_FromStringAndSize(<const char *>self.reader.args[2].at, self.reader.args[2].size), None, write_id,
            &options,
        ) and self.kinds[slot] == SET:
            self._mark_slot(slot, at)
        return 1

    cdef int _rare(self) except -1:
        """Let the node answer, once all before it is answered: it may change how answers are written."""
        cdef list words
        cdef Py_ssize_t i, slot
        cdef Buffer out
        if self.head != self.tail:
            return 0
        words = [PyBytes_FromStringAndSize(<const char *>self.reader.args[i].at, self.reader.args[i].size) for i in range(self.reader.count)]
        try:
            answer = self.node.command(self, words)
        except RequestError as error:
            return self._say(_error_line(error.code, str(error), error.details, False))
        slot = self._take_slot(FREE)
        out = self._open(slot)
        self._put_item(out, answer)
        self._close(slot, out)
        return 1

    cdef int _put_item(self, Buffer out, item) except -1:
        """Append what the node has answered: text is a status, bytes a string, None null."""
        if item is None:
            return self._put_null(out)
        if isinstance(item, bytes):
            return _put_bulk(out, PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
        if isinstance(item, str):
            return _put_bytes(out, f"+{item}\r\n".encode())
        if isinstance(item, int):
            return _put_number(out, c":", item)
        if isinstance(item, dict):
            _put_number(out, c"%" if self.protocol == 3 else c"*", len(item) if self.protocol == 3 else 2 * len(item))
            for key, value in item.items():
                self._put_item(out, key)
                self._put_item(out, value)
            return 0
        _put_number(out, c"*", len(item))
        for part in item:
            self._put_item(out, part)
        return 0

    cdef int _put_null(self, Buffer out) except -1:
        return put_raw(out, b"_\r\n", 3) if self.protocol == 3 else put_raw(out, b"$-1\r\n", 5)

    cdef int _options(self, Options *options) noexcept:
        memset(options, 0, sizeof(Options))
        options.timeout_ms = DEFAULT_TIMEOUT_MS
        options.time = self.time
        return 0

    cdef int _new_write(self, uint8_t *id) noexcept:
        """A write id: unique, since the first half is random and the second counts."""
        self.writes += 1
        store_be(id, self.number, 8)
        store_be(id + 8, self.writes, 8)
        return 0

    # ---- commands on several keys

    cdef int _begin(self, int op) except -1:
        cdef Batch batch
        cdef Py_ssize_t i, step = 2 if op == MSET else 1
        cdef dict last = {}
        cdef list keys = [], values = []
        for i in range(1, self.reader.count, step):
            if not self._key_fits(&self.reader.args[i]):
                return 1
        for i in range(1, self.reader.count, step):
            key = PyBytes_FromStringAndSize(<const char *>self.reader.args[i].at, self.reader.args[i].size)
            if op == MSET:
                last[key] = PyBytes_FromStringAndSize(<const char *>self.reader.args[i + 1].at, self.reader.args[i + 1].size)
            elif op == DEL:
                last[key] = None
            else:
                keys.append(key)
        batch = Batch.__new__(Batch)
        batch.op = op
        batch.keys = keys or list(last)         # of a key that is written or deleted twice, the last time counts
        batch.values = list(last.values())
        batch.count = len(batch.keys)
        batch.results = [None] * batch.count if op == MGET else None
        batch.parts = bytearray(batch.count)
        batch.marks = bytearray(batch.count)
        batch.slot = self._take_slot(MANY)
        self._hold(batch.slot, batch)
        self.batch = batch
        return 1

    cdef bint _go_on(self) except -1:
        """Ask for the keys of the command at hand, as far as there is room; whether all are asked for."""
        cdef Batch batch = self.batch
        while batch.next < batch.count:
            if not self._room_for_part() or not self._ask(batch, batch.next):
                return False
        self.batch = None
        return True

    cdef bint _room_for_part(self) noexcept:
        return self.outstanding < WINDOW and self.out.size < READ_BELOW and self.underway < UNDERWAY_MAX

    cdef bint _ask(self, Batch batch, Py_ssize_t i) except -1:
        """Send the request for one key, unless it must wait for an earlier command."""
        cdef bytes key = batch.keys[i]
        cdef uint8_t[16] write_id
        cdef Options options
        cdef bint passed_on
        cdef uint8_t bucket = _bucket(<const uint8_t *>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        if self.marked and self.busy[bucket]:
            return False
        self._options(&options)
        batch.next += 1
        batch.parts[i] = WAITING
        self.outstanding += 1
        if batch.op == MSET:
            options.overwrite = True
            self._new_write(write_id)
            self.underway += PyBytes_GET_SIZE(batch.values[i])
            passed_on = self.handler.put(
                self, batch.slot | <uint64_t>i << INDEX_SHIFT, key, batch.values[i], None, write_id, &options
            )
        else:
            passed_on = self.handler.get(self, batch.slot | <uint64_t>i << INDEX_SHIFT, key, &options)
        # A delete asks and then writes: what comes after it must not slip in between.
        if batch.parts[i] != ANSWERED and (batch.op == DEL or passed_on):
            batch.marks[i] = 1
            self.busy[bucket] += 1
            self.marked += 1
        return True

    cdef int _part_found(self, Batch batch, Py_ssize_t i, const uint8_t *value, Py_ssize_t size, bytes context) except -1:
        """A key of a batch was looked up; *size* is -1 when it is not there."""
        cdef uint8_t[16] write_id
        cdef Options options
        if size < 0:
            return self._part_done(batch, i)
        if batch.op == DEL:
            self._options(&options)
            options.overwrite = True
            self._new_write(write_id)
            self.outstanding += 1
            batch.parts[i] = DELETING
            self.handler.put(
                self, batch.slot | <uint64_t>i << INDEX_SHIFT, batch.keys[i], None, context, write_id, &options
            )
            return 0
        batch.total += 1
        if batch.op == MGET and batch.size <= _ANSWER_MAX:
            batch.size += size
            self.ready_bytes += size
            batch.results[i] = PyBytes_FromStringAndSize(<const char *>value, size)
        return self._part_done(batch, i)

    cdef int _part_done(self, Batch batch, Py_ssize_t i) except -1:
        """A key of a batch has its answer; the last one makes that of the command."""
        cdef bytes key = batch.keys[i]
        cdef Buffer out
        batch.parts[i] = ANSWERED
        batch.done += 1
        if batch.op == MSET:
            self.underway -= PyBytes_GET_SIZE(batch.values[i])
        if batch.marks[i]:
            self.busy[_bucket(<const uint8_t *>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))] -= 1
            self.marked -= 1
        if batch.done < batch.count:
            return 0
        self.objects[batch.slot] = None
        self.ready_bytes -= batch.size
        out = self._open(batch.slot)
        self._put_batch(out, batch)
        return self._close(batch.slot, out)

    cdef int _put_batch(self, Buffer out, Batch batch) except -1:
        if batch.error is not None:
            if batch.count == 1 or batch.op in (MGET, EXISTS):
                return _put_bytes(out, batch.error)
            _put_bytes(out, batch.error[:len(batch.error) - 2])
            return _put_bytes(out, b" (done for %d of %d keys)\r\n" % (batch.count - batch.failed, batch.count))
        if batch.op == MSET:
            return put_raw(out, b"+OK\r\n", 5)
        if batch.op != MGET:
            return _put_number(out, c":", batch.total)
        if batch.size > _ANSWER_MAX:
            return _put_bytes(out, b"-ERR the values must have at most %d bytes together\r\n" % _ANSWER_MAX)
        _put_number(out, c"*", batch.count)
        for value in batch.results:
            if value is None:
                self._put_null(out)
            else:
                _put_bulk(out, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        return 0

    # ---- answers

    cdef Py_ssize_t _take_slot(self, int kind) noexcept:
        """Return the slot of a new command: its place in the order of the answers."""
        cdef Py_ssize_t slot = <Py_ssize_t>(self.tail & SLOT_MASK)
        self.tail += 1
        self.kinds[slot] = kind
        self.marks[slot] = False
        return slot

    cdef int _hold(self, Py_ssize_t slot, object held) except -1:
        if self.objects is None:
            self.objects = [None] * WINDOW
        self.objects[slot] = held
        return 0

    cdef int _mark_slot(self, Py_ssize_t slot, const Argument *key) except -1:
        """A request was passed on and waits: a later one on the same key must wait for it."""
        cdef uint8_t bucket = _bucket(key.at, key.size)
        self.marks[slot] = True
        self.buckets[slot] = bucket
        self.busy[bucket] += 1
        self.marked += 1
        return 0

    cdef Buffer _open(self, Py_ssize_t slot):
        """Return where the answer of a slot is to be written: the output when its turn has come."""
        return self.out if slot == <Py_ssize_t>(self.head & SLOT_MASK) else Buffer.__new__(Buffer)

    cdef int _close(self, Py_ssize_t slot, Buffer out) except -1:
        """The answer of a slot is written."""
        cdef Buffer ready
        if self.marks[slot]:
            self.marks[slot] = False
            self.busy[self.buckets[slot]] -= 1
            self.marked -= 1
        self.underway -= self.sizes[slot]
        self.sizes[slot] = 0
        if out is not self.out:
            self._hold(slot, out)
            self.kinds[slot] = READY
            self.ready_count += 1
            self.ready_bytes += out.size
            return 0
        self.kinds[slot] = FREE
        self.head += 1
        while self.ready_count and self.kinds[self.head & SLOT_MASK] == READY:
            slot = <Py_ssize_t>(self.head & SLOT_MASK)
            ready = self.objects[slot]
            put_raw(self.out, ready.data, ready.size)
            self.objects[slot] = None
            self.kinds[slot] = FREE
            self.ready_count -= 1
            self.ready_bytes -= ready.size
            self.head += 1
        if self.ending and self.head == self.tail:
            self.closing = True
        return self.touch()

    cdef int _say(self, bytes answer) except -1:
        """Answer the command at hand at once, in its turn."""
        cdef Py_ssize_t slot = self._take_slot(FREE)
        cdef Buffer out = self._open(slot)
        _put_bytes(out, answer)
        self._close(slot, out)
        return 1

    cdef int settle(self) except -1:
        Connection.settle(self)
        return self.touch() if self.full else 0   # there may be room again

    cdef bint _deletes(self, uint64_t id) except -1:
        """Whether what was asked for is to be deleted if it is there."""
        return self.kinds[id & SLOT_MASK] == MANY and (<Batch>self.objects[id & SLOT_MASK]).op == DEL

    cdef int _found(self, uint64_t id, const uint8_t *value, Py_ssize_t size, bytes context) except -1:
        """A value was looked up; *size* is -1 when it is not there."""
        cdef Py_ssize_t slot = <Py_ssize_t>(id & SLOT_MASK)
        cdef int kind = self.kinds[slot]
        cdef Buffer out
        self.settle()
        if kind == MANY:
            return self._part_found(self.objects[slot], id >> INDEX_SHIFT, value, size, context)
        out = self._open(slot)
        if kind == LENGTH:
            _put_number(out, c":", size if size > 0 else 0)
        elif size < 0:
            self._put_null(out)
        else:
            _put_bulk(out, value, size)
        return self._close(slot, out)

    cdef int _written(self, uint64_t id) except -1:
        cdef Py_ssize_t slot = <Py_ssize_t>(id & SLOT_MASK)
        cdef Batch batch
        cdef Buffer out
        self.settle()
        if self.kinds[slot] == MANY:
            batch = self.objects[slot]
            batch.total += 1
            return self._part_done(batch, id >> INDEX_SHIFT)
        out = self._open(slot)
        put_raw(out, b"+OK\r\n", 5)
        return self._close(slot, out)

    cdef int found(self, uint64_t id, Outcome outcome, bint large) except -1:
        cdef const Version *newest
        if self.lost:
            return 0
        newest = _newest(outcome.versions())
        if newest == NULL:
            return self._found(id, NULL, -1, None)
        return self._found(id, newest.value, newest.size, outcome.context() if self._deletes(id) else None)

    cdef int written(self, uint64_t id, Outcome outcome, bint large) except -1:
        return 0 if self.lost else self._written(id)

    cdef int relayed(self, uint64_t id, int op, uint64_t fields, Cursor *rest) except -1:
        cdef Buffer item
        cdef uint64_t time = 0
        if self.lost:
            return 0
        if op == ERROR:
            item = Buffer()
            put_head(item, ARRAY, fields - 2)
            put_raw(item, rest.at, rest.end - rest.at)
            code, message, details = decode_item(item.data, item.size)
            if not isinstance(message, str) or not isinstance(details, dict):
                raise ValueError("an ERROR must be [11, id, code, message, details]")
            self.refuse(id, code, message, details)
            return self.settle()
        if op == FOUND:
            return self._relayed_value(id, rest)
        if not read_expect(rest, ARRAY, &time) or time != 3:
            raise ValueError("a WRITTEN must begin with a dot")
        if not (read_uint(rest, &time) and read_uint(rest, &time) and read_uint(rest, &time)):
            raise ValueError("a dot must be three integers")
        self.time = max(self.time, time)
        return self._written(id)

    cdef int _relayed_value(self, uint64_t id, Cursor *c) except -1:
        """Find the newest version in a FOUND of another coordinator."""
        cdef uint64_t count = 0, fields = 0, number = 0, time = 0, best = 0, i, j
        cdef const uint8_t *bytes_at
        cdef const uint8_t *value = NULL
        cdef const uint8_t *sealed = NULL
        cdef Py_ssize_t size, best_size = -1, sealed_size = 0
        if not read_expect(c, ARRAY, &count):
            raise ValueError("a FOUND must have versions")
        for i in range(count):              # by (actor, counter)
            if not (
                read_expect(c, ARRAY, &fields) and fields == 5 and read_uint(c, &number) and read_uint(c, &number)
                and read_uint(c, &time) and read_bytes(c, &bytes_at, &size) and read_bytes(c, &bytes_at, &size)
            ):
                raise ValueError("a version must be [actor, counter, time, write id, value]")
            if best_size < 0 or time >= best:
                best, value, best_size = time, bytes_at, size
        if not read_null(c) and not read_bytes(c, &sealed, &sealed_size):
            raise ValueError("a FOUND must have a context")
        if not read_expect(c, ARRAY, &fields):
            raise ValueError("a FOUND must have a receipt")
        for j in range(fields):
            if not read_uint(c, &number):
                raise ValueError("a receipt must have integers")
        if not read_uint(c, &time):
            raise ValueError("a FOUND must have a time")
        self.time = max(self.time, time)
        return self._found(
            id, value, best_size,
            None if sealed == NULL else PyBytes_FromStringAndSize(<const char *>sealed, sealed_size),
        )

    cdef int refuse(self, uint64_t id, object code, object message, object details) except -1:
        cdef Py_ssize_t slot = <Py_ssize_t>(id & SLOT_MASK), i = <Py_ssize_t>(id >> INDEX_SHIFT)
        cdef Batch batch
        cdef Buffer out
        cdef bytes line
        if self.lost:
            return 0
        if self.kinds[slot] == MANY:
            batch = self.objects[slot]
            line = _error_line(code, message, details or {}, batch.op == MSET or batch.parts[i] == DELETING)
            batch.error = batch.error or line
            batch.failed += 1
            return self._part_done(batch, i)
        line = _error_line(code, message, details or {}, self.kinds[slot] == SET)
        out = self._open(slot)
        _put_bytes(out, line)
        return self._close(slot, out)
