"""What ``dynafast sim`` prints, and how it ends."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dynafast.cli.sim import sim
from dynafast.sim import run
from dynafast.sim.history import KeyHistory, ViolationError


def call(*arguments: str) -> Result:
    return CliRunner().invoke(sim, list(arguments))


def test_a_run_ends_with_one_line_that_says_how_it_went() -> None:
    result = call("--seed", "3", "--ops", "100", "--faults", "none")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[-1].startswith("sim: ok seed=3 ops=1")
    assert "digest=" in lines[-1]
    assert {"nodes=5", "ops=100", "faults=none"} <= set(lines)


def test_json_is_one_object() -> None:
    result = call("--seed", "3", "--ops", "100", "--json", "--faults", "network")
    found = json.loads(result.output)
    assert found["ok"] is True
    assert (found["seed"], found["invariant"]) == (3, None)
    assert found["replay"] == "dynafast sim --seed 3 --nodes 5 --ops 100 --faults network"


def test_trace_is_what_the_digest_is_of(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "trace"
    result = call("--seed", "3", "--ops", "50", "--trace", str(path))
    assert f"digest={hashlib.sha256(path.read_bytes()).hexdigest()}" in result.output


def test_a_failure_names_seed_invariant_history_and_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(sim: run.Simulation) -> None:
        history: KeyHistory = max(sim.histories, key=lambda history: len(history.lines))
        raise ViolationError("no-write-lost", "acknowledged {w0} gone", history)

    monkeypatch.setattr("dynafast.sim.invariants.check_histories", broken)
    result = call("--seed", "3", "--ops", "100", "--faults", "none")
    assert result.exit_code == 1
    assert "seed 3" in result.output
    assert "invariant no-write-lost: acknowledged {w0} gone" in result.output
    assert "history of key-" in result.output
    assert "replay: dynafast sim --seed 3 --nodes 5 --ops 100 --faults none" in result.output
    assert result.output.splitlines()[-1].startswith("sim: failed invariant=no-write-lost seed=3")


def test_an_unknown_fault_is_refused() -> None:
    result = call("--faults", "earthquake")
    assert result.exit_code != 0
    assert "earthquake" in str(result.exception)
