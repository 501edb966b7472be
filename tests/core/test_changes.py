"""Members leave, are removed, are replaced and change their weight, under writes; nothing is lost."""

from collections import Counter
from functools import partial
from typing import Any

import pytest

from dynafast.core.changes import Changes
from dynafast.core.identity import load_entries
from dynafast.core.seats import Seat
from dynafast.core.taking import Taking
from dynafast.protocol import Op, Status
from tests.core.harness import Cluster, Member, Pipe
from tests.core.load import (
    Load,
    at_rest,
    check_nothing_left_over,
    check_nothing_lost,
    check_one_owner,
    present,
)


def ask(cluster: Cluster, number: int, op: Op, *fields: Any) -> list[Any]:
    """Ask a member for a change; the answer comes within five seconds."""
    return cluster.client(number).ask(op, *fields, wait_ms=5_000)


def filled(count: int, keys: int = 200) -> tuple[Cluster, Load]:
    cluster = Cluster(count)
    load = Load(cluster)
    load.fill(keys)
    return cluster, load


def all_answered(pipes: list[Pipe]) -> bool:
    return all(pipe.received for pipe in pipes)


def hosts(cluster: Cluster) -> int:
    """How many hosts stay, by the view of the first member that is there."""
    members = present(cluster)[0].node.members()
    return len({entry.host for entry in members if entry.status is not Status.LEAVING})


def nothing_moves(cluster: Cluster) -> bool:
    """Whether all are up and no seat is on its way. With fewer hosts than seats some may be served by no target."""
    nodes = [member.node for member in present(cluster)]
    still = not any(node.machine(Taking).count or node.given or node.seats.moving for node in nodes)
    return still and all(node.own.status is Status.UP for node in nodes)


# ---- leave


@pytest.mark.parametrize("asked", [0, 3])
def test_a_node_leaves_and_ends_when_it_has_handed_over(asked: int) -> None:
    cluster, load = filled(4)
    leaver = cluster.members[3]
    assert ask(cluster, asked, Op.LEAVE, "n3")[0] == Op.OK
    assert ask(cluster, asked, Op.LEAVE, "n3")[0] == Op.OK, "an accepted change may be asked for again"
    others = cluster.members[:3]
    load.run(lambda: leaver.node.ended == "left" and at_rest(cluster), members=others)
    assert not load.failed
    check_one_owner(cluster)
    check_nothing_lost(cluster, load)
    check_nothing_left_over(cluster)
    assert ask(cluster, 0, Op.LEAVE, "n3")[0] == Op.OK
    assert not leaver.node.own_seats()


def test_a_leave_goes_on_after_a_crash_of_the_leaver() -> None:
    cluster, load = filled(4)
    leaver = cluster.members[3]
    assert ask(cluster, 3, Op.LEAVE, "n3")[0] == Op.OK
    for _ in range(20):
        cluster.step()
    cluster.crash(leaver)
    cluster.restart(leaver)
    load.run(lambda: leaver.node.ended == "left" and at_rest(cluster), members=cluster.members[:3])
    check_nothing_lost(cluster, load, copies=2)


@pytest.mark.parametrize(
    ("count", "name", "code"), [(3, "n2", "too-few-hosts"), (2, "n1", "too-few-hosts"), (4, "n9", "unknown-node")]
)
def test_a_leave_is_refused_with_the_reason(count: int, name: str, code: str) -> None:
    assert ask(Cluster(count), 0, Op.LEAVE, name)[2] == code


def test_a_leave_of_a_node_that_cannot_be_reached_is_refused() -> None:
    cluster = Cluster(5)
    cluster.kill(cluster.members[4])
    assert ask(cluster, 0, Op.LEAVE, "n4")[2] == "unreachable"


def test_a_leaver_hands_on_what_it_keeps_for_a_node_that_is_away() -> None:
    cluster, load = filled(5)
    leaver, away = cluster.members[3], cluster.members[4]
    cluster.kill(away)
    cluster.step()
    for _ in range(100):
        load.put(leaver)
        cluster.step()
    assert leaver.node.replica.hinted
    assert ask(cluster, 0, Op.LEAVE, "n3")[0] == Op.OK
    cluster.run_until(lambda: not leaver.node.replica.hinted, limit_ms=60_000)
    kept = Counter(id for member in present(cluster) for id in member.node.replica.hinted)
    assert away.node.own.id in kept
    assert leaver.node.ended is None, "some seats can only go to the node that is away"
    cluster.restart(away)
    cluster.run_until(lambda: leaver.node.ended == "left" and at_rest(cluster), limit_ms=60_000)
    check_nothing_lost(cluster, load, copies=2)


