"""Who is a member, as far as this node has heard: one entry per node, merged by gossip.

Source: Dynamo (SOSP 2007), section 4.8. Only a node itself writes its entry, so (generation, version) orders the
entries of one node, and the merge is commutative, associative and idempotent. This module keeps no clock, sends
nothing, and decides nothing about data.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeGuard

from dynafast._ext.codec import dumps
from dynafast.errors import PeerProtocolError
from dynafast.protocol import ADDRESS_MAX, GONE, Status, is_label, is_uint

NODE_ID_SIZE = 8

Digest = tuple[int, int]  # generation, version


def is_node_id(value: object) -> TypeGuard[bytes]:
    """Whether *value* can be the id of a node."""
    return isinstance(value, bytes) and len(value) == NODE_ID_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one node says of itself.

    Attributes:
        id: 8 bytes. generation: boot counter of its store. version: counts the changes within a generation.
        address: where it takes connections, ``HOST:PORT``.
        seats: the seats it serves, as `dynafast.core.seats.pack` writes them.
    """

    id: bytes
    name: str
    address: str
    weight: int
    zone: str
    host: str
    status: Status
    generation: int
    version: int
    seats: bytes = b""

    @property
    def digest(self) -> Digest:
        """What orders the entries of one node."""
        return (self.generation, self.version)

    @property
    def member(self) -> bool:
        """Whether the node belongs to the cluster: it owns partitions, or will."""
        return self.status not in GONE

    def to_wire(self) -> dict[str, object]:
        """Return the map that travels and is stored."""
        return {
            "id": self.id,
            "name": self.name,
            "address": self.address,
            "weight": self.weight,
            "zone": self.zone,
            "host": self.host,
            "status": self.status.value,
            "generation": self.generation,
            "version": self.version,
            "seats": self.seats,
        }

    @classmethod
    def from_wire(cls, fields: Mapping[str, Any]) -> Self:
        """Return the entry that a map describes.

        Raises:
            PeerProtocolError: a field is missing or of the wrong type.
        """
        try:
            entry = cls(
                id=fields["id"],
                name=fields["name"],
                address=fields["address"],
                weight=fields["weight"],
                zone=fields["zone"],
                host=fields["host"],
                status=Status(fields["status"]),
                generation=fields["generation"],
                version=fields["version"],
                seats=fields["seats"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PeerProtocolError(f"malformed member entry: {error}") from error
        if not (
            is_node_id(entry.id)
            and isinstance(entry.seats, bytes)
            and isinstance(entry.address, str)
            and 0 < len(entry.address) <= ADDRESS_MAX
            and all(is_label(text) for text in (entry.name, entry.zone, entry.host))
            and all(is_uint(number) for number in (entry.weight, entry.generation, entry.version))
            and entry.weight > 0
        ):
            raise PeerProtocolError("malformed member entry: a field has the wrong type or is out of range")
        return entry


def later(ours: Entry, theirs: Entry) -> Entry:
    """Return the entry that wins: removal for ever, then (generation, version), then the larger bytes."""
    if (ours.status is Status.REMOVED) != (theirs.status is Status.REMOVED):
        return ours if ours.status is Status.REMOVED else theirs
    if ours.digest != theirs.digest:
        return ours if ours.digest > theirs.digest else theirs
    return max(ours, theirs, key=lambda entry: dumps(entry.to_wire()))


class Membership:
    """The entries this node knows, by node id."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.merge(entries)

    def merge(self, entries: Iterable[Entry]) -> list[Entry]:
        """Take in *entries*; return those that were news."""
        news: list[Entry] = []
        for entry in entries:
            known = self.entries.get(entry.id)
            if known is None or (later(known, entry) is entry and entry != known):
                self.entries[entry.id] = entry
                news.append(entry)
        return news

    def members(self) -> list[Entry]:
        """Return the entries of members, by id: an order that every node shares."""
        return [self.entries[id] for id in sorted(self.entries) if self.entries[id].member]

    def digests(self) -> list[list[object]]:
        """Return ``[[id, generation, version], ...]``, what a gossip round begins with."""
        return [[id, *self.entries[id].digest] for id in sorted(self.entries)]

    def compare(self, digests: object) -> tuple[list[Entry], list[bytes]]:
        """Return the entries that the sender of *digests* lacks, and the ids whose entries we lack.

        Raises:
            PeerProtocolError: *digests* is malformed.
        """
        theirs: dict[bytes, Digest] = {}
        for row in digests if isinstance(digests, list) else [None]:
            if not (isinstance(row, list) and len(row) == 3 and is_node_id(row[0]) and all(map(is_uint, row[1:]))):
                raise PeerProtocolError("gossip digests must list [node id, generation, version]")
            theirs[row[0]] = (row[1], row[2])
        send = [
            entry
            for id, entry in sorted(self.entries.items())
            if id not in theirs or entry.digest > theirs[id] or entry.status is Status.REMOVED
        ]
        want = [
            id for id, digest in sorted(theirs.items()) if id not in self.entries or digest > self.entries[id].digest
        ]
        return send, want
