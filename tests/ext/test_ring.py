"""The ring: lookup on every edge, the clockwise walk, and what the door refuses."""

import random
from bisect import bisect_left
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynafast._ext.ring import Ring, equal_tokens
from tests.ext.leaks import assert_no_leak
from tests.oracle import ring as oracle

TOP = 2**64 - 1
A, B, C, D, E, F = range(6)


def rows_for(tokens: Sequence[int]) -> list[tuple[int, ...]]:
    """Return a row per token that names it: its index."""
    return [(index,) for index in range(len(tokens))]


def probes_of(tokens: Sequence[int]) -> list[int]:
    """Return both ends, and the positions below, on and above each token."""
    near = {0, TOP, *(token + step for token in tokens for step in (-1, 0, 1))}
    return sorted(position for position in near if 0 <= position <= TOP)


@pytest.mark.parametrize(
    ("position", "index"),
    [
        (0, 0),  # the first token owns everything up to itself ...
        (9, 0),
        (10, 0),  # ... and itself
        (11, 1),  # one above belongs to the next
        (19, 1),
        (20, 1),
        (21, 2),
        (2**63, 2),
        (TOP - 1, 2),
        (TOP, 0),  # above the last token: the ring wraps
    ],
)
def test_find_on_each_edge_gives_the_token_clockwise(position: int, index: int) -> None:
    ring = Ring([10, 20, TOP - 1], [(7,), (8, 9), (9, 7, 8)])
    assert ring.find(position) == index
    assert ring.preference(position) == ring.at(index) == [(7,), (8, 9), (9, 7, 8)][index]


@pytest.mark.parametrize("tokens", [[0], [TOP], [0, TOP], [5], list(range(40)), [TOP - i for i in range(39, -1, -1)]])
def test_find_with_tokens_at_the_ends_or_in_a_heap_equals_the_scan(tokens: list[int]) -> None:
    """Tokens at 0 and at the top, one alone, and many within one bucket of the guide."""
    ring = Ring(tokens, rows_for(tokens))
    assert {p: ring.find(p) for p in probes_of(tokens)} == {p: oracle.find(tokens, p) for p in probes_of(tokens)}


@given(st.sets(st.integers(0, TOP) | st.integers(0, 300), min_size=1, max_size=60), st.integers(0, TOP))
def test_find_agrees_with_the_scan_for_any_tokens(chosen: set[int], position: int) -> None:
    tokens = sorted(chosen)
    ring = Ring(tokens, rows_for(tokens))
    for probe in [*probes_of(tokens), position]:
        assert ring.find(probe) == oracle.find(tokens, probe)
        assert ring.preference(probe) == (oracle.find(tokens, probe),)
    assert ring.count == len(tokens)


@pytest.mark.parametrize("partitions", [1, 2, 4, 8, 1024, 65536])
def test_equal_tokens_end_the_partitions_that_shifting_gives(partitions: int) -> None:
    """Partition p of a position is its top bits; token p is the last position of partition p."""
    tokens = equal_tokens(partitions)
    ring = Ring(tokens, [(0,)] * partitions)
    rng = random.Random(partitions)
    some = rng.sample(range(partitions), min(partitions, 50))
    for position in [*probes_of([tokens[i] for i in some]), *(rng.getrandbits(64) for _ in range(50))]:
        assert ring.find(position) == oracle.equal_partition(position, partitions)
    assert len(tokens) == partitions
    assert tokens[-1] == TOP


