"""Finds and mends differences between replicas: Merkle trees compared, pair by pair and partition by partition.

Source: Dynamo (SOSP 2007), section 4.7. Two nodes that hold seats of the same partitions compare the roots of all of
them in one message, now and then. Where a root differs twice in a row (once may be a write on its way) they go down
the tree, compare keys with digests in the leaves that differ, and only then move records, in both directions.

Rules that this file owns:

* One of the two does the work for both, so that nothing is done twice.
* When nothing has changed on either side since all was found equal, nothing is sent at all: heartbeats tell how often
  a peer's store has changed (`Detector.sequences`).
* A tree that is being built is compared with nothing.
* Records travel with the round number of the moment they were read; what is older than our own number is not merged.
* A tombstone that the other side does not have at all has perhaps just been collected there: it is given only if that
  is still so a while later. What a round has taken away is not merged again (`Rounds.reaped`).
"""

from typing import TYPE_CHECKING, Any

from dynafast._ext.clock import Record
from dynafast._ext.merkle import differing
from dynafast.core.admission import BYTES_MAX, KEYS_MAX, LISTED, RECORD, RECORDS_MAX
from dynafast.core.errands import Ask, Errand, Errands, heed
from dynafast.core.machine import Machine
from dynafast.core.repairs import keys_of, records_of, roots_of
from dynafast.errors import CorruptRecordError, DynafastError, PeerProtocolError
from dynafast.protocol import Op

if TYPE_CHECKING:
    from collections.abc import Generator

    from dynafast._ext.view import Peer
    from dynafast.core.node import Node

LOOK_NS = 100_000_000
PERIOD_MIN_NS = 1_000_000_000  # between two comparisons of a pair, while something differs
PERIOD_MAX_NS = 16_000_000_000  # while nothing does
ERRANDS_MAX = 8
DIFFERING_MAX = 256  # partitions of a pair that are mended between two comparisons
ROOTS_MAX = 1024  # partitions in one message
FAN_OUT = 16
LEAVES_MAX = 32  # if more differ, the whole partition is gone through
WIDE = 4  # if more inner nodes differ, all leaves are asked for at once
LEAF_KEYS_MAX = 1000  # of a leaf, which is put right if it was read as a whole
HELD_BACK_NS = 5_000_000_000
HELD_BACK_MAX = 10_000


class Pair:
    """This node and one peer, with the partitions of which both hold seats."""

    def __init__(self, peer: "Peer", shared: list[int], first_ns: int) -> None:
        self.peer = peer
        self.shared = shared
        self.next_ns = first_ns
        self.period_ns = PERIOD_MIN_NS
        self.comparing = False
        self.left = 0  # errands of this pair under way
        self.refused = 0  # for which round number a message was refused last
        self.whole = True  # whether the last comparison could compare everything
        self.moved = 0  # records moved since the last comparison
        self.differing: frozenset[int] = frozenset()
        self.agreed: tuple[int, int] | None = None  # sequences of both stores when all was found equal


