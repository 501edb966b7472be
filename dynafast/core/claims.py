"""Moves seats to the nodes that should have them.

A target without a seat asks an owner that can give one. The owner first writes that it gave the seat away, then
answers; the asker writes that it has it, one k higher. A gift that got lost on the way is given again to the same
node. Until data can be moved, an owner gives a seat only of a partition in which it holds no record.
"""

from typing import TYPE_CHECKING, Any

from dynafast.core import identity
from dynafast.core.machine import Answering, Machine
from dynafast.core.seats import Seat
from dynafast.errors import DynafastError, PeerProtocolError, StoreError
from dynafast.protocol import Op, Status, is_uint
from dynafast.storage.interface import Batch, Family, partition_range

if TYPE_CHECKING:
    from dynafast._ext.connection import Connection
    from dynafast.core.node import Node

RETRY_NS = 100_000_000
ANSWER_MS = 5_000


class Claims(Machine):
    """Both sides of a seat's hand-over, for one node."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._given = identity.load_given(node.store)
        self._asked: set[bytes] = set()  # owners whose answer is awaited
        self._next_ns = 0

    def ops(self) -> dict[Op, tuple[int, Answering]]:
        """See `Machine`."""
        return {Op.CLAIM: (1, self._answer)}

    def changed(self, partitions: set[int]) -> None:  # noqa: ARG002 - those of the gifts are few
        """See `Machine`."""
        try:
            self.forget_arrived()
        except StoreError as error:  # remembered a little longer than needed
            self.node.trace("store.refused", what="gifts", error=str(error))

    def _answer(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        self.receive(connection.peer, fields[0], lambda grants: connection.reply(id, grants))

    def tick(self, now_ns: int) -> None:
        """Ask for the seats that this node should have, and say ``up`` once it has them."""
        if now_ns < self._next_ns:
            return
        self._next_ns = now_ns + RETRY_NS
        node = self.node
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
        node = self.node
        if (
            not isinstance(partitions, list)
            or not all(is_uint(partition) and partition < node.facts.partitions for partition in partitions)
            or len(set(partitions)) != len(partitions)
        ):
            raise PeerProtocolError("a claim must list distinct partitions")
        grants: list[Seat] = []
        fresh: list[Seat] = []
        for partition in partitions:
            promised = self._promised(asker, partition)
            seat = None if promised else self._seat_for(asker, partition)
            if seat is not None:
                fresh.append(seat)
                promised = [Seat(partition, seat.seat, seat.k + 1)]
            grants += promised
        if fresh:
            batch = Batch()
            for gift in fresh:
                identity.put_given(batch, gift.partition, gift.seat, asker, gift.k + 1)
            node.change_own(batch, seats=[seat for seat in node.own_seats() if seat not in set(fresh)])
            for gift in fresh:
                self._given.setdefault(gift.partition, {})[gift.seat] = (asker, gift.k + 1)
        node.after_flush(lambda: reply([list(grant) for grant in grants]))

    def forget_arrived(self) -> None:
        """Forget the gifts that an entry shows as taken."""
        owners = self.node.seats.owners
        arrived = [
            (partition, seat)
            for partition, gifts in self._given.items()
            for seat, (_, k) in gifts.items()
            if seat in owners[partition] and owners[partition][seat].k >= k
        ]
        if not arrived:
            return
        batch = Batch()
        for partition, seat in arrived:
            identity.delete_given(batch, partition, seat)
        self.node.write(batch)
        for partition, seat in arrived:
            del self._given[partition][seat]

    def _promised(self, asker: bytes, partition: int) -> list[Seat]:
        """Return the seat of *partition* that *asker* was given already, if any."""
        gifts = self._given.get(partition, {})
        return [Seat(partition, seat, k) for seat, (to, k) in sorted(gifts.items()) if to == asker]

    def _seat_for(self, asker: bytes, partition: int) -> Seat | None:
        """Return the seat of ours that *asker* may have, or None."""
        node = self.node
        targets = node.targets(partition)
        own = node.seats.seats_of(node.own.id, partition)
        if (
            asker not in targets
            or node.seats.seats_of(asker, partition)
            or not node.seats.can_give(partition, node.own.id, targets)
            or holds_records(node.store, partition, node.facts.partitions)
        ):
            return None
        return own[-1]

    def _ask(self, owner: bytes, partitions: list[int]) -> None:
        self._asked.add(owner)

        def done(result: Any, error: DynafastError | None) -> None:
            self._asked.discard(owner)
            if error is not None:
                return
            try:
                self._take(result)
            except StoreError as refused:  # asked again at the next tick: what was given to us stays ours
                self.node.trace("store.refused", what="seats", error=str(refused))

        self.node.call(self.node.peers[owner], Op.CLAIM, [partitions], ANSWER_MS, done)

    def _take(self, result: object) -> None:
        node = self.node
        if not isinstance(result, list):
            raise PeerProtocolError("the answer to a claim must be a list")
        have = {(seat.partition, seat.seat): seat for seat in node.own_seats()}
        before = dict(have)
        for fields in result:
            if not isinstance(fields, list) or len(fields) != 3 or not all(is_uint(field) for field in fields):
                raise PeerProtocolError("the answer to a claim must list [partition, seat, k]")
            seat = Seat(*fields)
            if seat.partition >= node.facts.partitions or seat.seat >= node.facts.replicas:
                raise PeerProtocolError("the answer to a claim names a seat that the cluster does not have")
            known = node.seats.owners[seat.partition].get(seat.seat)
            if known is None or known.k < seat.k:
                have[seat.partition, seat.seat] = seat
        if have != before:
            node.change_own(Batch(), seats=list(have.values()))
            node.trace("seats.taken", count=len(have) - len(before))


def holds_records(store: Any, partition: int, partitions: int) -> bool:
    """Whether the store has any record of *partition*."""
    return bool(store.scan(Family.OBJECTS, *partition_range(partition, partitions), limit=1))
