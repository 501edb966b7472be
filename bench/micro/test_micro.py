"""The benchmarks as pytest-benchmark sees them: both sides of each case in turns, verified before they are timed."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from bench.micro import clock, codec, merkle, node, ring, store
from bench.micro.case import Case

TURNS = 5  # ours, baseline, ours, ...: what slows the machine down for a while slows both down

ROOMS = (ring, clock, merkle, codec, node, store)
CASES = {case.name: case for room in ROOMS for case in room.cases()}


@pytest.fixture(scope="session", autouse=True)
def _databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store.databases.open(tmp_path_factory.mktemp("databases"))
    yield
    store.databases.close()


@cache
def verified(name: str) -> Case:
    """Return a case whose two sides have been compared with the oracle."""
    case = CASES[name]
    case.verify()
    return case


@pytest.mark.parametrize("side", ["ours", "baseline"])
@pytest.mark.parametrize("turn", range(TURNS))
@pytest.mark.parametrize("name", CASES)
def test_micro(benchmark: Any, name: str, turn: int, side: str) -> None:
    """Time one side of a case; `bench.micro.run` makes the table of it."""
    case = verified(name)
    benchmark.extra_info.update(name=name, side=side, turn=turn)
    benchmark(case.ours if side == "ours" else case.baseline)
