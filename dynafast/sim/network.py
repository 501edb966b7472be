"""Wires between processes: bytes with delays, in order, that a partition, a clog or a reset may stop.

A wire is one TCP connection. What one end sends reaches the other in order, in whole or in pieces, or not at all
once the wire is cut. Each end learns of its end by itself: an end whose far side lost power learns nothing.
"""

from collections.abc import Callable
from random import Random
from typing import Protocol
from zlib import crc32

from dynafast.sim.world import SECOND, US, World

DIAL_TIMEOUT_NS = 2 * SECOND


class Owner(Protocol):
    """A process, or a client: gets what arrives at its ends."""

    place: str  # where it runs: a machine's name; what partitions tell apart

    def accepted(self, end: "End") -> None:
        """Somebody has connected."""

    def received(self, end: "End", data: bytes) -> None:
        """Bytes have arrived."""

    def ended(self, end: "End") -> None:
        """The wire is gone; called once, and not after `End.abandon`."""


class End:
    """One end of a wire, and the direction in which it sends.

    Attributes:
        open: the owner has not learned of an end, and has not ended it itself.
        troubled_ns: when something last kept this direction from flowing.
    """

    __slots__ = (
        "clogged",
        "due_ns",
        "extra_ns",
        "far",
        "held",
        "number",
        "open",
        "owner",
        "received",
        "tag",
        "troubled_ns",
    )

    def __init__(self, number: int, owner: Owner) -> None:
        self.number = number
        self.owner = owner
        self.far: End = self
        self.open = True
        self.due_ns = 0
        self.received = 0  # bytes
        self.extra_ns = 0  # delay of this direction on top of the usual
        self.clogged = False
        self.held: list[bytes | None] = []  # what waits while nothing flows; None: the end of the stream
        self.troubled_ns = -1
        self.tag: object = None  # the owner's


Listener = Callable[[], Owner | None]  # gives who accepts now
Dialled = Callable[[End | None], None]  # is told the end of a new wire, or that there is none


