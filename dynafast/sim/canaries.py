"""Safeguards that can be broken on purpose, to see that the simulator notices each.

``dynafast sim --plant NAME`` leaves the safeguard out. The core asks for its name where the safeguard is
(``node.plants``), the client of the simulator for ``repeat-put``.

A broken safeguard also changes the luck of a run. So of each is written down what follows from it; nothing else counts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dynafast.sim.history import ViolationError
from dynafast.sim.run import Result, simulate

SEEDS = 200  # a canary must be caught within so many

LOST = ("no-write-lost", "read-your-writes", "newest-wins")  # an acknowledged write is gone, for a time or for ever
BACK = ("no-value-back", "siblings-concurrent")  # what was replaced or deleted returns
SAME_DOT = ("dots-unique", "merkle-tells", "no-write-lost")  # one dot of two writes: one of them is discarded


@dataclass(frozen=True, slots=True)
class Canary:
    """One safeguard.

    Attributes:
        signs: what can come of it: names of invariants, some as ``invariant: part of what is said``.
        seed: one that has caught it; tried first.
    """

    signs: tuple[str, ...]
    seed: int

    def explains(self, violation: ViolationError) -> bool:
        """Whether a violation can come of the broken safeguard."""
        for sign in self.signs:
            invariant, _, part = sign.partition(": ")
            if invariant == violation.invariant and part in violation.detail:
                return True
        return False


CANARIES = {
    "trim-early": Canary(BACK, 2),
    "counter-from-context": Canary(SAME_DOT, 5),
    "blind-hint-ack": Canary((*LOST, "receipts-true"), 12),
    "confirm-before-flush": Canary((*LOST, *BACK, "receipts-true"), 139),
    "reap-targets-only": Canary(BACK, 27),
    "late-frame": Canary(BACK, 70),
    "count-nodes": Canary((*LOST, *BACK, "quorum-met", "receipts-true"), 2),
    # What was kept for others as the round began is written again, delivered or not; what came since is gone.
    "stale-drop": Canary((*LOST, "receipts-true", "comes-to-rest: does not own", "comes-to-rest: keeps hints"), 18),
    "half-built-tree": Canary((*LOST, "merkle-tells"), 74),
    "new-version-only": Canary((*LOST, "context-true"), 1),
    "put-context": Canary((*LOST, "context-true"), 1),
    "clean-copy": Canary(SAME_DOT, 37),
    "send-before-write": Canary(SAME_DOT, 24),
    "repeat-put": Canary(BACK, 49),
    # A node that is away, or gone for good, seems to answer: nobody keeps hints for it, nor can it be removed.
    "wrong-id": Canary((*LOST, *BACK, "receipts-true", "comes-to-rest: lists the members"), 22),
    "same-is-now": Canary(("read-your-writes", "newest-wins"), 171),
    # A record that is kept for nobody is neither delivered nor deleted.
    "drop-hint": Canary((*LOST, "receipts-true", "comes-to-rest: does not own"), 3),
    "skip-repair": Canary(("comes-to-rest: differ", *LOST), 3),
    "ack-before-w": Canary(("quorum-met", "receipts-true", *LOST), 1),
    "ack-before-flush": Canary(("receipts-true", *LOST), 1),
    "lww-merge": Canary((*LOST, "context-true"), 1),
    "serve-after-give": Canary((*LOST, *BACK, "context-true"), 133),
}


@dataclass(frozen=True, slots=True)
class Catch:
    """What became of a canary: the seed that caught it and by which invariant; None: none did."""

    name: str
    seed: int | None
    invariant: str | None

    def line(self) -> str:
        """Return the line that is printed."""
        if self.seed is None:
            return f"{self.name} not caught in {SEEDS} seeds"
        return f"{self.name} caught seed={self.seed} invariant={self.invariant}"


def planted(job: tuple[str, int]) -> Result:
    """Run one seed with one safeguard broken; in the form that a pool of processes wants."""
    name, seed = job
    return simulate(seed, plants=frozenset({name}))


def hunt(name: str, results: Callable[[list[tuple[str, int]]], Iterator[Result]], *, width: int) -> Catch:
    """Return what becomes of a canary.

    Args:
        name: of the canary.
        results: runs jobs, perhaps side by side, and gives their results in order.
        width: how many jobs at a time.

    A seed counts only if the violation can come of the broken safeguard, and if it passes when nothing is planted.
    """
    canary = CANARIES[name]
    seeds = [canary.seed, *(seed for seed in range(1, SEEDS + 1) if seed != canary.seed)]
    groups = [seeds[:1], *(seeds[first : first + width] for first in range(1, len(seeds), width))]
    for group in groups:
        for result in results([(name, seed) for seed in group]):
            caught = result.violation is not None and canary.explains(result.violation)
            if result.violation is not None and caught and simulate(result.seed).violation is None:
                return Catch(name, result.seed, result.violation.invariant)
    return Catch(name, None, None)
