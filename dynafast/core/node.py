"""One node: routes each event to the machine that handles it. The only class of the core that shells call.

A shell (trio, or a simulator) owns sockets, clocks, threads and signals, and does this:

1. `at` before anything else in a turn: the core learns the time only so.
2. `accept` for a connection that came in, `dial` for one that `wanted` asks for; then ``feed`` what is received,
   send what ``take`` returns for every connection of `take_dirty`, ``drop`` when a transport ends.
3. `tick` at least every 50 ms.
4. When `flush_wanted`: sync the store in a thread, then `flushed` with the number it returned. A failed sync is a
   crash: stop, and answer nothing that waits.
5. When `reads_wanted`: hand the keys of `take_reads` to a thread, which calls the store's ``get_many`` with them, then
   `read` with what that returned. All that is taken is owed; several hand-overs may be under way, and end in any order.
6. When `ended` is set: drain and stop for good.

May not: touch a socket, a clock, a file or a random source.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from xxhash import xxh3_64_intdigest

from dynafast._ext.connection import Connection
from dynafast._ext.coordinator import Coordinator
from dynafast._ext.replica import DEFAULT_CACHE_BYTES, Replica
from dynafast._ext.resp import RespConnection
from dynafast._ext.view import Peer, View
from dynafast.core import identity
from dynafast.core.admission import Admission
from dynafast.core.detector import Detector
from dynafast.core.entering import hello
from dynafast.core.gossip import Gossip
from dynafast.core.healing import Healing
from dynafast.core.identity import Given, Identity, kept_boot, load_clock, load_entries, load_given
from dynafast.core.machine import Answering, Machine
from dynafast.core.machines import MACHINES
from dynafast.core.membership import NODE_ID_SIZE, Entry, Membership, is_node_id
from dynafast.core.ownership import Member, Placement, place
from dynafast.core.redis import Redis
from dynafast.core.rounds import Rounds
from dynafast.core.seats import Seat, SeatMap, pack, unpack
from dynafast.errors import BadRequestError, DynafastError, PeerProtocolError, RefusedError, StoreError, TooLargeError
from dynafast.limits import KEY_MAX, WIRE_VERSION
from dynafast.protocol import HASH_NAME, Op, Status, is_uint
from dynafast.storage.interface import READ_MAX, Batch, Store

TELL_MS = 1_000
TOLD_MAX = 1024  # versions of our entry that are remembered
LISTEN_NS = 2_000_000_000  # a node that comes back asks others so long what they know of it, before it serves alone
BUILD_COUNT = 512

# Refusals of a hello that end this node, and what it ends as.
_ENDS = {"removed": "removed", "stale-generation": "stale"}

_M = TypeVar("_M", bound=Machine)


class Trace(Protocol):
    """Receives events: a dotted name and fields."""

    def __call__(self, event: str, /, **fields: object) -> None:
        """Take one event."""


class Node:
    """The core of a node.

    Args:
        identity: which node this is, of which cluster.
        own: the entry to start with, of this generation.
        store: what it keeps.
        group: acknowledge after a flush, else at once.
        random64: returns random integers in 0..2**64-1.
        trace: receives events.
        settings: what ``status --config`` shows; passed through.
        build_count: records that a tick reads at most to build trees.
        placing: `place`, or what remembers some of its results.
        cache_bytes: of the records that are kept in memory.
        plants: names of safeguards to leave out, for the canaries of the simulator.

    Attributes:
        ended: why this node has ended itself: ``left``, ``removed`` or ``stale``; None while it serves.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        own: Entry,
        store: Store,
        group: bool,
        random64: Callable[[], int],
        trace: Trace,
        settings: dict[str, object],
        build_count: int = BUILD_COUNT,
        placing: Callable[..., Placement] = place,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        plants: Collection[str] = frozenset(),
    ) -> None:
        self.facts = identity.facts
        self.own = own
        self.store = store
        self.random64 = random64
        self.trace = trace
        self.settings = settings
        self._placing = placing
        self.plants = frozenset(plants)
        self.ended: str | None = None
        remembered = {entry.id: entry for entry in load_entries(store)}
        self._since = remembered.get(own.id, own).digest  # of our entry before this start
        self._told: dict[int, Entry] = {own.version: own}  # version -> our entry of this start, the last ones
        self.membership = Membership([*(entry for entry in remembered.values() if entry.id != own.id), own])
        self._unwritten: dict[bytes, Entry] = {}  # of others, that the store has refused
        self.given = load_given(store)
        self.peers: dict[bytes, Peer] = {}
        self._hosts: dict[str, int] = {}
        self._me = self._peer(own)
        self._dialled: set[bytes] = set()
        self._inbound: dict[bytes, list[Connection]] = {}  # node -> its connections to us
        self._called: dict[bytes, int] = {}  # node -> its newest generation that has called
        self.replica = Replica(store, partitions=self.facts.partitions, cache_bytes=cache_bytes, plants=self.plants)
        self._view = View(partitions=self.facts.partitions, replicas=self.facts.replicas)
        self.coordinator = Coordinator(
            node=self,
            store=store,
            replica=self.replica,
            view=self._view,
            me=self._me,
            cluster=self.facts.cluster,
            boot=kept_boot(store, random64()) if "clean-copy" in self.plants else random64(),
            random64=random64,
            read_quorum=self.facts.read_quorum,
            write_quorum=self.facts.write_quorum,
            group=group,
            clock=load_clock(store),
            plants=self.plants,
        )
        self._shape: list[tuple[bytes, int, str, str]] = []  # of the members that `_placement` is for
        self._placement: Placement
        self.seats = SeatMap(partitions=self.facts.partitions, replicas=self.facts.replicas)
        self._ring: dict[str, object] | None = None
        self._following = 0  # the round number that is being raised
        self.coordinator.starting = len(self.membership.members()) > 1  # it may be an old copy, which must not serve
        self._serve_from_ns = 0
        self.machines: list[Machine] = []
        self.write(_entry_batch(own))
        self._rebuild()
        self.replica.start(self._view.own)
        self.machines = [machine(self) for machine in MACHINES]
        self._gossip = self.machine(Gossip)
        self.admission = self.machine(Admission)
        self.detector = self.machine(Detector)
        self.healing = self.machine(Healing)
        self.rounds = self.machine(Rounds)
        self._redis = Redis(self)
        self._work: list[Callable[[int], object]] = [lambda _now_ns: self.replica.build(build_count)]
        self._work += [machine.tick for machine in self.machines if type(machine).tick is not Machine.tick]
        self._ops: dict[Op, tuple[int | None, Answering]] = {}
        for machine in self.machines:
            self._ops.update(machine.ops())

    # ---- what shells call

    @property
    def now_ns(self) -> int:
        """The time as `at` told it last."""
        return self.coordinator.now_ns

    @property
    def flush_wanted(self) -> bool:
        """Whether something waits for a flush."""
        return self.coordinator.flush_wanted

    @property
    def reads_wanted(self) -> bool:
        """Whether a request waits for a record that is on the disk, and that nobody reads yet."""
        return self.coordinator.reads_wanted

    @property
    def busy(self) -> int:
        """How many requests are under way."""
        return self.coordinator.busy

    @property
    def serves(self) -> bool:
        """Whether it is up, with its seats, and has heard what others know of it."""
        return self.own.status is Status.UP and not self.coordinator.starting

    def at(self, now_ns: int, wall_ms: int) -> None:
        """Tell the time: monotonic nanoseconds, wall-clock milliseconds since 1970."""
        self.coordinator.at(now_ns, wall_ms)

    def tick(self) -> None:
        """Do what is due: deadlines, trees, and the machines' work."""
        self.coordinator.sweep()
        if self.coordinator.starting:
            self._serve_from_ns = self._serve_from_ns or self.now_ns + LISTEN_NS
            if self.now_ns >= self._serve_from_ns:
                self.heard()  # nobody is there: what this node has is better than nothing
        now_ns = self.now_ns
        for work in self._work:
            try:
                work(now_ns)
            except StoreError as error:  # tried again at the next tick
                self.trace("store.refused", what="background work", error=str(error))

    def flushed(self, sequence: int) -> None:
        """Everything up to *sequence* is durable."""
        self.coordinator.flushed(sequence)

    def take_reads(self) -> list[bytes]:
        """Return the object keys to read, the oldest first, at most `READ_MAX`."""
        return self.coordinator.take_reads(READ_MAX)

    def read(self, keys: Sequence[bytes], found: Sequence[bytes | StoreError | None]) -> None:
        """The store's ``get_many`` has returned *found* for *keys* of `take_reads`."""
        self.coordinator.read(keys, found)

    def take_dirty(self) -> list[Connection]:
        """Return the connections with output, or that close, since the last call."""
        return self.coordinator.take_dirty()

    def accept(self) -> Connection:
        """Return the core's end of a connection that came in."""
        return Connection(self.coordinator, self)

    def accept_redis(self) -> RespConnection:
        """Return the core's end of a connection that a redis client has opened."""
        return RespConnection(self.coordinator, self._redis, self.random64())

    def wanted(self) -> dict[bytes, str]:
        """Return the peers to open a connection to: node id → address."""
        peers, dialled, entries = self.peers, self._dialled, self.membership.entries
        lacking = [
            id
            for id in entries
            if id not in dialled and (peer := peers.get(id)) is not None and not peer.me and peer.link is None
        ]
        return {id: entries[id].address for id in sorted(lacking) if entries[id].member}

    def dial(self, node: bytes) -> Connection:
        """Return the core's end of a connection that was opened to a peer of `wanted`."""
        self._dialled.add(node)
        said = {**hello(self.own, cluster=self.facts.cluster, to=node), "since": list(self._since)}
        connection = Connection(self.coordinator, self, hello=said)
        connection.peer = self.peers[node]
        self.detector.dialled(connection)
        return connection

    def heard(self) -> None:
        """Another node has told us what it knows of us: serve, unless that has ended us."""
        self.coordinator.starting = False

    def stop(self) -> None:
        """Take no new requests; those under way are still answered."""
        self.coordinator.draining = True

    def close(self) -> None:
        """Save what makes the next start quick; the store is closed after this, and nothing is called any more."""
        self.replica.save()

    def end(self, why: str) -> None:
        """End this node for good: it serves nothing from now on, and the shell stops it."""
        self.ended = why
        self.coordinator.draining = True
        self.trace("node.ended", why=why)

    # ---- what connections call

    def hello(self, connection: Connection, fields: dict[Any, Any]) -> dict[str, object]:
        """Check who calls; return the fields of our hello. Raises RefusedError."""
        if fields.get("version") != WIRE_VERSION:
            raise RefusedError(
                f"this node speaks wire version {WIRE_VERSION}, the caller {fields.get('version')!r}",
                {"version": WIRE_VERSION},
                code="version-mismatch",
            )
        if fields.get("role") not in ("client", "peer"):  # no set: that would hash what a stranger sent
            raise BadRequestError("a HELLO must have the role 'client' or 'peer'")
        cluster, to = fields.get("cluster"), fields.get("to")
        if cluster is not None and cluster != self.facts.cluster:
            raise RefusedError(f"this node belongs to cluster {self.facts.cluster.hex()}", code="wrong-cluster")
        if to is not None and to != self.own.id and "wrong-id" not in self.plants:
            raise RefusedError(
                f"this is node {self.own.id.hex()}, not the one the caller means",
                # Perhaps many have other addresses now, and this is all that the caller hears of anybody.
                {"entries": [self.membership.entries[self.own.id].to_wire()]} if cluster is not None else {},
                code="wrong-node",
            )
        if fields["role"] == "peer":
            self._check_peer(fields)
            connection.peer = fields["node"]
            self._supersede(fields["node"], fields.get("generation"))
            self._inbound.setdefault(fields["node"], []).append(connection)
        return {
            "version": WIRE_VERSION,
            "role": "node",
            "cluster": self.facts.cluster,
            "node": self.own.id,
            "name": self.own.name,
            "generation": self.own.generation,
            "since": list(self._since),
        }

    def _check_peer(self, fields: dict[Any, Any]) -> None:
        id = fields.get("node")
        if not is_node_id(id):
            raise BadRequestError(f"the HELLO of a peer must carry its node id, {NODE_ID_SIZE} bytes")
        known = self.membership.entries.get(id)
        if known is None:
            return
        if not known.member:
            raise RefusedError("this node was removed from the cluster and cannot come back", code="removed")
        self._check_age(known, fields)

    def _supersede(self, id: bytes, generation: object) -> None:
        """Read nothing more of what earlier starts of a node have sent: it may be from before a round."""
        if isinstance(generation, int) and generation > self._called.get(id, 0):
            self._called[id] = generation
            for older in self._inbound.get(id, []):
                older.close()

    def _check_age(self, known: Entry, fields: dict[Any, Any]) -> None:
        """Refuse a node whose folder is older than what it has told: an old copy, or one that was put back."""
        generation, since = fields.get("generation"), fields.get("since")
        stale = not isinstance(generation, int) or generation < max(known.generation, self._called.get(known.id, 0))
        match since:
            case [before, version] if is_uint(before) and is_uint(version) and known.generation != generation:
                stale = stale or (before, version) < known.digest
        if stale:
            raise RefusedError(
                f"generation {generation!r} with entry {since!r} is older than {list(known.digest)}, which this"
                " cluster has seen: the folder is an old copy",
                code="stale-generation",
            )

    def linked(self, connection: Connection, fields: dict[Any, Any]) -> None:
        """A peer has answered our hello: requests can be sent to it. Raises RefusedError."""
        peer: Peer = connection.peer
        right = fields.get("node") == peer.id or "wrong-id" in self.plants
        if not right or fields.get("cluster") != self.facts.cluster:
            raise RefusedError("the node at this address is another one", code="wrong-node")
        known = self.membership.entries[peer.id]
        try:
            self._check_age(known, fields)
        except RefusedError:  # it may know of nobody who is still there, so it must hear it from us
            connection.request(Op.GOSSIP, 1, [{"entries": [known.to_wire()]}])
            raise
        if peer.link is not None and peer.link is not connection:
            peer.link.close()
        peer.link = connection
        peer.heard_ns = self.now_ns
        peer.suspected = False
        self._gossip.hurry()
        for machine in self.machines:
            machine.linked(peer)
        self.trace("peer.linked", peer=peer.name)

    def refused(self, connection: Connection, code: str, message: str, details: object) -> None:
        """A peer has refused our hello; the connection closes by itself."""
        self.trace("peer.refused", peer=connection.peer.name, code=code, message=message)
        if code == "wrong-node" and isinstance(details, dict):
            entries = details.get("entries")
            with suppress(PeerProtocolError):  # then nothing is learnt
                self.learn([Entry.from_wire(fields) for fields in entries] if isinstance(entries, list) else [])
        if code in _ENDS and self.ended is None:
            self.end("left" if self.own.status is Status.LEFT else _ENDS[code])

    def dropped(self, connection: Connection) -> None:
        """A connection has ended."""
        peer = connection.peer
        if isinstance(peer, bytes) and connection in self._inbound.get(peer, []):
            self._inbound[peer].remove(connection)
            if not self._inbound[peer]:
                del self._inbound[peer]
        if isinstance(peer, Peer):
            self._dialled.discard(peer.id)
            if peer.link is connection:
                self.coordinator.link_down(peer)
                self.trace("peer.lost", peer=peer.name)

    def cold(self, connection: Connection, op: int, id: int, fields: list[Any]) -> None:
        """Answer a rare request. Raises RequestError, which becomes an error answer."""
        self.coordinator.commit()  # the machines rely on what they read
        try:
            self._cold(connection, Op(op), id, fields)
        except PeerProtocolError as error:
            raise BadRequestError(str(error)) from error
        except StoreError as error:
            raise RefusedError(str(error), code="store-error") from error

    def _cold(self, connection: Connection, op: Op, id: int, fields: list[Any]) -> None:
        own: dict[Op, tuple[int | None, Answering]] = {
            Op.RING: (1, lambda connection, id, fields: connection.reply(id, self._ring_answer(fields[0]))),
            Op.STATUS: (1, lambda connection, id, fields: connection.reply(id, self._status(fields[0]))),
        }
        count, answering = own.get(op) or self._ops.get(op) or (0, None)
        if answering is None:
            raise BadRequestError(f"{op.name} is not a request")
        if count is not None and len(fields) != count:
            raise BadRequestError(f"{op.name} with {len(fields)} fields")
        answering(connection, id, fields)

    # ---- what the coordinator calls

    def save_clock(self, time: int) -> None:
        """Hybrid times up to *time* may be given out from now on."""
        identity.save_clock(self.store, time)

    def amnesia(self, key: bytes) -> None:
        """A client knows a dot of ours that we do not: this folder lost writes."""
        self.trace("actor.amnesia", key=key[:64])

    def follow_round(self, number: int) -> None:
        """Raise our round number to one that a peer has, as nobody asked us to agree: it counts once it is on disk."""
        if number <= max(self._following, self.replica.round):
            return
        try:
            self.replica.write_round(number)
        except StoreError as error:  # whoever needs it asks again
            self.trace("store.refused", what="round number", error=str(error))
            return
        self._following = number
        self.after_flush(lambda: self.replica.take_round(number))

    # ---- what the machines of the core call

    def machine(self, kind: type[_M]) -> _M:
        """Return this node's machine of that type."""
        return next(machine for machine in self.machines if isinstance(machine, kind))

    def linked_peers(self) -> list[Peer]:
        """Return the peers that can be asked, by id."""
        return [self.peers[id] for id in sorted(self.peers) if self.peers[id].link is not None]

    def call(
        self,
        peer: Peer,
        op: Op,
        fields: list[Any],
        timeout_ms: int,
        done: Callable[[Any, DynafastError | None], None],
    ) -> None:
        """Ask a peer; ``done(result, error)`` is called once."""
        self.coordinator.call(peer, op, fields, timeout_ms=timeout_ms, done=done)

    def after_flush(self, done: Callable[[], None]) -> None:
        """Call *done* once everything written so far is durable."""
        self.coordinator.after_flush(done)

    def write(self, batch: Batch) -> None:
        """Hand a batch to the store."""
        if batch.ops:
            self.store.write(batch)

    def own_seats(self) -> list[Seat]:
        """Return the seats this node serves."""
        return unpack(self.own.seats, partitions=self.facts.partitions, replicas=self.facts.replicas)

    def change_own(
        self,
        batch: Batch,
        *,
        status: Status | None = None,
        seats: Iterable[Seat] | None = None,
        weight: int | None = None,
        given: Given | None = None,
        modes: Mapping[int, tuple[int, bytes]] | None = None,
    ) -> None:
        """Change our entry: written with *batch* at once, told once it is on disk.

        Args:
            batch: what is to be written together with it.
            status: what it says from now on; None: as before.
            seats: likewise.
            weight: likewise.
            given: the seats that were given away and are not seen to be taken; *batch* keeps them.
            modes: as for `change_modes`.

        Raises:
            StoreError: the store refused; nothing has changed.
        """
        gifts = self.given if given is None else {p: of for p, of in given.items() if of}
        packed = pack(
            self.own_seats() if seats is None else seats,
            [Seat(partition, seat, k - 1) for partition, of in gifts.items() for seat, (_, k) in of.items()],
        )
        entry = replace(
            self.own,
            version=self.own.version + 1,
            status=self.own.status if status is None else status,
            seats=packed,
            weight=self.own.weight if weight is None else weight,
        )
        identity.put_entries(batch, [entry])
        self._write_modes(batch, modes or {})
        self.own, self.given = entry, gifts
        self._rebuild({partition: mode for partition, (mode, _) in (modes or {}).items()})
        self.after_flush(lambda: self._tell(entry))

    def change_modes(self, batch: Batch, modes: Mapping[int, tuple[int, bytes]]) -> None:
        """Change what partitions are to us while we serve no seat of them; written with *batch* at once.

        Args:
            batch: what is to be written together with it.
            modes: partition -> (mode, up to where a pull has come: an object key, or b"").

        Raises:
            StoreError: the store refused; nothing has changed.
        """
        self._write_modes(batch, modes)
        self.replica.take_modes({partition: mode for partition, (mode, _) in modes.items()})

    def _write_modes(self, batch: Batch, modes: Mapping[int, tuple[int, bytes]]) -> None:
        for partition, (mode, cursor) in sorted(modes.items()):
            self.replica.put_mode(batch, partition, mode, cursor)
        self.write(batch)

    def learn(self, entries: Iterable[Entry]) -> bool:
        """Take in entries that a peer told; return whether all that is known was handed to the store.

        Raises:
            PeerProtocolError: one names seats that the cluster does not have; none is taken in.
        """
        told = []
        for entry in entries:
            self.seats.check(entry)
            if entry.id == self.own.id:
                self._hear_of_us(entry)
            else:
                told.append(entry)
        news = self.membership.merge(told)
        self._unwritten.update((entry.id, entry) for entry in news)
        batch = Batch()
        identity.put_entries(batch, self._unwritten.values())
        try:
            self.write(batch)
            self._unwritten.clear()
        except StoreError as error:  # tried again with the next ones; after a restart others will tell us
            self.trace("store.refused", what="member entries", error=str(error))
        if not news:
            return not self._unwritten
        for entry in news:
            self.trace("member.changed", name=entry.name, status=entry.status.value, version=entry.version)
        self._rebuild()
        for entry in news:
            if not entry.member:
                self._part(entry)
        self._gossip.hurry()
        return not self._unwritten

    def _hear_of_us(self, entry: Entry) -> None:
        """Somebody tells our own entry: it must be one that this start of this node has told, or older."""
        if self.ended is not None:
            return
        if entry.status is Status.REMOVED:
            self.end("removed")
        elif entry.generation < self.own.generation:
            if entry.digest > self._since:
                self.end("stale")
        elif entry.digest > self.own.digest or self._told.get(entry.version, entry) != entry:
            self.end("stale")

    def _part(self, entry: Entry) -> None:
        """A node has gone: its connections end, so that nothing it still sends or answers counts."""
        peer = self.peers.get(entry.id)
        if peer is not None and peer.link is not None:
            peer.link.close()
        for connection in self._inbound.get(entry.id, []):
            connection.close()

    def mark_removed(self, entry: Entry, done: Callable[[bool], None]) -> None:
        """Remove a dead node for ever; *done* as for `tell_removed`, once that is on our disk too."""
        removed = replace(entry, status=Status.REMOVED)
        batch = Batch()
        identity.put_entries(batch, [removed])
        self.write(batch)

        def durable() -> None:
            self.learn([removed])
            self.tell_removed(removed, done)

        self.after_flush(durable)

    def tell_removed(self, removed: Entry, done: Callable[[bool], None]) -> None:
        """Tell all who can be reached of a removal, as we may be lost next.

        ``done(kept)`` once each has answered or has had its time: whether most of us, this node among them, have it on
        disk.
        """
        members = self.membership.entries
        peers = [peer for peer in self.linked_peers() if members[peer.id].member]
        left, kept = len(peers), 1

        def heard(_result: object, error: object) -> None:
            nonlocal left, kept
            left -= 1
            kept += error is None
            if left == 0:
                done(2 * kept > len(peers) + 1)

        for peer in peers:
            self.call(peer, Op.GOSSIP, [{"entries": [removed.to_wire()]}], TELL_MS, heard)
        if not peers:
            done(True)

    def partition_of(self, object_key: bytes) -> int:
        """Return the partition of ``position (8 bytes, big-endian) + key``."""
        return int.from_bytes(object_key[:8], "big") * self.facts.partitions >> 64

    def targets(self, partition: int) -> list[bytes]:
        """Return the nodes that should serve *partition*: the first N of its preference list."""
        members, places = self._placement.members, self._placement.ring.at(partition)
        return [members[index].id for index in places[: self.facts.replicas]]

    def own_targets(self) -> dict[int, list[bytes]]:
        """Return the partitions that this node should serve, with all their targets."""
        return {
            partition: targets
            for partition in range(self.facts.partitions)
            if self.own.id in (targets := self.targets(partition))
        }

    def preference(self, partition: int) -> list[bytes]:
        """Return the preference list of *partition*, beyond the first N too."""
        return [self._placement.members[index].id for index in self._placement.ring.at(partition)]

    # ---- the view

    def _tell(self, entry: Entry) -> None:
        self._told[entry.version] = entry
        self._told.pop(entry.version - TOLD_MAX, None)
        self.membership.merge([entry])
        self._gossip.hurry()

    def _peer(self, entry: Entry) -> Peer:
        host = self._hosts.setdefault(entry.host, len(self._hosts))
        peer = self.peers.get(entry.id)
        if peer is None:
            peer = Peer(id=entry.id, name=entry.name, host=host, me=entry.id == self.own.id)
            self.peers[entry.id] = peer
        peer.host = host
        return peer

    def members(self) -> list[Entry]:
        """Return the members, ourselves as we are now rather than as we told."""
        return [self.own if entry.id == self.own.id else entry for entry in self.membership.members()]

    def _place(self, entries: list[Entry]) -> Placement:
        members = tuple(Member(id=entry.id, weight=entry.weight, zone=entry.zone, host=entry.host) for entry in entries)
        return self._placing(members, partitions=self.facts.partitions, replicas=self.facts.replicas)

    def _rebuild(self, modes: Mapping[int, int] | None = None) -> None:
        """Compute who serves what from the entries, and hand that to the request path.

        Only what has changed is computed: this runs at every piece of news.
        """
        members = self.members()
        peers = {entry.id: self._peer(entry) for entry in members}
        placed = [entry for entry in members if entry.status is not Status.LEAVING] or members
        shape = [(entry.id, entry.weight, entry.zone, entry.host) for entry in placed]
        known = self.membership.entries.values()
        changed = self.seats.update([self.own if entry.id == self.own.id else entry for entry in known])
        if shape != self._shape:
            self._shape, self._placement = shape, self._place(placed)
            changed = set(range(self.facts.partitions))
        for partition in sorted(changed):  # the order within a set can depend on how it came about
            preference = self.preference(partition)
            row = [(peers[id], mask) for id, mask in self.seats.row(partition, preference)]
            serving = {peer.id for peer, _ in row}
            order = [peers[id] for id in preference]
            extras = [peer for peer in order[: self.facts.replicas] if peer.id not in serving]
            self._view.set_row(partition, row, extras, order)
        hosts = len({entry.host for entry in placed})
        self._view.set_peers(list(peers.values()), max(1, min(self.facts.replicas, hosts)))
        if changed or modes:
            self.replica.take_modes(modes or {}, self._view.own)
        self._ring = None
        for machine in self.machines:
            machine.changed(changed)

    # ---- answers about the cluster

    def _ring_answer(self, key: object) -> dict[str, object]:
        if key is None:
            return self._ring_table()
        if not isinstance(key, bytes) or not key:
            raise BadRequestError("the key must be a byte string that is not empty, or null")
        if len(key) > KEY_MAX:
            raise TooLargeError(f"the key must have at most {KEY_MAX} bytes, got {len(key)}")
        position = xxh3_64_intdigest(key)
        partition = position * self.facts.partitions >> 64
        names = [self.membership.entries[id].name for id in self.preference(partition)]
        return {"position": position, "partition": partition, "preference": names}

    def _ring_table(self) -> dict[str, object]:
        """Return who serves what, for clients that go to a replica directly."""
        members = self.members()
        alive = {entry.id: self.peers[entry.id].usable for entry in members}
        if self._ring is None:
            index = {entry.id: number for number, entry in enumerate(members)}
            table = bytearray()
            for holders in self.coordinator.view.holders:
                row = [index[peer.id] for peer in holders][: self.facts.replicas]
                row += [0xFFFF] * (self.facts.replicas - len(row))
                table += b"".join(number.to_bytes(2, "big") for number in row)
            addresses = "".join(f"{entry.id.hex()}={entry.address};" for entry in members)
            self._ring = {
                "cluster": self.facts.cluster,
                "version": xxh3_64_intdigest(bytes(table) + addresses.encode()),
                "partitions": self.facts.partitions,
                "replicas": self.facts.replicas,
                "r": self.facts.read_quorum,
                "w": self.facts.write_quorum,
                "hash": HASH_NAME,
                "table": bytes(table),
            }
        nodes = [
            {
                "id": entry.id,
                "name": entry.name,
                "address": entry.address,
                "host": entry.host,
                "zone": entry.zone,
                "weight": entry.weight,
                "status": entry.status.value,
                "alive": alive[entry.id],
            }
            for entry in members
        ]
        return {**self._ring, "nodes": nodes}

    def _status(self, options: object) -> dict[str, object]:
        if options not in (None, {}, {"config": False}, {"config": True}):
            raise BadRequestError("the options of STATUS must be null, or a map with config (a boolean) alone")
        first: dict[bytes, int] = {}
        for holders in self.coordinator.view.holders:
            if holders:
                first[holders[0].id] = first.get(holders[0].id, 0) + 1
        members = []
        for id, entry in sorted(self.membership.entries.items(), key=lambda item: item[1].name):
            shown = self.own if id == self.own.id else entry
            alive = id == self.own.id or (entry.member and self.peers[id].usable)
            figures = self.store.usage() if id == self.own.id else self.detector.sizes.get(id)
            members.append(
                {
                    "name": shown.name,
                    "id": id.hex(),
                    "address": shown.address,
                    "status": shown.status.value,
                    "alive": alive,
                    "weight": shown.weight,
                    "zone": shown.zone,
                    "host": shown.host,
                    "partitions": first.get(id, 0) if alive else None,
                    "seats": len(shown.seats) // 9 if alive else None,
                    "keys": figures[0] if alive and figures else None,
                    "bytes": figures[1] if alive and figures else None,
                }
            )
        answer: dict[str, object] = {
            "cluster": {
                "id": self.facts.cluster.hex(),
                "partitions": self.facts.partitions,
                "replicas": self.facts.replicas,
                "r": self.facts.read_quorum,
                "w": self.facts.write_quorum,
                "hash": self.facts.hash,
                "quorum_hosts": self.coordinator.view.most,
                "warnings": list(self._placement.warnings),
            },
            "node": self.own.name,
            "members": members,
        }
        for machine in self.machines:
            answer.update(machine.figures())
        if options == {"config": True}:
            answer["config"] = self.settings
        return answer


def _entry_batch(own: Entry) -> Batch:
    batch = Batch()
    identity.put_entries(batch, [own])
    return batch
