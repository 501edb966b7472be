"""Runs a load: starts its processes, lets them begin at the same moment, and adds up what they say."""

import base64
import dataclasses
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench._ext.driver import KIND_NAMES, clock_ns
from bench.load.errors import LoadError
from bench.load.histogram import Histogram
from bench.load.target import Target
from bench.load.workload import Workload
from bench.machine import cpu_s

ROOT = Path(__file__).parents[2]
START_S = 15.0  # for the processes to be there and connected
LEAD_S = 0.05  # from the signal to start until it starts
FILL_SHARE = {"reads": 0.0, "updates": 100.0, "inserts": 0.0, "changes": 0.0}
FILL_MAX_S = 600.0

Pace = tuple[float, float]  # seconds, requests per second


@dataclass(frozen=True, slots=True)
class Tick:
    """What was done until a moment.

    Attributes:
        at_s: since the start.
        done, failed: requests since then.
        latency: of those since the tick before.
        kinds: the same for each kind of request.
    """

    at_s: float
    done: int
    failed: int
    latency: Histogram
    kinds: dict[str, Histogram]


@dataclass(slots=True, kw_only=True)
class Result:
    """What a load found.

    Attributes:
        rate: requests answered per second.
        offered: requests per second that were due; None in a closed loop.
        done, failed: requests. unsent: were due, and no connection was free until the end. errors: why they failed.
        wrong: answers with another value than the key's; part of failed.
        versions: number of values that a get found -> how many gets; 16 stands for more, too.
        latency: of each kind. A failed request counts with the time it took.
        client_cores: processor time of the generator per second.
        server_cores: of the processes that were watched, the same; None if there were none.
        ticks: how it went, tick by tick.
    """

    seconds: float = 0.0
    offered: float | None = None
    rate: float = 0.0
    done: int = 0
    failed: int = 0
    unsent: int = 0
    wrong: int = 0
    lost_connections: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)
    latency: dict[str, Histogram] = field(default_factory=dict)
    client_cores: float = 0.0
    server_cores: float | None = None
    ticks: list[Tick] = field(default_factory=list)

    @property
    def all(self) -> Histogram:
        """Latency of all requests."""
        merged = Histogram()
        for histogram in self.latency.values():
            merged.merge(histogram)
        return merged

    @property
    def server_us(self) -> float | None:
        """Processor time of the servers per request, in microseconds."""
        return self.server_cores / self.rate * 1e6 if self.server_cores is not None and self.rate else None

    def json(self) -> dict[str, object]:
        """Return it for a file; ticks have their percentiles alone."""
        names = ("seconds", "offered", "rate", "done", "failed", "unsent", "wrong", "lost_connections")
        return {
            **{
                name: getattr(self, name)
                for name in (*names, "errors", "versions", "client_cores", "server_cores", "server_us")
            },
            "latency": {kind: histogram.json() for kind, histogram in self.latency.items() if len(histogram)},
            "all": self.all.json(),
            "ticks": [
                [tick.at_s, tick.done, tick.failed, tick.latency.ms(50), tick.latency.ms(99), tick.latency.ms(99.9)]
                for tick in self.ticks
            ],
        }

    def must_be_right(self, *, what: str = "the load") -> "Result":
        """Raise LoadError if a request failed or an answer was wrong; else return self."""
        if self.failed:
            raise LoadError(f"{what}: {self.failed} of {self.failed + self.done} requests failed: {self.errors}")
        return self


