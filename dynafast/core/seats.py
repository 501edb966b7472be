"""Seats: who *does* serve a partition, and how a seat changes hands.

Each partition has N seats, each served by exactly one node at a time, as (seat, k): k counts the hand-overs. Who
*should* serve is a function of the members (`dynafast.core.ownership`); a seat moves from an owner to a target that
has none. Quorums count distinct seats (``_ext/coordinator.pyx``), so W seats and R seats of N meet whatever anyone's
view was. This module only computes; writing, flushing and telling are the node's.
"""

import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from dynafast.core.membership import Entry
from dynafast.errors import PeerProtocolError

_SEAT = struct.Struct(">IBI")


class Seat(NamedTuple):
    """One seat of one partition. ``k`` grows by one with each hand-over."""

    partition: int
    seat: int
    k: int


class Owner(NamedTuple):
    """Who serves a seat, as far as the entries tell."""

    k: int
    node: bytes


def pack(seats: Iterable[Seat]) -> bytes:
    """Return the seats as bytes, 9 each: partition (4, big-endian), seat (1), k (4)."""
    return b"".join(_SEAT.pack(*seat) for seat in sorted(seats))


def unpack(data: bytes, *, partitions: int, replicas: int) -> list[Seat]:
    """Return the seats that `pack` wrote.

    Raises:
        PeerProtocolError: a wrong length, or a seat that the cluster does not have.
    """
    if len(data) % _SEAT.size:
        raise PeerProtocolError(f"packed seats of {len(data)} bytes, not a multiple of {_SEAT.size}")
    seats = [Seat(*fields) for fields in _SEAT.iter_unpack(data)]
    if any(seat.partition >= partitions or seat.seat >= replicas for seat in seats):
        raise PeerProtocolError("packed seats name a seat that the cluster does not have")
    return seats


class SeatMap:
    """The owner of every seat, from the entries of all members: the highest k wins, then the smaller id."""

    def __init__(self, entries: Iterable[Entry] = (), *, partitions: int, replicas: int) -> None:
        self.owners: list[dict[int, Owner]] = [{} for _ in range(partitions)]
        self._replicas = replicas
        self._packed: dict[bytes, bytes] = {}  # node -> what its entry says, packed
        self._claims: dict[tuple[int, int], dict[bytes, int]] = {}  # (partition, seat) -> node -> k
        self.update(entries)

    def update(self, entries: Iterable[Entry]) -> set[int]:
        """Take over the entries of all members; return the partitions of which a seat has another owner now.

        Raises:
            PeerProtocolError: an entry names a seat that the cluster does not have.
        """
        now = {entry.id: entry.seats for entry in entries}
        touched: set[tuple[int, int]] = set()
        for node in sorted(self._packed.keys() | now.keys()):
            before, after = self._packed.get(node, b""), now.get(node, b"")
            if before == after:
                continue
            old, new = (
                set(unpack(data, partitions=len(self.owners), replicas=self._replicas)) for data in (before, after)
            )
            for partition, seat, _ in old - new:
                self._claims[partition, seat].pop(node, None)
                touched.add((partition, seat))
            for partition, seat, k in new - old:
                self._claims.setdefault((partition, seat), {})[node] = k
                touched.add((partition, seat))
        self._packed = now
        changed: set[int] = set()
        for partition, seat in touched:
            claims = self._claims[partition, seat]
            known = self.owners[partition].get(seat)
            if not claims:
                self.owners[partition].pop(seat, None)
                owner = None
            else:
                k, node = min((-k, node) for node, k in claims.items())
                owner = self.owners[partition][seat] = Owner(-k, node)
            if owner != known:
                changed.add(partition)
        return changed

    def seats_of(self, node: bytes, partition: int) -> list[Seat]:
        """Return the seats of *partition* that *node* serves, by number."""
        return [
            Seat(partition, seat, owner.k)
            for seat, owner in sorted(self.owners[partition].items())
            if owner.node == node
        ]

    def row(self, partition: int, preference: Sequence[bytes]) -> list[tuple[bytes, int]]:
        """Return ``[(node, seats as bits), ...]`` of those who serve *partition*, in preference order."""
        masks: dict[bytes, int] = {}
        for seat, owner in self.owners[partition].items():
            masks[owner.node] = masks.get(owner.node, 0) | 1 << seat
        place = {node: index for index, node in enumerate(preference)}
        return sorted(masks.items(), key=lambda item: (place.get(item[0], len(place)), item[0]))

    def can_give(self, partition: int, node: bytes, targets: Collection[bytes]) -> bool:
        """Whether *node* has a seat to give away: it is no target, or has more than one."""
        own = self.seats_of(node, partition)
        return bool(own) and (node not in targets or len(own) > 1)

    def wanted(self, node: bytes, targets: Mapping[int, Collection[bytes]]) -> dict[bytes, list[int]]:
        """Return whom *node* may ask for a seat: owner → partitions, for each it is a target of and has no seat of.

        Args:
            node: the one that wants seats.
            targets: partition → target nodes, of the partitions that *node* is a target of.
        """
        ask: dict[bytes, list[int]] = {}
        for partition, nodes in sorted(targets.items()):
            owners = self.owners[partition]
            if any(owner.node == node for owner in owners.values()):
                continue
            for _, owner in sorted(owners.items()):
                if self.can_give(partition, owner.node, nodes):
                    ask.setdefault(owner.node, []).append(partition)
                    break
        return ask
