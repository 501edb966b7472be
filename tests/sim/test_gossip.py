"""News reaches everybody soon, whatever the size."""

import pytest

from dynafast.sim.gossip import study


@pytest.mark.parametrize(("nodes", "most_s"), [(10, 1.0), (60, 2.0)])
def test_a_join_is_known_everywhere_soon(nodes: int, most_s: float) -> None:
    found = study(nodes)
    assert found.join_s <= most_s
    assert found.quiet_bytes > 0
