"""Percentiles are those of the sorted durations, to three digits."""

import random
from math import ceil, floor

import pytest

from bench._ext.counts import Counts
from bench.load.histogram import LONGEST_NS, Histogram


def oracle(sorted_ns: list[int], percentile: float) -> tuple[int, int]:
    """Return the durations between which the percentile lies: its rank is hardly ever a whole number."""
    rank = len(sorted_ns) * percentile / 100
    return sorted_ns[max(floor(rank), 1) - 1], sorted_ns[max(ceil(rank), 1) - 1]


@pytest.mark.parametrize("seed", range(20))
def test_percentiles_agree_with_sorted_durations(seed: int) -> None:
    rng = random.Random(seed)
    durations = [int(rng.lognormvariate(rng.uniform(5, 15), 2)) for _ in range(rng.randint(1, 3000))]
    counts = Counts()
    for ns in durations:
        counts.add(ns)
    histogram = Histogram(counts.take())
    durations.sort()
    assert len(histogram) == len(durations)
    for percentile in (0.1, 25, 50, 90, 99, 99.9, 100):
        low, high = oracle(durations, percentile)
        assert low * 0.999 - 1 <= histogram.ms(percentile) * 1e6 <= high * 1.001 + 1


def test_every_cell_is_within_a_thousandth_above_its_values() -> None:
    for shift in range(37):
        for ns in ((1 << shift) - 1, 1 << shift, (1 << shift) + 1, (3 << shift) // 2):
            counts = Counts()
            counts.add(ns)
            [(largest, count)] = counts.take()
            assert count == 1
            assert ns <= largest <= ns * 1.001


def test_extremes_are_counted() -> None:
    """What cannot be is no time; what is too long for the cells is the longest."""
    counts = Counts()
    counts.add(-5)
    counts.add(1 << 60)
    (least, _), (most, _) = counts.take()
    assert least == 0
    assert most == pytest.approx(LONGEST_NS, rel=0.001)
    assert counts.take() == []
    assert len(Histogram([(least, 1), (most, 1)])) == 2


def test_merged_histograms_are_the_histogram_of_all() -> None:
    a, b = [(1000, 5), (2000, 3)], [(2000, 1), (50_000, 2)]
    merged = Histogram(a).merge(Histogram(b))
    assert list(merged.cells()) == list(Histogram([*a, *b]).cells())
    assert len(merged) == 11


def test_empty_histogram_is_zero() -> None:
    assert Histogram().ms(99) == Histogram().max_ms == Histogram().mean_ms == 0
    assert list(Histogram().cells()) == []
