"""``python -m bench cold`` measures a node whose disk is slow: those who read hot records do not feel it."""

import json
from pathlib import Path

import pytest

from bench.cold import BESIDE, PLAIN_DISK, SLOW_DISK, run, tables
from bench.slow_disk import READ_S


def test_cold_reads_hold_up_no_hot_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    assert run(["--quick", "--megabytes", "10", "--json", str(file)]) == 0
    found = json.loads(file.read_text())["found"]
    assert set(found) == {PLAIN_DISK, SLOW_DISK}
    assert found[SLOW_DISK]["cold_rate"] < found[PLAIN_DISK]["cold_rate"]
    (turn,) = found[SLOW_DISK]["hot"][BESIDE]
    assert turn["50"] < READ_S * 1000  # in the event loop the readers' disk would be everybody's
    assert tables(found) in capsys.readouterr().out