class Network:
    """All wires."""

    def __init__(self, world: World, *, latency_us: int, jitter_us: int, pieces: float) -> None:
        self._world = world
        self._rng: Random = world.random("network")
        self._latency_ns = latency_us * US
        self._jitter_ns = jitter_us * US
        self._pieces = pieces  # probability that what is sent arrives in pieces
        self._blocked: dict[tuple[str, str], int] = {}
        self.lag_ns: dict[str, int] = {}  # place -> delay of all that it sends and receives (a slow machine)
        self.ends: dict[int, End] = {}  # of wires that are not cut
        self.watch: Callable[[End, bytes], None] | None = None  # is shown what arrives
        self._count = 0

    # ---- wires

    def connect(self, near: Owner, place: str, answer: Listener, done: Dialled) -> None:
        """Open a wire from *near* to a place: ``answer()`` gives who accepts there; ``done(end)`` None if none."""
        delay = self._delay(near.place, place)
        if self._is_blocked(near.place, place) or self._is_blocked(place, near.place):
            self._world.after(DIAL_TIMEOUT_NS, done, None)
            return
        self._world.after(delay, self._arrive, near, answer, done, delay)

    def _arrive(self, near: Owner, answer: Listener, done: Dialled, delay: int) -> None:
        far = answer()
        if far is None:
            self._world.after(delay, done, None)
            return
        self._count += 1
        one, two = End(2 * self._count, near), End(2 * self._count + 1, far)
        one.far, two.far = two, one
        self.ends[one.number], self.ends[two.number] = one, two
        far.accepted(two)
        self._world.after(delay, done, one)

    def send(self, end: End, data: bytes) -> None:
        """Send bytes towards the other end."""
        if not end.open or end.number not in self.ends:
            return
        if end.held or end.clogged or (self._blocked and self._is_blocked(end.owner.place, end.far.owner.place)):
            end.held.append(data)
            end.troubled_ns = self._world.now
            return
        if self._pieces and len(data) > 1 and self._rng.random() < self._pieces:
            cut = self._rng.randrange(1, len(data))
            self._carry(end, data[:cut])
            data = data[cut:]
        self._carry(end, data)

    def close(self, end: End) -> None:
        """End the wire from this side, after what was sent."""
        if not end.open:
            return
        end.open = False
        if end.number not in self.ends:
            return
        if end.held or end.clogged or (end.owner.place, end.far.owner.place) in self._blocked:
            end.held.append(None)
        else:
            self._carry(end, None)

    def reset(self, end: End) -> None:
        """Cut the wire: what is under way is lost, both ends learn soon."""
        for side in (end, end.far):
            self.ends.pop(side.number, None)
            side.held.clear()
            side.troubled_ns = self._world.now
            self._world.after(self._rng.randrange(1, 2 * self._latency_ns + self._jitter_ns + 2), self._end, side)

    def abandon(self, end: End, *, silent: bool) -> None:
        """The owner of this end is gone. *silent*: the other end is not told."""
        end.far.troubled_ns = end.troubled_ns = self._world.now
        if not silent:
            self.close(end)
        end.open = False

    def wake(self, end: End) -> None:
        """The machine of an end that was abandoned silently is back: the other end learns."""
        if end.number in self.ends and end.far.open:
            self.ends.pop(end.number, None)
            self.ends.pop(end.far.number, None)
            self._world.after(self._latency_ns, self._end, end.far)

    # ---- faults

    def calm(self) -> None:
        """Deliver whole from now on."""
        self._pieces = 0.0

    def block(self, source: str, target: str) -> None:
        """Let nothing flow from one place to another; blocks are counted."""
        self._blocked[source, target] = self._blocked.get((source, target), 0) + 1

    def unblock(self, source: str, target: str) -> None:
        """Take back one `block`; what waited flows now."""
        left = self._blocked[source, target] - 1
        if left:
            self._blocked[source, target] = left
            return
        del self._blocked[source, target]
        for end in list(self.ends.values()):
            if end.held and end.owner.place == source and end.far.owner.place == target:
                self._release(end)

    def clog(self, end: End) -> None:
        """Let nothing leave this end."""
        end.clogged = True
        end.troubled_ns = self._world.now

    def unclog(self, end: End) -> None:
        """Let what waited leave."""
        end.clogged = False
        self._release(end)

    def troubled_since(self, end: End, since_ns: int) -> bool:
        """Whether something may have kept bytes of this wire from flowing since then."""
        if end.number not in self.ends or not end.open or not end.far.open:
            return True
        for side in (end, end.far):
            if side.held or side.clogged or side.extra_ns or side.troubled_ns >= since_ns:
                return True
            if self._is_blocked(side.owner.place, side.far.owner.place):
                return True
        return False

    def _is_blocked(self, source: str, target: str) -> bool:
        return (source, target) in self._blocked

    def _release(self, end: End) -> None:
        if end.clogged or self._is_blocked(end.owner.place, end.far.owner.place):
            return
        end.troubled_ns = self._world.now
        held, end.held = end.held, []
        for data in held:
            self._carry(end, data)

    # ---- on the way

    def _delay(self, place: str, far: str) -> int:
        delay = self._latency_ns + int(self._rng.random() * self._jitter_ns)
        return delay + self.lag_ns.get(place, 0) + self.lag_ns.get(far, 0)

    def _carry(self, end: End, data: bytes | None) -> None:
        due = self._world.now + self._latency_ns + int(self._rng.random() * self._jitter_ns) + end.extra_ns
        if self.lag_ns:
            due += self.lag_ns.get(end.owner.place, 0) + self.lag_ns.get(end.far.owner.place, 0)
        if due <= end.due_ns:
            due = end.due_ns + 1
        end.due_ns = due
        self._world.at(due, self._deliver, end.far, data)

    def _deliver(self, end: End, data: bytes | None) -> None:
        if not end.open or end.number not in self.ends:
            return
        if data is None:
            self.ends.pop(end.number, None)
            self.ends.pop(end.far.number, None)
            self._end(end)
            return
        size = len(data)
        end.received += size
        self._world.trace(f"recv {end.number} {size} {crc32(data):08x}")
        if self.watch is not None:
            self.watch(end, data)
        end.owner.received(end, data)

    def _end(self, end: End) -> None:
        if end.open:
            end.open = False
            self._world.trace(f"end {end.number}")
            end.owner.ended(end)
