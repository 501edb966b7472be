"""A machine of the simulator, and the process on it: the duties of a shell, in virtual time.

A machine keeps its disk, its address and its clock through crashes; a process is one life of a node. May not: decide
anything about data or members, or look into the core.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from dynafast._ext.connection import Connection
from dynafast._ext.replica import DEFAULT_CACHE_BYTES
from dynafast._ext.wires import End
from dynafast.core import identity
from dynafast.core.entering import let_in
from dynafast.core.identity import ClusterFacts, Identity
from dynafast.core.membership import Entry
from dynafast.core.node import BUILD_COUNT, Node
from dynafast.core.ownership import Placement, place
from dynafast.core.seats import Seat, pack
from dynafast.errors import PeerProtocolError, StoreError
from dynafast.protocol import Status
from dynafast.sim.disk import Disk
from dynafast.sim.joining import Joiner
from dynafast.sim.network import Network
from dynafast.sim.world import EPOCH_MS, MS, SECOND, World

TICK_NS = 40 * MS
REDIAL_MIN_NS = 50 * MS
REDIAL_MAX_NS = SECOND
INTERVAL_NS = SECOND
STALLED_NS = 30 * SECOND
DRAIN_NS = 5 * SECOND
READS_MAX = 4  # reads of the disk at a time: more than a node has threads for


@dataclass(slots=True)
class Plan:
    """What all machines of a cluster share."""

    group: bool
    flush_ns: int
    build_count: int = BUILD_COUNT
    cache_bytes: int = DEFAULT_CACHE_BYTES
    cold: float = 0.0  # share of the records that are not in a node's own memory, and are on the disk alone
    read_ns: int = 0  # of a read of the disk
    plants: frozenset[str] = frozenset()
    # All nodes that know the same members compute the same: once is enough.
    placing: Callable[..., Placement] = field(default_factory=lambda: lru_cache(maxsize=64)(place))


class Host:
    """One machine: at first its name is its address too."""

    def __init__(
        self, world: World, network: Network, plan: Plan, directory: "dict[str, Host]", name: str, *, weight: int = 1
    ) -> None:
        self.world = world
        self.network = network
        self.plan = plan
        self.name = name
        self.weight = weight
        self.address = f"{name}:7411"
        self.disk = Disk()
        self.process: Process | None = None
        self.id = b""  # of the node that runs here, or ran here last
        self.skew_ms = 0  # of the wall clock
        self.slow = 1  # how many times longer a flush takes
        self.flush_fails: Callable[[], bool] | None = None  # asked at the end of a flush; True: the process has ended
        self.lives = 0
        self.ended: str | None = None  # why its node is gone for good
        self.counts = True  # what its disk has is not given up
        self.doomed = False  # it stays off
        self.copy: tuple[bytes, Disk] | None = None  # of whose disk, a backup
        self.on_ended: Callable[[Host], None] = lambda _host: None
        self.quiet: list[End] = []  # ends of a life that lost power: their far ends know nothing yet
        self._rng = world.random(f"host/{name}")
        self._reads = world.random(f"reads/{name}")
        directory[self.address] = self
        self.directory = directory

    @property
    def up(self) -> bool:
        """Whether a process runs."""
        return self.process is not None

    @property
    def node(self) -> Node:
        """The core of the running process."""
        if self.process is None:
            raise PeerProtocolError(f"{self.name} is down")
        return self.process.node

    def flush_ns(self) -> int:
        """Draw how long a flush takes."""
        return int(self.plan.flush_ns * (0.5 + self._rng.random())) * self.slow

    def read_ns(self) -> int:
        """Draw how long a half of a read takes."""
        return int(self.plan.read_ns * (0.1 + self._reads.random())) * self.slow

    def away(self) -> bool:
        """Draw whether a record is on the disk alone."""
        return self._reads.random() < self.plan.cold

    def listening(self) -> "Process | None":
        """Return who accepts connections."""
        process = self.process
        return process if process is not None and process.ready else None

    # ---- lives

    def found(self, facts: ClusterFacts) -> None:
        """Create a cluster."""
        every = [Seat(partition, seat, 1) for partition in range(facts.partitions) for seat in range(facts.replicas)]
        entry = self._first_entry(status=Status.UP, seats=pack(every))
        self._enter(facts, entry, [])

    def _first_entry(self, **changes: Any) -> Entry:
        entry = Entry(
            id=self._rng.randbytes(8),
            name=self.name,
            address=self.address,
            weight=self.weight,
            zone="z",
            host=self.name,
            status=Status.JOINING,
            generation=self.disk.boot,
            version=1,
        )
        return Entry.from_wire({**entry.to_wire(), **changes})

    def _enter(self, facts: ClusterFacts, entry: Entry, others: list[Entry], *, number: int = 0) -> None:
        identity.save(self.disk, Identity(node=entry.id, facts=facts), [*others, entry], number=number)
        self.disk.sync()
        self._live(Identity(node=entry.id, facts=facts), entry)

    def join(self, seeds: list[str], done: "Callable[[str | None], None]", *, replace: str | None = None) -> None:
        """Enter a cluster through one of the seeds; ``done(error code or None)``."""
        Joiner(self, seeds, done, replace=replace)

    def admitted(self, entry: Entry, answer: dict[str, Any]) -> None:
        """A seed has let us in."""
        facts, others, number = let_in(answer)
        self._enter(facts, entry, others, number=number)

    def first_entry(self) -> Entry:
        """Return the entry to ask to join with."""
        return self._first_entry()

    def start(self) -> bool:
        """Start the process from what the disk has; False when it has nothing to start from."""
        if self.process is not None:
            return False
        self.disk.reopen()
        for end in self.quiet:
            self.network.wake(end)
        self.quiet.clear()
        known = identity.load(self.disk)
        if known is None:
            return False
        last = next(entry for entry in identity.load_entries(self.disk) if entry.id == known.node)
        entry = Entry.from_wire({**last.to_wire(), "address": self.address, "generation": self.disk.boot, "version": 1})
        self._live(known, entry)
        return True

    def _live(self, who: Identity, entry: Entry) -> None:
        self.lives += 1
        self.id = entry.id
        self.world.trace(f"start {self.name} {entry.id.hex()} {entry.generation}")
        self.process = Process(self, who, entry)

    def kill(self) -> None:
        """The process ends at once; what the store accepted stays, peers are told by the system."""
        process = self.process
        if process is None:
            return
        self.world.trace(f"kill {self.name}")
        self.process = None
        process.end(silent=False)

    def lose_power(self) -> int:
        """The machine goes off: unflushed writes are lost, and nobody is told. Return how many."""
        process = self.process
        if process is None:
            return 0
        self.process = None
        self.quiet += process.end(silent=True)
        lost = self.disk.lose_power(self._rng)
        self.world.trace(f"power {self.name} {lost}")
        return lost

    def fail_flush(self) -> int:
        """A flush has failed: the process ends at once, and what it did not cover may be gone. Return how much is."""
        process = self.process
        if process is None:
            return 0
        self.process = None
        process.end(silent=False)
        lost = self.disk.lose_power(self._rng)
        self.world.trace(f"flush failed {self.name} {lost}")
        return lost

    def stop(self, then: Callable[[], None] | None = None) -> None:
        """End as at SIGTERM: answer what is under way, close the store."""
        if self.process is not None:
            self.process.stop(then)

    def swap_addresses(self, other: "Host") -> None:
        """Two machines, being down, get each other's address."""
        self.address, other.address = other.address, self.address
        self.directory[self.address], self.directory[other.address] = self, other

    def wipe(self) -> None:
        """The machine, being down, gets an empty disk."""
        self.world.trace(f"wipe {self.name}")
        self.disk = Disk()
        self.ended = None


