"""What every store does: the same tests over both."""

import threading

import pytest

from dynafast._ext.sealed import seal
from dynafast.errors import InvariantViolation, StoreError
from dynafast.limits import KEY_MAX, VALUE_MAX
from dynafast.storage.interface import READ_MAX, SCAN_SIZE, Batch, Family, Store, entries, object_key, walk
from tests.storage.rigs import Rig

OWN_KEYS = [b"store.boot", b"store.format"]  # what a store that is open keeps in META


def fill(store: Store, family: Family, **values: bytes) -> None:
    batch = Batch()
    for key, value in values.items():
        batch.put(family, key.encode(), value)
    store.write(batch)


def stage(store: Store, key: bytes, value: bytes) -> None:
    store.staged[key] = seal(key, value)


def test_get_of_a_missing_key_is_none(store: Store) -> None:
    assert store.get(b"nothing") is None
    assert [store.read(family, b"nothing") for family in Family] == [None] * 4


def test_put_then_get_returns_the_newest_value(store: Store) -> None:
    store.put(b"key", b"one")
    store.put(b"key", b"two")
    assert store.get(b"key") == store.read(Family.OBJECTS, b"key") == b"two"


def test_a_glance_finds_what_was_just_written_and_nothing_else(store: Store) -> None:
    assert store.glance(b"key") is None
    store.put(b"key", b"one")
    assert store.glance(b"key") == b"one"
    store.staged[b"key"] = seal(b"key", b"two")
    assert store.glance(b"key") == b"two"
    store.commit()
    assert store.glance(b"key") == b"two"


