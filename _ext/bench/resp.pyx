"""The load generator's codec of Redis's protocol: GET, SET, and SET followed by WAIT."""

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memchr, memset

from bench._ext.wire cimport (
    CONTROL, FAILED, FOUND, MISSING, STORED, Answer, Buffer, Codec, Put, Wire, fail, line_end, put_bytes, put_decimal,
    put_text, reserve, take_decimal,
)


cdef Codec resp_codec() noexcept:
    return Codec(greet=greet, get=get, put=put, next=next_answer, ordered=True)


cdef int greet(Wire *wire) noexcept nogil:
    return 0


cdef void bulk(Buffer *out, const uint8_t *data, size_t size) noexcept nogil:
    put_text(out, b"$")
    put_decimal(out, size)
    put_text(out, b"\r\n")
    put_bytes(out, data, size)
    put_text(out, b"\r\n")


cdef int get(Wire *wire, int64_t id, const uint8_t *key, size_t key_size) noexcept nogil:
    if reserve(&wire.output, 64 + key_size):
        return -1
    put_text(&wire.output, b"*2\r\n$3\r\nGET\r\n")
    bulk(&wire.output, key, key_size)
    return 0


cdef int put(Wire *wire, int64_t id, const Put *put) noexcept nogil:
    cdef Buffer *out = &wire.output
    if reserve(out, 96 + put.key_size + put.value_size + wire.settings.put_tail_size):
        return -1
    put_text(out, b"*3\r\n$3\r\nSET\r\n")
    bulk(out, put.key, put.key_size)
    bulk(out, put.value, put.value_size)
    put_bytes(out, wire.settings.put_tail, wire.settings.put_tail_size)
    return 0


cdef int next_answer(Wire *wire, Answer *answer) noexcept nogil:
    """With a WAIT behind each SET, the answer to WAIT is the answer to both; an error of one ends the connection."""
    cdef Buffer *buffer = &wire.input
    cdef const uint8_t *data = buffer.data + buffer.start
    cdef const uint8_t *end = buffer.data + buffer.end
    cdef const uint8_t *line = line_end(data, end)
    cdef const uint8_t *word
    cdef int64_t number
    cdef size_t used
    if line is NULL:
        return 0
    memset(answer, 0, sizeof(Answer))
    answer.id = -1
    used = line + 2 - data
    if data[0] == c"+":
        answer.kind = CONTROL if wire.settings.need else STORED
    elif data[0] == c":":
        number = take_decimal(data + 1, line)
        if number < 0 or not wire.settings.need:
            return -1
        answer.kind = STORED
        if number < wire.settings.need:
            fail(answer, b"too few replicas")
    elif data[0] == c"-":
        if wire.settings.need:
            return -1
        word = <const uint8_t *>memchr(data + 1, 32, line - data - 1)
        answer.kind, answer.error = FAILED, data + 1
        answer.error_size = (line if word is NULL else word) - data - 1
    elif data[0] == c"$" and line - data == 3 and data[1] == c"-" and data[2] == c"1":
        answer.kind = MISSING
    elif data[0] == c"$":
        number = take_decimal(data + 1, line)
        if number < 0:
            return -1
        if end - line < 2 + number + 2:
            return 0
        answer.kind, answer.value, answer.size, answer.versions = FOUND, line + 2, number, 1
        used += number + 2
    else:
        return -1
    buffer.start += used
    return 1
