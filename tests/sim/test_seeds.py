"""Whole runs. A seed that once found a bug stays here, with what it found."""

import pytest

from dynafast.sim.run import simulate


@pytest.mark.parametrize("seed", range(1, 16))
def test_seed_holds(seed: int) -> None:
    result = simulate(seed, ops=1000)
    assert result.violation is None, f"dynafast sim --seed {seed} --ops 1000: {result.violation}"
    assert result.outcomes.get("put ok", 0) + result.outcomes.get("get ok", 0) > 100


@pytest.mark.parametrize("seed", [1, 2])
def test_without_faults_nothing_fails(seed: int) -> None:
    result = simulate(seed, ops=500, faults=frozenset())
    assert result.violation is None
    assert result.faults == {}
    assert {name.split()[1] for name in result.outcomes} == {"ok"}


@pytest.mark.parametrize(
    "seed",
    [
        398,  # a backup was put back of whose later lives nobody had heard
        371,  # a node was replaced at one that knew only of an earlier node of that name
        30,  # the only owner that had a write was lost, while it was on another disk as a hint
        193,  # both copies of two owners were damaged, one after the other, while there was a third as a hint
    ],
)
def test_pinned_seed_holds(seed: int) -> None:
    result = simulate(seed)
    assert result.violation is None, f"dynafast sim --seed {seed}: {result.violation}"


def test_a_failed_flush_ends_the_process_and_promises_nothing() -> None:
    result = simulate(4, ops=1000, faults=frozenset({"bad_flush"}))
    assert result.violation is None
    assert result.faults["bad_flush"] > 3
