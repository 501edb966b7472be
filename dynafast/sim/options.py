"""What a run is made of, drawn from its seed: the cluster, its clients, and which faults it knows at all.

Each fault has a weight, and about half of them none: a run with two faults finds what a run with twenty drowns.

What is drawn seldom has a stream of its own, so that it changes nothing in the other runs: nodes that build their trees
slowly, `SELDOM` faults, requests with particular wishes, a *tour*, and what is `RARE` or `APART`. On a tour clients
write and delete a few keys, then go on to others, and little else happens: there keys rest long enough for rounds while
old frames wait in clogged links.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dynafast._ext.replica import DEFAULT_CACHE_BYTES
from dynafast.core.node import BUILD_COUNT
from dynafast.errors import ConfigError
from dynafast.sim import faults as _faults
from dynafast.sim import operators as _operators
from dynafast.sim.clients import Habits
from dynafast.sim.registry import FAULTS, GROUPS
from dynafast.sim.world import World

TOURS = ({"clog": 5}, {"clog": 2, "mute": 5})  # the faults of tours
SELDOM = frozenset({"mute", "bad_flush", "reweigh"})
ALONE = frozenset({"swap"})  # only where a rare kind has it, or when it is named
# A few faults alone, with what else the options and the habits of clients are then.
RARE: tuple[tuple[dict[str, int], dict[str, Any], dict[str, Any]], ...] = (
    (  # detours: a fallback reaches the node that a coordinator does not reach
        {"one_way": 5, "slow_flush": 2},
        {
            "replicas": 3,
            "r": 1,
            "w": 3,
            "group": True,
            "clients": 16,
            "keys": 3,
            "blind": True,
            "fault_ms": 300,
            "most_faults": 4,
        },
        {"think_ms": 10},
    ),
    (  # single copies: what a hint has, nobody else has
        {"power": 5, "clog": 5, "slow_flush": 5},
        {
            "replicas": 1,
            "r": 1,
            "w": 1,
            "group": True,
            "clients": 10,
            "keys": 40,
            "fault_ms": 200,
            "most_faults": 6,
            "most_down": 2,
        },
        {"think_ms": 30},
    ),
    ({"full": 5}, {"blind": True, "keys": 12, "fault_ms": 100}, {"think_ms": 10}),
    ({"backup": 5, "stop": 5}, {"blind": True, "keys": 40, "cold_copies": True, "fault_ms": 300}, {"think_ms": 60}),
    (  # seats on the move, under reads that wait
        {"reweigh": 5},
        {
            "partitions": 8,
            "replicas": 2,
            "r": 2,
            "w": 1,
            "clients": 10,
            "keys": 12,
            "fault_ms": 500,
            "most_faults": 12,
            "most_changes": 8,
        },
        {"think_ms": 60, "timeout_ms": 5000, "particular": 0.8},
    ),
)
RARELY = 15  # runs of the usual kinds to one of each of these
# The same, but each drawn from the stream of that name: so a kind that is added changes only the runs that are of it.
APART: dict[str, tuple[dict[str, int], dict[str, Any], dict[str, Any]]] = {
    "swap": (  # on a tour, machines are away while another answers at their address
        {"swap": 5},
        {
            "replicas": 3,
            "r": 2,
            "w": 2,
            "clients": 6,
            "keys": 120,
            "tour": 3,
            "fault_ms": 300,
            "most_faults": 3,
            "most_down": 1,
        },
        {"think_ms": 150, "timeout_ms": 1000},
    ),
}
SOURCES = (_faults, _operators)  # importing them registers what they have


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All choices of a run that are made before it begins."""

    nodes: int
    ops: int
    partitions: int
    replicas: int
    r: int
    w: int
    group: bool  # durability
    clients: int
    keys: int
    habits: Habits
    latency_us: int
    jitter_us: int
    pieces: float
    flush_us: int
    fault_ms: int  # mean time between faults
    most_down: int
    most_faults: int  # at one time
    most_changes: int  # of the members, at one time
    build_count: int  # records that a node reads in a tick to build its trees after a start
    blind: bool  # keys are written without being read alone
    cold_copies: bool  # a machine that is stopped leaves a copy of its disk
    cache_bytes: int  # of the records that a node keeps in memory
    cold: float  # share of the other records that are on the disk alone
    read_us: int  # of a read of the disk
    tour: int  # how many keys clients use at a time before they go on to others; 0: all the time all keys
    weights: dict[str, int] = field(default_factory=dict)  # of the faults that are on

    def lines(self) -> list[str]:
        """Return one line per option."""
        shown = asdict(self)
        habits = shown.pop("habits")
        weights = shown.pop("weights")
        lines = [f"{name}={value}" for name, value in {**shown, **habits}.items()]
        return [*lines, "faults=" + (",".join(f"{name}:{weight}" for name, weight in weights.items()) or "none")]


