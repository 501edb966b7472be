"""XXH3-64 at the level of C. See ``_ext/xxh3.pyx``."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef uint64_t hash_raw(const uint8_t *data, Py_ssize_t size, uint64_t seed) except? 0


cdef inline uint64_t hash_bytes(bytes data, uint64_t seed) except? 0:
    return hash_raw(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), seed)


cdef inline uint64_t hash_under(bytes key, const uint8_t *data, Py_ssize_t size, uint64_t seed) except? 0:
    """Hash data that belongs to a key. The key goes in as the seed: hashing both together would copy the data."""
    return hash_raw(data, size, hash_bytes(key, seed))
