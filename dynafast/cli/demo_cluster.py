"""The demo on a real cluster: node processes on this machine, the async client, and the cleaning up afterwards."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import click
import trio

from dynafast import AsyncClient
from dynafast.cli.corpus import Corpus
from dynafast.cli.demo_run import Client, Outcome, Run
from dynafast.cli.demo_show import describe, open_teller, show_report
from dynafast.testing import Cluster

REPLICAS, QUORUM = 3, 2  # N, and R = W
REQUEST_TIMEOUT_S = 15.0  # retries included; five nodes and their client share the cores of one machine

Connect = Callable[[Sequence[str]], AbstractAsyncContextManager[Client]]


def connect_client(addresses: Sequence[str]) -> AbstractAsyncContextManager[Client]:
    """Return a client of the cluster at *addresses*."""
    return AsyncClient(addresses, timeout=REQUEST_TIMEOUT_S)


def run_demo(
    corpus: Corpus,
    *,
    nodes: int,
    keep: bool,
    connect: Connect = connect_client,
    read_file: Callable[[Path], bytes] = Path.read_bytes,
) -> Outcome:
    """Run the demo and print all but the last line. Every process is gone afterwards, and without *keep* all data.

    Raises:
        ClusterError: the cluster did not come up, at first or after the restart.
        KeyboardInterrupt: Ctrl-C; cleaned up all the same.
    """
    folder = Path(tempfile.mkdtemp(prefix="dynafast-demo-")) if keep else None
    cluster = Cluster(nodes, replicas=REPLICAS, r=QUORUM, w=QUORUM, folder=folder)
    with open_teller() as teller:
        teller.say(describe(corpus))
        with cluster:
            teller.say(f"{nodes} nodes with data in {cluster.folder}; N={REPLICAS} R={QUORUM} W={QUORUM}")
            victim = cluster.nodes[nodes // 2]

            def kill() -> None:
                victim.kill()
                teller.say(f"killed {victim.name} (SIGKILL) with {run.in_flight_at_kill} requests in flight")

            run = Run(corpus, kill=kill, read_file=read_file, teller=teller)
            _run_connected(run, lambda: connect(cluster.addresses))
            if not victim.running:
                victim.start()
                cluster.wait_until_up()
                teller.say(f"restarted {victim.name}: all {nodes} nodes are up")
            members = members_of(cluster)
    show_report(run.outcome, run.stages, members, killed=victim.name)
    if folder is not None:
        click.echo(f"demo: kept {folder}")
    return run.outcome


def members_of(cluster: Cluster) -> Sequence[Mapping[str, Any]]:
    """Return each node's own figures: what others know of it they heard up to a second ago."""
    with cluster.client(timeout=REQUEST_TIMEOUT_S) as client:
        return [
            next(member for member in client.status(at=node.address)["members"] if member["name"] == node.name)
            for node in cluster.nodes
        ]


def _run_connected(run: Run, connect: Callable[[], AbstractAsyncContextManager[Client]]) -> None:
    """Do the run on a client of its own."""

    async def connected() -> None:
        async with connect() as client:
            await run.run(client)

    try:
        trio.run(connected, restrict_keyboard_interrupt_to_checkpoints=True)  # elsewhere trio would complain of it
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:  # Ctrl-C in a task; to the caller it is Ctrl-C
            raise KeyboardInterrupt from None
        raise
