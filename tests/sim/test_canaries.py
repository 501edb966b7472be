"""A broken safeguard is noticed: the machinery, and some that are noticed soon."""

import pickle
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from dynafast.cli.sim import sim
from dynafast.sim.canaries import CANARIES, Canary, Catch, hunt, planted
from dynafast.sim.history import ViolationError
from dynafast.sim.run import Result


@pytest.mark.parametrize("name", ["ack-before-w", "counter-from-context", "lww-merge", "new-version-only", "wrong-id"])
def test_canary_is_caught(name: str) -> None:
    catch = hunt(name, lambda jobs: map(planted, jobs), width=1)
    assert catch.seed is not None, f"dynafast sim --canaries --plant {name}"
    assert catch.seed < 30


def test_a_failed_run_is_handed_to_another_process_with_its_story() -> None:
    violation = planted(("lww-merge", 1)).violation
    assert violation is not None
    assert violation.history is not None
    there = pickle.loads(pickle.dumps(violation))
    assert there.history.lines == violation.history.lines != []


def test_only_what_can_come_of_the_broken_safeguard_counts() -> None:
    canary = Canary(("dots-unique", "comes-to-rest: differ"), 1)
    assert canary.explains(ViolationError("dots-unique", "dot 1,1 is of w1 and of w2"))
    assert canary.explains(ViolationError("comes-to-rest", "not within 120 s: replicas of partition 3 differ: n1 n2"))
    assert not canary.explains(ViolationError("comes-to-rest", "not within 120 s: a machine is down"))
    assert not canary.explains(ViolationError("no-write-lost", "acknowledged {w0} gone"))


def test_a_catch_is_told_in_a_line() -> None:
    assert Catch("late-frame", 7, "no-value-back").line() == "late-frame caught seed=7 invariant=no-value-back"
    assert Catch("late-frame", None, None).line() == "late-frame not caught in 200 seeds"


def test_a_seed_that_fails_without_the_plant_is_no_catch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails in any case says nothing of the safeguard."""
    broken = planted(("ack-before-w", 1))
    tried: list[int] = []

    def results(jobs: list[tuple[str, int]]) -> Iterator[Result]:
        tried.extend(seed for _, seed in jobs)
        return iter([broken] if len(tried) <= 2 else [])

    monkeypatch.setattr("dynafast.sim.canaries.simulate", lambda _seed: broken)
    catch = hunt("ack-before-w", results, width=2)
    assert (catch.seed is None) or broken.violation is None
    assert sorted(tried) == list(range(1, 201))
    assert tried[0] == CANARIES["ack-before-w"].seed, "one that has caught it is tried first"


def test_the_canaries_are_those_of_the_holes_and_six_more() -> None:
    assert len(CANARIES) == len(set(CANARIES)) == 22


def test_an_unknown_plant_is_refused() -> None:
    result = CliRunner().invoke(sim, ["--plant", "nonsense"])
    assert result.exit_code != 0
    assert "nonsense" in str(result.exception)
