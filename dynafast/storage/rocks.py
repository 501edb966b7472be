"""The store on disk: RocksDB through rocksdict, one column family for each `Family`.

Writes reach the system's page cache before a call returns, so a killed process loses nothing that was accepted;
a power cut loses what no `sync` has covered. Every error of rocksdict becomes one of `dynafast.errors` here.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rocksdict import DbClosedError, Rdict, WriteBatch

from dynafast._ext.sealed import SEAL_SIZE, put_sealed, seal, unseal
from dynafast.errors import CorruptRecordError, StoreBusyError, StoreError, StoreFormatError
from dynafast.storage.flushing import Flusher, ThreadFlusher
from dynafast.storage.interface import ON_DISK, SCAN_SIZE, Batch, Family, Place, Until
from dynafast.storage.logs import check_log
from dynafast.storage.opening import FORMAT, begin, finish
from dynafast.storage.tuning import database_options, family_options, write_options

if sys.platform == "linux":
    from dynafast._ext.flusher import LogFlusher

_FAMILIES = {"default"} | {family.value for family in Family}  # RocksDB insists on "default"; it stays empty
_LOG_FILE = re.compile(r"MANIFEST-\d+|\d+\.log")
_DATA_FILE = re.compile(r"\d+\.(log|sst|blob)")
_OWN_FILE = re.compile(
    r"CURRENT|IDENTITY|LOCK|LOG|LOG\.old\.\d+|MANIFEST-\d+|OPTIONS-\d+(\.dbtmp)?|\d+\.(log|sst|blob|dbtmp)"
    r"|rocksdict-config\.json|lost\+found"  # the last: the folder may be a disk of its own
)
_LOCKED = re.compile(r"lock hold by current process|While lock file")
_IN_USE = "{} is open in another process: stop that one, or choose another folder"
_SIZES = ("rocksdb.total-sst-files-size", "rocksdb.total-blob-file-size", "rocksdb.cur-size-all-mem-tables")
_NOTHING = Batch()  # beside what is staged; never added to


class RocksStore:
    """A `Store` in a folder of its own, made if it is missing.

    Raises:
        StoreFormatError: the folder holds something else or another version's data, or another process uses it.
        CorruptRecordError: its files are damaged in a way that may have cost acknowledged writes.
        StoreError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._is_open = False
        self._logs: LogFlusher | None = None  # other systems than Linux have none
        self._lost: StoreError | None = None  # a failed sync: no later one can make up for it
        self._path = path
        self._accepted_bytes = self._synced_bytes = 0
        self.staged: dict[bytes, bytes] = {}
        self.sequence = 0
        _prepare_folder(path)
        try:
            self._database = Rdict(str(path), database_options(), family_options())
        except Exception as error:
            raise _opening_error(path, error) from error
        self._is_open = True
        self._database.set_write_options(write_options())  # the families inherit them
        self._families = {family: self._database.get_column_family(family.value) for family in Family}
        self._handles = {family: self._database.get_column_family_handle(family.value) for family in Family}
        self._objects = self._families[Family.OBJECTS]
        try:
            if sys.platform == "linux":
                self._logs = LogFlusher(path)
            self.boot, self.was_clean = begin(self)
        except OSError as error:
            self.close(clean=False)
            raise StoreError(f"cannot watch {path}: {error.strerror}") from error
        except StoreError as error:
            self.close(clean=False)
            raise type(error)(f"{path}: {error}") from error
        self.sequence = 0

    @property
    def unsynced_bytes(self) -> int:
        """See `Store`."""
        return self._accepted_bytes - self._synced_bytes

    def get(self, key: bytes) -> bytes | None:
        """See `Store`."""
        if key in self.staged:
            return unseal(key, self.staged[key])
        try:
            stored = self._objects.get(key)
        except Exception as error:
            raise _store_error(error) from error
        return None if stored is None else unseal(key, stored)

    def glance(self, key: bytes) -> bytes | Place | None:
        """See `Store`.

        RocksDB calls it "may exist": a read of the write buffers, the filters and the blocks in its cache alone. What
        it finds there is the object. Values in blob files are never among that.
        """
        if key in self.staged:
            return unseal(key, self.staged[key])
        try:
            perhaps, stored = self._objects.key_may_exist(key, fetch=True)  # type: ignore[misc] # it is a pair then
        except Exception as error:
            raise _store_error(error) from error
        if stored:  # an empty value is none: the index of a table is not in the cache, and no object is empty
            return unseal(key, stored)
        return ON_DISK if perhaps else None

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | StoreError | None]:
        """See `Store`; rocksdict lets go of the interpreter's lock for a list of keys, and only then."""
        try:
            found: Any = self._objects.get(list(keys))
        except Exception as error:  # noqa: BLE001 - of one of them: each by itself tells which
            return [_store_error(error)] if len(keys) == 1 else [self.get_many([key])[0] for key in keys]
        return [None if stored is None else _unsealed(key, stored) for key, stored in zip(keys, found, strict=True)]

    def commit(self) -> None:
        """See `Store`."""
        if len(self.staged) == 1:  # less work than a batch of one
            self._put_one(*self.staged.popitem())
        elif self.staged:
            try:
                self._submit(_NOTHING)
            finally:
                self.staged.clear()

    def put(self, key: bytes, value: bytes) -> int:
        """See `Store`."""
        if self.staged:
            return self._submit(Batch([(Family.OBJECTS, key, value)]))
        return self._put_one(key, seal(key, value))

    def _put_one(self, key: bytes, sealed: bytes) -> int:
        try:
            self._objects.put(key, sealed)
        except Exception as error:
            raise _store_error(error) from error
        self._accepted_bytes += len(key) + len(sealed) - SEAL_SIZE
        self.sequence += 1
        return self.sequence

    def read(self, family: Family, key: bytes) -> bytes | None:
        """See `Store`."""
        if family is Family.OBJECTS:
            return self.get(key)
        try:
            stored = self._families[family].get(key)
        except Exception as error:
            raise _store_error(error) from error
        return None if stored is None else unseal(key, stored)

    def write(self, batch: Batch) -> int:
        """See `Store`."""
        if not batch.ops:
            self._check_open()
            return self.sequence
        return self._submit(batch)

    def _submit(self, batch: Batch) -> int:
        """Write what is staged and *batch*."""
        self._check_open()
        changes = WriteBatch(raw_mode=True)
        changes.set_default_column_family(self._handles[Family.OBJECTS])  # less work than naming it each time
        size = put_sealed(changes.put, self.staged)
        for family, key, change in batch.ops:
            size += len(key)
            if change is None:
                changes.delete(key, self._handles[family])
            elif isinstance(change, Until):
                changes.delete_range(key, change.end, self._handles[family])
            else:
                changes.put(key, seal(key, change), self._handles[family])
                size += len(change)
        try:
            self._database.write(changes)
        except Exception as error:
            raise _store_error(error) from error
        self.staged.clear()
        self._accepted_bytes += size
        self.sequence += 1
        return self.sequence

    def scan(
        self, family: Family, start: bytes, end: bytes | None, *, limit: int
    ) -> list[tuple[bytes, bytes | CorruptRecordError]]:
        """See `Store`."""
        result: list[tuple[bytes, bytes | CorruptRecordError]] = []
        size = 0
        if self.staged:
            self._submit(_NOTHING)
        try:
            # Not `items()`: at a damaged block that ends as if the range ended there. Here `status` tells.
            iterator = self._families[family].iter()
            try:
                iterator.seek(start)
                while len(result) < limit and size < SCAN_SIZE and iterator.valid():
                    key: bytes = iterator.key()
                    if end is not None and key >= end:
                        break
                    stored: bytes = iterator.value()
                    size += len(stored)
                    result.append((key, _unsealed(key, stored)))
                    iterator.next()
                iterator.status()
            finally:
                del iterator  # the traceback of an error would keep it, and it the folder's lock
        except Exception as error:
            raise _store_error(error) from error
        return result

    def sync(self) -> int:
        """See `Store`."""
        sequence, accepted_bytes = self.sequence, self._accepted_bytes
        self._check_open()

        def sync() -> int:
            if self._logs is None:
                self._database.flush_wal(sync=True)
            else:
                self._logs.sync()
            return sequence

        return self._synced(sync, accepted_bytes)

    def flusher(self) -> Flusher:
        """Return what syncs this store beside the thread that owns it; to be closed before the store is."""
        return ThreadFlusher(self.sync) if self._logs is None else _StoreFlusher(self, self._logs)

    def _synced(self, sync: Callable[[], int], accepted_bytes: int) -> int:
        """Return what *sync* does: the sequence number that is durable then, and at least so many bytes."""
        if self._lost is not None:
            raise StoreError(f"an earlier sync failed: {self._lost}") from self._lost
        try:
            sequence = sync()
        except Exception as error:
            self._lost = _store_error(error)
            raise self._lost from error
        self._synced_bytes = accepted_bytes
        return sequence

    def usage(self) -> tuple[int, int]:
        """See `Store`; the number counts each write until a flush or compaction has merged those of a key."""
        try:
            keys = self._objects.property_int_value("rocksdb.estimate-num-keys") or 0
            size = sum(family.property_int_value(name) or 0 for family in self._families.values() for name in _SIZES)
        except Exception as error:
            raise _store_error(error) from error
        return keys, size

    def close(self, *, clean: bool = True) -> None:
        """See `Store`; closing twice is no error."""
        if not self._is_open:
            return
        try:
            if clean:
                finish(self)
        finally:
            self._is_open = False
            self._handles.clear()  # RocksDB stays open as long as one of these is left
            try:
                with ExitStack() as closing:
                    closing.callback(self._database.close)  # the last one
                    for family in self._families.values():
                        closing.callback(family.close)
                    if self._logs is not None:
                        closing.callback(self._logs.close)
            except Exception as error:
                raise _store_error(error) from error

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreError("the store is closed")


