# What the codecs of the load generator share: growing buffers, and the calls that each protocol offers.
# Only inline code, so there is no module of this name.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memmove, strlen


cdef struct Buffer:
    uint8_t *data  # owned by the connection
    size_t start  # of the bytes that are still to be used
    size_t end
    size_t room


cdef enum Kind:
    CONTROL  # nobody waits for it
    FOUND
    MISSING
    STORED
    FAILED


cdef struct Answer:
    Kind kind
    int64_t id  # the slot that asked; -1: the oldest request of the connection
    # All point into the input buffer, and are good until more is received.
    const uint8_t *value
    size_t size
    const uint8_t *context  # what a put needs that replaces the value; NULL: nothing
    size_t context_size
    const uint8_t *error  # a word for the kind of failure
    size_t error_size
    uint32_t versions  # how many values the key has


cdef struct Settings:
    # Bytes that a protocol puts into what it sends, made in Python once.
    const uint8_t *greeting  # first on every connection
    size_t greeting_size
    const uint8_t *get_tail
    size_t get_tail_size
    const uint8_t *put_tail
    size_t put_tail_size
    int64_t need  # resp: replicas that WAIT must report; 0: there is no WAIT


cdef struct Wire:
    Buffer input
    Buffer output
    const Settings *settings
    uint32_t number  # of the connection, unlike that of every other one of this process
    # For protocols that have something to remember:
    int64_t *slots  # etcd: stream -> slot
    uint32_t stream
    int64_t window  # etcd: bytes that the server will still take
    uint64_t taken  # etcd: bytes received since the server was last given room


cdef struct Put:
    const uint8_t *key
    size_t key_size
    const uint8_t *value
    size_t value_size
    const uint8_t *context  # NULL: none
    size_t context_size
    uint64_t nonce[2]  # random: the write's id where the protocol has one


ctypedef int (*Greet)(Wire *) noexcept nogil
ctypedef int (*Get)(Wire *, int64_t, const uint8_t *, size_t) noexcept nogil
ctypedef int (*Store)(Wire *, int64_t, const Put *) noexcept nogil
ctypedef int (*Next)(Wire *, Answer *) noexcept nogil


cdef struct Codec:
    # All return 0, or -1: no memory, or bytes that no correct server sends; the connection is then of no use.
    Greet greet
    Get get
    Store put
    Next next  # takes one answer from the input: 1; there is no whole one yet: 0
    bint ordered  # answers come in the order of the requests, without ids


cdef inline int reserve(Buffer *buffer, size_t count) noexcept nogil:
    """Make room for *count* more bytes."""
    cdef size_t used = buffer.end - buffer.start, room
    cdef uint8_t *data
    if buffer.room - buffer.end >= count:
        return 0
    if buffer.start:
        memmove(buffer.data, buffer.data + buffer.start, used)
        buffer.start, buffer.end = 0, used
        if buffer.room - used >= count:
            return 0
    room = max(2 * buffer.room, used + count)
    data = <uint8_t *>realloc(buffer.data, room)
    if data is NULL:
        return -1
    buffer.data, buffer.room = data, room
    return 0


cdef inline void put_bytes(Buffer *buffer, const void *data, size_t size) noexcept nogil:
    """Append bytes for which there is room."""
    memcpy(buffer.data + buffer.end, data, size)
    buffer.end += size


cdef inline void put_byte(Buffer *buffer, uint8_t value) noexcept nogil:
    buffer.data[buffer.end] = value
    buffer.end += 1


cdef inline void put_text(Buffer *buffer, const char *text) noexcept nogil:
    put_bytes(buffer, text, strlen(text))


cdef inline void fail(Answer *answer, const char *why) noexcept nogil:
    answer.kind, answer.error, answer.error_size = FAILED, <const uint8_t *>why, strlen(why)


cdef inline void put_decimal(Buffer *buffer, uint64_t value) noexcept nogil:
    """Append a number in decimal: 20 bytes at most."""
    cdef uint8_t digits[20]
    cdef int at = 20
    while True:
        at -= 1
        digits[at] = <uint8_t>(48 + value % 10)
        value //= 10
        if not value:
            break
    put_bytes(buffer, digits + at, 20 - at)


cdef inline int64_t take_decimal(const uint8_t *data, const uint8_t *end) noexcept nogil:
    """Return the number that the bytes spell; -1 if they do not."""
    cdef int64_t value = 0
    if data == end or end - data > 18:
        return -1
    while data < end:
        if not 48 <= data[0] <= 57:
            return -1
        value = 10 * value + data[0] - 48
        data += 1
    return value


cdef inline const uint8_t *line_end(const uint8_t *data, const uint8_t *end) noexcept nogil:
    """Return where the CRLF of the first line begins; NULL if it is not there yet."""
    while data + 1 < end:
        if data[0] == 13 and data[1] == 10:
            return data
        data += 1
    return NULL