# ---- weight


def test_a_weight_is_changed_while_running() -> None:
    cluster, load = filled(5)
    assert ask(cluster, 0, Op.WEIGHT, "n3", 3)[0] == Op.OK
    load.run(lambda: at_rest(cluster))
    assert not load.failed
    counts = {member.name: len(member.node.own_seats()) for member in cluster.members}
    assert counts["n3"] == 16
    assert cluster.members[1].node.membership.entries[cluster.members[3].node.own.id].weight == 3
    check_nothing_lost(cluster, load, copies=2)
    check_nothing_left_over(cluster)


@pytest.mark.parametrize("fields", [("n1", 0), ("n1", True), ("n1", 10_001), ("", 1), (7, 1)])
def test_a_bad_weight_is_refused(fields: tuple[Any, ...]) -> None:
    assert ask(Cluster(3), 0, Op.WEIGHT, *fields)[2] == "bad-request"


# ---- remove


def kill(cluster: Cluster, member: Member) -> None:
    cluster.kill(member)
    for _ in range(10):
        cluster.step()


def test_a_dead_node_is_removed_and_its_seats_are_claimed() -> None:
    cluster, load = filled(5)
    dead = cluster.members[4]
    kill(cluster, dead)
    answer = ask(cluster, 0, Op.REMOVE, "n4", False)
    assert answer[0] == Op.OK
    assert answer[2] == {"lost": []}
    for _ in range(50):
        cluster.step()
    assert ask(cluster, 1, Op.REMOVE, "n4", False)[0] == Op.OK, "an accepted change may be asked for again"
    load.run(lambda: at_rest(cluster), members=cluster.members[:4])
    check_one_owner(cluster)
    check_nothing_lost(cluster, load, copies=2)
    check_nothing_left_over(cluster)


@pytest.mark.parametrize("hosts", [1, 2])
def test_of_several_nodes_on_one_host_one_may_leave_however_few_hosts_there_are(hosts: int) -> None:
    cluster = Cluster(hosts)
    load = Load(cluster)
    load.fill(200)
    leaver = cluster.add("worker", host="n0")
    cluster.add("another", host="n0")
    load.run(lambda: nothing_moves(cluster))
    assert leaver.node.own_seats()
    assert ask(cluster, 0, Op.LEAVE, "worker")[0] == Op.OK
    stayed = [member for member in cluster.members if member is not leaver]
    load.run(lambda: leaver.node.ended == "left", members=stayed)
    kill(cluster, leaver)
    load.run(lambda: nothing_moves(cluster), members=stayed)
    check_one_owner(cluster)
    check_nothing_lost(cluster, load, copies=hosts)
    check_nothing_left_over(cluster)
    if hosts > 1:
        assert ask(cluster, 0, Op.LEAVE, "n1")[2] == "too-few-hosts"


@pytest.mark.parametrize("accept_loss", [False, True])
def test_of_several_nodes_on_one_host_a_dead_one_may_be_removed(accept_loss: bool) -> None:
    cluster = Cluster(2)
    dead = cluster.add("worker", host="n0")
    cluster.settle()
    kill(cluster, dead)
    assert ask(cluster, 1, Op.REMOVE, "worker", accept_loss)[0] == Op.OK


def test_a_claim_is_not_taken_back_while_others_have_not_heard_of_the_seat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the claimant to die as soon as it has written that the seat is its own, another could claim it too."""
    cluster, _ = filled(5)
    released: list[Seat] = []
    monkeypatch.setattr(Taking, "_release", lambda _taking, seat: released.append(seat))
    kill(cluster, cluster.members[4])
    assert ask(cluster, 0, Op.REMOVE, "n4", False)[0] == Op.OK
    cluster.run_until(lambda: at_rest(cluster))
    assert released == []


def test_a_dead_node_is_removed_by_its_id() -> None:
    """Two members can have one name, if a seed has forgotten whom it let in for whom."""
    cluster, _ = filled(5)
    dead = cluster.members[4]
    id = dead.node.own.id
    kill(cluster, dead)
    assert ask(cluster, 0, Op.REMOVE, id.hex(), False)[0] == Op.OK
    assert not cluster.members[0].node.membership.entries[id].member
    assert ask(cluster, 0, Op.REMOVE, id.hex(), False)[0] == Op.OK, "an accepted change may be asked for again"
    assert ask(cluster, 0, Op.REMOVE, bytes(8).hex(), False)[2] == "unknown-node"


def knows_removed(member: Member, name: str) -> bool:
    """Whether a member's folder remembers that a node was removed."""
    return any(entry.name == name and not entry.member for entry in load_entries(member.store))


