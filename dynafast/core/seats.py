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
from dynafast.protocol import Status

_SEAT = struct.Struct(">IBI")
_GIVEN = 0x80  # in the byte of the seat's number: given away, and not yet seen to be taken

SEAT_SIZE = _SEAT.size
VACANT_K = 1 << 16  # hand-overs of one seat that nobody has heard of are fewer


class Seat(NamedTuple):
    """One seat of one partition. ``k`` grows by one with each hand-over."""

    partition: int
    seat: int
    k: int


class Owner(NamedTuple):
    """Who serves a seat, as far as the entries tell."""

    k: int
    node: bytes


def pack(seats: Iterable[Seat], given: Iterable[Seat] = ()) -> bytes:
    """Return seats as bytes, 9 each: partition (4, big-endian), seat (1), k (4).

    Those *given* away are listed too until they are seen to be taken, with the highest bit of the seat's byte set:
    if their giver is lost meanwhile, everybody knows that the seat is.
    """
    listed = [*seats, *(Seat(gift.partition, gift.seat | _GIVEN, gift.k) for gift in given)]
    return b"".join(_SEAT.pack(*seat) for seat in sorted(listed))


def unpack(data: bytes, *, partitions: int, replicas: int) -> list[Seat]:
    """Return the seats that a node serves by what `pack` wrote. Raises PeerProtocolError as `unpack_all`."""
    return unpack_all(data, partitions=partitions, replicas=replicas)[0]


def unpack_all(data: bytes, *, partitions: int, replicas: int) -> tuple[list[Seat], list[Seat]]:
    """Return the seats that `pack` wrote: those served, and those given away.

    Raises:
        PeerProtocolError: a wrong length, or a seat that the cluster does not have.
    """
    if len(data) % SEAT_SIZE:
        raise PeerProtocolError(f"packed seats of {len(data)} bytes, not a multiple of {SEAT_SIZE}")
    served: list[Seat] = []
    given: list[Seat] = []
    for partition, number, k in _SEAT.iter_unpack(data):
        seat = number & ~_GIVEN
        if partition >= partitions or seat >= replicas:
            raise PeerProtocolError("packed seats name a seat that the cluster does not have")
        (given if number & _GIVEN else served).append(Seat(partition, seat, k))
    return served, given


def _rows(data: bytes) -> frozenset[bytes]:
    if len(data) % SEAT_SIZE:
        raise PeerProtocolError(f"packed seats of {len(data)} bytes, not a multiple of {SEAT_SIZE}")
    return frozenset([data[at : at + SEAT_SIZE] for at in range(0, len(data), SEAT_SIZE)])


