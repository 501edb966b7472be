"""``python -m bench cold``: what those who read hot records feel of others who read what is on the disk alone.

One node whose caches are small beside its data. Some connections get a few hot records in an open loop; in every other
stretch, others get all records at random as fast as answers come. Once with the disk as it is (its pages may be in the
system's cache) and once with one that takes 5 ms for each read.
"""

import argparse
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bench import load
from bench.load import Result, Target, Workload, fill, native
from bench.output import progress, save, table
from bench.slow_disk import READ_S
from dynafast.errors import DynafastError
from dynafast.testing import Cluster

CACHE_MIB = 4
READS = Workload(reads=100, updates=0, size_min=1000, size_max=1000)
HOT = replace(READS, records=200)
RATE = 2_000.0
READERS = 8  # connections that read cold records
SLOW = (sys.executable, str(Path(__file__).with_name("slow_disk.py")), "serve")
PLAIN_DISK, SLOW_DISK = "as it is", f"{READ_S * 1000:g} ms a read"
DISKS: Mapping[str, tuple[str, ...] | None] = {PLAIN_DISK: None, SLOW_DISK: SLOW}
ALONE, BESIDE = "alone", "while cold ones are read"
PERCENTILES = (50, 99, 99.9)


def _hot(target: Target, seconds: float) -> Result:
    result = load.run(target, HOT, connections=8, warmup=0.2, paces=[(seconds, RATE)])
    return result.must_be_right(what="hot reads")


@contextmanager
def _cold_reads(target: Target, workload: Workload, seconds: float) -> Iterator[list[Result]]:
    """Read all records at random meanwhile, and a little before and after; the list has the result at the end."""
    found: list[Result] = []
    begun = threading.Event()

    def read() -> None:
        found.append(
            load.run(
                target, workload, connections=READERS, processes=1, seconds=seconds, on_tick=lambda _tick: begun.set()
            )
        )

    thread = threading.Thread(target=read)
    thread.start()
    try:
        begun.wait(timeout=30)
        yield found
    finally:
        thread.join()


def measure(disk: str, *, records: int, turns: int, seconds: float) -> dict[str, Any]:
    """Return for each setting the percentiles in ms of every turn, and the cold reads per second."""
    found: dict[str, list[dict[str, float]]] = {ALONE: [], BESIDE: []}
    rates: list[float] = []
    cluster = Cluster(1, replicas=1, durability="interval", options=("--cache", str(CACHE_MIB)))
    cluster.command = DISKS[disk] or cluster.command
    with cluster:
        target = native(cluster.addresses)
        workload = replace(READS, records=records)
        with progress(f"writing {records:,} records", requests=records) as on_tick:
            fill(target, workload, on_tick=on_tick)
        cluster.nodes[0].stop()  # what is in write buffers goes to the disk
        cluster.nodes[0].start()
        target = native(cluster.addresses)
        _hot(target, max(seconds, 2.0))  # until all of them are in memory
        for _ in range(turns):
            found[ALONE].append(_percentiles(_hot(target, seconds)))
            with _cold_reads(target, workload, seconds + 2.0) as cold:
                found[BESIDE].append(_percentiles(_hot(target, seconds)))
            if not cold:
                raise DynafastError("the cold reads failed")
            rates.append(cold[0].must_be_right(what="cold reads").rate)
    return {"hot": found, "cold_rate": median(rates)}


def _percentiles(result: Result) -> dict[str, float]:
    return {str(percentile): result.all.ms(percentile) for percentile in PERCENTILES}


def tables(found: Mapping[str, Any]) -> str:
    """Return what was found: medians of the turns."""
    rows = [
        [
            disk,
            setting,
            *(median(turn[str(percentile)] for turn in turns) for percentile in PERCENTILES),
            one["cold_rate"] if setting == BESIDE else None,
        ]
        for disk, one in found.items()
        for setting, turns in one["hot"].items()
    ]
    return table(["disk", "hot reads", "p50 ms", "p99", "p99.9", "cold reads/s"], rows)


def run(arguments: Sequence[str]) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench cold", description=__doc__)
    parser.add_argument("--megabytes", type=int, help="of data; default 200")
    parser.add_argument("--turns", type=int, help="default 5")
    parser.add_argument("--quick", action="store_true", help="20 MB, one turn of half a second")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    megabytes = options.megabytes or (20 if options.quick else 200)
    turns = options.turns or (1 if options.quick else 5)
    seconds = 0.5 if options.quick else 3.0
    try:
        found = {disk: measure(disk, records=megabytes * 1000, turns=turns, seconds=seconds) for disk in DISKS}
    except DynafastError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(tables(found))
    save(options.json, "cold", arguments, megabytes=megabytes, cache_mib=CACHE_MIB, found=found)
    return 0
