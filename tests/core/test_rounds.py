"""Tombstones and dead entries of contexts go by agreed rounds, everywhere or nowhere, and nothing comes back."""

import itertools
from collections.abc import Callable

import pytest
from xxhash import xxh3_64_intdigest

from dynafast._ext.clock import Record
from dynafast._ext.codec import dumps
from dynafast._ext.replica import MODE_NONE
from dynafast.core import rounds
from dynafast.core.antientropy import AntiEntropy
from dynafast.core.handoff import Handoff
from dynafast.core.rounds import plan
from dynafast.errors import StoreError
from dynafast.protocol import Op
from dynafast.storage.interface import Batch, object_key
from dynafast.storage.memory import MemoryStore
from tests.core.harness import MS, Cluster, Link, Member
from tests.core.test_requests import CODE, CONTEXT, PUT_CONTEXT, W1, W2, W3, holders, outsiders, pipe, stored, values

KEY = object_key(xxh3_64_intdigest(b"k"), b"k")
LONG_MS = 60_000


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds soon after a write: the tests wait less."""
    monkeypatch.setattr(rounds, "REST_NS", 300 * MS)


@pytest.fixture
def no_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs stays so."""
    for machine in (AntiEntropy, Handoff):
        monkeypatch.setattr(machine, "tick", lambda _self, _now_ns: None)


def delete(cluster: Cluster, key: bytes = b"k", via: int = 0, *, write_id: bytes = W2) -> None:
    client = pipe(cluster.members[via])
    context = client.ask(Op.GET, key, {"r": 3})[CONTEXT]
    assert client.ask(Op.PUT, key, None, context, write_id, {"w": 3})[0] == Op.WRITTEN


def put_and_delete(cluster: Cluster, key: bytes = b"k") -> None:
    assert pipe(cluster.members[0]).ask(Op.PUT, key, b"v", None, W1, {"w": 3})[0] == Op.WRITTEN
    delete(cluster, key)


def nowhere(cluster: Cluster, key: bytes = b"k") -> bool:
    return all(stored(member, key) is None for member in cluster.members if member.up)


