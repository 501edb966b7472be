"""Safeguards that can be broken on purpose, to see that the simulator notices each.

``dynafast sim --plant NAME`` leaves the safeguard out. The core asks for its name where the safeguard is
(``node.plants``), the client of the simulator for ``repeat-put``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dynafast.sim.run import Result, simulate

SEEDS = 200  # a canary must be caught within so many

CANARIES = (
    "trim-early",
    "counter-from-context",
    "blind-hint-ack",
    "confirm-before-flush",
    "reap-targets-only",
    "late-frame",
    "count-nodes",
    "stale-drop",
    "half-built-tree",
    "new-version-only",
    "put-context",
    "clean-copy",
    "send-before-write",
    "repeat-put",
    "wrong-id",
    "same-is-now",
    "drop-hint",
    "skip-repair",
    "ack-before-w",
    "ack-before-flush",
    "lww-merge",
    "serve-after-give",
)


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

    A seed counts only if it passes when nothing is planted.
    """
    for first in range(1, SEEDS + 1, width):
        jobs = [(name, seed) for seed in range(first, min(first + width, SEEDS + 1))]
        for result in results(jobs):
            if result.violation is not None and simulate(result.seed).violation is None:
                return Catch(name, result.seed, result.violation.invariant)
    return Catch(name, None, None)
