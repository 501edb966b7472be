"""``python -m bench report``: writes the tables of docs/benchmarks.md and the plots from the files of ``--json``.

Between the lines ``<!-- bench: NAME -->`` and ``<!-- end -->`` of the document comes what ``NAME.json`` in the folder
of results says, or all ``NAME-*.json`` together, with the commands and the machine; or ``NAME.txt``, what ``python -m
bench NAME`` printed. `make bench` measures all of it anew.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import cold, footprint, scale
from bench.load import show
from bench.machine import sentence
from bench.paper import command as paper
from bench.peers import command as peers

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
SECTION = re.compile(r"(?P<begin><!-- bench: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
STUDIES_DRAWN = ("nodes", "clients", "data")

Found = Mapping[str, Any]  # what a file has


def _load(found: Sequence[tuple[str, Found]], folder: Path, name: str) -> tuple[str, list[Path]]:
    loads = [
        dict(load, load=label if len(found) > 1 else load["load"]) for label, one in found for load in one["loads"]
    ]
    return show.tables(loads), show.plots(folder, name, loads) if len(found) == 1 else []


def _scale(found: Sequence[tuple[str, Found]], folder: Path, name: str) -> tuple[str, list[Path]]:
    from bench import plot  # here: matplotlib is slow to import

    studies = found[0][1]["studies"]
    path = folder / f"{name}.svg"
    lines = {
        study: [(number, point["server_us"]) for number, point in enumerate(studies[study], 1)]
        for study in STUDIES_DRAWN
        if study in studies
    }
    plot.curves(path, lines, x="point of the study", y="server µs/request", title="Cost of a request")
    return scale.tables(studies), [path]


def _paper(found: Sequence[tuple[str, Found]], folder: Path, name: str) -> tuple[str, list[Path]]:
    experiments = {which: one for _, file in found for which, one in file["experiments"].items()}
    return paper.tables(experiments), paper.plots(folder, name, experiments)


def _text(render: Callable[[Found], str]) -> Callable[..., tuple[str, list[Path]]]:
    return lambda found, _folder, _name: (render(found[0][1]), [])


# Benchmark -> what makes its tables and plots.
RENDERERS: Mapping[str, Callable[[Sequence[tuple[str, Found]], Path, str], tuple[str, list[Path]]]] = {
    "load": _load,
    "scale": _scale,
    "paper": _paper,
    "peers": _text(lambda found: peers.tables(found)),
    "sla": _text(lambda found: str(found["text"])),
    "cold": _text(lambda found: cold.tables(found["found"])),
    "footprint": _text(lambda found: footprint.tables(found["found"])),
}


def section(name: str, results: Path, document: Path) -> str | None:
    """Return the text for a section, its plots drawn; None when there are no files for it."""
    printed = results / f"{name}.txt"
    if printed.exists():
        return f"\n    python -m bench {name}\n\n```\n{printed.read_text(encoding='utf-8').strip()}\n```\n\n"
    paths = [path] if (path := results / f"{name}.json").exists() else sorted(results.glob(f"{name}-*.json"))
    if not paths:
        return None
    found = [(path.stem.removeprefix(f"{name}-"), json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    text, plots = RENDERERS[found[0][1]["benchmark"]](found, results, name)
    commands = "\n".join(f"    {one['command']}" for _, one in found)
    links = "".join(f"\n![{plot.stem}]({os.path.relpath(plot, document.parent)})" for plot in plots)
    return f"\n{commands}\n\n{sentence(found[0][1]['machine'])}.\n\n{text}\n{links and links + chr(10)}\n"


def fill_in(text: str, results: Path, document: Path) -> tuple[str, list[str]]:
    """Return the document with its sections filled, and the names of those that have no files and stay as they are."""
    lacking = []

    def replace(match: re.Match[str]) -> str:
        found = section(match["name"], results, document)
        if found is None:
            lacking.append(match["name"])
            return match[0]
        return f"{match['begin']}{found}{match['end']}"

    return SECTION.sub(replace, text), lacking


def run(arguments: Sequence[str]) -> int:
    """Write the document, and say what has no results."""
    parser = argparse.ArgumentParser(prog="python -m bench report", description=__doc__)
    parser.parse_args(arguments)
    text, lacking = fill_in(DOCUMENT.read_text(encoding="utf-8"), RESULTS, DOCUMENT)
    DOCUMENT.write_text(text, encoding="utf-8")
    for name in lacking:
        print(f"no results for {name}: left as it is", file=sys.stderr)
    return 0
