"""Cuts the bytes of a redis client into commands: arrays of strings (RESP), or lines that somebody has typed.

Source: the redis protocol specification. Arguments are slices of the input. A command beyond our limits is read past
and refused, as its framing is intact; one beyond those of redis, or malformed, ends the connection, as there.

May not: know what a command means.
"""

from dynafast.limits import FRAME_MAX, VALUE_MAX

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memchr

cdef enum:
    ARGUMENTS_MAX = 1024 * 1024     # as redis
    BULK_MAX = 512 * 1024 * 1024    # as redis
    INLINE_MAX = 64 * 1024          # as redis
    DIGITS_MAX = 18
    ARGUMENTS_KEPT = 64             # room for more is given back

cdef Py_ssize_t _VALUE_MAX = VALUE_MAX
cdef Py_ssize_t _COMMAND_MAX = FRAME_MAX

__all__ = ["CommandReader"]

_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}


cdef int _read_number(const uint8_t **cursor, const uint8_t *end, int64_t *value) noexcept:
    """Read a decimal number and its end of line: 1; 0 when it is not all there, -1 when it is none."""
    cdef const uint8_t *at = cursor[0]
    cdef bint negative = at < end and at[0] == c"-"
    cdef int digits = 0
    cdef int64_t number = 0
    at += negative
    while at < end and c"0" <= at[0] <= c"9":
        number = number * 10 + (at[0] - c"0")
        digits += 1
        at += 1
        if digits > DIGITS_MAX:
            return -1
    if at == end:
        return 0
    if digits == 0 or at[0] != c"\r":
        return -1
    if at + 1 == end:
        return 0
    if at[1] != c"\n":
        return -1
    value[0] = -number if negative else number
    cursor[0] = at + 2
    return 1


cdef list _split(bytes line):
    """Return the words of a typed line, with quotes and escapes as redis has them; None: a quote is not closed."""
    cdef list words = []
    cdef Py_ssize_t at = 0, size = len(line)
    while True:
        while at < size and line[at:at + 1].isspace():
            at += 1
        if at == size:
            return words
        word = bytearray()
        quote = b""
        while True:
            letter = line[at:at + 1]
            if quote:
                if not letter:
                    return None
                if quote == b'"' and letter == b"\\" and at + 1 < size:
                    code = line[at + 2:at + 4]
                    if line[at + 1:at + 2] == b"x" and len(code) == 2 and _is_hex(code):
                        word += bytes.fromhex(code.decode())
                        at += 4
                    else:
                        word += _ESCAPES.get(line[at + 1:at + 2], line[at + 1:at + 2])
                        at += 2
                elif quote == b"'" and line[at:at + 2] == b"\\'":
                    word += b"'"
                    at += 2
                elif letter == quote:
                    at += 1
                    if at < size and not line[at:at + 1].isspace():
                        return None
                    break
                else:
                    word += letter
                    at += 1
            elif not letter or letter.isspace():
                break
            elif letter in (b'"', b"'"):
                quote = letter
                at += 1
            else:
                word += letter
                at += 1
        words.append(bytes(word))


cdef bint _is_hex(bytes code) except -1:
    return all(letter in b"0123456789abcdefABCDEF" for letter in code)


