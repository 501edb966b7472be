"""Entries merge to the same in any order; seats are unique through joins; a join is refused when it must be."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynafast.core.membership import Entry, Membership
from dynafast.core.seats import Seat, SeatMap, pack, unpack
from dynafast.errors import PeerProtocolError, StoreBusyError
from dynafast.protocol import Op, Status
from dynafast.storage.interface import Batch
from tests.core.harness import Cluster, Member, Pipe

entries = st.builds(
    Entry,
    id=st.sampled_from([b"aaaaaaaa", b"bbbbbbbb", b"cccccccc"]),
    name=st.sampled_from(["x", "y"]),
    address=st.sampled_from(["h:1", "h:2"]),
    weight=st.integers(1, 2),
    zone=st.just("z"),
    host=st.just("h"),
    status=st.sampled_from(list(Status)),
    generation=st.integers(1, 2),
    version=st.integers(1, 2),
    seats=st.just(b""),
)


def state(*parts: list[Entry]) -> dict[bytes, Entry]:
    membership = Membership()
    for part in parts:
        membership.merge(part)
    return membership.entries


@settings(max_examples=200, deadline=None)
@given(st.lists(entries, max_size=4), st.lists(entries, max_size=4), st.lists(entries, max_size=4))
def test_merge_is_commutative_associative_and_idempotent(a: list[Entry], b: list[Entry], c: list[Entry]) -> None:
    whole = state(a, b, c)
    for order in itertools.permutations([a, b, c]):
        assert state(*order) == whole
    assert state(list(state(a, b).values()), c) == whole
    assert state(list(whole.values()), list(whole.values())) == whole


@given(st.lists(entries, max_size=6))
def test_removed_is_never_forgotten(seen: list[Entry]) -> None:
    removed = {entry.id for entry in seen if entry.status is Status.REMOVED}
    assert removed == {id for id, entry in state(seen).items() if entry.status is Status.REMOVED}


@settings(max_examples=100, deadline=None)
@given(st.lists(entries, max_size=6), st.lists(entries, max_size=6))
def test_one_exchange_of_digests_makes_two_views_equal(a: list[Entry], b: list[Entry]) -> None:
    ours, theirs = Membership(a), Membership(b)
    send, want = ours.compare(theirs.digests())
    ours_sent = [Entry.from_wire(entry.to_wire()) for entry in send]
    theirs_sent = [theirs.entries[id] for id in want]
    theirs.merge(ours_sent)
    ours.merge(theirs_sent)
    for id in ours.entries.keys() | theirs.entries.keys():
        # equal digests with different bytes cannot come from one node; those alone may stay apart
        if ours.entries[id] != theirs.entries[id]:
            assert ours.entries[id].digest == theirs.entries[id].digest or Status.REMOVED in {
                ours.entries[id].status,
                theirs.entries[id].status,
            }


def test_packed_seats_round_trip_and_foreign_ones_are_refused() -> None:
    seats = [Seat(3, 1, 7), Seat(0, 2, 1)]
    assert unpack(pack(seats), partitions=4, replicas=3) == sorted(seats)
    for partitions, replicas in ((3, 3), (4, 2)):
        with pytest.raises(PeerProtocolError):
            unpack(pack(seats), partitions=partitions, replicas=replicas)
    with pytest.raises(PeerProtocolError):
        unpack(b"12345678", partitions=4, replicas=3)


def owners(cluster: Cluster) -> dict[tuple[int, int], list[str]]:
    """Who says of itself that it serves a seat: (partition, seat) → names."""
    found: dict[tuple[int, int], list[str]] = {}
    for member in cluster.members:
        for seat in member.node.own_seats():
            found.setdefault((seat.partition, seat.seat), []).append(member.name)
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7])
def test_after_joins_every_seat_has_one_owner_and_every_target_a_seat(count: int) -> None:
    cluster = Cluster(count)
    found = owners(cluster)
    assert sorted(found) == list(itertools.product(range(16), range(3)))
    assert all(len(names) == 1 for names in found.values())
    for member in cluster.members:
        for partition, targets in member.node.own_targets().items():
            assert member.node.own.id in targets
            assert member.node.seats.seats_of(member.node.own.id, partition)


def test_a_seat_never_has_two_owners_while_nodes_join_and_crash() -> None:
    cluster = Cluster(2)
    for number in range(2, 6):
        joiner = cluster.add(f"n{number}")
        for turn in range(60):
            cluster.step()
            assert all(len(names) == 1 for names in owners(cluster).values())
            if turn == 7 + number:
                cluster.crash(joiner)
                own = joiner.node.own
                cluster.restart(joiner)
                assert joiner.node.own.id == own.id
    cluster.settle()
    assert sorted(owners(cluster)) == list(itertools.product(range(16), range(3)))


def test_an_owner_that_crashes_after_giving_does_not_take_the_seat_back() -> None:
    cluster = Cluster(1)
    cluster.add("n1")
    founder = cluster.members[0]
    cluster.run_until(lambda: len(founder.node.own_seats()) < 48)
    cluster.crash(founder)
    cluster.restart(founder)
    cluster.settle()
    assert all(len(names) == 1 for names in owners(cluster).values())


def test_a_joiner_whose_store_is_busy_when_its_seats_come_takes_them_later(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(1)
    joiner = cluster.add("n1")
    write = joiner.store.write
    refused: list[Batch] = []

    def busy(batch: Batch) -> int:
        if len(refused) < 3 and any(joiner.node.own.id in key for _, key, _ in batch.ops):  # its own entry
            refused.append(batch)
            raise StoreBusyError("stall")
        return write(batch)

    monkeypatch.setattr(joiner.store, "write", busy)
    cluster.settle()
    assert len(refused) == 3
    assert ("store.refused", {"what": "seats", "error": "stall"}) in joiner.events


def test_seat_map_prefers_the_later_hand_over_then_the_smaller_id() -> None:
    def entry(id: bytes, seats: list[Seat]) -> Entry:
        return Entry(
            id=id, name="n", address="a", weight=1, zone="z", host="h", status=Status.UP, generation=1, version=1,
            seats=pack(seats),
        )  # fmt: skip

    first, second = (
        entry(b"aaaaaaaa", [Seat(0, 0, 1), Seat(0, 1, 5)]),
        entry(b"bbbbbbbb", [Seat(0, 0, 2), Seat(0, 1, 5)]),
    )
    for order in ([first, second], [second, first]):
        seats = SeatMap(order, partitions=1, replicas=3)
        assert seats.row(0, [b"bbbbbbbb", b"aaaaaaaa"]) == [(b"bbbbbbbb", 1), (b"aaaaaaaa", 2)]


# ---- joins over the wire


def knock(member: Member, **fields: Any) -> list[Any]:
    """Ask to join as a new node would."""
    pipe = Pipe(member)
    node = fields.get("node", b"newnode1")
    pipe.hello(role="peer", node=node, cluster=None, to=None, generation=1, name="new")
    return pipe.ask(Op.JOIN, {"node": node, "name": "new", "hash": "xxh3-64", **fields})


def test_join_tells_the_facts_and_the_members() -> None:
    cluster = Cluster(3)
    answer = knock(cluster.members[1])
    assert answer[0] == Op.OK
    assert {name: answer[2][name] for name in ("partitions", "replicas", "r", "w")} == {
        "partitions": 16,
        "replicas": 3,
        "r": 2,
        "w": 2,
    }
    assert sorted(entry["name"] for entry in answer[2]["entries"]) == ["n0", "n1", "n2"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": "n2"}, "name-taken"),
        ({"partitions": 32}, "config-mismatch"),
        ({"replicas": 2}, "config-mismatch"),
        ({"r": 1}, "config-mismatch"),
        ({"w": 3}, "config-mismatch"),
        ({"hash": "md5"}, "config-mismatch"),
        ({"partitions": 16, "replicas": 3, "r": 2, "w": 2}, None),
    ],
)
def test_join_is_refused_when_it_does_not_fit(fields: dict[str, Any], code: str | None) -> None:
    answer = knock(Cluster(3).members[0], **fields)
    assert (answer[2] if answer[0] == Op.ERROR else None) == code


def test_two_joiners_of_one_name_are_not_both_admitted() -> None:
    cluster = Cluster(3)
    assert knock(cluster.members[0])[0] == Op.OK
    assert knock(cluster.members[0], node=b"newnode2")[2] == "name-taken"
    assert knock(cluster.members[0])[0] == Op.OK, "the same node may ask again"


def test_an_older_generation_of_a_known_node_is_refused() -> None:
    """A folder that was copied back must not speak for the node that ran on."""
    cluster = Cluster(3)
    other = cluster.members[1].node.own
    pipe = Pipe(cluster.members[0])
    answer = pipe.hello(
        role="peer", node=other.id, cluster=cluster.facts.cluster, to=None, generation=other.generation - 1
    )
    assert answer[2] == "stale-generation"


def test_a_silent_peer_is_taken_for_unreachable_and_found_again() -> None:
    cluster = Cluster(3)
    one, two, three = cluster.members
    cluster.hold(two, one)
    cluster.run_until(lambda: len(one.node.linked_peers()) == 1, limit_ms=10_000)
    assert len(three.node.linked_peers()) == 2, "that is local: nobody else is told"
    cluster.release(two, one)
    cluster.settle()
