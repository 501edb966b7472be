"""A few nodes of the core in one process: memory stores, byte pipes for connections, virtual time, seeded randomness.

Drives nodes as a shell does, and only so. Frames are delivered in whatever pieces a test asks for.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import cbor2

from dynafast._ext.connection import Connection
from dynafast._ext.replica import DEFAULT_CACHE_BYTES
from dynafast.core.identity import ClusterFacts, Identity, load_entries, save
from dynafast.core.membership import Entry
from dynafast.core.node import Node
from dynafast.core.seats import Seat, pack
from dynafast.protocol import Op, Status
from dynafast.storage.interface import ON_DISK, Place
from dynafast.storage.memory import MemoryStore

MS = 1_000_000
EPOCH_MS = 1_700_000_000_000


class ColdStore(MemoryStore):
    """A memory store of which some objects are on the disk alone.

    Attributes:
        cold: the keys of clients, or None for all, that only `get_many` finds.
    """

    def __init__(self) -> None:
        self.cold: set[bytes] | None = set()
        super().__init__()

    def glance(self, key: bytes) -> bytes | Place | None:
        cold = key not in self.staged and (self.cold is None or key[8:] in self.cold)
        return ON_DISK if cold else super().glance(key)


class Pipe:
    """A client's end of one connection to a node: sends frames, collects the answers, decoded by plain cbor2."""

    def __init__(self, member: "Member") -> None:
        self.member = member
        self.connection = member.node.accept()
        self.received = b""
        self.next_id = 1
        member.ends[self.connection] = self._take

    def _take(self, data: bytes) -> None:
        self.received += data

    def hello(self, **fields: object) -> list[Any]:
        self.send([Op.HELLO, 0, {"version": 1, "role": "client", **fields}])
        return self.answers()[0]

    def send(self, message: list[Any]) -> None:
        self.send_raw(framed(cbor2.dumps([int(message[0]), *message[1:]])))

    def send_raw(self, data: bytes) -> None:
        self.member.cluster.enter(self.member)
        self.connection.feed(data)
        self.member.cluster.pump(self.member)

    def answers(self) -> list[list[Any]]:
        """Return the answers that have come, and forget them."""
        found = []
        while len(self.received) >= 4:
            length = int.from_bytes(self.received[:4], "big")
            assert len(self.received) >= 4 + length, "half a frame"
            found.append(cbor2.loads(self.received[4 : 4 + length]))
            self.received = self.received[4 + length :]
        return [list(item) for item in found]

    def ask(self, op: Op, *fields: Any, wait_ms: int = 10_000) -> list[Any]:
        """Send a request; run the cluster until its answer is there; return ``[op, id, ...]``."""
        id = self.next_id
        self.next_id += 1
        self.send([op, id, *fields])
        found: list[list[Any]] = []

        def there() -> bool:
            found.extend(self.answers())
            return any(answer[1] == id for answer in found)

        self.member.cluster.run_until(there, limit_ms=wait_ms)
        return next(answer for answer in found if answer[1] == id)


def framed(item: bytes) -> bytes:
    return len(item).to_bytes(4, "big") + item


class Member:
    """One node with its store, its links and its shell's duties."""

    def __init__(self, cluster: "Cluster", name: str, store: ColdStore, *, group: bool) -> None:
        self.cluster = cluster
        self.name = name
        self.store = store
        self.group = group
        self.node: Node
        self.up = False
        self.flushing = True  # a test may hold flushes back
        self.reading = True  # and reads of the disk
        self.ends: dict[Connection, Callable[[bytes], None]] = {}
        self.events: list[tuple[str, dict[str, object]]] = []

    def trace(self, event: str, /, **fields: object) -> None:
        self.events.append((event, fields))


