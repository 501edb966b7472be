"""Notices, for this node alone, which peers do not answer.

Source: Dynamo (SOSP 2007), section 4.8.3, with the suspicion that accrues (Hayashibara et al., 2004): a peer is
suspected when it has been silent for much longer than it usually takes to answer. So a slow peer is not a dead one: it
is suspected once at most, and with its first late answer the patience with it grows. Any answer on our link counts as
a sign of life, since what a peer sends of its own accord does not prove that it hears us.

A peer whose disk does not finish a flush says so, and is suspected while that lasts: it could not acknowledge a write.
Suspicion moves no ownership and is told to nobody. It ends with the next answer.
"""

from collections import deque
from typing import TYPE_CHECKING, Any

from dynafast.core.machine import Answering, Machine
from dynafast.errors import DynafastError
from dynafast.protocol import Op, is_uint

if TYPE_CHECKING:
    from dynafast._ext.connection import Connection
    from dynafast._ext.view import Peer
    from dynafast.core.node import Node

LOOK_NS = 100_000_000  # how often a peer is looked at
LOOK_EACH_NS = 1_000_000  # but one in so much, however many there are
PING_NS = 250_000_000
PING_EACH_NS = 10_000_000
PATIENCE_MIN_NS = 600_000_000
PATIENCE_MAX_NS = 3_000_000_000
STALL_NS = 1_000_000_000  # a flush that takes longer makes its node unfit for writes
HOPELESS_NS = 5_000_000_000  # a connection that is silent for so long is made anew
HELLO_NS = 3_000_000_000  # and one on which no hello is answered for so long
PAUSE_NS = 300_000_000  # if no tick came for so long, it was us who were away
ANSWER_MS = 10_000  # above `HOPELESS_NS`


class Watch:
    """What is known of one peer's habit of answering."""

    __slots__ = ("look_ns", "mean_ns", "peer", "sent_ns", "spread_ns", "stalled", "waits")

    def __init__(self, peer: "Peer") -> None:
        self.peer = peer
        self.waits = False  # whether a ping is under way
        self.sent_ns = 0  # when the last one was sent
        self.look_ns = 0
        self.mean_ns = self.spread_ns = 0  # of the times it took to answer, as TCP averages them
        self.stalled = False

    def patience_ns(self) -> int:
        """Return how long a silence is still an ordinary one."""
        return min(PATIENCE_MAX_NS, max(PATIENCE_MIN_NS, 2 * self.mean_ns + 8 * self.spread_ns))

    def silence_ns(self, now_ns: int) -> int:
        """Return for how long the peer has owed us an answer and given none."""
        return now_ns - max(self.sent_ns, self.peer.heard_ns) if self.waits else 0

    def answered(self, took_ns: int) -> None:
        """Learn from an answer."""
        if self.mean_ns:
            self.spread_ns += (abs(took_ns - self.mean_ns) - self.spread_ns) // 4
            self.mean_ns += (took_ns - self.mean_ns) // 8
        else:
            self.mean_ns, self.spread_ns = took_ns, took_ns // 2


