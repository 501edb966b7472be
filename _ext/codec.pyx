"""CBOR items and length-prefixed frames (docs/protocol.md; RFC 8949).

Does: encode Python objects canonically, decode any valid encoding, cut a byte stream into frames, cut large messages
into parts and join them. May not: know what a message means, or keep bytes beyond the limits of `dynafast.limits`.
"""

cimport cython

from dynafast.errors import PeerProtocolError
from dynafast.limits import FRAME_MAX, MESSAGE_MAX, PART_SIZE

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_SetItem
from cpython.float cimport PyFloat_FromDouble
from cpython.list cimport PyList_New
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.string cimport memcmp, memcpy, memmove

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    Py_ssize_t PyUnicode_GET_LENGTH(object text) noexcept
    void *PyUnicode_DATA(object text) noexcept
    # The caller owns what these return, and PyList_SET_ITEM takes it over.
    PyObject *PyBytes_FromStringAndSize(const char *data, Py_ssize_t size) except NULL
    PyObject *PyLong_FromLong(long number) except NULL
    PyObject *PyLong_FromUnsignedLongLong(unsigned long long number) except NULL
    PyObject *PyUnicode_DecodeUTF8(const char *text, Py_ssize_t size, const char *errors) except NULL
    void PyList_SET_ITEM(object items, Py_ssize_t index, PyObject *item) noexcept

cdef enum:
    DEPTH_MAX = 64                  # deeper nesting is refused: a hostile item must not exhaust the stack
    SELF_DESCRIBED = 55799          # the one tag that says nothing about what it marks
    PREPARED_MAX = 64               # elements of an array for which room is made before they are read
    PART_OVERHEAD = 64              # memory of a chunk beyond its bytes: many tiny ones are bounded too
    KEEP_CAPACITY = 256 * 1024      # an idle buffer larger than this gives its memory back
    NAMES = 256                     # texts of maps' keys that are kept for the next map; a power of two
    NAME_MAX = 23                   # bytes of the longest that is kept: the length is in the first byte of the item

cdef Py_ssize_t _FRAME_MAX = FRAME_MAX
cdef Py_ssize_t _PART_SIZE = PART_SIZE
cdef Py_ssize_t _MESSAGE_MAX = MESSAGE_MAX

cdef list _names = [""] * NAMES

__all__ = ["OP_PART", "FrameReader", "dumps", "frame", "loads"]

OP_PART = 12


cdef class Buffer:
    """Bytes that grow at the end. ``size`` of ``capacity`` are in use."""

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef int grow(self, Py_ssize_t more) except -1:
        """Make room for *more* bytes: doubling, so that appending is O(1) amortised."""
        cdef Py_ssize_t wanted = self.capacity * 2
        cdef uint8_t *data
        if wanted < self.size + more:
            wanted = self.size + more
        if wanted < 256:
            wanted = 256
        data = <uint8_t *>PyMem_Realloc(self.data, wanted)
        if data == NULL:
            raise MemoryError
        self.data = data
        self.capacity = wanted
        return 0

    cdef bytes take(self):
        """Return everything and be empty."""
        cdef bytes result = (<char *>self.data)[:self.size]
        self.size = 0
        if self.capacity > KEEP_CAPACITY:
            PyMem_Free(self.data)
            self.data = NULL
            self.capacity = 0
        return result

    cdef int drop(self, Py_ssize_t count) except -1:
        """Forget the first *count* bytes."""
        self.size -= count
        if self.size:
            memmove(self.data, self.data + count, self.size)
        elif self.capacity > KEEP_CAPACITY:
            PyMem_Free(self.data)
            self.data = NULL
            self.capacity = 0
        return 0


