"""Section 6.5: what foreground requests feel of background work, with and without its admission."""

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.load import Histogram, LoadError, Workload, fill, native
from bench.output import table
from bench.paper.experiment import Claim, Experiment, Found, give, summary
from dynafast.testing import Cluster, ClusterError

NODES, PARTITIONS, REPLICAS = 4, 64, 3
LOAD = 0.25  # of the saturation rate
NAMES = ("mean", "p99", "p99.9")
LEAST_SHARE = 0.9  # of the seats that are fair, with what placement may bend
JOIN_MAX_S = 240.0
POLL_S = 0.1
WITH, WITHOUT = "with admission", "without"
UNPACED = (sys.executable, str(Path(__file__).with_name("unpaced.py")), "serve")


class _Join(threading.Thread):
    """Lets a node join, and waits until it serves its share of the data.

    Attributes:
        seconds: how long it took.
        error: why it did not.
    """

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self._cluster = cluster
        self.seconds = 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        begun = time.monotonic()
        try:
            self._join(begun + JOIN_MAX_S)
        except Exception as error:  # noqa: BLE001 - raised again by who waits
            self.error = error
        self.seconds = time.monotonic() - begun

    def _join(self, deadline: float) -> None:
        node = self._cluster.add_node()
        share = PARTITIONS * REPLICAS * LEAST_SHARE / (NODES + 1)
        with self._cluster.client() as client:
            while True:
                status = client.status(at=node.address)
                seats = next(member["seats"] for member in status["members"] if member["name"] == node.name)
                if not status["moving"] and seats >= share:
                    return
                if time.monotonic() > deadline:
                    raise ClusterError(f"{node.name} has {seats} of {share:.0f} seats after {JOIN_MAX_S:.0f} s")
                time.sleep(POLL_S)


def _turn(setting: str, workload: Workload, seconds: float, *, quick: bool) -> dict[str, Any]:
    """Measure latency before a join and while it goes on."""
    cluster = Cluster(NODES, partitions=PARTITIONS, durability="interval")
    if setting == WITHOUT:
        cluster.command = UNPACED
    with cluster:
        target = native(cluster.addresses)
        fill(target, workload)
        rate = LOAD * give(target, workload, "closed loop", quick=quick, seconds=seconds).rate
        before = give(target, workload, "before the join", quick=quick, seconds=2 * seconds, rate=rate).all
        during = Histogram()
        join = _Join(cluster)
        join.start()
        try:
            while join.is_alive():
                during.merge(give(target, workload, "a node joins", quick=quick, seconds=seconds, rate=rate).all)
        finally:
            join.join()
        if join.error is not None:
            raise LoadError(f"the join {setting}: {join.error}") from join.error
    return {"rate": rate, "before": summary(before), "during": summary(during), "seconds": join.seconds}


def _measure(*, quick: bool) -> Found:
    turns, seconds = (1, 0.5) if quick else (3, 1.0)
    workload = Workload(records=5_000 if quick else 100_000, size_min=1_000, size_max=1_000)
    found: list[dict[str, Any]] = []
    for turn in range(turns):
        order = (WITH, WITHOUT) if turn % 2 else (WITHOUT, WITH)
        found.append({setting: _turn(setting, workload, seconds, quick=quick) for setting in order})
    return {"megabytes": workload.records // 1_000, "turns": found}


def rise(turns: Sequence[dict[str, Any]], setting: str, shown: str = "p99") -> float:
    """Return the latency during the join by that before it, the median of the turns."""
    return float(median(turn[setting]["during"][shown] / turn[setting]["before"][shown] for turn in turns))


def _claims(found: Found) -> list[Claim]:
    paced, unpaced = (rise(found["turns"], setting) for setting in (WITH, WITHOUT))
    return [
        Claim(
            "p99 during background work by p99 before: with admission, without",
            "little impact with it",
            f"{paced:.2f}x, {unpaced:.2f}x",
            paced < unpaced,
        )
    ]


def _tables(found: Found) -> str:
    rows = [
        [
            str(number),
            setting,
            one["rate"],
            *(one[when][shown] for when in ("before", "during") for shown in NAMES),
            one["seconds"],
        ]
        for number, turn in enumerate(found["turns"], 1)
        for setting in (WITH, WITHOUT)
        for one in [turn[setting]]
    ]
    head = ["turn", "", "requests/s", "before: mean ms", "p99", "p99.9", "during: mean ms", "p99", "p99.9", "join s"]
    return table(head, rows)


def _plots(folder: Path, name: str, found: Found) -> list[Path]:
    from bench import plot

    path = folder / f"{name}.svg"
    lines = {
        f"{setting}, {when}": [(number, turn[setting][when]["p99"]) for number, turn in enumerate(found["turns"], 1)]
        for setting in (WITH, WITHOUT)
        for when in ("before", "during")
    }
    plot.curves(path, lines, x="turn", y="p99 ms", title="p99 of requests before and during a join (6.5)", log_y=False)
    return [path]


SECTION_65 = Experiment(
    title="Section 6.5: foreground and background",
    setting=(
        "Four nodes, N=3, R=W=2, with 1 kB values; an open loop at a quarter of what the closed loop reaches, before "
        "and while a fifth node joins and takes over its share. Without admission: nodes in which all background work "
        "is let in at once, which no setting allows."
    ),
    measure=_measure,
    claims=_claims,
    tables=_tables,
    plots=_plots,
)
