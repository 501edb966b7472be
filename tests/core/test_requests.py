"""What clients get, for every state of the replicas: outcome tables over whole nodes in virtual time."""

import itertools
from typing import Any

import cbor2
import pytest
from xxhash import xxh3_64_intdigest

from dynafast._ext.clock import Record
from dynafast._ext.view import distinct_seats
from dynafast.errors import StoreBusyError, StoreError
from dynafast.protocol import Op
from dynafast.storage.interface import Batch, object_key
from tests.core.harness import MS, Cluster, Member, Pipe, framed

W1, W2, W3 = b"1" * 16, b"2" * 16, b"3" * 16
VERSIONS, CONTEXT, RECEIPT = 2, 3, 4  # fields of FOUND
LIVE, PUT_CONTEXT, PUT_RECEIPT, RETURNED = 3, 4, 5, 7  # fields of WRITTEN
CODE, DETAILS = 2, 4  # fields of ERROR


def values(found: list[Any]) -> list[bytes]:
    assert found[0] == Op.FOUND, found
    return sorted(version[4] for version in found[VERSIONS])


def holders(cluster: Cluster, key: bytes) -> list[Member]:
    """The members that serve *key*, in preference order."""
    view = cluster.members[0].node.coordinator.view
    partition = xxh3_64_intdigest(key) * cluster.facts.partitions >> 64
    names = [peer.name for peer in view.holders[partition]]
    return [next(member for member in cluster.members if member.name == name) for name in names]


def outsiders(cluster: Cluster, key: bytes) -> list[Member]:
    inside = holders(cluster, key)
    return [member for member in cluster.members if member not in inside]


def pipe(member: Member) -> Pipe:
    found = Pipe(member)
    assert found.hello()[0] == Op.HELLO
    return found


def stored(member: Member, key: bytes) -> Record | None:
    data = member.store.get(object_key(xxh3_64_intdigest(key), key))
    return None if data is None else Record.decode(data[25 + 8 * data[24] :])


def key_for(cluster: Cluster, member: Member, *, prefix: bytes = b"k") -> bytes:
    """A key whose first replica is *member*."""
    return next(key for i in itertools.count() if holders(cluster, key := prefix + b"%d" % i)[0] is member)


def test_two_puts_without_context_are_two_versions_and_a_put_with_the_read_context_leaves_one() -> None:
    client = Cluster(5).client(0)
    assert client.ask(Op.PUT, b"k", b"a", None, W1, {})[LIVE] == 1
    second = client.ask(Op.PUT, b"k", b"b", None, W2, {})
    assert second[LIVE] == 2
    assert second[PUT_CONTEXT] is None, "a context that covers an unseen sibling would overwrite it"
    found = client.ask(Op.GET, b"k", {})
    assert values(found) == [b"a", b"b"]
    assert client.ask(Op.PUT, b"k", b"c", found[CONTEXT], W3, {})[LIVE] == 1
    assert values(client.ask(Op.GET, b"k", {})) == [b"c"]


def test_put_answer_context_when_alone_replaces_the_version() -> None:
    client = Cluster(3).client(0)
    context = client.ask(Op.PUT, b"k", b"a", None, W1, {})[PUT_CONTEXT]
    assert client.ask(Op.PUT, b"k", b"b", context, W2, {})[LIVE] == 1
    assert values(client.ask(Op.GET, b"k", {})) == [b"b"]


def test_put_with_return_answers_the_live_versions() -> None:
    client = Cluster(3).client(0)
    client.ask(Op.PUT, b"k", b"a", None, W1, {})
    answer = client.ask(Op.PUT, b"k", b"b", None, W2, {"return": True})
    assert [version[4] for version in answer[RETURNED]] == [b"a", b"b"]


@pytest.mark.parametrize("second", range(5))
def test_a_retried_put_never_leaves_two_equal_versions(second: int) -> None:
    """The same write id at another coordinator, replica or not, is shown once."""
    cluster = Cluster(5)
    cluster.client(0).ask(Op.PUT, b"k", b"a", None, W1, {})
    assert cluster.client(second).ask(Op.PUT, b"k", b"a", None, W1, {})[0] == Op.WRITTEN
    found = cluster.client(0).ask(Op.GET, b"k", {"r": 3})
    assert values(found) == [b"a"]
    assert cluster.client(1).ask(Op.PUT, b"k", b"b", found[CONTEXT], W2, {})[LIVE] == 1