def test_a_removal_is_answered_once_most_of_the_others_have_it_on_disk() -> None:
    cluster, _ = filled(5)
    kill(cluster, cluster.members[4])
    asked, *others = cluster.members[:4]
    asked.flushing = False  # until all have given their permits
    pipe = cluster.client(0)
    pipe.send([Op.REMOVE, 1, "n4", False])
    cluster.run_until(lambda: knows_removed(asked, "n4"))
    for other in others:
        other.flushing = False
    asked.flushing = True
    cluster.run_until(lambda: bool(pipe.received), limit_ms=5_000)
    assert pipe.answers()[0][2] == "unavailable"
    for other in others:
        other.flushing = True
    assert ask(cluster, 0, Op.REMOVE, "n4", False)[0] == Op.OK
    for other in others:
        other.store.crash()
        assert knows_removed(other, "n4")


def test_a_removed_node_that_comes_back_ends_itself() -> None:
    cluster, _ = filled(5)
    dead = cluster.members[4]
    kill(cluster, dead)
    assert ask(cluster, 0, Op.REMOVE, "n4", False)[0] == Op.OK
    cluster.run_until(lambda: at_rest(cluster))
    cluster.restart(dead)
    cluster.run_until(lambda: dead.node.ended == "removed")
    assert at_rest(cluster)


def test_a_node_that_was_removed_while_cut_off_counts_no_more() -> None:
    """It lives on the other side: what it answers from then on is not counted by anybody who agreed."""
    cluster, load = filled(5)
    cut = cluster.members[4]
    for other in cluster.members[:4]:
        cluster.hold(other, cut)
        cluster.hold(cut, other)
    cluster.run_until(lambda: all(len(member.node.linked_peers()) == 3 for member in cluster.members[:4]))
    assert ask(cluster, 0, Op.REMOVE, "n4", False)[0] == Op.OK
    load.run(lambda: at_rest_but(cluster, cut), members=cluster.members[:4])
    for other in cluster.members[:4]:
        cluster.release(other, cut)
        cluster.release(cut, other)
    cluster.run_until(lambda: cut.node.ended == "removed")
    check_nothing_lost(cluster, load, copies=2)


def at_rest_but(cluster: Cluster, cut: Member) -> bool:
    cut.up = False
    rest = at_rest(cluster)
    cut.up = True
    return rest


@pytest.mark.parametrize("asked", [0, 4])
def test_a_node_that_answers_is_not_removed(asked: int) -> None:
    assert ask(Cluster(5), asked, Op.REMOVE, "n4", True)[2] == "alive"


def test_a_node_that_answers_another_member_is_not_removed() -> None:
    cluster = Cluster(5)
    cluster.hold(cluster.members[0], cluster.members[4])
    cluster.hold(cluster.members[4], cluster.members[0])
    cluster.run_until(lambda: len(cluster.members[0].node.linked_peers()) == 3)
    assert ask(cluster, 0, Op.REMOVE, "n4", False)[2] == "alive"


def test_a_removal_below_the_number_of_replicas_is_refused() -> None:
    cluster = Cluster(3)
    kill(cluster, cluster.members[2])
    assert ask(cluster, 0, Op.REMOVE, "n2", False)[2] == "too-few-hosts"


