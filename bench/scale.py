"""``python -m bench scale``: how rate, latency and cost change with nodes, clients, values, data and partitions.

Each study changes one thing and keeps all else: 3 nodes with N=3, 50 clients, 100-byte values, 20,000 records, 256
partitions, half reads. Each request goes to a node that serves its key, as with the project's own clients. All nodes
share the cores of one machine, so more nodes mean more work on the same cores: what grows is the cost of a request, not
the rate.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import load
from bench.load import Result, Workload, fill, native, owners
from bench.output import progress, save, table
from dynafast.config import DURABILITIES
from dynafast.errors import DynafastError
from dynafast.testing import Cluster


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One cluster and its load."""

    label: str
    nodes: int = 3
    partitions: int = 256
    connections: int = 50
    records: int = 20_000
    size: int = 100


# Study -> its points. The last ones of `data` are far more than a node's caches hold.
STUDIES: dict[str, tuple[Point, ...]] = {
    "nodes": tuple(Point(label=str(nodes), nodes=nodes) for nodes in (1, 2, 3, 5, 8)),
    "clients": tuple(Point(label=str(count), connections=count) for count in (1, 4, 16, 64, 256, 1024)),
    "value": tuple(
        Point(label=label, size=size, records=records, connections=connections)
        for label, size, records, connections in (
            ("10 B", 10, 20_000, 50),
            ("100 B", 100, 20_000, 50),
            ("1 kB", 1_000, 20_000, 50),
            ("10 kB", 10_000, 5_000, 50),
            ("100 kB", 100_000, 500, 20),
            ("1 MB", 1_000_000, 50, 8),
        )
    ),
    "data": tuple(
        Point(label=f"{records // 1000} MB", nodes=1, records=records, size=1_000)
        for records in (1_000, 10_000, 100_000, 500_000)
    ),
    "partitions": tuple(Point(label=str(count), partitions=count) for count in (64, 256, 1024, 4096)),
}
QUICK = {"nodes": (0, 2), "clients": (0, 3), "value": (1, 4), "data": (0, 1), "partitions": (0, 1)}
QUICK_RECORDS = 10_000


def run_point(point: Point, options: argparse.Namespace) -> Result:
    """Start the cluster of a point, fill it, and give the load."""
    records = min(point.records, QUICK_RECORDS) if options.quick else point.records
    workload = Workload(records=records, size_min=point.size, size_max=point.size)
    seconds = options.seconds or (0.5 if options.quick else 5.0)
    replicas = min(3, point.nodes)
    with Cluster(point.nodes, replicas=replicas, partitions=point.partitions, durability=options.durability) as cluster:
        target = native(cluster.addresses, owners=owners(cluster.addresses, workload))
        with progress(f"writing {records:,} records", requests=records) as on_tick:
            fill(target, workload, on_tick=on_tick)
        with progress(f"{point.label}", seconds) as on_tick:
            return load.run(
                target,
                workload,
                connections=point.connections,
                seconds=seconds,
                warmup=0.2 if options.quick else 1.0,
                pids=[node.pid for node in cluster.nodes if node.pid],
                on_tick=on_tick,
            ).must_be_right(what=f"the load of {point.label}")


def show(study: str, found: Sequence[dict[str, Any]]) -> str:
    """Return the table of a study; the last column is the cost by that of the first point."""
    first = found[0]["server_us"]
    rows = []
    for point in found:
        numbers = [point["rate"], *(point[f"{kind}_p{p}_ms"] for kind in ("read", "update") for p in (50, 99))]
        cost = point["server_us"]
        rows.append([point["label"], *numbers, cost, f"{cost / first:.2f}x" if first and cost else None])
    head = [study, "requests/s", "get p50 ms", "p99", "put p50 ms", "p99", "server µs/request", "cost"]
    return table(head, rows)


def measure(studies: Sequence[str], options: argparse.Namespace) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield every study with what was found at its points."""
    for study in studies:
        points = [STUDIES[study][index] for index in QUICK[study]] if options.quick else STUDIES[study]
        found = []
        for point in points:
            print(f"{study}: {point.label}", file=sys.stderr, flush=True)
            result = run_point(point, options)
            row = {"label": point.label, "rate": result.rate, "server_us": result.server_us}
            for kind in ("read", "update"):
                row |= {f"{kind}_p{p}_ms": result.latency[kind].ms(p) for p in (50, 99)}
            found.append(row)
        yield study, found


def tables(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return all tables."""
    return "\n\n".join(show(study, points) for study, points in found.items())


def run(arguments: list[str]) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench scale", description=__doc__)
    parser.add_argument("--study", choices=STUDIES, action="append", help="repeatable; default: all")
    parser.add_argument("--durability", choices=DURABILITIES, default="interval")
    parser.add_argument("--seconds", type=float, help="of each point; default 5")
    parser.add_argument("--quick", action="store_true", help="two points of each study, half a second each")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    found = {}
    try:
        for study, points in measure(options.study or list(STUDIES), options):
            found[study] = points
            print(show(study, points), end="\n\n", flush=True)
    except DynafastError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    save(options.json, "scale", arguments, durability=options.durability, studies=found)
    return 0
