"""A cluster whose machines have several workers each: ``dynafast serve --workers``, all on loopback."""

import os
import re
import selectors
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load.errors import LoadError
from bench.machine import children
from dynafast import Client
from dynafast.errors import DynafastError
from dynafast.testing import COMMAND

START_S = 60.0
STOP_S = 30.0
POLL_S = 0.05
READY = re.compile(rb"^ready \S+ (\S+) \S+(?: resp=(\S+))?\n", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crews:
    """Addresses of all workers, of what they serve redis clients at, and their processes."""

    addresses: tuple[str, ...]
    resp: tuple[str, ...]
    pids: tuple[int, ...]


@contextmanager
def crews(machines: int, *, workers: int, founding: Sequence[str], options: Sequence[str]) -> Iterator[Crews]:
    """Run so many machines with so many workers each.

    Args:
        machines: how many.
        workers: of each.
        founding: what the founder of the cluster is told about it: ``--replicas`` and so on.
        options: what all are told.

    Raises:
        LoadError: they were not ready in time, or do not agree.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        addresses: list[str] = []
        resp: list[str] = []
        pids: list[int] = []
        for number in range(machines):
            name = f"m{number}"
            where = ["--data", str(folder / name), "--name", name, "--listen", "127.0.0.1:0", "--workers", str(workers)]
            join = ["--join", addresses[0]] if addresses else founding
            with (folder / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(
                    [*COMMAND, *where, *join, *options], stdout=subprocess.PIPE, stderr=log, start_new_session=True
                )
            stack.callback(_end, process)
            ready = _ready(process, folder / f"{name}.log")
            addresses += ready[1].decode().split(",")
            resp += ready[2].decode().split(",") if ready[2] else []
            pids += [process.pid, *children(process.pid)]
        _wait_until_clean(addresses)
        yield Crews(addresses=tuple(addresses), resp=tuple(resp), pids=tuple(pids))


def _ready(process: subprocess.Popen[bytes], log: Path) -> re.Match[bytes]:
    """Return the line that says where the workers are."""
    deadline = time.monotonic() + START_S
    said = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
        while (ready := READY.search(said)) is None:
            piece = b""
            if selector.select(max(0.0, deadline - time.monotonic())):
                piece = os.read(process.stdout.fileno(), 4096)  # type: ignore[union-attr]
            if not piece:
                raise LoadError(f"the workers were not ready: {log.read_text(errors='replace').splitlines()[-5:]}")
            said += piece
    return ready


def _wait_until_clean(addresses: Sequence[str]) -> None:
    """Return when all replicas are where they belong."""
    deadline = time.monotonic() + START_S
    found: object = None
    with Client(list(addresses)) as client:
        while time.monotonic() < deadline:
            try:
                found = client.check()
            except DynafastError as error:
                found = error
            else:
                if not (found["divergent"] or found["unreachable"]):
                    return
            time.sleep(POLL_S)
    raise LoadError(f"the workers did not agree within {START_S:.0f} s: {found}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()  # its workers end when they see that
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
