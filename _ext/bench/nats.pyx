"""The load generator's codec of NATS, for a JetStream key-value bucket: acknowledged puts and direct gets.

The subject that the answer goes to ends in the slot that asked.
"""

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp, memset

from bench._ext.wire cimport (
    CONTROL, FOUND, MISSING, STORED, Answer, Buffer, Codec, Put, Wire, fail, line_end, put_bytes, put_decimal, put_text,
    reserve, take_decimal,
)

cdef extern from "<string.h>" nogil:
    void *memmem(const void *, size_t, const void *, size_t)

cdef enum:
    WORDS_MAX = 6


cdef Codec nats_codec() noexcept:
    return Codec(greet=greet, get=get, put=put, next=next_answer, ordered=False)


cdef int greet(Wire *wire) noexcept nogil:
    cdef Buffer *out = &wire.output
    if reserve(out, wire.settings.greeting_size + 64):
        return -1
    put_bytes(out, wire.settings.greeting, wire.settings.greeting_size)
    put_text(out, b"SUB _INBOX.")
    put_decimal(out, wire.number)
    put_text(out, b".* 1\r\n")
    return 0


cdef void reply_to(Wire *wire, int64_t id) noexcept nogil:
    put_text(&wire.output, b" _INBOX.")
    put_decimal(&wire.output, wire.number)
    put_text(&wire.output, b".")
    put_decimal(&wire.output, <size_t>id)


cdef int get(Wire *wire, int64_t id, const uint8_t *key, size_t key_size) noexcept nogil:
    cdef Buffer *out = &wire.output
    if reserve(out, 128 + wire.settings.get_tail_size + key_size):
        return -1
    put_text(out, b"PUB ")
    put_bytes(out, wire.settings.get_tail, wire.settings.get_tail_size)
    put_bytes(out, key, key_size)
    reply_to(wire, id)
    put_text(out, b" 0\r\n\r\n")
    return 0


cdef int put(Wire *wire, int64_t id, const Put *put) noexcept nogil:
    cdef Buffer *out = &wire.output
    if reserve(out, 160 + wire.settings.put_tail_size + put.key_size + put.value_size):
        return -1
    put_text(out, b"PUB ")
    put_bytes(out, wire.settings.put_tail, wire.settings.put_tail_size)
    put_bytes(out, put.key, put.key_size)
    reply_to(wire, id)
    put_text(out, b" ")
    put_decimal(out, put.value_size)
    put_text(out, b"\r\n")
    put_bytes(out, put.value, put.value_size)
    put_text(out, b"\r\n")
    return 0


cdef int next_answer(Wire *wire, Answer *answer) noexcept nogil:
    cdef Buffer *buffer = &wire.input
    cdef const uint8_t *data = buffer.data + buffer.start
    cdef const uint8_t *end = buffer.data + buffer.end
    cdef const uint8_t *line = line_end(data, end)
    if line is NULL:
        return 0
    memset(answer, 0, sizeof(Answer))
    answer.kind = CONTROL
    if line - data > 4 and memcmp(data, <const char *>b"MSG ", 4) == 0:
        return message(buffer, data + 4, line, end, False, answer)
    if line - data > 5 and memcmp(data, <const char *>b"HMSG ", 5) == 0:
        return message(buffer, data + 5, line, end, True, answer)
    buffer.start += line + 2 - data
    if data[0] == c"-":
        return -1
    if line - data == 4 and memcmp(data, <const char *>b"PING", 4) == 0:
        if reserve(&wire.output, 8):
            return -1
        put_text(&wire.output, b"PONG\r\n")
    return 1


cdef int message(
    Buffer *buffer, const uint8_t *at, const uint8_t *line, const uint8_t *end, bint headed, Answer *answer
) noexcept nogil:
    """Take a message whose first line, without its verb, is *at* .. *line*: subject, sid, [reply], [head,] size."""
    cdef const uint8_t *words[WORDS_MAX + 1]
    cdef const uint8_t *dot
    cdef int count = 0
    cdef int64_t head_size = 0, size
    words[0] = at
    while at < line:
        if at[0] == 32:
            count += 1
            if count == WORDS_MAX:
                return -1
            words[count] = at + 1
        at += 1
    size = take_decimal(words[count], line)
    if headed:
        head_size = take_decimal(words[count - 1], words[count] - 1)
    if count < 2 or size < 0 or not 0 <= head_size <= size:
        return -1
    if end - line < 2 + size + 2:
        return 0
    dot = words[1] - 2
    while dot > words[0] and dot[0] != c".":
        dot -= 1
    answer.id = take_decimal(dot + 1, words[1] - 1)
    if answer.id < 0:
        return -1
    buffer.start += line + 2 + size + 2 - (buffer.data + buffer.start)
    read_message(line + 2, head_size, size, headed, answer)
    return 1


cdef void read_message(
    const uint8_t *data, int64_t head_size, int64_t size, bint headed, Answer *answer
) noexcept nogil:
    """A message with a head answers a get, one without acknowledges a put. A status in the head: there is no value."""
    if not headed:
        answer.kind = STORED
        if memmem(data, size, <const char *>b"\"seq\":", 6) is NULL:
            fail(answer, b"no acknowledgement")
    elif head_size >= 12 and data[8] == 32:
        answer.kind = MISSING
        if memcmp(data + 9, <const char *>b"404", 3):
            fail(answer, b"no responders" if memcmp(data + 9, <const char *>b"503", 3) == 0 else b"a status")
    else:
        answer.kind, answer.versions = FOUND, 1
        answer.value, answer.size = data + head_size, size - head_size
