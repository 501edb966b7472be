"""What survives a SIGKILL, a power cut and a failing disk, in real processes. See `tests.durability`."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dynafast.errors import StoreError
from dynafast.storage.interface import Family
from dynafast.storage.rocks import RocksStore
from tests.durability import ShimLog
from tests.storage.children import Child

SYNCS = ["sync", "flush"]  # in the thread of the owner, and in the flusher's


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The folder that `shim` watches."""
    return tmp_path / "data"


def test_sigkill_loses_no_accepted_write(tmp_path: Path) -> None:
    """Not even one that was never synced: what was accepted is in the page cache."""
    for round_number, size in enumerate((1, 1, 100, 5000, 5000), start=1):
        with Child(tmp_path / "store") as child:
            assert child.ask("open") == [2 * round_number - 1, True]
            child.send("flood", size)
            while (last := child.next_number()) < 100 * round_number:
                pass
            child.kill()
            last = max([last, *child.numbers()])
        store = RocksStore(tmp_path / "store")
        assert not store.was_clean
        assert all(store.get(b"%d" % number) == b"%d" % number * size for number in range(last + 1))
        store.close()


@pytest.mark.parametrize("sync", SYNCS)
def test_sync_answers_after_an_fdatasync_of_the_log(data: Path, shim: ShimLog, sync: str) -> None:
    """Judged by the shim: between the write to the log and the answer to sync lies a sync of that log."""
    with Child(data, shim) as child:
        child.ask("open")
        for number in range(5):
            child.ask("put", "key", f"marker-{number}")
            child.ask(sync)
        writes = [write for write in shim.writes(data) if b"marker-" in write.data]
        answers = shim.sends(port=child.port)[1:]  # without the answer to open
    assert len(writes) == 5
    assert len(answers) == 10
    for number, write in enumerate(writes):
        accepted, synced = answers[2 * number : 2 * number + 2]
        assert write.index < accepted.index
        assert not shim.is_durable(write, before=accepted)  # or the shim would see syncs where there are none
        assert shim.is_durable(write, before=synced)


def test_the_boot_counter_is_durable_before_the_store_is_open(data: Path, shim: ShimLog, tmp_path: Path) -> None:
    with Child(data, shim) as child:
        assert child.ask("open") == [1, True]
        opened = shim.sends(port=child.port)[0]
        assert all(shim.is_durable(write, before=opened) for write in shim.writes(data))
    shim.cut(data, tmp_path / "cut")
    store = RocksStore(tmp_path / "cut")
    assert (store.boot, store.was_clean) == (2, False)
    store.close()


def test_the_clean_marker_is_durable_once_closed(data: Path, shim: ShimLog, tmp_path: Path) -> None:
    with Child(data, shim) as child:
        child.ask("open")
        child.ask("put", "key", "value")
        child.ask("close")
    shim.cut(data, tmp_path / "cut")
    store = RocksStore(tmp_path / "cut")
    assert store.was_clean
    assert store.get(b"key") == b"value"
    store.close()


def half(size: int) -> int:
    return size // 2


def all_but_one(size: int) -> int:
    return max(0, size - 1)


@pytest.mark.parametrize("tail", [lambda _: 0, lambda size: min(size, 3), half, all_but_one])
def test_power_cut_keeps_what_was_synced_and_no_half_batch(
    data: Path, shim: ShimLog, tmp_path: Path, tail: Callable[[int], int]
) -> None:
    """Whatever part of the unsynced bytes reached the disk: the synced is there, of the rest a first part in whole."""
    with Child(data, shim) as child:
        child.ask("open")
        for number in range(30):
            text = f"{number:02}"
            child.ask("write", [["objects", text, text], ["hints", text, text]])
            if number == 19:
                child.ask("sync")
    lost = shim.cut(data, tmp_path / "cut", tail=tail)
    assert any(name.endswith(".log") for name in lost)  # or this would test nothing
    store = RocksStore(tmp_path / "cut")
    there = [store.get(b"%02d" % number) is not None for number in range(30)]
    kept = sum(there)
    assert there == [True] * kept + [False] * (30 - kept)
    assert [store.read(Family.HINTS, b"%02d" % number) is not None for number in range(30)] == there
    assert 20 <= kept < 30
    assert kept == 20 or tail in (half, all_but_one)
    store.close()


