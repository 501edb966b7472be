"""``python -m bench paper``: what is computed from numbers, and that experiments run and say what they found."""

import json
from array import array
from pathlib import Path
from typing import Any

import pytest

from bench.paper import balance, coordination, day, unpaced, versions
from bench.paper.background import SECTION_65, UNPACED, WITH, WITHOUT, rise
from bench.paper.balance import efficiency, efficiency_at, least_bytes, metadata_bytes, out_of_balance, replica_loads
from bench.paper.command import EXPERIMENTS, run
from bench.paper.experiment import Claim, Experiment
from bench.report import ROOT
from dynafast._ext.ring import Ring
from dynafast.client.ring import RingMap
from dynafast.core.admission import Admission
from dynafast.protocol import HASH_NAME
from dynafast.testing import Cluster

POINTS = [{"bytes": 100, "efficiency": 0.5}, {"bytes": 300, "efficiency": 0.9}]


@pytest.mark.parametrize(
    ("loads", "share"),
    [
        ([100, 100, 100, 100], 0.0),
        ([115, 85, 100, 100], 0.0),  # 15 % is not more than 15 %
        ([116, 84, 100, 100], 0.5),
        ([100, 100, 100, 140], 0.25),  # the mean is 110, and 100 is near it
        ([0, 0, 0, 8], 1.0),
    ],
)
def test_out_of_balance_is_the_share_of_nodes_off_the_mean(loads: list[int], share: float) -> None:
    assert out_of_balance(loads) == share


def test_efficiency_is_the_mean_load_by_the_largest() -> None:
    assert efficiency([10, 10, 10]) == 1.0
    assert efficiency([10, 20, 30, 40]) == 0.625