class Cluster:
    """Several members under one virtual clock."""

    def __init__(
        self,
        count: int,
        *,
        replicas: int = 3,
        partitions: int = 16,
        r: int = 2,
        w: int = 2,
        seed: int = 1,
        group: bool = True,
        plants: frozenset[str] = frozenset(),
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.plants = plants
        self.cache_bytes = cache_bytes
        self.delays: dict[tuple[str, str], int] = {}  # (near, far) -> how long frames take, in ns
        self.late: list[tuple[int, Member, Connection, bytes]] = []
        self.now_ns = 1_000 * MS
        self.rng = random.Random(f"{seed}/cluster")
        self.members: list[Member] = []
        self.held: dict[tuple[str, str], list[tuple[Connection, bytes]]] = {}
        self._underway: deque[tuple[Member, Connection, bytes]] = deque()
        self.facts = ClusterFacts(
            cluster=self.rng.randbytes(16),
            partitions=partitions,
            replicas=replicas,
            read_quorum=r,
            write_quorum=w,
        )
        for number in range(count):
            self.add(f"n{number}", group=group)
        self.settle()

    def add(
        self,
        name: str,
        *,
        group: bool = True,
        weight: int = 1,
        host: str | None = None,
        id: bytes | None = None,
        told: list[Any] | None = None,
    ) -> Member:
        """Start a new member that every earlier one will hear of; the first founds the cluster.

        *told*: the entries that a seed has answered with; None: those that the first member knows.
        """
        member = Member(self, name, ColdStore(), group=group)
        every = [Seat(p, s, 1) for p in range(self.facts.partitions) for s in range(self.facts.replicas)]
        own = Entry(
            id=id or self.rng.randbytes(8),
            name=name,
            address=name,
            weight=weight,
            zone="z",
            host=host or name,
            status=Status.JOINING if self.members else Status.UP,
            generation=member.store.boot,
            version=1,
            seats=b"" if self.members else pack(every),
        )
        seed = next((other for other in self.members if other.up), None)
        known = [] if seed is None else list(seed.node.membership.entries.values())
        if told is not None:
            known = [Entry.from_wire(fields) for fields in told]
        save(member.store, Identity(node=own.id, facts=self.facts), [*known, own])
        self._boot(member, own)
        self.members.append(member)
        return member

    def _boot(self, member: Member, own: Entry) -> None:
        member.node = Node(
            identity=Identity(node=own.id, facts=self.facts),
            own=own,
            store=member.store,
            group=member.group,
            random64=lambda: self.rng.getrandbits(64),
            trace=member.trace,
            settings={},
            cache_bytes=self.cache_bytes,
            plants=self.plants,
        )
        member.store.sync()
        member.up = True

    def crash(self, member: Member) -> None:
        """Power cut: what was not synced is gone, connections break."""
        self.kill(member)
        member.store.crash()

    def kill(self, member: Member) -> None:
        """The process ends; what the store accepted stays."""
        member.up = False
        for other in self.members:
            for connection in list(other.ends):
                target = other.ends[connection]
                if isinstance(target, Link) and (target.near is member or target.far is member):
                    target.cut()
        member.ends.clear()

    def restart(self, member: Member, *, generation: int | None = None) -> None:
        """Start again from what the store has."""
        last = next(entry for entry in load_entries(member.store) if entry.id == member.node.own.id)
        generation = generation or member.node.own.generation + 1
        own = Entry.from_wire({**last.to_wire(), "generation": generation, "version": 1})
        self._boot(member, own)

    def client(self, number: int) -> Pipe:
        pipe = Pipe(self.members[number])
        assert pipe.hello()[0] == Op.HELLO
        return pipe

    def hold(self, near: Member, far: Member) -> None:
        """Clog the way from *near* to *far*: frames wait until `release`."""
        self.held.setdefault((near.name, far.name), [])

    def release(self, near: Member, far: Member) -> None:
        for connection, data in self.held.pop((near.name, far.name), []):
            if not connection.lost:
                self.enter(far)
                connection.feed(data)
                self.pump(far)

    def deliver(self, target: Member, connection: Connection, data: bytes) -> None:
        """Hand data to one end of a connection, after whatever is being delivered now: answers do not nest."""
        self._underway.append((target, connection, data))
        if len(self._underway) > 1:
            return
        while self._underway:
            target, connection, data = self._underway[0]
            if target.up and not connection.lost:
                self.enter(target)
                connection.feed(data)
                self.pump(target)
            self._underway.popleft()

    # ---- the shell's duties

    def enter(self, member: Member) -> None:
        member.node.at(self.now_ns, EPOCH_MS + self.now_ns // MS)

    def pump(self, member: Member) -> None:
        for connection in member.node.take_dirty():
            end = member.ends.get(connection)
            while True:
                data = connection.take()
                if not data and connection.full:
                    connection.resume()
                    data = connection.take()
                if not data:
                    break
                if end is not None:
                    end(data)
            if connection.closing and not connection.lost:
                if isinstance(end, Link):
                    end.cut()
                else:
                    connection.drop()

    def step(self) -> None:
        """One turn of 5 ms for every member: dial, tick, flush."""
        self.now_ns += 5 * MS
        arrived = [item for item in self.late if item[0] <= self.now_ns]
        self.late = [item for item in self.late if item[0] > self.now_ns]
        for _, member, connection, data in arrived:
            self.deliver(member, connection, data)
        for member in self.members:
            if not member.up:
                continue
            self.enter(member)
            member.node.tick()
            if member.node.ended is not None:  # the shell stops it
                self.pump(member)
                self.kill(member)
                continue
            for id in sorted(member.node.wanted()):
                far = next((other for other in self.members if other.up and other.node.own.id == id), None)
                if far is not None:
                    Link(self, member, far)
            self.pump(member)
            while member.reading and member.node.reads_wanted:
                keys = member.node.take_reads()
                member.node.read(keys, member.store.get_many(keys))
                self.pump(member)
            if member.flushing and (member.node.flush_wanted or not member.group):
                member.node.flushed(member.store.sync())
                self.pump(member)

    def run_until(self, condition: Callable[[], bool], *, limit_ms: int = 20_000) -> None:
        deadline = self.now_ns + limit_ms * MS
        while not condition():
            assert self.now_ns < deadline, "the condition did not come true in time"
            self.step()

    def settle(self) -> None:
        """Run until every live member is up, linked to all others, and every seat is where it should be."""
        self.run_until(self._settled)

    def _settled(self) -> bool:
        live = [member for member in self.members if member.up]
        wanted = min(self.facts.replicas, len({member.node.own.host for member in self.members}))
        heard = {str(member.node.membership.digests()) for member in live}
        return len(heard) == 1 and all(
            member.node.own.status is Status.UP
            and not member.node.coordinator.starting
            and not member.node.given
            and len(member.node.linked_peers()) == len(live) - 1
            and all(len(set(holders)) >= wanted for holders in member.node.coordinator.view.holders)
            and len(member.node.membership.members()) == len(self.members)
            for member in live
        )


class Link:
    """A connection that *near* has opened to *far*."""

    def __init__(self, cluster: Cluster, near: Member, far: Member) -> None:
        self.cluster, self.near, self.far = cluster, near, far
        self.out = near.node.dial(far.node.own.id)
        self.back = far.node.accept()
        near.ends[self.out] = self
        far.ends[self.back] = self._to_near

    def __call__(self, data: bytes) -> None:
        self._carry(self.near, self.far, self.back, data)

    def _to_near(self, data: bytes) -> None:
        self._carry(self.far, self.near, self.out, data)

    def _carry(self, source: Member, target: Member, connection: Connection, data: bytes) -> None:
        queue = self.cluster.held.get((source.name, target.name))
        if queue is not None:
            queue.append((connection, data))
        elif (delay_ns := self.cluster.delays.get((source.name, target.name))) is not None:
            self.cluster.late.append((self.cluster.now_ns + delay_ns, target, connection, data))
        else:
            self.cluster.deliver(target, connection, data)

    def cut(self) -> None:
        """Both ends learn that the connection is gone."""
        for member, connection in ((self.near, self.out), (self.far, self.back)):
            member.ends.pop(connection, None)
            if not connection.lost:
                self.cluster.enter(member)
                connection.drop()
                if member.up:
                    self.cluster.pump(member)
