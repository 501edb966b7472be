"""A node that should not keep a partition any more deletes it, once every seat of it surely has all of that.

Not "the replicas agree": under load they never quite do. What counts is that every key that is here was acknowledged,
flushed, as merged by each node that serves a seat, that these are all seats there are, and that nothing was written
here since. A seat that moves takes its content along (`dynafast.core.taking`), so what each of them has now, every
later owner has; no agreement of a moment is needed.

The drop is one batch with a new version of our entry; records that are kept for others are written again in it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynafast._ext.replica import MODE_GIVEN, MODE_NONE, MODE_PULLED
from dynafast.core.comparing import push
from dynafast.core.errands import Ask, Errand, Errands
from dynafast.core.machine import Machine
from dynafast.core.repairs import roots_of
from dynafast.core.taking import Taking
from dynafast.errors import DynafastError, StoreError
from dynafast.protocol import Op
from dynafast.storage.interface import Batch

if TYPE_CHECKING:
    from dynafast._ext.view import Peer
    from dynafast.core.node import Node

LOOK_NS = 100_000_000
RETRY_MIN_NS = 200_000_000
RETRY_MAX_NS = 5_000_000_000
ERRANDS_MAX = 2
TOGETHER_MAX = 256  # partitions in one round
BATCH_OPS_MAX = 1_000  # in one write: a drop of many empty partitions


class Dropping(Machine):
    """Deletes what this node should not keep."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._due: dict[int, tuple[int, int]] = {}  # partition -> (not before, pause after a failure)
        self._busy: set[int] = set()
        self._errands = Errands(node, ERRANDS_MAX)
        self._next_ns = 0
        self.changed(set(range(node.facts.partitions)))

    @property
    def count(self) -> int:
        """How many partitions wait to be dropped."""
        return len(self._due)

    def changed(self, partitions: set[int]) -> None:
        """Find what is not wanted here any more, and what is again."""
        for partition in sorted(partitions):
            if self._is_unwanted(partition):
                self._due.setdefault(partition, (0, RETRY_MIN_NS))
            else:
                self._due.pop(partition, None)

    def tick(self, now_ns: int) -> None:
        """Begin a round for partitions that are due."""
        self._errands.tick()
        if not self._due or now_ns < self._next_ns:
            return
        self._next_ns = now_ns + LOOK_NS
        taking = self.node.machine(Taking)
        due: dict[tuple[bytes, ...], list[int]] = {}
        for partition in sorted(self._due):
            if self._due[partition][0] > now_ns or partition in self._busy or taking.busy(partition):
                continue
            holders = self._reached(partition)
            if holders is None:
                self._later(partition)
            else:
                due.setdefault(holders, []).append(partition)
        for holders, together in sorted(due.items()):
            if not self._errands.full:
                self._start(holders, together[:TOGETHER_MAX])

    def figures(self) -> dict[str, object]:
        """What `status` shows."""
        return {"dropping": len(self._due)}

    # ---- what is unwanted

    def _is_unwanted(self, partition: int) -> bool:
        node = self.node
        return (
            node.replica.mode(partition) in (MODE_PULLED, MODE_GIVEN)
            and node.own.id not in node.targets(partition)
            and not node.given.get(partition)
        )

    def _reached(self, partition: int) -> tuple[bytes, ...] | None:
        """Return those who serve all seats of *partition*; None if a seat is nobody's now, or one is out of reach."""
        node = self.node
        holders = sorted(node.seats.holders(partition))
        if len(node.seats.owners[partition]) < node.facts.replicas or node.own.id in holders:
            return None
        if any(node.peers[id].link is None for id in holders) or node.replica.root(partition) is None:
            return None
        return tuple(holders)

    def _later(self, partition: int) -> None:
        if partition in self._due:
            pause = self._due[partition][1]
            self._due[partition] = (self.node.now_ns + pause, min(RETRY_MAX_NS, 2 * pause))

    # ---- a round

    def _start(self, holders: Sequence[bytes], partitions: list[int]) -> None:
        self._busy.update(partitions)

        def done(error: DynafastError | None) -> None:
            self._busy.difference_update(partitions)
            for partition in partitions:
                self._later(partition)
            if error is not None:
                self.node.trace("drop.failed", error=str(error))

        self._errands.start(self._round([self.node.peers[id] for id in holders], partitions), done)

    def _round(self, holders: list["Peer"], partitions: list[int]) -> Errand:
        replica = self.node.replica
        roots = {partition: replica.root(partition) for partition in partitions}
        stale = partitions if "stale-drop" in self.node.plants else []
        early = {partition: self._clearance(partition) for partition in stale}
        seats = dict.fromkeys(partitions, 0)
        for peer in holders:
            stated = yield from self._stated(peer, partitions)
            equal = [p for p in partitions if stated[p][0] is not None and stated[p][0] == roots[p]]
            for partition in equal:
                seats[partition] |= stated[partition][1]
            pushed = []
            for partition in partitions:
                if partition in equal or not stated[partition][1] or roots[partition] is None:
                    continue
                try:
                    yield from push(self.node, peer, partition)
                except DynafastError as error:  # the others are not held up
                    self.node.trace("drop.failed", partition=partition, peer=peer.name, error=str(error))
                else:
                    pushed.append(partition)
            if pushed:
                stated = yield from self._stated(peer, pushed)  # it serves them still
                for partition in pushed:
                    seats[partition] |= stated[partition][1]
        whole = (1 << self.node.facts.replicas) - 1
        self._drop([p for p in partitions if seats[p] == whole and roots[p] is not None], roots, early)

    def _stated(self, peer: "Peer", partitions: list[int]):  # type: ignore[no-untyped-def]  # a part of an errand
        answer = yield Ask(peer, Op.ROOTS, [partitions], 16 * len(partitions))
        return dict(zip(partitions, roots_of(answer, len(partitions)), strict=True))

    def _clearance(self, partition: int) -> Batch:
        batch = Batch()
        self.node.replica.put_clearance(batch, partition)
        return batch

    def _drop(self, partitions: list[int], roots: dict[int, int | None], early: dict[int, Batch]) -> None:
        node = self.node
        left = [p for p in partitions if self._is_unwanted(p) and node.replica.mode(p) != MODE_NONE]
        left = [p for p in left if not node.machine(Taking).busy(p)]  # a seat has been given to us since
        if not early:
            left = [p for p in left if node.replica.root(p) == roots[p]]  # nothing was written here since
        while left:
            batch = Batch()
            modes: dict[int, tuple[int, bytes]] = {}
            while left and len(batch.ops) < BATCH_OPS_MAX:
                partition = left.pop()
                try:
                    batch.ops.extend((early.get(partition) or self._clearance(partition)).ops)
                except StoreError as error:  # one that cannot be read must be mended first
                    node.trace("drop.failed", partition=partition, error=str(error))
                    continue
                modes[partition] = (MODE_NONE, b"")
            if not modes:
                return
            node.change_own(batch, modes=modes)
            for partition in modes:
                node.replica.cleared(partition)
                self._due.pop(partition, None)
            node.trace("partitions.dropped", count=len(modes))