cdef class FrameSplitter:
    """Cuts a byte stream into frame bodies without copying what arrived whole.

    Use: `begin` with the bytes that came, `next` until it says no, `finish`. A body is valid until the next call.
    """

    def __cinit__(self):
        self.rest = Buffer()

    cdef int begin(self, const uint8_t *data, Py_ssize_t size) except -1:
        """Take what came; *data* must stay as it is until `finish`."""
        if self.rest.size:
            put_raw(self.rest, data, size)
            self.owned = True
            self.at = self.rest.data
            self.end = self.at + self.rest.size
        else:
            self.owned = False
            self.at = data
            self.end = data + size
        return 0

    cdef bint next(self, Cursor *body) except -1:
        """Point *body* at the next whole frame's item; False when more bytes are needed.

        Raises:
            PeerProtocolError: a length of zero or above the limit; the stream cannot be followed further.
        """
        cdef Py_ssize_t length
        if self.end - self.at < 4:
            return False
        length = <Py_ssize_t>load_be(self.at, 4)
        if length == 0 or length > _FRAME_MAX:
            raise PeerProtocolError(f"frame of {length} bytes: must be 1..{_FRAME_MAX}")
        if self.end - self.at - 4 < length:
            return False
        body.at = self.at + 4
        body.end = body.at + length
        self.at = body.end
        return True

    cdef int finish(self) except -1:
        """Keep the unfinished frame, if any, until more bytes come."""
        if self.owned:
            self.rest.drop(self.at - self.rest.data)
        elif self.at < self.end:
            put_raw(self.rest, self.at, self.end - self.at)
        self.at = self.end = NULL
        return 0


# ---- decoding

cdef object _truncated():
    return ValueError("truncated CBOR item")


# What is read travels as a bare owned pointer up to the array or map that takes it: with references of Cython's own, an
# array would take one and give one back for each element.

cdef inline PyObject *_decode(Cursor *c, int depth) except NULL:
    """Decode one item that is inside *depth* others, DEPTH_MAX at most; the caller owns the reference."""
    if c.at < c.end and c.at[0] < 24:   # half of what messages hold are such integers
        c.at += 1
        return PyLong_FromLong((c.at - 1)[0])
    return _decode_any(c, depth)


cdef PyObject *_decode_any(Cursor *c, int depth) except NULL:
    cdef const uint8_t *head = c.at
    cdef uint8_t major
    cdef uint64_t n
    if not read_head(c, &major, &n):
        return _give(_decode_indefinite(c, depth))
    if major == BYTES:
        return PyBytes_FromStringAndSize(<const char *>_pass(c, n), <Py_ssize_t>n)
    if major == UINT:
        return PyLong_FromUnsignedLongLong(n)
    if major == ARRAY:
        return _give(_decode_array(c, n, depth))
    if major == TEXT:
        return PyUnicode_DecodeUTF8(<const char *>_pass(c, n), <Py_ssize_t>n, NULL)
    if major == MAP:
        return _give(_decode_map(c, n, depth))
    if major == SIMPLE:
        return _give(_simple(head[0], n))
    if major == NEGATIVE:
        return _give(-1 - <object>n)
    if n != SELF_DESCRIBED:
        raise ValueError(f"tag {n}: the protocol uses none")
    return _decode(c, _deeper(depth))


cdef inline PyObject *_give(object item) noexcept:
    Py_INCREF(item)
    return <PyObject *>item


cdef inline object _take(PyObject *item):
    cdef object taken = <object>item
    Py_DECREF(taken)
    return taken


cdef inline int _deeper(int depth) except -1:
    if depth == DEPTH_MAX:
        raise ValueError(f"CBOR item nested deeper than {DEPTH_MAX} levels")
    return depth + 1


cdef inline const uint8_t *_pass(Cursor *c, uint64_t size) except NULL:
    """Return the next *size* bytes, and go behind them."""
    if size > <uint64_t>(c.end - c.at):
        raise _truncated()
    c.at += size
    return c.at - size