def test_a_retried_put_at_two_coordinators_that_did_not_hear_of_each_other_counts_once() -> None:
    cluster = Cluster(3)
    one, two, _ = cluster.members
    cluster.hold(one, two)
    cluster.hold(two, one)
    pipe(one).ask(Op.PUT, b"k", b"a", None, W1, {"w": 2})
    pipe(two).ask(Op.PUT, b"k", b"a", None, W1, {"w": 1})
    cluster.release(one, two)
    cluster.release(two, one)
    found = cluster.client(2).ask(Op.GET, b"k", {"r": 3})
    assert values(found) == [b"a"]
    assert cluster.client(2).ask(Op.PUT, b"k", b"b", found[CONTEXT], W2, {})[LIVE] == 1


def test_contexts_that_are_not_of_this_key_are_refused_and_nothing_is_written() -> None:
    client = Cluster(3).client(0)
    context = client.ask(Op.PUT, b"k", b"a", None, W1, {})[PUT_CONTEXT]
    damaged = bytes([context[0]]) + bytes([context[1] ^ 1]) + context[2:]
    for key, bad in ((b"other", context), (b"k", damaged), (b"k", context[:-1]), (b"k", b"")):
        assert client.ask(Op.PUT, key, b"x", bad, W2, {})[CODE] == "bad-context"
    assert values(client.ask(Op.GET, b"k", {})) == [b"a"]
    assert values(client.ask(Op.GET, b"other", {})) == []


def test_delete_hides_the_value_and_a_later_put_with_its_context_is_alone() -> None:
    client = Cluster(3).client(0)
    context = client.ask(Op.PUT, b"k", b"a", None, W1, {})[PUT_CONTEXT]
    deleted = client.ask(Op.PUT, b"k", None, context, W2, {})
    assert (deleted[0], deleted[LIVE]) == (Op.WRITTEN, 0)
    found = client.ask(Op.GET, b"k", {})
    assert values(found) == []
    assert found[CONTEXT] is not None
    assert client.ask(Op.PUT, b"k", b"b", found[CONTEXT], W3, {})[LIVE] == 1


def test_delete_covers_only_what_its_context_saw() -> None:
    client = Cluster(3).client(0)
    context = client.ask(Op.PUT, b"k", b"a", None, W1, {})[PUT_CONTEXT]
    client.ask(Op.PUT, b"k", b"b", None, W2, {})
    assert client.ask(Op.PUT, b"k", None, context, W3, {})[LIVE] == 1
    assert values(client.ask(Op.GET, b"k", {})) == [b"b"]


# ---- availability


@pytest.mark.parametrize("dead", range(5))
def test_with_one_of_five_dead_every_get_and_put_at_2_2_succeeds(dead: int) -> None:
    cluster = Cluster(5)
    cluster.kill(cluster.members[dead])
    for number, key in itertools.product([n for n in range(5) if n != dead], [b"k%d" % i for i in range(8)]):
        client = cluster.client(number)
        assert client.ask(Op.PUT, key, b"v", None, b"%016d" % number, {})[0] == Op.WRITTEN
        assert client.ask(Op.GET, key, {})[0] == Op.FOUND


