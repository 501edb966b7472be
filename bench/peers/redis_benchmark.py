"""Runs redis-benchmark, the tool that comes with Redis."""

import csv
import io
import resource
import shutil
import subprocess
import time
from dataclasses import dataclass

from bench.load import LoadError

KEYS = 10_000
TRY_REQUESTS = 5_000
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What it said, and what it used."""

    rate: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    requests: int
    client_cores: float


def run(address: str, *, test: str, connections: int, depth: int, requests: int, size: int = 100) -> Found:
    """Give *requests* of SET or GET to random keys; raise LoadError if it fails or an answer was an error."""
    if shutil.which("redis-benchmark") is None:
        raise LoadError("redis-benchmark is not installed: see bench/peers/README.md")
    host, _, port = address.rpartition(":")
    command = ["redis-benchmark", "-h", host, "-p", port, "-t", test, "-d", str(size), "-r", str(KEYS), "--csv"]
    command += ["-c", str(connections), "-P", str(depth), "-n", str(requests)]
    used, begun = _children_s(), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    used, elapsed = _children_s() - used, time.monotonic() - begun
    rows = [row for row in csv.reader(io.StringIO(done.stdout)) if len(row) == 8 and row[0].lower() == test]
    if done.returncode or not rows:  # it ends at the first error
        raise LoadError(f"redis-benchmark: {(done.stderr or done.stdout).strip()[:500]}")
    _, rate, mean, _, p50, _, p99, _ = rows[0]
    return Found(
        rate=float(rate),
        mean_ms=float(mean),
        p50_ms=float(p50),
        p99_ms=float(p99),
        requests=requests,
        client_cores=used / elapsed,
    )


def requests_for(address: str, *, test: str, connections: int, depth: int, seconds: float) -> int:
    """Return how many requests last about so long."""
    found = run(address, test=test, connections=connections, depth=depth, requests=TRY_REQUESTS * depth)
    return max(TRY_REQUESTS, round(found.rate * seconds))


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
