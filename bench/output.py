"""How benchmarks say what they found: progress on a terminal, tables, and a file of JSON."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bench.load import Tick
from bench.machine import describe

OnTick = Callable[[Tick], None]


@contextmanager
def progress(what: str, seconds: float = 0.0, *, requests: int = 0) -> Iterator[OnTick]:
    """Show on a terminal how a load goes that lasts so long or has so many requests; elsewhere show nothing."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[now]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    before = [0.0, 0]

    def on_tick(tick: Tick) -> None:
        rate = (tick.done - before[1]) / max(tick.at_s - before[0], 1e-9)
        before[:] = tick.at_s, tick.done
        failed = f", {tick.failed:,} failed" if tick.failed else ""
        bar.update(
            task,
            completed=tick.done if requests else tick.at_s,
            now=f"{rate:,.0f}/s, p99 {tick.latency.ms(99):.2f} ms{failed}",
        )

    with bar:
        task = bar.add_task(what, total=requests or seconds, now="")
        yield on_tick


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as Markdown has it, which a terminal shows as well: columns padded, numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(3, *(len(row[i]) for row in [list(head), *cells])) for i in range(len(head))]
    right = [bool(rows) and all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        padded = (text.rjust(w) if r else text.ljust(w) for text, w, r in zip(row, widths, right, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = "|".join(f"-{'-' * w}{':' if r else '-'}" for w, r in zip(widths, right, strict=True))
    return "\n".join([line(list(head)), f"|{rule}|", *(line(row) for row in cells)])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def save(path: Path | None, name: str, arguments: Sequence[str], **found: Any) -> None:
    """Write what a benchmark found, with the command and the machine, for `python -m bench report`."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "bench", name, *arguments])
    whole = {"benchmark": name, "command": command, "machine": describe(), **found}
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)