def test_many_are_read_at_once_in_the_order_asked_for(store: Store) -> None:
    for i in range(READ_MAX // 2):
        store.put(b"%d" % i, b"value %d" % i)
    store.staged[b"staged"] = seal(b"staged", b"not there yet")
    keys = [*(b"%d" % i for i in reversed(range(READ_MAX - 1))), b"staged"]
    expected = [b"value %d" % i if i < READ_MAX // 2 else None for i in reversed(range(READ_MAX - 1))]
    assert store.get_many(keys) == [*expected, None]
    assert store.get_many([]) == []


def test_many_are_read_in_other_threads_while_the_owner_writes(store: Store) -> None:
    store.put(b"key", b"0")
    found: list[bytes | StoreError | None] = []
    threads = [
        threading.Thread(target=lambda: found.extend(store.get_many([b"key"])[0] for _ in range(200))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for i in range(500):
        store.put(b"key", b"%d" % i)
    for thread in threads:
        thread.join()
    assert len(found) == 400
    assert all(isinstance(value, bytes) for value in found)


def test_many_of_a_closed_store_are_errors(rig: Rig) -> None:
    store = rig.open()
    store.close()
    assert [type(error) for error in store.get_many([b"a", b"b"])] == [StoreError, StoreError]


@pytest.mark.parametrize("value", [b"", b"\0", b"\xff" * 8, bytes(range(256))])
def test_values_come_back_byte_for_byte(store: Store, value: bytes) -> None:
    store.put(b"key", value)
    assert store.get(b"key") == value


@pytest.mark.parametrize("size", [4095, 4096, 4097, VALUE_MAX, VALUE_MAX + 1000])
def test_large_values_survive_a_reopening(rig: Rig, size: int) -> None:
    """Around the size from which values have files of their own, and records a little over the limit for values."""
    value = (bytes(range(251)) * (size // 251 + 1))[:size]
    key = object_key(2**64 - 1, b"k" * KEY_MAX)
    store = rig.open()
    store.put(key, value)
    assert store.get(key) == value
    store.close()
    store = rig.open()
    assert store.get(key) == value
    assert entries(store.scan(Family.OBJECTS, b"", None, limit=2)) == [(key, value)]
    store.close()


def test_families_are_separate(store: Store) -> None:
    for family in Family:
        fill(store, family, key=family.value.encode())
    assert [store.read(family, b"key") for family in Family] == [family.value.encode() for family in Family]


def test_batch_applies_in_order_over_families(store: Store) -> None:
    fill(store, Family.HINTS, old=b"1")
    batch = Batch()
    batch.put(Family.OBJECTS, b"a", b"first")
    batch.put(Family.OBJECTS, b"a", b"last")
    batch.delete(Family.OBJECTS, b"b")
    batch.put(Family.OBJECTS, b"b", b"after its delete")
    batch.put(Family.MERKLE, b"c", b"before its delete")
    batch.delete(Family.MERKLE, b"c")
    batch.delete(Family.HINTS, b"old")
    store.write(batch)
    assert store.get(b"a") == b"last"
    assert store.get(b"b") == b"after its delete"
    assert store.read(Family.MERKLE, b"c") is None
    assert store.read(Family.HINTS, b"old") is None


def test_delete_range_takes_start_and_not_end_of_one_family(store: Store) -> None:
    for family in (Family.OBJECTS, Family.HINTS):
        fill(store, family, a=b"1", b=b"2", ba=b"3", c=b"4")
    batch = Batch()
    batch.delete_range(Family.OBJECTS, b"b", b"c")
    before = store.sequence
    assert store.write(batch) == before + 1
    assert entries(store.scan(Family.OBJECTS, b"", None, limit=9)) == [(b"a", b"1"), (b"c", b"4")]
    assert [store.get(key) for key in (b"a", b"b", b"ba", b"c")] == [b"1", None, None, b"4"]
    assert len(store.scan(Family.HINTS, b"", None, limit=9)) == 4


def test_delete_range_applies_in_order_with_the_rest_of_its_batch(store: Store) -> None:
    """What a drop does: the range goes, what was put before it in the batch too; what is put after it stays."""
    fill(store, Family.OBJECTS, a=b"old", b=b"old", c=b"old")
    batch = Batch()
    batch.put(Family.OBJECTS, b"bb", b"before")
    batch.delete_range(Family.OBJECTS, b"a", b"c")
    batch.put(Family.OBJECTS, b"b", b"after")
    batch.delete(Family.OBJECTS, b"c")
    store.write(batch)
    assert entries(store.scan(Family.OBJECTS, b"", None, limit=9)) == [(b"b", b"after")]


@pytest.mark.parametrize(("start", "end"), [(b"b", b"b"), (b"x", b"y")])
def test_delete_range_of_nothing_is_no_error(store: Store, start: bytes, end: bytes) -> None:
    fill(store, Family.OBJECTS, a=b"1", b=b"2")
    batch = Batch()
    batch.delete_range(Family.OBJECTS, start, end)
    store.write(batch)
    assert len(store.scan(Family.OBJECTS, b"", None, limit=9)) == 2


def test_a_range_that_ends_before_it_starts_never_reaches_a_store() -> None:
    with pytest.raises(InvariantViolation, match="62 back to 61"):
        Batch().delete_range(Family.OBJECTS, b"b", b"a")


@pytest.mark.parametrize("clean", [True, False])
def test_delete_range_holds_after_a_reopening(rig: Rig, clean: bool) -> None:
    store = rig.open()
    fill(store, Family.OBJECTS, a=b"1", b=b"2", c=b"3")
    store.sync()
    batch = Batch()
    batch.delete_range(Family.OBJECTS, b"a", b"c")
    batch.put(Family.OBJECTS, b"a", b"again")
    store.write(batch)
    store.close(clean=clean)
    store = rig.open()
    assert entries(store.scan(Family.OBJECTS, b"", None, limit=9)) == [(b"a", b"again"), (b"c", b"3")]
    store.close()


def test_delete_of_a_missing_key_is_no_error(store: Store) -> None:
    batch = Batch()
    batch.delete(Family.OBJECTS, b"nothing")
    before = store.sequence
    assert store.write(batch) == before + 1
    assert store.get(b"nothing") is None


def test_sequence_counts_puts_and_batches_and_sync_covers_them(store: Store) -> None:
    assert store.sequence == 0
    assert store.sync() == 0
    assert store.put(b"a", b"1") == 1
    fill(store, Family.OBJECTS, b=b"2", c=b"3")
    assert store.sequence == 2
    assert store.write(Batch()) == 2  # an empty batch changes nothing
    assert store.sync() == 2
    assert store.put(b"a", b"1") == 3
    assert store.sync() == store.sync() == 3


def test_unsynced_bytes_count_what_no_sync_has_covered(store: Store) -> None:
    assert store.unsynced_bytes == 0
    store.put(b"key", bytes(100))
    assert store.unsynced_bytes == 103
    batch = Batch()
    batch.put(Family.HINTS, b"k", bytes(10))
    batch.delete(Family.OBJECTS, b"key")
    store.write(batch)
    assert store.unsynced_bytes == 117
    store.sync()
    assert store.unsynced_bytes == 0


def test_sync_from_another_thread_covers_what_was_accepted_before_it(store: Store) -> None:
    """While the owner writes, each answer of sync lies between what was accepted before and after it."""
    answers: list[tuple[int, int, int]] = []
    done = threading.Event()

    def flush() -> None:
        while not done.is_set():
            before = store.sequence
            covered = store.sync()
            answers.append((before, covered, store.sequence))

    thread = threading.Thread(target=flush)
    thread.start()
    written = 0
    while written < 2000 or len(answers) < 5:
        written = store.put(b"%d" % (written % 100), b"value")
    done.set()
    thread.join()
    assert all(before <= covered <= after + 1 for before, covered, after in answers)
    assert store.sync() == written


def test_scan_returns_start_inclusive_end_exclusive_in_byte_order(store: Store) -> None:
    keys = [b"\0", b"\0\0", b"a", b"a\0", b"aa", b"b", b"\x7f", b"\x80", b"\xff", b"\xff\xff"]
    for key in reversed(keys):
        store.put(key, b"v" + key)

    def scan(start: bytes, end: bytes | None, limit: int = 100) -> list[bytes]:
        found = entries(store.scan(Family.OBJECTS, start, end, limit=limit))
        assert all(value == b"v" + key for key, value in found)
        return [key for key, _ in found]

    assert scan(b"", None) == keys
    assert scan(b"a", b"b") == [b"a", b"a\0", b"aa"]
    assert scan(b"a", b"a\0") == [b"a"]
    assert scan(b"a\0", None, limit=2) == [b"a\0", b"aa"]
    assert scan(b"\xff", None) == [b"\xff", b"\xff\xff"]
    assert scan(b"b", b"b") == []
    assert scan(b"b", b"a") == []
    assert scan(b"\xff\xff\xff", None) == []
    assert scan(b"", b"\0") == []


def test_scan_sees_later_changes_and_no_deleted_key(store: Store) -> None:
    fill(store, Family.HINTS, a=b"1", b=b"2", c=b"3")
    batch = Batch()
    batch.delete(Family.HINTS, b"b")
    batch.put(Family.HINTS, b"c", b"4")
    store.write(batch)
    assert store.scan(Family.HINTS, b"", None, limit=9) == [(b"a", b"1"), (b"c", b"4")]


def test_scan_stops_early_once_values_are_large(store: Store) -> None:
    """A chunk holds one entry at least, and ends with the one that reaches the size: only an empty one is the end."""
    big = bytes(SCAN_SIZE // 2)
    for key in (b"a", b"b", b"c", b"d", b"e"):
        store.put(key, big)
    store.put(b"f", bytes(2 * SCAN_SIZE))
    chunks = [[key for key, _ in chunk] for chunk in walk(store, Family.OBJECTS, b"", None, limit=100)]
    assert chunks == [[b"a", b"b"], [b"c", b"d"], [b"e", b"f"]]


def test_walk_reads_a_whole_range_in_chunks(store: Store) -> None:
    for number in range(10):
        store.put(b"%d" % number, b"v")
    chunks = [[key for key, _ in chunk] for chunk in walk(store, Family.OBJECTS, b"2", b"9", limit=3)]
    assert chunks == [[b"2", b"3", b"4"], [b"5", b"6", b"7"], [b"8"]]
    assert list(walk(store, Family.MERKLE, b"", None, limit=3)) == []


def test_boot_counter_and_clean_marker(rig: Rig) -> None:
    """A new store is clean; each opening counts; the marker tells of the last close and of no earlier one."""
    seen = []
    for clean in (True, True, False, False, True):
        store = rig.open()
        seen.append((store.boot, store.was_clean))
        assert [key for key, _ in store.scan(Family.META, b"", None, limit=9)] == OWN_KEYS
        store.close(clean=clean)
    assert seen == [(1, True), (2, True), (3, True), (4, False), (5, False)]


@pytest.mark.parametrize("clean", [True, False])
def test_reopening_keeps_everything_and_starts_to_count_anew(rig: Rig, clean: bool) -> None:
    store = rig.open()
    store.put(b"a", b"1")
    for family in (Family.HINTS, Family.MERKLE, Family.META):
        fill(store, family, k=family.value.encode())
    store.close(clean=clean)
    store = rig.open()
    assert store.get(b"a") == b"1"
    assert store.read(Family.HINTS, b"k") == b"hints"
    assert store.read(Family.MERKLE, b"k") == b"merkle"
    assert store.read(Family.META, b"k") == b"meta"
    assert store.sequence == store.sync() == 0
    store.close()


def test_a_closed_store_refuses_and_closes_again(rig: Rig) -> None:
    store = rig.open()
    batch = Batch()
    batch.put(Family.META, b"k", b"v")
    store.close()
    for call in (
        lambda: store.get(b"k"),
        lambda: store.put(b"k", b"v"),
        lambda: store.read(Family.META, b"k"),
        lambda: store.write(batch),
        lambda: store.scan(Family.META, b"", None, limit=1),
        store.sync,
        store.usage,
    ):
        with pytest.raises(StoreError, match="closed"):
            call()
    store.close()
    store = rig.open()
    assert store.was_clean
    store.close()


def test_usage_grows_with_what_is_stored(store: Store) -> None:
    assert store.usage()[0] == 0
    before = store.usage()[1]
    for number in range(50):
        store.put(b"%d" % number, bytes(10_000))
    keys, size = store.usage()
    assert keys == 50
    assert size - before >= 500_000


def test_staged_writes_are_read_at_once_and_accepted_together(store: Store) -> None:
    store.put(b"a", b"old")
    before = store.sequence
    stage(store, b"a", b"new")
    stage(store, b"b", b"1")
    assert (store.get(b"a"), store.read(Family.OBJECTS, b"b")) == (b"new", b"1")
    assert store.sequence == before
    store.commit()
    assert store.sequence == before + 1
    assert (store.get(b"a"), store.get(b"b")) == (b"new", b"1")
    store.commit()
    assert store.sequence == before + 1


def test_a_later_change_takes_staged_writes_along_in_order(store: Store) -> None:
    stage(store, b"a", b"staged")
    store.put(b"a", b"put")
    assert store.get(b"a") == b"put"
    stage(store, b"a", b"again")
    batch = Batch()
    batch.delete_range(Family.OBJECTS, b"a", b"b")
    store.write(batch)
    assert store.get(b"a") is None
    stage(store, b"c", b"scanned")
    assert entries(store.scan(Family.OBJECTS, b"", None, limit=9)) == [(b"c", b"scanned")]
    store.commit()
    assert entries(store.scan(Family.OBJECTS, b"", None, limit=9)) == [(b"c", b"scanned")]


def test_staged_writes_count_as_unsynced_once_accepted_and_survive_a_reopening(rig: Rig) -> None:
    store = rig.open()
    store.sync()
    stage(store, b"k", b"value")
    assert store.unsynced_bytes == 0
    store.commit()
    assert store.unsynced_bytes == len(b"kvalue")
    store.close()
    store = rig.open()
    assert store.get(b"k") == b"value"
    store.close()
