"""The owner's side of a seat's hand-over: gives seats to targets that have none and have pulled the partition.

Rules that this file owns (docs/architecture.md, "Seats"):

* First the owner writes ``given to X``, and serves the seat no more; only after the flush X hears of it. X then takes
  what the owner has got meanwhile, and only then the seat, one k higher. So no two nodes ever serve one seat.
* A gift whose answer got lost is given again, to the same node, and its owner reminds that node until it is taken.
* A node that leaves gives its seats to targets that have one too, if there are fewer of them than seats.
* An owner that is a target itself keeps its last seat; one seat of a partition is on its way at a time.
* While another node claims a seat of a removed one, with our consent, ours stay where they are: that node has been
  told with whom it must compare.
* A partition with records that cannot be read stays until these are mended.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from dynafast._ext.replica import MODE_GIVEN
from dynafast.core import identity
from dynafast.core.claiming import Claiming
from dynafast.core.machine import Machine, Ops
from dynafast.core.seats import Seat
from dynafast.core.taking import Taking, seats_in
from dynafast.errors import PeerProtocolError, StoreError
from dynafast.protocol import Op, Status, is_uint
from dynafast.storage.interface import Batch

if TYPE_CHECKING:
    from dynafast._ext.connection import Connection
    from dynafast.core.node import Node

PARTITIONS_MAX = 1024  # in one message
LOOK_NS = 100_000_000
REMIND_NS = 1_000_000_000
ANSWER_MS = 3_000


class Giving(Machine):
    """Gives seats away."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._arrived: set[tuple[int, int]] = set()  # gifts that an entry shows as taken
        self._next_ns = 0
        self._remind_ns = 0
        self._reminded: set[bytes] = set()  # nodes whose answer to a reminder is awaited
        self.changed(set(node.given))

    def ops(self) -> Ops:
        """Return the requests this machine answers."""
        return {Op.GIVE: (1, self._receive)}

    def changed(self, partitions: set[int]) -> None:
        """Find the gifts that have arrived."""
        given = self.node.given
        for partition in partitions & given.keys():
            for seat, (_, k) in given[partition].items():
                owner = self.node.seats.owners[partition].get(seat)
                lost = self.node.seats.lost.get(partition, {}).get(seat, -1)
                if (owner is not None and owner.k >= k) or lost >= k:
                    self._arrived.add((partition, seat))

    def tick(self, now_ns: int) -> None:
        """Forget the gifts that have arrived; remind of the others."""
        if now_ns >= self._remind_ns:
            self._remind_ns = now_ns + REMIND_NS
            self._remind()
        if not self._arrived or now_ns < self._next_ns:
            return
        self._next_ns = now_ns + LOOK_NS
        given = {partition: dict(gifts) for partition, gifts in self.node.given.items()}
        batch = Batch()
        for partition, seat in sorted(self._arrived):
            if given.get(partition, {}).pop(seat, None) is not None:
                identity.delete_given(batch, partition, seat)
        try:
            self.node.change_own(batch, given={partition: gifts for partition, gifts in given.items() if gifts})
        except StoreError as error:  # remembered a little longer than needed
            self.node.trace("store.refused", what="gifts", error=str(error))
        else:
            self._arrived.clear()

    def _remind(self) -> None:
        node = self.node
        gifts: dict[bytes, list[list[int]]] = {}
        for partition, of in sorted(node.given.items()):
            for seat, (to, k) in sorted(of.items()):
                if (partition, seat) not in self._arrived:
                    gifts.setdefault(to, []).append([partition, seat, k])
        for to, seats in sorted(gifts.items()):
            peer = node.peers.get(to)
            if peer is not None and peer.link is not None and to not in self._reminded:
                self._reminded.add(to)
                node.call(peer, Op.GIVE, [seats[:PARTITIONS_MAX]], ANSWER_MS, partial(self._answered, to))

    def _answered(self, to: bytes, _result: object, _error: object) -> None:
        self._reminded.discard(to)

    def _receive(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        """GIVE [partitions] -> [[partition, seat, k], ...]: what the asker was given of these, now or earlier.

        GIVE [[[partition, seat, k], ...]], from the owner, reminds of what it has given to us -> [].
        """
        match fields:
            case [[[_, _, _], *_] as offered] if len(offered) <= PARTITIONS_MAX:
                self.node.machine(Taking).remind(connection.peer, seats_in(offered, self.node.facts))
                connection.reply(id, [])
                return
            case [[*partitions]] if (
                len(partitions) <= PARTITIONS_MAX
                and all(is_uint(partition) and partition < self.node.facts.partitions for partition in partitions)
                and len(set(partitions)) == len(partitions)
            ):
                pass
            case _:
                raise PeerProtocolError(f"GIVE must list at most {PARTITIONS_MAX} distinct partitions")
        node, asker = self.node, connection.peer
        given = {partition: dict(gifts) for partition, gifts in node.given.items()}
        batch = Batch()
        answer: list[Seat] = []
        gone: set[Seat] = set()
        modes: dict[int, tuple[int, bytes]] = {}
        spoiled = node.replica.broken | {node.partition_of(key) for key in node.replica.damaged}
        for partition in partitions:
            promised = [
                Seat(partition, seat, k) for seat, (to, k) in sorted(given.get(partition, {}).items()) if to == asker
            ]
            seat = None if promised or partition in spoiled else self._seat_for(asker, partition)
            if seat is not None:
                gone.add(seat)
                promised = [Seat(partition, seat.seat, seat.k + 1)]
                identity.put_given(batch, partition, seat.seat, asker, seat.k + 1)
                given.setdefault(partition, {})[seat.seat] = (asker, seat.k + 1)
                if len(node.seats.seats_of(node.own.id, partition)) == 1:
                    modes[partition] = (MODE_GIVEN, b"")
            answer += promised
        if gone and "serve-after-give" not in node.plants:
            node.change_own(
                batch, seats=[seat for seat in node.own_seats() if seat not in gone], given=given, modes=modes
            )
            node.trace("seats.given", to=asker, count=len(gone))
        node.after_flush(lambda: connection.reply(id, [list(seat) for seat in answer]))

    def _seat_for(self, asker: bytes, partition: int) -> Seat | None:
        """Return the seat of ours that *asker* may have, or None."""
        node = self.node
        targets = node.targets(partition)
        own = node.seats.seats_of(node.own.id, partition)
        if (
            asker not in targets
            or (node.seats.serves(asker, partition) and not self._is_left_over(partition, targets))
            or partition in node.seats.moving
            or not node.seats.can_give(partition, node.own.id, targets)
            or node.machine(Claiming).granted(partition)
        ):
            return None
        return own[-1]

    def _is_left_over(self, partition: int, targets: list[bytes]) -> bool:
        """Whether our seats go to targets that have one, since this node leaves and there are fewer than seats."""
        node = self.node
        few = len(targets) < node.facts.replicas
        return few and node.own.status is Status.LEAVING and all(node.seats.serves(id, partition) for id in targets)
