"""The thread that makes logs durable: judged by the shim, in a folder whose logs are written here and not by RocksDB.

So nobody else syncs anything. See `tests.durability`.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.durability import Event, ShimLog

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="made of inotify, which Linux alone has")

_ROOT = Path(__file__).parents[2]
_DEADLINE_S = 60.0

_BEGIN = """
import ctypes, os, select, sys, time
from pathlib import Path
from dynafast._ext import flusher as module
from dynafast.errors import StoreError

folder, fault = Path(sys.argv[1]), sys.argv[2]
flusher = module.LogFlusher(folder)

def append(name, text):
    with open(folder / name, "ab", buffering=0) as file:
        file.write(text)

def ended():
    assert select.select([flusher.done], [], [], 30)[0], "no end"
    return flusher.end()

def flush():
    flusher.begin()
    return ended()

def answer():
    append("answers", b"x")

def held():
    names = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.append(Path(os.readlink(f"/proc/self/fd/{fd}")))
        except FileNotFoundError:  # what listed them
            pass
    return sorted(name.name for name in names if name.parent == folder)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that `shim` watches."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture(params=["inotify", "no inotify"])
def watched(request: pytest.FixtureRequest, shim: ShimLog) -> None:
    shim.fail(watch=request.param == "no inotify")


def play(shim: ShimLog, folder: Path, program: str) -> None:
    """Run *program* in a process of its own, under the shim."""
    subprocess.run(
        [sys.executable, "-c", _BEGIN + textwrap.dedent(program), folder, shim.environment()["DURABILITY_FAULT"]],
        env={**os.environ, **shim.environment()},
        cwd=_ROOT,
        check=True,
        timeout=_DEADLINE_S,
    )


def syncs(shim: ShimLog, after: Event) -> list[str]:
    """Return the names of what was synced later."""
    return [event.path.name for event in shim.events() if event.kind == "sync-end" and event.index > after.index]


@pytest.mark.usefixtures("watched")
def test_every_log_that_has_grown_is_synced_with_its_name(shim: ShimLog, folder: Path, tmp_path: Path) -> None:
    """One that gives way to a newer one between two flushes, one that comes and goes between two, and the newest."""
    play(
        shim,
        folder,
        """
        append("000004.log", b"a")
        flush()
        answer()
        append("000004.log", b"b")
        append("000007.log", b"c")
        append("000009.log", b"d")
        flush()
        answer()
        append("000009.log", b"e")
        flush()
        answer()
        """,
    )
    answers = shim.writes(folder, "answers")
    logs = shim.writes(folder)
    for write, answered in zip(logs, [0, 1, 1, 1, 2], strict=True):
        assert shim.is_durable(write, before=answers[answered])
        assert answered == 0 or not shim.is_durable(write, before=answers[answered - 1])
    assert syncs(shim, answers[1]) == ["000009.log"]  # a log that has not grown costs nothing
    shim.cut(folder, tmp_path / "cut")
    assert {path.name: path.read_text() for path in (tmp_path / "cut").glob("*.log")} == {
        "000004.log": "ab",
        "000007.log": "c",
        "000009.log": "de",
    }


@pytest.mark.usefixtures("watched")
def test_deleted_logs_are_let_go(shim: ShimLog, folder: Path) -> None:
    """Also when nothing is flushed any more: what is held takes up room on the disk."""
    play(
        shim,
        folder,
        """
        append("000004.log", b"a")
        append("000006.log", b"b")
        flush()
        assert held() == ["000004.log", "000006.log"]
        (folder / "000004.log").unlink()
        flush()
        assert held() == ["000006.log"]
        (folder / "000006.log").unlink()
        deadline = time.monotonic() + 20
        while held():
            assert time.monotonic() < deadline, held()
            time.sleep(0.01)
        """,
    )