cdef list _decode_array(Cursor *c, uint64_t n, int depth):
    cdef Py_ssize_t i
    cdef list result
    if n == 0:
        return []
    if n > <uint64_t>(c.end - c.at):    # each element takes at least one byte: no allocation on a mere claim
        raise _truncated()
    depth = _deeper(depth)
    if n > PREPARED_MAX:                # nor for all of them at every level of nesting
        result = []
        for i in range(<Py_ssize_t>n):
            result.append(_take(_decode(c, depth)))
        return result
    result = PyList_New(<Py_ssize_t>n)
    for i in range(<Py_ssize_t>n):
        PyList_SET_ITEM(result, i, _decode(c, depth))
    return result


cdef dict _decode_map(Cursor *c, uint64_t n, int depth):
    cdef dict result = {}
    cdef uint64_t i
    if n:
        depth = _deeper(depth)
    for i in range(n):                  # one that claims more than there is finds nothing to read
        _decode_pair(c, result, depth)
    return result


cdef int _decode_pair(Cursor *c, dict into, int depth) except -1:
    cdef object key, value
    if c.at < c.end and CBOR_TEXT < c.at[0] <= CBOR_TEXT + NAME_MAX:
        key = _name(c)
    else:
        key = _take(_decode(c, depth))
        if isinstance(key, (list, dict)):
            raise ValueError("a map key must not be an array or a map")
    value = _take(_decode(c, depth))
    PyDict_SetItem(into, key, value)
    return 0


cdef inline object _name(Cursor *c):
    """Read a short text that is a map's key. Messages repeat the same few: the latest are kept, with their hashes."""
    cdef Py_ssize_t size = c.at[0] - CBOR_TEXT
    cdef const uint8_t *text
    cdef Py_ssize_t place
    cdef object name
    c.at += 1
    text = _pass(c, <uint64_t>size)
    place = (text[0] + 5 * text[size >> 1] + 9 * text[size - 1] + 17 * size) & (NAMES - 1)
    name = _names[place]
    if PyUnicode_GET_LENGTH(name) != size or memcmp(PyUnicode_DATA(name), text, size) != 0:
        name = _take(PyUnicode_DecodeUTF8(<const char *>text, size, NULL))
        if PyUnicode_GET_LENGTH(name) == size:  # ASCII: its characters are its bytes
            _names[place] = name
    return name


cdef double _float_bits(int width, uint64_t bits) noexcept:
    cdef uint32_t narrow = <uint32_t>bits
    cdef uint64_t fraction
    cdef int exponent
    cdef double value = 0
    cdef float single = 0
    if width == 8:
        memcpy(&value, &bits, 8)
        return value
    if width == 4:
        memcpy(&single, &narrow, 4)
        return single
    exponent = (narrow >> 10) & 31
    fraction = narrow & 0x3FF
    if exponent == 31:
        bits = 0x7FF0000000000000u | (fraction << 42)
        memcpy(&value, &bits, 8)
    elif exponent == 0:
        value = <double>fraction * 2.0 ** -24
    else:
        value = <double>(fraction + 1024) * (2.0 ** (exponent - 25))
    return -value if narrow & 0x8000 else value


cdef object _simple(uint8_t first, uint64_t bits):
    if first == CBOR_FALSE:
        return False
    if first == CBOR_TRUE:
        return True
    if first == CBOR_NULL:
        return None
    if first & 31 < 25:
        raise ValueError("simple value without a meaning here")
    return PyFloat_FromDouble(_float_bits(1 << ((first & 31) - 24), bits))


cdef object _decode_indefinite(Cursor *c, int depth):
    """Decode an item without a length, up to its break; whatever has no other head either is refused."""
    cdef uint8_t major
    cdef list items = []
    cdef dict pairs = {}
    if c.at >= c.end:
        raise _truncated()
    major = c.at[0] >> 5
    if c.at[0] & 31 != 31 or major < BYTES or major > MAP:
        raise ValueError("bad head of a CBOR item")
    c.at += 1
    if major <= TEXT:
        return _chunks(c, major)
    if c.at < c.end and c.at[0] != CBOR_BREAK:
        depth = _deeper(depth)
    while c.at < c.end and c.at[0] != CBOR_BREAK:
        if major == ARRAY:
            items.append(_take(_decode(c, depth)))
        else:
            _decode_pair(c, pairs, depth)
    if c.at >= c.end:
        raise _truncated()
    c.at += 1
    return items if major == ARRAY else pairs


