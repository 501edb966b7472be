"""``dynafast put``, ``get`` and ``delete``: one request each, on the blocking client."""

import base64
from typing import Any

import click

from dynafast import GetResult, PutResult
from dynafast.cli.main import Exit
from dynafast.cli.options import (
    Function,
    context_text,
    json_option,
    key_argument,
    node_options,
    open_client,
    parse_context,
    read_value,
)
from dynafast.cli.output import print_json, write_bytes
from dynafast.limits import REPLICAS_MAX_COUNT

_QUORUM = click.IntRange(1, REPLICAS_MAX_COUNT)
_context_option = click.option("--context", metavar="C", help="What was read: just that is replaced.")
_sloppy_option = click.option(
    "--sloppy/--no-sloppy", default=None, help="Whether fallbacks may stand in for primaries. Default: yes."
)


def _write_options(command: Function) -> Function:
    """Give a write the options that say how many replicas of which kind must have it."""
    options = (
        click.option("--w", type=_QUORUM, help="Replicas that must have it. Default: the cluster's."),
        click.option("--pw", type=_QUORUM, help="Of these, primaries: nodes that serve the key."),
        click.option("--dw", type=_QUORUM, help="Replicas that must have it synced to disk."),
        _sloppy_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@key_argument
@click.argument("value", metavar="VALUE|-|@FILE")
@_context_option
@_write_options
@click.option("--overwrite", is_flag=True, help="Replace whatever is there, unseen.")
@json_option
@node_options()
def put(
    *,
    key: bytes,
    value: str,
    context: str | None,
    overwrite: bool,
    as_json: bool,
    at: str,
    timeout: float,
    **needs: Any,
) -> None:
    """Store VALUE under KEY; - reads it from stdin, @FILE from a file.

    Without a context the value is kept beside what is there. A KEY or VALUE that starts with - goes after --.
    """
    if overwrite and context is not None:
        raise click.UsageError("--overwrite replaces everything and --context just what was read: give one of them")
    seen, data = parse_context(context), read_value(value)
    with open_client(at, timeout) as client:
        written = client.put(key, data, context=seen, overwrite=overwrite, **needs)
    if as_json:
        print_json(_written_object(written))
    if written.live > 1:
        click.echo(f"dynafast: {written.live} versions are live now: see get --json, then put --context", err=True)


@click.command()
@key_argument
@click.option("--r", type=_QUORUM, help="Replicas that must answer. Default: the cluster's.")
@click.option("--pr", type=_QUORUM, help="Of these, primaries: nodes that serve the key.")
@_sloppy_option
@json_option
@node_options()
@click.pass_context
def get(ctx: click.Context, /, *, key: bytes, as_json: bool, at: str, timeout: float, **needs: Any) -> None:
    """Write the value of KEY to stdout, byte for byte.

    Nothing is written when KEY is not found (exit status 1) or has several versions (3); --json shows them.
    """
    with open_client(at, timeout) as client:
        found = client.get(key, **needs)
    count = len(found.versions)
    if as_json:
        print_json(_found_object(found))
    elif count == 0:
        click.echo("dynafast: not found", err=True)
    elif count == 1:
        write_bytes(found.versions[0].value)
    else:
        click.echo(f"dynafast: {count} versions survive: see get --json, then put --context", err=True)
    ctx.exit(Exit.NOT_FOUND if count == 0 else Exit.DONE if count == 1 else Exit.SEVERAL_VERSIONS)


@click.command()
@key_argument
@_context_option
@_write_options
@json_option
@node_options()
def delete(*, key: bytes, context: str | None, as_json: bool, at: str, timeout: float, **needs: Any) -> None:
    """Delete KEY. Without a context: what is there now; with one: just what was read.

    A KEY that is not there is no error.
    """
    seen = parse_context(context)
    with open_client(at, timeout) as client:
        written = client.delete(key, context=seen, **needs)
    if as_json:
        print_json({"deleted": written is not None, **({} if written is None else _written_object(written))})


def _found_object(found: GetResult) -> dict[str, object]:
    """Return what ``get --json`` prints."""
    return {
        "found": found.found,
        "versions": [
            {
                "value_b64": base64.b64encode(version.value).decode(),
                "actor": f"{version.actor:016x}",
                "counter": version.counter,
                "time": version.time >> 16,  # milliseconds: the rest of a hybrid time is a counter
            }
            for version in found.versions
        ],
        "context": context_text(found.context),
        "receipt": found.receipt._asdict(),
    }


def _written_object(written: PutResult) -> dict[str, object]:
    """Return what ``put --json`` prints, and ``delete --json`` when there was something to delete."""
    actor, counter = written.dot
    return {
        "actor": f"{actor:016x}",
        "counter": counter,
        "time": written.time >> 16,
        "live": written.live,
        "context": context_text(written.context),
        "receipt": written.receipt._asdict(),
    }
