"""The cache of hot records: it answers what was put last or nothing, stays within its bound, and survives a scan."""

import random

from hypothesis import given
from hypothesis import strategies as st

from dynafast._ext.clock import Record
from dynafast._ext.hot import HotRecords

CAPACITY = 64 * 1024


def key(number: int) -> bytes:
    return random.Random(number).randbytes(8) + b"key-%d" % number


def record(counter: int, size: int = 10) -> Record:
    return Record([(1, counter, 0)], [(1, counter, 0, bytes(16), b"x" * size)])


@given(st.lists(st.tuples(st.sampled_from("gpd"), st.integers(0, 120), st.integers(0, 3000))))
def test_it_answers_what_was_put_last_or_nothing_and_stays_within_its_bound(steps: list[tuple[str, int, int]]) -> None:
    hot, oracle = HotRecords(CAPACITY), {}
    for number, (step, which, size) in enumerate(steps, 1):
        name = key(which)
        if step == "p":
            oracle[name] = record(number, size)
            hot.put(name, oracle[name])
        elif step == "d":
            oracle.pop(name, None)
            hot.drop(name)
        found = hot.get(name)
        assert found is None or found is oracle[name]
        assert hot.size <= CAPACITY
    assert len(hot) <= len(oracle)


def test_what_fits_is_all_kept() -> None:
    hot = HotRecords(CAPACITY)
    for number in range(40):
        hot.put(key(number), record(1))
    assert all(hot.get(key(number)) is not None for number in range(40))
    assert len(hot) == 40


def test_a_scan_does_not_push_out_what_is_used() -> None:
    hot = HotRecords(CAPACITY)
    for number in range(30):
        hot.put(key(number), record(1))
    for number in range(30):
        hot.get(key(number))
    for number in range(1000, 21_000):
        hot.put(key(number), record(1))
    assert sum(hot.get(key(number)) is not None for number in range(30)) == 30


def test_skewed_reads_mostly_hit() -> None:
    """Zipf-like reads over 100 times as many keys as fit: the share of hits is near that of the best fixed set."""
    rng = random.Random(5)
    hot, hits = HotRecords(CAPACITY), 0
    keys = [key(number) for number in range(8000)]
    weights = [1 / (rank + 1) for rank in range(len(keys))]
    reads = rng.choices(range(len(keys)), weights, k=40_000)
    for number in reads:
        if hot.get(keys[number]) is None:
            hot.put(keys[number], record(1))
        else:
            hits += 1
    fits = len(hot)
    best = sum(number < fits for number in reads)
    assert hits > 0.8 * best


def test_a_record_too_large_is_not_kept_and_its_older_self_goes() -> None:
    hot = HotRecords(CAPACITY)
    hot.put(key(1), record(1))
    hot.put(key(1), record(2, CAPACITY))
    assert hot.get(key(1)) is None
    assert hot.size == 0


def test_without_room_nothing_is_kept() -> None:
    hot = HotRecords(0)
    hot.put(key(1), record(1))
    assert hot.get(key(1)) is None
    assert len(hot) == 0