class AntiEntropy(Machine):
    """Compares and mends in the background."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._errands = Errands(node, ERRANDS_MAX)
        self._pairs: dict[bytes, Pair] = {}
        self._outdated = True  # whether `_pairs` are those of earlier seats
        self._next_ns = 0
        self._queue: list[tuple[Pair, int]] = []  # partitions to be mended, the next one last
        self._held_back: dict[tuple[bytes, bytes], int] = {}  # (peer, key) -> since when

    def linked(self, peer: "Peer") -> None:
        """The peer was away, or is new: compare soon."""
        pair = self._pairs.get(peer.id)
        if pair is not None:
            pair.agreed = None
            pair.period_ns = PERIOD_MIN_NS
            pair.next_ns = self.node.now_ns + self._jitter(PERIOD_MIN_NS)

    def changed(self, partitions: set[int]) -> None:
        """Seats have moved: others are to be compared with."""
        self._outdated = self._outdated or bool(partitions)

    def tick(self, now_ns: int) -> None:
        """Start the comparisons that are due, and go on with those under way."""
        if "skip-repair" in self.node.plants:
            return
        self._errands.tick()
        while self._queue and not self._errands.full:
            self._mend(*self._queue.pop())
        if now_ns < self._next_ns:
            return
        self._next_ns = now_ns + LOOK_NS
        if self._outdated:
            self._pair_up()
        for pair in self._pairs.values():
            if now_ns >= pair.next_ns and not pair.comparing and not pair.left and pair.peer.usable:
                self._compare(pair)

    def differ(self) -> list[int]:
        """Return the partitions that were found to differ from a peer's."""
        return sorted(set().union(*(pair.differing for pair in self._pairs.values())))

    def figures(self) -> dict[str, object]:
        """What `status` shows."""
        return {"differ": self.differ()}

    # ---- who compares what

    def _pair_up(self) -> None:
        """Find the peers that share partitions with us, and for which of them we do the work."""
        self._outdated = False
        view = self.node.coordinator.view
        shared: dict[bytes, list[int]] = {}
        peers: dict[bytes, Peer] = {}
        for partition, holders in enumerate(view.holders):
            if view.own[partition]:
                for peer in holders:
                    if not peer.me and _works_for(self.node.own.id, peer.id):
                        shared.setdefault(peer.id, []).append(partition)
                        peers[peer.id] = peer
        pairs: dict[bytes, Pair] = {}
        for id in sorted(shared):
            pair = self._pairs.get(id)
            if pair is None:
                pair = Pair(peers[id], shared[id], self.node.now_ns + self._jitter(PERIOD_MIN_NS))
            elif pair.shared != shared[id]:
                pair.shared, pair.agreed = shared[id], None
                pair.differing &= set(shared[id])
            pairs[id] = pair
        self._pairs = pairs
        self._queue = [(pair, partition) for pair, partition in self._queue if pairs.get(pair.peer.id) is pair]

    def _jitter(self, period_ns: int) -> int:
        """Return a time between half of *period_ns* and all of it."""
        return period_ns // 2 + self.node.random64() % (period_ns // 2)

    # ---- roots

    def _compare(self, pair: Pair) -> None:
        ours, theirs = self.node.store.sequence, self.node.detector.sequences.get(pair.peer.id)
        if self._errands.full:
            return
        pair.next_ns = self.node.now_ns + self._jitter(pair.period_ns)
        if theirs is not None and pair.agreed == (ours, theirs):
            return
        before, found = pair.differing, set[int]()
        pair.comparing, pair.whole, pair.moved, pair.agreed = True, True, 0, None

        def done(error: DynafastError | None) -> None:
            pair.comparing = False
            pair.differing = frozenset(found)
            if error is not None:
                pair.differing |= before
                self._failed(pair, error)
            elif not pair.whole and not found:
                pair.period_ns = PERIOD_MIN_NS
            elif found:
                pair.period_ns = PERIOD_MIN_NS
                again = sorted(found & before)[:DIFFERING_MAX]
                pair.left = len(again)
                self._queue = [(pair, partition) for partition in reversed(again)] + self._queue
            else:
                pair.period_ns = min(PERIOD_MAX_NS, 2 * pair.period_ns)
                if theirs is not None and self.node.store.sequence == ours:
                    pair.agreed = (ours, theirs)
            pair.next_ns = self.node.now_ns + self._jitter(pair.period_ns)

        self._errands.start(self._roots(pair, found), done)

    def _roots(self, pair: Pair, found: set[int]) -> Errand:
        """Put the shared partitions whose roots differ into *found*."""
        replica, shared = self.node.replica, pair.shared
        for first in range(0, len(shared), ROOTS_MAX):
            asked = shared[first : first + ROOTS_MAX]
            answer = yield Ask(pair.peer, Op.ROOTS, [asked], 16 * len(asked))
            for partition, (root, seats) in zip(asked, roots_of(answer, len(asked)), strict=True):
                own = replica.root(partition)
                if root is None or own is None or not seats:
                    pair.whole = False  # not ready, or without a seat by now: nothing that could be compared
                elif root != own:
                    found.add(partition)

    def _failed(self, pair: Pair, error: DynafastError) -> None:
        pair.period_ns = PERIOD_MIN_NS
        pair.refused = heed(self.node, error, pair.refused)
        self.node.trace("repair.failed", peer=pair.peer.name, error=str(error))

    # ---- one partition

    def _mend(self, pair: Pair, partition: int) -> None:
        def done(error: DynafastError | None) -> None:
            pair.left -= 1
            if error is not None:
                self._failed(pair, error)
            if not pair.left and pair.moved:
                self.node.trace("repair.done", peer=pair.peer.name, records=pair.moved)

        self._errands.start(self._partition(pair, partition), done)

    def _partition(self, pair: Pair, partition: int) -> Errand:
        leaves = yield from self._leaves(pair.peer, partition)
        if len(leaves) > LEAVES_MAX:
            yield from self._range(pair, partition, None)
            return
        for leaf in leaves:
            yield from self._range(pair, partition, leaf)

    def _leaves(self, peer: "Peer", partition: int) -> "Generator[Ask, Any, list[int]]":
        """Return the leaves that differ."""
        inner = yield from self._level(peer, partition, 1, 0, FAN_OUT)
        if len(inner) > WIDE:
            return (yield from self._level(peer, partition, 2, 0, FAN_OUT * FAN_OUT))
        found: list[int] = []
        for node in inner:
            found += yield from self._level(peer, partition, 2, FAN_OUT * node, FAN_OUT)
        return found

    def _level(self, peer: "Peer", p: int, depth: int, first: int, count: int) -> "Generator[Ask, Any, list[int]]":
        theirs = yield Ask(peer, Op.TREE, [p, depth, first, count], 8 * count)
        ours = self.node.replica.level(p, depth, first, count)
        if theirs is None or ours is None:
            return []  # not ready
        if not isinstance(theirs, bytes):
            raise PeerProtocolError("an answer to TREE must be bytes or null")
        return [first + index for index in differing(ours, theirs)]

    def _range(self, pair: Pair, partition: int, leaf: int | None) -> Errand:
        """Take what they have and we do not, then give what we have and they do not; page by page.

        Of one leaf, or with None of the partition.
        """
        limit = KEYS_MAX if leaf is None else LEAF_KEYS_MAX
        after = b""
        while True:
            answer = yield Ask(pair.peer, Op.KEYS, [partition, leaf, after or None, limit], RECORD)
            theirs, theirs_over = keys_of(answer)
            page, ours_over = self.node.replica.keys(partition, leaf, after, limit)
            self.node.admission.spend(LISTED * len(theirs))
            ours = dict(page)
            ends = ([] if theirs_over else [max(theirs)]) + ([] if ours_over else [max(ours)])
            last = min(ends, default=None)  # up to where both sides are known
            if last is not None:
                theirs = {key: digest for key, digest in theirs.items() if key <= last}
                ours = {key: digest for key, digest in ours.items() if key <= last}
            give = [key for key in ours if key not in theirs]
            take = [key for key in theirs if ours.get(key) != theirs[key]]
            while take:
                records = yield from self._read(pair, partition, take[:RECORDS_MAX])
                for key, record in records:
                    if record is None or not record.context:
                        continue  # damaged there, or gone meanwhile
                    if self._merge(pair, partition, key, record) != theirs[key]:
                        give.append(key)
                take = take[len(records) :]
            yield from self._give(pair, partition, sorted(give), theirs)
            if last is None:
                return
            after = last

    def _read(self, pair: Pair, p: int, keys: list[bytes]) -> "Generator[Ask, Any, list[tuple[bytes, Record | None]]]":
        """Return some of their records, the first at least (see `records_of`)."""
        answer = yield Ask(pair.peer, Op.READ, [p, keys, self.node.replica.round], RECORD * len(keys))
        number, records = records_of(answer, keys)
        self.node.admission.spend(sum(len(item) for item in answer[1] if item))
        if number < self.node.replica.round:
            raise DynafastError(f"records of round {number}, this node is in round {self.node.replica.round}")
        return records

    def _merge(self, pair: Pair, partition: int, key: bytes, record: Record) -> int | None:
        """Merge what they have into ours; return the digest of the outcome."""
        if not self.node.coordinator.view.own[partition]:
            return None  # the seat was given away meanwhile: what comes now is for others
        if self.node.rounds.reaped(pair.peer.id, key, record):
            return record.digest()
        try:
            merged = self.node.replica.merge(key, record)
        except CorruptRecordError:
            return None  # for `Healing`
        pair.moved += 1
        return merged.digest()

    def _give(self, pair: Pair, partition: int, keys: list[bytes], theirs: dict[bytes, int]) -> Errand:
        replica = self.node.replica
        while keys:
            items: list[list[bytes]] = []
            size = taken = 0
            number = replica.round  # of the moment at which the records are read
            for key in keys[:RECORDS_MAX]:
                taken += 1
                try:
                    record = replica.read(key)
                except CorruptRecordError:
                    continue
                if record is None or record.digest() == theirs.get(key):
                    continue
                if record.live() == 0 and key not in theirs and self._hold_back(pair, key):
                    continue
                items.append([key, record.encode()])
                size += len(items[-1][1])
                if size >= BYTES_MAX:
                    break
            keys = keys[taken:]
            if items and self.node.coordinator.view.own[partition]:
                merged = yield Ask(pair.peer, Op.MERGE, [partition, number, items], size + RECORD * len(items))
                pair.moved += sum(digest is not None for digest in merged) if isinstance(merged, list) else 0

    def _hold_back(self, pair: Pair, key: bytes) -> bool:
        """Whether a tombstone that the other side has nothing of should wait: it may just be collected there."""
        now_ns = self.node.now_ns
        if len(self._held_back) > HELD_BACK_MAX:
            self._held_back.clear()
        since_ns = self._held_back.setdefault((pair.peer.id, key), now_ns)
        if now_ns - since_ns < HELD_BACK_NS:
            return True
        del self._held_back[pair.peer.id, key]
        return False


def _works_for(ours: bytes, theirs: bytes) -> bool:
    """Whether the first of two nodes compares for both: the smaller id of half of all pairs, the larger of the rest."""
    return (ours < theirs) == bool((ours[-1] ^ theirs[-1]) & 1)
