"""Moves seats to the nodes that should have them.

A target without a seat asks an owner that can give one. The owner first writes that it gave the seat away, then
answers; the asker writes that it has it, one k higher. A gift that got lost on the way is given again to the same
node. Until data can be moved, an owner gives a seat only of a partition in which it holds no record.
"""

from typing import TYPE_CHECKING, Any

from dynafast.core import identity
from dynafast.core.seats import Seat
from dynafast.errors import DynafastError, PeerProtocolError
from dynafast.protocol import Op, Status
from dynafast.storage.interface import Batch, Family

if TYPE_CHECKING:
    from dynafast.core.node import Node

RETRY_NS = 100_000_000
ANSWER_MS = 5_000


class Claims:
    """Both sides of a seat's hand-over, for one node."""

    def __init__(self, node: "Node", given: dict[tuple[int, int], tuple[bytes, int]]) -> None:
        self._node = node
        self._given = given
        self._asked: set[bytes] = set()  # owners whose answer is awaited
        self._next_ns = 0

    def tick(self, now_ns: int) -> None:
        """Ask for the seats that this node should have, and say ``up`` once it has them."""
        if now_ns < self._next_ns:
            return
        self._next_ns = now_ns + RETRY_NS
        node = self._node
        targets = node.own_targets()
        wanted = node.seats.wanted(node.own.id, targets)
        for owner, partitions in sorted(wanted.items()):
            peer = node.peers.get(owner)
            if peer is not None and peer.link is not None and owner not in self._asked:
                self._ask(owner, partitions)
        seated = all(node.seats.seats_of(node.own.id, partition) for partition in targets)
        if node.own.status is Status.JOINING and seated and targets:
            node.change_own(Batch(), status=Status.UP)

    def receive(self, asker: bytes, partitions: object, reply: Any) -> None:
        """Give *asker* a seat of each partition where that is possible; ``reply(grants)`` after the flush.

        Raises:
            PeerProtocolError: *partitions* is malformed.
        """
        node = self._node
        if not isinstance(partitions, list) or not all(
            isinstance(partition, int) and 0 <= partition < node.facts.partitions for partition in partitions
        ):
            raise PeerProtocolError("a claim must list partitions")
        grants: list[Seat] = []
        batch = Batch()
        lost: set[Seat] = set()
        for partition in partitions:
            again = [
                Seat(partition, seat, k)
                for (p, seat), (to, k) in sorted(self._given.items())
                if p == partition and to == asker
            ]
            if again:
                grants += again
                continue
            seat = self._seat_for(asker, partition)
            if seat is not None:
                lost.add(seat)
                grant = Seat(partition, seat.seat, seat.k + 1)
                self._given[partition, seat.seat] = (asker, grant.k)
                identity.put_given(batch, partition, seat.seat, asker, grant.k)
                grants.append(grant)
        if lost:
            node.change_own(batch, seats=[seat for seat in node.own_seats() if seat not in lost])
        node.after_flush(lambda: reply([list(grant) for grant in grants]))

    def forget_arrived(self) -> None:
        """Forget the gifts that an entry shows as taken."""
        owners = self._node.seats.owners
        arrived = [
            (partition, seat)
            for (partition, seat), (_, k) in self._given.items()
            if seat in owners[partition] and owners[partition][seat].k >= k
        ]
        if arrived:
            batch = Batch()
            for partition, seat in arrived:
                del self._given[partition, seat]
                identity.delete_given(batch, partition, seat)
            self._node.write(batch)

    def _seat_for(self, asker: bytes, partition: int) -> Seat | None:
        """Return the seat of ours that *asker* may have, or None."""
        node = self._node
        targets = node.targets(partition)
        own = node.seats.seats_of(node.own.id, partition)
        if (
            asker not in targets
            or node.seats.seats_of(asker, partition)
            or not node.seats.can_give(partition, node.own.id, targets)
            or any(p == partition and to == asker for (p, _), (to, _) in self._given.items())
            or node.holds_records(partition)
        ):
            return None
        return own[-1]

    def _ask(self, owner: bytes, partitions: list[int]) -> None:
        self._asked.add(owner)

        def done(result: Any, error: DynafastError | None) -> None:
            self._asked.discard(owner)
            if error is None:
                self._take(result)

        self._node.call(self._node.peers[owner], Op.CLAIM, [partitions], ANSWER_MS, done)

    def _take(self, result: object) -> None:
        node = self._node
        if not isinstance(result, list):
            raise PeerProtocolError("the answer to a claim must be a list")
        have = {(seat.partition, seat.seat): seat for seat in node.own_seats()}
        before = dict(have)
        for fields in result:
            if not isinstance(fields, list) or len(fields) != 3 or not all(isinstance(field, int) for field in fields):
                raise PeerProtocolError("the answer to a claim must list [partition, seat, k]")
            seat = Seat(*fields)
            known = node.seats.owners[seat.partition].get(seat.seat)
            if known is None or known.k < seat.k:
                have[seat.partition, seat.seat] = seat
        if have != before:
            node.change_own(Batch(), seats=list(have.values()))
            node.trace("seats.taken", count=len(have) - len(before))


def holds_records(store: Any, partition: int, partitions: int) -> bool:
    """Whether the store has any record of *partition*."""
    span = 2**64 // partitions
    start = (partition * span).to_bytes(8, "big")
    end = None if partition == partitions - 1 else ((partition + 1) * span).to_bytes(8, "big")
    return bool(store.scan(Family.OBJECTS, start, end, limit=1))
