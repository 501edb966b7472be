"""Whole runs. A seed that once found a bug stays here, with what it found."""

import pytest

from dynafast.sim.options import draw
from dynafast.sim.run import simulate
from dynafast.sim.world import World


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
        318,  # addresses were swapped twice while a node was away: it and the others never met again
        380,  # an overwrite wrote again after its coordinator had given its seat away, and counted as a fallback
        429,  # a seed forgot whom it had let in for whom: two members had one name, and the dead one stayed
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


@pytest.mark.parametrize("seed", [22, 29])
def test_machines_that_get_each_others_addresses_are_told_apart(seed: int) -> None:
    result = simulate(seed, ops=1000)
    assert result.violation is None, f"dynafast sim --seed {seed} --ops 1000: {result.violation}"
    assert result.faults["swap"] > 1


def test_swap_strikes_only_where_it_is_wanted() -> None:
    """A usual run goes as if there were no such fault."""
    drawn = [draw(World(seed), nodes=5, ops=1, faults=None).weights for seed in range(1, 200)]
    kind = [weights for weights in drawn if "swap" in weights]
    assert 3 < len(kind) < 20
    assert all(weights == {"swap": 5} for weights in kind)
