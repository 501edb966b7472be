"""Records that the disk alone has: what waits for them, what does not, and what a write meanwhile means for a read."""

from typing import Any

import pytest

from dynafast.errors import StoreError
from dynafast.protocol import Op
from dynafast.storage.interface import Batch
from tests.core.harness import MS, Cluster, Member
from tests.core.stories import damage, keys_of, okey, put, record

CODE = 2  # field of ERROR
PATIENCE_MS = 50
PARKED_MAX = 8192


def cold_cluster(count: int = 1, **options: Any) -> Cluster:
    """Nodes that keep nothing in memory, and whose disks are read in the background alone."""
    quorums = {"replicas": 1, "r": 1, "w": 1} if count == 1 else {}
    return Cluster(count, **{"cache_bytes": 0, **quorums, **options})


def turn_cold(cluster: Cluster, *, reading: bool = False) -> None:
    """From now on everything is on the disk alone; reads of it hang unless *reading*."""
    for member in cluster.members:
        member.store.cold = None
        member.reading = reading


def finish(member: Member, found: list[bytes | StoreError | None] | None = None) -> None:
    """Read what waits, and hand in that, or *found* in its place."""
    keys = member.node.take_reads()
    result = member.store.get_many(keys) if found is None else found
    member.cluster.enter(member)
    member.node.read(keys, result)
    member.cluster.pump(member)


def values(answer: list[Any]) -> list[bytes]:
    assert answer[0] == Op.FOUND, answer
    return sorted(version[4] for version in answer[2])


def test_a_get_of_a_record_on_the_disk_waits_and_others_go_on() -> None:
    cluster = cold_cluster()
    member, client = cluster.members[0], cluster.client(0)
    put(client, b"cold", b"1")
    put(client, b"hot", b"2")
    member.store.cold, member.reading = {b"cold"}, False
    client.send([Op.GET, 900, b"cold", {}])
    assert values(client.ask(Op.GET, b"hot", {})) == [b"2"]
    assert client.answers() == []
    finish(member)
    [answer] = client.answers()
    assert (answer[1], values(answer)) == (900, [b"1"])


@pytest.mark.parametrize("key", [b"there", b"missing"])
def test_requests_of_one_key_share_one_read(key: bytes) -> None:
    cluster = cold_cluster()
    member, client = cluster.members[0], cluster.client(0)
    put(client, b"there", b"1")
    turn_cold(cluster)
    for id in range(900, 905):
        client.send([Op.GET, id, key, {}])
    assert len(member.node.take_reads()) == 1
    member.node.read([okey(key)], member.store.get_many([okey(key)]))
    cluster.pump(member)
    answers = client.answers()
    assert [answer[1] for answer in answers] == list(range(900, 905))
    assert all(values(answer) == ([b"1"] if key == b"there" else []) for answer in answers)
    assert not member.node.reads_wanted


def test_what_is_read_stays_in_memory() -> None:
    cluster = Cluster(1, replicas=1, r=1, w=1)
    member, client = cluster.members[0], cluster.client(0)
    put(client, b"k", b"1")
    member.node.replica.hot.drop(okey(b"k"))
    turn_cold(cluster, reading=True)
    assert values(client.ask(Op.GET, b"k", {})) == [b"1"]
    member.reading = False
    assert values(client.ask(Op.GET, b"k", {})) == [b"1"]


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_record_written_during_its_read_is_not_undone_by_it(cache_bytes: int) -> None:
    """A repair writes the key between the look at the disk and its result: nobody sees the older bytes."""
    cluster = cold_cluster(cache_bytes=cache_bytes)
    member, client = cluster.members[0], cluster.client(0)
    put(client, b"k", b"old")
    member.node.replica.hot.drop(okey(b"k"))
    turn_cold(cluster)
    client.send([Op.GET, 900, b"k", {}])
    keys = member.node.take_reads()
    old = member.store.get_many(keys)
    member.node.replica.merge(okey(b"k"), record(7, b"new"))
    member.node.read(keys, old)
    if member.node.reads_wanted:  # it is out of memory again, and is read anew
        finish(member)
    cluster.pump(member)
    assert values(client.answers()[0]) == [b"new", b"old"]
    member.reading = True
    assert values(client.ask(Op.GET, b"k", {})) == [b"new", b"old"]


def test_a_record_of_a_partition_cleared_during_its_read_is_gone() -> None:
    cluster = cold_cluster()
    member, client = cluster.members[0], cluster.client(0)
    put(client, b"k", b"old")
    turn_cold(cluster)
    client.send([Op.GET, 900, b"k", {}])
    keys = member.node.take_reads()
    old = member.store.get_many(keys)
    batch = Batch()
    member.node.replica.put_clearance(batch, int.from_bytes(keys[0][:8], "big") * 16 >> 64)
    member.store.write(batch)
    member.node.read(keys, old)
    finish(member)
    assert values(client.answers()[0]) == []


def test_writes_and_reads_of_a_key_that_wait_take_effect_in_order() -> None:
    cluster = cold_cluster()
    member, client = cluster.members[0], cluster.client(0)
    put(client, b"k", b"1")
    turn_cold(cluster)
    client.send([Op.PUT, 900, b"k", b"2", None, b"2" * 16, {"overwrite": True}])
    client.send([Op.GET, 901, b"k", {}])
    client.send([Op.PUT, 902, b"k", b"3", None, b"3" * 16, {"overwrite": True}])
    client.send([Op.GET, 903, b"k", {}])
    member.reading = True
    cluster.run_until(lambda: not member.node.busy)
    answers = {answer[1]: answer for answer in client.answers()}
    assert answers[900][0] == answers[902][0] == Op.WRITTEN
    assert [values(answers[id]) for id in (901, 903)] == [[b"2"], [b"3"]]


