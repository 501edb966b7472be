"""Replicas that differ become alike, and those that are alike send nothing."""

import random

import pytest

from dynafast.core.antientropy import AntiEntropy, Pair
from dynafast.protocol import Op
from tests.core.harness import Cluster, Member
from tests.core.stories import alike, contents, count_calls, held, holders, keys_of, okey, put, record, run_ms

REPAIR = (Op.ROOTS, Op.TREE, Op.KEYS, Op.READ, Op.MERGE)


def scatter(cluster: Cluster, rng: random.Random, count: int, *, deleted: float = 0.1) -> None:
    """Write records to some replicas behind the back of the others."""
    for number in range(1, count + 1):
        key = b"k%d" % rng.randrange(count)
        value = None if rng.random() < deleted else b"v%d" % number
        where = holders(cluster, key)
        for member in rng.sample(where, rng.randint(1, len(where) - 1)):
            member.node.replica.merge(okey(key), record(number, value))


@pytest.mark.parametrize("seed", range(5))
def test_replicas_that_differ_anyhow_become_byte_identical(seed: int) -> None:
    cluster = Cluster(5, partitions=16, seed=seed)
    scatter(cluster, random.Random(seed), 300)
    assert not alike(cluster)
    cluster.run_until(lambda: alike(cluster), limit_ms=30_000)


def test_a_tombstone_reaches_replicas_that_have_the_value_at_once_and_the_others_after_a_while() -> None:
    cluster = Cluster(3, seed=1)  # a seed by which the value does not get to the third before
    key = b"key"
    first, second, third = holders(cluster, key)
    value = record(1)
    dead = value.put(actor=2, counter=1, time=2, write_id=b"2" * 16, value=None, context=[(1, 1, 1)])
    second.node.replica.merge(okey(key), value)
    first.node.replica.merge(okey(key), dead)
    cluster.run_until(lambda: held(second, key) == dead.digest(), limit_ms=4_000)
    assert held(third, key) is None, "it may have been collected there just now"
    cluster.run_until(lambda: held(third, key) == dead.digest(), limit_ms=15_000)


def test_nothing_is_sent_once_all_is_found_equal_and_nothing_changes() -> None:
    cluster = Cluster(5)
    scatter(cluster, random.Random(1), 100)
    cluster.run_until(lambda: alike(cluster), limit_ms=30_000)
    run_ms(cluster, 60_000)
    counted = count_calls(cluster)
    run_ms(cluster, 60_000)
    assert {op: counted[op] for op in REPAIR if counted[op]} == {}


def test_only_roots_travel_while_replicas_are_alike_and_written_to() -> None:
    cluster = Cluster(3)
    client = cluster.client(0)
    put(client, b"k", b"0", w=3)
    run_ms(cluster, 60_000)
    counted = count_calls(cluster)
    for number in range(60):
        put(client, b"k%d" % number, b"v", w=3)
        run_ms(cluster, 1_000)
    assert counted[Op.ROOTS] <= 30
    assert counted[Op.READ] == counted[Op.MERGE] == 0


def test_a_node_that_was_cut_off_is_compared_as_soon_as_it_is_back() -> None:
    cluster = Cluster(3)
    run_ms(cluster, 60_000)
    away = cluster.members[2]
    cluster.kill(away)
    key = keys_of(cluster, away)[0]
    holders(cluster, key)[0].node.replica.merge(okey(key), record(1))
    cluster.restart(away)
    cluster.run_until(lambda: held(away, key) is not None, limit_ms=8_000)


def test_a_tree_that_is_being_built_is_compared_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(3)
    scatter(cluster, random.Random(2), 50)
    cluster.run_until(lambda: alike(cluster), limit_ms=30_000)
    monkeypatch.setattr("dynafast.core.node.BUILD_COUNT", 0)
    for member in cluster.members:
        for partition in contents(member):
            member.node.replica.rebuild(partition)
    counted = count_calls(cluster)
    run_ms(cluster, 20_000)
    assert counted[Op.TREE] == counted[Op.KEYS] == counted[Op.READ] == counted[Op.MERGE] == 0


def test_differ_names_the_partitions_until_they_are_alike() -> None:
    cluster = Cluster(3, plants=frozenset({"skip-repair"}))
    key = b"key"
    holders(cluster, key)[0].node.replica.merge(okey(key), record(1))
    run_ms(cluster, 10_000)
    assert not alike(cluster), "the canary repairs nothing"


def test_one_of_two_does_the_work_for_both() -> None:
    cluster = Cluster(3)
    run_ms(cluster, 1_000)
    pairs = [(member.name, pair.peer.name) for member in cluster.members for pair in working(member)]
    assert len(pairs) == len({frozenset(pair) for pair in pairs}) == 3


def working(member: Member) -> list[Pair]:
    return list(member.node.machine(AntiEntropy)._pairs.values())


def test_replicas_in_different_rounds_become_alike_too() -> None:
    cluster = Cluster(3)
    for number, member in enumerate(cluster.members):
        member.node.replica.raise_round(3 * number)
    scatter(cluster, random.Random(3), 50)
    cluster.run_until(lambda: alike(cluster), limit_ms=30_000)
