"""One run: a cluster under faults (safety), then without them (liveness), and its verdict."""

import gc
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import IO, Any

from xxhash import xxh3_64_intdigest

from dynafast._ext.codec import FrameReader
from dynafast._ext.wires import End
from dynafast.core.identity import ClusterFacts
from dynafast.errors import StoreError
from dynafast.protocol import Op, Status
from dynafast.sim import invariants
from dynafast.sim.budget import Budget
from dynafast.sim.clients import Client
from dynafast.sim.history import KeyHistory, Kind, ViolationError, Write
from dynafast.sim.host import Host, Plan, Process
from dynafast.sim.network import Network
from dynafast.sim.operators import Errand, start_over, tidy
from dynafast.sim.options import Options, draw
from dynafast.sim.registry import FAULTS
from dynafast.sim.world import MS, SECOND, US, World
from dynafast.storage.interface import object_key

SETUP_NS = 60 * SECOND  # the cluster must stand by then
SAFETY_NS = 600 * SECOND  # clients that get nothing done end the phase too
LIVENESS_NS = 120 * SECOND  # faults have ended; within this all must have come to rest
LOOK_NS = 100 * MS
QUIET_NS = 3 * SECOND  # within which nothing is repaired or moved when all is done
BLINDLY = [Kind.BLIND, Kind.NEWEST]
COLLECTED_COUNT = 50_000  # objects made and not freed again, before the garbage collector looks at them
REPAIRS = frozenset({Op.FETCH, Op.STORE, Op.KEYS, Op.READ, Op.MERGE, Op.TREE, Op.CLAIM, Op.GIVE})


@dataclass(slots=True)
class Result:
    """How a run went."""

    seed: int
    ops: int
    events: int
    digest: str
    options: Options
    violation: ViolationError | None = None
    outcomes: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    virtual_s: float = 0.0


