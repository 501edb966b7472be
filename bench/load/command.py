"""``python -m bench load``: one load, or a curve of latency against load, for a cluster of its own or another."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import load
from bench.load import YCSB, Result, Target, Workload, fill, native, owners, resp
from bench.load.crews import crews
from bench.load.show import plots, tables
from bench.load.workload import DISTRIBUTIONS
from bench.output import progress, save
from dynafast.config import DURABILITIES
from dynafast.errors import DynafastError
from dynafast.testing import Cluster

FRACTIONS = (0.1, 0.25, 0.5, 0.65, 0.8, 0.9, 0.95)  # of the saturation rate, for a curve
QUICK_FRACTIONS = (0.25, 0.5, 0.8)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench load", description=__doc__)
    where = parser.add_argument_group("what it is for: a cluster of its own, or --at")
    where.add_argument("--at", metavar="HOST:PORT", action="append", help="a node that is there; repeatable")
    where.add_argument("--protocol", choices=("native", "resp"), default="native", help="resp: as redis clients speak")
    where.add_argument("--pid", type=int, action="append", default=[], help="with --at: its processor time is shown")
    where.add_argument("--nodes", type=int, default=3, help="of its own cluster; default 3")
    where.add_argument("--workers", type=int, default=0, help="node processes of each of the --nodes, as machines")
    where.add_argument("--replicas", type=int, help="N; default 3, or all nodes when there are fewer")
    where.add_argument("--durability", choices=DURABILITIES, default="group")
    where.add_argument("--partitions", type=int, default=1024, help="Q; default 1024")
    what = parser.add_argument_group("what it asks for")
    what.add_argument("--workload", choices=sorted(YCSB), help="of YCSB; sets the shares, --keys and --size")
    what.add_argument("--reads", type=float, metavar="PERCENT", help="the rest are updates; default 50")
    what.add_argument("--keys", choices=DISTRIBUTIONS)
    what.add_argument("--theta", type=float, help="skew of zipfian and latest keys; default 0.99")
    what.add_argument("--size", metavar="BYTES|MIN-MAX", help="of values; default 100")
    what.add_argument("--records", type=int, help="in the data set; default 100,000")
    what.add_argument("--no-fill", action="store_true", help="with --at: the records are there from an earlier run")
    for name in ("r", "w", "dw"):
        what.add_argument(f"--{name}", type=int, help="of each request; default: the cluster's")
    what.add_argument("--route", choices=("any", "owner"), default="any", help="owner: to a node that serves the key")
    how = parser.add_argument_group("how")
    how.add_argument("--connections", type=int, default=50)
    how.add_argument("--depth", type=int, default=1, help="requests under way on each connection")
    how.add_argument("--processes", type=int, default=1, help="of the load generator")
    how.add_argument("--rate", type=float, help="open loop: requests per second; default: closed loop")
    how.add_argument("--curve", action="store_true", help="latency against load: open loops up to the saturation rate")
    how.add_argument("--seconds", type=float, help="default 10, of each point of a curve too")
    how.add_argument("--warmup", type=float, help="seconds that do not count; default 1")
    how.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="short, with little data: to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="where to write SVG plots")
    return parser


def workload_of(options: argparse.Namespace) -> Workload:
    """Return the workload that the options name."""
    workload = YCSB[options.workload] if options.workload else Workload()
    if options.reads is not None:
        workload = replace(workload, reads=options.reads, updates=100 - options.reads, inserts=0, changes=0)
    workload = replace(
        workload,
        keys=options.keys or workload.keys,
        theta=workload.theta if options.theta is None else options.theta,
        records=options.records or (2_000 if options.quick else workload.records),
    )
    return workload.sized(options.size) if options.size else workload


@dataclass(frozen=True, slots=True)
class Served:
    """What the load goes to, and the processes that serve it."""

    target: Target
    pids: list[int]


@contextmanager
def serving(options: argparse.Namespace, workload: Workload) -> Iterator[Served]:
    """Start a cluster, unless one is named."""
    quorums = {name: getattr(options, name) for name in ("r", "w", "dw") if getattr(options, name)}

    def target(addresses: Sequence[str]) -> Target:
        if options.protocol == "resp":
            return resp(addresses)
        table = owners(addresses, workload) if options.route == "owner" else b""
        return native(addresses, owners=table, **quorums)

    if options.at:
        yield Served(target(options.at), options.pid)
        return
    replicas = options.replicas or min(options.nodes, 3)
    front = ["--resp", "127.0.0.1:0"] if options.protocol == "resp" else []
    if options.workers:
        founding = ["--replicas", str(replicas), "--partitions", str(options.partitions)]
        common = ["--durability", options.durability, *front]
        with crews(options.nodes, workers=options.workers, founding=founding, options=common) as found:
            yield Served(target(found.resp or found.addresses), list(found.pids))
        return
    with Cluster(
        options.nodes,
        replicas=replicas,
        durability=options.durability,
        partitions=options.partitions,
        options=front,
    ) as cluster:
        addresses = [node.resp for node in cluster.nodes if node.resp] or cluster.addresses
        yield Served(target(addresses), [node.pid for node in cluster.nodes if node.pid])


def measure(options: argparse.Namespace, served: Served, workload: Workload, rate: float | None, what: str) -> Result:
    """Give one load as the options say; *rate*: open loop."""
    seconds = options.seconds or (1.0 if options.quick else 10.0)
    with progress(what, seconds) as on_tick:
        return load.run(
            served.target,
            workload,
            connections=options.connections,
            depth=options.depth,
            processes=options.processes,
            seconds=seconds,
            warmup=(0.2 if options.quick else 1.0) if options.warmup is None else options.warmup,
            paces=[(seconds, rate)] if rate else [],
            pids=served.pids,
            seed=options.seed,
            on_tick=on_tick,
        )


def _run(arguments: list[str]) -> int:
    """Give the load, print and write what was found; 1 when an answer was wrong or a request failed."""
    options = parser().parse_args(arguments)
    workload = workload_of(options)
    found: list[tuple[str, Result]] = []
    with serving(options, workload) as served:
        if not options.no_fill:
            with progress(f"writing {workload.records:,} records", requests=workload.records) as on_tick:
                fill(served.target, workload, processes=options.processes, on_tick=on_tick)
        if options.curve:
            found = list(_curve(options, served, workload))
        else:
            name = f"{options.rate:,.0f}/s" if options.rate else f"{options.connections} x {options.depth}"
            found.append((name, measure(options, served, workload, options.rate, name)))
    loads = [{"load": name, **result.json()} for name, result in found]
    print(tables(loads))
    save(options.json, "load", arguments, workload=_fields(workload), loads=loads)
    if options.plot:
        plots(options.plot, "load", loads)
    errors = {name: result.errors for name, result in found if result.failed}
    if errors:
        print(f"requests failed: {errors}", file=sys.stderr)
    return 1 if errors else 0


def _curve(options: argparse.Namespace, served: Served, workload: Workload) -> Iterator[tuple[str, Result]]:
    full = measure(options, served, workload, None, "closed loop")
    yield "closed loop", full
    for fraction in QUICK_FRACTIONS if options.quick else FRACTIONS:
        name = f"{100 * fraction:.0f} %"
        yield name, measure(options, served, workload, max(1.0, full.rate * fraction), name)


def _fields(workload: Workload) -> dict[str, Any]:
    return {name: getattr(workload, name) for name in Workload.__dataclass_fields__}


def run(arguments: list[str]) -> int:
    """Run the command; a cluster or a load that fails is said in a line."""
    try:
        return _run(arguments)
    except DynafastError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
