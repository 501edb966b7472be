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

SEAL_SIZE = SEAL_BYTES


def seal(bytes key not None, bytes value not None):
    """Return what a store keeps under *key* for *value*."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
    cdef bytes stored = PyBytes_FromStringAndSize(NULL, SEAL_BYTES + size)
    cdef uint8_t *to = <uint8_t *>PyBytes_AS_STRING(stored)
    store_be(to, checksum(key, <const uint8_t *>PyBytes_AS_STRING(value), size), SEAL_BYTES)
    memcpy(to + SEAL_BYTES, PyBytes_AS_STRING(value), size)
    return stored


def put_sealed(put not None, dict staged not None):
    """Call ``put(key, sealed)`` for each entry; return the bytes of the keys and values."""
    cdef Py_ssize_t size = 0
    cdef bytes key, sealed
    for key, sealed in staged.items():
        put(key, sealed)
        size += PyBytes_GET_SIZE(key) + PyBytes_GET_SIZE(sealed) - SEAL_BYTES
    return size


def unseal(bytes key not None, bytes stored not None):
    """Return the value that `seal` put into *stored*.

    Raises:
        CorruptRecordError: the bytes are not what was stored under this key.
    """
    cdef Py_ssize_t size = PyBytes_GET_SIZE(stored) - SEAL_BYTES
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(stored)
    if size >= 0 and load_be(at, SEAL_BYTES) == checksum(key, at + SEAL_BYTES, size):
        return PyBytes_FromStringAndSize(<const char *>at + SEAL_BYTES, size)
    shown = key[:40].hex() + ("…" if len(key) > 40 else "")
    raise CorruptRecordError(f"checksum mismatch under key {shown} ({len(stored)} bytes stored)")
