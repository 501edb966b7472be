"""A look at RocksDB's logs, of writes and of its manifest, before it opens them.

RocksDB (9.8) refuses a log with a wrong checksum, but three kinds of damage get past it:

* A record whose type byte is one of a reused log, in a log that is none, is not stepped over: an endless loop with the
  interpreter's lock held, in every recovery mode (its issue 13333). One flipped bit is enough.
* A length that points past the end of the file looks like a record torn by a power cut, which is dropped; whole
  records that follow go with it.
* Zeros where a record should start are skipped to the end of their block, with the records in it.

Each would hang a node or lose acknowledged writes in silence, so such a log is refused here.
"""

from functools import cache
from pathlib import Path

from dynafast.errors import CorruptRecordError

_BLOCK_SIZE = 32 * 1024
_HEADER_SIZE = 7  # checksum 4, length 2, both little-endian, type 1; a record never crosses the end of a block
_KINDS = range(1, 5)  # whole, first, middle and last part; 0 is never written
_KINDS_OF_REUSED_LOGS = frozenset({5, 6, 7, 8, 11})  # the store never lets RocksDB reuse a log
_CASTAGNOLI = 0x82F63B78


def check_log(path: Path) -> None:
    """Raise CorruptRecordError for the damage above. Checksums of whole records are left to RocksDB.

    Cost: some 0.2 µs a record, and logs are at most 64 MiB together; for a torn record up to seconds.
    """
    with path.open("rb") as log:
        start = 0
        while block := log.read(_BLOCK_SIZE):
            end = _walk_block(block, f"{path.name}, block at {start}")
            start += len(block)
            if block[end + 4 : end + _HEADER_SIZE] == bytes(3):  # no length, no type: nothing may follow
                while block:
                    if block.count(0, end) < len(block) - end:
                        raise CorruptRecordError(f"{path.name}: zeros and then more data before byte {start}")
                    block, end = log.read(_BLOCK_SIZE), 0
                    start += len(block)


def _walk_block(block: bytes, place: str) -> int:
    """Return where the records of a block end: the place of a torn one, of zeros, or of less than a header."""
    offset, last = 0, len(block) - _HEADER_SIZE
    while offset <= last:
        kind = block[offset + 6]
        length = block[offset + 4] | block[offset + 5] << 8
        if kind in _KINDS_OF_REUSED_LOGS:
            raise CorruptRecordError(f"{place}: a record of type {kind}, in a log that is not reused")
        if kind == 0 and length == 0:
            break
        if offset + _HEADER_SIZE + length > len(block):
            if _holds_a_record(block, offset + _HEADER_SIZE):
                raise CorruptRecordError(f"{place}: the record at {offset} says it is longer than it is")
            break
        offset += _HEADER_SIZE + length
    return offset


def _holds_a_record(block: bytes, offset: int) -> bool:
    """Return whether a whole record lies anywhere in what seems to be one torn record."""
    for start in range(offset, len(block) - _HEADER_SIZE):
        end = start + _HEADER_SIZE + (block[start + 4] | block[start + 5] << 8)
        if block[start + 6] in _KINDS and end <= len(block):
            kept = int.from_bytes(block[start : start + 4], "little")
            if kept == _masked_checksum(block[start + 6 : end]):
                return True
    return False


def _masked_checksum(data: bytes) -> int:
    """Return the CRC-32C of *data* in the form that RocksDB keeps in its logs."""
    table = _checksum_table()
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = table[(checksum ^ byte) & 0xFF] ^ checksum >> 8
    checksum ^= 0xFFFFFFFF
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _checksum_table() -> list[int]:
    table = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (_CASTAGNOLI if entry & 1 else 0)
        table.append(entry)
    return table
