"""The hash of keys, records and stored values: XXH3-64, without a Python object for each.

Source: the specification of XXH3 (xxhash.com). Up to 240 bytes it is computed here, since a call of the library
`xxhash` costs several times what the hash of a key does; longer input goes to the library, which has the wide
instructions of each processor.
"""

from xxhash import xxh3_64_intdigest

from libc.string cimport memcpy

cdef extern from *:
    ctypedef unsigned long long uint128_t "unsigned __int128"

cdef extern from "Python.h":
    enum:
        PyBUF_READ
    object PyMemoryView_FromMemory(char *data, Py_ssize_t size, int flags)

cdef enum:
    SHORT_MAX = 240                 # bytes
    END_OFFSET = 136 - 17           # into the secret, for the last 16 of 129 to 240 bytes
    LATE_OFFSET = 3                 # likewise, from the ninth group of 16 bytes on

cdef bytes _SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3"
)                                   # the part that short input needs
cdef const uint8_t *SECRET = <const uint8_t *>PyBytes_AS_STRING(_SECRET)
cdef uint64_t PRIME_1 = 0x9E3779B185EBCA87
cdef uint64_t PRIME_2 = 0xC2B2AE3D27D4EB4F
cdef uint64_t PRIME_3 = 0x165667B19E3779F9
cdef uint64_t PRIME_MX1 = 0x165667919E3779F9
cdef uint64_t PRIME_MX2 = 0x9FB21C651E98DF25

__all__ = ["xxh3_64"]


cdef inline uint64_t _u64(const uint8_t *at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value


cdef inline uint32_t _u32(const uint8_t *at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline uint64_t _swapped(uint64_t x) noexcept nogil:
    """Reverse the bytes."""
    x = (x & 0x00FF00FF00FF00FFu) << 8 | (x >> 8 & 0x00FF00FF00FF00FFu)
    x = (x & 0x0000FFFF0000FFFFu) << 16 | (x >> 16 & 0x0000FFFF0000FFFFu)
    return x << 32 | x >> 32


cdef inline uint64_t _rotated(uint64_t x, int bits) noexcept nogil:
    return x << bits | x >> (64 - bits)


cdef inline uint64_t _avalanche_64(uint64_t x) noexcept nogil:
    x = (x ^ (x >> 33)) * PRIME_2
    x = (x ^ (x >> 29)) * PRIME_3
    return x ^ (x >> 32)


cdef inline uint64_t _avalanche(uint64_t x) noexcept nogil:
    x = (x ^ (x >> 37)) * PRIME_MX1
    return x ^ (x >> 32)


cdef inline uint64_t _folded(uint64_t a, uint64_t b) noexcept nogil:
    """Return the upper half of the product xor the lower one."""
    cdef uint128_t product = <uint128_t>a * b
    return <uint64_t>product ^ <uint64_t>(product >> 64)


cdef inline uint64_t _mixed(const uint8_t *at, const uint8_t *secret, uint64_t seed) noexcept nogil:
    """Mix 16 bytes."""
    return _folded(_u64(at) ^ (_u64(secret) + seed), _u64(at + 8) ^ (_u64(secret + 8) - seed))


cdef uint64_t _to_16(const uint8_t *at, Py_ssize_t size, uint64_t seed) noexcept nogil:
    cdef uint64_t low, high
    if size > 8:
        low = _u64(at) ^ ((_u64(SECRET + 24) ^ _u64(SECRET + 32)) + seed)
        high = _u64(at + size - 8) ^ ((_u64(SECRET + 40) ^ _u64(SECRET + 48)) - seed)
        return _avalanche(<uint64_t>size + _swapped(low) + high + _folded(low, high))
    if size >= 4:
        seed ^= _swapped(<uint32_t>seed)
        low = _u32(at + size - 4) + (<uint64_t>_u32(at) << 32)
        low ^= (_u64(SECRET + 8) ^ _u64(SECRET + 16)) - seed
        low ^= _rotated(low, 49) ^ _rotated(low, 24)
        low *= PRIME_MX2
        low = (low ^ ((low >> 35) + <uint64_t>size)) * PRIME_MX2
        return low ^ (low >> 28)
    if size:
        low = <uint64_t>at[0] << 16 | <uint64_t>at[size >> 1] << 24 | at[size - 1] | <uint64_t>size << 8
        return _avalanche_64(low ^ ((_u32(SECRET) ^ _u32(SECRET + 4)) + seed))
    return _avalanche_64(seed ^ _u64(SECRET + 56) ^ _u64(SECRET + 64))


cdef uint64_t _to_128(const uint8_t *at, Py_ssize_t size, uint64_t seed) noexcept nogil:
    """17 to 128 bytes: pairs of 16 from both ends to the middle."""
    cdef uint64_t total = <uint64_t>size * PRIME_1
    cdef Py_ssize_t i
    for i in range((size - 1) // 32 + 1):
        total += _mixed(at + 16 * i, SECRET + 32 * i, seed)
        total += _mixed(at + size - 16 * (i + 1), SECRET + 32 * i + 16, seed)
    return _avalanche(total)


cdef uint64_t _to_240(const uint8_t *at, Py_ssize_t size, uint64_t seed) noexcept nogil:
    cdef uint64_t total = <uint64_t>size * PRIME_1
    cdef Py_ssize_t i
    for i in range(8):
        total += _mixed(at + 16 * i, SECRET + 16 * i, seed)
    total = _avalanche(total) + _mixed(at + size - 16, SECRET + END_OFFSET, seed)
    for i in range(8, size // 16):
        total += _mixed(at + 16 * i, SECRET + 16 * (i - 8) + LATE_OFFSET, seed)
    return _avalanche(total)


cdef bint _is_little_endian() noexcept:
    cdef uint32_t one = 1
    return (<uint8_t *>&one)[0] == 1


cdef bint READS_AS_IT_LIES = _is_little_endian()    # the hash reads little-endian numbers: others ask the library


cdef uint64_t hash_raw(const uint8_t *data, Py_ssize_t size, uint64_t seed) except? 0:
    """Return the hash of *size* bytes."""
    if size > SHORT_MAX or not READS_AS_IT_LIES:
        return xxh3_64_intdigest(PyMemoryView_FromMemory(<char *>data, size, PyBUF_READ), seed)
    if size <= 16:
        return _to_16(data, size, seed)
    return _to_128(data, size, seed) if size <= 128 else _to_240(data, size, seed)


def xxh3_64(bytes data not None, uint64_t seed=0):
    """Return the hash of *data*, as the function `xxh3_64_intdigest` of the library `xxhash`."""
    return hash_bytes(data, seed)
