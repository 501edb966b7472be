"""What all calls of one client share: links, ring map, clock, and which node to ask. Sans-I/O.

The duties of the shell:

1. It calls `Core` and the generators of `dynafast.client.calls` from one thread at a time.
2. After each call it performs `effects()`: `Open` (connect, then `connected` or `lost`), `Write` (send
   all that `output` returns), `Close` (end the transport), `Wake` (the call's ticket is settled).
3. It reports what arrives with `received` and the end of a transport with `lost`.

May not: touch a socket, a thread, a clock or a random source other than those it is given.
"""

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from random import Random
from typing import NamedTuple

from dynafast.client.link import Link, State, Ticket
from dynafast.client.messages import Done, Found, Request, Written
from dynafast.client.ring import RingMap
from dynafast.errors import (
    ConfigError,
    DynafastError,
    NotReachedError,
    OverloadedError,
    PeerProtocolError,
    RequestError,
)
from dynafast.limits import TIMEOUT_MAX_MS
from dynafast.protocol import Op

RING_AGE_MAX_S = 10.0
RING_PAUSE_S = 0.2  # between two requests for the ring, however often we hear that ours is stale
RING_TIMEOUT_S = 2.0
BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 1.5
OPENING_MAX_S = 10.0  # after that a connection that never got its hello is made anew
PATIENCE_MAX_S = 3.0  # silence after which a node must give a sign of life
PATIENCE_MIN_S = 0.25

_STALE = frozenset({"not-replica", "no-seat"})  # codes that say: your ring is not mine
_AWAY = frozenset(
    {"overloaded", "starting", "stopping", "no-seat", "not-replica"}
)  # codes of a node to be left alone a while


class Open(NamedTuple):
    """Connect to ``link.address``."""

    link: Link


class Write(NamedTuple):
    """``link.output`` may have bytes to send."""

    link: Link


class Close(NamedTuple):
    """End the transport of the link; what is unsent is not wanted any more."""

    link: Link


class Wake(NamedTuple):
    """The ticket that *owner* waits for is settled."""

    owner: Hashable


Effect = Open | Write | Close | Wake


class _Health:
    """What is known of a node apart from its link."""

    __slots__ = ("avoid_until", "failures")

    def __init__(self) -> None:
        self.failures = 0  # since the last hello
        self.avoid_until = 0.0


