"""One connection to a node without its socket: hello, request ids, and who waits for which answer.

The duties of the shell: call `connected` once the transport is up, hand every byte of `output` to the
transport in order, feed what arrives to `receive`, and call `lose` when the transport ends.

A request is *handed* from the moment `output` has returned its first byte: until then it can be recalled and
surely had no effect; from then on only an answer tells. A frame is handed whole or not at all, so nothing
that happens to a caller can cut it. Ids are never used twice on a connection: the answer to a request that
was given up finds nobody and is dropped.

May not: touch a socket, a clock or a random source.
"""

from collections.abc import Hashable
from enum import Enum, auto
from typing import Any

from dynafast._ext.codec import FrameReader, frame
from dynafast.client.messages import Answer, Failed, Request, hello, read_answer, read_hello
from dynafast.errors import DynafastError, InvariantViolation, PeerProtocolError, RefusedError
from dynafast.protocol import Op

OUTSTANDING_MAX_COUNT = 512  # requests handed and not answered; a node refuses above 1024
OUTSTANDING_MAX_BYTES = 32 * 1024 * 1024  # their frames together; one frame may exceed it alone
OUTPUT_SIZE = 256 * 1024  # joined per call of `output`, so that one large write does not delay the loop
OVERDUE_S = 5.0  # a node answers before the deadline; an answer later than this will not come


class Ticket:
    """One request that somebody waits for.

    Attributes:
        link: the connection it belongs to.
        owner: whom to wake; None when nobody waits any more.
        handed: a byte of it may have reached the node.
        answer: what the node said.
        failure: why no answer will come.
    """

    __slots__ = ("answer", "deadline", "failure", "handed", "link", "number", "owner", "request", "size")

    def __init__(self, link: "Link", number: int, request: Request, *, deadline: float, owner: Hashable | None) -> None:
        self.link = link
        self.number = number
        self.request: Request | None = request
        self.deadline = deadline
        self.owner = owner
        self.size = 0
        self.handed = False
        self.answer: Answer | None = None
        self.failure: DynafastError | None = None

    @property
    def settled(self) -> bool:
        """Whether the outcome is known, or known to stay unknown."""
        return self.answer is not None or self.failure is not None


class State(Enum):
    """Life of a link, always in this order; any state may jump to CLOSED."""

    OPENING = auto()  # the shell connects
    GREETING = auto()  # hello sent, answer awaited; no request is handed yet
    OPEN = auto()
    CLOSED = auto()


