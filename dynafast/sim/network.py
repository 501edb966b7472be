"""Wires between processes: bytes with delays, in order, that a partition, a clog or a reset may stop.

A wire is one TCP connection. What one end sends reaches the other in order, in whole or in pieces, or not at all
once the wire is cut. Each end learns of its end by itself: an end whose far side lost power learns nothing.
"""

from collections.abc import Callable
from typing import Protocol

from dynafast._ext.wires import End, Wires
from dynafast.sim.world import SECOND, US, World

DIAL_TIMEOUT_NS = 2 * SECOND


class Owner(Protocol):
    """A process, or a client: gets what arrives at its ends."""

    place: str  # where it runs: a machine's name; what partitions tell apart

    def accepted(self, end: End) -> None:
        """Somebody has connected."""

    def received(self, end: End, data: bytes) -> None:
        """Bytes have arrived."""

    def ended(self, end: End) -> None:
        """The wire is gone; called once, and not after `End.abandon`."""


Listener = Callable[[], Owner | None]  # gives who accepts now
Dialled = Callable[[End | None], None]  # is told the end of a new wire, or that there is none


class Network(Wires):
    """All wires."""

    def __init__(self, world: World, *, latency_us: int, jitter_us: int, pieces: float) -> None:
        rng = world.random("network")
        super().__init__(world, rng, latency_ns=latency_us * US, jitter_ns=jitter_us * US, pieces=pieces)
        self._count = 0

    # ---- wires

    def connect(self, near: Owner, place: str, answer: Listener, done: Dialled) -> None:
        """Open a wire from *near* to a place: ``answer()`` gives who accepts there; ``done(end)`` None if none."""
        delay = self.delay(near.place, place)
        if (near.place, place) in self.blocked or (place, near.place) in self.blocked:
            self.world.after(DIAL_TIMEOUT_NS, done, None)
            return
        self.world.after(delay, self._arrive, near, answer, done, delay)

    def _arrive(self, near: Owner, answer: Listener, done: Dialled, delay: int) -> None:
        far = answer()
        if far is None:
            self.world.after(delay, done, None)
            return
        self._count += 1
        one, two = End(2 * self._count, near), End(2 * self._count + 1, far)
        one.far, two.far = two, one
        self.ends[one.number], self.ends[two.number] = one, two
        far.accepted(two)
        self.world.after(delay, done, one)

    def close(self, end: End) -> None:
        """End the wire from this side, after what was sent."""
        if not end.open:
            return
        end.open = False
        if end.number not in self.ends:
            return
        if end.held or end.clogged or self.is_blocked(end):
            end.held.append(None)
        else:
            self.carry(end, None)

    def reset(self, end: End) -> None:
        """Cut the wire: what is under way is lost, both ends learn soon."""
        for side in (end, end.far):
            self.ends.pop(side.number, None)
            side.held.clear()
            side.troubled_ns = self.world.now
            self.world.after(self.rng.randrange(1, 2 * self.latency_ns + self.jitter_ns + 2), self.finish, side)

    def abandon(self, end: End, *, silent: bool) -> None:
        """The owner of this end is gone. *silent*: the other end is not told."""
        end.far.troubled_ns = end.troubled_ns = self.world.now
        if not silent:
            self.close(end)
        end.open = False

    def wake(self, end: End) -> None:
        """The machine of an end that was abandoned silently is back: the other end learns."""
        if end.number in self.ends and end.far.open:
            self.ends.pop(end.number, None)
            self.ends.pop(end.far.number, None)
            self.world.after(self.latency_ns, self.finish, end.far)

    # ---- faults

    def calm(self) -> None:
        """Deliver whole from now on."""
        self.pieces = 0.0

    def block(self, source: str, target: str) -> None:
        """Let nothing flow from one place to another; blocks are counted."""
        self.blocked[source, target] = self.blocked.get((source, target), 0) + 1

    def unblock(self, source: str, target: str) -> None:
        """Take back one `block`; what waited flows now."""
        left = self.blocked[source, target] - 1
        if left:
            self.blocked[source, target] = left
            return
        del self.blocked[source, target]
        for end in list(self.ends.values()):
            if end.held and end.owner.place == source and end.far.owner.place == target:
                self._release(end)

    def clog(self, end: End) -> None:
        """Let nothing leave this end."""
        end.clogged = True
        end.troubled_ns = self.world.now

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
            if self.is_blocked(side):
                return True
        return False

    def _release(self, end: End) -> None:
        if end.clogged or self.is_blocked(end):
            return
        end.troubled_ns = self.world.now
        held, end.held = end.held, []
        for data in held:
            self.carry(end, data)
