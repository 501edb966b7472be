"""CBOR at the level of C: a growable buffer to write to, a cursor to read from. No Python object but for errors.

Writers append canonical encodings (shortest integers, definite lengths). Readers accept any valid encoding of what
they are asked for, and say no with ``False``; what to do then is the caller's choice.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef enum Major:
    UINT = 0
    NEGATIVE = 1
    BYTES = 2
    TEXT = 3
    ARRAY = 4
    MAP = 5
    TAG = 6
    SIMPLE = 7


cdef enum:
    HEAD_MAX = 9                    # bytes of the head of an item
    CBOR_TEXT = 0x60
    CBOR_FALSE = 0xF4
    CBOR_TRUE = 0xF5
    CBOR_NULL = 0xF6
    CBOR_BREAK = 0xFF


cdef class Buffer:
    cdef uint8_t *data              # owned; freed in __dealloc__
    cdef Py_ssize_t size
    cdef Py_ssize_t capacity
    cdef bytes take(self)
    cdef int grow(self, Py_ssize_t more) except -1
    cdef int drop(self, Py_ssize_t count) except -1


cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end


cdef class FrameSplitter:
    cdef Buffer rest
    cdef const uint8_t *at
    cdef const uint8_t *end
    cdef bint owned                 # whether `at` points into `rest`
    cdef int begin(self, const uint8_t *data, Py_ssize_t size) except -1
    cdef bint next(self, Cursor *body) except -1
    cdef int finish(self) except -1


cdef class PartJoiner:
    cdef dict chunks                # request id -> list of chunks
    cdef Py_ssize_t size            # bytes held in all of them
    cdef bytes add(self, uint64_t id, bint last, bytes chunk)


cdef object decode_item(const uint8_t *data, Py_ssize_t size)
cdef int encode_item(Buffer out, object item, int depth) except -1
cdef int emit_message(Buffer out, uint64_t id, const uint8_t *item, Py_ssize_t size) except -1


cdef inline int reserve(Buffer out, Py_ssize_t more) except -1:
    if out.size + more > out.capacity:
        out.grow(more)
    return 0


cdef inline int put_byte(Buffer out, uint8_t byte) except -1:
    reserve(out, 1)
    out.data[out.size] = byte
    out.size += 1
    return 0


cdef inline int put_raw(Buffer out, const void *data, Py_ssize_t size) except -1:
    reserve(out, size)
    memcpy(out.data + out.size, data, size)
    out.size += size
    return 0


# Compilers make one instruction of bytes that are written out, and a loop of a loop: hence the two widths that are met
# most, each on its own. *width* is a constant wherever it is 8 or 4.

cdef inline void store_be(uint8_t *to, uint64_t value, int width) noexcept nogil:
    cdef int i
    if width == 8:
        to[0] = <uint8_t>(value >> 56)
        to[1] = <uint8_t>(value >> 48)
        to[2] = <uint8_t>(value >> 40)
        to[3] = <uint8_t>(value >> 32)
        to[4] = <uint8_t>(value >> 24)
        to[5] = <uint8_t>(value >> 16)
        to[6] = <uint8_t>(value >> 8)
        to[7] = <uint8_t>value
    elif width == 4:
        to[0] = <uint8_t>(value >> 24)
        to[1] = <uint8_t>(value >> 16)
        to[2] = <uint8_t>(value >> 8)
        to[3] = <uint8_t>value
    else:
        for i in range(width):
            to[i] = <uint8_t>(value >> (8 * (width - 1 - i)))


cdef inline uint64_t load_be(const uint8_t *at, int width) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    if width == 8:
        return (
            <uint64_t>at[0] << 56 | <uint64_t>at[1] << 48 | <uint64_t>at[2] << 40 | <uint64_t>at[3] << 32
            | <uint64_t>at[4] << 24 | <uint64_t>at[5] << 16 | <uint64_t>at[6] << 8 | <uint64_t>at[7]
        )
    if width == 4:
        return <uint64_t>at[0] << 24 | <uint64_t>at[1] << 16 | <uint64_t>at[2] << 8 | <uint64_t>at[3]
    for i in range(width):
        value = (value << 8) | at[i]
    return value


cdef inline uint8_t *head_at(uint8_t *to, uint8_t major, uint64_t value) noexcept nogil:
    """Write a head, of up to `HEAD_MAX` bytes, where there is room; return where it ends."""
    major = major << 5
    if value < 24:
        to[0] = major | <uint8_t>value
        return to + 1
    if value <= 0xFF:
        to[0] = major | 24
        to[1] = <uint8_t>value
        return to + 2
    if value <= 0xFFFF:
        to[0] = major | 25
        store_be(to + 1, value, 2)
        return to + 3
    if value <= 0xFFFFFFFFu:
        to[0] = major | 26
        store_be(to + 1, value, 4)
        return to + 5
    to[0] = major | 27
    store_be(to + 1, value, 8)
    return to + 9


cdef inline int put_head(Buffer out, uint8_t major, uint64_t value) except -1:
    reserve(out, HEAD_MAX)
    out.size = head_at(out.data + out.size, major, value) - out.data
    return 0


cdef inline int put_uint(Buffer out, uint64_t value) except -1:
    return put_head(out, UINT, value)


cdef inline int put_bytes(Buffer out, const void *data, Py_ssize_t size) except -1:
    put_head(out, BYTES, <uint64_t>size)
    return put_raw(out, data, size)


cdef inline int put_text(Buffer out, const char *text, Py_ssize_t size) except -1:
    put_head(out, TEXT, <uint64_t>size)
    return put_raw(out, text, size)


cdef inline Py_ssize_t open_frame(Buffer out) except -1:
    """Leave room for a frame's length; return where the frame begins, for `close_frame`."""
    cdef Py_ssize_t start = out.size
    reserve(out, 4)
    out.size += 4
    return start