@pytest.mark.parametrize("asked", [0, 3, 4])
def test_with_two_of_three_replicas_dead_requests_fail_at_once_with_numbers(asked: int) -> None:
    """Asked at the surviving replica (0) and at nodes outside (3, 4)."""
    cluster = Cluster(5)
    inside = holders(cluster, b"k")
    alive = [inside[0], None, None, *outsiders(cluster, b"k")][asked]
    assert alive is not None
    for member in inside[1:]:
        cluster.kill(member)
    client = pipe(alive)
    strict = {"sloppy": False}
    for op, fields in ((Op.GET, (b"k", strict)), (Op.PUT, (b"k", b"v", None, W1, strict))):
        before = cluster.now_ns
        answer = client.ask(op, *fields)
        assert (answer[0], answer[CODE], answer[DETAILS]) == (Op.ERROR, "unavailable", {"needed": 2, "reachable": 1})
        assert cluster.now_ns - before <= 10_000_000
    assert stored(inside[0], b"k") is None, "a put that is refused writes nothing"


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_truth_table_of_availability(replicas: int) -> None:
    """For every R or W and every set of dead nodes, asked at a replica and outside, strict and sloppy.

    Strict: a quorum is met exactly when enough replicas live. Sloppy: a put when enough nodes of any kind live, a get
    when one of them is a replica besides; a key that no living replica holds is never said to be absent.
    """
    for dead_count in range(replicas + 2):
        for dead in itertools.combinations(range(replicas + 1), dead_count):
            cluster = Cluster(replicas + 2, replicas=replicas, r=1, w=1)
            inside = holders(cluster, b"k")
            *outside, asked = outsiders(cluster, b"k")
            nodes = [*inside, *outside]
            for place in dead:
                cluster.kill(nodes[place])
            living = sum(member.up for member in inside)
            hosts = sum(member.up for member in cluster.members)
            for quorum, strict in itertools.product(range(1, replicas + 1), (True, False)):
                options = {"sloppy": not strict}
                for client in [pipe(asked), *[pipe(member) for member in inside if member.up]]:
                    case = (dead, quorum, strict)
                    get = client.ask(Op.GET, b"k", {"r": quorum, **options})
                    if strict or get[0] != Op.FOUND or not values(get):  # else hints of earlier rounds were found
                        possible = living >= quorum if strict else living >= 1 and hosts >= quorum
                        assert (get[0] == Op.FOUND) == possible, case
                    put = client.ask(Op.PUT, b"k", b"v", None, cluster.rng.randbytes(16), {"w": quorum, **options})
                    possible = (living if strict else hosts) >= quorum
                    assert (put[0] == Op.WRITTEN) == possible, case
                    if possible:
                        needed, count, primaries, fallbacks, synced, flags = put[PUT_RECEIPT]
                        assert (needed, count) == (quorum, primaries + fallbacks), case
                        assert quorum <= count, case
                        assert synced <= count, case
                        assert primaries <= living, case
                        assert (flags & 1 == 1) == (fallbacks > 0), case


def test_one_node_alone_serves_with_quorums_of_one() -> None:
    cluster = Cluster(1)
    answer = cluster.client(0).ask(Op.PUT, b"k", b"v", None, W1, {})
    assert answer[PUT_RECEIPT][:2] == [1, 1]
    assert values(cluster.client(0).ask(Op.GET, b"k", {})) == [b"v"]


def test_two_nodes_of_one_host_are_one_vote() -> None:
    cluster = Cluster(1)
    cluster.add("n1", host="n0")
    cluster.run_until(lambda: len(cluster.members[0].node.linked_peers()) == 1)
    assert cluster.client(0).ask(Op.PUT, b"k", b"v", None, W1, {})[PUT_RECEIPT][0] == 1


def test_a_quorum_above_n_is_a_bad_request() -> None:
    client = Cluster(3).client(0)
    assert client.ask(Op.GET, b"k", {"r": 4})[CODE] == "bad-request"
    assert client.ask(Op.PUT, b"k", b"v", None, W1, {"w": 4})[CODE] == "bad-request"


def test_replicas_lost_in_mid_put_leave_the_outcome_unknown() -> None:
    cluster = Cluster(5)
    first, second, third = holders(cluster, b"k")
    cluster.hold(second, first)
    cluster.hold(third, first)
    client = pipe(first)
    client.send([Op.PUT, 9, b"k", b"v", None, W1, {"sloppy": False}])
    cluster.kill(second)
    cluster.kill(third)
    assert client.answers()[0][CODE] == "uncertain"


def test_replicas_lost_in_mid_get_make_it_unavailable() -> None:
    cluster = Cluster(5)
    first, second, third = holders(cluster, b"k")
    cluster.hold(second, first)
    cluster.hold(third, first)
    client = pipe(first)
    client.send([Op.GET, 9, b"k", {"sloppy": False}])
    cluster.kill(second)
    cluster.kill(third)
    assert client.answers()[0][CODE] == "unavailable"


