"""A partition is deleted only where every seat has all of it, nothing was written since, and hints stay."""

from typing import Any

import pytest

from dynafast._ext.clock import Record
from dynafast._ext.replica import MODE_GIVEN, MODE_NONE
from dynafast.core.dropping import Dropping
from dynafast.core.seats import Seat
from dynafast.core.taking import Taking
from dynafast.protocol import Op
from tests.core.harness import Cluster, Member, Pipe
from tests.core.load import Load, at_rest
from tests.core.stories import okey


def record(number: int) -> Record:
    return Record().put(actor=number, counter=1, time=number, write_id=b"%016d" % number, value=b"v%d" % number)


def moved(cluster: Cluster) -> tuple[Member, int]:
    """Let a node join, and return an owner that gave a partition away and still keeps it, with the partition."""
    found: list[tuple[Member, int]] = []

    def there() -> bool:
        for member in cluster.members:
            for partition in range(cluster.facts.partitions):
                if member.node.replica.mode(partition) == MODE_GIVEN:
                    found.append((member, partition))
                    return True
        return False

    cluster.add("new")
    cluster.run_until(there)
    return found[0]


def key_in(member: Member, partition: int) -> bytes:
    return next(key for key in (b"k%d" % i for i in range(10_000)) if member.node.partition_of(okey(key)) == partition)


def test_what_an_old_holder_alone_has_reaches_every_seat_before_it_is_dropped() -> None:
    cluster = Cluster(3)
    Load(cluster).fill(100)
    holder, partition = moved(cluster)
    key = key_in(holder, partition)
    holder.node.replica.merge(okey(key), record(1))
    cluster.run_until(lambda: holder.node.replica.mode(partition) == MODE_NONE)
    seated = [member for member in cluster.members if member.node.coordinator.view.own[partition]]
    assert len(seated) == 3
    for member in seated:
        found = member.node.replica.read(okey(key))
        assert found is not None
        assert found.digest() == record(1).digest()
    assert holder.store.get(okey(key)) is None


def test_nothing_is_dropped_while_a_seat_cannot_be_asked() -> None:
    cluster = Cluster(3)
    Load(cluster).fill(100)
    holder, partition = moved(cluster)
    seated = [member for member in cluster.members if member.node.coordinator.view.own[partition]]
    cluster.kill(seated[0])
    holder.node.replica.merge(okey(key_in(holder, partition)), record(1))  # what was agreed to before is void
    for _ in range(1_000):
        cluster.step()
    assert holder.node.replica.mode(partition) == MODE_GIVEN
    cluster.restart(seated[0])
    cluster.run_until(lambda: holder.node.replica.mode(partition) == MODE_NONE)


def test_what_was_written_since_the_seats_agreed_keeps_the_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """The write comes when all have agreed, just before the deletion: that one is for the next round."""
    cluster = Cluster(3)
    Load(cluster).fill(100)
    holder, partition = moved(cluster)
    key = key_in(holder, partition)
    dropping = holder.node.machine(Dropping)
    drop: Any = dropping._drop
    written: list[int] = []

    def late(partitions: list[int], roots: dict[int, int | None], *others: object) -> None:
        if partition in partitions and not written:
            written.append(1)
            holder.node.replica.merge(okey(key), record(7))
            drop(partitions, roots, *others)
            assert holder.node.replica.mode(partition) == MODE_GIVEN
        else:
            drop(partitions, roots, *others)

    monkeypatch.setattr(dropping, "_drop", late)
    cluster.run_until(lambda: bool(written) and holder.node.replica.mode(partition) == MODE_NONE)
    assert sum(member.node.replica.read(okey(key)) is not None for member in cluster.members) == 3


