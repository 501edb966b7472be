"""Conversations with peers in the background: several questions in a row, each sent when there is room for it.

An errand is a generator. It yields an `Ask` and is resumed with the answer, or gets the error thrown in; so what a
machine does in a row reads in a row, while nothing waits. How many run at once is bounded, each question has a
deadline, and `Admission.start` is asked before any is sent.
"""

from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple

from dynafast.errors import DynafastError, RequestError, StoreError
from dynafast.protocol import is_uint

if TYPE_CHECKING:
    from dynafast._ext.view import Peer
    from dynafast.core.node import Node
    from dynafast.protocol import Op

ANSWER_MS = 5_000


class Ask(NamedTuple):
    """One question to a peer. ``size`` is what it and its answer will have, about, in bytes."""

    peer: "Peer"
    op: "Op"
    fields: list[Any]
    size: int


Errand = Generator[Ask, Any, None]


class Errands:
    """The errands of one machine.

    Args:
        node: whose.
        most: how many run at once.
        urgent: short ones that others wait for: they do not wait for room, and are charged nevertheless.
    """

    def __init__(self, node: "Node", most: int, *, urgent: bool = False) -> None:
        self._node = node
        self._most = most
        self._urgent = urgent
        self._running = 0
        self._parked: deque[tuple[Errand, Ask, Callable[[DynafastError | None], None]]] = deque()

    @property
    def full(self) -> bool:
        """Whether no further errand may start now."""
        return self._running >= self._most

    @property
    def paced(self) -> bool:
        """Whether a question waits for room."""
        return bool(self._parked)

    def start(self, errand: Errand, done: Callable[[DynafastError | None], None]) -> None:
        """Run *errand*; ``done(error)`` is called once, with None if it came to its end."""
        self._running += 1
        self._go(errand, lambda: next(errand), done)

    def tick(self) -> None:
        """Send the questions that there is room for by now."""
        while self._parked:
            errand, ask, done = self._parked[0]
            if not self._node.admission.start(ask.size):
                return
            self._parked.popleft()
            self._send(errand, ask, done)

    def _go(self, errand: Errand, step: Callable[[], Ask], done: Callable[[DynafastError | None], None]) -> None:
        try:
            ask = step()
        except StopIteration:
            self._running -= 1
            done(None)
        except DynafastError as error:
            self._running -= 1
            done(error)
        else:
            if self._urgent:
                self._node.admission.spend(ask.size)
                self._send(errand, ask, done)
            elif self._parked or not self._node.admission.start(ask.size):
                self._parked.append((errand, ask, done))
            else:
                self._send(errand, ask, done)

    def _send(self, errand: Errand, ask: Ask, done: Callable[[DynafastError | None], None]) -> None:
        def answered(result: Any, error: DynafastError | None) -> None:
            if not self._urgent:
                self._node.admission.end(ask.size)
            if error is None:
                self._go(errand, lambda: errand.send(result), done)
            else:
                self._go(errand, lambda: errand.throw(error), done)
            self.tick()

        self._node.call(ask.peer, ask.op, ask.fields, ANSWER_MS, answered)


def heed(node: "Node", error: DynafastError | None, before: int) -> int:
    """Return the round number for whose sake a peer refused a frame of ours, or 0.

    The round is on its way to us too, as a rule: what is sent after it was read later. If a second frame is refused
    for the same number (*before*), it is not, and we follow the peer; such a round then fails.
    """
    if not (isinstance(error, RequestError) and error.code == "stale-round"):
        return 0
    number = error.details.get("round")
    if not is_uint(number):
        return 0
    if number == before and number > node.replica.round:
        try:
            node.follow_round(number)
        except StoreError as refused:  # tried again with the next refusal
            node.trace("store.refused", what="round number", error=str(refused))
    return number
