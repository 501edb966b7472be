"""``python -m bench scale`` measures real clusters, and relates costs to those of the first point."""

import json
from pathlib import Path

import pytest

from bench.scale import QUICK, STUDIES, run, show


def test_study_of_two_points_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "scale.json"
    assert run(["--study", "data", "--quick", "--json", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines if line] == ["data", "-------", "1 MB", "10 MB"]
    [(study, points)] = json.loads(file.read_text())["studies"].items()
    assert study == "data"
    assert all(point["rate"] > 0 and point["server_us"] > 0 for point in points)


def test_cost_is_by_that_of_the_first_point() -> None:
    point = {"label": "1", "rate": 10.0, "server_us": 20.0}
    point |= {f"{kind}_p{p}_ms": 1.0 for kind in ("read", "update") for p in (50, 99)}
    last = show("nodes", [point, point | {"label": "3", "server_us": 50.0}]).splitlines()[-1]
    assert last.split("|")[-2].strip() == "2.50x"


def test_quick_points_are_there() -> None:
    assert set(QUICK) == set(STUDIES)
    assert all(index < len(STUDIES[study]) for study, indexes in QUICK.items() for index in indexes)
