"""Plots of what benchmarks found, as SVG. The same numbers make the same file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams.update({"svg.hashsalt": "dynafast", "svg.fonttype": "none", "font.size": 9, "axes.grid": True})
mpl.rcParams.update({"grid.alpha": 0.3, "figure.figsize": (7, 4), "lines.markersize": 4})

from matplotlib import pyplot  # noqa: E402 - after the choice of what draws
from matplotlib.axes import Axes  # noqa: E402

from bench.load.histogram import Histogram  # noqa: E402

NINES = (0, 50, 90, 99, 99.9, 99.99)

# What a line shows: label -> (x, y) of its points.
Lines = Mapping[str, Sequence[tuple[float, float]]]


def curves(path: Path, lines: Lines, *, x: str, y: str, title: str, log_x: bool = False, log_y: bool = True) -> None:
    """Draw lines over a common axis, latency against load for instance."""
    _, axes = pyplot.subplots()
    for label, points in lines.items():
        axes.plot([a for a, _ in points], [b for _, b in points], marker="o", label=label)
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    _finish(path, axes, x=x, y=y, title=title)


def percentiles(path: Path, histograms: Mapping[str, Histogram], *, title: str) -> None:
    """Draw how long the slowest took, as HdrHistogram is drawn: each step to the right is ten times rarer."""
    _, axes = pyplot.subplots()
    for label, histogram in histograms.items():
        total, seen, points = len(histogram), 0, []
        for ms, count in histogram.cells():
            points.append((total / (total - seen), ms))
            seen += count
        axes.plot([a for a, _ in points], [b for _, b in points], label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([100 / (100 - nine) for nine in NINES], [f"{nine:g} %" for nine in NINES])
    axes.minorticks_off()
    _finish(path, axes, x="requests that took no longer", y="ms", title=title)


def histogram(path: Path, histograms: Mapping[str, Histogram], *, title: str, bins_per_decade: int = 20) -> None:
    """Draw how many took how long, in bins of equal ratio."""
    _, axes = pyplot.subplots()
    for label, one in histograms.items():
        cells = [(ms, count) for ms, count in one.cells() if ms > 0]
        low = min((ms for ms, _ in cells), default=1.0)
        steps = range(round(bins_per_decade * 6))
        edges = [low * 0.99 * 10 ** (step / bins_per_decade) for step in steps]
        last = next((i for i, edge in enumerate(edges) if not cells or edge > cells[-1][0]), len(edges) - 1)
        axes.hist(
            [ms for ms, _ in cells],
            bins=edges[: last + 1] if last else edges[:2],
            weights=[count for _, count in cells],
            histtype="step",
            label=label,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    _finish(path, axes, x="ms", y="requests", title=title)


def _finish(path: Path, axes: Axes, *, x: str, y: str, title: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    axes.figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(axes.figure)