cdef object _chunks(Cursor *c, uint8_t major):
    """Join an indefinite string: definite chunks of the same type up to the break."""
    cdef list parts = []
    cdef uint64_t length
    while True:
        if c.at >= c.end:
            raise _truncated()
        if c.at[0] == CBOR_BREAK:
            c.at += 1
            break
        if not read_expect(c, major, &length) or length > <uint64_t>(c.end - c.at):
            raise ValueError("bad chunk in an indefinite string")
        if major == TEXT:
            parts.append(_take(PyUnicode_DecodeUTF8(<const char *>c.at, <Py_ssize_t>length, NULL)))
        else:
            parts.append((<const char *>c.at)[:length])
        c.at += length
    return "".join(parts) if major == TEXT else b"".join(parts)


cdef object decode_item(const uint8_t *data, Py_ssize_t size):
    """Decode one whole item. Raises ValueError."""
    cdef Cursor c
    cdef object item
    c.at = data
    c.end = data + size
    item = _take(_decode(&c, 0))
    if c.at != c.end:
        raise ValueError(f"{c.end - c.at} bytes after the CBOR item")
    return item


@cython.binding(False)
def loads(data):
    """Return the one CBOR item that *data* (bytes-like) holds.

    Raises:
        ValueError: not one whole, valid item; nested too deep; a map key that is an array or a map.
    """
    if type(data) is bytes:             # a memory view of it would cost as much as decoding a request
        return decode_item(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return _decode_view(data)


cdef object _decode_view(const uint8_t[::1] view):
    if view.shape[0] == 0:
        raise _truncated()
    return decode_item(&view[0], view.shape[0])


# ---- encoding

cdef int _encode_int(Buffer out, object item) except -1:
    if item >= 0:
        return put_head(out, UINT, <uint64_t>item)
    return put_head(out, NEGATIVE, <uint64_t>(-1 - item))


cdef int encode_item(Buffer out, object item, int depth) except -1:
    """Append the canonical encoding of *item*. Raises TypeError, OverflowError or ValueError (nested too deep)."""
    cdef const char *text
    cdef Py_ssize_t size
    cdef double value
    cdef uint64_t bits
    cdef object key
    if depth > DEPTH_MAX:
        raise ValueError(f"item nested deeper than {DEPTH_MAX} levels")
    if item is None:
        return put_byte(out, CBOR_NULL)
    if item is True:
        return put_byte(out, CBOR_TRUE)
    if item is False:
        return put_byte(out, CBOR_FALSE)
    if isinstance(item, int):
        return _encode_int(out, item)
    if isinstance(item, bytes):
        return put_bytes(out, PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item))
    if isinstance(item, str):
        text = PyUnicode_AsUTF8AndSize(item, &size)
        return put_text(out, text, size)
    if isinstance(item, (list, tuple)):
        put_head(out, ARRAY, <uint64_t>len(item))
        for key in item:
            encode_item(out, key, depth + 1)
        return 0
    if isinstance(item, dict):
        put_head(out, MAP, <uint64_t>len(item))
        for key in item:
            encode_item(out, key, depth + 1)
            encode_item(out, item[key], depth + 1)
        return 0
    if isinstance(item, float):
        value = item
        memcpy(&bits, &value, 8)
        put_byte(out, 0xFB)
        reserve(out, 8)
        store_be(out.data + out.size, bits, 8)
        out.size += 8
        return 0
    raise TypeError(f"cannot encode {type(item).__name__}")


