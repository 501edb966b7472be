"""Partitions move to nodes that join a cluster with data, under writes and through failures; nothing is lost."""

import pytest

from dynafast.core.taking import Taking
from dynafast.protocol import Status
from tests.core.harness import Cluster
from tests.core.load import Load, at_rest, check_nothing_left_over, check_nothing_lost, check_one_owner


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_node_joins_a_cluster_with_data_while_writes_go_on(count: int) -> None:
    cluster = Cluster(count)
    load = Load(cluster)
    load.fill(500)
    joiner = cluster.add("new")
    load.run(lambda: at_rest(cluster))
    assert not load.failed
    assert joiner.node.own_seats()
    check_one_owner(cluster)
    check_nothing_lost(cluster, load)
    check_nothing_left_over(cluster)


def test_several_nodes_join_at_once() -> None:
    cluster = Cluster(3)
    load = Load(cluster)
    load.fill(300)
    for number in range(3):
        cluster.add(f"new{number}")
    load.run(lambda: at_rest(cluster))
    check_one_owner(cluster)
    check_nothing_lost(cluster, load, copies=2)
    check_nothing_left_over(cluster)


@pytest.mark.parametrize("turns", [3, 10, 20, 30, 40, 60])
@pytest.mark.parametrize("who", ["joiner", "owner"])
def test_a_crash_in_the_middle_of_a_transfer_loses_nothing(turns: int, who: str) -> None:
    cluster = Cluster(3)
    load = Load(cluster)
    load.fill(300)
    joiner = cluster.add("new")
    for _ in range(turns):
        load.put(cluster.members[1])
        cluster.step()
        check_one_owner(cluster)
    victim = joiner if who == "joiner" else cluster.members[2]
    cluster.crash(victim)
    for _ in range(100):
        load.put(cluster.members[1])
        cluster.step()
    cluster.restart(victim)
    load.run(lambda: at_rest(cluster))
    check_one_owner(cluster)
    check_nothing_lost(cluster, load, copies=2)
    check_nothing_left_over(cluster)


def test_joiner_says_up_when_it_serves_what_it_should() -> None:
    cluster = Cluster(3)
    Load(cluster).fill(100)
    joiner = cluster.add("new")
    cluster.run_until(lambda: joiner.node.own.status is Status.UP)
    assert all(joiner.node.seats.seats_of(joiner.node.own.id, p) for p in joiner.node.own_targets())


def test_a_seat_that_was_given_is_taken_without_waiting_for_room() -> None:
    """Until then it is nobody's: requests have one replica less to wait for."""
    cluster = Cluster(3)
    Load(cluster).fill(100)
    node = cluster.add("new").node
    taking, start = node.machine(Taking), node.admission.start

    def none_for_gifts(size: int) -> bool:
        return not any(task.giver is not None for task in taking._tasks.values()) and start(size)

    node.admission.start = none_for_gifts  # type: ignore[method-assign]
    cluster.settle()
    assert node.own_seats()
