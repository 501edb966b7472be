"""What every experiment has: how it is measured, and what its numbers say beside the paper's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench import load
from bench.load import Histogram, Result, Target, Workload
from bench.output import progress, table

Found = Mapping[str, Any]  # what an experiment found, as its file has it


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that the paper says. *same*: whether our numbers say it too."""

    what: str
    paper: str
    ours: str
    same: bool


class Measure(Protocol):
    """Measures; *quick*: for a short time and with little data, to see that it works."""

    def __call__(self, *, quick: bool) -> Found: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One figure, table or section of the paper.

    Attributes:
        title: what it is about.
        setting: how it is done here, for the reader of the numbers.
        measure: starts what it needs, and returns what was found.
        claims: the paper's numbers and ours.
        tables: all that was found.
        plots: draws it into a folder, under a name; returns the files.
    """

    title: str
    setting: str
    measure: Measure
    claims: Callable[[Found], Sequence[Claim]]
    tables: Callable[[Found], str]
    plots: Callable[[Path, str, Found], list[Path]]

    def text(self, found: Found) -> str:
        """Return the conclusions, then the numbers behind them."""
        rows = [[one.what, one.paper, one.ours, "yes" if one.same else "no"] for one in self.claims(found)]
        claims = table(["", "the paper", "here", "same conclusion"], rows)
        return f"{self.setting}\n\n{claims}\n\n{self.tables(found)}"


def percentile_plots(title: str) -> Callable[[Path, str, Found], list[Path]]:
    """Return what draws the distributions ``found["hdr"]``, a line for each."""

    def plots(folder: Path, name: str, found: Found) -> list[Path]:
        from bench import plot  # here, as in all experiments: matplotlib is slow to import

        path = folder / f"{name}.svg"
        plot.percentiles(path, {line: Histogram.decode(hdr) for line, hdr in found["hdr"].items()}, title=title)
        return [path]

    return plots


def give(
    target: Target,
    workload: Workload,
    what: str,
    *,
    quick: bool,
    seconds: float,
    rate: float = 0.0,
    may_fail: bool = False,
) -> Result:
    """Give one load, an open loop if there is a *rate*.

    Raises:
        LoadError: an answer was wrong, or, unless they *may fail*, a request failed.
    """
    with progress(what, seconds) as on_tick:
        result = load.run(
            target,
            workload,
            connections=48,
            seconds=seconds,
            warmup=0.1 if quick else 0.5,
            paces=[(seconds, rate)] if rate else [],
            on_tick=on_tick,
        )
    return result if may_fail and not result.wrong else result.must_be_right(what=what)


def summary(histogram: Histogram) -> dict[str, float]:
    """Return the numbers that the paper gives of latencies."""
    return {"mean": histogram.mean_ms, "p50": histogram.ms(50), "p99": histogram.ms(99), "p99.9": histogram.ms(99.9)}
