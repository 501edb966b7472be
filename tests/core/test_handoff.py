"""Hints are delivered, each of them, and end by nothing but the answer of who was meant."""

from dataclasses import replace
from typing import Any

import pytest

from dynafast.core.handoff import Handoff
from dynafast.errors import StoreBusyError
from dynafast.protocol import Status
from tests.core.harness import Cluster, Member
from tests.core.stories import (
    alike,
    held,
    hints,
    holders,
    keys_of,
    okey,
    put,
    record,
    run_ms,
)


def outsider(cluster: Cluster, key: bytes) -> Member:
    """A member that does not serve *key*."""
    return next(member for member in cluster.members if member not in holders(cluster, key))


def waiting(keeper: Member) -> list[dict[str, Any]]:
    """What `status` shows of the hints at *keeper*."""
    rows: Any = keeper.node.machine(Handoff).figures()["hints"]
    return list(rows)


def hint(keeper: Member, key: bytes, target: Member, number: int = 1) -> None:
    keeper.node.replica.merge(okey(key), record(number), target.node.own.id)


def test_a_node_that_was_down_gets_what_was_written_meanwhile_and_the_fallbacks_keep_nothing() -> None:
    cluster = Cluster(5)
    down = cluster.members[1]
    keys = keys_of(cluster, down)
    cluster.kill(down)
    client = cluster.client(0)
    for key in keys:
        put(client, key, b"while it was down", w=3)
    assert hints(cluster) == len(keys)
    cluster.restart(down)
    cluster.run_until(lambda: hints(cluster) == 0, limit_ms=10_000)
    assert all(held(down, key) is not None for key in keys)
    assert all(held(outsider(cluster, key), key) is None for key in keys)
    run_ms(cluster, 1_000)
    assert alike(cluster)


def test_many_hints_of_many_partitions_are_delivered_soon() -> None:
    cluster = Cluster(4, partitions=64)
    target = cluster.members[0]
    cluster.kill(target)
    for number in range(2_000):
        key = b"k%d" % number
        if target in holders(cluster, key):
            hint(outsider(cluster, key), key, target)
    assert hints(cluster) > 1_000
    cluster.restart(target)
    cluster.run_until(lambda: hints(cluster) == 0, limit_ms=10_000)


def test_a_hint_whose_record_changed_meanwhile_stays_until_the_new_state_is_delivered() -> None:
    cluster, key, keeper, target = one_hint()
    cluster.hold(target, keeper)  # the answer hangs
    run_ms(cluster, 1_000)
    assert held(target, key) == record(1).digest()
    hint(keeper, key, target, 2)
    cluster.release(target, keeper)
    run_ms(cluster, 20)
    assert hints(cluster) == 1
    cluster.run_until(lambda: hints(cluster) == 0, limit_ms=3_000)
    assert held(target, key) == record(1).merge(record(2)).digest()


@pytest.mark.parametrize(("plant", "kept"), [(None, True), ("blind-hint-ack", False)])
def test_canary_an_answer_for_an_older_state_ends_the_hint(plant: str | None, *, kept: bool) -> None:
    cluster, key, keeper, target = one_hint(plant)
    cluster.hold(target, keeper)
    run_ms(cluster, 1_000)
    hint(keeper, key, target, 2)
    cluster.release(target, keeper)
    run_ms(cluster, 3_000)
    assert (held(target, key) == record(1).merge(record(2)).digest()) is kept


@pytest.mark.parametrize(("plant", "kept"), [(None, True), ("confirm-before-flush", False)])
def test_canary_a_target_that_answers_before_its_flush_and_crashes(plant: str | None, *, kept: bool) -> None:
    cluster, key, _, target = one_hint(plant)
    target.flushing = False
    run_ms(cluster, 1_500)
    cluster.crash(target)
    target.flushing = True
    cluster.restart(target)
    run_ms(cluster, 5_000)
    assert (held(target, key) is not None) is kept
    assert hints(cluster) == 0


def one_hint(plant: str | None = None) -> tuple[Cluster, bytes, Member, Member]:
    """A cluster with one hint, on its way from now on."""
    cluster = Cluster(5, plants=frozenset() if plant is None else frozenset({plant, "skip-repair"}))
    key = b"key"
    keeper, target = outsider(cluster, key), holders(cluster, key)[0]
    hint(keeper, key, target)
    return cluster, key, keeper, target


def test_a_hint_that_was_passed_over_is_tried_again_within_seconds() -> None:
    cluster, key, _, target = one_hint()
    write = target.store.put
    target.store.put = _busy  # type: ignore[method-assign, assignment]
    run_ms(cluster, 3_000)
    assert hints(cluster) == 1
    target.store.put = write  # type: ignore[method-assign]
    cluster.run_until(lambda: hints(cluster) == 0, limit_ms=2_500)
    assert held(target, key) is not None


def _busy(_key: bytes, _value: bytes) -> int:
    raise StoreBusyError("the store asks for a pause")


def test_hints_for_a_removed_node_become_hints_for_the_targets_of_today() -> None:
    cluster = Cluster(5)
    gone = cluster.members[4]
    key = keys_of(cluster, gone)[0]
    keeper = outsider(cluster, key)
    cluster.kill(gone)
    hint(keeper, key, gone)
    remove(cluster, gone)
    others = [member for member in cluster.members if member is not gone]
    cluster.run_until(lambda: hints(cluster) == 0 or waits_for_seats(keeper), limit_ms=20_000)
    assert gone.node.own.id not in keeper.node.replica.hinted
    assert any(held(member, key) is not None for member in others)


def waits_for_seats(keeper: Member) -> bool:
    """Whether what is left are hints for targets that cannot take them yet."""
    return bool(keeper.node.replica.hinted) and all(row["reason"] is not None for row in waiting(keeper))


def remove(cluster: Cluster, gone: Member) -> None:
    """Tell every member that *gone* was removed by an administrator."""
    for member in cluster.members:
        if member is not gone and member.up:
            entry = member.node.membership.entries[gone.node.own.id]
            member.node.learn([replace(entry, status=Status.REMOVED)])


def test_figures_say_what_waits_and_why() -> None:
    cluster = Cluster(5)
    key = b"key"
    keeper, target = outsider(cluster, key), holders(cluster, key)[0]
    cluster.kill(target)
    hint(keeper, key, target)
    run_ms(cluster, 500)
    [row] = waiting(keeper)
    assert row["target"] == target.name
    assert row["count"] == 1
    assert row["bytes"] > 0
    assert row["reason"] == "not connected"


def test_a_crash_of_the_keeper_loses_no_hint_that_was_flushed() -> None:
    cluster = Cluster(5)
    key = b"key"
    keeper, target = outsider(cluster, key), holders(cluster, key)[0]
    cluster.kill(target)
    hint(keeper, key, target)
    keeper.store.sync()
    cluster.crash(keeper)
    cluster.restart(keeper)
    assert hints(cluster) == 1
    cluster.restart(target)
    cluster.run_until(lambda: hints(cluster) == 0, limit_ms=10_000)
    assert held(target, key) == record(1).digest()


def test_a_target_in_a_later_round_gets_its_hints_after_the_keeper_has_followed() -> None:
    cluster, key, keeper, target = one_hint()
    target.node.replica.raise_round(7)
    cluster.run_until(lambda: hints(cluster) == 0, limit_ms=10_000)
    assert held(target, key) is not None
    assert keeper.node.replica.round == 7