def named_faults(text: str) -> frozenset[str] | None:
    """Return the faults that ``--faults`` names; None for all, as the seed draws them.

    Raises:
        ConfigError: a name that is neither a fault nor a group of them.
    """
    if text == "all":
        return None
    result: set[str] = set()
    for name in [] if text == "none" else text.split(","):
        if name in GROUPS:
            result |= set(GROUPS[name])
        elif name in FAULTS:
            result.add(name)
        else:
            known = ", ".join([*GROUPS, *FAULTS])
            raise ConfigError(f"faults must be all, none, or a list of {known}, got {name!r}")
    return frozenset(result)


def draw(world: World, *, nodes: int, ops: int, faults: Iterable[str] | None) -> Options:
    """Draw the options of a run."""
    rng, swarm = world.random("options"), world.random("swarm")
    build_count = swarm.choice([BUILD_COUNT] * 5 + [2])
    tour = swarm.choice([0] * 5 + [3])
    rare = world.random("rare").choice([None] * RARELY + list(RARE)) if faults is None and nodes > 2 else None
    for name, kind in APART.items():
        if faults is None and nodes > 2 and world.random(f"rare/{name}").randrange(RARELY + len(RARE)) == 0:
            rare = kind
    seldom = {"mute": swarm, **{name: world.random(name) for name in SELDOM - {"mute"}}}
    cache_bytes = world.random("cache").choice([0, 40_000, 400_000, DEFAULT_CACHE_BYTES])
    cold = world.random("cold").choice([0.0, 0.0, 0.3, 1.0])
    read_us = world.random("reads").choice([100, 1000, 20_000])
    replicas = min(nodes, rng.choices([1, 2, 3], [1, 2, 12])[0])
    majority = replicas // 2 + 1
    quorums = [(majority, majority), (majority, majority), (1, replicas), (replicas, 1), (1, 1)]
    r, w = rng.choices(quorums, [6, 6, 1, 1, 1])[0]
    on = {}
    for name in FAULTS:
        if name in ALONE:
            weight = 0
        else:
            weight = seldom[name].choice([0] * 5 + [5]) if name in SELDOM else rng.choice([0, 0, 0, 1, 2, 5])
        if faults is None:
            if weight:
                on[name] = weight
        elif name in faults:
            on[name] = max(1, weight)
    habits = Habits(
        think_ms=rng.choice([2, 10, 10, 30, 60]),
        timeout_ms=rng.choice([500, 1000, 2000, 5000]),
        ring_aware=rng.choice([0.0, 0.5, 1.0]),
        stale=rng.choice([0.0, 0.1, 0.3]),
        chained=rng.choice([0.0, 0.3, 0.6]),
        giving=rng.choice([0.0, 0.0, 0.3]),
        odd_quorum=rng.choice([0.0, 0.0, 0.1]),
        particular=world.random("wishes").choice([0.0, 0.0, 0.1, 0.4]),
    )
    if rare is not None:
        tour = 0
        on = {name: weight for name, weight in rare[0].items() if faults is None or name in faults}
        habits = replace(habits, **rare[2])
    if tour:
        on = {name: weight for name, weight in swarm.choice(TOURS).items() if faults is None or name in faults}
        habits = replace(habits, think_ms=150, timeout_ms=1000)
    options = Options(
        nodes=nodes,
        ops=ops,
        partitions=rng.choice([8, 16, 32]),
        replicas=replicas,
        r=r,
        w=w,
        group=rng.random() < 0.85,
        clients=rng.choice([3, 6, 10, 16]),
        keys=rng.choice([3, 12, 40, 120]),
        habits=habits,
        latency_us=rng.choice([50, 200, 1000]),
        jitter_us=rng.choice([50, 500, 5000]),
        pieces=rng.choice([0.0, 0.0, 0.02, 0.2]),
        flush_us=rng.choice([100, 500, 3000]),
        fault_ms=rng.choice([100, 300, 1000]),
        most_down=rng.choice([1, 1, 2, nodes]),
        most_faults=rng.choice([1, 3, 3, 6, 12]),
        most_changes=rng.choice([1, 1, 2, 3]),
        build_count=build_count,
        blind=False,
        cold_copies=False,
        cache_bytes=cache_bytes,
        cold=cold,
        read_us=read_us,
        tour=tour,
        weights=on,
    )
    if rare is not None:
        options = replace(options, **rare[1])
    if tour:  # few links hang at a time, so that rounds find everybody else
        options = replace(options, clients=min(6, options.clients), keys=120, fault_ms=300, most_faults=3)
    return options