@pytest.mark.parametrize("partitions", [0, -1, 3, 1023, 131_072])
def test_equal_tokens_of_no_power_of_two_is_refused(partitions: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        equal_tokens(partitions)


@pytest.mark.parametrize(
    ("owners", "hosts", "zones", "replicas", "row"),
    [
        ([A, B, C], "abc", "xxx", 3, [A, B, C]),
        ([A, A, A, B], "ab", "xx", 2, [A, B]),  # further tokens of a node in the list are passed over
        ([A, B, C], "aab", "xxx", 3, [A, C]),  # B is on A's host: its first node on the way stands for a host
        ([A, B, C, D], "abcd", "xxyz", 3, [A, C, D, B]),  # B waits: A is in its zone, and there are unseen zones
        ([A, B, C, D], "abcd", "xxyz", 2, [A, C, B, D]),  # both places are taken: the rest is clockwise again
        ([A, B, C, D], "abcd", "xxxy", 3, [A, D, B, C]),  # no unseen zone left: the hosts skipped earlier
        ([A, B, C, D], "abcd", "xyzx", 1, [A, B, C, D]),
        ([A, B, C], "abc", "xyx", 8, [A, B, C]),  # fewer hosts than replicas
        ([A, D, B, C], "abca", "xyxz", 2, [A, B, C]),  # D is in a zone of its own, but on A's host
        ([F], "abcdef", "xxxxxx", 3, [F]),  # nodes without a token are in no list
    ],
)
def test_walk_from_the_first_token(owners: list[int], hosts: str, zones: str, replicas: int, row: list[int]) -> None:
    """Distinct hosts; distinct zones for the first places while some are unseen; then who was passed over."""
    host_labels, zone_labels = [ord(c) for c in hosts], [ord(c) for c in zones]
    tokens = list(range(len(owners)))
    ring = Ring.walk(tokens, owners, hosts=host_labels, zones=zone_labels, replicas=replicas)
    assert list(ring.at(0)) == row


def test_walk_wraps_around_the_end() -> None:
    ring = Ring.walk([1, 2, 3], [A, B, C], hosts=[0, 1, 2], zones=[0, 0, 0], replicas=2)
    assert [ring.at(i) for i in range(3)] == [(A, B, C), (B, C, A), (C, A, B)]


@st.composite
def circles(draw: st.DrawFn) -> tuple[list[int], list[int], list[int], int]:
    nodes = draw(st.integers(1, 8))
    owners = draw(st.lists(st.integers(0, nodes - 1), min_size=1, max_size=30))
    hosts = draw(st.lists(st.integers(0, nodes), min_size=nodes, max_size=nodes))
    zones = draw(st.lists(st.integers(-2, 2), min_size=nodes, max_size=nodes))
    return owners, hosts, zones, draw(st.integers(1, 6))


@given(circles())
def test_walk_agrees_with_the_oracle_from_every_token(circle: tuple[list[int], list[int], list[int], int]) -> None:
    owners, hosts, zones, replicas = circle
    tokens = [7 * i for i in range(len(owners))]
    ring = Ring.walk(tokens, owners, hosts=hosts, zones=zones, replicas=replicas)
    for start in range(len(owners)):
        row = oracle.walk(owners, start, hosts=hosts, zones=zones, replicas=replicas)
        assert list(ring.at(start)) == row
        assert {hosts[node] for node in row} == {hosts[node] for node in owners}


@pytest.mark.parametrize(
    ("tokens", "rows", "error"),
    [
        ([], [], ValueError),
        ([1, 2], [(0,)], ValueError),
        ([2, 1], [(0,), (0,)], ValueError),
        ([1, 1], [(0,), (0,)], ValueError),  # strictly: a position has one owner
        ([1], [()], ValueError),
        ([1], [(3, 4, 3)], ValueError),
        ([-1], [(0,)], OverflowError),
        ([2**64], [(0,)], OverflowError),
        ([1], [(-1,)], OverflowError),
        ([1], [(0xFFFF,)], OverflowError),  # says "none" in tables
        ([1], [(0x10000,)], OverflowError),
        (["1"], [(0,)], TypeError),
    ],
)
def test_ring_of_bad_tokens_or_rows_is_refused(tokens: list[int], rows: list[tuple[int, ...]], error: type) -> None:
    with pytest.raises(error):
        Ring(tokens, rows)


@pytest.mark.parametrize(
    ("owners", "hosts", "zones", "replicas"),
    [
        ([A, B], [0], [0], 1),  # B has no host
        ([A, -1], [0], [0], 1),
        ([A, A], [0, 1], [0], 1),
        ([A, A], [0], [0], 0),
        ([A], [0], [0], 1),  # two tokens, one owner
    ],
)
def test_walk_with_arguments_that_do_not_fit_is_refused(
    owners: list[int], hosts: list[int], zones: list[int], replicas: int
) -> None:
    with pytest.raises(ValueError, match=r"owner|need as many|replicas"):
        Ring.walk([1, 2], owners, hosts=hosts, zones=zones, replicas=replicas)


@pytest.mark.parametrize("position", [-1, 2**64])
def test_position_beyond_64_bits_is_refused(position: int) -> None:
    ring = Ring([1], [(0,)])
    with pytest.raises(OverflowError):
        ring.find(position)
    with pytest.raises(OverflowError):
        ring.preference(position)


@pytest.mark.parametrize("index", [-1, 3])
def test_at_beyond_the_tokens_is_refused(index: int) -> None:
    with pytest.raises(IndexError, match="ring of 3"):
        Ring([1, 2, 3], [(0,)] * 3).at(index)


def test_ring_does_not_change_with_the_lists_it_was_made_of() -> None:
    tokens, rows = [10, 20], [[0, 1], [1, 0]]
    ring = Ring(tokens, rows)
    tokens[0], rows[0][0] = 15, 1
    rows.clear()
    assert (ring.find(11), ring.preference(10), ring.count) == (1, (0, 1), 2)


def test_lookups_leak_nothing() -> None:
    ring = Ring(equal_tokens(64), [(0, 1, 2)] * 64)
    assert_no_leak(lambda i: ring.preference(i * 0x9E3779B97F4A7C15 % 2**64), per_turn=1)


def test_making_rings_leaks_nothing() -> None:
    """Counted by places in lists; refused ones, half made, too."""
    tokens, owners = equal_tokens(64), [i % 5 for i in range(64)]

    def turn(i: int) -> None:
        Ring(tokens, [(i % 9, 10, 11)] * 64)
        Ring.walk(tokens, owners, hosts=[0, 1, 2, 3, 4], zones=[0] * 5, replicas=1 + i % 3)
        with pytest.raises(ValueError, match="distinct"):
            Ring(tokens, [(i % 9, 10, 11)] * 63 + [(4, 4)])

    assert_no_leak(turn, per_turn=64 * (3 + 5 + 3))


def test_lookup_agrees_with_bisection_on_the_paper_s_random_tokens() -> None:
    rng = random.Random(30)
    tokens = sorted({rng.getrandbits(64) for _ in range(3000)})
    ring = Ring(tokens, rows_for(tokens))
    for _ in range(3000):
        position = rng.getrandbits(64)
        assert ring.find(position) == bisect_left(tokens, position) % len(tokens)