def test_a_partition_whose_seat_is_given_to_us_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was compared before the seat is taken must not be deleted in between; a reminder comes at any time."""
    cluster = Cluster(3)
    Load(cluster).fill(100)
    holder, partition = moved(cluster)
    giver = next(member for member in cluster.members if member.node.coordinator.view.own[partition])
    dropping, taking = holder.node.machine(Dropping), holder.node.machine(Taking)
    drop: Any = dropping._drop
    given: list[Seat] = []

    def late(partitions: list[int], *others: object) -> None:
        if partition in partitions and not given:
            seat = next(seat for seat in giver.node.own_seats() if seat.partition == partition)
            given.append(Seat(partition, seat.seat, seat.k + 1))
            taking.remind(giver.node.own.id, given)
        drop(partitions, *others)

    monkeypatch.setattr(dropping, "_drop", late)
    cluster.run_until(lambda: bool(given))
    assert holder.node.replica.mode(partition) == MODE_GIVEN
    cluster.run_until(lambda: given[0] in holder.node.own_seats())
    assert holder.node.replica.root(partition) == giver.node.replica.root(partition)


def test_a_record_that_is_kept_for_another_node_outlives_the_drop() -> None:
    cluster = Cluster(3)
    Load(cluster).fill(100)
    holder, partition = moved(cluster)
    key, away = key_in(holder, partition), b"nobody's"
    holder.node.replica.merge(okey(key), record(3), away)
    holder.node.membership.entries.pop(away, None)
    cluster.run_until(lambda: holder.node.replica.mode(partition) == MODE_NONE)
    hinted = holder.node.replica.hint_targets(okey(key))
    assert hinted or all(
        member.node.replica.read(okey(key)) is not None
        for member in cluster.members
        if member.node.coordinator.view.own[partition]
    )


# ---- what strangers send


@pytest.mark.parametrize(
    ("op", "fields"),
    [
        (Op.ROOTS, [[99]]),
        (Op.ROOTS, [7]),
        (Op.ROOTS, [[True]]),
        (Op.TREE, [0, 9, 0, 1]),
        (Op.TREE, [0, 2, 0, 999]),
        (Op.KEYS, [0, 256, None, 1]),
        (Op.KEYS, [0, None, 5, 1]),
        (Op.KEYS, [0, None, None, 0]),
        (Op.READ, [0, []]),
        (Op.READ, [0, [b"short"]]),
        (Op.READ, [0, [b"\xff" * 9]]),  # of another partition
        (Op.MERGE, [0, 0, [[b"\0" * 9, b"no record"]]]),
        (Op.MERGE, [0, 0, [[b"\xff" * 9, b""]]]),
        (Op.HINT, [0, [[b"x", b"\0" * 9, b""]]]),
        (Op.GIVE, [[0, 0]]),
        (Op.GIVE, [[[0, 99, 1]]]),
        (Op.GIVE, [[99]]),
        (Op.CLAIM, [[[0, 99, 1]]]),
        (Op.CLAIM, [[[0, 0, -1]]]),
        (Op.PERMIT, ["grow", b"12345678", True]),
        (Op.PERMIT, ["leave", b"1", True]),
    ],
)
def test_malformed_messages_are_refused_and_the_connection_stays(op: Op, fields: list[Any]) -> None:
    cluster = Cluster(2)
    one, other = cluster.members
    pipe = Pipe(one)
    pipe.hello(
        role="peer",
        node=other.node.own.id,
        cluster=cluster.facts.cluster,
        to=one.node.own.id,
        generation=other.node.own.generation,
        name="n1",
    )
    answer = pipe.ask(op, *fields)
    assert (answer[0], answer[2]) == (Op.ERROR, "bad-request")
    assert pipe.ask(Op.PING)[0] == Op.OK


def test_everything_comes_to_rest_after_a_join_and_nothing_is_asked_any_more() -> None:
    cluster = Cluster(3)
    Load(cluster).fill(50)
    cluster.add("new")
    cluster.run_until(lambda: at_rest(cluster))
    calls: list[Op] = []
    for member in cluster.members:
        call = member.node.call

        def counted(peer: Any, op: Op, *rest: Any, call: Any = call) -> None:
            calls.append(op)
            call(peer, op, *rest)

        member.node.call = counted  # type: ignore[method-assign]
    for _ in range(2_000):
        cluster.step()
    assert not {Op.GIVE, Op.CLAIM, Op.READ, Op.MERGE, Op.TREE} & set(calls)
