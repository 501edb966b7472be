"""``python -m bench paper``: the paper's experiments, its numbers beside ours, and whether they say the same."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.output import save
from bench.paper.background import SECTION_65
from bench.paper.balance import FIGURE_6, FIGURE_8
from bench.paper.coordination import TABLE_2
from bench.paper.day import FIGURE_4, FIGURE_5
from bench.paper.experiment import Experiment, Found
from bench.paper.versions import SECTION_63
from dynafast.errors import DynafastError

EXPERIMENTS: Mapping[str, Experiment] = {
    "figure4": FIGURE_4,
    "figure5": FIGURE_5,
    "figure6": FIGURE_6,
    "figure8": FIGURE_8,
    "table2": TABLE_2,
    "versions": SECTION_63,
    "background": SECTION_65,
}


def tables(found: Mapping[str, Found]) -> str:
    """Return all that was found, in the order of the paper."""
    return "\n\n".join(
        f"### {experiment.title}\n\n{experiment.text(found[name])}"
        for name, experiment in EXPERIMENTS.items()
        if name in found
    )


def plots(folder: Path, stem: str, found: Mapping[str, Found]) -> list[Path]:
    """Draw all that was found."""
    return [
        path
        for name, experiment in EXPERIMENTS.items()
        if name in found
        for path in experiment.plots(folder, f"{stem}-{name}", found[name])
    ]


def run(arguments: Sequence[str]) -> int:
    """Repeat the experiments, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench paper", description=__doc__)
    parser.add_argument("--only", choices=EXPERIMENTS, action="append", help="repeatable; default: all")
    parser.add_argument("--quick", action="store_true", help="short, with little data: to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="where to write SVG plots")
    options = parser.parse_args(arguments)
    found: dict[str, Found] = {}
    try:
        for name in options.only or EXPERIMENTS:
            print(f"{EXPERIMENTS[name].title} ...", file=sys.stderr, flush=True)
            found[name] = EXPERIMENTS[name].measure(quick=options.quick)
            print(tables({name: found[name]}), end="\n\n", flush=True)
    except DynafastError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    save(options.json, "paper", arguments, experiments=found)
    if options.plot:
        plots(options.plot, "paper", found)
    return 0
