"""What a process had really made durable: a preloaded shim's log, questions to it, and a power cut played from it.

A SIGKILL cannot show a missing fsync, because the page cache survives it. So a process under test runs with a shim
(``durability_shim.c``) that notes every write, sync and send in the order they happened::

    shim = ShimLog(build_shim(tmp_path), tmp_path / "shim", watch=data_folder, sockets=True)
    process = subprocess.Popen(command, env={**os.environ, **shim.environment()})
    ...                                    # talk to it, then kill it
    wal = shim.writes(data_folder, "*.log")
    assert shim.is_durable(wal[3], before=answer)
    shim.cut(data_folder, other_folder)    # what a power cut would have left

A line of the log is ``pid TAB kind TAB fields`` with fields by kind:
``create PATH``, ``empty PATH`` (opened with O_TRUNC), ``write PATH OFFSET LENGTH HEX``, ``truncate PATH LENGTH``,
``rename FROM TO``, ``sync-begin PATH ID``, ``sync-end PATH ID`` (only after success), ``send PORT PEER LENGTH HEX``.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

_SOURCE = Path(__file__).with_name("durability_shim.c")
DATA_MAX = 1024  # bytes of a write or send that the log keeps


def build_shim(folder: Path) -> Path:
    """Compile the shim into *folder* and return it."""
    library = folder / "durability_shim.so"
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    subprocess.run(
        [compiler, "-O1", "-Wall", "-Werror", "-fPIC", "-shared", "-o", library, _SOURCE, "-ldl"], check=True
    )
    return library


@dataclass(frozen=True, slots=True)
class Event:
    """One line; fields that its kind does not have keep their default."""

    index: int  # place in the log: what has a larger one was noted later
    pid: int
    kind: str
    path: Path = Path()
    offset: int = 0
    length: int = 0  # of the whole write or send, or what a truncate left
    data: bytes = b""  # its first DATA_MAX bytes
    sync: int = 0  # the same number at begin and end, within a process
    to: Path = Path()
    port: int = 0  # of the sender
    peer: int = 0


def _event(index: int, line: str) -> Event:
    pid, kind, *fields = line.split("\t")
    make = {"index": index, "pid": int(pid), "kind": kind}
    match kind, fields:
        case "send", [port, peer, length, data]:
            return Event(**make, port=int(port), peer=int(peer), length=int(length), data=bytes.fromhex(data))
        case "write", [path, offset, length, data]:
            content = bytes.fromhex(data)
            return Event(**make, path=Path(path), offset=int(offset), length=int(length), data=content)
        case "truncate", [path, length]:
            return Event(**make, path=Path(path), length=int(length))
        case "rename", [path, to]:
            return Event(**make, path=Path(path), to=Path(to))
        case (("sync-begin" | "sync-end"), [path, sync]):
            return Event(**make, path=Path(path), sync=int(sync))
        case (("create" | "empty"), [path]):
            return Event(**make, path=Path(path))
    raise ValueError(f"line {index + 1} of the shim's log is malformed: {line!r}")


@dataclass(slots=True)
class _Disk:
    """What the watched files have been given, and how much of it a power cut leaves.

    A path that is in neither dictionary was never written: it is as it was before.
    """

    written: dict[Path, int] = field(default_factory=dict)  # length
    durable: dict[Path, int] = field(default_factory=dict)  # length
    unlisted: set[Path] = field(default_factory=set)  # made, but their folder was not synced since
    _under_way: dict[tuple[int, int], tuple[int, set[Path]]] = field(default_factory=dict)

    def play(self, events: Iterable[Event]) -> "_Disk":
        for event in events:
            path = event.path
            if event.kind in ("create", "empty"):
                self.written[path] = self.durable[path] = 0
                if event.kind == "create":
                    self.unlisted.add(path)
            elif event.kind == "write":
                self.durable.setdefault(path, event.offset)  # what was there before the shim was
                self.written[path] = max(self.written.get(path, 0), event.offset + event.length)
            elif event.kind == "truncate":
                self.written[path] = event.length
                self.durable[path] = min(self.durable.get(path, event.length), event.length)
            elif event.kind == "rename":
                self._rename(path, event.to)
            elif event.kind == "sync-begin":
                here = {made for made in self.unlisted if made.parent == path}
                self._under_way[event.pid, event.sync] = (self.written.get(path, 0), here)
            elif event.kind == "sync-end":
                length, listed = self._under_way.pop((event.pid, event.sync))
                self.unlisted -= listed
                if path in self.written:
                    self.durable[path] = max(self.durable[path], min(length, self.written[path]))
        return self

    def _rename(self, old: Path, new: Path) -> None:
        # A power cut before the folder's sync may leave either name; here the new one stays.
        for lengths in (self.written, self.durable):
            if old in lengths:
                lengths[new] = lengths.pop(old)
        self.unlisted.discard(old)
        self.unlisted.discard(new)


class ShimLog:
    """The log of every process that ran with `environment`.

    Args:
        library: what `build_shim` returned.
        folder: where the log is kept; not in the watched folder.
        watch: whose files are noted, those of folders in it too.
        sockets: note what is sent over TCP as well.
    """

    def __init__(self, library: Path, folder: Path, *, watch: Path, sockets: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._library = library
        self._watch = watch.resolve()  # the shim compares with what the kernel calls a file
        self._log = folder / "events.log"
        self._fault = folder / "fault"
        self._sockets = sockets
        self._log.touch()
        self._read = 0  # bytes of the log that are in _events
        self._events: list[Event] = []

    def environment(self) -> dict[str, str]:
        """Return the variables that load the shim; a library that is preloaded already (a sanitizer) stays first."""
        preload = [part for part in (os.environ.get("LD_PRELOAD"), str(self._library)) if part]
        return {
            "LD_PRELOAD": " ".join(preload),
            "DURABILITY_LOG": str(self._log),
            "DURABILITY_WATCH": str(self._watch),
            "DURABILITY_SOCKETS": "1" if self._sockets else "0",
            "DURABILITY_FAULT": str(self._fault),
        }

    def fail(self, *, writes: bool = False, syncs: bool = False, hang: bool = False, watch: bool = False) -> None:
        """From now on let some of these fail, or none.

        Writes to ``*.log`` files (no space); their syncs (input/output error), or their syncs *hang* until the next
        call; to *watch* a folder by inotify (too many).
        """
        for wanted, name in ((writes, "write"), (syncs, "sync"), (hang, "hang"), (watch, "watch")):
            switch = self._fault.with_suffix(f".{name}")
            if wanted:
                switch.touch()
            else:
                switch.unlink(missing_ok=True)

    def events(self) -> list[Event]:
        """Return everything noted so far, in order."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            whole, _, _ = log.read().rpartition(b"\n")  # the last line may be under way
        if whole:
            self._read += len(whole) + 1
            for line in whole.decode("ascii").split("\n"):
                self._events.append(_event(len(self._events), line))
        return self._events

    def writes(self, folder: Path, pattern: str = "*.log") -> list[Event]:
        """Return the writes to the files of *folder* with such a name; the pattern of RocksDB's log is the default."""
        return [
            event
            for event in self.events()
            if event.kind == "write" and event.path.parent == folder.resolve() and fnmatch(event.path.name, pattern)
        ]

    def sends(self, *, port: int) -> list[Event]:
        """Return what was sent from the local TCP port *port*: the answers of a server that listens there."""
        return [event for event in self.events() if event.kind == "send" and event.port == port]

    def is_durable(self, write: Event, *, before: Event | None = None) -> bool:
        """Return whether a sync of its file that began after *write* had ended well before *before* (or ever)."""
        events = self.events()[write.index + 1 : None if before is None else before.index]
        begun = {(event.pid, event.sync) for event in events if event.kind == "sync-begin" and event.path == write.path}
        return any(event.kind == "sync-end" and (event.pid, event.sync) in begun for event in events)

    def cut(self, source: Path, target: Path, *, tail: Callable[[int], int] = lambda _: 0) -> dict[str, int]:
        """Copy *source* (no process has it open) to *target* as a power cut would have left it.

        Every file loses what no sync covered, but for the first ``tail(n)`` of its *n* uncovered bytes; a file made
        since the last sync of its folder is gone. Return how many bytes each file lost, for those that lost some.
        """
        disk = _Disk().play(self.events())
        lost: dict[str, int] = {}
        target.mkdir(parents=True)
        for path in sorted(source.resolve().iterdir()):
            size = path.stat().st_size
            kept = 0
            if path not in disk.unlisted:
                durable = min(size, disk.durable.get(path, size))
                kept = durable + tail(size - durable)
                shutil.copyfile(path, target / path.name)
                os.truncate(target / path.name, kept)
            if kept < size:
                lost[path.name] = size - kept
        return lost
