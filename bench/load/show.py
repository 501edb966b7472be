"""Tables and plots of loads, from what `bench.load.Result.json` gave: for the command, and from its file later."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.load.histogram import NAMED, Histogram
from bench.output import table

Loads = Sequence[Mapping[str, Any]]  # "load", a name, beside the fields of a result


def loads_table(loads: Loads) -> str:
    """Return a row for each load."""
    head = ["load", "offered/s", "done/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "failed", "unsent"]
    head += ["server µs/request", "client cores"]
    rows = []
    for load in loads:
        latency = load["all"]
        row = [load["load"], load["offered"], load["rate"], *(latency[f"p{p}_ms"] for p in (50, 99, 99.9))]
        row += [latency["max_ms"], load["failed"], load["unsent"], load["server_us"], load["client_cores"]]
        rows.append(row)
    return table(head, rows)


def kinds_table(load: Mapping[str, Any]) -> str:
    """Return a row for each kind of request of one load."""
    rows = [
        [kind, one["count"], one["mean_ms"], *(one[f"p{p}_ms"] for p in NAMED), one["max_ms"]]
        for kind, one in load["latency"].items()
    ]
    return table(["kind", "requests", "mean ms", *(f"p{p}" for p in NAMED), "max"], rows)


def tables(loads: Loads) -> str:
    """Return the table of the loads; of a single one, that of its kinds too."""
    return loads_table(loads) if len(loads) > 1 else f"{loads_table(loads)}\n\n{kinds_table(loads[0])}"


def plots(folder: Path, stem: str, loads: Loads) -> list[Path]:
    """Draw a curve of latency against load if there is one, else how long the requests of the first load took."""
    from bench import plot  # here: matplotlib takes as long to import as a short load

    curve = [load for load in loads if load["offered"]]
    paths = [folder / f"{stem}-{what}.svg" for what in ("curve" if len(curve) > 1 else "histogram", "percentiles")]
    if len(curve) > 1:
        lines = {f"p{p}": [(load["offered"], load["all"][f"p{p}_ms"]) for load in curve] for p in (50, 99, 99.9)}
        plot.curves(paths[0], lines, x="requests/s", y="ms", title="Latency against load, open loop")
        whole = {load["load"]: Histogram.decode(load["all"]["hdr"]) for load in curve}
        plot.percentiles(paths[1], whole, title="Latency at each load")
        return paths
    kinds = {kind: Histogram.decode(one["hdr"]) for kind, one in loads[0]["latency"].items()}
    plot.histogram(paths[0], kinds, title=f"How long requests took: {loads[0]['load']}")
    plot.percentiles(paths[1], kinds, title=f"Latency: {loads[0]['load']}")
    return paths