def test_replica_loads_are_the_arcs_before_the_tokens_the_first_over_the_top() -> None:
    quarter = 1 << 62
    tokens = [quarter - 1, 2 * quarter - 1, 4 * quarter - 1]
    ring = Ring(tokens, [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
    assert replica_loads(tokens, ring, 3, replicas=1) == [quarter, quarter, 2 * quarter]
    assert replica_loads(tokens, ring, 3, replicas=2) == [3 * quarter, 2 * quarter, 3 * quarter]
    moved = [token - 5 for token in tokens]  # the ring wraps: what is past the last token belongs to the first
    assert replica_loads(moved, Ring(moved, [(0, 1), (1, 0), (0, 1)]), 2, replicas=1) == [3 * quarter, quarter]


@pytest.mark.parametrize(("strategy", "amount"), [("1", 16), ("2", 16), ("3", 256)])
def test_every_position_has_n_replicas_in_each_strategy(strategy: str, amount: int) -> None:
    tokens, ring = balance._ring(strategy, amount, seed=3)
    loads = replica_loads(tokens, ring, balance.NODES)
    assert sum(loads) == balance.REPLICAS * balance.CIRCLE
    assert min(loads) > 0


def test_metadata_is_tokens_with_owners_or_the_owners_of_each_partition() -> None:
    assert metadata_bytes("1", 100) == metadata_bytes("2", 100) == 30 * 100 * 10
    assert metadata_bytes("3", 1024) == 1024 * 3 * 2


@pytest.mark.parametrize(("size", "expected"), [(50, 0.5), (100, 0.5), (200, 0.7), (300, 0.9), (999, 0.9)])
def test_efficiency_between_points_is_linear_and_flat_beyond_them(size: int, expected: float) -> None:
    assert efficiency_at(POINTS, size) == pytest.approx(expected)


def test_least_bytes_is_of_the_smallest_point_that_is_good_enough() -> None:
    assert least_bytes(POINTS, 0.5) == 100
    assert least_bytes(POINTS, 0.51) == 300
    assert least_bytes(POINTS, 0.91) is None


def test_days_begin_at_night_and_have_their_peak_at_noon() -> None:
    rates = day.rates(1000.0, hours=24, days=2)
    assert len(rates) == 48
    assert rates[:24] == rates[24:]
    assert rates[:24] == pytest.approx(rates[23::-1])
    assert rates.index(max(rates)) in (11, 12)
    assert 200 < min(rates) < 210
    assert 990 < max(rates) <= 1000


def test_a_quarter_of_the_hours_is_the_busiest_or_the_quietest() -> None:
    hours = [{"rate": rate} for rate in (1, 3, 7, 8, 6, 5, 4, 2)]
    assert [hour["rate"] for hour in day.busiest(hours)] == [8, 7]
    assert [hour["rate"] for hour in day.busiest(hours, quietest=True)] == [1, 2]
    assert day.busiest(hours[:3]) == [hours[2]]


def test_ratios_are_medians_of_the_turns() -> None:
    """Not ratios of medians: what slows the machine slows both halves of a turn."""
    turns = [
        {
            coordination.ANY: {"read": {"mean": slow}},
            coordination.CLIENT: {"read": {"mean": slow / times}},
            "with": {"before": {"p99": slow}, "during": {"p99": slow * times}},
        }
        for slow, times in ((1.0, 2), (100.0, 4), (10.0, 8))
    ]
    assert coordination.ratio(turns, coordination.ANY, "read", "mean") == 0.25
    assert coordination.middle(turns, coordination.ANY, "read", "mean") == 10
    assert rise(turns, "with") == 4


def test_strangers_serve_not_the_key_and_are_asked_in_turn() -> None:
    nodes = [{"name": name, "address": f"{name}:1"} for name in "abcde"]
    table = array("H", [0, 1, 2] * 4)
    table.byteswap()
    ring = RingMap(
        {"version": 1, "partitions": 4, "replicas": 3, "table": table.tobytes(), "nodes": nodes, "hash": HASH_NAME}
    )
    found = array("H", coordination.strangers(ring, ring.addresses, [b"%d" % number for number in range(4)]))
    assert list(found) == [3, 4, 3, 4]


def test_percent_is_of_all_reads_also_when_read_back_from_a_file() -> None:
    level = {"reads": {"1": 6, "2": 3, "more": 3}}
    assert [versions.percent(level, name) for name in ("1", "2", "3", "more")] == [50, 25, 0, 25]


def test_union_has_the_numbers_of_all_values() -> None:
    pack = versions.TOKEN.pack
    assert versions.union([pack(1) + pack(70_000), pack(2) + pack(1), b""]) == {1, 2, 70_000}


def _tails(**tails: float) -> list[dict[str, Any]]:
    return [{"rate": 1.0, **{name.replace("_", ", "): {"p99.9": tail} for name, tail in tails.items()}}]


@pytest.mark.parametrize(("durable", "same"), [(10.0, True), (1.5, False)])
def test_claims_compare_what_was_found(durable: float, *, same: bool) -> None:
    claims = day.FIGURE_5.claims({"hours": _tails(**{"group": durable, "interval": 1.0, "interval_dw=1": 1.2})})
    assert claims[0].same is same
    assert claims[1].same


@pytest.mark.parametrize(
    ("paced", "unpaced", "same"),
    [
        (1.5, 9.0, [True, True]),
        (8.0, 9.0, [False, True]),  # admission helps, and is not enough
        (9.0, 8.0, [False, False]),
        (1.0, 1.5, [True, False]),  # there is nothing that it could help against
    ],
)
def test_admission_is_judged_by_what_requests_feel(paced: float, unpaced: float, same: list[bool]) -> None:
    turn = {
        setting: {"before": {"p99": 2.0}, "during": {"p99": 2.0 * times}}
        for setting, times in ((WITH, paced), (WITHOUT, unpaced))
    }
    assert [claim.same for claim in SECTION_65.claims({"turns": [turn]})] == same


@pytest.mark.parametrize(("order", "same"), [((0.6, 0.5, 0.9), True), ((0.9, 0.5, 0.6), False)])
def test_strategies_are_compared_at_the_same_metadata(order: tuple[float, ...], *, same: bool) -> None:
    points = {name: [{"amount": 1, "bytes": 100, "efficiency": one}] for name, one in zip("123", order, strict=True)}
    assert balance.FIGURE_8.claims({"strategies": points})[0].same is same


def test_text_has_the_setting_the_claims_and_the_numbers() -> None:
    one = Experiment(
        title="T",
        setting="So it is done.",
        measure=lambda *, quick: {},
        claims=lambda found: [Claim("faster", "2x", "3x", same=True), Claim("smaller", "4x", "1x", same=False)],
        tables=lambda found: "numbers",
        plots=lambda folder, name, found: [],
    )
    lines = one.text({}).splitlines()
    assert lines[0] == "So it is done."
    assert [line.split("|")[4].strip() for line in lines if "x " in line] == ["yes", "no"]
    assert lines[-1] == "numbers"


def test_computed_experiments_print_write_and_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "paper.json"
    arguments = ["--quick", "--only", "figure6", "--only", "figure8", "--json", str(file), "--plot", str(tmp_path)]
    assert run(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.count("same conclusion") == 2
    found = json.loads(file.read_text())["experiments"]
    assert list(found) == ["figure6", "figure8"]
    for name in found:
        assert EXPERIMENTS[name].text(found[name]) in printed  # the report says what the run said
        assert (tmp_path / f"paper-{name}.svg").stat().st_size > 1000
    efficiencies = {strategy: points[-1]["efficiency"] for strategy, points in found["figure8"]["strategies"].items()}
    assert efficiencies["3"] > efficiencies["1"]


def test_versions_are_several_with_many_writers_and_no_write_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "paper.json"
    assert run(["--quick", "--only", "versions", "--json", str(file)]) == 0
    levels = json.loads(file.read_text())["experiments"]["versions"]["levels"]
    assert len(levels) == len(versions.QUICK_LEVELS)
    assert [level["lost"] for level in levels] == [0] * len(levels)
    assert versions.percent(levels[0], "1") == 100  # nobody else writes these keys
    assert versions.percent(levels[-1], "1") < 100
    assert all(level["writes"] > 0 for level in levels)


def test_nodes_without_admission_serve_and_replace_what_exists() -> None:
    assert set(unpaced.INSTEAD) <= set(vars(Admission))
    assert Admission.room not in unpaced.INSTEAD.values()  # the import alone changes nothing
    cluster = Cluster(1, replicas=1)
    cluster.command = UNPACED
    with cluster, cluster.client() as client:
        client.put(b"key", b"value")
        assert client.get(b"key").value == b"value"


def test_make_bench_runs_every_experiment() -> None:
    makefile = (ROOT / "Makefile").read_text()
    [names] = [line for line in makefile.splitlines() if "for name in figure4" in line]
    assert names.partition(" in ")[2].partition(";")[0].split() == list(EXPERIMENTS)
