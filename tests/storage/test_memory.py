"""A crash of the store in memory forgets exactly what was not synced."""

from dynafast.storage.interface import Batch, Family
from dynafast.storage.memory import MemoryStore


def test_crash_forgets_exactly_what_was_not_synced() -> None:
    store = MemoryStore()
    store.put(b"kept", b"1")
    store.put(b"changed", b"old")
    store.put(b"deleted", b"1")
    store.sync()
    store.put(b"changed", b"new")
    store.put(b"changed", b"newest")
    store.put(b"added", b"1")
    batch = Batch()
    batch.delete(Family.OBJECTS, b"deleted")
    batch.put(Family.HINTS, b"added too", b"1")
    store.write(batch)
    size = store.usage()[1]

    store.crash()
    assert store.scan(Family.OBJECTS, b"", None, limit=9) == [
        (b"changed", b"old"),
        (b"deleted", b"1"),
        (b"kept", b"1"),
    ]
    assert store.scan(Family.HINTS, b"", None, limit=9) == []
    assert (store.boot, store.was_clean, store.sequence) == (2, False, 0)
    assert store.usage()[1] < size


def test_crash_after_a_clean_close_loses_nothing() -> None:
    store = MemoryStore()
    store.put(b"a", b"1")
    store.close()
    store.crash()
    assert store.get(b"a") == b"1"
    assert (store.boot, store.was_clean) == (2, True)


def test_crash_after_crash_counts_each_boot() -> None:
    """The boot counter is durable before the store is used: no boot number is given out twice."""
    store = MemoryStore()
    boots = []
    for _ in range(3):
        boots.append(store.boot)
        store.put(b"lost", b"1")
        store.crash()
        assert store.get(b"lost") is None
    assert boots == [1, 2, 3]
