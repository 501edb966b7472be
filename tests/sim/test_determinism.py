"""One seed, one run: the same to the last event, whatever the process hashes by."""

import json
import os
import subprocess
import sys

import pytest

from dynafast.sim.run import simulate


def digest(seed: int, hash_seed: str) -> str:
    found = subprocess.run(
        [sys.executable, "-m", "dynafast", "sim", "--seed", str(seed), "--ops", "400", "--json"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return str(json.loads(found.stdout)["digest"])


@pytest.mark.parametrize("seed", [1, 4, 11])
def test_a_seed_has_one_digest_under_any_hash_seed(seed: int) -> None:
    assert digest(seed, "1") == digest(seed, "2")


def test_a_run_in_a_used_process_is_that_of_a_fresh_one() -> None:
    first, _, again = simulate(5, ops=200), simulate(6, ops=200), simulate(5, ops=200)
    assert (first.digest, first.events) == (again.digest, again.events)
    assert first.violation is None


def test_seeds_differ() -> None:
    assert simulate(1, ops=100).digest != simulate(2, ops=100).digest
