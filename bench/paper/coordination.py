"""Table 2: requests sent to any node, against requests sent to a node that serves the key (section 6.4)."""

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from bench._ext.keys import Keys
from bench.load import Histogram, Workload, fill, native, owners
from bench.output import table
from bench.paper.experiment import Claim, Experiment, Found, give, percentile_plots, summary
from dynafast.client.ring import RingMap
from dynafast.testing import Cluster

NODES = 6
LOAD = 0.5  # of the saturation rate through any node
ANY, AWAY, CLIENT = "server-driven, any node", "server-driven, a node without the key", "client-driven"
_SERVER: Mapping[str, Any] = {"read": {"mean": 3.9, "p99.9": 68.9}, "update": {"mean": 4.02, "p99.9": 68.5}}
PAPER: Mapping[str, Any] = {  # milliseconds
    ANY: _SERVER,
    AWAY: _SERVER,
    CLIENT: {"read": {"mean": 1.55, "p99.9": 30.4}, "update": {"mean": 1.9, "p99.9": 30.4}},
}
AIM = 0.6  # of the mean latency: what this project wants
KINDS = {"read": "reads", "update": "writes"}


def strangers(ring: RingMap, addresses: Sequence[str], keys: Iterable[bytes]) -> bytes:
    """Return for every key the index of a node that does not serve it, each as often, as `bench.load.owners` does."""
    return array("H", (_stranger(ring.serving(key), addresses, turn) for turn, key in enumerate(keys))).tobytes()


def _stranger(serving: Collection[str], addresses: Sequence[str], turn: int) -> int:
    away = [index for index, address in enumerate(addresses) if address not in serving]
    return away[turn % len(away)]


def _measure(*, quick: bool) -> Found:
    workload = Workload(records=2_000 if quick else 20_000)
    turns, seconds = (3, 0.5) if quick else (20, 1.0)  # short, so that other work of the machine hits all alike
    found: list[dict[str, Any]] = []
    whole = {name: Histogram() for name in (ANY, AWAY, CLIENT)}
    with Cluster(NODES, partitions=256, durability="interval") as cluster:
        addresses = cluster.addresses
        with cluster.client() as client:
            ring = RingMap(client.ring())
        keys = Keys("uniform", workload.records)
        away = strangers(ring, addresses, (keys.key(record) for record in range(workload.records)))
        targets = {
            ANY: native(addresses),
            AWAY: native(addresses, owners=away),
            CLIENT: native(addresses, owners=owners(addresses, workload)),
        }
        fill(targets[ANY], workload)
        rate = LOAD * give(targets[ANY], workload, "closed loop", quick=quick, seconds=seconds).rate
        names = list(targets)
        for turn in range(turns):
            one: dict[str, Any] = {}
            for name in (*names[turn % 3 :], *names[: turn % 3]):
                what = f"turn {turn + 1}, {name}"
                result = give(targets[name], workload, what, quick=quick, seconds=seconds, rate=rate)
                whole[name].merge(result.all)
                one[name] = {kind: summary(result.latency[kind]) for kind in KINDS}
            found.append(one)
    return {"rate": rate, "turns": found, "hdr": {name: histogram.json()["hdr"] for name, histogram in whole.items()}}


def middle(turns: Sequence[dict[str, Any]], name: str, kind: str, shown: str) -> float:
    """Return the median over the turns."""
    return float(median(turn[name][kind][shown] for turn in turns))


def ratio(turns: Sequence[dict[str, Any]], server: str, kind: str, shown: str) -> float:
    """Return the median over the turns of client-driven by server-driven."""
    return float(median(turn[CLIENT][kind][shown] / turn[server][kind][shown] for turn in turns))


def _claims(found: Found) -> list[Claim]:
    claims = []
    for shown in ("mean", "p99.9"):
        for kind, label in KINDS.items():
            ours = [ratio(found["turns"], server, kind, shown) for server in (ANY, AWAY)]
            paper = PAPER[CLIENT][kind][shown] / PAPER[ANY][kind][shown]
            what = f"{shown} of {label}: client-driven by any node, by a node without the key"
            claims.append(Claim(what, f"{paper:.2f}x", _times(ours), max(ours) < 1))
    for server in (ANY, AWAY):
        means = [ratio(found["turns"], server, kind, "mean") for kind in KINDS]
        what = f"the aim here, at most {AIM}x: mean of reads, of writes, by {server}"
        claims.append(Claim(what, "", _times(means), max(means) <= AIM))
    return claims


def _times(ratios: Sequence[float]) -> str:
    return ", ".join(f"{one:.2f}x" for one in ratios)


def _tables(found: Found) -> str:
    rows = [
        [
            name,
            label,
            *_pair(found, name, kind, "mean"),
            *_pair(found, name, kind, "p99.9"),
            middle(found["turns"], name, kind, "p50"),
        ]
        for name in (ANY, AWAY, CLIENT)
        for kind, label in KINDS.items()
    ]
    head = ["coordination", "of", "mean ms: the paper", "here", "p99.9 ms: the paper", "here", "p50 ms"]
    turns = len(found["turns"])
    return f"{table(head, rows)}\n\nAt {found['rate']:,.0f} requests/s; medians of {turns} turns."


def _pair(found: Found, name: str, kind: str, shown: str) -> tuple[float, float]:
    return PAPER[name][kind][shown], middle(found["turns"], name, kind, shown)


TABLE_2 = Experiment(
    title="Table 2: who coordinates",
    setting=(
        "Six nodes, N=3, R=W=2, `interval`; half reads, half overwriting puts of 100 bytes, an open loop at half of "
        "what the closed loop through any node reaches. Client-driven: the node that the key prefers is asked. "
        "Server-driven: any node is asked, which passes on what it does not serve, half of the requests; or always one "
        "that does not serve the key, as nearly all of the paper's hundreds of nodes would be. In the paper they also "
        "pass a load balancer."
    ),
    measure=_measure,
    claims=_claims,
    tables=_tables,
    plots=percentile_plots("Latency by who coordinates (table 2)"),
)
