"""Figures 6 and 8: how evenly nodes are loaded. Computed from rings and keys: no node runs."""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import xxhash

from bench._ext.keys import Keys
from bench.output import table
from bench.paper.experiment import Claim, Experiment, Found
from dynafast._ext.ring import Ring, equal_tokens
from dynafast.core.ownership import Member, place, place_by_tokens, random_tokens

NODES, REPLICAS = 30, 3  # S and N of the paper's figure 8
OFF = 0.15  # of the mean: a node whose load differs by more is out of balance
CIRCLE = 1 << 64
STRATEGIES = ("1", "2", "3")


def out_of_balance(loads: Sequence[float]) -> float:
    """Return the share of nodes whose load differs from the mean by more than 15 %."""
    middle = mean(loads)
    return sum(abs(one - middle) > OFF * middle for one in loads) / len(loads)


def efficiency(loads: Sequence[float]) -> float:
    """Return the mean load by the largest: 1 is perfect."""
    return mean(loads) / max(loads)


def replica_loads(tokens: Sequence[int], ring: Ring, nodes: int, replicas: int = REPLICAS) -> list[int]:
    """Return how many positions of the circle each node has a replica of: its load if all keys are asked for alike.

    *tokens*: of the ring, each the last position of its part.
    """
    loads = [0] * nodes
    before = tokens[-1] - CIRCLE
    for index, token in enumerate(tokens):
        for node in ring.at(index)[:replicas]:
            loads[node] += token - before
        before = token
    return loads


def members(seed: int) -> list[Member]:
    """Return equal nodes whose ids are drawn from *seed*, as those of real nodes are from chance."""
    draw = Random(f"{seed}/members")
    return [Member(id=draw.randbytes(8), weight=1, zone="z", host=f"h{number}") for number in range(NODES)]


# ---- figure 8

# Tokens per node of strategies 1 and 2, Q of strategy 3.
PER_NODE = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
QUICK_PER_NODE = (4, 16, 64)
PARTITIONS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
QUICK_PARTITIONS = (64, 256)
EQUAL = 8192  # Q of strategy 2: much more than Q/S tokens per node would need
TOKEN_BYTES, OWNER_BYTES = 8, 2
GOOD = 0.9


def _ring(strategy: str, amount: int, seed: int) -> tuple[list[int], Ring]:
    """Return the tokens and the ring of a strategy; *amount*: of tokens per node, or of partitions."""
    if strategy == "3":
        return equal_tokens(amount), place(members(seed), partitions=amount, replicas=REPLICAS).ring
    partitions = EQUAL if strategy == "2" else None
    ring = place_by_tokens(members(seed), per_node=amount, seed=seed, replicas=REPLICAS, partitions=partitions)
    return equal_tokens(EQUAL) if partitions else random_tokens(members(seed), per_node=amount, seed=seed)[0], ring


def metadata_bytes(strategy: str, amount: int) -> int:
    """Return what a node must know to find the replicas of every key.

    Strategies 1 and 2: every token and its owner. Strategy 3: the N owners of every partition; its ends are known.
    """
    return amount * REPLICAS * OWNER_BYTES if strategy == "3" else NODES * amount * (TOKEN_BYTES + OWNER_BYTES)


def _measure_8(*, quick: bool) -> Found:
    per_node, partitions = (QUICK_PER_NODE, QUICK_PARTITIONS) if quick else (PER_NODE, PARTITIONS)
    seeds = range(2 if quick else 10)
    found = {}
    for strategy in STRATEGIES:
        points = []
        for amount in partitions if strategy == "3" else per_node:
            each = [efficiency(replica_loads(*_ring(strategy, amount, seed), NODES)) for seed in seeds]
            points.append({"amount": amount, "bytes": metadata_bytes(strategy, amount), "efficiency": mean(each)})
        found[strategy] = points
    return {"strategies": found}


def efficiency_at(points: Sequence[Mapping[str, Any]], size: float) -> float:
    """Return the efficiency with *size* bytes of metadata, between two points linearly, beyond them as at the last."""
    sizes = [point["bytes"] for point in points]
    right = bisect_left(sizes, size)
    if right in (0, len(points)):
        return float(points[min(right, len(points) - 1)]["efficiency"])
    a, b = points[right - 1], points[right]
    share = (size - a["bytes"]) / (b["bytes"] - a["bytes"])
    return float(a["efficiency"] + share * (b["efficiency"] - a["efficiency"]))


def least_bytes(points: Sequence[Mapping[str, Any]], wanted: float) -> int | None:
    """Return the smallest metadata among the points that reach an efficiency; None if none does."""
    return min((point["bytes"] for point in points if point["efficiency"] >= wanted), default=None)


def _claims_8(found: Found) -> list[Claim]:
    strategies = found["strategies"]
    size = max(point["bytes"] for point in strategies["3"])
    at = {name: efficiency_at(strategies[name], size) for name in STRATEGIES}
    order = sorted(STRATEGIES, key=lambda name: -at[name])
    shown = ", ".join(f"{name}: {at[name]:.3f}" for name in order)
    least, few = least_bytes(strategies["1"], GOOD), least_bytes(strategies["3"], GOOD)
    known = strategies["1"][-1]["bytes"]
    times = (least or known) / few if few else 0.0
    more = "" if least else "> "
    return [
        Claim(f"efficiency with {size / 1000:,.0f} kB of metadata", "3 best, 2 worst", shown, order == ["3", "1", "2"]),
        Claim(
            f"metadata for an efficiency of {GOOD}: strategy 1 by strategy 3",
            "1,000x",
            f"{more}{times:,.0f}x" if few else "not reached",
            times >= 100,
        ),
    ]


