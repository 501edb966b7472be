"""Gossip at size: how long news takes to reach everybody, and what it costs.

Runs the real `dynafast.core.gossip.Gossip` and `Membership` of every node, and the real codec for what they say; the
rest of a node stands still. ``python -m bench gossip`` prints the table of docs/simulation.md.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from dynafast._ext.codec import dumps, loads
from dynafast.core.gossip import Gossip
from dynafast.core.membership import Entry, Membership
from dynafast.core.node import Node
from dynafast.errors import DynafastError
from dynafast.protocol import Op, Status
from dynafast.sim.world import MS, SECOND, World

DELAY_NS = MS
FRAME_SIZE = 16  # bytes of a frame around its item, about
LIMIT_NS = 120 * SECOND
QUIET_NS = 10 * SECOND
ROUND_NS = SECOND  # of gossip when there is no news


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What was measured with so many nodes.

    Attributes:
        join_s: seconds until every node knew one that had joined.
        rounds: rounds that a node began in that time, the mean.
        quiet_bytes: bytes that a node sends each second while there is no news.
        news_bytes: bytes that a node sent for the join, beyond that.
    """

    nodes: int
    join_s: float
    rounds: float
    quiet_bytes: float
    news_bytes: float


class _Peer:
    """A member, as gossip sees it."""

    def __init__(self, speaker: "_Speaker") -> None:
        self.speaker = speaker


class _Speaker:
    """What `Gossip` needs of a node."""

    def __init__(self, world: World, entry: Entry, known: Iterable[Entry]) -> None:
        self.world = world
        self.own = entry
        self.membership = Membership([*known, entry])
        self.peers: list[_Peer] = []
        self.sent = 0
        self.rounds = 0
        self.plants: frozenset[str] = frozenset()
        rng = world.random(f"gossip/{entry.name}")
        self.random64 = lambda: rng.getrandbits(64)
        self.gossip = Gossip(cast(Node, self))
        self.tick_ns = rng.randrange(40 * MS, 60 * MS)

    def linked_peers(self) -> list[_Peer]:
        return self.peers

    def heard(self) -> None:
        """Nobody waits for this here."""

    def learn(self, entries: Iterable[Entry]) -> bool:
        if self.membership.merge(entries):
            self.gossip.hurry()
        return True

    def call(
        self,
        peer: _Peer,
        op: Op,
        fields: list[Any],
        timeout_ms: int,  # noqa: ARG002 - the node's call has it
        done: Callable[[Any, DynafastError | None], None],
    ) -> None:
        message = dumps([int(op), 1, *fields])
        self.sent += len(message) + FRAME_SIZE
        self.rounds += "digests" in fields[0]

        def arrive() -> None:
            answer = dumps([int(Op.OK), 1, peer.speaker.gossip.receive(loads(message)[2])])
            peer.speaker.sent += len(answer) + FRAME_SIZE
            self.world.after(DELAY_NS, lambda: done(loads(answer)[2], None))

        self.world.after(DELAY_NS, arrive)

    def tick(self) -> None:
        self.gossip.tick(self.world.now)
        self.world.after(self.tick_ns, self.tick)


def _entry(number: int) -> Entry:
    return Entry(
        id=number.to_bytes(8, "big"),
        name=f"n{number}",
        address=f"10.0.{number // 256}.{number % 256}:7411",
        weight=1,
        zone="default",
        host=f"n{number}",
        status=Status.UP,
        generation=1,
        version=1,
        seats=b"",
    )


def study(nodes: int, *, seed: int = 1) -> Study:
    """Measure a cluster of so many nodes; each is connected with all others."""
    world = World(seed)
    entries = [_entry(number) for number in range(nodes)]
    speakers = [_Speaker(world, entry, entries) for entry in entries]
    for speaker in speakers:
        speaker.peers = [_Peer(other) for other in speakers if other is not speaker]
        world.after(speaker.tick_ns, speaker.tick)
    world.run(world.now + 2 * SECOND)  # the first rounds are over
    before = sum(speaker.sent for speaker in speakers)
    world.run(world.now + QUIET_NS)
    quiet = (sum(speaker.sent for speaker in speakers) - before) / nodes / (QUIET_NS / SECOND)
    newcomer = _Speaker(world, _entry(nodes), entries)
    newcomer.peers = [_Peer(other) for other in speakers]
    for speaker in speakers:
        speaker.peers.append(_Peer(newcomer))
    world.after(newcomer.tick_ns, newcomer.tick)
    newcomer.gossip.hurry()
    begun, before = world.now, sum(speaker.sent for speaker in speakers)
    rounds = sum(speaker.rounds for speaker in speakers)
    while any(newcomer.own.id not in speaker.membership.entries for speaker in speakers):
        if world.now - begun > LIMIT_NS:
            break
        world.run(world.now + 20 * MS)
    join_s = (world.now - begun) / SECOND
    sent = (sum(speaker.sent for speaker in speakers) - before) / nodes
    rounds = sum(speaker.rounds for speaker in speakers) - rounds
    return Study(nodes=nodes, join_s=join_s, rounds=rounds / nodes, quiet_bytes=quiet, news_bytes=sent - quiet * join_s)
