"""Our XXH3-64 is that of the library, which is the oracle here."""

import random

import pytest
from xxhash import xxh3_64_intdigest

from dynafast._ext.xxh3 import xxh3_64

TOP = 2**64 - 1
LENGTHS = [*range(300), 511, 512, 513, 1023, 1024, 1025, 4096, 100_000]


@pytest.mark.parametrize("seed", [0, 1, 0xFFFFFFFF, 1 << 32, TOP, 0x9E3779B97F4A7C15])
def test_each_length_with_each_kind_of_seed_equals_the_library(seed: int) -> None:
    rng = random.Random(seed)
    for length in LENGTHS:
        for data in (rng.randbytes(length), bytes(length), b"\xff" * length):
            assert xxh3_64(data, seed) == xxh3_64_intdigest(data, seed), (length, data[:32].hex())


def test_random_input_with_random_seeds_equals_the_library() -> None:
    rng = random.Random(5)
    for _ in range(20_000):
        data, seed = rng.randbytes(rng.randint(0, 260)), rng.getrandbits(64)
        assert xxh3_64(data, seed) == xxh3_64_intdigest(data, seed), (data.hex(), seed)


def test_without_a_seed_it_is_zero() -> None:
    assert xxh3_64(b"key") == xxh3_64_intdigest(b"key")


def test_a_text_or_a_seed_out_of_range_is_refused() -> None:
    with pytest.raises(TypeError):
        xxh3_64("key")  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        xxh3_64(b"key", -1)