def test_a_put_upon_a_record_on_the_disk_keeps_what_it_has_not_seen() -> None:
    cluster = cold_cluster()
    client = cluster.client(0)
    put(client, b"k", b"1")
    turn_cold(cluster, reading=True)
    assert put(client, b"k", b"2")[3] == 2
    assert values(client.ask(Op.GET, b"k", {})) == [b"1", b"2"]


def test_replicas_read_in_the_background_too() -> None:
    cluster = cold_cluster(3)
    turn_cold(cluster, reading=True)
    client = cluster.client(0)
    for i in range(20):
        put(client, b"%d" % i, b"a")
        put(client, b"%d" % i, b"b")
    assert all(values(cluster.client(1).ask(Op.GET, b"%d" % i, {"r": 3})) == [b"a", b"b"] for i in range(20))


def test_a_get_whose_own_disk_hangs_is_answered_by_the_other_replicas() -> None:
    cluster = cold_cluster(3)
    client, member = cluster.client(0), cluster.members[0]
    put(client, b"k", b"1", w=3)
    turn_cold(cluster, reading=True)
    member.reading = False
    begun = cluster.now_ns
    assert values(client.ask(Op.GET, b"k", {"r": 2})) == [b"1"]
    assert 0.8 * PATIENCE_MS * MS <= cluster.now_ns - begun < 2 * PATIENCE_MS * MS
    finish(member)  # its own record comes late, and is no news
    cluster.run_until(lambda: not member.node.busy)


@pytest.mark.parametrize("op", [Op.GET, Op.PUT])
def test_a_request_whose_record_is_not_read_in_time_is_answered_at_its_deadline(op: Op) -> None:
    cluster = cold_cluster()
    member, client = cluster.members[0], cluster.client(0)
    put(client, b"k", b"1")
    turn_cold(cluster)
    begun = cluster.now_ns
    fields = [] if op == Op.GET else [b"2", None, b"2" * 16]
    answer = client.ask(op, b"k", *fields, {"timeout": 500})
    assert answer[0] == Op.ERROR
    assert answer[CODE] == ("timeout" if op == Op.GET else "overloaded")
    assert cluster.now_ns - begun <= 500 * MS
    assert member.node.busy == 0
    finish(member)
    assert client.answers() == []
    member.reading = True
    assert values(client.ask(Op.GET, b"k", {})) == [b"1"], "a put that was refused does not begin late"


@pytest.mark.parametrize("count", [1, 3])
def test_a_damaged_record_is_no_answer(count: int) -> None:
    cluster = cold_cluster(count)
    client, member = cluster.client(0), cluster.members[0]
    put(client, b"k", b"1", w=count)
    damage(member, b"k")
    turn_cold(cluster, reading=True)
    answer = client.ask(Op.GET, b"k", {})
    if count == 1:
        assert (answer[0], answer[CODE]) == (Op.ERROR, "unavailable")
        assert client.ask(Op.PUT, b"k", b"2", None, b"2" * 16, {})[CODE] == "corrupt"
    else:
        assert values(answer) == [b"1"]
    assert member.node.replica.damaged == {okey(b"k")} or count > 1


def test_a_read_that_fails_is_no_answer() -> None:
    cluster = cold_cluster()
    client, member = cluster.client(0), cluster.members[0]
    put(client, b"k", b"1")
    turn_cold(cluster)
    client.send([Op.GET, 900, b"k", {}])
    client.send([Op.PUT, 901, b"k", b"2", None, b"2" * 16, {}])
    finish(member, [StoreError("input/output error")])
    assert [answer[CODE] for answer in client.answers()] == ["unavailable", "store-error"]


def test_too_many_requests_that_wait_for_the_disk_are_refused() -> None:
    cluster = cold_cluster()
    member = cluster.members[0]
    turn_cold(cluster)
    clients = [cluster.client(0) for _ in range(PARKED_MAX // 1024)]
    for client in clients:
        for id in range(1024):
            client.send([Op.GET, id, b"%d" % id, {"timeout": 60_000}])
    last = cluster.client(0)
    assert last.ask(Op.GET, b"another", {})[CODE] == "unavailable"
    assert last.ask(Op.PUT, b"another", b"1", None, b"2" * 16, {})[CODE] == "overloaded"
    member.reading = True
    cluster.run_until(lambda: not member.node.busy)
    assert put(last, b"another", b"1")


def test_what_waits_of_a_connection_that_ends_never_begins() -> None:
    cluster = cold_cluster()
    member, client = cluster.members[0], cluster.client(0)
    put(client, b"k", b"1")
    turn_cold(cluster)
    client.send([Op.PUT, 900, b"k", b"2", None, b"2" * 16, {}])
    client.connection.drop()
    finish(member)
    member.reading = True
    assert values(cluster.client(0).ask(Op.GET, b"k", {})) == [b"1"]


def test_a_frame_of_a_link_that_ended_is_not_stored_late() -> None:
    """A STORE waits for the disk while its sender starts again: it may be from before a round."""
    cluster = cold_cluster(3)
    near, far = cluster.members[0], cluster.members[1]
    key = keys_of(cluster, near, far)[0]
    turn_cold(cluster, reading=True)
    far.reading = False
    client = cluster.client(0)
    client.send([Op.PUT, 900, key, b"1", None, b"1" * 16, {"w": 1}])
    cluster.run_until(lambda: far.node.reads_wanted)
    cluster.kill(near)
    finish(far)
    assert far.store.get(okey(key)) is None