class _StoreFlusher:
    """Syncs the logs of a `RocksStore` in a thread that needs no interpreter."""

    def __init__(self, store: RocksStore, logs: "LogFlusher") -> None:
        self._store = store
        self._logs = logs
        self._accepted_bytes = 0
        self.done = logs.done

    def begin(self) -> None:
        """See `Flusher`."""
        self._accepted_bytes = self._store._accepted_bytes
        self.accepted()
        self._logs.begin()

    def accepted(self) -> None:
        """See `Flusher`."""
        self._logs.accepted(self._store.sequence)

    def end(self) -> int:
        """See `Flusher`."""
        return self._store._synced(self._logs.end, self._accepted_bytes)

    def close(self) -> None:
        """See `Flusher`."""
        self._logs.stop()


def _unsealed(key: bytes, stored: bytes) -> bytes | CorruptRecordError:
    try:
        return unseal(key, stored)
    except CorruptRecordError as error:
        return error


def _store_error(error: Exception) -> StoreError:
    """Return what rocksdict's plain `Exception` with RocksDB's text means; raise any other error: a bug."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, DbClosedError):
        return StoreError("the store is closed")
    if type(error) is RuntimeError and "borrowed" in str(error):
        return StoreError("the store is in use by another thread, and cannot be closed")
    if type(error) is not Exception:
        raise error
    text = str(error)
    if text.startswith("Result incomplete"):
        return StoreBusyError(f"the store asks for a pause: {text}")
    if text.startswith("Corruption"):
        return CorruptRecordError(text)
    return StoreError(text)


def _opening_error(path: Path, error: Exception) -> StoreError:
    mapped = _store_error(error)
    if _LOCKED.search(str(error)):
        return StoreFormatError(_IN_USE.format(path))
    if isinstance(mapped, CorruptRecordError):
        return CorruptRecordError(
            f"{path} is damaged and may lack acknowledged writes, so it is not opened ({error}): "
            "move it away and let the node join again with an empty folder"
        )
    return type(mapped)(f"cannot open {path}: {error}")


def _prepare_folder(path: Path) -> None:
    """Make the folder if it is missing; refuse one that holds anything but a store of ours, untouched.

    A folder whose making was cut short by a crash is one of ours.
    """
    try:
        try:
            _make_folder(path)
        except FileNotFoundError as error:  # a place like /proc, where nothing can be made
            raise StoreError(f"cannot make {path}: choose another folder") from error
        sizes = {entry.name: entry.stat(follow_symlinks=False).st_size for entry in os.scandir(path)}
    except (FileExistsError, NotADirectoryError) as error:
        raise StoreFormatError(f"{path} is not a folder: choose another") from error
    except FileNotFoundError as error:  # between the listing and the look
        raise StoreFormatError(_IN_USE.format(path)) from error
    except OSError as error:
        raise StoreError(f"cannot use {path}: {error.strerror}") from error
    foreign = sorted(name for name in sizes if not _OWN_FILE.fullmatch(name))
    has_data = any(size and _DATA_FILE.fullmatch(name) for name, size in sizes.items())
    if "CURRENT" not in sizes:
        if foreign:
            raise StoreFormatError(f"{path} holds {foreign[0]}, so it is no store: choose an empty or new folder")
        if has_data:  # RocksDB would take it for a new database, and delete what it finds
            raise StoreFormatError(f"{path} holds data but lacks its file CURRENT: put it back, or choose another")
        return
    try:
        for name in sizes:
            if _LOG_FILE.fullmatch(name):
                check_log(path / name)
        families = set(Rdict.list_cf(str(path)))
    except FileNotFoundError as error:
        raise StoreFormatError(_IN_USE.format(path)) from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:
        raise _opening_error(path, error) from error
    if families != _FAMILIES and (has_data or not families < _FAMILIES):
        raise StoreFormatError(
            f"{path} has the column families {', '.join(sorted(families))}, format version {FORMAT} has "
            f"{', '.join(sorted(_FAMILIES))}: it belongs to another program or format, or its manifest is damaged; "
            "choose another folder"
        )


def _make_folder(path: Path) -> None:
    """Make *path* and what is missing above it so that a power cut does not take it away again."""
    if path.exists():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
