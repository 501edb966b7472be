"""The checksum of stored values, at the level of C. See ``_ext/sealed.pyx``."""

from libc.stdint cimport uint8_t, uint64_t

from dynafast._ext.xxh3 cimport hash_under


cdef enum:
    SEAL_BYTES = 8                  # before the value


cdef inline uint64_t checksum(bytes key, const uint8_t *value, Py_ssize_t size) except? 0:
    return hash_under(key, value, size, 0)
