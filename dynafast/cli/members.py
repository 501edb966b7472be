"""``dynafast leave``, ``remove``, ``weight``, ``plan`` and ``check``: who is of the cluster, and whether all is well.

A change is accepted or refused at once, and the nodes do it behind; with ``--wait`` the command ends when it is done.
"""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from dynafast import Client
from dynafast.cli.options import json_option, node_options, open_client
from dynafast.cli.output import cell, print_json, print_table
from dynafast.limits import WEIGHT_MAX
from dynafast.protocol import GONE

NOT_CLEAN = 1
PAUSE_S = 0.2
SHOWN_MAX = 20  # partitions told one by one
NEW_NODE = "(new)"
CHECK_S = 12.0  # a node answers a check within 10
SHORT_ID_MIN = 4  # hex digits

_DIGITS = re.compile(f"[0-9a-f]{{{SHORT_ID_MIN},}}")

_name = click.argument("name")
_weight = click.IntRange(1, WEIGHT_MAX)
_wait_option = click.option("--wait", is_flag=True, help="End when it is done. Ctrl-C ends the command alone.")


@click.command()
@_name
@_wait_option
@json_option
@node_options()
def leave(*, name: str, wait: bool, as_json: bool, at: str, timeout: float) -> None:
    """Tell node NAME to hand over what it has, and go.

    Its process ends with status 0 when it has handed over. Refused if fewer hosts than replicas would be left, unless
    another node stays on its host. NAME may be the node's id, as `status` shows it.
    """
    with open_client(at, timeout) as client:
        name = _meant(client, at, name)
        answer = client.leave(name)
        if wait:
            _await(lambda: not _present(client.status(), name))
    _show("leave", name, answer, done=wait, as_json=as_json)


@click.command()
@_name
@click.option("--accept-loss", is_flag=True, help="Also if partitions are lost by it; they are listed.")
@_wait_option
@json_option
@node_options()
def remove(*, name: str, accept_loss: bool, wait: bool, as_json: bool, at: str, timeout: float) -> None:
    """Take node NAME, which is dead, out of the cluster for ever.

    Others take over what it served. Refused while it answers: then it can leave. It can never come back. NAME may be
    the node's id, as `status` shows it.
    """
    with open_client(at, timeout) as client:
        name = _meant(client, at, name)
        answer = client.remove(name, accept_loss=accept_loss)
        if wait:
            _await(lambda: not _present(client.status(at=at), name) and _is_settled(client.check(at=at)))
    _show("remove", name, answer, done=wait, as_json=as_json)


@click.command()
@_name
@click.argument("share", metavar="W", type=_weight)
@_wait_option
@json_option
@node_options()
def weight(*, name: str, share: int, wait: bool, as_json: bool, at: str, timeout: float) -> None:
    """Give node NAME the weight W: its share of the data, relative to other nodes.

    NAME may be the node's id, as `status` shows it.
    """

    def is_done() -> bool:
        weights = {member["weight"] for member in _present(client.status(at=at), name)}
        return weights == {share} and _is_settled(client.check(at=at))

    with open_client(at, timeout) as client:
        name = _meant(client, at, name)
        answer = client.weight(name, share)
        if wait:
            _await(is_done)
    _show("weight", name, answer, done=wait, as_json=as_json)


@click.group(no_args_is_help=False)
def plan() -> None:
    """Show what a change would move, between whom, and how much. Nothing is done."""


@plan.command("join")
@click.option("--weight", "share", metavar="W", type=_weight, default=1, show_default=True, help="Of the new node.")
@json_option
@node_options()
def plan_join(*, share: int, as_json: bool, at: str, timeout: float) -> None:
    """Show what the join of a new node of weight W would move."""
    _show_plan(at, timeout, as_json=as_json, change="join", weight=share)


