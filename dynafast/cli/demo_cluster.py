"""The demo on a real cluster: node processes on this machine, the async client, and the cleaning up afterwards."""

import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import click
import trio

from dynafast import AsyncClient
from dynafast.cli.corpus import Corpus
from dynafast.cli.demo_run import Client, Outcome, Run, Teller
from dynafast.cli.demo_show import describe, open_teller, show_report
from dynafast.errors import DynafastError, RequestError
from dynafast.protocol import GONE
from dynafast.testing import Cluster, ClusterError, Node

REPLICAS, QUORUM = 3, 2  # N, and R = W
REQUEST_TIMEOUT_S = 15.0  # retries included; five nodes and their client share the cores of one machine
PATIENCE_S = 60.0  # for a change to be accepted, and for the leaver to hand over
PAUSE_S = 0.2

Connect = Callable[[Sequence[str]], AbstractAsyncContextManager[Client]]


def connect_client(addresses: Sequence[str]) -> AbstractAsyncContextManager[Client]:
    """Return a client of the cluster at *addresses*."""
    return AsyncClient(addresses, timeout=REQUEST_TIMEOUT_S)


class RealChanges:
    """Does to a cluster of processes what the demo is to show."""

    def __init__(self, cluster: Cluster, teller: Teller) -> None:
        self._cluster, self._teller = cluster, teller
        self.victim: Node = cluster.nodes[len(cluster.nodes) // 2]
        self.leaver: Node = cluster.nodes[-1]
        self.joiner: Node | None = None
        self._accepted = False

    def grow(self) -> None:
        """Start the process of one more node."""
        self.joiner = self._cluster.launch_node()
        self._teller.say(f"started {self.joiner.name}, which joins")

    def kill(self, in_flight: int) -> None:
        """Kill the node in the middle."""
        self.victim.kill()
        self._teller.say(f"killed {self.victim.name} (SIGKILL) with {in_flight} requests in flight")

    def restart(self) -> None:
        """Start the process of the node that was killed."""
        if not self.victim.running:
            self.victim.launch()
            self._teller.say(f"restarted {self.victim.name}")

    async def shrink(self) -> None:
        """Ask the last of the first nodes to leave, until that is accepted: changes go one after another."""
        refused: DynafastError | None = None
        with trio.move_on_after(PATIENCE_S):
            while True:
                try:
                    await trio.to_thread.run_sync(self._ask_to_leave)
                except RequestError as error:
                    refused = error
                else:
                    self._accepted = True
                    self._teller.say(f"told {self.leaver.name} to leave")
                    return
                await trio.sleep(PAUSE_S)
        raise ClusterError(f"{self.leaver.name} could not leave within {PATIENCE_S:.0f} s: {refused}")

    def _ask_to_leave(self) -> None:
        with self._cluster.client(timeout=REQUEST_TIMEOUT_S) as client:
            client.leave(self.leaver.name)

    def finish(self) -> None:
        """Wait until every change is done and all replicas agree. Raises ClusterError."""
        for node in (self.victim, self.joiner):
            if node is not None:
                node.await_ready()
        status = self.leaver.wait(PATIENCE_S) if self._accepted else 0
        if status:
            raise ClusterError(f"{self.leaver.name} left with status {status}")
        self._teller.say(f"{self.leaver.name} has handed over and left")
        self._cluster.wait_until_up()
        check = self._cluster.wait_until_clean()
        self._teller.say(f"check is clean: all replicas of {check['partitions']} partitions agree, no hint waits")


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
        ClusterError: the cluster did not come up, or a change of it did not come to its end.
        KeyboardInterrupt: Ctrl-C; cleaned up all the same.
    """
    folder = Path(tempfile.mkdtemp(prefix="dynafast-demo-")) if keep else None
    cluster = Cluster(nodes, replicas=REPLICAS, r=QUORUM, w=QUORUM, folder=folder)
    with open_teller() as teller:
        teller.say(describe(corpus))
        with cluster:
            teller.say(f"{nodes} nodes with data in {cluster.folder}; N={REPLICAS} R={QUORUM} W={QUORUM}")
            changes = RealChanges(cluster, teller)
            run = Run(corpus, changes=changes, read_file=read_file, teller=teller)
            _run_connected(run.run, lambda: connect(cluster.addresses))
            changes.finish()
            _run_connected(run.read_again, lambda: connect(cluster.addresses))
            members = members_of(cluster)
    remarks = {changes.victim.name: "killed"}
    if changes.joiner is not None:
        remarks[changes.joiner.name] = "joined"
    show_report(run.outcome, run.stages, members, remarks)
    if folder is not None:
        click.echo(f"demo: kept {folder}")
    return run.outcome


def members_of(cluster: Cluster) -> Sequence[Mapping[str, Any]]:
    """Return each node's own figures: what others know of it they heard up to a second ago."""
    with cluster.client(timeout=REQUEST_TIMEOUT_S) as client:
        return [
            next(member for member in client.status(at=node.address)["members"] if _is(member, node))
            for node in cluster.nodes
            if node.running
        ]


def _is(member: Mapping[str, Any], node: Node) -> bool:
    return member["name"] == node.name and member["status"] not in GONE


def _run_connected(
    main: Callable[[Client], Awaitable[None]], connect: Callable[[], AbstractAsyncContextManager[Client]]
) -> None:
    """Run *main* on a client of its own."""

    async def connected() -> None:
        async with connect() as client:
            await main(client)

    try:
        trio.run(connected, restrict_keyboard_interrupt_to_checkpoints=True)  # elsewhere trio would complain of it
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:  # Ctrl-C in a task; to the caller it is Ctrl-C
            raise KeyboardInterrupt from None
        if (failed := group.subgroup(DynafastError)) is not None:
            raise _first(failed) from None
        raise


def _first(group: BaseExceptionGroup[DynafastError]) -> DynafastError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
