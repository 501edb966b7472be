"""``dynafast status`` and ``ring``: what a node knows about its cluster. They change nothing."""

from typing import Any

import click

from dynafast.cli.members import short_id
from dynafast.cli.options import json_option, key_argument, node_options, open_client
from dynafast.cli.output import cell, print_json, print_table

_MEMBER_FIELDS = (
    "name",
    "id",
    "address",
    "status",
    "alive",
    "weight",
    "zone",
    "host",
    "partitions",
    "keys",
    "bytes",
)
_WORK = {
    "hints": ("target", "count", "bytes", "reason"),
    "transfers": ("partition", "from", "progress", "waiting"),
}


@click.command()
@click.option("--config", is_flag=True, help="Every setting of the node, its value and where it came from.")
@json_option
@node_options()
def status(*, config: bool, as_json: bool, at: str, timeout: float) -> None:
    """Show the cluster and its members, as one node sees them."""
    with open_client(at, timeout) as client:
        found = client.status(at=at, config=config)  # that node alone, whatever the others say
    if as_json:
        print_json(found)
    elif config:
        rows = [(name, cell(item["value"]), item["source"]) for name, item in found["config"].items()]
        print_table(("setting", "value", "source"), rows)
    else:
        click.echo("cluster " + "  ".join(f"{name}={cell(value)}" for name, value in found["cluster"].items()))
        length = short_id([member["id"] for member in found["members"]])
        members = [{**member, "id": member["id"][:length]} for member in found["members"]]
        print_table(_MEMBER_FIELDS, [[cell(member[name]) for name in _MEMBER_FIELDS] for member in members])
        _show_work(found)


@click.command()
@key_argument
@json_option
@node_options()
def ring(*, key: bytes, as_json: bool, at: str, timeout: float) -> None:
    """Show the position and partition of KEY, and its nodes in order of preference."""
    with open_client(at, timeout) as client:
        found = client.ring(key, at=at)
    if as_json:
        print_json({name: found[name] for name in ("position", "partition", "preference")})
    else:
        click.echo(f"position   {found['position']:#018x}")
        click.echo(f"partition  {found['partition']}")
        click.echo(f"preference {' '.join(found['preference'])}")


def _show_work(status: dict[str, Any]) -> None:
    """Show what the node is about: hints that wait, partitions on their way, replicas that differ."""
    for name, fields in _WORK.items():
        rows = [[*(item[field] for field in fields[:-1]), cell(item[fields[-1]])] for item in status.get(name, ())]
        if rows:
            click.echo("")
            print_table([f"{name}: {fields[0]}", *fields[1:]], rows)
    if status.get("differ"):
        click.echo("")
        click.echo(f"partitions whose replicas differ: {cell(status['differ'])}")
    waiting = status.get("tombstones", {})
    if waiting.get("reason"):
        click.echo("")
        click.echo(f"deleted keys and long contexts to be dropped: {waiting['waiting']} ({waiting['reason']})")