def test_a_removal_that_would_lose_partitions_lists_them_and_needs_consent() -> None:
    """Three nodes of four are lost, one after another, before anybody took over: some partitions had no other."""
    cluster, _ = filled(4)
    for member in cluster.members[1:]:
        cluster.kill(member)
    for _ in range(10):
        cluster.step()
    assert ask(cluster, 0, Op.REMOVE, "n3", True)[0] == Op.OK
    assert ask(cluster, 0, Op.REMOVE, "n2", True)[0] == Op.OK
    own = cluster.members[0].node
    left = [p for p in range(16) if set(own.seats.holders(p)) == {cluster.members[1].node.own.id}]
    assert left
    refused = ask(cluster, 0, Op.REMOVE, "n1", False)
    assert refused[2] in ("would-lose", "too-few-hosts")
    accepted = ask(cluster, 0, Op.REMOVE, "n1", True)
    assert accepted[2] == {"lost": left}
    cluster.run_until(lambda: len(own.own_seats()) == 48)  # what no other target can take it takes too
    client = cluster.client(0)
    assert client.ask(Op.PUT, b"after", b"v", None, b"1" * 16, {})[0] == Op.WRITTEN
    assert client.ask(Op.GET, b"after", {})[2][0][4] == b"v"


def test_the_majority_must_agree_to_a_removal() -> None:
    cluster = Cluster(5)
    for member in cluster.members[2:]:
        cluster.kill(member)
    for _ in range(10):
        cluster.step()
    assert ask(cluster, 0, Op.REMOVE, "n4", False)[2] in ("unavailable", "too-few-hosts")
    assert hosts(cluster) == 5


# ---- several at once


def test_a_leave_and_a_removal_at_once_leave_no_fewer_hosts_than_replicas() -> None:
    """Four nodes of three replicas: one of the two changes is refused, whichever."""
    for turn in range(6):
        cluster = Cluster(4, seed=turn)
        kill(cluster, cluster.members[3])
        first, second = cluster.client(0), cluster.client(1)
        first.send([Op.LEAVE, 1, "n2"])
        for _ in range(turn):
            cluster.step()
        second.send([Op.REMOVE, 1, "n3", False])
        cluster.run_until(partial(all_answered, [first, second]), limit_ms=5_000)
        outcomes = [first.answers()[0][0], second.answers()[0][0]]
        assert outcomes.count(Op.OK) <= 1, outcomes
        for _ in range(300):
            cluster.step()
        assert hosts(cluster) >= 3


def test_two_leaves_at_once_leave_no_fewer_hosts_than_replicas() -> None:
    for turn in range(4):
        cluster = Cluster(4, seed=turn)
        pipes = [cluster.client(0), cluster.client(1)]
        pipes[0].send([Op.LEAVE, 1, "n2"])
        for _ in range(turn):
            cluster.step()
        pipes[1].send([Op.LEAVE, 1, "n3"])
        cluster.run_until(partial(all_answered, pipes), limit_ms=5_000)
        assert [pipe.answers()[0][0] for pipe in pipes].count(Op.OK) <= 1
        for _ in range(600):
            cluster.step()
        assert hosts(cluster) >= 3


def test_a_permit_lapses_when_its_holder_dies() -> None:
    cluster = Cluster(5)
    one, two = cluster.members[0].node, cluster.members[1].node
    one.machine(Changes)._grant(two.own.id, "leave", two.own.id)  # and then it never happens
    assert ask(cluster, 2, Op.LEAVE, "n2")[2] == "change-in-progress"
    for _ in range(2_100):
        cluster.step()
    assert ask(cluster, 2, Op.LEAVE, "n2")[0] == Op.OK


def test_join_and_leave_at_once() -> None:
    cluster, load = filled(4)
    cluster.add("new")
    for _ in range(5):
        cluster.step()
    assert ask(cluster, 0, Op.LEAVE, "n3")[0] == Op.OK
    leaver = cluster.members[3]
    rest = [member for member in cluster.members if member is not leaver]
    load.run(lambda: leaver.node.ended == "left" and at_rest(cluster), members=rest)
    check_one_owner(cluster)
    check_nothing_lost(cluster, load, copies=2)
    check_nothing_left_over(cluster)


# ---- replace


def knock(member: Member, **fields: Any) -> list[Any]:
    pipe = Pipe(member)
    pipe.hello(role="peer", node=b"newnode1", cluster=None, to=None, generation=1, name="new")
    return pipe.ask(Op.JOIN, {"node": b"newnode1", "name": "new", "hash": "xxh3-64", **fields}, wait_ms=5_000)


