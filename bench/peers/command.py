"""``python -m bench peers``: this project and others, all in every turn, and the ratios within the turns."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench import load
from bench.load import LoadError, Workload, fill
from bench.machine import cpu_s
from bench.output import save, table
from bench.peers import redis_benchmark
from bench.peers.servers import Running
from bench.peers.systems import MEASURES, SYSTEMS, Measure
from bench.peers.targets import AIMS, Sample
from dynafast.errors import DynafastError

WORKLOAD = Workload(records=10_000)
BUSY = 0.5  # cores of the client: at more it may be the client that is measured
FIELDS = ("rate", "mean_ms", "p50_ms", "p99_ms", "p99.9_ms", "server_us", "client_cores")


def run(arguments: list[str]) -> int:
    """Measure, print the tables, and return 0; 1 when something failed."""
    parser = argparse.ArgumentParser(prog="python -m bench peers", description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", help="a system, by a part of its name; repeatable")
    parser.add_argument("--turns", type=int, help="default 5")
    parser.add_argument("--seconds", type=float, help="of each measure in each turn; default 3")
    parser.add_argument("--quick", action="store_true", help="one turn of half a second each: to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    turns = options.turns or (1 if options.quick else 5)
    seconds = options.seconds or (0.5 if options.quick else 3.0)
    names = [name for name in SYSTEMS if not options.only or any(part in name for part in options.only)]
    samples: dict[str, dict[str, list[Sample]]] = {
        name: {measure: [] for measure in SYSTEMS[name].measures} for name in names
    }
    try:
        for turn in range(turns):
            for name in names:
                print(f"turn {turn + 1} of {turns}: {name}", file=sys.stderr, flush=True)
                _turn(name, samples[name], seconds, quick=options.quick)
    except DynafastError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found = {"systems": samples, "loses": {name: SYSTEMS[name].loses for name in names}}
    print(tables(found))
    save(options.json, "peers", arguments, **found)
    return 0


def _turn(name: str, samples: dict[str, list[Sample]], seconds: float, *, quick: bool) -> None:
    """Start a system, measure it, and end it."""
    with SYSTEMS[name].start() as running:
        rates: dict[str, float] = {}
        if any(MEASURES[measure].client == "own" for measure in samples):
            fill(running.target, WORKLOAD, depth=16)
        for measure in samples:
            sample = _measure(running, MEASURES[measure], seconds, rates, quick=quick)
            rates[measure] = sample["rate"] or 0.0
            samples[measure].append(sample)


def _measure(
    running: Running, measure: Measure, seconds: float, rates: dict[str, float], *, quick: bool
) -> dict[str, float | None]:
    if measure.client == "redis-benchmark":
        return _measure_resp(running, measure, seconds)
    workload = Workload(records=WORKLOAD.records, reads=measure.reads, updates=100 - measure.reads)
    paces = [(seconds, rates[measure.half] / 2)] if measure.half else []
    result = load.run(
        running.target,
        workload,
        connections=measure.connections,
        depth=measure.depth,
        seconds=seconds,
        warmup=0.1 if quick else 0.5,
        paces=paces,
        pids=running.pids,
    ).must_be_right()
    latency = result.all
    return {
        "rate": result.rate,
        "mean_ms": latency.mean_ms,
        **{f"p{percentile}_ms": latency.ms(percentile) for percentile in (50, 99, 99.9)},
        "server_us": result.server_us,
        "client_cores": result.client_cores,
    }


def _measure_resp(running: Running, measure: Measure, seconds: float) -> dict[str, float | None]:
    if running.resp is None:
        raise LoadError("this system has no front for redis-benchmark")
    test = "get" if measure.reads else "set"
    shape = {"test": test, "connections": measure.connections, "depth": measure.depth}
    requests = redis_benchmark.requests_for(running.resp, **shape, seconds=seconds)
    used = cpu_s(running.pids)
    found = redis_benchmark.run(running.resp, **shape, requests=requests)
    return {
        "rate": found.rate,
        "mean_ms": found.mean_ms,
        "p50_ms": found.p50_ms,
        "p99_ms": found.p99_ms,
        "p99.9_ms": None,  # it does not tell
        "server_us": (cpu_s(running.pids) - used) / requests * 1e6,
        "client_cores": found.client_cores,
    }


def tables(found: dict[str, dict[str, object]]) -> str:
    """Return what was found as Markdown: the measures, what each system may lose, and the aims."""
    samples: dict[str, dict[str, list[Sample]]] = found["systems"]  # type: ignore[assignment]
    rows = [
        _row(name, measure, turns) for name, measures in samples.items() for measure, turns in measures.items() if turns
    ]
    head = ["system", "load", "requests/s", "lowest .. highest", "mean ms", "p50", "p99", "p99.9"]
    head += ["server µs/request", "client cores"]
    notes = f"A client that used {BUSY:g} cores or more is marked *: it may be what limits that row."
    measured = table(head, rows)
    loses = table(["system", "may lose"], list(found["loses"].items()))
    aims = table(["ratio", "aim", "median", "lowest .. highest", ""], [aim.row(samples) for aim in AIMS])
    return "\n\n".join([measured, notes, loses, aims])


def _row(name: str, measure: str, turns: Sequence[Sample]) -> list[object]:
    middle = {
        field: median(values) if (values := [turn[field] for turn in turns if turn[field] is not None]) else None
        for field in FIELDS
    }
    rates = [turn["rate"] or 0.0 for turn in turns]
    busy = middle["client_cores"] or 0.0
    numbers = [middle[field] for field in ("mean_ms", "p50_ms", "p99_ms", "p99.9_ms", "server_us")]
    spread = f"{min(rates):,.0f} .. {max(rates):,.0f}"
    return [name, measure, middle["rate"], spread, *numbers, f"{busy:.2f}{' *' if busy >= BUSY else ''}"]
