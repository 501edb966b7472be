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
        371,  # a node was replaced at one that knew only of an earlier node of that name
        30,  # the only owner that had a write was lost, while it was on another disk as a hint
        193,  # both copies of two owners were damaged, one after the other, while there was a third as a hint
    ],
)
def test_pinned_seed_holds(seed: int) -> None:
    result = simulate(seed)
    assert result.violation is None, f"dynafast sim --seed {seed}: {result.violation}"
