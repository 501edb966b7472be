"""Heals records that cannot be read, from the copies of the other seats.

A damaged record is no answer, never "not found": it may have been the second copy of an acknowledged write. So it is
put right only once *every* other seat of its partition has said what it has: the merge of that is what any quorum of
theirs would answer. A copy that cannot be read there either says nothing and does not stand in the way, as long as one
that is intact is left. With none at all the record stays damaged until a peer offers one, which is then taken as it is.

Where not even the keys of a range can be told, the seats of that partition are given up, and it is pulled anew.
"""

from typing import TYPE_CHECKING

from dynafast._ext.clock import Record
from dynafast._ext.replica import MODE_NONE
from dynafast.core import identity
from dynafast.core.admission import RECORD
from dynafast.core.errands import Ask, Errand, Errands
from dynafast.core.machine import Machine
from dynafast.core.membership import NODE_ID_SIZE
from dynafast.core.repairs import records_of, roots_of
from dynafast.errors import DynafastError
from dynafast.protocol import Op
from dynafast.storage.interface import Batch, Family

if TYPE_CHECKING:
    from dynafast.core.node import Node

LOOK_NS = 200_000_000
RETRY_NS = 1_000_000_000
ERRANDS_MAX = 4
LOST_MAX = 100_000
NOBODY = bytes(NODE_ID_SIZE)  # no member: what is given to it may be claimed back


class Healing(Machine):
    """Puts damaged records right."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._errands = Errands(node, ERRANDS_MAX)
        self._queue: list[bytes] = []  # damaged keys, the next one last
        self._lost: set[bytes] = set()  # keys of which no seat has an intact copy
        self._next_ns = 0
        self._retry_ns = 0

    def tick(self, now_ns: int) -> None:
        """Go on with what is damaged; costs nothing while nothing is."""
        replica = self.node.replica
        self._errands.tick()
        if not (replica.damaged or replica.broken) or now_ns < self._next_ns:
            return
        self._next_ns = now_ns + LOOK_NS
        if not self._queue and now_ns >= self._retry_ns:
            self._queue = sorted(replica.damaged, reverse=True)
            self._retry_ns = now_ns + RETRY_NS
        while self._queue and not self._errands.full:
            self._heal(self._queue.pop())
        for partition in sorted(replica.broken):
            self._give_up(partition)

    def figures(self) -> dict[str, object]:
        """What `status` shows."""
        return {"damaged": len(self.node.replica.damaged)}

    def offer(self, object_key: bytes, record: Record) -> bool:
        """A peer has a record for a damaged key; whether it was taken. If not, the peer offers it again later."""
        if object_key not in self._lost:
            self._retry_ns = 0
            return False
        self._lost.discard(object_key)
        self.node.replica.restore(object_key, record)
        return True

    def _heal(self, object_key: bytes) -> None:
        def done(error: DynafastError | None) -> None:
            if error is not None:
                self.node.trace("record.damaged", key=object_key[8:72], error=str(error))

        self._errands.start(self._compare(object_key), done)

    def _compare(self, object_key: bytes) -> Errand:
        """Ask every other seat for its copy, and put the merge of them in the place of ours."""
        replica = self.node.replica
        partition = self.node.partition_of(object_key)
        if object_key not in replica.damaged:
            return
        if not replica.mode(partition) and not self._is_hinted(object_key):
            replica.forget(object_key)  # a left-over: it counts for nothing
            return
        found, intact = Record(), 0
        unseen = (1 << self.node.facts.replicas) - 1 & ~self.node.coordinator.view.own[partition]
        damaged_too = 0
        for peer, _ in self.node.coordinator.view.seats(partition):
            if peer.me:
                continue
            if not peer.usable:
                raise DynafastError(f"waits for {peer.name}")
            answer = yield Ask(peer, Op.READ, [partition, [object_key], replica.round], RECORD)
            number, [(_, record)] = records_of(answer, [object_key])
            if number < replica.round:
                raise DynafastError(f"waits for {peer.name}, which has not heard of round {replica.round}")
            answer = yield Ask(peer, Op.ROOTS, [[partition]], RECORD)
            [(_, seats)] = roots_of(answer, 1)  # told after the record: so the record was that of these seats
            unseen &= ~seats
            if record is None:
                damaged_too += 1
                continue
            intact += 1
            found = found.merge(record)
        for lost in self.node.seats.lost.get(partition, {}):
            unseen &= ~(1 << lost)  # of a removed node: what it had cannot be had any more
        if unseen:
            raise DynafastError(f"no answer for {unseen.bit_count()} of {self.node.facts.replicas} seats")
        if object_key not in replica.damaged:
            return  # dropped with its partition meanwhile
        if not intact:
            if len(self._lost) < LOST_MAX:
                self._lost.add(object_key)
            raise DynafastError("no seat has an intact copy")
        if found.context:
            replica.restore(object_key, found)
        else:
            replica.forget(object_key)
        self.node.trace("record.healed", key=object_key[8:72], copies=intact, damaged_too=damaged_too)

    def _give_up(self, partition: int) -> None:
        """Give the seats of a partition to nobody: they are claimed back once all is pulled from the other seats.

        Only while all others can be asked: with them away, what can still be read here is better than nothing.
        """
        node = self.node
        seats = node.seats.seats_of(node.own.id, partition)
        holders = node.coordinator.view.seats(partition)
        served = set().union(*(_bits(mask) for _, mask in holders))
        if not seats or len(holders) < 2 or len(served) < node.facts.replicas:
            return
        if not all(peer.usable for peer, _ in holders):
            return
        given = {p: dict(gifts) for p, gifts in node.given.items()}
        batch = Batch()
        for seat in seats:
            given.setdefault(partition, {})[seat.seat] = (NOBODY, seat.k + 1)
            identity.put_given(batch, partition, seat.seat, NOBODY, seat.k + 1)
        kept = [seat for seat in node.own_seats() if seat.partition != partition]
        node.change_own(batch, seats=kept, given=given, modes={partition: (MODE_NONE, b"")})
        node.trace("seats.given-up", partition=partition, count=len(seats))

    def _is_hinted(self, object_key: bytes) -> bool:
        return any(
            self.node.store.read(Family.HINTS, target + object_key) is not None
            for target in sorted(self.node.replica.hinted)
        )


def _bits(mask: int) -> set[int]:
    return {bit for bit in range(mask.bit_length()) if mask >> bit & 1}