class Process:
    """One life of a node: connections, ticks, flushes."""

    def __init__(self, host: Host, who: Identity, own: Entry) -> None:
        self.host = host
        self.place = host.name
        self.world = host.world
        self.network = host.network
        self.disk = host.disk
        if host.plan.cold:
            self.disk.away = host.away
        self.reading = 0
        self.alive = True
        self.ready = False
        self.paused = False
        self.flushing = False
        self.disturbed_ns = -1  # when it was last paused
        self._rng = host.world.random(f"node/{host.name}/{host.lives}")
        self._offset_ns = self._rng.randrange(0, 3600 * SECOND)
        self._ends: dict[Connection, End] = {}
        self._dialling: dict[bytes, int] = {}
        self._pauses: dict[bytes, tuple[int, int]] = {}
        self._backlog: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._next_flush_ns = 0
        self._stopping: tuple[int, Callable[[], None] | None] | None = None
        self._half: dict[Connection, int] = {}
        self.node = Node(
            identity=who,
            own=own,
            store=self.disk,
            group=host.plan.group,
            random64=lambda: self._rng.getrandbits(64),
            trace=self._trace,
            settings={},
            build_count=host.plan.build_count,
            placing=host.plan.placing,
            cache_bytes=host.plan.cache_bytes,
            plants=host.plan.plants,
        )
        self.id = own.id
        self._core = self.node.coordinator  # what each turn asks, without detours
        self._at = self._core.at
        self.disk.sync()
        self.ready = True
        self.at()
        self.world.after(self._rng.randrange(TICK_NS), self._tick)

    def _trace(self, event: str, /, **fields: object) -> None:
        shown = " ".join(f"{name}={_shown(value)}" for name, value in fields.items())
        self.world.trace(f"{self.host.name} {event} {shown}")

    def at(self) -> None:
        """Tell the core the time."""
        now = self.world.now
        self._at(now + self._offset_ns, EPOCH_MS + now // MS + self.host.skew_ms)

    # ---- the owner of ends

    def accepted(self, end: End) -> None:
        """See `Owner`."""
        self._adopt(end, self.node.accept())

    def _adopt(self, end: End, connection: Connection) -> None:
        end.tag = connection
        self._ends[connection] = end
        self._half[connection] = self.world.now

    def received(self, end: End, data: bytes) -> None:
        """See `Owner`."""
        if self.paused:
            self._backlog.append((self.received, (end, data)))
            return
        connection: Any = end.tag
        self.at()
        connection.feed(data)
        self.pump()

    def ended(self, end: End) -> None:
        """See `Owner`."""
        if self.paused:
            self._backlog.append((self.ended, (end,)))
            return
        self._drop(end)
        self.pump()

    def _drop(self, end: End) -> None:
        connection: Any = end.tag
        if connection is None:
            return  # gone before the dialler was told of it
        self._ends.pop(connection, None)
        self._half.pop(connection, None)
        if not connection.lost:
            self.at()
            connection.drop()

    def pump(self) -> None:
        """Send what the last turn produced; start a flush if something waits for it."""
        dirty = self._core.take_dirty()
        while dirty:
            ends, send = self._ends, self.network.send
            for connection in dirty:
                end = ends.get(connection)
                data = connection.take()
                if end is None:
                    continue
                if data:
                    send(end, data)
                if connection.full:
                    connection.resume()
                if connection.closing:
                    self.network.close(end)
                    self._drop(end)
            dirty = self._core.take_dirty()
        if not self.flushing and self._core.flush_wanted:
            self._flush()
        while self._core.reads_wanted and self.reading < READS_MAX:
            self.reading += 1
            self.world.after(self.host.read_ns(), self._read, self.node.take_reads())

    # ---- time

    def _tick(self) -> None:
        if not self.alive:
            return
        if self.paused:
            self._backlog.append((self._tick, ()))
            return
        self.world.after(TICK_NS, self._tick)
        self.at()
        self.node.tick()
        self.pump()
        self._dial()
        if self._half:
            self._give_up_halves()
        idle = not self.host.plan.group and not self.flushing and self.disk.unsynced_bytes
        if idle and self.world.now >= self._next_flush_ns:
            self._next_flush_ns = self.world.now + INTERVAL_NS
            self._flush()
        if self._stopping is not None:
            self._drained()
        if self.node.ended is not None and self._stopping is None:
            self.host.ended = self.node.ended
            self.host.stop(partial(self.host.on_ended, self.host))

    def _give_up_halves(self) -> None:
        for connection, since in list(self._half.items()):
            if not connection.unfinished:
                del self._half[connection]
            elif self.world.now - since > STALLED_NS:
                del self._half[connection]
                connection.give_up()
                self.pump()

    def _dial(self) -> None:
        wanted = self.node.wanted()
        if not wanted:
            return
        now = self.world.now
        for peer, address in wanted.items():
            if peer in self._dialling or self._pauses.get(peer, (0, 0))[0] > now:
                continue
            target = self.host.directory.get(address)
            if target is None:
                continue
            self._dialling[peer] = now
            self.network.connect(self, target.name, target.listening, partial(self._dialled, peer))

    def _dialled(self, peer: bytes, end: End | None) -> None:
        if self.paused:
            self._backlog.append((self._dialled, (peer, end)))
            return
        self._dialling.pop(peer, None)
        if end is None:
            if self.alive:
                pause = min(REDIAL_MAX_NS, 2 * self._pauses.get(peer, (0, REDIAL_MIN_NS // 2))[1])
                self._pauses[peer] = (self.world.now + int(pause * self._rng.uniform(0.5, 1.0)), pause)
            return
        self._pauses.pop(peer, None)
        if not self.alive or not end.open or peer not in self.node.wanted():
            self.network.close(end)
            return
        self.at()
        self._adopt(end, self.node.dial(peer))
        self.pump()

    # ---- flushes

    def _flush(self) -> None:
        self.flushing = True
        self.world.after(self.host.flush_ns(), self._flushed, self.disk.begin_flush())

    def _flushed(self, mark: tuple[int, int]) -> None:
        if not self.alive:
            return
        if self.paused:
            self._backlog.append((self._flushed, (mark,)))
            return
        self.flushing = False
        if self.host.flush_fails is not None and self.host.flush_fails():
            return
        sequence = self.disk.end_flush(mark)
        self.at()
        self.node.flushed(sequence)
        self.pump()

    # ---- reads

    def _read(self, keys: list[bytes]) -> None:
        """A thread looks at the disk, some time after it was told to and some time before that is known."""
        if self.alive:
            self.world.after(self.host.read_ns(), self._arrived, keys, self.disk.get_many(keys))

    def _arrived(self, keys: list[bytes], found: list[bytes | StoreError | None]) -> None:
        if not self.alive:
            return
        if self.paused:
            self._backlog.append((self._arrived, (keys, found)))
            return
        self.reading -= 1
        self.at()
        self.node.read(keys, found)
        self.pump()

    # ---- ends

    def pause(self) -> None:
        """As at SIGSTOP: nothing happens here until `resume`."""
        self.world.trace(f"pause {self.host.name}")
        self.paused = True
        self.disturbed_ns = self.world.now

    def resume(self) -> None:
        """Go on; what arrived meanwhile is handled now."""
        if not self.paused:
            return
        self.world.trace(f"resume {self.host.name}")
        self.paused = False
        self.disturbed_ns = self.world.now
        backlog, self._backlog = self._backlog, []
        for action, arguments in backlog:
            if self.alive:
                action(*arguments)

    def stop(self, then: Callable[[], None] | None) -> None:
        """Take no new requests; end when those under way are answered, or after a while."""
        if self._stopping is None:
            self.world.trace(f"stop {self.host.name}")
            self.node.stop()
            self._stopping = (self.world.now + DRAIN_NS, then)

    def _drained(self) -> None:
        if self._stopping is None or (self.node.busy and self.world.now < self._stopping[0]):
            return
        then = self._stopping[1]
        self.host.process = None
        self.end(silent=False)
        try:
            self.node.close()
            self.disk.close()
        except StoreError:  # the disk takes no more: the marker is missing
            self.disk.close(clean=False)
        self.world.trace(f"stopped {self.host.name}")
        if then is not None:
            then()

    def end(self, *, silent: bool) -> list[End]:
        """This life is over; return the ends whose far side knows nothing."""
        self.alive = False
        self._backlog.clear()
        ends = list(self._ends.values())
        for end in ends:
            self.network.abandon(end, silent=silent)
        self._ends.clear()
        return ends if silent else []


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
