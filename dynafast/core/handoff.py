"""Delivers hints: hands records that were kept for another node over to it, once it can be reached.

Source: Dynamo (SOSP 2007), section 4.6. A hint is a pointer to a record (``_ext/replica.pyx``), so what is delivered is
always the newest state, by MERGE. The answer comes after the target's flush; then pointer and record go, if the record
is still what was sent, and else are sent again. Nothing ends a hint but such an answer: done is when none is left, not
when a cursor has passed. So each pass begins with the first pointer, and what it had to pass over is tried again in a
second or two.

Hints for a node that is no member any more, or no longer a target, become hints for those that are now.
"""

from typing import TYPE_CHECKING, Any

from dynafast.core.admission import BYTES_MAX, RECORD, RECORDS_MAX
from dynafast.core.errands import heed
from dynafast.core.machine import Machine
from dynafast.errors import CorruptRecordError, DynafastError, StoreError
from dynafast.protocol import Op

if TYPE_CHECKING:
    from dynafast._ext.view import Peer
    from dynafast.core.node import Node

LOOK_NS = 50_000_000
ANSWER_MS = 5_000
MESSAGES_MAX = 4  # under way to one target
RETRY_NS = 1_000_000_000  # after a pass that had to pass something over
MESSAGE_GUESS = 1_000  # bytes, before the records are read


class Delivery:
    """What goes on with the hints for one target."""

    def __init__(self, target: bytes) -> None:
        self.target = target
        self.link: object = None  # the connection of this pass
        self.after = b""  # where this pass is
        self.over = False  # whether it has read its last pointer
        self.asked = 0  # messages under way
        self.passed_over = 0
        self.refused = 0  # for which round number the last message was
        self.next_ns = 0
        self.reason: str | None = None  # why hints wait


