"""One pass over a partition with one peer: after it, this node has merged everything that the peer had when it began.

`catch_up` compares trees and takes what differs; `pull` takes a whole partition page by page, from a cursor on.
`push` is the other direction: after it, the peer has merged and flushed everything that this node had. All are
conversations (`dynafast.core.errands`), paced and bounded there.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dynafast._ext.merkle import differing
from dynafast._ext.replica import MODE_NONE
from dynafast.core.admission import BYTES_MAX, KEYS_MAX, LISTED, RECORD, RECORDS_MAX
from dynafast.core.errands import Ask
from dynafast.core.repairs import keys_of, records_of
from dynafast.errors import CorruptRecordError, DynafastError, PeerProtocolError, RefusedError
from dynafast.protocol import Op

if TYPE_CHECKING:
    from dynafast._ext.view import Peer
    from dynafast.core.node import Node

LEAVES = 256
LEAF_DEPTH = 2
FEW = 4  # keys of a leaf that are sent without a look at what the other side has: less work than that look
WIDE = 32  # if more leaves differ, the whole partition is walked
TRIES_MAX = 5  # for a record that is too old each time
BAD_MAX = 100  # keys remembered by name

Steps = Generator[Ask, Any, None]


class NotReadyError(DynafastError):
    """A tree is still being built: try again later."""


@dataclass(slots=True)
class Passed:
    """What one pass has done so far. ``share`` of the partition's key space is behind it."""

    merged: int = 0
    share: float = 0.0
    bad: list[bytes] = field(default_factory=list)


def catch_up(node: "Node", peer: "Peer", partition: int, passed: Passed) -> Steps:
    """Take from *peer* what differs, by the leaves of both trees.

    Raises:
        NotReadyError: our tree is not built. DynafastError: the peer did not answer, or refused.
    """
    theirs = yield Ask(peer, Op.TREE, [partition, LEAF_DEPTH, 0, LEAVES], 8 * LEAVES)
    ours = node.replica.level(partition, LEAF_DEPTH, 0, LEAVES)
    if ours is None:
        raise NotReadyError("the tree of the partition is being built here")
    if theirs is None:
        raise NotReadyError(f"the tree of the partition is being built at {peer.name}")
    leaves = _differing(ours, theirs)
    if len(leaves) > WIDE:
        yield from pull(node, peer, partition, b"", passed, None)
        return
    found: dict[bytes, int] = {}
    for leaf in leaves:
        after, over = b"", False
        while not over:
            page, over = yield from _list(node, peer, partition, leaf, after)
            found.update(page)
            after = max(page, default=after)
            if len(found) >= KEYS_MAX:
                yield from _take_page(node, peer, partition, found, passed)
                found = {}
    yield from _take_page(node, peer, partition, found, passed)


def pull(
    node: "Node", peer: "Peer", partition: int, after: bytes, passed: Passed, save: Callable[[bytes], None] | None
) -> Steps:
    """Take from *peer* everything of a partition above the key *after*; ``save(cursor)`` after each page."""
    over = False
    while not over:
        page, over = yield from _list(node, peer, partition, None, after)
        yield from _take_page(node, peer, partition, page, passed)
        if page:
            after = max(page)
            start = partition << 64
            passed.share = min(1.0, (int.from_bytes(after[:8], "big") * node.facts.partitions - start) / 2**64)
            if save is not None:
                save(after)


def push(node: "Node", peer: "Peer", partition: int) -> Steps:
    """Give *peer* what it does not have, and see it merged and flushed in a seat.

    Raises:
        NotReadyError: a tree is not built. RefusedError: the peer could not take a record.
    """
    theirs = yield Ask(peer, Op.TREE, [partition, LEAF_DEPTH, 0, LEAVES], 8 * LEAVES)
    ours = node.replica.level(partition, LEAF_DEPTH, 0, LEAVES)
    if ours is None or theirs is None:
        raise NotReadyError("a tree of the partition is being built")
    give: list[bytes] = []
    for leaf in _differing(ours, theirs):
        known: dict[bytes, int] = {}
        mine, all_mine = node.replica.keys(partition, leaf, b"", KEYS_MAX)
        after, over = b"", all_mine and len(mine) <= FEW
        while not over:
            page, over = yield from _list(node, peer, partition, leaf, after)
            known.update(page)
            after = max(page, default=after)
        give += [key for key, digest in mine if known.get(key) != digest]
        while not all_mine:
            mine, all_mine = node.replica.keys(partition, leaf, mine[-1][0], KEYS_MAX)
            give += [key for key, digest in mine if known.get(key) != digest]
            yield from _give(node, peer, partition, give)
            give = []
        if len(give) >= RECORDS_MAX:
            yield from _give(node, peer, partition, give)
            give = []
    yield from _give(node, peer, partition, give)


