"""The comparison with others: its aims name what is measured, ratios are taken within turns, and tables say so."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from bench.load import LoadError
from bench.peers import redis_benchmark
from bench.peers.command import BUSY, FIELDS, run, tables
from bench.peers.servers import free_ports
from bench.peers.systems import MEASURES, SYSTEMS
from bench.peers.targets import AIMS, Aim, Side

AIM = Aim("ours by theirs", Side("a", "put"), Side("b", "put"), 2.0)


def samples(ours: list[float | None], theirs: list[float | None]) -> dict:
    return {"a": {"put": [{"rate": rate} for rate in ours]}, "b": {"put": [{"rate": rate} for rate in theirs]}}


def test_aims_and_measures_name_what_is_there() -> None:
    """A name that is misspelt would be a row that is never measured."""
    for aim, side in product(AIMS, ("ours", "theirs")):
        named = getattr(aim, side)
        assert named.measure in SYSTEMS[named.system].measures, aim
        assert named.field in FIELDS, aim
    for name, system in SYSTEMS.items():
        assert system.loses, name
        for number, measure in enumerate(system.measures):
            assert MEASURES[measure].half in (None, *system.measures[:number]), name


def test_ratio_is_the_median_of_the_turns_own() -> None:
    """One disturbed turn, or a machine that got slower, does not change it."""
    found = samples([100, 10, 300], [40, 5, 100])
    assert AIM.ratios(found) == [2.5, 2.0, 3.0]
    assert AIM.met(found) is True
    assert AIM.row(found) == ["ours by theirs", "at least 2x", "2.50x", "2.00 .. 3.00", "met"]
    assert replace(AIM, limit=2.6).met(found) is False
    assert replace(AIM, limit=2.6).row(found)[-1] == "short"
    assert replace(AIM, limit=2.6, at_least=False).met(found) is True


def test_aim_without_samples_is_not_measured() -> None:
    assert AIM.met({}) is None
    assert AIM.row({})[-1] == "not measured"
    assert AIM.ratios(samples([None, 8.0], [1.0, 4.0])) == [2.0]


def test_tables_show_medians_losses_and_clients_that_may_limit() -> None:
    turn = dict.fromkeys(FIELDS, 1.0) | {"rate": 1000.0, "p99.9_ms": None, "client_cores": BUSY}
    found = {
        "systems": {"etcd, 3 nodes": {"put": [turn, turn | {"rate": 3000.0}]}},
        "loses": {"etcd, 3 nodes": "nothing"},
    }
    lines = tables(found).splitlines()
    cells = ["etcd, 3 nodes", "put", "2,000", "1,000 .. 3,000", "1.00", "1.00", "1.00", "-", "1.00", "0.50 *"]
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == cells
    assert any("| etcd, 3 nodes | nothing" in line for line in lines)
    assert sum("not measured" in line for line in lines) == len(AIMS)


def test_one_system_is_measured_with_both_clients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A turn of this project alone: redis-benchmark (Debian's redis-tools) on its front, our own client beside it."""
    file = tmp_path / "peers.json"
    assert run(["--quick", "--only", "N=1, interval", "--json", str(file)]) == 0
    [(name, measures)] = json.loads(file.read_text())["systems"].items()
    assert set(measures) == set(SYSTEMS[name].measures)
    for measure, [sample] in measures.items():
        assert sample["rate"] > 0, measure
        assert sample["server_us"] > 0, measure
        assert 0 < sample["client_cores"] < 2, measure
    shown = capsys.readouterr().out
    assert "| one node: native put, SET " in shown
    assert "| dynafast, N=1, interval | the last second in a power cut" in shown


def test_program_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LoadError, match="redis-benchmark is not installed"):
        redis_benchmark.run("127.0.0.1:1", test="set", connections=1, depth=1, requests=1)
    with pytest.raises(LoadError, match=r"redis-server is not installed: see bench/peers/README\.md"):
        SYSTEMS["redis"].start().__enter__()


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20
