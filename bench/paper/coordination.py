"""Table 2: requests sent to any node, against requests sent to a node that serves the key (section 6.4)."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.load import Workload, fill, native, owners
from bench.output import table
from bench.paper.experiment import Claim, Experiment, Found, give, summary
from dynafast.testing import Cluster

NODES = 6
LOAD = 0.25  # of the saturation rate through any node
SERVER, CLIENT = "server-driven", "client-driven"
PAPER = {  # milliseconds
    SERVER: {"read": {"mean": 3.9, "p99.9": 68.9}, "update": {"mean": 4.02, "p99.9": 68.5}},
    CLIENT: {"read": {"mean": 1.55, "p99.9": 30.4}, "update": {"mean": 1.9, "p99.9": 30.4}},
}
AIM = 0.6  # of the mean latency


def _measure(*, quick: bool) -> Found:
    workload = Workload(records=2_000 if quick else 20_000)
    turns, seconds = (1, 1.0) if quick else (5, 5.0)
    found: list[dict[str, Any]] = []
    with Cluster(NODES, partitions=256, durability="interval") as cluster:
        targets = {
            SERVER: native(cluster.addresses),
            CLIENT: native(cluster.addresses, owners=owners(cluster.addresses, workload)),
        }
        fill(targets[SERVER], workload)
        rate = LOAD * give(targets[SERVER], workload, "closed loop", quick=quick, seconds=seconds).rate
        for turn in range(turns):
            one: dict[str, Any] = {}
            for name in (SERVER, CLIENT) if turn % 2 else (CLIENT, SERVER):
                what = f"turn {turn + 1}, {name}"
                result = give(targets[name], workload, what, quick=quick, seconds=seconds, rate=rate)
                one[name] = {kind: summary(result.latency[kind]) for kind in ("read", "update")}
            found.append(one)
    return {"rate": rate, "turns": found}


def middle(turns: Sequence[dict[str, Any]], name: str, kind: str, shown: str) -> float:
    """Return the median over the turns."""
    return float(median(turn[name][kind][shown] for turn in turns))


def ratio(turns: Sequence[dict[str, Any]], kind: str, shown: str) -> float:
    """Return the median over the turns of client-driven by server-driven."""
    return float(median(turn[CLIENT][kind][shown] / turn[SERVER][kind][shown] for turn in turns))


def _claims(found: Found) -> list[Claim]:
    claims = []
    for shown, limit in (("mean", AIM), ("p99.9", 1.0)):
        for kind, label in (("read", "reads"), ("update", "writes")):
            ours = ratio(found["turns"], kind, shown)
            paper = PAPER[CLIENT][kind][shown] / PAPER[SERVER][kind][shown]
            what = f"{shown} of {label}, client- by server-driven"
            claims.append(Claim(what, f"{paper:.2f}x", f"{ours:.2f}x", ours <= limit))
    return claims


def _tables(found: Found) -> str:
    rows = [
        [name, label, *_pair(found, name, kind, "mean"), *_pair(found, name, kind, "p99.9")]
        for name in (SERVER, CLIENT)
        for kind, label in (("read", "reads"), ("update", "writes"))
    ]
    head = ["coordination", "of", "mean ms: the paper", "here", "p99.9 ms: the paper", "here"]
    turns = len(found["turns"])
    return f"{table(head, rows)}\n\nAt {found['rate']:,.0f} requests/s; medians of {turns} turn{'s'[: turns > 1]}."


def _pair(found: Found, name: str, kind: str, shown: str) -> tuple[float, float]:
    return PAPER[name][kind][shown], middle(found["turns"], name, kind, shown)


def _plots(folder: Path, name: str, found: Found) -> list[Path]:
    from bench import plot

    path = folder / f"{name}.svg"
    lines = {
        f"{name}, {label}": [(number, turn[name][kind]["mean"]) for number, turn in enumerate(found["turns"], 1)]
        for name in (SERVER, CLIENT)
        for kind, label in (("read", "reads"), ("update", "writes"))
    }
    plot.curves(path, lines, x="turn", y="mean ms", title="Who coordinates (table 2)", log_y=False)
    return [path]


TABLE_2 = Experiment(
    title="Table 2: who coordinates",
    setting=(
        "Six nodes, N=3, R=W=2, `interval`; half reads, half overwriting puts of 100 bytes, an open loop at a quarter "
        "of what the closed loop reaches. Server-driven: any node is asked, and passes on what it does not serve (half "
        "of the requests). Client-driven: the node that the key prefers is asked. The paper's server-driven requests "
        "also pass a load balancer, ours do not. The aim of this project for the means is 0.6x."
    ),
    measure=_measure,
    claims=_claims,
    tables=_tables,
    plots=_plots,
)
