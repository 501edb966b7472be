"""The checksum that every stored value carries, the same in every store and every family.

RocksDB checks the blocks it reads from a disk; this check goes from the moment a value is handed to a store until
it is handed back, so it also sees damage in memory and a value that turns up under another key.

On disk: 8 bytes of checksum, big-endian, then the value. The checksum is XXH3-64 of the value, seeded with XXH3-64
of the key.
"""

from xxhash import xxh3_64_digest, xxh3_64_intdigest

from dynafast.errors import CorruptRecordError

SEAL_SIZE = 8  # bytes before the value


def seal(key: bytes, value: bytes) -> bytes:
    """Return what a store keeps under *key* for *value*."""
    # The key goes in as the seed: hashing ``key + value`` would copy the value once more.
    return xxh3_64_digest(value, xxh3_64_intdigest(key)) + value


def unseal(key: bytes, stored: bytes) -> bytes:
    """Return the value that `seal` put into *stored*.

    Raises:
        CorruptRecordError: the bytes are not what was stored under this key.
    """
    value = stored[SEAL_SIZE:]
    if stored.startswith(xxh3_64_digest(value, xxh3_64_intdigest(key))):
        return value
    shown = key[:40].hex() + ("…" if len(key) > 40 else "")
    raise CorruptRecordError(f"checksum mismatch under key {shown} ({len(stored)} bytes stored)")