class Detector(Machine):
    """Sends and answers heartbeats; sets `Peer.suspected`."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self.sizes: dict[bytes, tuple[int, int]] = {}  # node id -> (keys, bytes), as it told last
        self.sequences: dict[bytes, int] = {}  # node id -> number of changes in its store, as it told last
        self._watches: dict[bytes, Watch] = {}
        self._round: deque[Watch] = deque()  # by the time of the next look
        self._dialled: dict[Connection, int] = {}  # connections without an answered hello yet -> since when
        self._ticked_ns = 0
        self._stalled_since_ns = 0  # when an unfinished flush was first seen; 0: none

    def ops(self) -> dict[Op, tuple[int, Answering]]:
        """See `Machine`."""
        return {Op.PING: (0, self._ping)}

    def dialled(self, connection: "Connection") -> None:
        """A connection to a peer was opened: its hello should be answered soon."""
        self._dialled[connection] = self.node.now_ns

    def linked(self, peer: "Peer") -> None:
        """A peer has answered our hello: it is alive, and asked at once."""
        self._forget(peer)
        watch = self._watches[peer.id] = Watch(peer)
        self._round.appendleft(watch)
        self.sequences.pop(peer.id, None)
        self._judge(watch, self.node.now_ns)

    def tick(self, now_ns: int) -> None:
        """Look at the peers whose turn it is."""
        pause = now_ns - self._ticked_ns
        if pause > PAUSE_NS:
            for watch in self._watches.values():
                watch.sent_ns += pause  # while we were away, nobody could answer us
        self._ticked_ns = now_ns
        if self._dialled:
            self._hang_up(now_ns)
        if not self._round or self._round[0].look_ns > now_ns:
            return
        look_ns = max(LOOK_NS, LOOK_EACH_NS * len(self._round))
        ping_ns = max(PING_NS, PING_EACH_NS * len(self._round))
        while self._round and self._round[0].look_ns <= now_ns:
            watch = self._round.popleft()
            if self._watches.get(watch.peer.id) is not watch or watch.peer.link is None:
                continue  # linked anew: another watch has its place; not linked: nothing to be asked
            watch.look_ns = now_ns + look_ns
            self._round.append(watch)
            self._judge(watch, now_ns)
            if not watch.waits and now_ns - watch.sent_ns >= ping_ns:
                self._send(watch, now_ns)

    def _hang_up(self, now_ns: int) -> None:
        """Close what nobody answers: a new connection may get through where an old one is stuck."""
        for connection, since_ns in list(self._dialled.items()):
            if connection.lost or connection.closing or connection.peer.link is connection:
                del self._dialled[connection]
            elif now_ns - since_ns > HELLO_NS:
                del self._dialled[connection]
                connection.close()

    def _forget(self, peer: "Peer") -> None:
        earlier = self._watches.pop(peer.id, None)
        if earlier is not None and earlier in self._round:
            self._round.remove(earlier)

    def _judge(self, watch: Watch, now_ns: int) -> None:
        peer, silence_ns = watch.peer, watch.silence_ns(now_ns)
        suspected = watch.stalled or silence_ns > watch.patience_ns()
        if suspected != peer.suspected:
            if suspected:
                self.node.coordinator.suspect(peer)
            else:
                peer.suspected = False
            self.node.trace(
                "peer.suspected" if suspected else "peer.recovered",
                peer=peer.name,
                silent_ms=silence_ns // 1_000_000,
                stalled=watch.stalled,
            )
        if silence_ns > HOPELESS_NS and peer.link is not None and not peer.link.closing:
            self.node.trace("peer.silent", peer=peer.name)
            peer.link.close()

    def _send(self, watch: Watch, now_ns: int) -> None:
        watch.waits, watch.sent_ns = True, now_ns

        def done(result: Any, error: DynafastError | None) -> None:
            watch.waits = False
            if self._watches.get(watch.peer.id) is not watch or error is not None or not isinstance(result, dict):
                return
            now_ns = self.node.now_ns
            watch.answered(now_ns - watch.sent_ns)
            watch.stalled = is_uint(stalled := result.get("stalled_ms")) and stalled * 1_000_000 > STALL_NS
            keys, size, sequence = (result.get(name) for name in ("keys", "bytes", "sequence"))
            if is_uint(keys) and is_uint(size):
                self.sizes[watch.peer.id] = (keys, size)
            if is_uint(sequence):
                self.sequences[watch.peer.id] = sequence
            self._judge(watch, now_ns)

        self.node.call(watch.peer, Op.PING, [], ANSWER_MS, done)

    def _ping(self, connection: "Connection", id: int, _fields: list[Any]) -> None:
        """Answer a heartbeat: what this node holds; to a peer also what its machines go by."""
        keys, size = self.node.store.usage()
        answer = {"keys": keys, "bytes": size}
        if connection.role == "peer":
            if self._stalled_since_ns == 0 and self.node.flush_wanted:
                self._stalled_since_ns = self.node.now_ns
                self.node.after_flush(self._flushed)
            stalled_ns = self.node.now_ns - self._stalled_since_ns if self._stalled_since_ns else 0
            answer |= {"sequence": self.node.store.sequence, "stalled_ms": stalled_ns // 1_000_000}
        connection.reply(id, answer)

    def _flushed(self) -> None:
        self._stalled_since_ns = 0
