"""Who is suspected, when, and for how long."""

from dynafast.core.detector import PATIENCE_MAX_NS, PATIENCE_MIN_NS, Detector, Watch
from tests.core.harness import MS, Cluster, Member
from tests.core.stories import pause, resume, run_ms


def suspects(member: Member) -> set[str]:
    """Whom *member* suspects."""
    return {peer.name for peer in member.node.peers.values() if peer.suspected}


def seen(cluster: Cluster, event: str) -> list[tuple[str, object]]:
    return [
        (member.name, fields["peer"]) for member in cluster.members for name, fields in member.events if name == event
    ]


def test_nobody_is_suspected_while_all_answer() -> None:
    cluster = Cluster(5)
    run_ms(cluster, 30_000)
    assert seen(cluster, "peer.suspected") == []


def test_a_paused_node_is_suspected_within_a_second_and_trusted_at_its_first_answer() -> None:
    cluster = Cluster(3)
    paused, *others = cluster.members
    run_ms(cluster, 2_000)
    pause(cluster, paused)
    start_ns = cluster.now_ns
    cluster.run_until(lambda: all(suspects(member) == {paused.name} for member in others), limit_ms=1_100)
    assert cluster.now_ns - start_ns > PATIENCE_MIN_NS // 2
    assert all(member.node.peers[paused.node.own.id].link is not None for member in others), "not lost, only silent"
    run_ms(cluster, 3_000)
    resume(cluster, paused)
    cluster.run_until(lambda: not any(suspects(member) for member in cluster.members), limit_ms=500)
    run_ms(cluster, 5_000)
    assert [name for name, _ in seen(cluster, "peer.suspected")].count(paused.name) == 0, "who was away accuses nobody"


def test_a_slow_node_is_suspected_once_at_most_and_then_known_to_be_slow() -> None:
    """800 ms for each answer is more than the least patience; it grows with the answers."""
    cluster = Cluster(3)
    slow, *others = cluster.members
    for other in others:
        cluster.delays[slow.name, other.name] = cluster.delays[other.name, slow.name] = 400 * MS
    run_ms(cluster, 4_000)
    for member in cluster.members:
        member.events.clear()
    run_ms(cluster, 30_000)
    assert seen(cluster, "peer.suspected") == []


def test_patience_stays_within_its_bounds_whatever_the_answers_took() -> None:
    for took_ns in (1, 5 * MS, 700 * MS, 20_000 * MS):
        watch = Watch(Cluster(1).members[0].node.peers[b"".join(Cluster(1).members[0].node.peers)])
        for _ in range(50):
            watch.answered(took_ns)
        assert PATIENCE_MIN_NS <= watch.patience_ns() <= PATIENCE_MAX_NS


def test_a_node_whose_flush_is_stuck_is_suspected_while_it_lasts() -> None:
    cluster = Cluster(3)
    stuck, *others = cluster.members
    stuck.flushing = False
    stuck.node.after_flush(lambda: None)
    cluster.run_until(lambda: all(suspects(member) == {stuck.name} for member in others), limit_ms=3_000)
    stuck.flushing = True
    cluster.run_until(lambda: not any(suspects(member) for member in others), limit_ms=1_500)


def test_a_connection_that_is_silent_for_long_is_made_anew() -> None:
    cluster = Cluster(3)
    near, far = cluster.members[:2]
    link = near.node.peers[far.node.own.id].link
    cluster.hold(near, far)
    cluster.run_until(lambda: near.node.peers[far.node.own.id].link is not link, limit_ms=15_000)
    cluster.release(near, far)
    cluster.settle()
    assert suspects(near) == set()


def test_a_connection_on_which_no_hello_is_answered_is_given_up_and_made_anew() -> None:
    """The first one is stuck for good, as after a partition: it is not waited for."""
    cluster = Cluster(2)
    near, far = cluster.members
    cluster.kill(far)
    cluster.hold(near, far)
    cluster.restart(far)
    run_ms(cluster, 500)
    assert near.node.peers[far.node.own.id].link is None
    stuck = cluster.held.pop((near.name, far.name))
    assert stuck, "a hello is under way, and never arrives"
    cluster.run_until(lambda: near.node.peers[far.node.own.id].link is not None, limit_ms=4_000)


def test_heartbeats_grow_rarer_with_the_number_of_peers() -> None:
    """Their number per second is bounded, whatever the size of the cluster."""
    counts = []
    for size in (2, 3):
        cluster = Cluster(size)
        before = [len(member.node.machine(Detector).sequences) for member in cluster.members]
        run_ms(cluster, 1_000)
        counts.append(before)
        assert all(len(member.node.machine(Detector).sequences) == size - 1 for member in cluster.members)