class Link:
    """The client's end of one connection.

    Args:
        address: "HOST:PORT" of the node.
        cluster: the only cluster it may belong to, if known.
        now: monotonic seconds, as everywhere here.
    """

    def __init__(self, address: str, *, cluster: bytes | None, now: float) -> None:
        self.address = address
        self.cluster = cluster
        self.state = State.OPENING
        self.since = now
        self.heard_at = now
        self.pinged_at: float | None = None
        self._reader = FrameReader()
        self._next = 1
        self._waiting: dict[int, Ticket] = {}
        self._handed: dict[int, Ticket] = {}
        self._handed_bytes = 0
        self._urgent: list[bytes] = []
        self._settled: list[Ticket] = []

    @property
    def outstanding(self) -> int:
        """How many requests were handed to the node and not answered."""
        return len(self._handed)

    @property
    def waiting(self) -> int:
        """How many requests wait to be handed to the node."""
        return len(self._waiting)

    def send(self, request: Request, *, deadline: float, owner: Hashable | None) -> Ticket:
        """Queue a request. It is encoded when there is room for it, with the time that is left then."""
        ticket = Ticket(self, self._next, request, deadline=deadline, owner=owner)
        self._next += 1
        if self.state is State.CLOSED:
            ticket.failure = DynafastError("the connection is closed")
        else:
            self._waiting[ticket.number] = ticket
        return ticket

    def recall(self, ticket: Ticket) -> bool:
        """Give a request up; nobody is told of its answer. Return whether it was kept from the node."""
        ticket.owner = None
        ticket.request = None
        return self._waiting.pop(ticket.number, None) is not None

    def ping(self, now: float) -> None:
        """Ask the node for a sign of life, ahead of everything that waits.

        Nobody waits for the answer: that it came is seen in `heard_at`.
        """
        if self.state is State.OPEN:
            self.pinged_at = now
            self._urgent.append(frame([int(Op.PING), self._next]))
            self._next += 1

    def connected(self, now: float) -> None:
        """Begin with the hello: the transport is up."""
        if self.state is State.OPENING:
            self.state = State.GREETING
            self.since = self.heard_at = now
            self._urgent.append(frame(hello(self.cluster)))

    def output(self, now: float, *, time: int) -> bytes:
        """Return the next bytes for the transport; the shell must send them or lose the connection.

        None when there is nothing to send, or no room for more requests. *time*: the largest HLC time seen.
        """
        parts, self._urgent = self._urgent, []
        size = sum(map(len, parts))
        while self.state is State.OPEN and self._waiting and size < OUTPUT_SIZE and self._has_room(now):
            ticket = self._waiting.pop(next(iter(self._waiting)))
            parts.append(self._hand(ticket, now, time))
            size += ticket.size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def receive(self, data: bytes, now: float) -> list[Ticket]:
        """Return the tickets that *data* settles; the first frame of a node must be its hello.

        Raises:
            RequestError: the node refuses the connection.
            PeerProtocolError: bytes that no correct node sends. The connection must be lost in both cases.
        """
        if self.state is State.CLOSED:
            return []
        self.heard_at = now
        for item in self._reader.feed(data):
            if self.state is State.GREETING:
                self._greeted(item, now)
            else:
                self._answered(*read_answer(item))
        settled, self._settled = self._settled, []
        return settled

    def lose(self, failure: DynafastError) -> list[Ticket]:
        """Close: the transport has ended, or must. Return the tickets that this settles, in order."""
        self.state = State.CLOSED
        unanswered = [*self._handed.values(), *self._waiting.values()]
        for ticket in unanswered:
            ticket.failure = failure
        settled = self._settled + unanswered
        self._handed, self._waiting, self._urgent, self._settled = {}, {}, [], []
        return settled

    def _greeted(self, item: list[Any], now: float) -> None:
        cluster = read_hello(item)
        if self.cluster is not None and cluster != self.cluster:
            raise RefusedError(f"{self.address} belongs to another cluster, {cluster.hex()}", code="wrong-cluster")
        self.cluster = cluster
        self.state = State.OPEN
        self.since = now

    def _answered(self, number: int, answer: Answer) -> None:
        if number == 0:  # about no request: the node gives the connection up
            raise answer.error if isinstance(answer, Failed) else PeerProtocolError("an answer to no request")
        ticket = self._handed.pop(number, None)
        if ticket is not None:
            self._handed_bytes -= ticket.size
            ticket.answer = answer
            self._settled.append(ticket)

    def _has_room(self, now: float) -> bool:
        if len(self._handed) >= OUTSTANDING_MAX_COUNT:
            overdue = [t for t in self._handed.values() if t.deadline + OVERDUE_S < now]
            for ticket in overdue:
                del self._handed[ticket.number]
                self._handed_bytes -= ticket.size
        return len(self._handed) < OUTSTANDING_MAX_COUNT and self._handed_bytes < OUTSTANDING_MAX_BYTES

    def _hand(self, ticket: Ticket, now: float, time: int) -> bytes:
        request = ticket.request
        if request is None:
            raise InvariantViolation("a recalled request was still queued")
        left_ms = max(1, int((ticket.deadline - now) * 1000))
        data = frame(request.item(ticket.number, left_ms=left_ms, time=time))
        ticket.size = len(data)
        ticket.handed = True
        ticket.request = None  # the value is in the frame now; do not keep it twice
        self._handed[ticket.number] = ticket
        self._handed_bytes += ticket.size
        return data
