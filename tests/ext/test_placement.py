"""Spreading columns over rows: the bounds hold whenever they can, and nothing but identity decides."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynafast._ext.placement import Ranks, arrange, spread
from tests.ext.leaks import assert_no_leak


def fill(
    demand: bytes, least: list[int], most: list[int], *, allowed: bytes | None = None, seed: int = 1
) -> tuple[list[set[int]], list[int]]:
    """Return each row's columns and each column's count; every column's share is the middle of its bounds."""
    columns = len(least)
    ranks = [Ranks(seed * 1000 + i, len(demand)) for i in range(columns)]
    shares = [min(len(demand), (low + high) / 2) for low, high in zip(least, most, strict=True)]
    cells = spread(demand, ranks=ranks, shares=shares, least=least, most=most, allowed=allowed)
    rows = [{j for j in range(columns) if cells[i * columns + j]} for i in range(len(demand))]
    return rows, [sum(cells[j::columns]) for j in range(columns)]


@st.composite
def feasible(draw: st.DrawFn) -> tuple[bytes, list[int], list[int], bytes]:
    """Draw a choice first, then bounds and permissions that it meets."""
    rows, columns = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    chosen = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    extra = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    counts = [sum(chosen[j::columns]) for j in range(columns)]
    least = [draw(st.integers(0, count)) for count in counts]
    most = [draw(st.integers(count, rows)) for count in counts]
    demand = bytes(sum(chosen[i * columns : (i + 1) * columns]) for i in range(rows))
    return demand, least, most, bytes(a or b for a, b in zip(chosen, extra, strict=True))


@given(feasible(), st.integers(0, 2**40))
def test_spread_meets_every_bound_that_can_be_met(case: tuple[bytes, list[int], list[int], bytes], seed: int) -> None:
    demand, least, most, allowed = case
    columns = len(least)
    rows, counts = fill(demand, least, most, allowed=allowed, seed=seed)
    assert [len(row) for row in rows] == list(demand)
    assert all(allowed[i * columns + j] for i, row in enumerate(rows) for j in row)
    assert all(low <= count <= high for low, count, high in zip(least, counts, most, strict=True))


@pytest.mark.parametrize(
    ("demand", "least", "most", "counts"),
    [
        (b"\1\1\1\1", [0, 0], [4, 0], [4, 0]),  # a column may be shut
        (b"\2\2\2\2", [4, 0, 0], [4, 4, 0], [4, 4, 0]),
        (b"\0\1\0\1", [1, 1], [1, 1], [1, 1]),  # rows that want nothing
        (b"\0\0", [0], [2], [0]),
        (b"\3\3\3\3", [3, 3, 3, 3], [3, 3, 3, 3], [3, 3, 3, 3]),
        (b"\1", [1], [1], [1]),
    ],
)
def test_spread_with_tight_bounds(demand: bytes, least: list[int], most: list[int], counts: list[int]) -> None:
    assert fill(demand, least, most)[1] == counts


def test_spread_gives_heavy_columns_their_share_without_correction() -> None:
    """Shares as wide as the rows bind nothing: Pareto scores alone bring 10 columns within 6 % of their shares."""
    rows, shares = 4096, [2457.6, *[1092.27] * 9]
    cells = spread(
        b"\3" * rows, ranks=[Ranks(i, rows) for i in range(10)], shares=shares, least=[0] * 10, most=[rows] * 10
    )
    for column, share in enumerate(shares):
        assert sum(cells[column::10]) == pytest.approx(share, rel=0.06)


def test_spread_without_its_last_column_moves_only_that_column_s_rows() -> None:
    """With equal shares and wide bounds a column that comes takes rows over, and no other two exchange any."""
    rows = 512
    ranks = [Ranks(seed, rows) for seed in range(7)]

    def columns_of(count: int) -> list[bytes]:
        cells = spread(
            b"\3" * rows, ranks=ranks[:count], shares=[3 * rows / count] * count, least=[0] * count, most=[rows] * count
        )
        return [cells[column::count] for column in range(count)]

    for before, after in zip(columns_of(6), columns_of(7), strict=False):
        assert all(old or not new for old, new in zip(before, after, strict=True))


def test_full_column_keeps_the_rows_it_ranks_best() -> None:
    """All rows want the first column, which keeps one more for every one its bound grows: its ranks, one by one."""
    rows = 64
    orders = []
    for seed in (5, 6):
        ranks = [Ranks(seed, rows), Ranks(seed + 1, rows)]
        kept: list[set[int]] = []
        for most in range(rows + 1):
            cells = spread(b"\1" * rows, ranks=ranks, shares=[rows, 0], least=[0, 0], most=[most, rows])
            kept.append({row for row in range(rows) if cells[2 * row]})
        assert [len(some) for some in kept] == list(range(rows + 1))
        orders.append([(more - fewer).pop() for fewer, more in pairwise(kept)])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(rows))
    assert orders[0] != orders[1]


