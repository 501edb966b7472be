"""The faults by name and by group; `fault` adds one. Their order is part of what a seed means."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynafast.sim.run import Simulation

Fault = Callable[["Simulation", Random], str | None]

FAULTS: dict[str, Fault] = {}
GROUPS: dict[str, list[str]] = {}


def fault(group: str) -> Callable[[Fault], Fault]:
    """Register a fault under its function's name."""

    def register(function: Fault) -> Fault:
        FAULTS[function.__name__] = function
        GROUPS.setdefault(group, []).append(function.__name__)
        return function

    return register