class SeatMap:
    """The owner of every seat, from the entries: the highest k wins, then the smaller id.

    Kept up to date entry by entry, since most news concerns a few partitions.
    """

    def __init__(self, entries: Iterable[Entry] = (), *, partitions: int, replicas: int) -> None:
        self.partitions, self.replicas = partitions, replicas
        self.owners: list[dict[int, Owner]] = [{} for _ in range(partitions)]
        self.lost: dict[int, dict[int, int]] = {}  # partition -> seat -> k: last seen with a node that was removed
        self.moving: dict[int, dict[int, Owner]] = {}  # partition -> seat -> giver: given away, not seen to be taken
        self._packed: dict[bytes, tuple[bytes, bool]] = {}  # node -> (its seats as told, whether it is removed)
        self._rows: dict[bytes, frozenset[bytes]] = {}  # node -> its seats, each as it is packed
        self._of: list[dict[bytes, set[tuple[int, int, bool]]]] = [{} for _ in range(partitions)]
        self.update(entries)

    def check(self, entry: Entry) -> None:
        """Raise PeerProtocolError if the entry names a seat that the cluster does not have."""
        if self._packed.get(entry.id, (b"", False))[0] != entry.seats:
            for row in _rows(entry.seats) - self._rows.get(entry.id, frozenset()):
                self._unpacked(row)

    def _unpacked(self, row: bytes) -> tuple[int, int, int, bool]:
        """Return (partition, seat, k, whether it was given away)."""
        partition, number, k = _SEAT.unpack(row)
        seat = number & ~_GIVEN
        if partition >= self.partitions or seat >= self.replicas:
            raise PeerProtocolError("packed seats name a seat that the cluster does not have")
        return partition, seat, k, bool(number & _GIVEN)

    def update(self, entries: Iterable[Entry]) -> set[int]:
        """Take in entries, those of removed nodes too; return the partitions in which anything changed.

        Raises:
            PeerProtocolError: one names a seat that the cluster does not have.
        """
        changed: set[int] = set()
        for entry in entries:
            removed = entry.status is Status.REMOVED
            seats = b"" if entry.status is Status.LEFT else entry.seats
            before = self._packed.get(entry.id, (b"", removed))
            if before == (seats, removed):
                continue
            old, new = self._rows.get(entry.id, frozenset()), _rows(seats)
            gone = [self._unpacked(row) for row in old - new]
            fresh = [self._unpacked(row) for row in new - old]
            self._packed[entry.id], self._rows[entry.id] = (seats, removed), new
            for partition, seat, k, given in gone:
                of = self._of[partition]
                of[entry.id].discard((seat, k, given))
                if not of[entry.id]:
                    del of[entry.id]
            for partition, seat, k, given in fresh:
                self._of[partition].setdefault(entry.id, set()).add((seat, k, given))
            changed.update(row[0] for row in (*gone, *fresh))
            if before[1] != removed:
                changed.update(self._unpacked(row)[0] for row in new)
        for partition in sorted(changed):
            self._settle(partition)
        return changed

    def _settle(self, partition: int) -> None:
        """Find the owner of each seat of *partition* among what its nodes state."""
        best: dict[int, tuple[int, bool, bytes]] = {}  # seat -> (k, served, node)
        for node, seats in self._of[partition].items():
            for seat, k, away in seats:
                known = best.get(seat)
                if known is None or (k, not away, known[2]) > (known[0], known[1], node):
                    best[seat] = (k, not away, node)
        owners: dict[int, Owner] = {}
        lost: dict[int, int] = {}
        moving: dict[int, Owner] = {}
        for seat, (k, served, node) in sorted(best.items()):
            if self._packed[node][1]:
                lost[seat] = k
            elif served:
                owners[seat] = Owner(k, node)
            else:
                moving[seat] = Owner(k, node)
        self.owners[partition] = owners
        for table, found in ((self.lost, lost), (self.moving, moving)):
            if found:
                table[partition] = found  # type: ignore[assignment]
            else:
                table.pop(partition, None)

    def seats_of(self, node: bytes, partition: int) -> list[Seat]:
        """Return the seats of *partition* that *node* serves, by number."""
        return [
            Seat(partition, seat, owner.k)
            for seat, owner in sorted(self.owners[partition].items())
            if owner.node == node
        ]

    def serves(self, node: bytes, partition: int) -> bool:
        """Whether *node* serves a seat of *partition*."""
        for owner in self.owners[partition].values():  # noqa: SIM110 - a generator costs more, and this is asked often
            if owner.node == node:
                return True
        return False

    def vacant(self, partition: int) -> dict[int, int]:
        """Return the seats that no entry names, with a k above all that were seen.

        A node that took a seat and was lost may have told nobody but the giver, which then forgot the gift and was
        lost too.
        """
        known = [self.owners[partition], self.moving.get(partition, {})]
        lost = self.lost.get(partition, {})
        if sum(map(len, known)) + len(lost) >= self.replicas:
            return {}
        highest = max([owner.k for seats in known for owner in seats.values()] + list(lost.values()), default=0)
        named = {*known[0], *known[1], *lost}
        return {seat: highest + VACANT_K for seat in range(self.replicas) if seat not in named}

    def holders(self, partition: int) -> list[bytes]:
        """Return the nodes that serve a seat of *partition*, by the least number of their seats."""
        return list(dict.fromkeys(owner.node for _, owner in sorted(self.owners[partition].items())))

    def row(self, partition: int, preference: Sequence[bytes]) -> list[tuple[bytes, int]]:
        """Return ``[(node, seats as bits), ...]`` of those who serve *partition*, in preference order."""
        masks: dict[bytes, int] = {}
        for seat, owner in self.owners[partition].items():
            masks[owner.node] = masks.get(owner.node, 0) | 1 << seat
        place = {node: index for index, node in enumerate(preference)}
        return sorted(masks.items(), key=lambda item: (place.get(item[0], len(place)), item[0]))

    def can_give(self, partition: int, node: bytes, targets: Collection[bytes]) -> bool:
        """Whether *node* has a seat to give away: it is no target, or has more than one."""
        count = sum([owner.node == node for owner in self.owners[partition].values()])
        return count > (1 if node in targets else 0)

    def giver(self, partition: int, node: bytes, targets: Collection[bytes]) -> bytes | None:
        """Return whom *node*, a target of *partition* without a seat of it, may ask for one; None: nobody can give."""
        for _, owner in sorted(self.owners[partition].items()):
            if owner.node != node and self.can_give(partition, owner.node, targets):
                return owner.node
        return None

    def wanted(self, node: bytes, targets: Mapping[int, Collection[bytes]]) -> dict[bytes, list[int]]:
        """Return whom *node* may ask for a seat: owner → partitions, for each it is a target of and has no seat of.

        Args:
            node: the one that wants seats.
            targets: partition → target nodes, of the partitions that *node* is a target of.
        """
        ask: dict[bytes, list[int]] = {}
        for partition, nodes in sorted(targets.items()):
            if any(owner.node == node for owner in self.owners[partition].values()):
                continue
            owner = self.giver(partition, node, nodes)
            if owner is not None:
                ask.setdefault(owner, []).append(partition)
        return ask