def _give(node: "Node", peer: "Peer", partition: int, keys: list[bytes]) -> Steps:
    while keys:
        items: list[list[bytes]] = []
        size = 0
        number = node.replica.round
        taken = 0
        for key in keys:
            taken += 1
            record = node.replica.read(key)
            if record is not None:
                items.append([key, record.encode()])
                size += len(items[-1][1])
            if len(items) >= RECORDS_MAX or size >= BYTES_MAX:
                break
        keys = keys[taken:]
        if items:
            merged = yield Ask(peer, Op.MERGE, [partition, number, items], size + RECORD * len(items))
            if not isinstance(merged, list) or len(merged) != len(items):
                raise PeerProtocolError("an answer to MERGE must have one item for each record")
            if None in merged:
                raise RefusedError(f"{peer.name} could not take a record into a seat", code="no-seat")


def _list(
    node: "Node", peer: "Peer", partition: int, leaf: int | None, after: bytes
) -> Generator[Ask, Any, tuple[dict[bytes, int], bool]]:
    """Return digests of *peer*'s next keys above *after*, by key, and whether these are the last."""
    answer = yield Ask(peer, Op.KEYS, [partition, leaf, after or None, KEYS_MAX], RECORD)
    page, over = keys_of(answer)
    node.admission.spend(LISTED * len(page))
    if page and (min(page) <= after or any(node.partition_of(key) != partition for key in page)):
        raise PeerProtocolError("an answer to KEYS lists keys that were not asked for")
    return page, over


def _take_page(node: "Node", peer: "Peer", partition: int, page: dict[bytes, int], passed: Passed) -> Steps:
    replica = node.replica
    wanted: list[bytes] = []
    for key, digest in sorted(page.items()):
        try:
            held = replica.read(key)
        except CorruptRecordError:
            _skip(node, peer, key, passed)  # ours: mended by `Healing`
            continue
        if held is None or held.digest() != digest:
            wanted.append(key)
    tries = 0
    while wanted:
        asked = wanted[:RECORDS_MAX]
        answer = yield Ask(peer, Op.READ, [partition, asked, replica.round], RECORD * len(asked))
        number, records = records_of(answer, asked)
        node.admission.spend(sum(len(item) for item in answer[1] if item))
        if number < replica.round:  # ours was raised meanwhile: what was read before that may have been reaped
            tries += 1
            if tries >= TRIES_MAX:
                raise RefusedError(f"{peer.name} answers with records of round {number}", code="stale-round")
            continue
        if replica.mode(partition) == MODE_NONE:
            raise RefusedError("the partition is not wanted any more", code="no-seat")
        wanted = wanted[len(records) :]
        for key, record in records:
            if record is None:
                _skip(node, peer, key, passed)
            elif record.context:  # else reaped since it was listed
                try:
                    replica.merge(key, record)
                except CorruptRecordError:
                    _skip(node, peer, key, passed)
                else:
                    passed.merged += 1


def _skip(node: "Node", peer: "Peer", key: bytes, passed: Passed) -> None:
    """One bad record does not hold up a partition: it is reported, and mended by comparing replicas."""
    node.trace("transfer.skipped", key=key[:72], source=peer.name)
    if len(passed.bad) < BAD_MAX:
        passed.bad.append(key)


def _differing(ours: bytes, theirs: object) -> list[int]:
    if not isinstance(theirs, bytes) or len(theirs) != len(ours):
        raise PeerProtocolError("an answer to TREE must be bytes, 8 for each hash, or null")
    return differing(ours, theirs)
