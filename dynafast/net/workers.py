"""The supervisor of ``serve --workers``: starts one process per worker, each a node, watches them, stops them together.

It holds no data and serves nobody, and what it knows that must last is in the roster (`dynafast.net.roster`).
Its duties:

1. Found at most one cluster. While no worker is known to be a member, worker 0 alone starts, and founds the cluster or
   enters it through the seeds of the user. The others enter through those that are ready.
2. Say "ready" once, when every worker is ready that is not over.
3. Start a worker anew that ended unasked, after a pause that doubles; give up, and stop all, when that does not help.
   One whose node has left, or is refused by its cluster, is over: the others go on.
4. When told to stop, tell all, wait, and kill what does not end in time.
5. Be needed: each worker ends when the pipe that its supervisor holds is closed (`dynafast.cli.worker`).
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
import trio

from dynafast.config import Address, Settings, default_name, parse_address
from dynafast.errors import ConfigError, DynafastError, RefusedError, WorkerFailedError
from dynafast.net.logs import configure_logging
from dynafast.net.roster import Member, Roster

LEFT, FAILED = "left", "failed"  # first words of what a worker says at its end
# A worker looks for modules in the current folder only if its supervisor does: that may be any folder.
COMMAND = (sys.executable, *([] if sys.path[0] == os.getcwd() else ["-P"]), "-m", "dynafast", "worker")
LINE_MAX = 65_536
USAGE = 2  # exit status: a setting is wrong

log = structlog.get_logger("dynafast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the supervisor waits for what; seconds."""

    pause_min: float = 0.2  # before the first restart of a worker
    pause_max: float = 10.0
    quick: float = 30.0  # a worker that is ready so long has been started well
    tries: int = 7  # in a row that end before that, until the supervisor gives up
    stop: float = 20.0  # low: SIGKILL amid the last flush; high: a stuck worker delays the stop


def supervise(settings: Settings) -> None:
    """Run the workers until SIGTERM or SIGINT, or until all are over.

    Raises:
        ConfigError: a setting or the folder is not fit; no worker runs any more.
        RefusedError: all have ended, and a worker's cluster has refused it.
        WorkerFailedError: a worker ended again and again, or could not be stopped in good order.
    """
    configure_logging()
    roster = open_roster(settings)
    supervisor = Supervisor(settings, roster, count_workers(settings, roster))
    trio.run(supervisor.run)
    if supervisor.error is not None:
        raise supervisor.error


def open_roster(settings: Settings) -> Roster:
    """Return the roster of the folder; what is written to disk is the business of the caller. Raises ConfigError."""
    node = settings.node
    roster = Roster.load(node.data)
    if roster is None or not roster.members:
        if node.name is None and node.listen.port == 0:
            raise ConfigError(f"name must be given with workers when listen has no port, got {str(node.listen)!r}")
        name = node.name or default_name(socket.gethostname(), node.listen.port)
        return Roster(folder=node.data, name=name, host=node.host or name)
    if node.name is not None and node.name != roster.name:
        raise ConfigError(
            f"name must stay {roster.name!r}, which the workers of this folder are called after, got {node.name!r}: "
            "leave it out"
        )
    roster.host = node.host or roster.host
    return roster


def count_workers(settings: Settings, roster: Roster) -> int:
    """Return how many workers there are to be, the settings of all of which are good. Raises ConfigError."""
    node = settings.node
    least = max((index + 1 for index, member in roster.members.items() if not member.gone), default=0)
    if node.workers == "auto":
        count = max(_processors(), least)
    else:
        count = node.workers or 1
        if count < least:
            raise ConfigError(
                f"workers must be at least {least}, as many as have data in {roster.folder}, got {count}: "
                f"the others must leave first, as in dynafast leave {roster.name}-{least - 1}"
            )
    settings.for_worker(count - 1, name=roster.name, host=roster.host)
    if node.resp is not None and node.resp.host == node.listen.host and 0 not in (node.resp.port, node.listen.port):
        apart = abs(node.resp.port - node.listen.port)
        if apart < count:
            raise ConfigError(
                f"resp must be at least {count} ports away from listen, since {count} workers take ports one after "
                f"the other, got {str(node.resp)!r} and {str(node.listen)!r}"
            )
    return count


def _processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker:
    """One worker over all its processes."""

    index: int
    name: str
    leads: bool  # it need not wait for another to be ready
    ready: bool = False  # has been so, in one of its processes
    over: bool = False  # there is no process, and none will come
    address: str = ""
    resp: str = ""
    ready_since: float | None = None  # its present process
    failures: int = 0  # in a row
    left: bool = False
    why: dict[str, Any] = field(default_factory=dict)  # what its last process said of its end

    @property
    def reason(self) -> str:
        """Why its last process ended, as far as that one knew."""
        return str(self.why.get("message", ""))


