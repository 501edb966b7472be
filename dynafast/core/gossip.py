"""Spreads member entries.

Source: Dynamo (SOSP 2007), section 4.8: once a second with a random peer; digests first, then the entries that differ.
After news the next rounds come quickly, so that a change reaches a small cluster in a fraction of a second.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dynafast.core.machine import Answering, Machine
from dynafast.core.membership import Entry
from dynafast.errors import DynafastError, PeerProtocolError, StoreError
from dynafast.protocol import Op

if TYPE_CHECKING:
    from dynafast._ext.connection import Connection
    from dynafast._ext.view import Peer
    from dynafast.core.node import Node

PERIOD_NS = 1_000_000_000
QUICK_PERIOD_NS = 50_000_000  # after news
QUICK_ROUNDS = 6
ANSWER_MS = 3_000


class Gossip(Machine):
    """One node's part in gossip. Driven by `tick` and by what peers send."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._quick_left = 0
        self._round_ns = 0  # when the last round was
        self._next_round_ns = 0

    def ops(self) -> dict[Op, tuple[int, Answering]]:
        """See `Machine`."""
        return {Op.GOSSIP: (1, self._answer)}

    def _answer(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        answer = self.receive(fields[0])
        if answer:
            connection.reply(id, answer)
        else:  # who tells of a removal counts those that have it on disk
            self.node.after_flush(lambda: connection.reply(id, answer))

    def hurry(self) -> None:
        """There is news: make the next rounds quick. What else comes until the first of them travels with it."""
        self._quick_left = QUICK_ROUNDS
        self._next_round_ns = min(self._next_round_ns, self._round_ns + QUICK_PERIOD_NS)

    def tick(self, now_ns: int) -> None:
        """Start the rounds that are due."""
        if now_ns >= self._next_round_ns:
            self._next_round_ns = now_ns + (QUICK_PERIOD_NS if self._quick_left else PERIOD_NS)
            self._quick_left = max(0, self._quick_left - 1)
            linked = self.node.linked_peers()
            if linked:
                self._round_ns = now_ns
                self._exchange(linked[self.node.random64() % len(linked)])

    def receive(self, message: object) -> dict[str, object]:
        """Answer a peer's message: digests with what differs, entries with nothing.

        Raises:
            PeerProtocolError: the message is malformed.
            StoreError: the entries count, but will be forgotten in a restart.
        """
        if not isinstance(message, dict):
            raise PeerProtocolError("a gossip message must be a map")
        if "entries" in message:
            if not self._take(message["entries"]):
                raise StoreError("the member entries could not be written")
            return {}
        send, want = self.node.membership.compare(message.get("digests"))
        return {"entries": [entry.to_wire() for entry in send], "want": want}

    def ask_everybody(self, done: Callable[[], None]) -> None:
        """Exchange entries with all peers that can be reached; ``done()`` when each has answered, or will not."""
        peers = self.node.linked_peers()
        left = len(peers)

        def one() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                done()

        for peer in peers:
            self._exchange(peer, one)
        if not peers:
            done()

    def _exchange(self, peer: "Peer", then: Callable[[], None] = lambda: None) -> None:
        def done(result: Any, error: DynafastError | None) -> None:
            try:
                take(result, error)
            finally:
                then()

        def take(result: Any, error: DynafastError | None) -> None:
            if error is not None or not isinstance(result, dict):
                return  # the next round asks again
            self._take(result.get("entries", []))
            self.node.heard()
            want = result.get("want")
            wanted = [
                self.node.membership.entries[id].to_wire()
                for id in (want if isinstance(want, list) else [])
                if isinstance(id, bytes) and id in self.node.membership.entries
            ]
            if wanted:
                self.node.call(peer, Op.GOSSIP, [{"entries": wanted}], ANSWER_MS, lambda _result, _error: None)

        self.node.call(peer, Op.GOSSIP, [{"digests": self.node.membership.digests()}], ANSWER_MS, done)

    def _take(self, entries: object) -> bool:
        if not isinstance(entries, list):
            raise PeerProtocolError("gossip entries must be a list")
        if not all(isinstance(fields, dict) for fields in entries):
            raise PeerProtocolError("gossip entries must be maps")
        return self.node.learn([Entry.from_wire(fields) for fields in entries])
