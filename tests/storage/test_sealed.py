"""The checksum finds damage in every family of both stores, and a value that lies under the wrong key."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynafast._ext.sealed import SEAL_SIZE, seal, unseal
from dynafast.errors import CorruptRecordError
from dynafast.storage.interface import Batch, Family, entries
from tests.storage.rigs import Rig


def flip(index: int) -> Callable[[bytes], bytes]:
    def change(stored: bytes) -> bytes:
        place = index % len(stored)
        return stored[:place] + bytes([stored[place] ^ 1]) + stored[place + 1 :]

    return change


@given(key=st.binary(), value=st.binary(max_size=400))
def test_unseal_returns_what_was_sealed(key: bytes, value: bytes) -> None:
    stored = seal(key, value)
    assert len(stored) == SEAL_SIZE + len(value)
    assert unseal(key, stored) == value


@given(key=st.binary(max_size=20), value=st.binary(max_size=400), bit=st.integers(min_value=0))
def test_unseal_finds_each_flipped_bit(key: bytes, value: bytes, bit: int) -> None:
    stored = bytearray(seal(key, value))
    bit %= 8 * len(stored)
    stored[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptRecordError):
        unseal(key, bytes(stored))


@given(st.binary(max_size=20), st.binary(max_size=20), st.binary(max_size=100))
def test_unseal_finds_a_value_of_another_key(key: bytes, other: bytes, value: bytes) -> None:
    if key == other:
        assert unseal(other, seal(key, value)) == value
    else:
        with pytest.raises(CorruptRecordError):
            unseal(other, seal(key, value))


@pytest.mark.parametrize("stored", [b"", b"1234567"])
def test_unseal_refuses_what_is_shorter_than_a_checksum(stored: bytes) -> None:
    with pytest.raises(CorruptRecordError):
        unseal(b"key", stored)


DAMAGE: list[Callable[[bytes], bytes]] = [
    flip(0),  # in the checksum
    flip(-1),  # in the value
    lambda stored: stored[:-1],
    lambda stored: stored + b"\0",
    lambda _: b"",
]


@pytest.mark.parametrize("family", list(Family))
def test_damage_is_an_error_when_read_and_an_item_when_scanned(rig: Rig, family: Family) -> None:
    """Never "not found"; and the neighbours can be read."""
    store = rig.open()
    batch = Batch()
    for number in range(len(DAMAGE)):
        batch.put(family, b"good%d" % number, b"value")
        batch.put(family, b"good%d is bad" % number, b"value")
    store.write(batch)
    store.close()
    for number, change in enumerate(DAMAGE):
        rig.alter(family, b"good%d is bad" % number, change)

    store = rig.open()
    found = store.scan(family, b"good", b"gooe", limit=100)
    assert len(found) == 2 * len(DAMAGE)
    for (good, value), (bad, error) in zip(found[::2], found[1::2], strict=True):
        assert bad == good + b" is bad"
        assert value == store.read(family, good) == b"value"
        assert isinstance(error, CorruptRecordError)
        with pytest.raises(CorruptRecordError, match=bad.hex()):
            store.read(family, bad)
        if family is Family.OBJECTS:
            with pytest.raises(CorruptRecordError, match=bad.hex()):
                store.get(bad)
    with pytest.raises(CorruptRecordError):
        entries(found)
    store.close()


def test_a_new_write_heals_a_damaged_entry(rig: Rig) -> None:
    store = rig.open()
    store.put(b"key", b"old")
    store.close()
    rig.alter(Family.OBJECTS, b"key", flip(3))
    store = rig.open()
    store.put(b"key", b"new")
    assert store.get(b"key") == b"new"
    store.close()