@pytest.mark.parametrize("sync", SYNCS)
def test_power_cut_amid_flushes_keeps_what_was_synced(data: Path, shim: ShimLog, tmp_path: Path, sync: str) -> None:
    """Enough for several logs, tables and blob files: none of them may be trusted before it was synced."""
    text = "some text of forty characters, repeated." * 1000
    with Child(data, shim) as child:
        child.ask("open")
        synced = -1
        for number in range(1500):
            child.ask("put", f"{number}", f"{number} {text}")
            if number % 100 == 37:
                child.ask(sync)
                synced = number
        child.kill()
    assert len(list(data.glob("*.blob"))) >= 2
    lost = shim.cut(data, tmp_path / "cut")
    assert any(name.endswith(".log") for name in lost)
    store = RocksStore(tmp_path / "cut")
    for number in range(synced + 1):
        assert store.get(b"%d" % number) == f"{number} {text}".encode()
    for number in range(synced + 1, 1500):
        assert store.get(b"%d" % number) in (None, f"{number} {text}".encode())
    store.close()


def test_a_full_disk_refuses_writes_keeps_none_and_recovers(data: Path, shim: ShimLog) -> None:
    with Child(data, shim) as child:
        child.ask("open")
        child.ask("put", "before", "1")
        shim.fail(writes=True)
        for number in range(3):
            with pytest.raises(StoreError, match="No space left"):
                child.ask("put", f"refused {number}", "1")
        assert child.ask("get", "before") == "1"
        shim.fail(writes=False)
        deadline = time.monotonic() + 20
        while True:
            try:
                child.ask("put", "after", "1")
                break
            except StoreError:
                assert time.monotonic() < deadline, "the store has not recovered"
        child.ask("sync")
        assert child.ask("get", "refused 0") is None
    store = RocksStore(data)
    assert store.get(b"before") == store.get(b"after") == b"1"
    assert [store.get(b"refused %d" % number) for number in range(3)] == [None] * 3
    store.close()


@pytest.mark.parametrize("sync", SYNCS)
def test_a_full_disk_lets_what_was_accepted_before_be_synced(data: Path, shim: ShimLog, sync: str) -> None:
    """RocksDB refuses that, and would then refuse every later write too."""
    with Child(data, shim) as child:
        child.ask("open")
        child.ask("put", "before", "1")
        (write,) = (event for event in shim.writes(data) if b"before" in event.data)
        shim.fail(writes=True)
        with pytest.raises(StoreError, match="No space left"):
            child.ask("put", "refused", "1")
        child.ask(sync)
        assert shim.is_durable(write)
        shim.fail(writes=False)
        deadline = time.monotonic() + 20
        while True:
            try:
                child.ask("put", "after", "1")
                break
            except StoreError:
                assert time.monotonic() < deadline, "the store has not recovered"
        child.ask("sync")
        child.ask("close")
    store = RocksStore(data)
    assert [store.get(key) for key in (b"before", b"refused", b"after")] == [b"1", None, b"1"]
    store.close()


@pytest.mark.parametrize(("first", "second"), [(one, other) for one in SYNCS for other in SYNCS])
def test_a_failed_sync_fails_for_good(data: Path, shim: ShimLog, first: str, second: str) -> None:
    """A second fsync that succeeds says nothing of the pages that the first one lost."""
    with Child(data, shim) as child:
        child.ask("open")
        child.ask("put", "key", "1")
        shim.fail(syncs=True)
        with pytest.raises(StoreError, match="Input/output error"):
            child.ask(first)
        shim.fail(syncs=False)
        child.ask("put", "key", "2")
        with pytest.raises(StoreError, match="earlier sync failed"):
            child.ask(second)
        with pytest.raises(StoreError):
            child.ask("close")
    RocksStore(data).close()
