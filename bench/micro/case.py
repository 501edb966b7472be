"""What is compared: two ways to do the same work, and the result that both must have."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the table.

    Attributes:
        name: what is done.
        against: what the baseline is made of.
        calls: how many operations one run of either side does.
        ours, baseline: run once without arguments; both leave things so that they can run again.
        verify: compares what both give with the oracle. Raises AssertionError.
        aim: how many times faster than the baseline we want to be; None: the baseline is no rival.
        floor: how many times faster we are at least, on any machine: less is a regression; None: not watched.
    """

    name: str
    against: str
    calls: int
    ours: Callable[[], object]
    baseline: Callable[[], object]
    verify: Callable[[], None]
    aim: float | None = None
    floor: float | None = None
