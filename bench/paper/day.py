"""Figures 4 and 5: latency over the hours of a day, whose length is compressed to seconds."""

from collections.abc import Sequence
from math import cos, pi
from pathlib import Path
from statistics import mean, median
from typing import Any

from bench.load import Histogram, Workload, fill, native
from bench.output import table
from bench.paper.experiment import Claim, Experiment, Found, give, summary
from dynafast.testing import Cluster

PEAK = 0.5  # of the saturation rate
NIGHT = 0.2  # of the peak
KINDS = ("read", "update")
WORKLOAD = Workload(records=20_000)
QUICK_WORKLOAD = Workload(records=2_000)
BUFFERED, ONE_DURABLE, DURABLE = "interval", "interval, dw=1", "group"

Hours = Sequence[dict[str, Any]]


def rates(peak: float, *, hours: int, days: int = 1) -> list[float]:
    """Return the requests per second of every hour: days that begin at night, with the peak at noon."""
    return [
        peak * (NIGHT + (1 - NIGHT) * (1 - cos(2 * pi * (hour + 0.5) / hours)) / 2)
        for _ in range(days)
        for hour in range(hours)
    ]


def busiest(hours: Hours, *, quietest: bool = False) -> Hours:
    """Return the quarter of the hours with the most requests, or with the fewest."""
    ordered = sorted(hours, key=lambda hour: hour["rate"], reverse=not quietest)
    return ordered[: max(1, len(ordered) // 4)]


# ---- figure 4


def _measure_4(*, quick: bool) -> Found:
    workload, hours, days, seconds = (QUICK_WORKLOAD, 6, 1, 0.5) if quick else (WORKLOAD, 24, 2, 4.0)
    whole = {kind: Histogram() for kind in KINDS}
    found = []
    with Cluster(3, partitions=256, durability="group") as cluster:
        target = native(cluster.addresses)
        fill(target, workload)
        peak = PEAK * give(target, workload, "closed loop", quick=quick, seconds=seconds).rate
        for number, rate in enumerate(rates(peak, hours=hours, days=days)):
            result = give(target, workload, f"hour {number}", quick=quick, seconds=seconds, rate=rate)
            for kind in KINDS:
                whole[kind].merge(result.latency[kind])
            found.append({"hour": number, "rate": rate, **{kind: summary(result.latency[kind]) for kind in KINDS}})
    return {"seconds": seconds, "hours": found, "whole": {kind: summary(whole[kind]) for kind in KINDS}}


def _claims_4(found: Found) -> list[Claim]:
    read, update = (found["whole"][kind] for kind in KINDS)
    tails = [one["p99.9"] / one["mean"] for one in (read, update)]
    night, day = (
        mean(hour[kind]["mean"] for hour in busiest(found["hours"], quietest=quietest) for kind in KINDS)
        for quietest in (True, False)
    )
    return [
        Claim(
            "p99.9 within the promise of 300 ms: reads, writes",
            "about 200 ms",
            f"{read['p99.9']:.1f}, {update['p99.9']:.1f} ms",
            max(read["p99.9"], update["p99.9"]) <= 300,
        ),
        Claim(
            "p99.9 is an order of magnitude above the mean: reads, writes",
            "10x",
            f"{tails[0]:.1f}x, {tails[1]:.1f}x",
            min(tails) >= 5,
        ),
        Claim(
            "writes take longer than reads: mean of writes by that of reads",
            "> 1x",
            f"{update['mean'] / read['mean']:.2f}x",
            update["mean"] > read["mean"],
        ),
        Claim("latency follows the load: mean by day by that of the night", "> 1x", f"{day / night:.2f}x", day > night),
    ]


def _tables_4(found: Found) -> str:
    names = ("mean", "p99", "p99.9")
    rows = [
        [label, rate, *(one[kind][name] for kind in KINDS for name in names)]
        for label, rate, one in (
            *((str(hour["hour"]), hour["rate"], hour) for hour in found["hours"]),
            ("all", None, found["whole"]),
        )
    ]
    head = ["hour", "requests/s", "read mean ms", "p99", "p99.9", "write mean ms", "p99", "p99.9"]
    return table(head, rows)


def _plots_4(folder: Path, name: str, found: Found) -> list[Path]:
    from bench import plot  # here, as in all experiments: matplotlib is slow to import

    path = folder / f"{name}.svg"
    lines = {
        f"{label}, {shown}": [(hour["hour"], hour[kind][shown]) for hour in found["hours"]]
        for kind, label in zip(KINDS, ("reads", "writes"), strict=True)
        for shown in ("mean", "p99.9")
    }
    plot.curves(path, lines, x="hour", y="ms", title="Latency over the hours (figure 4)")
    return [path]


FIGURE_4 = Experiment(
    title="Figure 4: latency over days",
    setting=(
        "Three nodes, N=3, R=W=2, `group`; half reads, half overwriting puts of 100 bytes in an open loop, whose rate "
        "rises and falls as days and nights do, up to half of what the closed loop reaches."
    ),
    measure=_measure_4,
    claims=_claims_4,
    tables=_tables_4,
    plots=_plots_4,
)

# ---- figure 5


def _measure_5(*, quick: bool) -> Found:
    workload, hours, seconds = (QUICK_WORKLOAD, 4, 0.5) if quick else (WORKLOAD, 24, 3.0)
    found: list[dict[str, Any]] = []
    with (
        Cluster(3, partitions=256, durability="group") as durable,
        Cluster(3, partitions=256, durability="interval") as buffered,
    ):
        targets = {
            DURABLE: native(durable.addresses),
            BUFFERED: native(buffered.addresses),
            ONE_DURABLE: native(buffered.addresses, dw=1),
        }
        for name in (DURABLE, BUFFERED):
            fill(targets[name], workload)
        peak = PEAK * give(targets[DURABLE], workload, "closed loop", quick=quick, seconds=seconds).rate
        for number, rate in enumerate(rates(peak, hours=hours)):
            hour: dict[str, Any] = {"hour": number, "rate": rate}
            for name in _turned(list(targets), number):  # nobody always comes first
                result = give(targets[name], workload, f"hour {number}", quick=quick, seconds=seconds, rate=rate)
                hour[name] = summary(result.latency["update"])
            found.append(hour)
    return {"seconds": seconds, "hours": found}


def _turned(names: list[str], by: int) -> list[str]:
    return names[by % len(names) :] + names[: by % len(names)]


def _at_peak(found: Found, name: str) -> float:
    return float(median(hour[name]["p99.9"] for hour in busiest(found["hours"])))


def _unrest(found: Found, name: str) -> float:
    tails = [hour[name]["p99.9"] for hour in found["hours"]]
    return float(max(tails) / median(tails))


def _claims_5(found: Found) -> list[Claim]:
    durable, one, buffered = (_at_peak(found, name) for name in (DURABLE, ONE_DURABLE, BUFFERED))
    rough, smooth = _unrest(found, DURABLE), _unrest(found, BUFFERED)
    return [
        Claim(
            "p99.9 of writes at peak: `group` by `interval`", "5x", f"{durable / buffered:.1f}x", durable > 2 * buffered
        ),
        Claim(
            "one durable write of the N costs little: p99.9, `dw=1` by none",
            "about 1x",
            f"{one / buffered:.1f}x",
            one < 1.5 * buffered,
        ),
        Claim(
            "the buffer smooths: worst hour's p99.9 by the median, `group`, `interval`",
            "smoother",
            f"{rough:.1f}x, {smooth:.1f}x",
            smooth < rough,
        ),
    ]


def _tables_5(found: Found) -> str:
    names = (DURABLE, ONE_DURABLE, BUFFERED)
    rows = [
        [str(hour["hour"]), hour["rate"], *(hour[name][shown] for name in names for shown in ("mean", "p99.9"))]
        for hour in found["hours"]
    ]
    return table(["hour", "requests/s", *(text for name in names for text in (f"{name}: mean ms", "p99.9"))], rows)


def _plots_5(folder: Path, name: str, found: Found) -> list[Path]:
    from bench import plot

    path = folder / f"{name}.svg"
    lines = {
        setting: [(hour["hour"], hour[setting]["p99.9"]) for hour in found["hours"]]
        for setting in (DURABLE, ONE_DURABLE, BUFFERED)
    }
    plot.curves(path, lines, x="hour", y="ms", title="p99.9 of writes over the hours (figure 5)")
    return [path]


FIGURE_5 = Experiment(
    title="Figure 5: buffered writes",
    setting=(
        "The same load for three settings in turn within each hour: `group` (a write counts once it is fsynced), "
        "`interval` (writes are fsynced every second), and `interval` with `dw=1` (one of the replicas fsyncs before "
        "the answer; the paper's coordinator does not wait for that one). Peak: half of what `group` reaches."
    ),
    measure=_measure_5,
    claims=_claims_5,
    tables=_tables_5,
    plots=_plots_5,
)