def dumps(item):
    """Return the canonical CBOR encoding of *item*: shortest integers, definite lengths, 64-bit floats.

    Takes int (-2**64..2**64-1), bytes, str, bool, None, float, and lists, tuples and dicts of them.

    Raises:
        TypeError: another type. OverflowError: an integer out of range. ValueError: nested too deep.
    """
    cdef Buffer out = Buffer()
    encode_item(out, item, 0)
    return out.take()


# ---- frames and parts

cdef int emit_message(Buffer out, uint64_t id, const uint8_t *item, Py_ssize_t size) except -1:
    """Append the frame of an encoded message, or its PART frames when it is too large for one."""
    cdef Py_ssize_t start, chunk
    if size <= _FRAME_MAX:
        start = open_frame(out)
        put_raw(out, item, size)
        close_frame(out, start)
        return 0
    while size:
        chunk = _PART_SIZE if size > _PART_SIZE else size
        start = open_frame(out)
        put_head(out, ARRAY, 4)
        put_uint(out, OP_PART)
        put_uint(out, id)
        put_byte(out, CBOR_TRUE if chunk == size else CBOR_FALSE)
        put_bytes(out, item, chunk)
        close_frame(out, start)
        item += chunk
        size -= chunk
    return 0


def frame(item):
    """Return the frame of the message *item* (``[op, id, ...]``); PART frames, joined, when it is too large for one."""
    cdef Buffer body = Buffer()
    cdef Buffer out = Buffer()
    encode_item(body, item, 0)
    emit_message(out, item[1], body.data, body.size)
    return out.take()


cdef class PartJoiner:
    """Joins the parts of messages, by request id, within one bound for all of them together."""

    def __cinit__(self):
        self.chunks = {}

    cdef bytes add(self, uint64_t id, bint last, bytes chunk):
        """Return the whole message with its last part, else None. Raises PeerProtocolError over the bound."""
        cdef list have = self.chunks.get(id)
        if have is None:
            have = self.chunks[id] = []
        have.append(chunk)
        self.size += len(chunk) + PART_OVERHEAD
        if self.size > _MESSAGE_MAX:
            raise PeerProtocolError(f"parts of more than {_MESSAGE_MAX} bytes outstanding")
        if not last:
            return None
        del self.chunks[id]
        chunk = b"".join(have)
        self.size -= len(chunk) + PART_OVERHEAD * len(have)
        return chunk


cdef class FrameReader:
    """Turns bytes, however they are cut, into messages; the client's half of a connection."""

    cdef FrameSplitter splitter
    cdef PartJoiner parts

    def __cinit__(self):
        self.splitter = FrameSplitter()
        self.parts = PartJoiner()

    def feed(self, bytes data):
        """Return the messages that *data* completes, in order, parts joined.

        Raises:
            PeerProtocolError: a frame of a bad length, a body that is no CBOR array, or bad parts.
        """
        cdef Cursor body
        cdef list messages = []
        self.splitter.begin(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        while self.splitter.next(&body):
            message = self._message(body.at, body.end - body.at)
            if message[0] == OP_PART:
                message = self._join(message)
                if message is None:
                    continue
            messages.append(message)
        self.splitter.finish()
        return messages

    cdef list _message(self, const uint8_t *data, Py_ssize_t size):
        try:
            message = decode_item(data, size)
        except ValueError as error:
            raise PeerProtocolError(f"frame without a CBOR item: {error}") from error
        if not isinstance(message, list) or not message:
            raise PeerProtocolError("frame without a CBOR array")
        return message

    cdef list _join(self, list message):
        cdef bytes whole
        if (
            len(message) != 4
            or type(message[1]) is not int
            or not 0 <= message[1] < 2**64
            or not isinstance(message[2], bool)
            or not isinstance(message[3], bytes)
        ):
            raise PeerProtocolError("malformed PART frame")
        whole = self.parts.add(message[1], message[2], message[3])
        if whole is None:
            return None
        message = self._message(<const uint8_t *>PyBytes_AS_STRING(whole), PyBytes_GET_SIZE(whole))
        if message[0] == OP_PART:
            raise PeerProtocolError("a part must not hold parts")
        return message