def _tables_8(found: Found) -> str:
    rows = [
        [strategy, f"{point['amount']} {unit}", point["bytes"], f"{point['efficiency']:.3f}"]
        for strategy, unit in zip(STRATEGIES, ("tokens per node", "tokens per node", "partitions"), strict=True)
        for point in found["strategies"][strategy]
    ]
    return table(["strategy", "with", "metadata bytes", "efficiency"], rows)


def _plots_8(folder: Path, name: str, found: Found) -> list[Path]:
    from bench import plot

    path = folder / f"{name}.svg"
    lines = {
        f"strategy {strategy}": [(point["bytes"], point["efficiency"]) for point in points]
        for strategy, points in found["strategies"].items()
    }
    title = f"Balance of three strategies, S={NODES}, N={REPLICAS} (figure 8)"
    x, y = "bytes of metadata per node", "mean / largest load"
    plot.curves(path, lines, x=x, y=y, title=title, log_x=True, log_y=False)
    return [path]


FIGURE_8 = Experiment(
    title="Figure 8: three ways to partition",
    setting=(
        "Computed, for 30 equal nodes and N=3, means over ten draws. Load is the share of all positions that a node "
        f"has a replica of. Strategy 1: random tokens; 2: random tokens, {EQUAL:,} equal partitions; 3: equal "
        "partitions, placed as the nodes do it. Metadata: 8 bytes for a token, 2 for its owner; of strategy 3 the N "
        "owners of each partition."
    ),
    measure=_measure_8,
    claims=_claims_8,
    tables=_tables_8,
    plots=_plots_8,
)

# ---- figure 6

LOADS = (25, 50, 100, 200, 400, 800)  # requests per node in a window; the last is the peak
RECORDS = 100_000
SKEW = 0.5  # a popular end with many keys in it, as the paper assumes: the hottest gets 0.16 % of requests


def _measure_6(*, quick: bool) -> Found:
    loads, windows = (LOADS[2:], 10) if quick else (LOADS, 100)
    tokens, owners = random_tokens(members(0), per_node=100, seed=0)
    equal = place(members(0), partitions=1024, replicas=REPLICAS).ring
    found = {
        "1": _imbalance(lambda position: owners[bisect_left(tokens, position) % len(tokens)], loads, windows),
        "3": _imbalance(lambda position: equal.preference(position)[0], loads, windows),
    }
    return {"windows": windows, "strategies": found}


def _imbalance(owner: Callable[[int], int], loads: Sequence[int], windows: int) -> list[dict[str, float]]:
    """Return the mean share of nodes out of balance, over many windows, for every load."""
    keys = Keys("zipfian", RECORDS, theta=SKEW, seed=1)
    first = array("H", (owner(xxhash.xxh3_64_intdigest(keys.key(record))) for record in range(RECORDS)))
    found = []
    for requests in loads:
        shares = []
        for _ in range(windows):
            counts = [0] * NODES
            for record in keys.draw(requests * NODES):
                counts[first[record]] += 1
            shares.append(out_of_balance(counts))
        found.append({"requests": requests, "share": mean(shares)})
    return found


def _claims_6(found: Found) -> list[Claim]:
    claims = []
    for strategy, what in (("1", "random tokens"), ("3", "equal partitions")):
        points = found["strategies"][strategy]
        high = points[-1]
        low = next(point for point in points if 8 * point["requests"] == high["requests"])
        shown = f"{100 * low['share']:.1f} %, {100 * high['share']:.1f} %"
        what = f"nodes out of balance at an eighth of the peak, at the peak: {what}"
        claims.append(Claim(what, "20 %, 10 %", shown, low["share"] > high["share"]))
    return claims


def _tables_6(found: Found) -> str:
    first, third = (found["strategies"][strategy] for strategy in ("1", "3"))
    rows = [
        [a["requests"], *(f"{100 * point['share']:.1f} %" for point in (a, b))]
        for a, b in zip(first, third, strict=True)
    ]
    return table(["requests per node", "out of balance: random tokens", "equal partitions"], rows)


def _plots_6(folder: Path, name: str, found: Found) -> list[Path]:
    from bench import plot

    path = folder / f"{name}.svg"
    lines = {
        label: [(point["requests"], 100 * point["share"]) for point in found["strategies"][strategy]]
        for strategy, label in (("1", "random tokens"), ("3", "equal partitions"))
    }
    plot.curves(
        path,
        lines,
        x="requests per node in a window",
        y="% of nodes",
        title="Nodes out of balance (figure 6)",
        log_x=True,
        log_y=False,
    )
    return [path]


FIGURE_6 = Experiment(
    title="Figure 6: nodes out of balance",
    setting=(
        "Counted, not timed: the keys are drawn as the load generator draws them (Zipfian with a skew of "
        f"{SKEW}, {RECORDS:,} records), and each request goes to the node that its key prefers, of 30. A node is out "
        "of balance in a window when it gets 15 % more or fewer requests than the mean. Random tokens, 100 per node, "
        "are the paper's first strategy; equal partitions, Q=1024, are what nodes have here."
    ),
    measure=_measure_6,
    claims=_claims_6,
    tables=_tables_6,
    plots=_plots_6,
)