class Supervisor:
    """Runs *count* workers. After `run`, `error` is how it ended: None if well.

    Args:
        settings: of all. roster: of their folder.
        command: runs one worker; its name is appended.
        patience: how long to wait.
    """

    def __init__(
        self,
        settings: Settings,
        roster: Roster,
        count: int,
        *,
        command: Sequence[str] = COMMAND,
        patience: Patience | None = None,
    ) -> None:
        self.error: DynafastError | None = None
        self._settings, self._roster = settings, roster
        self._command = tuple(command)
        self._patience = patience or Patience()
        self._stopping = trio.Event()
        self._changed = trio.Event()  # a worker has become ready, or is over
        self._announced = False
        self._cluster = ""
        gone = {index for index, member in roster.members.items() if member.gone}
        present = [index for index in range(count) if index not in gone]
        members = [index for index in present if index in roster.members]
        self._workers = [
            _Worker(index=index, name=f"{roster.name}-{index}", leads=index in (members or present[:1]))
            for index in present
        ]
        self._skipped = sorted(gone & set(range(count)))

    async def run(self) -> None:
        """Run until all workers are over, or until SIGTERM or SIGINT."""
        self._roster.save()
        for index in self._skipped:
            where = self._roster.folder / str(index)
            log.info("worker.gone", worker=f"{self._roster.name}-{index}", hint=f"remove {where} to have a new one")
        if not self._workers:
            raise RefusedError("all workers of this folder have left their cluster for ever: use an empty folder")
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._await_signal, signals)
                async with trio.open_nursery() as crew:
                    for worker in self._workers:
                        crew.start_soon(self._keep, worker)
                nursery.cancel_scope.cancel()

    async def _await_signal(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            log.info("stop.asked", signal=signal.Signals(number).name)
            self.stop()

    def stop(self) -> None:
        """Let all workers end, and start none any more."""
        self._stopping.set()
        self._tell()

    async def _keep(self, worker: _Worker) -> None:
        """Run one worker, process after process, until it is over."""
        try:
            while (seeds := await self._seeds(worker)) is not None:
                status = await self._run_process(worker, seeds)
                if self._stopping.is_set():
                    self._judge_stop(worker, status)
                    return
                if self._is_over(worker, status):
                    return
                await self._pause(worker, status)
        finally:
            worker.over = True
            self._tell()

    async def _seeds(self, worker: _Worker) -> tuple[Address, ...] | None:
        """Wait until the worker may start; return through whom it may enter the cluster. None: it may not start."""
        while not self._stopping.is_set():
            ready = tuple(parse_address(other.address) for other in self._workers if other.ready and not other.over)
            if worker.leads or ready:
                return () if worker.leads else ready
            if all(other.over for other in self._workers if other.leads):
                if self._settings.node.join:
                    return ()
                self._refuse(worker, "no other worker is left to enter the cluster through: give --join")
                return None
            await self._changed.wait()
        return None

    async def _run_process(self, worker: _Worker, seeds: tuple[Address, ...]) -> int:
        """Run one process of the worker, and return its exit status: below 0 if a signal ended it."""
        member = self._roster.members.get(worker.index, Member())
        told = self._settings.for_worker(
            worker.index,
            name=self._roster.name,
            host=self._roster.host,
            seeds=seeds,
            listen_port=member.listen,
            resp_port=member.resp,
        )
        worker.why, worker.ready_since = {}, None
        try:
            process = await trio.lowlevel.open_process(
                [*self._command, worker.name],
                stdin=subprocess.PIPE,  # held until the process has ended: what it lives by
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the supervisor, which then tells its workers
            )
        except OSError as error:
            worker.why = {"message": f"cannot start a process: {error.strerror}"}
            return 1
        log.info("worker.started", worker=worker.name, pid=process.pid)
        assert process.stdin is not None
        assert process.stdout is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_told, worker, process)
            with contextlib.suppress(trio.BrokenResourceError):  # it has ended already
                await process.stdin.send_all(told.to_json().encode() + b"\n")
            async for line in _lines(process.stdout):
                self._hear(worker, line)
            status = await process.wait()
            nursery.cancel_scope.cancel()
        await process.stdin.aclose()
        await process.stdout.aclose()
        return status

    async def _end_when_told(self, worker: _Worker, process: trio.Process) -> None:
        await self._stopping.wait()
        process.terminate()
        with trio.move_on_after(self._patience.stop):
            await process.wait()
            return
        log.error("worker.killed", worker=worker.name, after_s=self._patience.stop)
        process.kill()

    def _hear(self, worker: _Worker, line: str) -> None:
        """Take note of what a worker says on stdout."""
        word, _, rest = line.partition(" ")
        if word == "ready":
            _, worker.address, cluster, *more = rest.split()
            worker.resp = "".join(part.removeprefix("resp=") for part in more if part.startswith("resp="))
            self._cluster = cluster
            worker.ready, worker.ready_since = True, trio.current_time()
            log.info("worker.ready", worker=worker.name, address=worker.address)
            self._remember(worker, gone=False)
            self._tell()
        elif word == LEFT:
            worker.left = True
        elif word == FAILED:
            worker.why = json.loads(rest)
        else:
            print(line, flush=True)  # noqa: T201 - "created cluster ..." is for the user

    def _remember(self, worker: _Worker, *, gone: bool) -> None:
        node = self._settings.node
        member = self._roster.members.setdefault(worker.index, Member())
        member.gone = gone
        if node.advertise is None or node.advertise.port == 0:  # else the port told is not the one listened on
            member.listen = parse_address(worker.address).port if worker.address else member.listen
        if worker.resp:
            member.resp = parse_address(worker.resp).port
        try:
            self._roster.save()
        except ConfigError as error:  # a full disk, perhaps: no reason to stop who serves
            log.warning("roster.not_saved", why=str(error))

    def _tell(self) -> None:
        """Wake who waits for a worker, and say once that all are ready."""
        self._changed.set()
        self._changed = trio.Event()
        at_work = [worker for worker in self._workers if not worker.over]
        if self._announced or self._stopping.is_set() or not at_work or not all(worker.ready for worker in at_work):
            return
        self._announced = True
        words = ["ready", self._roster.name, ",".join(worker.address for worker in at_work), self._cluster]
        if any(worker.resp for worker in at_work):
            words.append(f"resp={','.join(worker.resp for worker in at_work)}")
        print(*words, flush=True)  # noqa: T201

    def _is_over(self, worker: _Worker, status: int) -> bool:
        """Whether a worker that ended unasked is to stay so."""
        if worker.left:
            log.info("worker.left", worker=worker.name)
            self._remember(worker, gone=True)
            return True
        if worker.why.get("refused"):
            self._refuse(worker, worker.reason, code=worker.why.get("code"))
            if worker.why.get("code") == "removed":
                self._remember(worker, gone=True)
            return True
        if status == USAGE and not worker.ready:
            self._fail(ConfigError(f"worker {worker.name}: {worker.reason or 'ended with status 2'}"))
            return True
        well = worker.ready_since is not None and trio.current_time() - worker.ready_since > self._patience.quick
        worker.failures = 1 if well else worker.failures + 1
        if worker.failures >= self._patience.tries:
            self._fail(
                WorkerFailedError(
                    f"worker {worker.name} could not be kept running: it ended {worker.failures} times in a row, "
                    f"at last {_ending(worker, status)}"
                )
            )
            return True
        return False

    async def _pause(self, worker: _Worker, status: int) -> None:
        pause = min(self._patience.pause_max, self._patience.pause_min * 2 ** (worker.failures - 1))
        log.error("worker.died", worker=worker.name, how=_ending(worker, status), restart_in_s=pause)
        with trio.move_on_after(pause):
            await self._stopping.wait()

    def _judge_stop(self, worker: _Worker, status: int) -> None:
        """Take note of a worker that did not stop as it should. One that was only starting may end by the signal."""
        if status not in (0, -signal.SIGTERM) and self.error is None:
            self.error = WorkerFailedError(f"worker {worker.name} did not stop well, but {_ending(worker, status)}")

    def _refuse(self, worker: _Worker, why: str, *, code: str | None = None) -> None:
        log.error("worker.refused", worker=worker.name, code=code, why=why)
        if self.error is None:
            self.error = RefusedError(f"worker {worker.name}: {why}", code=code)

    def _fail(self, error: DynafastError) -> None:
        """Stop everything for this reason."""
        if self.error is None or isinstance(self.error, RefusedError):
            self.error = error
        self.stop()


def _ending(worker: _Worker, status: int) -> str:
    try:
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    except ValueError:  # a signal without a name
        how = f"by signal {-status}"
    return f"{how}: {worker.reason}" if worker.reason else how


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[str]:
    """Yield each line that comes; what has no end within `LINE_MAX` bytes is dropped."""
    held = b""
    async for piece in stream:
        *lines, held = (held + piece).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
        held = b"" if len(held) > LINE_MAX else held