class Core:
    """State of one client.

    Args:
        addresses: "HOST:PORT" or a sequence of them, asked in this order while the ring is unknown.
        timeout_s: the time of one call, retries included; in (0, 60].
        clock: monotonic seconds. random: jitter and write ids come from it.

    Raises:
        ConfigError: no address, a malformed one, or a bad timeout.
    """

    def __init__(
        self, addresses: str | Sequence[str], *, timeout_s: float, clock: Callable[[], float], random: Random
    ) -> None:
        self.seeds = tuple(dict.fromkeys([addresses] if isinstance(addresses, str) else addresses))
        if not self.seeds:
            raise ConfigError("addresses must name at least one node, as HOST:PORT")
        for address in self.seeds:
            split_address(address)
        self.timeout_s = check_timeout(timeout_s)
        self.clock = clock
        self.random = random
        self.ring: RingMap | None = None
        self.time = 0  # the largest HLC time of any answer
        self.cluster: bytes | None = None
        self.closed = False
        self._links: dict[str, Link] = {}
        self._health: dict[str, _Health] = {}
        self._effects: list[Effect] = []
        self._ring_stale = True
        self._ring_read_at = 0.0
        self._ring_asked_at = -RING_PAUSE_S
        self._ring_ticket: Ticket | None = None

    # ---- for the shell

    def effects(self) -> list[Effect]:
        """Return what is to be done, in order, and forget it."""
        effects, self._effects = self._effects, []
        return effects

    def connected(self, link: Link) -> None:
        """Take note that the transport of *link* is up."""
        link.connected(self.clock())
        self._effects.append(Write(link))

    def received(self, link: Link, data: bytes) -> None:
        """Bytes have come from the node."""
        greeting = link.state is State.GREETING
        try:
            settled = link.receive(data, self.clock())
        except (PeerProtocolError, RequestError) as error:
            self.lost(link, error)
            return
        if greeting and link.state is State.OPEN:
            self.cluster = link.cluster
            self._health[link.address] = _Health()
        self._settle(settled)
        if link.waiting:
            self._effects.append(Write(link))

    def lost(self, link: Link, reason: DynafastError | str) -> None:
        """Take note that the transport of *link* has ended, was refused, or must end; twice does no more."""
        if link.state is State.CLOSED:
            return
        failure = reason if isinstance(reason, DynafastError) else NotReachedError(f"{link.address}: {reason}")
        settled = link.lose(failure)
        if self._links.get(link.address) is link:
            del self._links[link.address]
        self._effects.append(Close(link))
        self._set_back(link.address)
        self._ring_stale = True
        self._settle(settled)

    def close(self) -> None:
        """Lose every link; calls in progress raise, later ones too."""
        self.closed = True
        self.disconnect("the client is closed")

    def disconnect(self, reason: str) -> None:
        """Lose every link; new ones are made when they are needed."""
        for link in list(self._links.values()):
            self.lost(link, NotReachedError(reason))

    def output(self, link: Link) -> bytes:
        """Return the next bytes for the transport of *link*."""
        return link.output(self.clock(), time=self.time)

    # ---- for the calls

    def send(self, address: str, request: Request, *, deadline: float, owner: Hashable | None) -> Ticket:
        """Send a request to one node, connecting first if need be."""
        link = self.link(address)
        ticket = link.send(request, deadline=deadline, owner=owner)
        if link.state is State.OPEN:
            self._effects.append(Write(link))
        return ticket

    def link(self, address: str) -> Link:
        """Return the link to *address*; a new one is opened if there is none."""
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(address, cluster=self.cluster, now=self.clock())
            self._effects.append(Open(link))
        return link

    def choose(self, key: bytes | None, tried: Collection[str], *, poor: bool = True) -> str | None:
        """Return the node to ask next: a replica of *key* that is up, else any node that is up.

        *poor*: if there is none, one that failed lately is better than nothing. None when all were tried.
        """
        now = self.clock()
        last_resort = None
        for address in self._by_preference(key):
            if address in tried:
                continue
            if self._is_up(address, now):
                return address
            self._try_back(address, now)
            if last_resort is None:
                last_resort = address
        return last_resort if poor and not self.closed else None

    def refused(self, address: str, error: RequestError) -> None:
        """Take note of an error that another node may not have."""
        if error.code in _AWAY:
            retry_after_ms = error.details.get("retry_after_ms")
            pause_s = retry_after_ms / 1000 if isinstance(retry_after_ms, int) else 0.0
            pause_s = min(max(pause_s, BACKOFF_MIN_S), BACKOFF_MAX_S)
            self._health.setdefault(address, _Health()).avoid_until = self.clock() + pause_s
        if error.code in _STALE:
            self._ring_stale = True

    def examine(self, ticket: Ticket, patience_s: float) -> None:
        """Look after a node that owes us an answer: ask for a sign of life, or give the connection up.

        A request that is not handed yet because the node does not let us in is settled; one that waits for
        room on a healthy connection goes on waiting.
        """
        link = ticket.link
        now = self.clock()
        if ticket.settled:
            return
        if link.state is not State.OPEN:
            if now - link.since >= patience_s and link.recall(ticket):
                ticket.failure = NotReachedError(f"{link.address} did not let us in within {now - link.since:.1f} s")
                self._set_back(link.address)
        elif now - link.heard_at >= patience_s:
            if link.pinged_at is None or link.pinged_at < link.heard_at:
                link.ping(now)
                self._effects.append(Write(link))
            elif now - link.pinged_at >= patience_s:
                self.lost(link, f"silent for {now - link.heard_at:.1f} s")

    def not_handed(self, ticket: Ticket) -> DynafastError:
        """Return the error for a request whose time was over before it could be handed to the node."""
        link = ticket.link
        if link.state is State.OPEN and link.outstanding:
            return OverloadedError(
                f"{link.outstanding} requests of this client wait for {link.address}",
                {"outstanding": link.outstanding},
            )
        return NotReachedError(f"{link.address} was not reached in time")

    def refresh(self) -> None:
        """Ask for the ring in the background if ours is missing, old, or known to be stale."""
        now = self.clock()
        if not self._ring_stale and now - self._ring_read_at < RING_AGE_MAX_S:
            return
        if now - self._ring_asked_at < (RING_TIMEOUT_S if self._ring_ticket is not None else RING_PAUSE_S):
            return
        if self._ring_ticket is not None:
            self._ring_ticket.link.recall(self._ring_ticket)
            self._ring_ticket = None
        address = self.choose(None, ())
        if address is not None:
            self._ring_asked_at = now
            self._ring_ticket = self.send(address, Request(Op.RING, (None,)), deadline=now + RING_TIMEOUT_S, owner=None)

    # ---- inside

    def _settle(self, settled: Sequence[Ticket]) -> None:
        for ticket in settled:
            answer = ticket.answer
            if isinstance(answer, Found | Written):
                self.time = max(self.time, answer.time)
                self._ring_stale = self._ring_stale or answer.receipt.forwarded
            if ticket is self._ring_ticket:
                self._ring_ticket = None
                if isinstance(answer, Done):
                    self._learn(answer)
            if ticket.owner is not None:
                self._effects.append(Wake(ticket.owner))

    def _learn(self, answer: Done) -> None:
        try:
            self.ring = RingMap(answer.result)
        except PeerProtocolError:
            return  # the old map still serves, any node takes any request; asked again after a pause
        self._ring_stale = False
        self._ring_read_at = self.clock()
        known = {*self.ring.addresses, *self.seeds}
        for address in [address for address in self._health if address not in known]:
            del self._health[address]  # it has left the cluster, and nothing is asked there any more

    def _by_preference(self, key: bytes | None) -> Iterator[str]:
        ring = self.ring
        if ring is not None:
            if key is not None:
                yield from ring.serving(key)
            count = len(ring.addresses)
            start = self.random.randrange(count) if count else 0
            for step in range(count):
                yield ring.addresses[(start + step) % count]
        yield from self.seeds

    def _is_up(self, address: str, now: float) -> bool:
        health = self._health.get(address)
        if self.closed or (health is not None and health.avoid_until > now):
            return False
        link = self._links.get(address)
        if link is not None and link.state is State.OPEN:
            return True
        if health is not None and health.failures:
            return False
        if link is not None:
            return now - link.since < PATIENCE_MAX_S
        return self.ring is None or address not in self.ring.dead

    def _try_back(self, address: str, now: float) -> None:
        """Connect in the background to a node that failed: after its hello it is asked again."""
        health = self._health.get(address)
        if self.closed or health is None or not health.failures or health.avoid_until > now:
            return
        link = self.link(address)
        if link.state is not State.OPEN and now - link.since > OPENING_MAX_S:
            self.lost(link, "no hello")

    def _set_back(self, address: str) -> None:
        health = self._health.setdefault(address, _Health())
        pause_s = min(BACKOFF_MIN_S * 2.0 ** min(health.failures, 8), BACKOFF_MAX_S)
        health.failures += 1
        health.avoid_until = self.clock() + pause_s * self.random.uniform(0.5, 1.0)


def check_timeout(timeout_s: float) -> float:
    """Return *timeout_s*, the time of one call. Raises ConfigError."""
    if not 0 < timeout_s <= TIMEOUT_MAX_MS / 1000:
        raise ConfigError(f"timeout must be in (0, {TIMEOUT_MAX_MS // 1000}] seconds, got {timeout_s!r}")
    return timeout_s


def split_address(address: str) -> tuple[str, int]:
    """Return (host, port) of "HOST:PORT" or "[IPV6]:PORT".

    Raises:
        ConfigError: the address is malformed.
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""  # an IPv6 address without brackets: its last part is no port
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"an address must be HOST:PORT or [IPV6]:PORT, got {address!r}")
    return host, int(port)