@pytest.mark.parametrize("count", [3, 5])
def test_a_wiped_node_replaces_its_old_self(count: int) -> None:
    cluster, load = filled(count)
    dead = cluster.members[-1]
    kill(cluster, dead)
    assert knock(cluster.members[0], name=dead.name)[2] == "name-taken"
    answer = knock(cluster.members[0], name=dead.name, replace=dead.name)
    assert answer[0] == Op.OK
    assert knock(cluster.members[0], name=dead.name, replace=dead.name)[0] == Op.OK, "it may ask again"
    cluster.add(dead.name, id=b"newnode1")
    live = [member for member in cluster.members if member.up]
    load.run(lambda: at_rest(cluster), members=live)
    check_one_owner(cluster)
    check_nothing_lost(cluster, load, copies=2)
    check_nothing_left_over(cluster)


def test_a_seat_given_to_a_node_that_is_replaced_before_it_takes_it_comes_back() -> None:
    """Also where its giver serves another seat of the partition: else the heir waits for that seat for ever."""
    cluster, load = filled(2)
    first, second = cluster.members
    joiner = cluster.add("n2")
    cluster.run_until(lambda: bool(first.node.given or second.node.given))
    kill(cluster, joiner)
    assert first.node.given or second.node.given
    assert knock(first, name="n2", replace="n2")[0] == Op.OK
    heir = cluster.add("n2", id=b"newnode1")
    load.run(lambda: at_rest(cluster), members=[first, second, heir])
    check_one_owner(cluster)
    check_nothing_lost(cluster, load, copies=2)


def test_a_node_that_dies_soon_after_its_join_can_be_replaced_at_once() -> None:
    """Its name is kept for it for a while after it was admitted; but it has been heard of since."""
    cluster, _ = filled(3)
    seed = cluster.members[0]
    assert knock(seed, name="n9", node=b"newnode2")[0] == Op.OK
    assert knock(seed, name="n9")[2] == "name-taken"
    late = cluster.add("n9", id=b"newnode2")
    cluster.settle()
    kill(cluster, late)
    assert knock(seed, name="n9", replace="n9")[0] == Op.OK


def test_of_two_that_are_to_be_replaced_none_stays() -> None:
    """The seed that lets the heir in knows of the first alone; of the second, which had replaced it, it hears later."""
    cluster, _ = filled(4)
    seed, first = cluster.members[0], cluster.members[3]
    kill(cluster, first)
    assert knock(seed, name="n3", replace="n3")[0] == Op.OK
    second = cluster.add("n3", id=b"newnode2")
    cluster.run_until(lambda: b"newnode2" in seed.node.membership.entries)
    kill(cluster, second)
    cluster.add("n3", id=b"newnode1")
    live = [member for member in cluster.members if member.up]
    cluster.run_until(lambda: all(len(member.node.members()) == len(live) for member in live))
    assert [entry.id for entry in seed.node.members() if entry.name == "n3"] == [b"newnode1"]


def test_nobody_enters_for_a_node_that_only_one_who_is_away_may_know() -> None:
    """It would stay a member for ever: the seed alone remembers whom to remove, and may be removed itself."""
    cluster, _ = filled(3)
    away = cluster.members[2]
    kill(cluster, away)
    assert knock(cluster.members[0], name="n9", replace="n8")[2] == "unavailable"
    cluster.restart(away)
    cluster.settle()
    assert knock(cluster.members[0], name="n9", replace="n8")[0] == Op.OK


def test_a_node_that_answers_is_not_replaced() -> None:
    assert knock(Cluster(3).members[0], name="n2", replace="n2")[2] == "alive"


# ---- old copies of a folder


def test_a_node_started_from_an_old_copy_of_its_folder_ends_itself() -> None:
    import copy

    cluster, load = filled(3)
    victim = cluster.members[2]
    backup = copy.deepcopy(victim.store)
    cluster.add("new")
    load.run(lambda: at_rest(cluster))
    cluster.kill(victim)
    victim.store = backup
    backup.close()
    backup.reopen()
    cluster.restart(victim, generation=backup.boot)
    cluster.run_until(lambda: victim.node.ended == "stale")


def test_a_clone_of_a_running_node_ends_itself() -> None:
    """Two processes speak for one node: what the second hears of itself it has not said."""
    cluster, _ = filled(4)
    node = cluster.members[3].node
    newer = type(node.own)(**{**node.own.to_wire(), "status": Status.UP, "version": node.own.version + 5})
    node.learn([newer])
    assert node.ended == "stale"