class Handoff(Machine):
    """Delivers the hints of this node."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._deliveries: dict[bytes, Delivery] = {}
        self._next_ns = 0

    def linked(self, peer: "Peer") -> None:
        """A target is back: begin with its first hint."""
        if (delivery := self._deliveries.get(peer.id)) is not None:
            delivery.next_ns = self.node.now_ns + self._jitter(RETRY_NS // 4)

    def tick(self, now_ns: int) -> None:
        """Send what may be sent."""
        hinted = self.node.replica.hinted
        if not hinted or now_ns < self._next_ns:
            return
        self._next_ns = now_ns + LOOK_NS
        for target in sorted(hinted):
            self._advance(self._deliveries.setdefault(target, Delivery(target)), now_ns)
        if len(self._deliveries) > len(hinted):
            self._deliveries = {id: it for id, it in self._deliveries.items() if id in hinted or it.asked}

    def figures(self) -> dict[str, object]:
        """What `status` shows."""
        rows = []
        for target, (count, size) in sorted(self.node.replica.hinted.items()):
            entry = self.node.membership.entries.get(target)
            delivery = self._deliveries.get(target)
            rows.append(
                {
                    "target": target.hex() if entry is None else entry.name,
                    "count": count,
                    "bytes": size,
                    "reason": None if delivery is None else delivery.reason,
                }
            )
        return {"hints": rows}

    # ---- a pass

    def _advance(self, delivery: Delivery, now_ns: int) -> None:
        try:
            self._go_on(delivery, now_ns)
        except StoreError as error:
            self._waits(delivery, str(error), 1)
            delivery.next_ns = now_ns + self._jitter(RETRY_NS)

    def _go_on(self, delivery: Delivery, now_ns: int) -> None:
        entry = self.node.membership.entries.get(delivery.target)
        if entry is None:
            delivery.reason = "not heard of yet"  # never forgotten, so it is new: gossip will tell
            return
        if not entry.member:
            delivery.reason = "is no member any more"
            if now_ns >= delivery.next_ns:
                keys = self.node.replica.hints(delivery.target, delivery.after, RECORDS_MAX)
                delivery.after = keys[-1] if keys else b""
                delivery.next_ns = 0 if keys else now_ns + RETRY_NS
                self._pass_on(delivery, keys)
            return
        peer = self.node.peers[delivery.target]
        if peer.link is None or not peer.usable:
            delivery.reason = "does not answer" if peer.link is not None else "not connected"
            if "drop-hint" in self.node.plants:
                self._drop(delivery)
            return
        if delivery.link is not peer.link:
            delivery.link, delivery.after, delivery.over = peer.link, b"", False
            delivery.next_ns = max(delivery.next_ns, now_ns + self._jitter(RETRY_NS // 4))
        if now_ns < delivery.next_ns:
            return
        while not delivery.over and delivery.asked < MESSAGES_MAX:
            if not self.node.admission.room(MESSAGE_GUESS):
                delivery.reason = "other work goes first"
                return
            self._send_next(delivery, peer)
        if delivery.over and not delivery.asked:
            delivery.after, delivery.over = b"", False
            delivery.next_ns = now_ns + self._jitter(RETRY_NS if delivery.passed_over else RETRY_NS // 4)
            delivery.passed_over = 0

    def _send_next(self, delivery: Delivery, peer: "Peer") -> None:
        """Send the next records, those of one partition."""
        replica, target = self.node.replica, delivery.target
        keys = replica.hints(target, delivery.after, RECORDS_MAX)
        if not keys:
            delivery.over = True
            return
        partition = self.node.partition_of(keys[0])
        keys = [key for key in keys if self.node.partition_of(key) == partition]
        if target not in self.node.targets(partition) and not self._has_seat(target, partition):
            delivery.after = keys[-1]
            self._pass_on(delivery, keys)
            return
        number, size = replica.round, 0  # the number of the moment at which the records are read
        items: list[tuple[bytes, bytes, int]] = []
        for key in keys:
            delivery.after = key
            try:
                record = replica.read(key)
                if record is None:
                    replica.settle_hint(target, key, 0)  # the pointer alone is left: nothing is kept
                    continue
            except CorruptRecordError:
                self._waits(delivery, "a record is damaged", 1)
                continue
            items.append((key, record.encode(), record.digest()))
            size += len(items[-1][1])
            if size >= BYTES_MAX:
                break
        if items:
            self.node.admission.spend(size + RECORD * len(items))
            self._send(delivery, peer, partition, number, items)

    def _send(
        self, delivery: Delivery, peer: "Peer", partition: int, number: int, items: list[tuple[bytes, bytes, int]]
    ) -> None:
        delivery.asked += 1
        delivery.reason = None

        def done(result: Any, error: DynafastError | None) -> None:
            delivery.asked -= 1
            if error is None and isinstance(result, list) and len(result) == len(items):
                self._settle(delivery, items, result)
                self._advance(delivery, self.node.now_ns)
                return
            self._waits(delivery, str(error or "malformed answer"), len(items))
            delivery.over = True  # what comes after waits too: in order, as far as one node can see to it
            delivery.refused = heed(self.node, error, delivery.refused)

        self.node.call(peer, Op.MERGE, [partition, number, [[key, data] for key, data, _ in items]], ANSWER_MS, done)

    def _settle(self, delivery: Delivery, items: list[tuple[bytes, bytes, int]], merged: list[Any]) -> None:
        """End the hints whose record, as it was sent, the target has merged and flushed."""
        for (key, _, digest), answer in zip(items, merged, strict=True):
            if answer is None:
                self._waits(delivery, "the target takes no records of the partition yet", 1)
                continue
            try:
                if not self.node.replica.settle_hint(delivery.target, key, digest):
                    delivery.passed_over += 1  # a newer state came in meanwhile, and goes with the next pass
            except StoreError as error:
                self._waits(delivery, str(error), 1)

    def _waits(self, delivery: Delivery, reason: str, count: int) -> None:
        delivery.reason = reason
        delivery.passed_over += count

    # ---- hints for those who are not meant any more

    def _pass_on(self, delivery: Delivery, keys: list[bytes]) -> None:
        """Make the hints for a former target hints for the present ones; none for ourselves."""
        passed = 0
        for key in keys:
            partition = self.node.partition_of(key)
            holders = [peer.id for peer in self.node.coordinator.view.holders[partition]]
            others = [id for id in dict.fromkeys([*self.node.targets(partition), *holders]) if id != self.node.own.id]
            if not others and not self.node.coordinator.view.own[partition]:
                continue  # nobody to give it to: kept
            try:
                self.node.replica.rehint(key, delivery.target, others)
            except CorruptRecordError:
                self._waits(delivery, "a record is damaged", 1)
            else:
                passed += 1
        if passed:
            self.node.trace("hint.passed-on", target=delivery.target, count=passed)

    def _drop(self, delivery: Delivery) -> None:
        """The canary ``drop-hint``: forget what cannot be delivered."""
        for key in self.node.replica.hints(delivery.target, b"", RECORDS_MAX):
            record = self.node.replica.read(key)
            if record is not None:
                self.node.replica.settle_hint(delivery.target, key, record.digest())

    def _has_seat(self, target: bytes, partition: int) -> bool:
        return any(peer.id == target for peer in self.node.coordinator.view.holders[partition])

    def _jitter(self, period_ns: int) -> int:
        """Return a time between half of *period_ns* and all of it."""
        return period_ns // 2 + self.node.random64() % (period_ns // 2)
