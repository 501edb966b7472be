"""Seats of removed nodes: a target without a seat claims one, when all who serve the partition agree.

The claimant asks every node that serves a seat of the partition or should serve one. Each agrees for one claimant per
seat only, durably, and states what it serves. When the stated seats and the lost ones are all seats there are, the
claimant compares with everyone who keeps anything of the partition, and then takes the seat, k one higher. From its
consent on a node does not count the removed one any more, so what that one has acknowledged together with it is among
what the claimant finds.

A gift to a node that was removed before it took it is claimed back by its giver in the same way; and a seat that no
entry has named for a while, by a target, with the consent of all members.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from dynafast._ext.replica import MODE_NONE
from dynafast.core import identity
from dynafast.core.errands import Ask
from dynafast.core.machine import Machine, Ops
from dynafast.core.seats import Seat
from dynafast.errors import DynafastError, PeerProtocolError, StoreError
from dynafast.protocol import Op, is_uint
from dynafast.storage.interface import Batch

if TYPE_CHECKING:
    from collections.abc import Collection

    from dynafast._ext.connection import Connection
    from dynafast.core.node import Node

CLAIMS_MAX = 256  # in one message
STALE_NS = 20_000_000_000  # a consent that was not asked for again for so long lapses
CONSENT_NS = STALE_NS // 2  # and a seat is taken only sooner than that after the consents were asked for
LOOK_NS = 1_000_000_000


class WaitError(DynafastError):
    """Something must happen elsewhere first; says what."""


class Claiming(Machine):
    """Gives consent to claims, and remembers it."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._grants: dict[tuple[int, int], tuple[bytes, int]] = identity.load_grants(node.store)
        self._asked_ns: dict[tuple[int, int], int] = {}  # when the claimant last asked
        self._next_ns = 0

    def ops(self) -> Ops:
        """Return the requests this machine answers."""
        return {Op.CLAIM: (1, self._receive)}

    def granted(self, partition: int) -> bool:
        """Whether somebody claims a seat of *partition* with our consent."""
        return any((partition, seat) in self._grants for seat in range(self.node.facts.replicas))

    def tick(self, now_ns: int) -> None:
        """Forget the claims that have ended."""
        if not self._grants or now_ns < self._next_ns:
            return
        self._next_ns = now_ns + LOOK_NS
        over = [place for place, (claimant, k) in self._grants.items() if self._over(place, claimant, k)]
        try:
            self._forget(over)
        except StoreError as error:
            self.node.trace("store.refused", what="claims", error=str(error))

    def _over(self, place: tuple[int, int], claimant: bytes, k: int) -> bool:
        partition, seat = place
        owner = self.node.seats.owners[partition].get(seat)
        entry = self.node.membership.entries.get(claimant)
        if (owner is not None and owner.k >= k) or entry is None or not entry.member:
            return True
        return self.node.now_ns - self._asked_ns.setdefault(place, self.node.now_ns) > STALE_NS

    def _forget(self, places: "Collection[tuple[int, int]]") -> None:
        if places:
            batch = Batch()
            for place in sorted(places):
                identity.delete_grant(batch, *place)
            self.node.write(batch)
            for place in places:
                del self._grants[place]
                self._asked_ns.pop(place, None)

    def _receive(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        """CLAIM [[[partition, seat, k], ...]] -> [[null or who claims it, our seats, whether we keep some], ...].

        k = 0 takes a claim back.
        """
        match fields:
            case [[*claims]] if len(claims) <= CLAIMS_MAX and all(map(self._is_claim, claims)):
                pass
            case _:
                raise PeerProtocolError(f"CLAIM must list at most {CLAIMS_MAX} [partition, seat, k]")
        node, asker = self.node, connection.peer
        answer: list[list[object]] = []
        fresh: dict[tuple[int, int], tuple[bytes, int]] = {}
        released: set[tuple[int, int]] = set()
        for partition, seat, k in claims:
            place = (partition, seat)
            if k == 0:
                if self._grants.get(place, (b"", 0))[0] == asker:
                    released.add(place)
                answer.append([None, 0, False])
                continue
            refusal = self._refusal(asker, place, k)
            if refusal is None:
                fresh[place] = (asker, k)
                self._asked_ns[place] = node.now_ns
            keeps = node.replica.mode(partition) != MODE_NONE
            answer.append([refusal, node.coordinator.view.own[partition], keeps])
        batch = Batch()
        for place, (claimant, k) in sorted(fresh.items()):
            if self._grants.get(place) != (claimant, k):
                identity.put_grant(batch, *place, claimant, k)
        node.write(batch)
        self._grants.update(fresh)
        self._forget(released - set(fresh))
        node.after_flush(lambda: connection.reply(id, answer))

    def _is_claim(self, claim: object) -> bool:
        facts = self.node.facts
        match claim:
            case [partition, seat, k] if is_uint(partition) and is_uint(seat) and is_uint(k):
                return partition < facts.partitions and seat < facts.replicas and k < 2**32
        return False

    def _refusal(self, asker: bytes, place: tuple[int, int], k: int) -> bytes | None:
        """Return why *asker* may not have the seat: the id of who has or claims it (our own: we know of no loss)."""
        node, (partition, seat) = self.node, place
        owner = node.seats.owners[partition].get(seat)
        if owner is not None:
            return owner.node
        holder, _ = self._grants.get(place, (asker, 0))
        if holder != asker and not self._over(place, *self._grants[place]):
            return holder
        lost = node.seats.lost.get(partition, {}).get(seat)
        moving = node.seats.moving.get(partition, {}).get(seat)
        if lost is not None:
            return None if lost < k else node.own.id
        if moving is None:  # nobody's, for all that we know
            return None if node.seats.vacant(partition)[seat] < k else node.own.id
        # A gift that its giver wants back; whether the one it was given to is gone, the giver has seen.
        return None if moving.node == asker and moving.k < k else node.own.id


def claim(node: "Node", seat: Seat) -> Generator[Ask, Any, list[bytes]]:
    """Ask for the consent of all who are concerned; return those who keep anything of the partition.

    Raises:
        WaitError: one of them refuses, or cannot be asked. DynafastError: one did not answer.
    """
    partition = seat.partition
    holders = node.seats.holders(partition)
    needed = sorted({*holders, *node.targets(partition)} - {node.own.id})
    vacant = node.seats.vacant(partition)
    if seat.seat in vacant:  # who took it last is not known, so everybody must know of no owner
        needed = sorted({entry.id for entry in node.membership.members()} - {node.own.id})
    others = [] if holders else [peer.id for peer in node.linked_peers() if peer.id not in needed]
    for id in needed:
        if node.peers[id].link is None:
            raise WaitError(f"{node.peers[id].name} must agree, and cannot be reached")
    stated = 1 << seat.seat | node.coordinator.view.own[partition]
    for lost in (*node.seats.lost.get(partition, {}), *vacant):
        stated |= 1 << lost
    keepers: list[bytes] = []
    for id in [*needed, *others]:
        peer = node.peers[id]
        answer = yield Ask(peer, Op.CLAIM, [[list(seat)]], 100)
        match answer:
            case [[refusal, seats, bool(keeps)]] if is_uint(seats) and (refusal is None or isinstance(refusal, bytes)):
                pass
            case _:
                raise PeerProtocolError("an answer to CLAIM must list [refusal, seats, keeps]")
        if refusal is not None:
            if refusal not in {id, *holders} and refusal < node.own.id:  # the other claim goes first: out of its way
                for asked in needed:
                    yield Ask(node.peers[asked], Op.CLAIM, [[[partition, seat.seat, 0]]], 100)
            raise WaitError(f"{peer.name} does not agree yet")
        stated |= seats
        if keeps:
            keepers.append(id)
    if stated != (1 << node.facts.replicas) - 1:
        raise WaitError("a seat of the partition is on its way between others")
    return keepers