cdef class CommandReader:
    """Where the reading of one connection stands."""

    def __dealloc__(self):
        PyMem_Free(self.args)

    cdef int next(self, const uint8_t **cursor, const uint8_t *end) except -1:
        """Read one command from a cursor that is before its end. While more must come, the cursor stays at its start,
        and the next call is with what is there then, from that start on."""
        self.count = 0
        self.needed = 0
        if self.skipping:
            return self._skip(cursor, end)
        if cursor[0][0] == c"*":
            return self._parse(cursor, end)
        return self._parse_line(cursor, end)

    cdef int release(self) except -1:
        """Forget the arguments; those of typed lines are gone from now on."""
        self.words = None
        if self.args_size > ARGUMENTS_KEPT and self.total == 0:
            PyMem_Free(self.args)
            self.args = NULL
            self.args_size = 0
        return 0

    cdef int _lost(self, str why) except -1:
        self.problem = why
        return WRONG

    cdef int _parse(self, const uint8_t **cursor, const uint8_t *end) except -1:
        """Read an array of strings, from where the last look at it has come to."""
        cdef const uint8_t *start = cursor[0]
        cdef const uint8_t *at = start + 1
        cdef int64_t count = 0, size = 0
        cdef int got
        cdef Py_ssize_t i
        if self.total == 0:
            got = _read_number(&at, end, &count)
            if got < 0 or count > ARGUMENTS_MAX:
                return self._lost("invalid multibulk length")
            if got == 0:
                return MORE
            if count <= 0:
                cursor[0] = at
                return WHOLE
            self.total = count
            self.got = 0
            self.offset = at - start
        while self.got < self.total:
            at = start + self.offset
            if at == end:
                return MORE
            if at[0] != c"$":
                return self._lost(f"expected '$', got '{chr(at[0]) if 32 <= at[0] < 127 else '?'}'")
            at += 1
            got = _read_number(&at, end, &size)
            if got < 0 or size < 0 or size > BULK_MAX:
                return self._lost("invalid bulk length")
            if got == 0:
                return MORE
            if size > _VALUE_MAX or (at - start) + size > _COMMAND_MAX:
                self.problem = (
                    f"an argument must have at most {_VALUE_MAX} bytes" if size > _VALUE_MAX
                    else f"a command must have at most {_COMMAND_MAX} bytes"
                )
                self.skipping = True
                self.skip_bytes = size + 2
                self.skip_count = self.total - self.got - 1
                self.total = 0
                cursor[0] = at
                return self._skip(cursor, end)
            if end - at < size + 2:
                self.needed = (at - start) + size + 2
                return MORE
            if at[size] != c"\r" or at[size + 1] != c"\n":
                return self._lost("expected the end of a line after a bulk string")
            self._argument(self.got, <const uint8_t *>(at - start), size)   # the input may move meanwhile
            self.got += 1
            self.offset = (at - start) + size + 2
        for i in range(self.total):
            self.args[i].at = start + <Py_ssize_t>self.args[i].at
        self.count = self.total
        self.total = 0
        cursor[0] = start + self.offset
        return WHOLE

    cdef int _argument(self, Py_ssize_t i, const uint8_t *at, Py_ssize_t size) except -1:
        cdef Argument *grown
        cdef Py_ssize_t room
        if i >= self.args_size:
            room = 8 if self.args_size == 0 else self.args_size * 2
            grown = <Argument *>PyMem_Realloc(self.args, room * <Py_ssize_t>sizeof(Argument))
            if grown == NULL:
                raise MemoryError
            self.args = grown
            self.args_size = room
        self.args[i].at = at
        self.args[i].size = size
        return 0

    cdef int _parse_line(self, const uint8_t **cursor, const uint8_t *end) except -1:
        """Read a command that was typed: words up to an end of line."""
        cdef const uint8_t *at = cursor[0]
        cdef const uint8_t *stop = <const uint8_t *>memchr(at, c"\n", end - at)
        cdef Py_ssize_t i
        if (stop == NULL and end - at > INLINE_MAX) or (stop != NULL and stop - at > INLINE_MAX):
            return self._lost("too big inline request")
        if stop == NULL:
            return MORE
        self.words = _split(PyBytes_FromStringAndSize(<const char *>at, stop - at))
        if self.words is None:
            return self._lost("unbalanced quotes in request")
        for i, word in enumerate(self.words):
            self._argument(i, <const uint8_t *>PyBytes_AS_STRING(word), PyBytes_GET_SIZE(word))
        self.count = len(self.words)
        cursor[0] = stop + 1
        return WHOLE

    cdef int _skip(self, const uint8_t **cursor, const uint8_t *end) except -1:
        """Read past a command that is too large, then refuse it."""
        cdef int64_t size = 0
        cdef const uint8_t *at
        cdef Py_ssize_t some
        cdef int got
        while True:
            some = min(self.skip_bytes, <Py_ssize_t>(end - cursor[0]))
            cursor[0] += some
            self.skip_bytes -= some
            if self.skip_bytes:
                return MORE
            if self.skip_count == 0:
                self.skipping = False
                return REFUSED
            if cursor[0] == end:
                return MORE
            at = cursor[0] + 1
            got = -1 if cursor[0][0] != c"$" else _read_number(&at, end, &size)
            if got < 0 or size < 0 or size > BULK_MAX:
                return self._lost("invalid bulk length")
            if got == 0:
                return MORE
            cursor[0] = at
            self.skip_count -= 1
            self.skip_bytes = size + 2
