"""``python -m bench footprint`` measures a real node and holds it against what is aimed at."""

import json
from pathlib import Path

import pytest

from bench.footprint import AIMS, run, tables


def test_footprint_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    assert run(["--megabytes", "1", "--json", str(file)]) == 0
    found = json.loads(file.read_text())["found"]
    assert set(found) == set(AIMS)
    assert found["idle_mb"] < AIMS["idle_mb"].limit  # memory does not depend on what else the machine does
    assert 0 <= found["connection_kb"] < AIMS["connection_kb"].limit
    assert tables(found) in capsys.readouterr().out


def test_what_is_above_its_aim_is_short() -> None:
    found = {name: aim.limit for name, aim in AIMS.items()}
    assert tables(found).count("| met") == len(AIMS)
    assert tables({name: number * 1.01 for name, number in found.items()}).count("| short") == len(AIMS)