@pytest.mark.parametrize(("op", "fields"), [(Op.GET, (b"k",)), (Op.PUT, (b"k", b"v", None, W1))])
def test_silent_replicas_time_out_before_the_deadline(op: Op, fields: tuple[Any, ...]) -> None:
    cluster = Cluster(3)
    first, second, third = holders(cluster, b"k")
    cluster.hold(second, first)
    cluster.hold(third, first)
    before = cluster.now_ns
    answer = pipe(first).ask(op, *fields, {"timeout": 500})
    assert (answer[CODE], answer[DETAILS]) == ("timeout", {"needed": 2, "answered": 1})
    assert cluster.now_ns - before <= 500_000_000


def test_a_late_answer_after_the_client_is_gone_reaches_nobody() -> None:
    cluster = Cluster(3)
    first, second, third = holders(cluster, b"k")
    cluster.hold(second, first)
    cluster.hold(third, first)
    client = pipe(first)
    client.send([Op.GET, 9, b"k", {}])
    client.connection.drop()
    cluster.release(second, first)
    cluster.release(third, first)
    assert first.node.busy == 0


def test_many_clients_at_one_node_are_not_too_many_for_its_replicas() -> None:
    """The bound of a client's connection does not apply between nodes."""
    cluster = Cluster(3)
    clients = [cluster.client(0) for _ in range(3)]
    for number in range(1000):
        for place, client in enumerate(clients):
            client.send([Op.PUT, number, b"k%d-%d" % (place, number), b"v", None, W1, {}])
    cluster.run_until(lambda: not cluster.members[0].node.busy)
    for client in clients:
        assert [answer[0] for answer in client.answers()] == [Op.WRITTEN] * 1000


# ---- forwarding


def test_a_node_outside_forwards_and_says_so() -> None:
    cluster = Cluster(5)
    client = pipe(outsiders(cluster, b"k")[0])
    answer = client.ask(Op.PUT, b"k", b"v", None, W1, {})
    assert answer[PUT_RECEIPT][5] == 2
    assert client.ask(Op.GET, b"k", {})[RECEIPT][5] == 2
    assert pipe(holders(cluster, b"k")[0]).ask(Op.GET, b"k", {})[RECEIPT][5] == 0


def test_a_forwarded_request_is_never_forwarded_again() -> None:
    cluster = Cluster(5)
    outside = outsiders(cluster, b"k")[0]
    peer = Pipe(outside)
    peer.hello(role="peer", node=b"12345678", cluster=cluster.facts.cluster, to=outside.node.own.id, generation=1)
    assert peer.ask(Op.GET, b"k", {})[CODE] == "not-replica"
    assert peer.ask(Op.PUT, b"k", b"v", None, W1, {})[CODE] == "not-replica"


def test_a_get_goes_on_to_the_next_replica_and_a_put_does_not() -> None:
    cluster = Cluster(5)
    first = holders(cluster, b"k")[0]
    outside = outsiders(cluster, b"k")[0]
    client = pipe(outside)
    cluster.hold(outside, first)
    client.send([Op.GET, 8, b"k", {}])
    client.send([Op.PUT, 9, b"k", b"v", None, W1, {}])
    cluster.kill(first)
    cluster.run_until(lambda: not outside.node.busy)
    answers = {answer[1]: answer for answer in client.answers()}
    assert answers[8][0] == Op.FOUND
    assert answers[9][CODE] == "uncertain"


# ---- durability and order


def test_in_group_no_answer_leaves_before_the_flush_that_covers_it() -> None:
    cluster = Cluster(3)
    for member in cluster.members:
        member.flushing = False
    client = cluster.client(0)
    client.send([Op.PUT, 9, b"k", b"v", None, W1, {}])
    for _ in range(20):
        cluster.step()
    assert client.answers() == []
    cluster.members[1].flushing = True
    cluster.members[2].flushing = True
    cluster.run_until(lambda: bool(client.received))
    assert client.answers()[0][PUT_RECEIPT][:5] == [2, 2, 2, 0, 2]


def test_in_interval_answers_come_at_once_and_say_that_nothing_is_synced() -> None:
    client = Cluster(3, group=False).client(0)
    client.send([Op.PUT, 9, b"k", b"v", None, W1, {}])
    assert client.answers()[0][PUT_RECEIPT][:5] == [2, 2, 2, 0, 0]


