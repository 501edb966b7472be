"""The checksum that every stored value carries, the same in every store and every family.

RocksDB checks the blocks it reads from a disk; this check goes from the moment a value is handed to a store until
it is handed back, so it also sees damage in memory and a value that turns up under another key.

On disk: 8 bytes of checksum, big-endian, then the value. The checksum is XXH3-64 of the value, seeded with XXH3-64
of the key.
"""

from dynafast.errors import CorruptRecordError

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from dynafast._ext.codec cimport load_be, store_be
from dynafast._ext.xxh3 cimport hash_bytes

SEAL_SIZE = 8                       # bytes before the value


cdef inline uint64_t _checksum(bytes key, bytes value) except? 0:
    # The key goes in as the seed: hashing ``key + value`` would copy the value once more.
    return hash_bytes(value, hash_bytes(key, 0))


def seal(bytes key not None, bytes value not None):
    """Return what a store keeps under *key* for *value*."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
    cdef bytes stored = PyBytes_FromStringAndSize(NULL, 8 + size)
    cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(stored)
    store_be(to, _checksum(key, value), 8)
    memcpy(to + 8, PyBytes_AS_STRING(value), size)
    return stored


def unseal(bytes key not None, bytes stored not None):
    """Return the value that `seal` put into *stored*.

    Raises:
        CorruptRecordError: the bytes are not what was stored under this key.
    """
    cdef Py_ssize_t size = PyBytes_GET_SIZE(stored) - 8
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(stored)
    cdef bytes value
    if size >= 0:
        value = PyBytes_FromStringAndSize(<const char *>at + 8, size)
        if load_be(at, 8) == _checksum(key, value):
            return value
    shown = key[:40].hex() + ("…" if len(key) > 40 else "")
    raise CorruptRecordError(f"checksum mismatch under key {shown} ({len(stored)} bytes stored)")
