"""Damaged records: no answer until compared with every other seat, then healed from what is intact."""

from typing import Any

import pytest

from dynafast.errors import CorruptRecordError
from dynafast.protocol import Op
from dynafast.storage.interface import Batch, Family, Until, partition_range
from tests.core.harness import Cluster, Member
from tests.core.stories import damage, held, holders, keys_of, okey, put, record, run_ms


def damaged_on(cluster: Cluster, key: bytes, *members: Member) -> None:
    """Write to all, then damage the copies of *members*, and let them notice."""
    for member in holders(cluster, key):
        member.node.replica.merge(okey(key), record(1))
    for member in members:
        damage(member, key)
        with pytest.raises(CorruptRecordError):
            held(member, key)


@pytest.mark.parametrize("count", [1, 2])
def test_a_damaged_record_is_healed_while_one_copy_is_intact(count: int) -> None:
    """With two of three damaged, neither waits for the other."""
    cluster = Cluster(3)
    where = holders(cluster, b"key")
    damaged_on(cluster, b"key", *where[:count])
    cluster.run_until(lambda: not any(member.node.replica.damaged for member in where), limit_ms=5_000)
    assert {held(member, b"key") for member in where} == {record(1).digest()}
    run_ms(cluster, 5_000)
    roots = {member.node.replica.root(partition(cluster, b"key")) for member in where}
    assert len(roots) == 1, "its leaf was summed up anew"


def partition(cluster: Cluster, key: bytes) -> int:
    return int.from_bytes(okey(key)[:8], "big") * cluster.facts.partitions >> 64


def test_a_damaged_record_waits_for_a_seat_that_cannot_be_asked() -> None:
    """What it was may be known to that one alone."""
    cluster = Cluster(3)
    damaged, away, intact = holders(cluster, b"key")
    damaged_on(cluster, b"key", damaged)
    cluster.kill(away)
    away.node.replica.merge(okey(b"key"), record(2))
    run_ms(cluster, 5_000)
    with pytest.raises(CorruptRecordError):
        held(damaged, b"key")
    cluster.restart(away)
    both = record(1).merge(record(2)).digest()
    cluster.run_until(lambda: not damaged.node.replica.damaged and held(damaged, b"key") == both, limit_ms=5_000)
    assert intact.up


def test_a_damaged_record_that_no_other_seat_has_is_forgotten() -> None:
    cluster = Cluster(3)
    member = holders(cluster, b"key")[0]
    member.node.replica.merge(okey(b"key"), record(1))
    damage(member, b"key")
    with pytest.raises(CorruptRecordError):
        held(member, b"key")
    cluster.run_until(lambda: not member.node.replica.damaged, limit_ms=5_000)
    assert held(member, b"key") is None


def test_a_record_damaged_everywhere_stays_so_until_a_hint_brings_it() -> None:
    cluster = Cluster(5)
    where = holders(cluster, b"key")
    damaged_on(cluster, b"key", *where)
    run_ms(cluster, 5_000)
    assert all(member.node.replica.damaged for member in where)
    keeper = next(member for member in cluster.members if member not in where)
    keeper.node.replica.merge(okey(b"key"), record(1), where[0].node.own.id)
    cluster.run_until(lambda: not any(member.node.replica.damaged for member in where), limit_ms=10_000)
    assert {held(member, b"key") for member in where} == {record(1).digest()}


def test_a_read_that_meets_a_damaged_record_is_answered_by_the_others_and_heals_it() -> None:
    cluster = Cluster(3)
    key = keys_of(cluster, cluster.members[0])[0]
    client = cluster.client(0)
    put(client, key, b"value", w=3)
    damage(cluster.members[0], key)
    found = client.ask(Op.GET, key, {})
    assert [version[4] for version in found[2]] == [b"value"]
    cluster.run_until(lambda: not cluster.members[0].node.replica.damaged, limit_ms=5_000)


def test_a_damaged_hint_is_healed_once_its_target_is_back_and_then_delivered() -> None:
    cluster = Cluster(5)
    where = holders(cluster, b"key")
    keeper = next(member for member in cluster.members if member not in where)
    for member in where[1:]:
        member.node.replica.merge(okey(b"key"), record(1))
    cluster.kill(where[0])
    keeper.node.replica.merge(okey(b"key"), record(1), where[0].node.own.id)
    damage(keeper, b"key")
    run_ms(cluster, 3_000)
    cluster.restart(where[0])
    cluster.run_until(lambda: not keeper.node.replica.hinted, limit_ms=15_000)
    assert held(where[0], b"key") == record(1).digest()
    assert not keeper.node.replica.damaged


def broken_range(cluster: Cluster, member: Member, number: int) -> None:
    """A damaged file: of a partition of *member* not even the keys can be told, until the range is deleted."""
    start, _ = partition_range(number, cluster.facts.partitions)
    scan, write = member.store.scan, member.store.write
    state = {"damaged": True}

    def scanning(family: Family, first: bytes, end: bytes | None, *, limit: int) -> Any:
        if state["damaged"] and family is Family.OBJECTS and first[:2] == start[:2] and first >= start:
            raise CorruptRecordError("a file is damaged")
        return scan(family, first, end, limit=limit)

    def writing(batch: Batch) -> int:
        if any(
            family is Family.OBJECTS and isinstance(value, Until) and key == start for family, key, value in batch.ops
        ):
            state["damaged"] = False
        return write(batch)

    member.store.scan = scanning  # type: ignore[method-assign]
    member.store.write = writing  # type: ignore[method-assign]


@pytest.mark.parametrize("count", [3, 5])
def test_a_partition_of_which_a_range_cannot_be_read_is_given_up_pulled_and_served_again(count: int) -> None:
    cluster = Cluster(count)
    key = b"key"
    where = holders(cluster, key)
    for member in where:
        member.node.replica.merge(okey(key), record(1))
    damaged, number = where[0], partition(cluster, key)
    broken_range(cluster, damaged, number)
    with pytest.raises(CorruptRecordError):
        damaged.node.replica.scan(number, b"", 10)
    before = damaged.node.seats.seats_of(damaged.node.own.id, number)
    cluster.run_until(lambda: not damaged.node.coordinator.view.own[number], limit_ms=2_000)
    cluster.run_until(lambda: bool(damaged.node.coordinator.view.own[number]), limit_ms=10_000)
    assert held(damaged, key) == record(1).digest()
    assert not damaged.node.replica.broken
    after = damaged.node.seats.seats_of(damaged.node.own.id, number)
    assert [seat.seat for seat in after] == [seat.seat for seat in before]
    assert all(late.k > early.k for late, early in zip(after, before, strict=True))


def test_a_broken_range_is_kept_while_another_seat_cannot_be_asked() -> None:
    cluster = Cluster(3)
    damaged, away, _ = holders(cluster, b"key")
    number = partition(cluster, b"key")
    broken_range(cluster, damaged, number)
    cluster.kill(away)
    with pytest.raises(CorruptRecordError):
        damaged.node.replica.scan(number, b"", 10)
    run_ms(cluster, 5_000)
    assert damaged.node.coordinator.view.own[number]