@pytest.mark.parametrize(
    ("error", "code"), [(StoreBusyError("stall"), "overloaded"), (StoreError("full"), "store-error")]
)
def test_a_put_that_the_store_refuses_is_sent_to_nobody(
    monkeypatch: pytest.MonkeyPatch, error: StoreError, code: str
) -> None:
    cluster = Cluster(3)
    first, second, third = holders(cluster, b"k")
    with monkeypatch.context() as patch:
        refuse_commits(patch, first, error)
        assert pipe(first).ask(Op.PUT, b"k", b"v", None, W1, {})[CODE] == code
    assert [stored(member, b"k") for member in (first, second, third)] == [None, None, None]


def refuse_commits(patch: pytest.MonkeyPatch, member: Member, error: StoreError) -> None:
    """Let the store of *member* drop what is staged, as one that refuses it does."""

    def refuse() -> None:
        member.store.staged.clear()
        raise error

    patch.setattr(member.store, "commit", refuse)


def test_writes_that_are_refused_together_leave_nothing_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several of one key in one turn, over a record that was there: memory, tree and dots are as before."""
    cluster = Cluster(1, replicas=1, r=1, w=1, partitions=1)
    (member,) = cluster.members
    client = cluster.client(0)
    client.ask(Op.PUT, b"k", b"before", None, W1, {"overwrite": True})
    root = member.node.replica.root(0)
    puts = b""
    with monkeypatch.context() as patch:
        refuse_commits(patch, member, StoreError("full"))
        puts = [
            [Op.PUT, 50 + i, [b"k", b"k", b"other"][i], b"%d" % i, None, bytes(15) + bytes([i]), {}] for i in range(3)
        ]
        client.send_raw(b"".join(framed(cbor2.dumps([int(put[0]), *put[1:]])) for put in puts))
        assert [answer[:3] for answer in client.answers()] == [[Op.ERROR, 50 + i, "store-error"] for i in range(3)]
    assert member.node.replica.root(0) == root
    assert values(client.ask(Op.GET, b"k", {})) == [b"before"]
    assert values(client.ask(Op.GET, b"other", {})) == []
    client.ask(Op.PUT, b"k", b"after", None, W2, {"overwrite": True})
    assert values(client.ask(Op.GET, b"k", {})) == [b"after"]


def test_a_get_in_the_turn_of_a_put_answers_what_the_store_has_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(1, replicas=1, r=1, w=1, partitions=1)
    (member,) = cluster.members
    client = cluster.client(0)
    both = [[int(Op.PUT), 50, b"k", b"v", None, W1, {}], [int(Op.GET), 51, b"k", None]]
    with monkeypatch.context() as patch:
        refuse_commits(patch, member, StoreError("full"))
        client.send_raw(b"".join(framed(cbor2.dumps(message)) for message in both))
        put, get = client.answers()
        assert put[:3] == [Op.ERROR, 50, "store-error"]
        assert values(get) == []


def test_a_replica_that_cannot_store_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(3)
    first, *others = holders(cluster, b"k")
    for member in others:
        refuse_commits(monkeypatch, member, StoreError("full"))
    assert pipe(first).ask(Op.PUT, b"k", b"v", None, W1, {})[CODE] == "uncertain"
    assert pipe(first).ask(Op.PUT, b"k", b"v", None, W1, {"w": 1})[0] == Op.WRITTEN


def write_behind(member: Member, value: bytes) -> None:
    """Change what is stored under ``k`` past the node, which has nothing of it in memory any more."""
    key = object_key(xxh3_64_intdigest(b"k"), b"k")
    member.store.put(key, value)
    member.node.replica.hot.drop(key)


def test_a_corrupt_record_is_no_answer_and_never_not_found() -> None:
    cluster = Cluster(3)
    first, second, _ = holders(cluster, b"k")
    pipe(first).ask(Op.PUT, b"k", b"v", None, W1, {"w": 3})
    write_behind(first, b"damaged")
    answer = pipe(first).ask(Op.GET, b"k", {})
    assert values(answer) == [b"v"]
    assert pipe(first).ask(Op.GET, b"k", {"r": 3})[CODE] == "unavailable"
    assert pipe(first).ask(Op.PUT, b"k", b"w", None, W2, {})[CODE] == "corrupt"
    assert values(pipe(second).ask(Op.GET, b"k", {"r": 2})) == [b"v"]


# ---- the actor rule


def test_dots_count_on_within_a_boot_and_a_restart_takes_a_fresh_actor() -> None:
    cluster = Cluster(3)
    first = holders(cluster, b"k")[0]
    one = pipe(first).ask(Op.PUT, b"k", b"a", None, W1, {})
    two = pipe(first).ask(Op.PUT, b"k", b"b", one[PUT_CONTEXT], W2, {})
    assert (two[2][0], two[2][1]) == (one[2][0], 2)
    cluster.kill(first)
    cluster.restart(first)
    cluster.settle()
    three = pipe(first).ask(Op.PUT, b"k", b"c", two[PUT_CONTEXT], W3, {})
    assert three[2][0] != two[2][0]
    assert three[2][1] == 1


def test_a_context_that_knows_more_of_our_actor_than_we_do_proves_amnesia() -> None:
    """A coordinator whose unsynced record is gone must not issue the lost dot again."""
    cluster = Cluster(3, group=False)
    first = holders(cluster, b"k")[0]
    one = pipe(first).ask(Op.PUT, b"k", b"a", None, W1, {})
    before = first.store.get(object_key(xxh3_64_intdigest(b"k"), b"k"))
    assert before is not None
    two = pipe(first).ask(Op.PUT, b"k", b"b", one[PUT_CONTEXT], W2, {})
    write_behind(first, before)
    three = pipe(first).ask(Op.PUT, b"k", b"c", two[PUT_CONTEXT], W3, {})
    assert three[2][0] != two[2][0]
    assert values(pipe(first).ask(Op.GET, b"k", {"r": 3})) == [b"c"]
    assert ("actor.amnesia", {"key": b"k"}) in first.events


def test_a_crash_that_forgets_unsynced_writes_never_reuses_a_dot() -> None:
    cluster = Cluster(3)
    first = holders(cluster, b"k")[0]
    seen = set()
    for turn in range(12):
        answer = pipe(first).ask(Op.PUT, b"k", b"%d" % turn, None, b"%016d" % turn, {})
        assert tuple(answer[2][:2]) not in seen
        seen.add(tuple(answer[2][:2]))
        cluster.crash(first)
        cluster.restart(first)
        cluster.settle()
    assert len(values(pipe(first).ask(Op.GET, b"k", {"r": 3}))) == 12, "blind puts are all kept"


def test_two_writers_each_one_step_stale_never_exceed_four_versions() -> None:
    cluster = Cluster(3)
    client = pipe(holders(cluster, b"k")[0])
    contexts: list[bytes | None] = [None, None]
    for turn in range(200):
        writer = turn % 2
        found = client.ask(Op.GET, b"k", {})
        assert len(found[VERSIONS]) <= 4
        client.ask(Op.PUT, b"k", b"%d" % turn, contexts[writer], b"%016d" % turn, {})
        contexts[writer] = found[CONTEXT]


# ---- overwrite and time


def test_overwrite_needs_no_context_and_leaves_one_version() -> None:
    client = Cluster(3).client(0)
    client.ask(Op.PUT, b"k", b"a", None, W1, {})
    client.ask(Op.PUT, b"k", b"b", None, W2, {})
    assert client.ask(Op.PUT, b"k", b"c", None, W3, {"overwrite": True})[LIVE] == 1
    assert values(client.ask(Op.GET, b"k", {})) == [b"c"]


def test_overwrite_is_not_beaten_by_a_newer_version_that_its_coordinator_had_not_seen() -> None:
    """Another replica has a version with a later time: the overwrite covers it and writes again."""
    cluster = Cluster(3)
    first, second, third = holders(cluster, b"k")
    record = Record().put(actor=7, counter=1, time=(1_700_000_020_000 << 16), write_id=W1, value=b"newer")
    for member in (second, third):
        member.node.replica.merge(object_key(xxh3_64_intdigest(b"k"), b"k"), record)
    answer = pipe(first).ask(Op.PUT, b"k", b"mine", None, W2, {"overwrite": True})
    assert answer[0] == Op.WRITTEN
    assert answer[2][2] > 1_700_000_020_000 << 16
    assert values(pipe(first).ask(Op.GET, b"k", {"r": 3})) == [b"mine"]


def test_overwrite_at_a_coordinator_that_missed_a_write_leaves_no_sibling() -> None:
    cluster = Cluster(3)
    first, second, _ = holders(cluster, b"k")
    cluster.hold(second, first)
    assert pipe(second).ask(Op.PUT, b"k", b"missed", None, W1, {"overwrite": True})[0] == Op.WRITTEN
    cluster.kill(first)
    cluster.held.clear()
    cluster.restart(first)
    cluster.settle()
    assert pipe(first).ask(Op.PUT, b"k", b"last", None, W2, {"overwrite": True})[0] == Op.WRITTEN
    assert values(pipe(second).ask(Op.GET, b"k", {})) == [b"last"]


def test_concurrent_overwrites_at_all_replicas_are_all_acknowledged() -> None:
    """Each is beaten by others while it is under way; none of those was acknowledged before it began."""
    cluster = Cluster(3)
    members = holders(cluster, b"k")
    cluster.delays = {
        (a.name, b.name): 3 * MS + 2 * MS * i for i, (a, b) in enumerate(itertools.permutations(members, 2))
    }
    pipes = [pipe(member) for member in members for _ in range(8)]
    for number in range(10):
        for at, client in enumerate(pipes):
            client.send(
                [
                    Op.PUT,
                    number,
                    b"k",
                    b"%d/%d" % (at, number),
                    None,
                    bytes([at, number, *bytes(14)]),
                    {"overwrite": True},
                ]
            )
        answers: list[Any] = []

        def all_answered(answers: list[Any] = answers) -> bool:
            answers.extend(answer for client in pipes for answer in client.answers())
            return len(answers) == len(pipes)

        cluster.run_until(all_answered, limit_ms=5_000)
        assert {answer[0] for answer in answers} == {Op.WRITTEN}
    cluster.settle()
    assert pipes[0].ask(Op.PUT, b"k", b"last", None, W1, {"overwrite": True})[0] == Op.WRITTEN
    assert values(pipes[1].ask(Op.GET, b"k", {"r": 3})) == [b"last"]


def test_time_follows_the_client_but_not_a_clock_far_ahead() -> None:
    cluster = Cluster(1)
    client = cluster.client(0)
    ahead = (cluster.members[0].node.coordinator.wall_ms + 30_000) << 16
    assert client.ask(Op.PUT, b"k", b"a", None, W1, {"time": ahead})[2][2] > ahead
    far = (cluster.members[0].node.coordinator.wall_ms + 200_000) << 16
    assert client.ask(Op.PUT, b"l", b"a", None, W2, {"time": far})[2][2] < far


def test_time_never_goes_back_over_a_crash() -> None:
    cluster = Cluster(1)
    member = cluster.members[0]
    cluster.step()  # or the node would not know the time yet
    ahead = (member.node.coordinator.wall_ms + 30_000) << 16
    before = cluster.client(0).ask(Op.PUT, b"k", b"a", None, W1, {"time": ahead})[2][2]
    cluster.crash(member)
    cluster.restart(member)
    assert cluster.client(0).ask(Op.PUT, b"l", b"a", None, W2, {})[2][2] > before


def test_time_never_goes_back_over_a_crash_when_its_saving_was_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(1)
    member = cluster.members[0]
    cluster.step()  # or the node would not know the time yet
    ahead = (member.node.coordinator.wall_ms + 30_000) << 16

    def refuse(batch: Batch) -> int:
        raise StoreBusyError("stall")

    with monkeypatch.context() as patch:
        patch.setattr(member.store, "write", refuse)
        assert cluster.client(0).ask(Op.PUT, b"k", b"a", None, W1, {"time": ahead})[CODE] == "overloaded"
    before = cluster.client(0).ask(Op.PUT, b"k", b"a", None, W1, {"time": ahead})[2][2]
    cluster.crash(member)
    cluster.restart(member)
    assert cluster.client(0).ask(Op.PUT, b"l", b"a", None, W2, {})[2][2] > before


# ---- limits


def test_too_many_versions_are_refused_and_a_put_with_context_still_works() -> None:
    client = Cluster(1).client(0)
    for number in range(128):
        client.ask(Op.PUT, b"k", b"v", None, b"%016d" % number, {})
    assert client.ask(Op.PUT, b"k", b"v", None, b"x" * 16, {})[CODE] == "too-many-versions"
    context = client.ask(Op.GET, b"k", {})[CONTEXT]
    assert client.ask(Op.PUT, b"k", b"v", context, b"x" * 16, {})[LIVE] == 1


def test_three_versions_of_8_mib_travel_in_parts_and_are_resolved() -> None:
    cluster = Cluster(3)
    client = cluster.client(0)
    big = [bytes([number]) * (8 << 20) for number in range(3)]
    for number, value in enumerate(big):
        assert client.ask(Op.PUT, b"k", value, None, b"%016d" % number, {"w": 3})[0] == Op.WRITTEN
    client.send([Op.GET, 99, b"k", {"r": 3}])
    cluster.run_until(lambda: bool(client.received))
    from dynafast._ext.codec import FrameReader

    (found,) = FrameReader().feed(client.received)
    client.received = b""
    assert values(found) == sorted(big)
    assert client.ask(Op.PUT, b"k", b"small", found[CONTEXT], W1, {})[LIVE] == 1


# ---- seats


def _most(answers: list[tuple[int, int]]) -> int:
    """By trying every choice of one seat or none per answer."""
    choices = [[None, *[seat for seat in range(8) if mask >> seat & 1]] for _, mask in answers]
    best = 0
    for pick in itertools.product(*choices):
        taken = [(host, seat) for (host, _), seat in zip(answers, pick, strict=True) if seat is not None]
        if len({host for host, _ in taken}) == len(taken) == len({seat for _, seat in taken}):
            best = max(best, len(taken))
    return best


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], 0),
        ([(0, 0b111)], 1),  # one host is one vote, however many seats it serves
        ([(0, 0b001), (1, 0b001)], 1),  # one seat is one vote, whoever claims it
        ([(0, 0b001), (0, 0b010)], 1),  # two nodes of one host
        ([(0, 0b011), (1, 0b001)], 2),  # the first must leave seat 0 to the second
        ([(0, 0b011), (1, 0b011), (2, 0b011)], 2),
        ([(0, 0b001), (1, 0b010), (2, 0b100)], 3),
        ([(0, 0b001), (1, 0b000)], 1),  # no seat, no vote
    ],
)
def test_distinct_seats_table(answers: list[tuple[int, int]], expected: int) -> None:
    assert distinct_seats(answers) == expected == _most(answers)


def test_distinct_seats_equals_exhaustive_search() -> None:
    for hosts in itertools.product(range(3), repeat=3):
        for masks in itertools.product(range(8), repeat=3):
            answers = list(zip(hosts, masks, strict=True))
            assert distinct_seats(answers) == _most(answers), answers


def test_a_node_without_a_seat_takes_no_repair_and_keeps_a_write_as_a_hint() -> None:
    cluster = Cluster(5)
    outside = outsiders(cluster, b"k")[0]
    peer = Pipe(outside)
    peer.hello(role="peer", node=b"12345678", cluster=cluster.facts.cluster, to=outside.node.own.id, generation=1)
    record = [[[7, 1, 5]], [[7, 1, 5, W1, b"v"]]]
    assert peer.ask(Op.FETCH, b"k", None)[2:] == [0, 0, None]
    assert peer.ask(Op.STORE, b"k", None, 4, 0, record)[CODE] == "no-seat"
    assert stored(outside, b"k") is None
    answer = peer.ask(Op.STORE, b"k", None, 0, 0, record)
    assert answer[2:4] == [0, 3], "no seat; synced, and kept as a hint"
    assert sorted(owner for owner, _ in answer[4]) == sorted(member.node.own.id for member in holders(cluster, b"k"))
    assert stored(outside, b"k") is not None
    assert sum(count for count, _ in outside.node.replica.hinted.values()) == 1