def run(cluster: Cluster, ms: int) -> None:
    for _ in range(ms // 5):
        cluster.step()


def waits(member: Member) -> tuple[int, str | None]:
    figures = member.node.rounds.figures()["tombstones"]
    assert isinstance(figures, dict)
    return figures["waiting"], figures["reason"]


def records(count: int) -> list[Record]:
    """Successive states of a key of which each write had another actor and saw the one before."""
    state, states = Record(), []
    for number in range(1, count + 1):
        state = state.put(
            actor=number, counter=1, time=1000 + number, write_id=W1, value=b"%d" % number, context=state.context
        )
        states.append(state)
    return states


def break_at(monkeypatch: pytest.MonkeyPatch, member: Member, event: str, then: Callable[[], None]) -> None:
    """Do something once, when *member* traces *event* the next time."""
    before = member.node.trace

    def trace(name: str, /, **fields: object) -> None:
        before(name, **fields)
        if name == event:
            member.node.trace = before
            then()

    monkeypatch.setattr(member.node, "trace", trace)


# ---- what goes


@pytest.mark.parametrize("nodes", [1, 3, 5])
def test_a_tombstone_goes_on_all_nodes(nodes: int) -> None:
    cluster = Cluster(nodes)
    put_and_delete(cluster)
    assert stored(holders(cluster, b"k")[0], b"k") is not None
    cluster.run_until(lambda: nowhere(cluster), limit_ms=3000)
    assert len({member.node.replica.round for member in cluster.members}) == 1
    assert cluster.members[0].node.replica.round >= 1
    assert values(pipe(cluster.members[0]).ask(Op.GET, b"k", {})) == []


def test_a_tombstone_is_left_alone_for_a_while_and_values_for_ever() -> None:
    cluster = Cluster(3)
    assert pipe(cluster.members[0]).ask(Op.PUT, b"other", b"v", None, W1, {"w": 3})[0] == Op.WRITTEN
    put_and_delete(cluster)
    run(cluster, 250)
    assert stored(cluster.members[0], b"k") is not None
    run(cluster, 4000)
    assert nowhere(cluster)
    assert values(pipe(cluster.members[0]).ask(Op.GET, b"other", {})) == [b"v"]


def test_many_tombstones_go_in_a_few_rounds_and_then_all_is_quiet() -> None:
    cluster = Cluster(3)
    client = pipe(cluster.members[0])
    keys = [b"k%d" % number for number in range(300)]
    for number, key in enumerate(keys):
        context = client.ask(Op.PUT, key, b"v", None, b"%016d" % number, {"w": 3})[PUT_CONTEXT]
        assert client.ask(Op.PUT, key, None, context, b"-%015d" % number, {"w": 3})[0] == Op.WRITTEN
    cluster.run_until(lambda: all(nowhere(cluster, key) for key in keys), limit_ms=LONG_MS)
    number = cluster.members[0].node.replica.round
    assert number <= 20
    cluster.run_until(lambda: all(waits(member)[0] == 0 for member in cluster.members))
    run(cluster, 5000)
    assert cluster.members[0].node.replica.round == number
    assert all(member.node.replica.root(p) == _empty() for member in cluster.members for p in range(16))


def _empty() -> int | None:
    return Cluster(1).members[0].node.replica.root(0)


def test_a_context_of_15_actors_is_trimmed_to_the_10_newest_everywhere() -> None:
    cluster = Cluster(3)
    for member in cluster.members:
        member.node.replica.merge(KEY, records(15)[-1])
    cluster.run_until(lambda: all(len(_record(member).context) == 10 for member in cluster.members), limit_ms=3000)
    assert {member.node.replica.root(_partition(cluster)) for member in cluster.members} == {
        cluster.members[0].node.replica.root(_partition(cluster))
    }
    assert [actor for actor, _, _ in _record(cluster.members[0]).context] == list(range(6, 16))
    client = pipe(cluster.members[0])
    found = client.ask(Op.GET, b"k", {"r": 3})
    assert values(found) == [b"15"]
    assert client.ask(Op.PUT, b"k", b"next", found[CONTEXT], W2, {"w": 3})[0] == Op.WRITTEN
    assert values(client.ask(Op.GET, b"k", {"r": 3})) == [b"next"]


def test_a_node_whose_own_entry_was_trimmed_issues_dots_under_a_fresh_actor() -> None:
    cluster = Cluster(3)
    first = holders(cluster, b"k")[0]
    client = pipe(first)
    assert client.ask(Op.PUT, b"k", b"v", None, W1, {"w": 3})[0] == Op.WRITTEN
    ((own, _, _),) = _record(first).context
    state = _record(first)
    for number in range(1, 16):
        state = state.put(actor=number, counter=1, time=2**60 + number, write_id=W1, value=b"v", context=state.context)
    for member in cluster.members:
        member.node.replica.merge(KEY, state)
    cluster.run_until(lambda: all(len(_record(member).context) == 10 for member in cluster.members), limit_ms=5000)
    found = client.ask(Op.GET, b"k", {"r": 3})
    assert client.ask(Op.PUT, b"k", b"next", found[CONTEXT], W2, {"w": 3})[0] == Op.WRITTEN
    (newest,) = _record(first).versions
    assert newest[4] == b"next"
    assert newest[0] not in {own, *range(1, 16)}


def _record(member: Member) -> Record:
    found = stored(member, b"k")
    assert found is not None
    return found


def _partition(cluster: Cluster) -> int:
    return xxh3_64_intdigest(b"k") * cluster.facts.partitions >> 64


def test_plan_drops_the_oldest_dead_entries_and_never_one_that_a_version_needs() -> None:
    state = Record()
    for number in range(1, 13):  # twelve siblings: every entry has a version
        state = state.put(actor=number, counter=1, time=number, write_id=W1, value=b"v")
    assert plan(state) == ()
    assert plan(records(10)[-1]) == ()
    assert plan(records(12)[-1]) == (1, 2)
    half = state.put(actor=20, counter=1, time=50, write_id=W1, value=b"v", context=[(a, 1, a) for a in (3, 5, 7, 9)])
    assert plan(half) == (3, 5, 7)
    assert plan(half.without((3, 5, 7))) == ()
    with pytest.raises(ValueError, match="covered"):
        half.without((1,))
    assert plan(Record().put(actor=1, counter=1, time=1, write_id=W1, value=None)) is None


# ---- what does not


def test_nothing_goes_while_a_member_is_down_and_status_says_so() -> None:
    cluster = Cluster(5)
    put_and_delete(cluster)
    away = outsiders(cluster, b"k")[0]
    cluster.kill(away)
    run(cluster, 10_000)
    first = holders(cluster, b"k")[0]
    assert stored(first, b"k") is not None
    assert waits(first) == (1, f"{away.name} cannot be reached")
    assert first.node.replica.round == 0, "no number is used up in vain"
    status = pipe(first).ask(Op.STATUS, None)[2]
    assert status["tombstones"] == {"waiting": 1, "reason": f"{away.name} cannot be reached"}
    cluster.restart(away)
    cluster.run_until(lambda: nowhere(cluster))


@pytest.mark.usefixtures("no_repair")
def test_nothing_goes_while_an_outsider_holds_the_old_value() -> None:
    """The canary reap-targets-only: it would bring the value back."""
    cluster = Cluster(5)
    put_and_delete(cluster)
    other = outsiders(cluster, b"k")[0]
    cluster.run_until(lambda: other.node.replica.mode(_partition(cluster)) == MODE_NONE)
    old = Record().put(actor=7, counter=1, time=5, write_id=W1, value=b"old")
    other.node.replica.merge(KEY, old, cluster.members[0].node.own.id)
    run(cluster, 8000)
    first = holders(cluster, b"k")[0]
    assert stored(first, b"k") is not None
    assert waits(first) == (1, f"{other.name} keeps a hint")
    other.node.replica.settle_hint(cluster.members[0].node.own.id, KEY, old.digest())
    cluster.run_until(lambda: nowhere(cluster), limit_ms=40_000)


def test_what_counts_for_nothing_is_deleted_on_the_way() -> None:
    cluster = Cluster(5)
    put_and_delete(cluster)
    other = outsiders(cluster, b"k")[0]
    cluster.run_until(lambda: other.node.replica.mode(_partition(cluster)) == MODE_NONE)
    other.store.put(KEY, bytes(25) + Record().put(actor=7, counter=1, time=5, write_id=W1, value=b"old").encode())
    cluster.run_until(lambda: nowhere(cluster), limit_ms=5000)


@pytest.mark.usefixtures("no_repair")
def test_nothing_goes_while_a_hint_waits_at_a_replica() -> None:
    cluster = Cluster(3)
    put_and_delete(cluster)
    first, second, third = holders(cluster, b"k")
    assert second.node.replica.add_hint(KEY, third.node.own.id)
    run(cluster, 8000)
    assert stored(first, b"k") is not None
    assert waits(first) == (1, f"{second.name} keeps a hint")


@pytest.mark.usefixtures("no_repair")
def test_nothing_goes_while_a_replica_has_another_record() -> None:
    cluster = Cluster(3)
    put_and_delete(cluster)
    first, second, _ = holders(cluster, b"k")
    second.node.replica.merge(KEY, Record().put(actor=7, counter=1, time=5, write_id=W3, value=b"new"))
    run(cluster, 8000)
    assert stored(first, b"k") is not None
    assert waits(first) == (1, f"{second.name} has another record")


@pytest.mark.usefixtures("no_repair")
def test_nothing_goes_while_a_target_lacks_the_tombstone() -> None:
    cluster = Cluster(3)
    put_and_delete(cluster)
    first, second, _ = holders(cluster, b"k")
    assert second.node.replica.reap(KEY, _record(second).digest())
    run(cluster, 8000)
    assert stored(first, b"k") is not None
    assert waits(first) == (1, f"{second.name} has nothing yet")


def test_nothing_goes_while_a_request_for_the_key_is_under_way() -> None:
    cluster = Cluster(3)
    put_and_delete(cluster)
    first, second, third = holders(cluster, b"k")
    for member in (first, third):
        cluster.hold(member, second)
    pipe(second).send([Op.GET, 9, b"k", {"r": 3, "timeout": 20_000}])
    cluster.held.clear()
    assert KEY in second.node.coordinator.busy_keys(), "its answers are lost"
    run(cluster, 6000)
    assert stored(first, b"k") is not None
    assert waits(first) == (1, f"{second.name} has a request under way")
    cluster.run_until(lambda: nowhere(cluster), limit_ms=LONG_MS)


def test_nothing_goes_while_views_differ() -> None:
    cluster = Cluster(3)
    put_and_delete(cluster)
    first, second, third = holders(cluster, b"k")
    for member in (first, third):
        cluster.hold(member, second)
        cluster.hold(second, member)
    second.node.change_own(Batch(), weight=second.node.own.weight)  # a new version that nobody hears of
    run(cluster, 100)
    request = {"round": 1, "view": first.node.rounds._view(), "keys": [[KEY, _record(first).digest()]]}
    link = next(end for end in first.ends.values() if isinstance(end, Link) and end.far is second)
    answers: list[object] = []
    cluster.held.clear()
    cluster.enter(first)
    first.node.call(
        first.node.peers[second.node.own.id], Op.ROUND, [request], 3000, lambda _, error: answers.append(error)
    )
    cluster.pump(first)
    assert link.near is first
    assert getattr(answers[0], "code", None) == "view-differs"
    assert second.node.replica.round == 0


def test_a_member_at_that_number_already_does_not_agree_and_the_leader_goes_beyond() -> None:
    cluster = Cluster(3)
    put_and_delete(cluster)
    first, second, _ = holders(cluster, b"k")
    second.node.replica.raise_round(5)
    cluster.run_until(lambda: nowhere(cluster))
    assert first.node.replica.round == 6


def test_two_leaders_at_once_both_get_their_turn() -> None:
    cluster = Cluster(5)
    client = pipe(cluster.members[0])
    keys = [b"k%d" % number for number in range(60)]
    for number, key in enumerate(keys):
        context = client.ask(Op.PUT, key, b"v", None, b"%016d" % number, {"w": 3})[PUT_CONTEXT]
        assert client.ask(Op.PUT, key, None, context, b"-%015d" % number, {"w": 3})[0] == Op.WRITTEN
    leaders = {holders(cluster, key)[0].name for key in keys}
    assert len(leaders) == 5
    cluster.run_until(lambda: all(nowhere(cluster, key) for key in keys), limit_ms=LONG_MS)


# ---- late frames


def test_a_frame_delayed_past_a_reaping_is_refused_and_the_value_stays_away() -> None:
    """The canary late-frame. A read repair hangs in a clogged link meanwhile."""
    cluster = Cluster(3)
    first, second, third = holders(cluster, b"k")
    assert pipe(first).ask(Op.PUT, b"k", b"v", None, W1, {"w": 3})[0] == Op.WRITTEN
    old = _record(first)
    delete(cluster)
    late = _store_frame(b"k", old, number=first.node.replica.round)
    cluster.run_until(lambda: nowhere(cluster))
    for member in (first, second, third):
        answer = _as_peer(cluster, second if member is first else first, member, late)
        assert answer[CODE] == "stale-round"
        assert answer[4] == {"round": member.node.replica.round}
    assert nowhere(cluster)
    assert values(pipe(first).ask(Op.GET, b"k", {"r": 3})) == []


def _store_frame(key: bytes, record: Record, *, number: int) -> list[object]:
    return [Op.STORE, 1 << 40, key, None, 4, number, record]


def _as_peer(cluster: Cluster, sender: Member, to: Member, frame: list[object]) -> list[object]:
    """Send a frame over a connection of its own, as *sender* would."""
    peer = pipe_of_peer(sender, to)
    body = b"\x87" + b"".join(f.encode() if isinstance(f, Record) else dumps(f) for f in frame)
    peer.send_raw(len(body).to_bytes(4, "big") + body)
    found: list[list[object]] = []

    def there() -> bool:
        found.extend(peer.answers())
        return bool(found)

    cluster.run_until(there)
    return found[0]


def pipe_of_peer(sender: Member, to: Member):  # type: ignore[no-untyped-def]
    from tests.core.harness import Pipe

    peer = Pipe(to)
    own = sender.node.own
    peer.hello(
        role="peer",
        cluster=sender.node.facts.cluster,
        node=own.id,
        to=to.node.own.id,
        generation=own.generation,
        name=own.name,
    )
    return peer


def test_a_put_under_way_while_numbers_rise_is_sent_again_and_counted() -> None:
    cluster = Cluster(3)
    put_and_delete(cluster, b"gone")
    first, second, third = holders(cluster, b"k")
    client = pipe(first)
    number = 0
    before = first.node.replica.round
    for number in itertools.count():
        assert client.ask(Op.PUT, b"k", b"v", None, b"%016d" % number, {"w": 3, "overwrite": True})[0] == Op.WRITTEN
        cluster.step()
        if nowhere(cluster, b"gone"):
            break
    assert first.node.replica.round > before
    assert number > 10
    assert {_record(member).digest() for member in (first, second, third)} == {_record(first).digest()}


# ---- nodes that fail at each step


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("event", ["round.begun", "round.agreed", "round.reaped"])
@pytest.mark.parametrize("power", [False, True])
def test_a_crash_at_any_step_brings_nothing_back(
    monkeypatch: pytest.MonkeyPatch, who: int, event: str, power: bool
) -> None:
    """The leader, or a member, goes down at a step of a round, and comes back after a while."""
    cluster = Cluster(3)
    inside = holders(cluster, b"k")
    leader, victim = inside[0], inside[who]
    put_and_delete(cluster)
    down: list[Member] = []
    break_at(monkeypatch, victim if event == "round.reaped" else leader, event, lambda: down.append(victim))
    cluster.run_until(lambda: bool(down))
    if power:
        cluster.crash(victim)
    else:
        cluster.kill(victim)
    run(cluster, 3000)
    for member in cluster.members:
        assert member is victim or values_of(member) == set()
    cluster.restart(victim)
    cluster.settle()
    run(cluster, 5000)
    for member in inside:
        assert values_of(member) == set()
    for member in inside:
        for other in inside:
            _exchange(member, other)
    cluster.run_until(lambda: _gone_or_repaired(cluster, inside), limit_ms=LONG_MS)


def values_of(member: Member) -> set[bytes | None]:
    record = stored(member, b"k")
    return set() if record is None else {version[4] for version in record.versions} - {None}


def _exchange(source: Member, to: Member) -> None:
    """What anti-entropy does with a record that one replica has and another lacks."""
    record = source.node.replica.read(KEY)
    if record is not None and not to.node.rounds.reaped(source.node.own.id, KEY, record):
        to.node.replica.merge(KEY, record)


def _gone_or_repaired(cluster: Cluster, inside: list[Member]) -> bool:
    for member in inside:
        for other in inside:
            cluster.enter(other)
            _exchange(member, other)
    return nowhere(cluster)


@pytest.mark.usefixtures("no_repair")
def test_a_replica_that_missed_the_end_of_a_round_is_told_when_it_shows_the_tombstone() -> None:
    cluster = Cluster(3)
    put_and_delete(cluster)
    first, second, third = holders(cluster, b"k")
    tombstone = _record(third)
    cluster.run_until(lambda: nowhere(cluster))
    third.node.replica.merge(KEY, tombstone)  # as if it had not heard
    cluster.enter(second)
    assert second.node.rounds.reaped(third.node.own.id, KEY, tombstone)
    assert not second.node.rounds.reaped(third.node.own.id, KEY, records(1)[0])
    cluster.run_until(lambda: nowhere(cluster), limit_ms=500)
    answer = _as_peer(cluster, third, first, _store_frame(b"k", tombstone, number=third.node.replica.round))
    assert answer[CODE] == "reaped"
    assert nowhere(cluster)


@pytest.mark.usefixtures("no_repair")
def test_a_get_that_meets_a_replica_that_missed_the_end_repairs_no_tombstone() -> None:
    cluster = Cluster(3)
    put_and_delete(cluster)
    first, second, third = holders(cluster, b"k")
    tombstone = _record(third)
    cluster.run_until(lambda: nowhere(cluster))
    third.node.replica.merge(KEY, tombstone)
    assert values(pipe(first).ask(Op.GET, b"k", {"r": 3})) == []
    run(cluster, 300)
    assert stored(first, b"k") is stored(second, b"k") is None


def test_the_leader_repeats_the_end_of_a_round_until_all_have_heard_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(3)
    put_and_delete(cluster)
    first, second, _ = holders(cluster, b"k")
    break_at(monkeypatch, first, "round.agreed", lambda: cluster.kill(second))
    cluster.run_until(lambda: stored(first, b"k") is None)
    run(cluster, 3000)
    assert stored(second, b"k") is not None
    assert waits(first)[1] == f"{second.name} has not heard the end of the last round"
    cluster.restart(second)
    cluster.run_until(lambda: nowhere(cluster), limit_ms=5000)


class RefusingStore(MemoryStore):
    refuses = False

    def write(self, batch: Batch) -> int:
        if self.refuses:
            raise StoreError("no room")
        return super().write(batch)


def test_a_store_that_refuses_delays_a_round_and_harms_nothing() -> None:
    cluster = Cluster(3)
    put_and_delete(cluster)
    first, second, _ = holders(cluster, b"k")
    for member in (first, second):
        member.store.__class__ = RefusingStore
        assert isinstance(member.store, RefusingStore)
        member.store.refuses = True
        run(cluster, 4000)
        assert stored(first, b"k") is not None
        member.store.refuses = False
    cluster.run_until(lambda: nowhere(cluster), limit_ms=LONG_MS)


def test_an_agreement_leaves_only_after_the_flush() -> None:
    cluster = Cluster(3)
    put_and_delete(cluster)
    first, second, _ = holders(cluster, b"k")
    second.flushing = False
    run(cluster, 2000)
    assert second.node.replica.round == 1
    assert stored(first, b"k") is not None
    second.flushing = True
    cluster.run_until(lambda: nowhere(cluster))


@pytest.mark.usefixtures("no_repair")
def test_canary_reap_targets_only_leaves_the_old_value_behind() -> None:
    cluster = Cluster(5)
    put_and_delete(cluster)
    other = outsiders(cluster, b"k")[0]
    cluster.run_until(lambda: other.node.replica.mode(_partition(cluster)) == MODE_NONE)
    old = Record().put(actor=7, counter=1, time=5, write_id=W1, value=b"old")
    other.node.replica.merge(KEY, old, holders(cluster, b"k")[1].node.own.id)
    holders(cluster, b"k")[0].node.plants = frozenset({"reap-targets-only"})
    cluster.run_until(lambda: all(stored(member, b"k") is None for member in holders(cluster, b"k")), limit_ms=3000)
    assert values_of(other) == {b"old"}


def test_canary_confirm_before_flush_answers_at_once() -> None:
    cluster = Cluster(3)
    put_and_delete(cluster)
    first, second, _ = holders(cluster, b"k")
    second.node.plants = frozenset({"confirm-before-flush"})
    second.flushing = False
    cluster.run_until(lambda: stored(first, b"k") is None, limit_ms=3000)


@pytest.mark.parametrize(
    "request_",
    [
        None,
        {},
        {"round": -1, "view": 1, "keys": []},
        {"round": 2**63, "view": 1, "keys": []},
        {"round": 1, "view": None, "keys": []},
        {"round": 1, "view": 1, "keys": [[b"short", 1]]},
        {"round": 1, "view": 1, "keys": [[KEY]]},
        {"round": 1, "view": 1, "keys": [[KEY, 1]] * 257},
    ],
)
def test_malformed_rounds_are_refused(request_: object) -> None:
    cluster = Cluster(2, replicas=2)
    first, second = cluster.members
    peer = pipe_of_peer(first, second)
    assert peer.ask(Op.ROUND, request_)[CODE] == "bad-request"
    assert second.node.replica.round == 0


@pytest.mark.parametrize("rows", [[[KEY, 1]], [[KEY, 1, [None]]], [[KEY, 1, 3]], [[b"k", 1, None]], [3]])
def test_malformed_reaps_are_refused(rows: list[object]) -> None:
    cluster = Cluster(2, replicas=2)
    assert pipe_of_peer(*cluster.members).ask(Op.REAP, {"keys": rows})[CODE] == "bad-request"
