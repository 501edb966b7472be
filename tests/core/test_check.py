"""CHECK finds what is not as it should be, in time, and nothing else."""

from typing import Any

from dynafast.protocol import Op
from tests.core.harness import Cluster
from tests.core.stories import hints, holders, keys_of, okey, partition_of, pause, put, record, run_ms


def check(cluster: Cluster, number: int = 0) -> dict[str, Any]:
    answer = cluster.client(number).ask(Op.CHECK, wait_ms=10_000)
    assert answer[0] == Op.OK, answer
    found: dict[str, Any] = answer[2]
    return found


def test_a_cluster_at_rest_is_clean_asked_at_any_node() -> None:
    cluster = Cluster(5)
    put(cluster.client(0), b"key", b"value", w=3)
    for number in range(5):
        assert check(cluster, number) == {"partitions": 16, "divergent": [], "unreachable": [], "hints": 0}


def test_a_lone_node_is_clean() -> None:
    assert check(Cluster(1)) == {"partitions": 16, "divergent": [], "unreachable": [], "hints": 0}


def test_a_node_that_is_down_is_unreachable_and_its_partitions_are_not_clean() -> None:
    cluster = Cluster(5)
    down = cluster.members[4]
    served = {p for p, holders in enumerate(down.node.coordinator.view.holders) if any(h.me for h in holders)}
    cluster.kill(down)
    found = check(cluster)
    assert found["unreachable"] == [down.name]
    assert set(found["divergent"]) == served


def test_a_node_that_hangs_is_unreachable_in_time() -> None:
    cluster = Cluster(5)
    pause(cluster, cluster.members[4])
    start_ns = cluster.now_ns
    assert check(cluster)["unreachable"] == [cluster.members[4].name]
    assert cluster.now_ns - start_ns < 10_000_000_000


def test_replicas_that_differ_are_divergent() -> None:
    cluster = Cluster(3, plants=frozenset({"skip-repair"}))
    holders(cluster, b"key")[0].node.replica.merge(okey(b"key"), record(1))
    assert check(cluster, 2)["divergent"] == [partition_of(cluster, b"key")]


def test_hints_that_wait_are_counted_wherever_they_are() -> None:
    cluster = Cluster(5)
    key = keys_of(cluster, cluster.members[4])[0]
    cluster.kill(cluster.members[4])
    put(cluster.client(0), key, b"value", w=3)
    assert hints(cluster) == 1
    assert check(cluster)["hints"] == 1


def test_writes_on_their_way_are_no_divergence() -> None:
    cluster = Cluster(3)
    client = cluster.client(0)
    for number in range(20):
        client.send([Op.PUT, 1000 + number, b"k%d" % number, b"v", None, number.to_bytes(16, "big"), {}])
    run_ms(cluster, 5)
    assert check(cluster, 1)["divergent"] == []
