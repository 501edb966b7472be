"""How seats are counted, and what a view says of partitions."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynafast._ext.view import Peer, View, distinct_seats

ANSWERS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 255)), max_size=7)


def most_seats(answers: list[tuple[int, int]]) -> int:
    """The largest matching of hosts with seats, by trying everything."""
    masks: dict[int, int] = {}
    for host, mask in answers:
        masks[host] = masks.get(host, 0) | mask

    def best(hosts: list[int], free: int) -> int:
        if not hosts:
            return 0
        seats = [seat for seat in range(8) if masks[hosts[0]] & free & 1 << seat]
        return max([best(hosts[1:], free), *(1 + best(hosts[1:], free & ~(1 << seat)) for seat in seats)])

    return best(sorted(masks), 0xFF)


@given(answers=ANSWERS)
def test_distinct_seats_is_the_largest_matching_of_hosts_with_seats(answers: list[tuple[int, int]]) -> None:
    assert distinct_seats(answers) == most_seats(answers)


@given(answers=ANSWERS, more=ANSWERS)
def test_more_answers_never_count_for_less_and_their_order_does_not_matter(
    answers: list[tuple[int, int]], more: list[tuple[int, int]]
) -> None:
    assert distinct_seats(answers) <= distinct_seats([*answers, *more])
    assert distinct_seats([*answers, *more]) == distinct_seats([*reversed(more), *answers])
    assert distinct_seats([*answers, *answers]) == distinct_seats(answers)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], 0),
        ([(1, 0b001)], 1),
        ([(1, 0b111)], 1),  # a host that serves all seats is one host
        ([(1, 0b001), (1, 0b010)], 1),  # so are two nodes of one machine
        ([(1, 0b001), (2, 0b001)], 1),  # one seat told by two: a hand-over
        ([(1, 0b011), (2, 0b001)], 2),  # the first gives way to the second
        ([(1, 0b001), (2, 0b011), (3, 0b010)], 2),
        ([(1, 0b001), (2, 0b011), (3, 0b110)], 3),
        ([(1, 0), (2, 0)], 0),  # nodes without a seat
        ([(host, 0xFF) for host in range(10)], 8),
    ],
)
def test_distinct_seats_of_answers_as_they_come(answers: list[tuple[int, int]], expected: int) -> None:
    assert distinct_seats(answers) == expected


def test_two_quorums_of_a_matching_meet_in_a_seat() -> None:
    """W + R > N: whatever the hand-overs, a write of W distinct seats and a read of R share one."""
    rng = random.Random("quorums")
    for _ in range(300):
        row = [(host, rng.randrange(1, 8)) for host in range(rng.randint(2, 5))]
        for writers, readers in itertools.product(itertools.combinations(row, 2), repeat=2):
            if distinct_seats(writers) == distinct_seats(readers) == 2:
                union = {seat for _, mask in writers for seat in range(3) if mask >> seat & 1}
                assert union & {seat for _, mask in readers for seat in range(3) if mask >> seat & 1}


def test_no_more_answers_than_fit_are_counted() -> None:
    assert distinct_seats([(host, 1) for host in range(64)]) == 1
    with pytest.raises(ValueError, match="64"):
        distinct_seats([(host, 1) for host in range(65)])


def peer(number: int, *, me: bool = False) -> Peer:
    return Peer(id=number.to_bytes(8, "big"), name=f"n{number}", host=number, me=me)


def test_a_peer_knows_its_number_and_whether_it_can_be_asked() -> None:
    other = peer(258)
    assert (other.id, other.number, other.name, other.me) == (b"\0" * 6 + b"\1\2", 258, "n258", False)
    assert not other.usable, "there is no link"
    assert peer(1, me=True).usable
    with pytest.raises(ValueError, match="8 bytes"):
        Peer(id=b"short", name="n", host=1)


def test_a_row_is_what_was_set_last() -> None:
    view = View(partitions=8, replicas=3)
    me, second, third = peer(1, me=True), peer(2), peer(3)
    view.set_row(5, [(second, 0b001), (me, 0b110)], [third], [second, me, third])
    assert view.seats(5) == [(second, 0b001), (me, 0b110)]
    assert (view.holders[5], view.extras[5], view.orders[5]) == ((second, me), (third,), (second, me, third))
    assert view.own == bytearray([0, 0, 0, 0, 0, 0b110, 0, 0])
    row = view.holders[5]
    view.set_row(5, [(third, 0b100)], [], [third])
    assert view.seats(5) == [(third, 0b100)]
    assert view.own == bytearray(8), "seats that are gone are not left over"
    assert row == (second, me), "a request keeps the row it began with"
    assert view.seats(4) == []


def test_peers_and_quorum_hosts_are_what_was_set_last() -> None:
    view = View(partitions=1, replicas=2)
    assert (view.peers, view.most, view.replicas) == ((), 1, 2)
    view.set_peers([peer(1), peer(2)], 2)
    assert ([it.number for it in view.peers], view.most) == ([1, 2], 2)


@pytest.mark.parametrize("partitions", [0, -1, 3, 12])
def test_the_number_of_partitions_is_a_power_of_two(partitions: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        View(partitions=partitions, replicas=3)


def test_rows_out_of_range_and_too_many_holders_are_refused() -> None:
    view = View(partitions=2, replicas=3)
    for partition in (-1, 2):
        with pytest.raises(IndexError):
            view.set_row(partition, [], [], [])
    with pytest.raises(ValueError, match="more than 8"):
        view.set_row(0, [(peer(number), 1) for number in range(9)], [], [])
    assert view.holders == [(), ()]