def test_joined_group_is_liked_as_its_best_part() -> None:
    """A group of two takes, against a third, the rows that its parts would take, mostly."""
    rows = 2048
    parts = [Ranks(seed, rows) for seed in (1, 2, 3)]
    group = Ranks.joined(parts[:2], [rows / 3, rows / 3], place=0)
    single = spread(b"\1" * rows, ranks=parts, shares=[rows / 3] * 3, least=[0] * 3, most=[rows] * 3)
    paired = spread(
        b"\1" * rows, ranks=[group, parts[2]], shares=[2 * rows / 3, rows / 3], least=[0] * 2, most=[rows] * 2
    )
    agree = sum(single[3 * row + 2] == paired[2 * row + 1] for row in range(rows))
    assert agree > 0.9 * rows


def test_joined_of_one_part_is_that_part() -> None:
    part = Ranks(9, 16)
    assert Ranks.joined([part], [3.0], place=0) is part


def test_arrange_puts_first_then_chosen_then_unseen_zones_then_the_rest() -> None:
    """Five columns, two on one host: the first, another chosen one, a zone not seen yet, then what is left."""
    rows, columns = 32, 5
    ranks = [Ranks(seed, rows) for seed in range(columns)]
    hosts, zones = [0, 1, 2, 3, 3], [0, 0, 1, 0, 0]
    first = bytes([0, 1, 0, 0, 0]) * rows
    chosen = bytes([1, 1, 0, 0, 0]) * rows
    lists = arrange(first, chosen, ranks=ranks, shares=[1.0] * columns, hosts=hosts, zones=zones)
    assert {line[:3] for line in lists} == {(1, 0, 2)}
    assert {line[3:] for line in lists} == {(3,), (4,)}  # one node stands for the host, now this, now that


@pytest.mark.parametrize(
    "arguments",
    [
        {"demand": b""},
        {"demand": b"\1\1\1"},
        {"demand": b"\3\3"},  # two columns
        {"shares": [1.0]},
        {"shares": [1.0, 3.0]},
        {"shares": [-1.0, 1.0]},
        {"least": [0]},
        {"most": [0, 1, 2]},
        {"allowed": b"\1\1\1"},
        {"allowed": b"\0\0\1\1"},  # the first row may have nothing
        {"ranks": []},
        {"ranks": [Ranks(1, 2), Ranks(1, 3)]},
    ],
)
def test_spread_with_arguments_that_do_not_fit_is_refused(arguments: dict[str, object]) -> None:
    good: dict[str, object] = {
        "demand": b"\1\1",
        "ranks": [Ranks(1, 2), Ranks(2, 2)],
        "shares": [1.0, 1.0],
        "least": [0, 0],
        "most": [2, 2],
    }
    demand = arguments.get("demand", good["demand"])
    rest = {name: value for name, value in {**good, **arguments}.items() if name != "demand"}
    with pytest.raises(ValueError, match=r"row|column|need|allowed"):
        spread(demand, **rest)  # type: ignore[arg-type]


def test_other_functions_with_arguments_that_do_not_fit_are_refused() -> None:
    ranks = [Ranks(1, 2), Ranks(2, 2)]
    with pytest.raises(ValueError, match="rows must be"):
        Ranks(1, 0)
    with pytest.raises(ValueError, match="place must be"):
        Ranks.joined(ranks, [1.0, 1.0], place=2)
    with pytest.raises(ValueError, match="column 1"):
        arrange(bytes(4), bytes(4), ranks=ranks, shares=[1.0, 1.0], hosts=[0, 2], zones=[0, 0])
    with pytest.raises(ValueError, match=r"2 \* 2"):
        arrange(bytes(3), bytes(4), ranks=ranks, shares=[1.0, 1.0], hosts=[0, 1], zones=[0, 0])


def test_spreading_leaks_nothing() -> None:
    """Counted by cells: 4096 of them in one turn."""

    def turn(i: int) -> None:
        ranks = [Ranks(i + j, 512) for j in range(8)]
        cells = spread(b"\3" * 512, ranks=ranks, shares=[192.0] * 8, least=[190] * 8, most=[194] * 8)
        firsts = spread(b"\1" * 512, ranks=ranks, shares=[64.0] * 8, least=[64] * 8, most=[64] * 8, allowed=cells)
        arrange(firsts, cells, ranks=ranks, shares=[192.0] * 8, hosts=range(8), zones=[0] * 8)
        Ranks.joined(ranks, [192.0] * 8, place=1)

    assert_no_leak(turn, per_turn=4096)
