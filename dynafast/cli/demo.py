"""``dynafast demo``: a cluster of real processes stores real files and gives them back, while nodes come and go."""

from pathlib import Path

import click

from dynafast.cli.corpus import collect, standard_library
from dynafast.cli.main import Exit
from dynafast.errors import DynafastError

NODES_MIN = 3  # with fewer, no majority of three replicas survives the kill
NODES_MAX = 20
FAILED = 1


@click.command()
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--nodes",
    type=click.IntRange(NODES_MIN, NODES_MAX),
    default=5,
    show_default=True,
    help="How many processes.",
)
@click.option("--keep", is_flag=True, help="Keep the data folders, and say where they are.")
@click.pass_context
def demo(ctx: click.Context, *, folder: Path | None, nodes: int, keep: bool) -> None:
    """Store files and read them back, while a node joins, one is killed and comes back, and one leaves; compare.

    The files are all those under DIR, or the standard library of the running Python. Everything runs on this
    machine, in processes and a temporary folder that are gone afterwards. It ends when all replicas agree. The last
    line says how it went.
    """
    root = standard_library() if folder is None else folder
    try:
        corpus = collect(root)
    except OSError as error:
        raise click.UsageError(f"{str(root)!r} cannot be read: {error.strerror}") from error
    if not corpus.items:
        raise click.UsageError(f"{str(root)!r} has no regular file to store")
    from dynafast.cli.demo_cluster import run_demo  # here: help and usage errors do not wait for trio

    try:
        outcome = run_demo(corpus, nodes=nodes, keep=keep)
    except DynafastError as error:
        click.echo(f"dynafast: {error}", err=True)  # with the end of a node's log, so not in one line
        ctx.exit(FAILED)
    click.echo(outcome.line())
    ctx.exit(Exit.DONE if outcome.ok else FAILED)
