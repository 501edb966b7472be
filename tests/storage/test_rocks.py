"""What only the store on disk can meet: other people's folders, another process, stalls and damaged files."""

import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rocksdict import Options, Rdict

from dynafast._ext.sealed import seal
from dynafast.errors import CorruptRecordError, StoreBusyError, StoreError, StoreFormatError
from dynafast.storage.interface import ON_DISK, READ_MAX, Batch, Family, entries
from dynafast.storage.opening import FORMAT, FORMAT_KEY
from dynafast.storage.rocks import RocksStore
from tests.storage.children import Child
from tests.storage.rigs import RocksRig


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == suffix and path.stat().st_size > 0)


def flip_byte(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_opening_makes_missing_folders(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "some" / "new" / "folder")
    assert (store.boot, store.was_clean) == (1, True)
    store.close()


def foreign_file(folder: Path) -> None:
    (folder / "thesis.tex").write_text("irreplaceable")


def foreign_database(folder: Path) -> None:
    database = Rdict(str(folder), Options(raw_mode=True))
    database.put(b"key", b"value")
    database.close()


def foreign_families(folder: Path) -> None:
    database = Rdict(str(folder), Options(raw_mode=True))
    database.create_column_family("index", Options(raw_mode=True))
    database.close()


def lost_current(folder: Path) -> None:
    store = RocksStore(folder)
    store.put(b"key", b"value")
    store.close()
    (folder / "CURRENT").unlink()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (foreign_file, "thesis.tex"),
        (foreign_database, "another program"),
        (foreign_families, "index"),
        (lost_current, "CURRENT"),
    ],
)
def test_a_folder_that_is_no_store_is_refused_and_left_alone(
    tmp_path: Path, make: Callable[[Path], None], says: str
) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(StoreFormatError, match=says):
        RocksStore(tmp_path)
    assert contents(tmp_path) == before


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(StoreError, match="cannot make /proc/folder: choose another folder"):
        RocksStore(Path("/proc/folder"))


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("text")
    for unusable in (path, path / "below"):
        with pytest.raises(StoreFormatError, match="not a folder"):
            RocksStore(unusable)
    assert path.read_text() == "text"


@pytest.mark.parametrize("kept", [{"LOCK", "LOG"}, {"LOCK", "LOG", "MANIFEST-000001", "IDENTITY"}])
def test_a_folder_whose_making_was_cut_short_is_taken_over(tmp_path: Path, kept: set[str]) -> None:
    """A crash before CURRENT names a manifest leaves these files, and no data."""
    for name in kept:
        (tmp_path / name).write_bytes(b"")
    store = RocksStore(tmp_path)
    assert (store.boot, store.was_clean) == (1, True)
    store.close()


def test_a_database_whose_families_were_not_all_made_is_taken_over(tmp_path: Path) -> None:
    """RocksDB makes the families one after the other: a crash in between leaves some, all empty."""
    database = Rdict(str(tmp_path), Options(raw_mode=True))
    database.create_column_family("meta", Options(raw_mode=True))
    database.close()
    store = RocksStore(tmp_path)
    assert store.boot == 1
    store.close()


def test_another_format_version_is_refused_naming_both(tmp_path: Path) -> None:
    rig = RocksRig(tmp_path / "store")
    rig.open().close()
    rig.alter(Family.META, FORMAT_KEY, lambda _: seal(FORMAT_KEY, b"99"))
    for _ in range(2):  # refusing changes nothing, and leaves no lock behind
        with pytest.raises(StoreFormatError, match=f"99.*version {FORMAT}"):
            rig.open()
    rig.alter(Family.META, FORMAT_KEY, lambda _: seal(FORMAT_KEY, b"%d" % FORMAT))
    store = rig.open()
    assert (store.boot, store.was_clean) == (2, True)
    store.close()


def test_data_without_a_format_version_is_refused(tmp_path: Path) -> None:
    rig = RocksRig(tmp_path / "store")
    store = rig.open()
    batch = Batch()
    batch.delete(Family.META, FORMAT_KEY)
    store.write(batch)
    store.close()
    with pytest.raises(StoreFormatError, match="no dynafast store"):
        rig.open()