cdef inline void close_frame(Buffer out, Py_ssize_t start) noexcept:
    store_be(out.data + start, <uint64_t>(out.size - start - 4), 4)


cdef inline bint read_head(Cursor *c, uint8_t *major, uint64_t *value) noexcept nogil:
    """Read the head of a definite item. False: truncated, indefinite, or reserved."""
    if c.at >= c.end:
        return False
    major[0] = c.at[0] >> 5
    value[0] = c.at[0] & 31
    if value[0] < 24:                   # most are: the rest is a call, so that this part stays small enough to inline
        c.at += 1
        return True
    return read_wide(c, value)


cdef inline bint read_wide(Cursor *c, uint64_t *value) noexcept nogil:
    """Read what follows the first byte of a head: 1, 2, 4 or 8 bytes, as *value* says, which they replace."""
    cdef Py_ssize_t left = c.end - c.at
    if value[0] == 24 and left >= 2:
        value[0] = c.at[1]
        c.at += 2
    elif value[0] == 25 and left >= 3:
        value[0] = load_be(c.at + 1, 2)
        c.at += 3
    elif value[0] == 26 and left >= 5:
        value[0] = load_be(c.at + 1, 4)
        c.at += 5
    elif value[0] == 27 and left >= 9:
        value[0] = load_be(c.at + 1, 8)
        c.at += 9
    else:
        return False
    return True


cdef inline bint read_expect(Cursor *c, uint8_t expected, uint64_t *value) noexcept nogil:
    """Read the head of an item of one major type; otherwise the cursor and *value* stay as they are."""
    cdef uint8_t major
    cdef uint64_t found
    cdef const uint8_t *before = c.at
    if read_head(c, &major, &found) and major == expected:
        value[0] = found
        return True
    c.at = before
    return False


cdef inline bint read_uint(Cursor *c, uint64_t *value) noexcept nogil:
    return read_expect(c, UINT, value)


cdef inline bint read_bytes(Cursor *c, const uint8_t **data, Py_ssize_t *size) noexcept nogil:
    """Read a definite byte string as a slice of the input."""
    cdef uint64_t length
    cdef const uint8_t *before = c.at
    if not read_expect(c, BYTES, &length):
        return False
    if length > <uint64_t>(c.end - c.at):
        c.at = before
        return False
    data[0] = c.at
    size[0] = <Py_ssize_t>length
    c.at += length
    return True


cdef inline bint read_null(Cursor *c) noexcept nogil:
    if c.at < c.end and c.at[0] == CBOR_NULL:
        c.at += 1
        return True
    return False


cdef inline bint read_bool(Cursor *c, bint *value) noexcept nogil:
    if c.at < c.end and (c.at[0] == CBOR_TRUE or c.at[0] == CBOR_FALSE):
        value[0] = c.at[0] == CBOR_TRUE
        c.at += 1
        return True
    return False
