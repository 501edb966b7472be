"""Section 6.5: what foreground requests feel of background work, with and without its admission."""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.load import Histogram, LoadError, Workload, fill, native
from bench.output import table
from bench.paper.experiment import Claim, Experiment, Found, give, percentile_plots, summary
from dynafast import Client
from dynafast.testing import Cluster, ClusterError

NODES, PARTITIONS, REPLICAS = 5, 64, 3
HEAVY = 3  # the weight of a node that is to have every partition, beside four of weight 1
LOAD = 0.1  # of the saturation rate: a quarter of the processors, as few requests at a time cost more each
NAMES = ("mean", "p99", "p99.9")
NEAR = 0.1  # of the seats that are fair: what placement may bend
MOVE_MAX_S = 120.0
POLL_S = 0.1
FELT = 2.0  # a rise of p99 that still counts as hardly felt
BEFORE, DURING = "before", "during"
WITH, WITHOUT = "with admission", "without"
UNPACED = (sys.executable, str(Path(__file__).with_name("unpaced.py")), "serve")


class _Moves(threading.Thread):
    """Gives a node more weight, waits until it serves its share, takes the weight away again, and so on for a while.

    No process starts or ends for it, so that what requests feel is the moving of data alone.

    Attributes:
        count: how often it was done, to and fro.
        seconds: how long it took.
        error: why it did not come to its end.
    """

    def __init__(self, cluster: Cluster, least_s: float) -> None:
        super().__init__()
        self._cluster, self._least_s = cluster, least_s
        self.count = 0
        self.seconds = 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        begun = time.monotonic()
        try:
            with self._cluster.client() as client:
                while time.monotonic() < begun + self._least_s:
                    self._move(client, HEAVY, PARTITIONS)
                    self._move(client, 1, PARTITIONS * REPLICAS / NODES)
                    self.count += 1
        except Exception as error:  # noqa: BLE001 - raised again by who waits
            self.error = error
        self.seconds = time.monotonic() - begun

    def _move(self, client: Client, weight: int, seats: float) -> None:
        """Change the weight of the first node, and return when it has about so many *seats* and nothing moves."""
        name = self._cluster.nodes[0].name
        deadline = time.monotonic() + MOVE_MAX_S
        client.weight(name, weight)
        while True:
            every = [client.status(at=address) for address in self._cluster.addresses]
            held = next(member["seats"] for member in every[0]["members"] if member["name"] == name)
            if abs(held - seats) <= NEAR * seats and not any(status["moving"] for status in every):
                return
            if time.monotonic() > deadline:
                raise ClusterError(f"{name} has {held} of {seats:.0f} seats after {MOVE_MAX_S:.0f} s")
            time.sleep(POLL_S)


def _turn(
    setting: str, workload: Workload, seconds: float, whole: Mapping[str, Histogram], *, quick: bool
) -> dict[str, Any]:
    """Measure latency before data moves and while it does; add it to the *whole* of all turns."""
    cluster = Cluster(NODES, partitions=PARTITIONS, durability="interval")
    if setting == WITHOUT:
        cluster.command = UNPACED
    with cluster:
        target = native(cluster.addresses)
        fill(target, workload)
        rate = LOAD * give(target, workload, "closed loop", quick=quick, seconds=seconds).rate
        before = give(target, workload, "before data moves", quick=quick, seconds=2 * seconds, rate=rate).all
        during, failed = Histogram(), 0
        moves = _Moves(cluster, 10 * seconds)
        moves.start()
        try:
            while moves.is_alive():
                result = give(target, workload, "data moves", quick=quick, seconds=seconds, rate=rate, may_fail=True)
                during.merge(result.all)
                failed += result.failed
        finally:
            moves.join()
        if moves.error is not None:
            raise LoadError(f"moving data {setting}: {moves.error}") from moves.error
    for when, histogram in ((BEFORE, before), (DURING, during)):
        whole[f"{setting}, {when}"].merge(histogram)
    return {
        "rate": rate,
        BEFORE: summary(before),
        DURING: summary(during),
        "failed": failed,
        "moves_per_minute": 60 * moves.count / moves.seconds,
    }


def _measure(*, quick: bool) -> Found:
    turns, seconds = (1, 0.2) if quick else (3, 2.0)
    workload = Workload(records=5_000 if quick else 30_000, size_min=1_000, size_max=1_000)
    found: list[dict[str, Any]] = []
    whole = {f"{setting}, {when}": Histogram() for setting in (WITH, WITHOUT) for when in (BEFORE, DURING)}
    for turn in range(turns):
        order = (WITH, WITHOUT) if turn % 2 else (WITHOUT, WITH)
        found.append({setting: _turn(setting, workload, seconds, whole, quick=quick) for setting in order})
    hdr = {name: histogram.json()["hdr"] for name, histogram in whole.items()}
    return {"megabytes": workload.records // 1_000, "turns": found, "hdr": hdr}


def rise(turns: Sequence[dict[str, Any]], setting: str, shown: str = "p99") -> float:
    """Return the latency while data moves by that before, the median of the turns."""
    return float(median(turn[setting][DURING][shown] / turn[setting][BEFORE][shown] for turn in turns))


def _claims(found: Found) -> list[Claim]:
    paced, unpaced = (rise(found["turns"], setting) for setting in (WITH, WITHOUT))
    return [
        Claim(
            f"with admission requests hardly feel it: p99 meanwhile by p99 before, at most {FELT:g}x",
            "hardly",
            f"{paced:.1f}x",
            paced <= FELT,
        ),
        Claim("they would without: the same", "much", f"{unpaced:.1f}x", unpaced > max(FELT, paced)),
    ]


def _tables(found: Found) -> str:
    rows = [
        [
            str(number),
            setting,
            one["rate"],
            *(one[when][shown] for when in (BEFORE, DURING) for shown in NAMES),
            one["moves_per_minute"],
            one["failed"],
        ]
        for number, turn in enumerate(found["turns"], 1)
        for setting in (WITH, WITHOUT)
        for one in [turn[setting]]
    ]
    head = [
        "turn",
        "",
        "requests/s",
        "before: mean ms",
        "p99",
        "p99.9",
        "during: mean ms",
        "p99",
        "p99.9",
        "moves per minute",
        "failed",
    ]
    return table(head, rows)


SECTION_65 = Experiment(
    title="Section 6.5: foreground and background",
    setting=(
        "Five nodes, N=3, R=W=2, with 1 kB values; an open loop at a tenth of what the closed loop reaches, before "
        "and while data moves: again and again one node gets the weight to serve every partition, then loses it. "
        "Without admission: nodes in which all background work is let in at once, which no setting allows."
    ),
    measure=_measure,
    claims=_claims,
    tables=_tables,
    plots=percentile_plots("Latency before and while data moves (6.5)"),
)
