"""Every told story holds."""

import pytest

from dynafast.sim.scenarios import SCENARIOS, play


@pytest.mark.parametrize("name", SCENARIOS)
def test_story_holds(name: str) -> None:
    violation, _ = play(name)
    assert violation is None, f"dynafast sim --scenario {name}: {violation}"


def test_a_story_is_the_same_every_time() -> None:
    assert play("away-for-long")[1] == play("away-for-long")[1]