def fill(
    target: Target,
    workload: Workload,
    *,
    processes: int = 1,
    depth: int = 64,
    on_tick: Callable[[Tick], None] | None = None,
) -> Result:
    """Write every record of the workload once. Raises LoadError unless all were."""
    loading = dataclasses.replace(workload, **FILL_SHARE)
    nodes = len(target.nodes)
    # Values on their way have a bound, for the memory of all, and for etcd's window of 64 kB.
    largest = workload.size_max + 200
    bound = 40_000 if target.protocol == "etcd" else 8 << 20
    depth = max(1, min(depth, bound // largest))
    plan = _Plan(
        target=dataclasses.replace(target, owners=b""),
        workload=loading,
        keys="sequence",
        connections=max(nodes, processes) * 2,
        depth=depth,
        processes=processes,
        seconds=FILL_MAX_S,
        limit=workload.records,
    )
    result = _give(plan, pids=(), on_tick=on_tick)
    if result.done != workload.records:
        raise LoadError(f"wrote {result.done} of {workload.records} records: {result.errors or 'not in time'}")
    return result


def run(
    target: Target,
    workload: Workload,
    *,
    connections: int = 50,
    depth: int = 1,
    processes: int = 1,
    seconds: float = 10.0,
    warmup: float = 1.0,
    paces: Sequence[Pace] = (),
    pids: Iterable[int] = (),
    timeout: float = 10.0,
    tick: float = 1.0,
    seed: int = 0,
    on_tick: Callable[[Tick], None] | None = None,
) -> Result:
    """Give a load to records that are there, and return what was measured.

    Args:
        target: whom it is for.
        workload: what it asks.
        connections: of all processes together, over all nodes. (Some more where the target has owners, since every node
            then has as many; what is under way is not more.)
        depth: requests under way on each, at most.
        processes: of the load generator.
        seconds: how long, after *warmup*; with *paces* their sum is meant.
        warmup: seconds at first that do not count.
        paces: open loop: (seconds, requests per second) one after the other. Empty: closed loop. The warm-up goes at
            the first pace.
        pids: processes whose processor time counts as the servers'.
        timeout: seconds after which a request has failed.
        tick: seconds between two ticks.
        seed: of the choice of keys.
        on_tick: called with every tick.

    Raises:
        LoadError: the processes did not start, or could not connect.
    """
    plan = _Plan(
        target=target,
        workload=workload,
        keys=workload.keys,
        connections=connections,
        depth=depth,
        processes=processes,
        seconds=sum(pace[0] for pace in paces) if paces else seconds,
        warmup=warmup,
        paces=tuple(paces),
        timeout=timeout,
        tick=tick,
        seed=seed,
    )
    return _give(plan, pids=tuple(pids), on_tick=on_tick)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    target: Target
    workload: Workload
    keys: str
    connections: int
    depth: int
    processes: int
    seconds: float
    warmup: float = 0.0
    paces: tuple[Pace, ...] = ()
    timeout: float = 10.0
    tick: float = 1.0
    seed: int = 0
    limit: int = -1

    def share(self, number: int) -> dict[str, Any]:
        """Return what process *number* is to do, for JSON."""
        target, processes = self.target, self.processes
        connections = max(1, self.connections // processes + (number < self.connections % processes))
        slots = connections * self.depth
        if target.owners:  # then each node must have as many connections, so that there may be more than was asked for
            connections += -connections % len(target.nodes)
        until_ns, paces = self.warmup, []
        for seconds, rate in self.paces:
            until_ns += seconds
            paces.append((round(until_ns * 1e9), rate / processes))
        limit = -1 if self.limit < 0 else len(range(number, self.limit, processes))
        return {
            "target": {
                "protocol": target.protocol,
                "nodes": target.nodes,
                "need": target.need,
                **{
                    name: base64.b64encode(getattr(target, name)).decode()
                    for name in ("greeting", "get_tail", "put_tail", "owners")
                },
            },
            "keys": {
                "distribution": self.keys,
                "records": self.workload.records,
                "size_min": self.workload.size_min,
                "size_max": self.workload.size_max,
                "theta": self.workload.theta,
                "seed": self.seed * 1000 + number,
                "stride": processes,
                "offset": number,
            },
            "mix": self.workload.mix,
            "connections": connections,
            "slots": slots,
            "number": ((os.getpid() & 0x7FF) << 20) + (number << 14),
            "warmup_ns": round(self.warmup * 1e9),
            "length_ns": round(self.seconds * 1e9),
            "tick_ns": round(self.tick * 1e9),
            "timeout_ns": round(self.timeout * 1e9),
            "paces": paces,
            "shift_ns": round(number / self.paces[0][1] * 1e9) if self.paces else 0,
            "limit": limit,
        }


def _give(plan: _Plan, *, pids: tuple[int, ...], on_tick: Callable[[Tick], None] | None) -> Result:
    result = Result(latency={kind: Histogram() for kind in KIND_NAMES})
    with ExitStack() as stack:
        workers = [stack.enter_context(_Worker(plan.share(number))) for number in range(plan.processes)]
        for worker in workers:
            wanted = worker.connections
            found = worker.line(START_S).get("connected")
            if found != wanted:
                raise LoadError(f"only {found} of {wanted} connections could be made to {plan.target.nodes}")
        start_ns = clock_ns() + round(LEAD_S * 1e9)
        for worker in workers:
            worker.tell(str(start_ns))
        _sleep_until(start_ns / 1e9 + plan.warmup)
        used, begun = cpu_s(pids), time.monotonic()
        ends = _collect(workers, plan, result, on_tick)
        first = next(ends)  # the moment when the first process has ended its share: until then all were at work
        used, elapsed = cpu_s(pids) - used, time.monotonic() - begun
        for end in (first, *ends):
            _add_end(result, end)
    result.offered = sum(s * rate for s, rate in plan.paces) / plan.seconds if plan.paces else None
    result.server_cores = used / elapsed if pids and elapsed else None
    return result


def _collect(
    workers: list["_Worker"], plan: _Plan, result: Result, on_tick: Callable[[Tick], None] | None
) -> Iterator[dict[str, Any]]:
    """Add up the ticks; yield what each process says at its end."""
    deadline = time.monotonic() + plan.warmup + plan.seconds + plan.timeout + START_S
    ticks: list[list[dict[str, Any]]] = []
    seen = dict.fromkeys(workers, 0)
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
        while seen:
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                worker = key.data
                for said in worker.lines():
                    for kind, counts in said["counts"].items():
                        result.latency[kind].add(counts)
                    if said.get("end"):
                        del seen[worker]
                        selector.unregister(key.fileobj)
                        yield said
                        break
                    number = seen[worker]
                    seen[worker] += 1
                    if number == len(ticks):
                        ticks.append([])
                    ticks[number].append(said)
                    if len(ticks[number]) == len(workers):
                        result.ticks.append(_tick(ticks[number]))
                        if on_tick:
                            on_tick(result.ticks[-1])
            if time.monotonic() > deadline:
                raise LoadError("a process of the load generator did not end in time")


def _tick(said: list[dict[str, Any]]) -> Tick:
    kinds = {kind: Histogram() for kind in KIND_NAMES}
    for one in said:
        for kind, counts in one["counts"].items():
            kinds[kind].add(counts)
    latency = Histogram()
    for histogram in kinds.values():
        latency.merge(histogram)
    return Tick(
        at_s=max(one["at"] for one in said),
        done=sum(one["done"] for one in said),
        failed=sum(one["failed"] for one in said),
        latency=latency,
        kinds=kinds,
    )


def _add_end(result: Result, end: dict[str, Any]) -> None:
    for name in ("done", "failed", "unsent", "wrong", "lost_connections"):
        setattr(result, name, getattr(result, name) + end[name])
    for reason, count in end["errors"].items():
        result.errors[reason] = result.errors.get(reason, 0) + count
    for number, count in end["versions"].items():
        result.versions[int(number)] = result.versions.get(int(number), 0) + count
    result.seconds = max(result.seconds, end["ran_s"])
    if end["ran_s"]:
        result.rate += end["in_time"] / end["ran_s"]
        result.client_cores += end["cpu_s"] / end["ran_s"]


def _sleep_until(when_s: float) -> None:
    time.sleep(max(0.0, when_s - time.monotonic()))


class _Worker:
    """A process of the load generator, ended when it is left."""

    def __init__(self, share: dict[str, Any]) -> None:
        self.connections: int = share["connections"]
        self._share = share
        self._buffer = b""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "bench.load.worker"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.tell(json.dumps(self._share))
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.process.terminate()
        self.process.wait()

    def tell(self, line: str) -> None:
        if self.process.stdin is not None:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()

    def line(self, timeout_s: float) -> dict[str, Any]:
        """Return the next line. Raises LoadError when it does not come."""
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise LoadError("a process of the load generator did not start in time")
                self._read()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return dict(json.loads(line))

    def lines(self) -> list[dict[str, Any]]:
        """Return the whole lines that are there, after one read."""
        self._read()
        *lines, self._buffer = self._buffer.split(b"\n")
        return [json.loads(line) for line in lines]

    def _read(self) -> None:
        piece = os.read(self.process.stdout.fileno(), 1 << 20)  # type: ignore[union-attr]
        if not piece:
            raise LoadError(f"a process of the load generator ended with status {self.process.wait()}")
        self._buffer += piece
