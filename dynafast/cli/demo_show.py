"""What ``dynafast demo`` prints: progress (a bar on a terminal, else plain lines) and the closing tables."""

import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import click

from dynafast.cli.corpus import Corpus
from dynafast.cli.demo_run import Outcome, Stage
from dynafast.cli.output import print_table

SHOWN_MAX = 10  # failures and mismatches told one by one
QUARTERS = 4


class LineTeller:
    """Tells in plain lines, four for a stage, for logs and pipes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put back."""

    def say(self, text: str) -> None:
        """Print one line."""
        click.echo(f"demo: {text}")

    def start(self, label: str, total: int) -> None:
        """Begin a stage of *total* steps."""
        self._label, self._total, self._done = label, total, 0

    def advance(self) -> None:
        """Count one step, and print a line at each quarter."""
        quarter = self._done * QUARTERS // self._total
        self._done += 1
        if self._done * QUARTERS // self._total > quarter:
            self.say(f"{self._label} {self._done} of {self._total}")


class BarTeller:
    """Shows a bar for the stage on a terminal, with the lines above it."""

    def __init__(self) -> None:
        from rich.console import Console  # here: a run without a terminal does not wait for it
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("demo: {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=Console(markup=False, highlight=False),
            transient=True,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self._bar.console.print(f"demo: {text}", soft_wrap=True)

    def start(self, label: str, total: int) -> None:
        """Show a fresh bar for a stage of *total* steps."""
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._task = self._bar.add_task(label, total=total)

    def advance(self) -> None:
        """Move the bar by one step."""
        self._bar.advance(self._task)


def open_teller() -> LineTeller | BarTeller:
    """Return the teller that suits where stdout goes."""
    return BarTeller() if sys.stdout.isatty() else LineTeller()


def describe(corpus: Corpus) -> str:
    """Return one line on what is stored, and how much was left out and why."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in corpus.left_out.items())
    return (
        f"{len(corpus.items)} files, {corpus.size} bytes under {corpus.root};"
        f" left out {sum(corpus.left_out.values())}" + (f": {reasons}" if reasons else "")
    )


def show_report(
    outcome: Outcome, stages: Sequence[Stage], members: Sequence[Mapping[str, Any]], remarks: Mapping[str, str]
) -> None:
    """Print what went wrong, one line each, then the table of the stages and the table of the nodes."""
    for kind, sentences in (("failed", outcome.failed), ("mismatch", outcome.mismatches)):
        for sentence in sentences[:SHOWN_MAX]:
            click.echo(f"demo: {kind}: {sentence}")
        if len(sentences) > SHOWN_MAX:
            click.echo(f"demo: {kind}: and {len(sentences) - SHOWN_MAX} more")
    rows = [
        (
            stage.name,
            len(stage.latencies),
            stage.size,
            round(len(stage.latencies) / stage.elapsed_s) if stage.elapsed_s else 0,
            *(round(1000 * stage.quantile(share), 1) for share in (0.5, 0.99, 0.999)),
        )
        for stage in stages
    ]
    click.echo("")
    print_table(("requests", "files", "bytes", "requests/s", "p50 ms", "p99 ms", "p99.9 ms"), rows)
    click.echo("")
    print_table(
        ("replicas on", "partitions", "keys", "bytes", ""),
        [
            (
                *(member[name] for name in ("name", "partitions", "keys", "bytes")),
                remarks.get(member["name"], ""),
            )
            for member in members
        ],
    )
    click.echo("")
