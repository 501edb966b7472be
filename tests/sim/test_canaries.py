"""A broken safeguard is noticed: the machinery, and some that are noticed soon."""

from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from dynafast.cli.sim import sim
from dynafast.sim.canaries import CANARIES, Catch, hunt, planted
from dynafast.sim.run import Result

SOON = 15  # seeds within which these are caught


@pytest.mark.parametrize("name", ["ack-before-w", "counter-from-context", "lww-merge", "new-version-only"])
def test_canary_is_caught(name: str) -> None:
    results = (planted((name, seed)) for seed in range(1, SOON + 1))
    assert any(result.violation is not None for result in results), f"dynafast sim --canaries --plant {name}"


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
    assert tried == list(range(1, 201))


def test_the_canaries_are_those_of_the_holes_and_six_more() -> None:
    assert len(CANARIES) == len(set(CANARIES)) == 22


def test_an_unknown_plant_is_refused() -> None:
    result = CliRunner().invoke(sim, ["--plant", "nonsense"])
    assert result.exit_code != 0
    assert "nonsense" in str(result.exception)
