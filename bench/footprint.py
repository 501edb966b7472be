"""``python -m bench footprint``: memory of a node and of a connection, and how long a node with data takes to start."""

import argparse
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.load import Workload, fill, native
from bench.machine import resident_mb
from bench.output import progress, save, table
from dynafast._ext.codec import frame
from dynafast.client.core import split_address
from dynafast.client.messages import hello
from dynafast.errors import DynafastError
from dynafast.protocol import Op
from dynafast.testing import Cluster, Node

CONNECTIONS = 1000
RECORD_BYTES = 1000
STARTS = 3


@dataclass(frozen=True, slots=True)
class Aim:
    """A number that is to be at most *limit*."""

    what: str
    unit: str
    limit: float


AIMS = {
    "idle_mb": Aim("resident memory of an idle node", "MB", 80),
    "connection_kb": Aim("the same, for each connection", "kB", 20),
    "clean_s": Aim("start to ready with the data, after a clean stop", "s", 1.5),
    "killed_s": Aim("the same, after a SIGKILL", "s", 2.0),
}


def measure_memory() -> dict[str, float]:
    """Return the memory of a node, and what each of many connections adds that was used once."""
    with Cluster(1, replicas=1, partitions=1024) as cluster, ExitStack() as stack:
        node = cluster.nodes[0]
        idle = _resident(node)
        connections = [
            stack.enter_context(socket.create_connection(split_address(node.address), timeout=10))
            for _ in range(CONNECTIONS)
        ]
        for connection in connections:
            connection.sendall(frame(hello(None)) + frame([int(Op.GET), 1, b"key", None]))
        for connection in connections:
            _receive_two(connection)
        return {"idle_mb": idle, "connection_kb": (_resident(node) - idle) * 1000 / CONNECTIONS}


def _receive_two(connection: socket.socket) -> None:
    """Take the answers to the hello and to the get."""
    with connection.makefile("rb") as stream:
        for _ in range(2):
            stream.read(int.from_bytes(stream.read(4), "big"))


def _resident(node: Node) -> float:
    if node.pid is None:
        raise DynafastError(f"{node.name} has ended")
    return resident_mb(node.pid)


def measure_start(megabytes: int) -> dict[str, float]:
    """Return how long a node with so much data takes until it is ready; medians of some starts."""
    workload = Workload(records=megabytes * 1_000_000 // RECORD_BYTES, size_min=RECORD_BYTES, size_max=RECORD_BYTES)
    with Cluster(1, replicas=1, partitions=1024, durability="interval") as cluster:
        with progress(f"writing {megabytes:,} MB", requests=workload.records) as on_tick:
            fill(native(cluster.addresses), workload, on_tick=on_tick)
        node = cluster.nodes[0]
        clean = [_restart(node, kill=False) for _ in range(STARTS)]
        killed = [_restart(node, kill=True) for _ in range(STARTS)]
        return {"clean_s": median(clean), "killed_s": median(killed)}


def _restart(node: Node, *, kill: bool) -> float:
    if kill:
        node.kill()
    else:
        node.stop()
    begun = time.monotonic()
    node.start()
    return time.monotonic() - begun


def tables(found: dict[str, float]) -> str:
    """Return what was found against what is aimed at."""
    return table(
        ["what", "unit", "measured", "at most", ""],
        [[aim.what, aim.unit, found[name], aim.limit, _verdict(found[name], aim)] for name, aim in AIMS.items()],
    )


def _verdict(found: float, aim: Aim) -> str:
    return "met" if found <= aim.limit else "short"


def run(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench footprint", description=__doc__)
    parser.add_argument("--megabytes", type=int, help="of data, for the starts; default 1,000")
    parser.add_argument("--quick", action="store_true", help="with 10 MB")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    megabytes = options.megabytes or (10 if options.quick else 1000)
    try:
        found = measure_memory() | measure_start(megabytes)
    except DynafastError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"with {megabytes:,} MB of data\n\n{tables(found)}")
    save(options.json, "footprint", arguments, megabytes=megabytes, found=found)
    return 0