class Simulation:
    """A cluster, its clients and its faults.

    Attributes:
        hosts: the machines that are part of the cluster or should be.
        every_host: those that ever were, too.
    """

    def __init__(self, seed: int, options: Options, world: World, *, plants: frozenset[str] = frozenset()) -> None:
        self.seed = seed
        self.options = options
        self.world = world
        self.network = Network(world, latency_us=options.latency_us, jitter_us=options.jitter_us, pieces=options.pieces)
        self.plants = plants
        self.plan = Plan(
            group=options.group,
            flush_ns=options.flush_us * US,
            build_count=options.build_count,
            cache_bytes=options.cache_bytes,
            cold=options.cold,
            read_ns=options.read_us * US,
            plants=plants,
        )
        self.directory: dict[str, Host] = {}
        self.hosts: list[Host] = []
        self.every_host: list[Host] = []
        self.budget = Budget(self)
        rng = world.random("cluster")
        self.facts = ClusterFacts(
            cluster=rng.randbytes(16),
            partitions=options.partitions,
            replicas=options.replicas,
            read_quorum=options.r,
            write_quorum=options.w,
        )
        kinds = world.random("kinds")
        self.histories = [
            KeyHistory(
                b"key-%d" % number,
                Kind.CART if options.tour else kinds.choice(BLINDLY if options.blind else list(Kind)),
                self.facts.cluster,
                ordered=2 * options.w > options.replicas,
            )
            for number in range(options.keys)
        ]
        self._positions = {history.key: xxh3_64_intdigest(history.key) for history in self.histories}
        self._wounds: dict[int, Callable[[], object]] = {}
        self._wound_count = 0
        self.ops = 0
        self.outcomes: dict[str, int] = {}
        self.faults: dict[str, int] = {}
        self.lost_data_ns = -1  # when a disk last lost something
        self.slowed_ns = -1
        self.members_change = False  # a change of the members has begun in this run
        self.clients: list[Client] = []
        self.changing: list[Host] = []  # machines whose membership an operator is changing
        self.damaged: set[bytes] = set()  # keys of records that were damaged on some disk
        self._faulty = False
        self._tails_lost = False

    # ---- what clients and checks ask

    def position(self, key: bytes) -> int:
        """Return where a key lies on the ring."""
        return self._positions[key]

    def place(self, key: bytes) -> None:
        """Know a key more."""
        self._positions[key] = xxh3_64_intdigest(key)

    def addresses(self) -> Sequence[str]:
        """See `clients.Cluster`."""
        return [host.address for host in self.hosts]

    def listener(self, address: str) -> Process | None:
        """See `clients.Cluster`."""
        return self.directory[address].listening()

    def may_go_on(self) -> bool:
        """See `clients.Cluster`."""
        return self.ops < self.options.ops

    def finished(self, verb: str, outcome: str) -> None:
        """See `clients.Cluster`."""
        self.ops += 1
        if self.ops == self.options.ops:
            self.world.halt()
        name = f"{verb} {outcome}"
        self.outcomes[name] = self.outcomes.get(name, 0) + 1
        self.world.trace(name)

    def overdue(self, end: End, asked_ns: int, text: str) -> None:
        """See `clients.Cluster`."""
        process = end.far.owner
        if not isinstance(process, Process) or not process.alive or process.paused or process.disturbed_ns >= asked_ns:
            return
        if self.network.lag_ns or self.slowed_ns >= asked_ns or self.network.troubled_since(end, asked_ns):
            return
        raise ViolationError("answered-by-deadline", f"{process.host.name} did not answer: {text}")

    def is_strict(self, op: Op, receipt: list[int]) -> bool:
        """See `clients.Cluster`."""
        needed, _, _, fallbacks, _, flags = receipt
        if fallbacks or flags & 5 or self._tails_lost:
            return False
        if op is Op.PUT:
            return needed >= self.options.w
        return needed >= self.options.r and self.options.r + self.options.w > self.options.replicas

    def answered(self, history: KeyHistory, op: Op, options: dict[str, Any], receipt: list[int]) -> None:
        """See `clients.Cluster`."""
        invariants.check_options(self, history, op, options, receipt)

    def acknowledged(self, history: KeyHistory, write: Write, receipt: list[int], asked_ns: int) -> None:
        """See `clients.Cluster`."""
        invariants.check_receipt(self, history, write, receipt, asked_ns)

    # ---- what faults use

    def down(self) -> int:
        """Return how many machines do not answer now."""
        return sum(host.process is None or host.process.paused for host in self.hosts)

    def heal_later(self, delay_ns: int, undo: Callable[[], object]) -> None:
        """Take a fault back after a while, at the latest when all faults end."""
        if not self._faulty:
            delay_ns = 0  # a fault that took until after the end to strike
        self._wound_count += 1
        self._wounds[self._wound_count] = undo
        self.world.after(delay_ns, self._heal, self._wound_count)

    def _heal(self, number: int) -> None:
        undo = self._wounds.pop(number, None)
        if undo is not None:
            undo()

    def restart(self, host: Host) -> None:
        """Start a process that is down, if its machine still belongs to the cluster."""
        if host not in self.hosts or host.doomed or host.process is not None:
            return
        if host.disk.full:  # it could not even note that it starts
            self.world.after(SECOND, self.restart, host)
        else:
            host.start()

    def tail_lost(self, *, everywhere: bool = False) -> None:
        """A disk lost a tail; acknowledged writes too in durability interval, or if it is a backup (*everywhere*).

        The node keeps its seats, so reads and writes need not meet any more.
        """
        self.lost_data_ns = self.world.now
        self._tails_lost = self._tails_lost or everywhere or not self.options.group

    # ---- phases

    def make_host(self, weight: int = 1) -> Host:
        """Put a new machine up, with nothing on it."""
        name = f"n{len(self.every_host)}"
        host = Host(self.world, self.network, self.plan, self.directory, name, weight=weight)
        host.on_ended = self._ended
        self.every_host.append(host)
        return host

    def welcome(self, host: Host) -> None:
        """A machine is part of the cluster now."""
        if host not in self.hosts:
            self.hosts.append(host)

    def forget(self, host: Host) -> None:
        """A machine is no part of the cluster any more."""
        if host in self.hosts:
            self.hosts.remove(host)

    def _ended(self, host: Host) -> None:
        """A node has ended itself."""
        self.world.trace(f"ended {host.name} {host.ended}")
        if host.ended == "stale" and host in self.hosts:  # restored from a backup: it must start over
            start_over(self, host)
        else:
            self.forget(host)
            self.end_change(host)

    def begin_change(self, host: Host) -> bool:
        """Note that a change of the members has begun; False when that may not be now."""
        if len(self.changing) >= self.options.most_changes or host in self.changing:
            return False
        self.changing.append(host)
        self.members_change = True
        return True

    def end_change(self, host: Host) -> None:
        """A change has been accepted or refused."""
        if host in self.changing:
            self.changing.remove(host)

    def set_up(self) -> None:
        """Found the cluster and let the first nodes join."""
        first = self.make_host()
        self.welcome(first)
        first.found(self.facts)
        for _ in range(1, self.options.nodes):
            host = self.make_host()
            self.welcome(host)
            joined: list[str | None] = []
            host.join([first.address], joined.append)
            self.wait(partial(_unless, joined), SETUP_NS, "setup")
            if joined != [None]:
                raise ViolationError("setup", f"{host.name} was not let in: {joined}")
        self.wait(self.unrest, SETUP_NS, "setup")

    def wait(self, unrest: Callable[[], str | None], limit_ns: int, invariant: str) -> None:
        """Run until *unrest* finds none; it must be so within the limit."""
        until = self.world.now + limit_ns
        while (why := unrest()) is not None:
            if self.world.now >= until:
                raise ViolationError(invariant, f"not within {limit_ns // SECOND} s: {why}")
            self.world.run(self.world.now + LOOK_NS)

    def unrest(self) -> str | None:
        """Say why the cluster has not come to rest, or None."""
        for client in self.clients:
            if not client.done:
                return f"{client.name} is not done"
        if self.changing:
            return f"a change is under way: {' '.join(host.name for host in self.changing)}"
        running = [host for host in self.hosts if host.process is not None]
        if len(running) < len(self.hosts):
            return "a machine is down"
        for host in running:
            node = host.node
            listed = sorted(entry.name for entry in node.membership.members())
            if listed != sorted(other.name for other in self.hosts):
                return f"{host.name} lists the members {' '.join(listed)}"
            if node.own.status is not Status.UP:
                return f"{host.name} is {node.own.status.value}"
            if len(node.linked_peers()) < len(running) - 1:
                return f"{host.name} is not linked to all others"
        try:
            invariants.check_views(self)
        except ViolationError as error:
            return str(error)
        return None

    def safety(self) -> None:
        """Clients work while faults strike."""
        for number in range(self.options.clients):
            client = Client(
                self,
                f"c{number}",
                self.histories,
                self.options.habits,
                plants=self.plants,
                replicas=self.options.replicas,
                tour=self.options.tour,
            )
            self.clients.append(client)
            client.start()
        self._faulty = bool(self.options.weights)
        rng = self.world.random("faults")
        if self._faulty:
            self.world.after(self._next_fault(rng.expovariate(1.0)), self._strike, rng)
        self.world.run(self.world.now + SAFETY_NS)

    def _next_fault(self, draw: float) -> int:
        return int(draw * self.options.fault_ms * MS) + 1

    def _strike(self, rng: Random) -> None:
        if not self._faulty:
            return
        weights = self.options.weights
        name = rng.choices(list(weights), list(weights.values()))[0]
        told = FAULTS[name](self, rng) if len(self._wounds) < self.options.most_faults else None
        if told is not None:
            self.faults[name] = self.faults.get(name, 0) + 1
            self.world.trace(f"fault {name} {told}")
        self.world.after(self._next_fault(rng.expovariate(1.0)), self._strike, rng)

    def end_faults(self) -> None:
        """Take all faults back, and start what is down."""
        self._faulty = False
        self.world.trace("faults end")
        self.network.calm()
        while self._wounds:
            self._heal(next(iter(self._wounds)))
        for host in self.hosts:
            self.restart(host)
        tidy(self)

    def read_damaged(self) -> None:
        """Read the records that were damaged and perhaps never read since: nobody can know of them before."""
        for key in sorted(self.damaged):
            for host in self.hosts:
                Errand(self, host, Op.GET, [key, {"r": self.options.replicas}], lambda _answer: None)
                if host.process is not None:  # to a client it would answer from memory
                    with suppress(StoreError):
                        host.process.node.replica.read(object_key(self.position(key), key))

    def _traffic(self) -> str | None:
        """Say what nodes have sent each other for repair or transfer within a while, or None."""
        seen: dict[str, int] = {}
        readers: dict[End, FrameReader] = {}  # what is delivered may be a piece of a frame

        def watch(end: End, data: bytes) -> None:
            if isinstance(end.far.owner, Process) and isinstance(end.owner, Process):
                for message in readers.setdefault(end, FrameReader()).feed(data):
                    if message[0] in REPAIRS:
                        name = Op(message[0]).name
                        seen[name] = seen.get(name, 0) + 1

        self.network.watch = watch
        self.world.run(self.world.now + QUIET_NS)
        self.network.watch = None
        return " ".join(f"{name}:{count}" for name, count in seen.items()) or None

    def liveness(self) -> None:
        """Without faults the cluster comes to rest, and holds what was acknowledged."""
        self.end_faults()
        self.wait(self.unrest, LIVENESS_NS, "comes-to-rest")
        self.read_damaged()
        self.wait(lambda: self.unrest() or invariants.unrest_of_data(self), LIVENESS_NS, "comes-to-rest")
        self.wait(self._traffic, LIVENESS_NS, "traffic-ends")
        invariants.check_histories(self)

    def result(self, violation: ViolationError | None) -> Result:
        """Return how the run went."""
        return Result(
            seed=self.seed,
            ops=self.ops,
            events=self.world.events,
            digest=self.world.digest(),
            options=self.options,
            violation=violation,
            outcomes=self.outcomes,
            faults=self.faults,
            virtual_s=self.world.now / SECOND,
        )


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Let the garbage collector look for cycles less often: a run is one big cycle, and makes few others."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECTED_COUNT, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@_seldom_collected()
def simulate(
    seed: int,
    *,
    nodes: int = 5,
    ops: int = 2000,
    faults: frozenset[str] | None = None,
    plants: frozenset[str] = frozenset(),
    file: IO[str] | None = None,
) -> Result:
    """Run one seed and return how it went. *faults*: None for those that the seed draws."""
    world = World(seed, file=file)
    options = draw(world, nodes=nodes, ops=ops, faults=faults)
    for line in options.lines():
        world.trace(f"option {line}")
    sim = Simulation(seed, options, world, plants=plants)
    try:
        sim.set_up()
        sim.safety()
        sim.liveness()
    except ViolationError as violation:
        return sim.result(violation)
    except Exception as error:  # noqa: BLE001 - whatever the core raises is a bug, found by this seed
        return sim.result(ViolationError("core-raises-nothing", f"{error!r}\n{traceback.format_exc()}"))
    return sim.result(None)


def _unless(joined: list[str | None]) -> str | None:
    return None if joined else "nobody has let it in"
