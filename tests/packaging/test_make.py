"""The Makefile where a checkout is not as it should be."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _make(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *map(str, words)], env=environment, capture_output=True, text=True, check=False)


def _program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(("pip", "made_anew"), [("exit 1", True), ("exit 0", False)])
def test_environment_without_pip_is_made_anew(tmp_path: Path, pip: str, made_anew: bool) -> None:
    """Its making was cut short, or another tool made it; one with pip is kept."""
    for name in ("Makefile", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    _program(tmp_path / ".venv/bin/python", pip)
    log = tmp_path / "log"
    _program(tmp_path / "python", f'echo "$@" >> {log}')
    _make("-C", tmp_path, f"PYTHON={tmp_path}/python", "build")
    assert ("-m venv --clear .venv" in log.read_text().splitlines()) is made_anew