@pytest.mark.usefixtures("watched")
def test_files_come_and_go_during_flushes(shim: ShimLog, folder: Path) -> None:
    """Logs that are deleted as they are looked at are no error, and those that stay are durable."""
    play(
        shim,
        folder,
        """
        for number in range(300):
            append(f"{number:06}.log", b"a")
            append(f"{number:06}.sst", b"b")
            flusher.begin()
            (folder / f"{number + 1:06}.log").touch()
            (folder / f"{number // 2:06}.log").unlink(missing_ok=True)
            ended()
        flush()
        answer()
        assert len(held()) == 151
        """,
    )
    (answer,) = shim.writes(folder, "answers")
    left = [write for write in shim.writes(folder) if write.path.exists()]
    assert len(left) == 150
    assert all(shim.is_durable(write, before=answer) for write in left)


def test_a_failed_sync_fails_for_good(shim: ShimLog, folder: Path) -> None:
    """Of that log and of all, in the thread and out of it."""
    play(
        shim,
        folder,
        """
        def fails(call):
            try:
                call()
            except StoreError as error:
                assert "sync a log: Input/output error" in str(error)
            else:
                raise AssertionError("no error")

        append("000004.log", b"a")
        flush()
        append("000004.log", b"b")
        Path(fault + ".sync").touch()
        fails(flush)
        Path(fault + ".sync").unlink()
        append("000005.log", b"c")
        fails(flush)
        fails(flusher.sync)
        flusher.stop()
        flusher.close()
        """,
    )


def test_a_flush_covers_what_was_accepted_before_its_sync(shim: ShimLog, folder: Path) -> None:
    play(
        shim,
        folder,
        """
        append("000004.log", b"a")
        flusher.accepted(1)
        Path(fault + ".hang").touch()
        flusher.begin()
        deadline = time.monotonic() + 30
        while "sync-begin" not in Path(os.environ["DURABILITY_LOG"]).read_text():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        append("000004.log", b"b")
        flusher.accepted(2)
        Path(fault + ".hang").unlink()
        assert ended() == 1
        assert flush() == 2
        """,
    )


def test_a_flush_needs_no_interpreter(shim: ShimLog, folder: Path) -> None:
    """It ends while the only thread of Python waits for that and keeps the interpreter's lock."""
    play(
        shim,
        folder,
        """
        class Poll(ctypes.Structure):
            _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("happened", ctypes.c_short)]

        append("000004.log", b"a")
        flusher.begin()
        waiting = Poll(flusher.done, select.POLLIN, 0)
        assert ctypes.PyDLL(None).poll(ctypes.byref(waiting), ctypes.c_ulong(1), 30_000) == 1
        flusher.end()
        """,
    )


def test_the_end_waits_for_a_flush_but_not_for_ever(shim: ShimLog, folder: Path) -> None:
    play(
        shim,
        folder,
        """
        append("000004.log", b"a")
        Path(fault + ".hang").touch()
        flusher.begin()
        module.JOIN_S = 0.05
        try:
            flusher.stop()
        except StoreError as error:
            assert "has not ended" in str(error)
        else:
            raise AssertionError("no error")
        module.JOIN_S = 30.0
        Path(fault + ".hang").unlink()
        flusher.stop()
        flusher.stop()
        flusher.close()
        answer()
        """,
    )
    (write,), (answer,) = shim.writes(folder), shim.writes(folder, "answers")
    assert shim.is_durable(write, before=answer)


def test_the_thread_leaves_signals_to_the_process(shim: ShimLog, folder: Path) -> None:
    """A signal interrupts the thread of Python, which waits."""
    play(
        shim,
        folder,
        """
        import signal

        append("000004.log", b"a")
        flush()
        tasks = set(os.listdir("/proc/self/task")) - {str(os.getpid())}
        (mask,) = (
            int(line.split()[1], 16)
            for task in tasks
            for line in open(f"/proc/self/task/{task}/status")
            if line.startswith("SigBlk")
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            assert mask >> (number - 1) & 1
        """,
    )
