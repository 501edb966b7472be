"""The load generator's codec of dynafast's own protocol (docs/protocol.md, part one).

It writes the requests that a load needs and reads every answer to them. What a node may send and this does not know,
an answer in parts or of indefinite length, is counted as a failure of that request, never skipped.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memset

from bench._ext.wire cimport (
    CONTROL, FAILED, FOUND, MISSING, STORED, Answer, Buffer, Codec, Put, Wire, fail, put_byte, put_bytes,
    reserve,
)

cdef enum:
    UINT = 0
    BYTES = 2
    TEXT = 3
    ARRAY = 4
    MAP = 5
    SIMPLE = 7

cdef enum:
    FRAME_MAX = 16777216


cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end


cdef Codec native_codec() noexcept:
    return Codec(greet=greet, get=get, put=put, next=next_answer, ordered=False)


cdef int greet(Wire *wire) noexcept nogil:
    if reserve(&wire.output, wire.settings.greeting_size):
        return -1
    put_bytes(&wire.output, wire.settings.greeting, wire.settings.greeting_size)
    return 0


cdef void head(Buffer *out, uint8_t major, uint64_t value) noexcept nogil:
    """Append the head of an item: 9 bytes at most."""
    cdef int count, shift
    major <<= 5
    if value < 24:
        put_byte(out, major | <uint8_t>value)
        return
    count = 0 if value < 256 else 1 if value < 65536 else 2 if value < (<uint64_t>1 << 32) else 3
    put_byte(out, major | <uint8_t>(24 + count))
    shift = 8 * (1 << count)
    while shift:
        shift -= 8
        put_byte(out, <uint8_t>(value >> shift))


cdef void close_frame(Buffer *out, size_t start) noexcept nogil:
    """Write the length before a frame whose 4 bytes for it are at *start*."""
    cdef size_t size = out.end - start - 4
    cdef int i
    for i in range(4):
        out.data[start + i] = <uint8_t>(size >> (24 - 8 * i))


cdef size_t open_frame(Buffer *out) noexcept nogil:
    """Leave room for the length of a frame, for which there is space; return where it begins, for `close_frame`."""
    out.end += 4
    return out.end - 4


cdef int get(Wire *wire, int64_t id, const uint8_t *key, size_t key_size) noexcept nogil:
    cdef Buffer *out = &wire.output
    cdef size_t start
    if reserve(out, 40 + key_size + wire.settings.get_tail_size):
        return -1
    start = open_frame(out)
    head(out, ARRAY, 4)
    head(out, UINT, 2)
    head(out, UINT, <uint64_t>id + 1)
    head(out, BYTES, key_size)
    put_bytes(out, key, key_size)
    put_bytes(out, wire.settings.get_tail, wire.settings.get_tail_size)
    close_frame(out, start)
    return 0


cdef int put(Wire *wire, int64_t id, const Put *put) noexcept nogil:
    cdef Buffer *out = &wire.output
    cdef size_t start
    if reserve(out, 100 + put.key_size + put.value_size + put.context_size + wire.settings.put_tail_size):
        return -1
    start = open_frame(out)
    head(out, ARRAY, 7)
    head(out, UINT, 3)
    head(out, UINT, <uint64_t>id + 1)
    head(out, BYTES, put.key_size)
    put_bytes(out, put.key, put.key_size)
    head(out, BYTES, put.value_size)
    put_bytes(out, put.value, put.value_size)
    if put.context is NULL:
        put_byte(out, 0xF6)
    else:
        head(out, BYTES, put.context_size)
        put_bytes(out, put.context, put.context_size)
    head(out, BYTES, 16)
    put_bytes(out, put.nonce, 16)
    if put.context is NULL:
        put_bytes(out, wire.settings.put_tail, wire.settings.put_tail_size)
    else:  # it replaces what was read, not whatever is there
        put_byte(out, 0xF6)
    close_frame(out, start)
    return 0


cdef int take(Cursor *cursor, int major, uint64_t *value) noexcept nogil:
    """Take the head of an item of definite length; -1: it is another one."""
    cdef uint8_t first, extra
    cdef int count
    if cursor.at >= cursor.end:
        return -1
    first = cursor.at[0]
    cursor.at += 1
    extra = first & 31
    if first >> 5 != major or extra > 27:
        return -1
    if extra < 24:
        value[0] = extra
        return 0
    count = 1 << (extra - 24)
    if cursor.end - cursor.at < count:
        return -1
    value[0] = 0
    while count:
        value[0] = value[0] << 8 | cursor.at[0]
        cursor.at += 1
        count -= 1
    return 0


cdef int take_string(Cursor *cursor, int major, const uint8_t **data, size_t *size) noexcept nogil:
    cdef uint64_t length = 0
    if take(cursor, major, &length) or length > <uint64_t>(cursor.end - cursor.at):
        return -1
    data[0], size[0] = cursor.at, length
    cursor.at += length
    return 0


cdef int take_context(Cursor *cursor, Answer *answer) noexcept nogil:
    """Take bytes or null."""
    if cursor.at < cursor.end and cursor.at[0] == 0xF6:
        cursor.at += 1
        return 0
    return take_string(cursor, BYTES, &answer.context, &answer.context_size)


cdef int take_found(Cursor *cursor, Answer *answer) noexcept nogil:
    """Take the versions and the context; the value is that of the latest version."""
    cdef uint64_t versions = 0, fields = 0, actor = 0, counter = 0, time = 0, latest = 0
    cdef const uint8_t *data = NULL
    cdef size_t size = 0
    cdef uint64_t i
    if take(cursor, ARRAY, &versions):
        return -1
    for i in range(versions):
        if take(cursor, ARRAY, &fields) or fields != 5 or take(cursor, UINT, &actor) or take(cursor, UINT, &counter):
            return -1
        if take(cursor, UINT, &time) or take_string(cursor, BYTES, &data, &size):
            return -1
        if take_string(cursor, BYTES, &data, &size):
            return -1
        if answer.value is NULL or time >= latest:
            latest, answer.value, answer.size = time, data, size
    answer.versions = <unsigned int>versions
    answer.kind = FOUND if versions else MISSING
    return take_context(cursor, answer)


cdef int take_written(Cursor *cursor, Answer *answer) noexcept nogil:
    cdef uint64_t fields = 0, number = 0, live = 0
    if take(cursor, ARRAY, &fields) or fields != 3:
        return -1
    if take(cursor, UINT, &number) or take(cursor, UINT, &number) or take(cursor, UINT, &number):
        return -1
    if take(cursor, UINT, &live):
        return -1
    answer.versions = <unsigned int>live
    answer.kind = STORED
    return take_context(cursor, answer)


cdef int next_answer(Wire *wire, Answer *answer) noexcept nogil:
    cdef Buffer *buffer = &wire.input
    cdef const uint8_t *data = buffer.data + buffer.start
    cdef size_t have = buffer.end - buffer.start, size
    cdef uint64_t fields = 0, op = 0, id = 0
    cdef Cursor cursor
    cdef int status = 0
    if have < 4:
        return 0
    size = <size_t>data[0] << 24 | <size_t>data[1] << 16 | <size_t>data[2] << 8 | data[3]
    if not 0 < size <= FRAME_MAX:
        return -1
    if have < 4 + size:
        return 0
    memset(answer, 0, sizeof(Answer))
    cursor.at, cursor.end = data + 4, data + 4 + size
    buffer.start += 4 + size
    if take(&cursor, ARRAY, &fields) or fields < 2 or take(&cursor, UINT, &op) or take(&cursor, UINT, &id):
        return -1
    if id == 0:  # the hello; an error of that id ends the connection
        answer.kind = CONTROL
        return -1 if op else 1
    answer.id = <int64_t>id - 1
    if op == 9 and fields == 6:
        status = take_found(&cursor, answer)
    elif op == 10 and fields == 8:
        status = take_written(&cursor, answer)
    elif op == 11 and fields == 5:
        answer.kind = FAILED
        status = take_string(&cursor, TEXT, &answer.error, &answer.error_size)
    else:
        status = -1
    if status:
        fail(answer, b"not an answer we can read")
    return 1
