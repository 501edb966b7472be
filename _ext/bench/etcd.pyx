"""The load generator's codec of etcd: Range and Put of its version 3 API, as unary gRPC calls over HTTP/2.

It knows no more of HTTP/2 than that takes: it never decodes a header block, since a call that succeeded has a message
and one that failed has none. A message must fit into one DATA frame (16 kB).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memset

from bench._ext.wire cimport (
    CONTROL, FOUND, MISSING, STORED, Answer, Buffer, Codec, Put, Wire, fail, put_byte, put_bytes, reserve,
)

cdef enum:
    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8

cdef enum:
    END_STREAM = 1
    ACK = 1
    END_HEADERS = 4
    PADDED = 8

cdef enum:
    STREAMS = 4096  # that may be between the oldest unanswered one and the newest; a power of two
    WINDOW = 65535  # what a new connection may send
    ROOM = 1 << 30  # received since we last said so


cdef Codec etcd_codec() noexcept:
    return Codec(greet=greet, get=get, put=put, next=next_answer, ordered=False)


cdef int greet(Wire *wire) noexcept nogil:
    if wire.slots is NULL:
        wire.slots = <int64_t *>malloc(STREAMS * sizeof(int64_t))
    if wire.slots is NULL or reserve(&wire.output, wire.settings.greeting_size):
        return -1
    memset(wire.slots, 0xFF, STREAMS * sizeof(int64_t))
    wire.stream, wire.window, wire.taken = 1, WINDOW, 0
    put_bytes(&wire.output, wire.settings.greeting, wire.settings.greeting_size)
    return 0


cdef void frame(Buffer *out, size_t size, uint8_t type, uint8_t flags, uint32_t stream) noexcept nogil:
    put_byte(out, <uint8_t>(size >> 16))
    put_byte(out, <uint8_t>(size >> 8))
    put_byte(out, <uint8_t>size)
    put_byte(out, type)
    put_byte(out, flags)
    number(out, stream)


cdef void number(Buffer *out, uint32_t value) noexcept nogil:
    put_byte(out, <uint8_t>(value >> 24))
    put_byte(out, <uint8_t>(value >> 16))
    put_byte(out, <uint8_t>(value >> 8))
    put_byte(out, <uint8_t>value)


cdef int begin(Wire *wire, int64_t mark, const uint8_t *block, size_t block_size, size_t size) noexcept nogil:
    """Write all of a call but its message of *size* bytes."""
    cdef int64_t *slot = wire.slots + ((wire.stream >> 1) & (STREAMS - 1))
    cdef Buffer *out = &wire.output
    if slot[0] >= 0 or wire.window < <int64_t>size + 5 or reserve(out, 64 + block_size + size):
        return -1
    slot[0] = mark
    wire.window -= size + 5
    frame(out, block_size, HEADERS, END_HEADERS, wire.stream)
    put_bytes(out, block, block_size)
    frame(out, size + 5, DATA, END_STREAM, wire.stream)
    put_byte(out, 0)
    number(out, <uint32_t>size)
    wire.stream += 2
    return 0


cdef size_t field_size(size_t size) noexcept nogil:
    return size + (2 if size < 128 else 3)  # less than 16 kB


cdef void field(Buffer *out, uint8_t tag, const uint8_t *data, size_t size) noexcept nogil:
    put_byte(out, tag)
    if size < 128:
        put_byte(out, <uint8_t>size)
    else:
        put_byte(out, <uint8_t>(size | 128))
        put_byte(out, <uint8_t>(size >> 7))
    put_bytes(out, data, size)


cdef int get(Wire *wire, int64_t id, const uint8_t *key, size_t key_size) noexcept nogil:
    if begin(wire, 2 * id, wire.settings.get_tail, wire.settings.get_tail_size, field_size(key_size)):
        return -1
    field(&wire.output, 0x0A, key, key_size)
    return 0


cdef int put(Wire *wire, int64_t id, const Put *put) noexcept nogil:
    cdef size_t size = field_size(put.key_size) + field_size(put.value_size)
    if size > 16000 or begin(wire, 2 * id + 1, wire.settings.put_tail, wire.settings.put_tail_size, size):
        return -1
    field(&wire.output, 0x0A, put.key, put.key_size)
    field(&wire.output, 0x12, put.value, put.value_size)
    return 0


cdef int next_answer(Wire *wire, Answer *answer) noexcept nogil:
    cdef Buffer *buffer = &wire.input
    cdef const uint8_t *data = buffer.data + buffer.start
    cdef size_t have = buffer.end - buffer.start, size
    cdef uint32_t stream
    if have < 9:
        return 0
    size = <size_t>data[0] << 16 | <size_t>data[1] << 8 | data[2]
    if have < 9 + size:
        return 0
    buffer.start += 9 + size
    stream = (<uint32_t>data[5] << 24 | <uint32_t>data[6] << 16 | <uint32_t>data[7] << 8 | data[8]) & 0x7FFFFFFF
    memset(answer, 0, sizeof(Answer))
    answer.kind = CONTROL
    if stream == 0:
        return control(wire, data[3], data[4], data + 9, size)
    if data[3] == DATA or data[3] == RST_STREAM or (data[3] == HEADERS and data[4] & END_STREAM):
        return settle(wire, stream, data[3] == DATA, data[4], data + 9, size, answer)
    return 1


cdef int control(Wire *wire, uint8_t type, uint8_t flags, const uint8_t *data, size_t size) noexcept nogil:
    cdef Buffer *out = &wire.output
    if type == WINDOW_UPDATE and size == 4:
        wire.window += <uint32_t>data[0] << 24 | <uint32_t>data[1] << 16 | <uint32_t>data[2] << 8 | data[3]
    elif type == GOAWAY or reserve(out, 32):
        return -1
    elif type == SETTINGS and not flags & ACK:
        frame(out, 0, SETTINGS, ACK, 0)
    elif type == PING and size == 8 and not flags & ACK:
        frame(out, 8, PING, ACK, 0)
        put_bytes(out, data, 8)
    return 1


cdef int settle(
    Wire *wire, uint32_t stream, bint message, uint8_t flags, const uint8_t *data, size_t size, Answer *answer
) noexcept nogil:
    """Take a message, or the end of a stream: the end of one that had its message is nobody's business."""
    cdef int64_t *slot = wire.slots + ((stream >> 1) & (STREAMS - 1))
    cdef int64_t mark = slot[0]
    if message:
        wire.taken += size
        if wire.taken > ROOM:
            if reserve(&wire.output, 16):
                return -1
            frame(&wire.output, 4, WINDOW_UPDATE, 0, 0)
            number(&wire.output, <uint32_t>wire.taken)
            wire.taken = 0
    if mark < 0 or stream + 2 * STREAMS <= wire.stream:
        return 1
    slot[0] = -1
    answer.id = mark >> 1
    if not message:
        fail(answer, b"a gRPC error")
    elif flags & PADDED or size < 5 or data[0] or size - 5 != (<uint32_t>data[3] << 8 | data[4]) or data[1] or data[2]:
        fail(answer, b"not one message in one frame")
    elif mark & 1:
        answer.kind = STORED
    elif take_range(data + 5, data + size, answer):
        fail(answer, b"not a range response")
    return 1