def test_a_second_opening_is_refused_from_this_and_from_another_process(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store")
    with pytest.raises(StoreFormatError, match="open in another process"):
        RocksStore(tmp_path / "store")
    with Child(tmp_path / "store") as child:
        with pytest.raises(StoreFormatError, match="open in another process"):
            child.ask("open")
        store.put(b"key", b"value")  # the first one is not disturbed
        store.close()
        assert child.ask("open") == [2, True]
        assert child.ask("get", "key") == "value"


def test_a_stall_is_busy_and_keeps_nothing(tmp_path: Path) -> None:
    """RocksDB would block the thread, with the interpreter's lock; the store raises instead, and goes on later."""
    store = RocksStore(tmp_path / "store")
    raw = store._objects  # only RocksDB's own settings make it stall at will
    store.put(b"before", b"1")
    raw.flush()
    raw.set_options(
        {
            "level0_file_num_compaction_trigger": "50",
            "level0_slowdown_writes_trigger": "1",
            "level0_stop_writes_trigger": "1",
        }
    )
    batch = Batch()
    batch.put(Family.HINTS, b"refused", b"1")
    batch.put(Family.OBJECTS, b"refused", b"1")
    sequence = store.sequence
    with pytest.raises(StoreBusyError):
        store.put(b"refused", b"1")
    with pytest.raises(StoreBusyError):
        store.write(batch)
    assert store.sequence == sequence == store.sync()
    assert store.get(b"before") == b"1"
    raw.set_options({"level0_slowdown_writes_trigger": "20", "level0_stop_writes_trigger": "36"})
    assert store.get(b"refused") is store.read(Family.HINTS, b"refused") is None
    store.write(batch)
    assert store.get(b"refused") == b"1"
    store.close()


def test_a_wrong_type_is_a_bug_not_a_store_error(tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "store")
    for call in (lambda: store.get("text"), lambda: store.put(b"key", "text")):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - rocksdict's own choice of class
            call()
        assert not isinstance(caught.value, StoreError)
    store.close()


def test_a_damaged_table_is_no_answer(tmp_path: Path) -> None:
    """A key in a damaged block cannot be read; a scan over it raises: it cannot tell which keys are there."""
    rig = RocksRig(tmp_path / "store")
    store = rig.open()
    for number in range(1000):
        store.put(b"%04d" % number, os.urandom(200))
    store.close()
    (table,) = [path for path in files(rig.path, ".sst") if path.stat().st_size > 100_000]
    flip_byte(table, 100_000)

    store = rig.open()
    unreadable = []
    for number in range(1000):
        try:
            assert store.get(b"%04d" % number) is not None
        except CorruptRecordError:
            unreadable.append(b"%04d" % number)
    assert 1 <= len(unreadable) < 100
    with pytest.raises(CorruptRecordError) as caught:
        store.scan(Family.OBJECTS, unreadable[0], None, limit=2)
    assert len(entries(store.scan(Family.OBJECTS, b"", unreadable[0], limit=5))) == 5
    store.close()
    rig.open().close()  # no iterator in a traceback holds the folder's lock
    assert caught.tb is not None


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose log holds twenty objects, each some 1 KB: its process was killed, so no table has them."""
    folder = tmp_path_factory.mktemp("killed") / "store"
    with Child(folder) as child:
        child.ask("open")
        for number in range(20):
            child.ask("put", f"{number:02}", f"{number:02}" * 500)
    return folder


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed_once, tmp_path / "killed"))


def the_log(folder: Path) -> Path:
    (log,) = files(folder, ".log")
    return log


def the_manifest(folder: Path) -> Path:
    return folder / (folder / "CURRENT").read_text().strip()


def objects_in(folder: Path) -> list[bool]:
    """Open the store; say which of the twenty objects are there. All that are must be right."""
    store = RocksStore(folder)
    values = [store.get(b"%02d" % number) for number in range(20)]
    store.close()
    assert all(value in (None, b"%02d" % number * 500) for number, value in enumerate(values))
    return [value is not None for value in values]


@pytest.mark.parametrize("tail", [-1, -500, 1, 100_000])
def test_a_log_that_ends_in_half_a_record_or_in_zeros_is_opened(killed: Path, tail: int) -> None:
    """Both are what a power cut may leave behind what was synced."""
    log = the_log(killed)
    os.truncate(log, log.stat().st_size + tail)
    assert objects_in(killed) == [True] * 19 + [tail > 0]


def test_a_log_damaged_in_the_middle_is_not_opened(killed: Path) -> None:
    """Opening it without what follows would lose acknowledged writes in silence."""
    log = the_log(killed)
    flip_byte(log, log.stat().st_size // 2)
    for _ in range(2):
        with pytest.raises(CorruptRecordError, match="move it away"):
            RocksStore(killed)


def test_a_damaged_manifest_is_not_opened(killed: Path) -> None:
    flip_byte(the_manifest(killed), 30)
    with pytest.raises(CorruptRecordError, match="move it away"):
        RocksStore(killed)


@pytest.mark.parametrize("kind", [5, 6, 7, 8, 11])
@pytest.mark.parametrize("find", [the_log, the_manifest])
def test_a_record_type_on_which_rocksdb_hangs_is_not_opened(
    killed: Path, find: Callable[[Path], Path], kind: int
) -> None:
    """In the second record: its header follows the first record's header and content."""
    content = bytearray(find(killed).read_bytes())
    second = 7 + int.from_bytes(content[4:6], "little")
    assert content[second + 6] == 1  # the type of a record in one piece
    content[second + 6] = kind
    find(killed).write_bytes(content)
    with pytest.raises(CorruptRecordError, match=f"type {kind}"):
        RocksStore(killed)


def test_a_length_past_the_end_is_no_torn_record_if_whole_ones_follow(killed: Path) -> None:
    """RocksDB would take all that follows for one record torn by a power cut, and drop it."""
    content = bytearray(the_log(killed).read_bytes())
    second = 7 + int.from_bytes(content[4:6], "little")
    content[second + 4 : second + 6] = (30_000).to_bytes(2, "little")
    the_log(killed).write_bytes(content)
    with pytest.raises(CorruptRecordError, match="longer than it is"):
        RocksStore(killed)


def test_zeros_in_the_middle_of_a_log_are_not_skipped(killed: Path) -> None:
    """A page that the disk lost; RocksDB would go on behind it."""
    content = bytearray(the_log(killed).read_bytes())
    second = 7 + int.from_bytes(content[4:6], "little")
    content[second : second + 4096] = bytes(4096)
    the_log(killed).write_bytes(content)
    with pytest.raises(CorruptRecordError, match="zeros"):
        RocksStore(killed)


def damage(content: bytearray, rng: random.Random) -> None:
    """Change some bytes, lose some to zeros, or add what another file had."""
    start, size = rng.randrange(len(content)), rng.choice([1, 1, 8, 600, 5000])
    place = slice(start, min(len(content), start + size))
    match rng.randrange(3):
        case 0:
            content[place] = bytes(byte ^ rng.randrange(1, 256) for byte in content[place])
        case 1:
            content[place] = bytes(len(content[place]))
        case 2:
            content += rng.randbytes(size)


@pytest.mark.parametrize("seed", range(30))
def test_no_damage_to_a_log_hangs_or_loses_in_silence(killed: Path, seed: int) -> None:
    """Opened with everything but perhaps the last record, whose damage may look like a torn one; or refused."""
    rng = random.Random(seed)
    target = rng.choice([the_log, the_log, the_manifest])(killed)
    content = bytearray(target.read_bytes())
    damage(content, rng)
    target.write_bytes(content)
    try:
        assert objects_in(killed)[:19] == [True] * 19
    except (CorruptRecordError, StoreFormatError):
        assert target.read_bytes() == content  # refused, and left as it was


@pytest.mark.parametrize("size", [100, 5000])
def test_a_glance_says_what_is_on_the_disk_alone(tmp_path: Path, size: int) -> None:
    """A value in a table is found once its block was read; one in a blob file never is."""
    store = RocksStore(tmp_path)
    for i in range(100):
        store.put(b"%08d" % i, b"v" * size)
    store.close()
    store = RocksStore(tmp_path)
    assert store.glance(b"%08d" % 50) is ON_DISK
    assert store.get_many([b"%08d" % 50, b"missing"]) == [b"v" * size, None]
    assert store.glance(b"%08d" % 50) == (b"v" * size if size < 4096 else ON_DISK)
    store.close()


def test_a_glance_finds_no_damage_where_the_index_of_a_table_is_not_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RocksDB says of such a key that it may exist, and is empty; that takes more data than a test should write."""
    store = RocksStore(tmp_path)
    monkeypatch.setattr(store, "_objects", SimpleNamespace(key_may_exist=lambda _key, *, fetch: (fetch, b"")))
    assert store.glance(b"key") is ON_DISK
    store.close()


def test_damage_is_told_for_each_of_many(tmp_path: Path) -> None:
    """A record that fails its checksum, and a table of which a block does."""
    store = RocksStore(tmp_path)
    store._objects.put(b"record", seal(b"another", b"value"))
    store.put(b"intact", b"value")
    found = store.get_many([b"record", b"intact", b"missing"])
    assert isinstance(found[0], CorruptRecordError)
    assert found[1:] == [b"value", None]
    for i in range(2000):
        store.put(b"%08d" % i, os.urandom(100))
    store.close()
    store = RocksStore(tmp_path)
    store.close()
    flip_byte(max(files(tmp_path, ".sst"), key=lambda path: path.stat().st_size), 20_000)
    store = RocksStore(tmp_path)
    keys = [b"%08d" % i for i in range(0, 2000, 50)]
    found = store.get_many(keys)
    bad = [key for key, value in zip(keys, found, strict=True) if isinstance(value, CorruptRecordError)]
    assert 0 < len(bad) < len(keys)
    assert all(store.glance(key) is ON_DISK for key in bad)
    store.close(clean=False)


def test_a_store_that_is_closed_under_a_read_says_so(tmp_path: Path) -> None:
    store = RocksStore(tmp_path)
    for i in range(READ_MAX):
        store.put(b"%08d" % i, os.urandom(1000))
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            store.get_many([b"%08d" % i for i in range(READ_MAX)])

    thread = threading.Thread(target=read)
    thread.start()
    said = ""
    try:
        store.close(clean=False)
    except StoreError as error:  # or the thread was between two reads
        said = str(error)
    finally:
        over.set()
        thread.join()
    assert said in ("", "the store is in use by another thread, and cannot be closed")
