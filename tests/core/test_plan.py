"""A plan tells what a change then moves; weights are shares of the data."""

from collections import Counter
from typing import Any

import pytest

from dynafast.protocol import Op
from tests.core.harness import Cluster
from tests.core.load import Load, at_rest


def plan(cluster: Cluster, **change: Any) -> Any:
    answer = cluster.client(0).ask(Op.PLAN, change)
    assert answer[0] == Op.OK, answer
    return answer[2]


def seats(cluster: Cluster) -> dict[str, set[int]]:
    return {member.name: {seat.partition for seat in member.node.own_seats()} for member in cluster.members}


def test_plan_of_a_weight_is_what_then_moves() -> None:
    cluster = Cluster(5, partitions=64)
    load = Load(cluster)
    load.fill(300)
    planned = plan(cluster, change="weight", name="n2", weight=3)
    before = seats(cluster)
    assert cluster.client(0).ask(Op.WEIGHT, "n2", 3)[0] == Op.OK
    cluster.run_until(lambda: at_rest(cluster), limit_ms=60_000)
    after = seats(cluster)
    gained = {name: len(after[name] - before[name]) for name in after if after[name] - before[name]}
    found = Counter[str]()
    for move in planned["moves"]:
        found[move["to"]] += move["partitions"]
    assert dict(found) == gained
    assert planned["partitions"] == sum(gained.values())
    assert planned["bytes"] > 0
    assert planned["bytes"] == sum(move["bytes"] for move in planned["moves"])


@pytest.mark.parametrize("change", ["leave", "remove"])
def test_plan_of_a_leave_names_who_takes_over(change: str) -> None:
    cluster = Cluster(5)
    planned = plan(cluster, change=change, name="n4")
    assert "n4" in {move["from"] for move in planned["moves"]}
    assert "n4" not in {move["to"] for move in planned["moves"]}
    assert planned["partitions"] >= len(seats(cluster)["n4"])
    assert planned["warnings"] == []


def test_plan_of_a_leave_below_the_replicas_warns() -> None:
    assert "2 hosts for 3 replicas" in plan(Cluster(3), change="leave", name="n2")["warnings"][0]


def test_plan_of_a_join_counts_what_the_new_node_gets() -> None:
    planned = plan(Cluster(5, partitions=64), change="join", weight=2)
    to_new = sum(move["partitions"] for move in planned["moves"] if move["to"] is None)
    assert abs(to_new - 64 * 3 * 2 / 7) <= 5


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"change": "leave", "name": "n9"}, "unknown-node"),
        ({"change": "grow"}, "bad-request"),
        ({"change": "join", "weight": 0}, "bad-request"),
        ({"change": "join", "weight": 1, "name": "x"}, "bad-request"),
        ({"change": "weight", "name": "n1", "weight": "2"}, "bad-request"),
        (7, "bad-request"),
    ],
)
def test_bad_plans_are_refused(change: object, code: str) -> None:
    assert Cluster(2).client(0).ask(Op.PLAN, change)[2] == code


def test_of_eight_nodes_one_of_weight_two_serves_twice_as_much() -> None:
    """First places by share, give or take one; replicas within 8 %; everybody has what it should."""
    cluster = Cluster(7, partitions=1024)
    cluster.add("heavy", weight=2)
    cluster.run_until(lambda: at_rest(cluster), limit_ms=60_000)
    firsts = Counter[str]()
    for holders in cluster.members[0].node.coordinator.view.holders:
        firsts[holders[0].name] += 1
    replicas = {name: len(partitions) for name, partitions in seats(cluster).items()}
    share = 1024 / 9
    assert abs(firsts["heavy"] - 2 * share) <= 1
    assert all(abs(firsts[f"n{number}"] - share) <= 1 for number in range(7))
    others = sum(replicas[f"n{number}"] for number in range(7)) / 7
    assert 2 * 0.92 <= replicas["heavy"] / others <= 2 * 1.08
