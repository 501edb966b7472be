"""A node that was told to leave: its seats go to the targets, its hints to others, then it says so and ends.

Seats are given as always (`dynafast.core.giving`): a leaving node is nobody's target any more. Hints that their target
does not take, since it is away, are handed to another node, which answers after a flush. When nothing is left here the
node takes no more for others, tells its peers that it has left, and ends.
"""

from typing import TYPE_CHECKING, Any

from dynafast.core.admission import BYTES_MAX, RECORD, RECORDS_MAX
from dynafast.core.errands import Ask, Errand, Errands
from dynafast.core.machine import Machine
from dynafast.errors import CorruptRecordError, DynafastError, PeerProtocolError
from dynafast.protocol import Op, Status
from dynafast.storage.interface import Batch

if TYPE_CHECKING:
    from dynafast._ext.view import Peer
    from dynafast.core.node import Node

LOOK_NS = 100_000_000
TELL_MS = 2_000
DRAIN_NS = 5_000_000_000  # requests of clients that are under way are over by then, or in doubt
QUIET_NS = 500_000_000  # nothing new has come to be kept for others for so long


class Leaving(Machine):
    """Finishes a leave."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._errands = Errands(node, 1)
        self._next_ns = 0
        self._empty_ns: int | None = None  # since when nothing is left
        self._telling = False

    def tick(self, now_ns: int) -> None:
        """Hand hints on, and end when nothing is left."""
        node = self.node
        if node.own.status not in (Status.LEAVING, Status.LEFT):
            return
        self._errands.tick()
        if now_ns < self._next_ns or node.ended is not None:
            return
        self._next_ns = now_ns + LOOK_NS
        if node.own.status is Status.LEFT:
            self._tell()
            return
        if node.replica.hinted and not self._errands.full:
            self._errands.start(self._hand_on(), self._failed)
        if node.own_seats() or node.given or node.replica.hinted:
            self._empty_ns = None
            return
        node.coordinator.draining = True  # takes nothing more, for others neither
        self._empty_ns = now_ns if self._empty_ns is None else self._empty_ns
        quiet_ns = now_ns - self._empty_ns
        if quiet_ns >= QUIET_NS and (not node.coordinator.busy or quiet_ns >= DRAIN_NS):
            node.change_own(Batch(), status=Status.LEFT)

    def _failed(self, error: DynafastError | None) -> None:
        if error is not None:
            self.node.trace("leave.waits", error=str(error))

    def _hand_on(self) -> Errand:
        """Give each hint to another node; those whose target can be reached are delivered by `Handoff`."""
        node = self.node
        for target in sorted(node.replica.hinted):
            peer = node.peers.get(target)
            if peer is not None and peer.link is not None and not peer.suspected:
                continue
            after = b""
            while keys := node.replica.hints(target, after, RECORDS_MAX):
                after = keys[-1]
                by_heir: dict[bytes, list[bytes]] = {}
                for key in keys:
                    heir = self._heir(target, node.partition_of(key))
                    if heir is not None:
                        by_heir.setdefault(heir, []).append(key)
                for heir, of_heir in sorted(by_heir.items()):
                    yield from self._give(node.peers[heir], target, of_heir)

    def _heir(self, target: bytes, partition: int) -> bytes | None:
        node = self.node
        for id in node.preference(partition):
            if id not in (target, node.own.id) and node.peers[id].link is not None and not node.peers[id].suspected:
                return id
        return None

    def _give(self, peer: "Peer", target: bytes, keys: list[bytes]) -> Errand:
        replica = self.node.replica
        while keys:
            items: list[list[bytes]] = []
            digests: list[int] = []
            size = taken = 0
            number = replica.round
            for key in keys:
                taken += 1
                try:
                    record = replica.read(key)
                except CorruptRecordError:
                    continue
                if record is None:
                    replica.settle_hint(target, key, 0)  # the pointer alone is left: nothing is kept
                    continue
                items.append([target, key, record.encode()])
                digests.append(record.digest())
                size += len(items[-1][2])
                if size >= BYTES_MAX:
                    break
            keys = keys[taken:]
            if not items:
                continue
            answer: Any = yield Ask(peer, Op.HINT, [number, items], size + RECORD * len(items))
            if not isinstance(answer, list) or len(answer) != len(items):
                raise PeerProtocolError("an answer to HINT must have one item for each record")
            for (_, key, _), digest, kept in zip(items, digests, answer, strict=True):
                if kept is not None:
                    replica.settle_hint(target, key, digest)

    def _tell(self) -> None:
        """Tell all that can be reached that this node has left, and who has gone before: perhaps it alone knows."""
        if self._telling:
            return
        self._telling = True
        node = self.node
        peers = node.linked_peers()
        left = len(peers)
        heard = 0

        def answered(_result: object, error: DynafastError | None) -> None:
            nonlocal left, heard
            left -= 1
            heard += error is None
            if left == 0:
                if heard:
                    node.end("left")
                else:
                    self._telling = False

        gone = [entry for _, entry in sorted(node.membership.entries.items()) if not entry.member]
        told = [entry.to_wire() for entry in gone if entry.id != node.own.id] + [node.own.to_wire()]
        for peer in peers:
            node.call(peer, Op.GOSSIP, [{"entries": told}], TELL_MS, answered)
        if not peers:
            self._telling = False
