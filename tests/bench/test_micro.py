"""The micro benchmarks run, and what they would time is right. Their numbers are nobody's business here."""

import subprocess
import sys
from pathlib import Path

from bench.micro.run import regressions, table

ROOT = Path(__file__).parents[2]


def test_micro_benchmarks_verify_against_oracles() -> None:
    """``python -m bench micro`` finds both sides of every case equal to the oracle, and runs each once."""
    command = [sys.executable, "-m", "bench", "micro", "--benchmark-disable"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_bench_without_name_is_usage_error() -> None:
    """A name that is not there is answered with those that are."""
    done = subprocess.run([sys.executable, "-m", "bench"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "micro" in done.stderr


def test_table_shows_ratio_of_turns() -> None:
    """Times are per operation; the ratio is the median of the turns' own, so one disturbed turn does not show."""
    times = {"merkle update": {"ours": [1e-3, 2e-3, 9e-3], "baseline": [4e-3, 8e-3, 9e-3]}}
    last = table(times).splitlines()[-1].split()
    assert last[2:] == ["2,000", "ns", "8,000", "ns", "4.0x", "10x", "array,", "xxhash"]


def test_gate_names_what_is_slower_than_its_floor_and_nothing_else() -> None:
    """A median of ratios decides: one disturbed turn is no regression."""
    times = {
        "merkle update": {"ours": [1e-3, 1e-3, 9e-3], "baseline": [9e-3, 9e-3, 9e-3]},
        "node get": {"ours": [1e-3, 1e-3, 1e-3], "baseline": [2e-3, 9e-3, 3e-3]},
        "store put, 200 bytes": {"ours": [9e-3], "baseline": [1e-3]},
    }
    assert regressions(times) == ["node get: 3.0x the baseline, must be at least 5x"]