@plan.command("leave")
@_name
@json_option
@node_options()
def plan_leave(*, name: str, as_json: bool, at: str, timeout: float) -> None:
    """Show what the leave of node NAME would move."""
    _show_plan(at, timeout, as_json=as_json, change="leave", name=name)


@plan.command("remove")
@_name
@json_option
@node_options()
def plan_remove(*, name: str, as_json: bool, at: str, timeout: float) -> None:
    """Show what others would take over from node NAME."""
    _show_plan(at, timeout, as_json=as_json, change="remove", name=name)


@plan.command("weight")
@_name
@click.argument("share", metavar="W", type=_weight)
@json_option
@node_options()
def plan_weight(*, name: str, share: int, as_json: bool, at: str, timeout: float) -> None:
    """Show what the weight W of node NAME would move."""
    _show_plan(at, timeout, as_json=as_json, change="weight", name=name, weight=share)


@click.command()
@json_option
@node_options(timeout_s=CHECK_S)
@click.pass_context
def check(ctx: click.Context, *, as_json: bool, at: str, timeout: float) -> None:
    """Compare the replicas of every partition on the running cluster.

    Exit status 0 only if every node that should answered, has its partitions, all replicas agree and no hint waits;
    else 1.
    """
    with open_client(at, timeout) as client:
        found = client.check(at=at)
    if as_json:
        print_json(found)
    else:
        click.echo(f"partitions  {found['partitions']}")
        click.echo(f"divergent   {_some(found['divergent'])}")
        click.echo(f"unreachable {cell(found['unreachable'])}")
        click.echo(f"hints       {found['hints']}")
    ctx.exit(0 if _is_settled(found) and not found["hints"] else NOT_CLEAN)


def _await(is_done: Callable[[], bool]) -> None:
    while not is_done():
        time.sleep(PAUSE_S)


def short_id(ids: Sequence[str]) -> int:
    """Return how many digits of each id tell them apart."""
    whole = max(map(len, ids), default=0)
    return next((n for n in range(SHORT_ID_MIN, whole) if len({id[:n] for id in ids}) == len(ids)), whole)


def _meant(client: Client, at: str, name: str) -> str:
    """Return the whole id if *name* is the beginning of exactly one, as `status` shows it, and nobody's name."""
    if not _DIGITS.fullmatch(name):
        return name
    members = client.status(at=at)["members"]
    found = [member["id"] for member in members if member["id"].startswith(name)]
    return found[0] if len(found) == 1 and all(member["name"] != name for member in members) else name


def _present(status: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the members of that name or id that have not gone: one or none."""
    members = [member for member in status["members"] if member["status"] not in GONE]
    return [member for member in members if name in (member["name"], member["id"])]


def _is_settled(check: dict[str, Any]) -> bool:
    """Whether everyone has what it should have, by a `check`. Hints may wait for somebody else."""
    return not check["divergent"] and not check["unreachable"]


def _show(change: str, name: str, answer: dict[str, Any], *, done: bool, as_json: bool) -> None:
    if as_json:
        print_json({"change": change, "name": name, "done": done, **answer})
        return
    click.echo(f"{change} {name}: {'done' if done else 'accepted'}")
    if answer.get("lost"):
        click.echo(f"lost partitions: {cell(answer['lost'])}")


def _show_plan(at: str, timeout: float, *, as_json: bool, **wish: Any) -> None:
    with open_client(at, timeout) as client:
        found = client.plan(**wish, at=at)
    if as_json:
        print_json(found)
        return
    rows = [(move["from"], move["to"] or NEW_NODE, move["partitions"], move["bytes"]) for move in found["moves"]]
    if rows:
        print_table(("from", "to", "partitions", "bytes"), rows)
    click.echo(f"{found['partitions']} partitions would move, about {found['bytes']} bytes")
    for warning in found["warnings"]:
        click.echo(f"warning: {warning}")


def _some(partitions: list[int]) -> str:
    more = len(partitions) - SHOWN_MAX
    return cell(partitions[:SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
