"""Which nodes serve a key, as a RING answer told it. Immutable: a newer answer makes a new map."""

import struct
import sys
from array import array
from typing import Any

import xxhash

from dynafast.errors import PeerProtocolError
from dynafast.limits import REPLICAS_MAX_COUNT
from dynafast.protocol import HASH_NAME

PARTITIONS_MAX = 1 << 16
_NONE = 0xFFFF


class RingMap:
    """Key → position → partition → addresses of the nodes that serve it, in preference order.

    Attributes:
        version: changes whenever the table does.
        addresses: of every node, dead ones too.
        dead: addresses of the nodes that the answering node takes for dead.

    Raises:
        PeerProtocolError: the result is not one that a correct node gives.
    """

    def __init__(self, result: Any) -> None:
        self.version, partitions, replicas, table, nodes = _checked(result)
        self.addresses = tuple(str(node["address"]) for node in nodes)
        self.dead = frozenset(str(node["address"]) for node in nodes if node.get("alive") is False)
        self._shift = 64 - (partitions.bit_length() - 1)
        self._row = struct.Struct(f">{replicas}H")
        self._table = table
        self._rows: dict[int, tuple[str, ...]] = {}

    def partition(self, key: bytes) -> int:
        """Return the partition of *key*: the upper bits of its position."""
        return int(xxhash.xxh3_64_intdigest(key)) >> self._shift

    def serving(self, key: bytes) -> tuple[str, ...]:
        """Return the addresses that serve *key*, the preferred first; empty when none does."""
        partition = self.partition(key)
        row = self._rows.get(partition)
        if row is None:
            indexes = self._row.unpack_from(self._table, partition * self._row.size)
            row = tuple(self.addresses[index] for index in indexes if index != _NONE)
            self._rows[partition] = row
        return row


def _checked(result: Any) -> tuple[int, int, int, bytes, list[dict[str, Any]]]:
    if not isinstance(result, dict):
        raise PeerProtocolError("a ring must be a map")
    version, partitions, replicas = (result.get(name) for name in ("version", "partitions", "replicas"))
    table, nodes = result.get("table"), result.get("nodes")
    if result.get("hash") != HASH_NAME or not isinstance(version, int):
        raise PeerProtocolError(f"a ring must have a version and the hash {HASH_NAME}")
    if not isinstance(partitions, int) or not 1 <= partitions <= PARTITIONS_MAX or partitions & (partitions - 1):
        raise PeerProtocolError("a ring must have a power of two of partitions")
    if not isinstance(replicas, int) or not 1 <= replicas <= REPLICAS_MAX_COUNT:
        raise PeerProtocolError("a ring must have 1..8 replicas")
    if not isinstance(nodes, list) or not all(
        isinstance(node, dict) and isinstance(node.get("address"), str) for node in nodes
    ):
        raise PeerProtocolError("a ring must list its nodes")
    if not isinstance(table, bytes) or len(table) != 2 * partitions * replicas:
        raise PeerProtocolError("the table of a ring must have 2 bytes per seat")
    indexes = array("H", table)
    if sys.byteorder == "little":
        indexes.byteswap()
    if any(index >= len(nodes) and index != _NONE for index in set(indexes)):
        raise PeerProtocolError("the table of a ring names a node that is not listed")
    return version, partitions, replicas, table, nodes
