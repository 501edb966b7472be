"""One seed, one run: the same to the last event, whatever the process hashes by."""

import json
import os
import subprocess
import sys

import pytest

from dynafast.sim.run import simulate


def digest(seed: int, hash_seed: str, faults: str | None) -> str:
    drawn = [] if faults is None else ["--faults", faults]
    found = subprocess.run(
        [sys.executable, "-m", "dynafast", "sim", "--seed", str(seed), "--ops", "400", *drawn, "--json"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return str(json.loads(found.stdout)["digest"])


@pytest.mark.parametrize(
    ("seed", "faults"),
    [
        (1, None),
        (4, None),
        (11, None),
        (6, "operators"),  # seats moved in the order of a set: the content of a message
        (17, "operators"),  # the same: even another number of events
        (18, "operators,kill"),
    ],
)
def test_a_seed_has_one_digest_under_any_hash_seed(seed: int, faults: str | None) -> None:
    assert digest(seed, "1", faults) == digest(seed, "2", faults)


def test_a_run_in_a_used_process_is_that_of_a_fresh_one() -> None:
    first, _, again = simulate(5, ops=200), simulate(6, ops=200), simulate(5, ops=200)
    assert (first.digest, first.events) == (again.digest, again.events)
    assert first.violation is None


def test_seeds_differ() -> None:
    assert simulate(1, ops=100).digest != simulate(2, ops=100).digest
