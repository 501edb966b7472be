"""How subcommands print: JSON objects and tables, drawn for a person and plain for a program."""

import json
import sys
from collections.abc import Sequence

import click

JSON = "dynafast.json"  # in the context of click: whether the command was given --json
RULES_PER_COLUMN = 3  # a blank on each side of a cell, and what stands between two columns


def write_bytes(data: bytes) -> None:
    """Write *data* to stdout, all of it: an unbuffered stdout may take a part at a time."""
    view = memoryview(data)
    while view:
        view = view[sys.stdout.buffer.write(view) :]


def print_json(item: object) -> None:
    """Print *item* as one JSON object: indented on a terminal, else one line. Bytes become hex."""
    click.echo(json.dumps(item, indent=2 if sys.stdout.isatty() else None, default=bytes.hex))


def cell(value: object) -> str:
    """Return *value* as a table shows it."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return " ".join(str(item) for item in value) or "-"
    return str(value)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a drawn table on a terminal, and elsewhere aligned columns, which no width can break."""
    cells = [[cell(value) for value in row] for row in rows]
    numeric = [all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    widths = [max(len(row[column]) for row in [header, *cells]) for column in range(len(header))]
    if sys.stdout.isatty():
        from rich.box import SIMPLE_HEAD  # here: a program that reads the output does not wait for it
        from rich.console import Console
        from rich.table import Table

        table = Table(box=SIMPLE_HEAD, show_edge=False)
        for title, right in zip(header, numeric, strict=True):
            table.add_column(title, justify="right" if right else "left", no_wrap=True)
        for row in cells:
            table.add_row(*row)
        # As text, not as markup: [::1] is an address. On a narrow terminal long lines go on in the next row: cut
        # short, they would be of no use.
        console = Console(markup=False, highlight=False)
        console.width = max(console.width, sum(widths) + RULES_PER_COLUMN * len(widths))
        console.print(table)
        return
    for line in [list(header), *cells]:
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        click.echo("  ".join(padded).rstrip())
