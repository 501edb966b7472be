"""The keys that a load asks for come as often as theory says, and values tell whose they are."""

from collections import Counter
from math import sqrt

import pytest

from bench._ext.keys import Keys

DRAWS = 200_000


def chi_square(counts: Counter[int], expected: list[float]) -> float:
    """Return how far counts are from what is expected, in standard deviations of the statistic."""
    statistic = sum((counts[i] - mean) ** 2 / mean for i, mean in enumerate(expected))
    freedom = len(expected) - 1
    return (statistic - freedom) / sqrt(2 * freedom)


@pytest.mark.parametrize("theta", [0.5, 0.99, 1.0, 1.3])
@pytest.mark.parametrize("records", [2, 1000])
def test_zipfian_ranks_follow_the_law(theta: float, records: int) -> None:
    """Rank r is drawn in proportion to (r + 1) ** -theta."""
    weights = [(rank + 1) ** -theta for rank in range(records)]
    counts = Counter(Keys("zipfian", records, theta=theta, seed=7).draw_ranks(DRAWS))
    assert sum(counts.values()) == DRAWS
    assert set(counts) <= set(range(records))
    assert abs(chi_square(counts, [DRAWS * weight / sum(weights) for weight in weights])) < 5


def test_zipfian_law_fails_for_another_theta() -> None:
    """The test above can fail: a slightly other skew is seen."""
    weights = [(rank + 1) ** -0.95 for rank in range(1000)]
    counts = Counter(Keys("zipfian", 1000, theta=0.99, seed=7).draw_ranks(DRAWS))
    assert abs(chi_square(counts, [DRAWS * weight / sum(weights) for weight in weights])) > 5


def test_zipfian_keys_are_the_ranks_spread_one_to_one() -> None:
    """With the same seed the key of a rank is always the same, and no two ranks share one."""
    ranks = Keys("zipfian", 1000, seed=3).draw_ranks(DRAWS)
    keys = Keys("zipfian", 1000, seed=3).draw(DRAWS)
    pairs = set(zip(ranks, keys, strict=True))
    assert len(pairs) == len(set(ranks)) == len(set(keys))
    assert sorted(rank for rank, _ in pairs) != [key for _, key in sorted(pairs)]


def test_uniform_keys_are_uniform() -> None:
    counts = Counter(Keys("uniform", 1000, seed=1).draw(DRAWS))
    assert abs(chi_square(counts, [DRAWS / 1000] * 1000)) < 5


def test_latest_keys_are_the_newest_first() -> None:
    """Without inserts the last record is rank 0, the one before it rank 1."""
    counts = Counter(999 - key for key in Keys("latest", 1000, seed=5).draw(DRAWS))
    weights = [(rank + 1) ** -0.99 for rank in range(1000)]
    assert abs(chi_square(counts, [DRAWS * weight / sum(weights) for weight in weights])) < 5


def test_sequence_gives_every_record_to_one_process() -> None:
    shares = [list(Keys("sequence", 100, stride=3, offset=number).draw(33)) for number in range(3)]
    assert sorted(key for share in shares for key in share) == list(range(99))


def test_seeds_differ() -> None:
    assert Keys("uniform", 1000, seed=1).draw(20) != Keys("uniform", 1000, seed=2).draw(20)
    assert Keys("uniform", 1000, seed=1).draw(20) == Keys("uniform", 1000, seed=1).draw(20)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 15, 16, 100, 5000])
def test_value_is_its_keys_alone(size: int) -> None:
    """Every byte that is not the stamp is looked at, and so is the size (of a long value: one try in 16 at least)."""
    keys = Keys("uniform", 200, size_min=size, size_max=size)
    value = keys.value(77)
    assert len(value) == size
    assert keys.is_right(77, value)
    assert not keys.is_right(77, value + b"x")
    assert not keys.is_right(78, value)
    stamp = range(8, 12) if size >= 16 else ()
    for at in {0, size // 2, size - 1} - set(stamp):
        damaged = value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
        assert not all(keys.is_right(77, damaged) for _ in range(400)), at


def test_writes_of_one_key_differ() -> None:
    keys = Keys("uniform", 10)
    assert keys.value(3) != keys.value(3)


def test_sizes_lie_between_bounds_and_stay() -> None:
    keys = Keys("uniform", 500, size_min=10, size_max=50)
    sizes = [len(keys.value(key)) for key in range(500)]
    assert min(sizes) == 10
    assert max(sizes) == 50
    assert sizes == [len(keys.value(key)) for key in range(500)]


@pytest.mark.parametrize("bad", [{"records": 0}, {"size_min": 5, "size_max": 4}, {"stride": 2, "offset": 2}])
def test_arguments_out_of_range_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        Keys("uniform", **{"records": 1, **bad})