cdef int varint(const uint8_t **at, const uint8_t *end, uint64_t *value) noexcept nogil:
    cdef int shift = 0
    cdef uint8_t byte
    value[0] = 0
    while at[0] < end and shift < 64:
        byte = at[0][0]
        at[0] += 1
        value[0] |= <uint64_t>(byte & 127) << shift
        shift += 7
        if not byte & 128:
            return 0
    return -1


cdef int take_field(const uint8_t **at, const uint8_t *end, uint64_t *tag, uint64_t *value) noexcept nogil:
    """Take a field: a number, or bytes of which the length is taken and the bytes are not."""
    if varint(at, end, tag) or varint(at, end, value):
        return -1
    if tag[0] & 7 == 2:
        return -1 if value[0] > <uint64_t>(end - at[0]) else 0
    return 0 if tag[0] & 7 == 0 else -1


cdef int take_range(const uint8_t *at, const uint8_t *end, Answer *answer) noexcept nogil:
    """Find the value of the only key-value pair: field 5 of field 2."""
    cdef const uint8_t *inner_end
    cdef uint64_t tag = 0, value = 0
    answer.kind = MISSING
    while at < end:
        if take_field(&at, end, &tag, &value):
            return -1
        if tag == 0x12:
            answer.kind, answer.versions, answer.value = FOUND, 1, at
            inner_end = at + value
            while at < inner_end:
                if take_field(&at, inner_end, &tag, &value):
                    return -1
                if tag & 7 == 2:
                    if tag == 0x2A:
                        answer.value, answer.size = at, value
                    at += value
        elif tag & 7 == 2:
            at += value
    return 0
