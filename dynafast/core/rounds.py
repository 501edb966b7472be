"""Drops tombstones and dead entries of contexts, by agreed rounds and in no other way.

A tombstone that is gone on one replica while an older value is left anywhere brings that value back; so does an entry
of a context. Therefore one target of a partition lists keys with digests, and every member answers for each key, after
a flush: nothing at all is stored under it, or exactly that record, kept for nobody else, and no request for it is under
way. All targets must have exactly that record, and all members the same view. Then each deletes it, or drops the
entries, if its record still is that.

A frame on its way could undo that. So each frame with versions carries the round number that its sender had when it
read them, and whoever agrees has raised its own number first, durably, and refuses lower ones from then on. One whose
number is that high already does not agree: frames of that number may be on their way from it.

A round that is not agreed on costs nothing but time, and a member that is away delays rounds and breaks none. Once
agreed on, a deletion is right for ever: the leader repeats it until every member has done it, and a replica that is
shown the record again says so (`Rounds.reaped`).

Does: find such records among those of the partitions this node leads, lead rounds, take part in those of others. May
not: decide anything by the age of a record. Traces that each rule stops: `trim-early`, `reap-targets-only`,
`late-frame` and `confirm-before-flush` of the simulator.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_64_intdigest

from dynafast._ext.clock import Record
from dynafast._ext.codec import dumps
from dynafast._ext.replica import HOLDS_HINT, HOLDS_NOTHING, HOLDS_OTHER, HOLDS_SAME
from dynafast.core.machine import Answering, Machine
from dynafast.errors import CorruptRecordError, DynafastError, PeerProtocolError, RefusedError, RequestError, StoreError
from dynafast.limits import KEY_MAX
from dynafast.protocol import Op, is_uint

if TYPE_CHECKING:
    from dynafast._ext.connection import Connection
    from dynafast.core.node import Node

CONTEXT_MAX_COUNT = 10  # entries of a context before the oldest dead ones are dropped: the paper's threshold
REST_NS = 2_000_000_000  # a record is left alone for so long after it was found, and after it changed
KEYS_MAX = 256  # of one round
KEYS_SIZE_MAX = 256 * 1024  # bytes of them
WAITING_MAX = 4096
SEEK_NS = 50_000_000
SEEK_COUNT = 64  # records read in one step of the search
SEEK_PARTITIONS = 64  # looked at in one step
PAUSE_NS = 200_000_000  # between rounds: each makes the writes under way go out again
PAUSE_RANDOM_MS = 800  # added to it, so that two leaders do not meet again and again
AGAIN_NS = 1_000_000_000
AGAIN_DOUBLINGS = 5  # a key, or a round, that fails is tried again after 1, 2, 4, ... 32 s
ANSWER_MS = 3_000

HOLDS_BUSY = 4  # beside the HOLDS_ numbers of a replica: a request for the key is under way

_WHY = {
    HOLDS_NOTHING: "has nothing yet",
    HOLDS_OTHER: "has another record",
    HOLDS_HINT: "keeps a hint",
    HOLDS_BUSY: "has a request under way",
}


@dataclass(frozen=True, slots=True)
class Item:
    """What a round would do to one key: delete its record, or drop the context's entries of some actors."""

    key: bytes
    digest: int
    actors: tuple[int, ...] | None

    def to_wire(self) -> list[object]:
        """Return the list that travels in REAP."""
        return [self.key, self.digest, None if self.actors is None else list(self.actors)]


@dataclass(slots=True)
class _Waiting:
    """A record that a round could take away."""

    digest: int
    due_ns: int
    tries: int = 0
    reason: str | None = None  # why the last try failed


@dataclass(slots=True)
class _Round:
    """A round that this node leads."""

    number: int
    view: int
    items: list[Item]
    members: list[bytes]
    answers: dict[bytes, bytes] = field(default_factory=dict)  # node -> a HOLDS_ number for each item
    agreed: list[Item] | None = None  # None: not decided
    unreaped: set[bytes] = field(default_factory=set)  # nodes that have not done their part yet
    asked: set[bytes] = field(default_factory=set)  # of those, the ones whose answer is awaited
    again_ns: int = 0


def plan(record: Record) -> tuple[int, ...] | None:
    """Return what a round should do to a record: None, delete it; else drop the entries of these actors, if any.

    Of the entries that no version needs any more those of the oldest dots go, as many as are too many.
    """
    if record.live() == 0:
        return None
    too_many = max(0, len(record.context) - CONTEXT_MAX_COUNT)
    oldest = sorted((time, actor) for actor, _, time in record.dead())[:too_many]
    return tuple(sorted(actor for _, actor in oldest))


class Rounds(Machine):
    """One node's part in rounds: leads those of its partitions, and answers for those of others."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._waiting: dict[bytes, _Waiting] = {}
        self._signs: dict[int, int] = {}  # partition -> root of its tree when it was last searched
        self._led = bytearray(node.facts.partitions)  # of each partition whether rounds about it are ours to lead
        self._partition = 0
        self._after = b""  # the key up to which the partition has been searched
        self._sign: int | None = None
        self._round: _Round | None = None
        self._fails = 0
        self._next_seek_ns = 0
        self._next_round_ns = 0
        self._reason: str | None = None  # why no round could be held
        self._news: dict[bytes, dict[bytes, Item]] = {}  # node -> what it has not heard that a round took away
        self.changed(set(range(node.facts.partitions)))

    def ops(self) -> dict[Op, tuple[int, Answering]]:
        """See `Machine`."""
        return {Op.ROUND: (1, self._answer_round), Op.REAP: (1, self._answer_reap)}

    def figures(self) -> dict[str, object]:
        """See `Machine`."""
        reasons = [self._reason, *(waiting.reason for waiting in self._waiting.values())]
        reason = next((reason for reason in reasons if reason is not None), None)
        return {"tombstones": {"waiting": len(self._waiting), "reason": reason if self._waiting else None}}

    def changed(self, partitions: set[int]) -> None:
        """See `Machine`."""
        for partition in partitions:
            self._signs.pop(partition, None)
            self._led[partition] = self._leads(partition)

    def tick(self, now_ns: int) -> None:
        """Search a little, and go on with the round under way or begin one."""
        if self._news:
            self._tell()
        if now_ns >= self._next_seek_ns and len(self._waiting) < WAITING_MAX:
            self._next_seek_ns = now_ns + SEEK_NS
            self._seek(now_ns)
        if self._round is not None:
            if self._round.agreed is not None and now_ns >= self._round.again_ns:
                self._round.again_ns = now_ns + AGAIN_NS
                self._reap(self._round)
        elif now_ns >= self._next_round_ns and self._waiting:
            self._next_round_ns = now_ns + PAUSE_NS
            self._begin(now_ns)

    def reaped(self, peer: bytes, key: bytes, record: Record) -> bool:
        """Whether a round took away exactly this record, which *peer* shows: then it must not be merged.

        It counts as merged, since nothing older than it is left anywhere. The peer, which has missed the end of the
        round, is told.
        """
        known = self.node.replica.reaped.get(key)
        if known is None or known[0] != record.digest():
            return False
        items = self._news.setdefault(peer, {})
        if len(items) < KEYS_MAX:
            items[key] = Item(key, *known)
        return True

    # ---- the search

    def _seek(self, now_ns: int) -> None:
        """Read some records of the next partition that this node leads and that has changed since it was searched."""
        led, count = self._led, len(self._led)
        for _ in range(min(SEEK_PARTITIONS, count)):
            partition = self._partition
            if led[partition]:
                root = self.node.replica.root(partition)
                if self._after or root is None or self._signs.get(partition) != root:
                    if not self._after:
                        self._sign = root
                    self._search(partition, now_ns)
                    return
            self._go_on()

    def _search(self, partition: int, now_ns: int) -> None:
        try:
            page = self.node.replica.scan(partition, self._after, SEEK_COUNT)
        except CorruptRecordError:  # a range that cannot be read; others will bring it back
            self._go_on()
            return
        if not page:
            if self._sign is not None:
                self._signs[partition] = self._sign
            self._go_on()
            return
        self._after = page[-1][0]
        for key, record in page:
            if isinstance(record, Record) and key not in self._waiting and plan(record) != ():
                self._waiting[key] = _Waiting(record.digest(), now_ns + REST_NS)

    def _go_on(self) -> None:
        self._after = b""
        self._partition = (self._partition + 1) % self.node.facts.partitions

    def _leads(self, partition: int) -> bool:
        """Whether rounds about a partition are ours to lead: one leader each, so that they seldom meet."""
        holders = self.node.coordinator.view.holders[partition]
        return bool(holders) and holders[0].me and self.node.own.id in self.node.targets(partition)

    # ---- leading

    def _begin(self, now_ns: int) -> None:
        """Begin a round with what has rested long enough, if every member can be asked."""
        node = self.node
        self._reason = self._obstacle()
        if self._reason is not None:
            return
        items = self._due(now_ns)
        if not items:
            return
        busy = node.coordinator.busy_keys()
        own = [self._judge(item.key, item.digest, busy) for item in items]
        for item, holds in zip(items, own, strict=True):
            if holds != HOLDS_SAME:
                self._put_off(item.key, f"{node.own.name} {_WHY[holds]}")
        items = [item for item, holds in zip(items, own, strict=True) if holds == HOLDS_SAME]
        if not items:
            return
        number = node.replica.round + 1
        node.replica.raise_round(number)
        others = [entry.id for entry in node.membership.members() if entry.id != node.own.id]
        this = _Round(number=number, view=self._view(), items=items, members=[node.own.id, *others])
        this.answers[node.own.id] = bytes([HOLDS_SAME]) * len(items)
        self._round = this
        node.trace("round.begun", number=number, keys=len(items))
        node.after_flush(lambda: self._ask(this))

    def _obstacle(self) -> str | None:
        node = self.node
        if node.coordinator.draining:
            return "this node is stopping"
        for entry in node.membership.members():
            if entry.id != node.own.id and not node.peers[entry.id].usable:
                return f"{entry.name} cannot be reached"
        return None

    def _due(self, now_ns: int) -> list[Item]:
        """Return the items of the next round; forget what is no longer to be taken away, or not by us."""
        items: list[Item] = []
        size = 0
        for key, waiting in list(self._waiting.items()):
            if waiting.due_ns > now_ns:
                continue
            if len(items) == KEYS_MAX or size > KEYS_SIZE_MAX:
                break
            record = None
            if self._led[self.node.partition_of(key)]:
                with suppress(CorruptRecordError):
                    record = self.node.replica.read(key)
            actors = () if record is None else plan(record)
            if record is None or actors == ():
                del self._waiting[key]
            elif record.digest() != waiting.digest:
                self._waiting[key] = _Waiting(record.digest(), now_ns + REST_NS)
            else:
                items.append(Item(key, waiting.digest, actors))
                size += len(key)
        return items

    def _ask(self, this: _Round) -> None:
        """Our number is on disk, and with it our record: ask the others."""
        request = {
            "round": this.number,
            "view": this.view,
            "keys": [[item.key, item.digest] for item in this.items],
        }
        for id in this.members[1:]:
            if self._round is this and this.agreed is None:
                self.node.call(self.node.peers[id], Op.ROUND, [request], ANSWER_MS, self._heard(this, id))
        if len(this.members) == 1:
            self._decide(this)

    def _heard(self, this: _Round, id: bytes) -> Callable[[Any, DynafastError | None], None]:
        name = self.node.peers[id].name

        def done(result: Any, error: DynafastError | None) -> None:
            if self._round is not this or this.agreed is not None:
                return
            if error is None and isinstance(result, bytes) and len(result) == len(this.items):
                this.answers[id] = result
                if len(this.answers) == len(this.members):
                    self._decide(this)
                return
            if isinstance(error, RequestError) and error.code == "stale-round":
                number = error.details.get("round")
                if is_uint(number) and number < 2**63:
                    self.node.follow_round(number)
            self._fail(f"{name}: {error}")

        return done

    def _fail(self, reason: str) -> None:
        """Nothing was agreed: try again a little later, and later still when that fails too."""
        self._round = None
        self._reason = reason
        self._fails = min(self._fails + 1, AGAIN_DOUBLINGS)
        self._pause(PAUSE_NS << self._fails)
        self.node.trace("round.failed", reason=reason)

    def _pause(self, least_ns: int) -> None:
        random_ns = self.node.random64() % PAUSE_RANDOM_MS * 1_000_000
        self._next_round_ns = max(self._next_round_ns, self.node.now_ns + least_ns + random_ns)

    def _decide(self, this: _Round) -> None:
        """Every member has answered: whatever all agree on is taken away."""
        if self._view() != this.view:
            self._fail("the members have changed")
            return
        this.agreed = []
        self._reason = None
        for index, item in enumerate(this.items):
            obstacle = self._objection(this, index, item)
            if obstacle is None:
                this.agreed.append(item)
            else:
                self._put_off(item.key, obstacle)
        agreed = set(this.agreed)
        this.unreaped = {
            id
            for id, answer in this.answers.items()
            if any(holds == HOLDS_SAME and item in agreed for holds, item in zip(answer, this.items, strict=True))
        }
        self.node.trace("round.agreed", number=this.number, keys=len(agreed), of=len(this.items))
        self._reap(this)

    def _objection(self, this: _Round, index: int, item: Item) -> str | None:
        """Return who does not agree to take an item away, and why; None when all do."""
        targets = self.node.targets(self.node.partition_of(item.key))
        for id in this.members:
            holds = this.answers[id][index]
            fine = holds == HOLDS_SAME or (holds == HOLDS_NOTHING and id not in targets)
            if not fine and (id in targets or "reap-targets-only" not in self.node.plants):
                return f"{self.node.peers[id].name} {_WHY.get(holds, 'does not agree')}"
        return None

    def _put_off(self, key: bytes, reason: str) -> None:
        waiting = self._waiting[key]
        waiting.reason = reason
        waiting.due_ns = self.node.now_ns + (AGAIN_NS << waiting.tries)
        waiting.tries = min(waiting.tries + 1, AGAIN_DOUBLINGS)

    def _reap(self, this: _Round) -> None:
        """Let every member that has not done so take away what was agreed, ourselves too."""
        node = self.node
        items = this.agreed or []
        for id in sorted(this.unreaped - this.asked):
            if id == node.own.id:
                try:
                    self._take_away(items)
                except StoreError as error:
                    self._reason = str(error)
                else:
                    this.unreaped.discard(id)
            elif not node.membership.entries[id].member:
                this.unreaped.discard(id)
            else:
                this.asked.add(id)
                fields = [{"keys": [item.to_wire() for item in items]}]
                node.call(node.peers[id], Op.REAP, fields, ANSWER_MS, self._done(this, id))
        self._finish(this)

    def _done(self, this: _Round, id: bytes) -> Callable[[Any, DynafastError | None], None]:
        def done(_result: Any, error: DynafastError | None) -> None:
            this.asked.discard(id)
            if error is None:
                this.unreaped.discard(id)
                self._finish(this)
            else:
                self._reason = f"{self.node.peers[id].name} has not heard the end of the last round"

        return done

    def _finish(self, this: _Round) -> None:
        if self._round is not this or this.unreaped:
            return
        for item in this.agreed or []:
            self._waiting.pop(item.key, None)
        self._round = None
        self._fails = 0
        self._pause(PAUSE_NS)

    # ---- taking part

    def _view(self) -> int:
        """Return a hash of all that decides who is a member and who serves what."""
        rows = []
        for id, entry in sorted(self.node.membership.entries.items()):
            shown = self.node.own if id == self.node.own.id else entry
            rows.append([id, shown.generation, shown.version, shown.status.value])
        return xxh3_64_intdigest(dumps(rows))

    def _judge(self, key: bytes, digest: int, busy: set[bytes]) -> int:
        return HOLDS_BUSY if key in busy else self.node.replica.compare(key, digest)

    def _answer_round(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        node = self.node
        number, view, keys = _read_round(fields[0])
        if view != self._view():
            raise RefusedError(f"{node.own.name} knows of other members or seats", code="view-differs")
        if number <= node.replica.round:
            raise RefusedError(
                f"{node.own.name} is at round {node.replica.round}", {"round": node.replica.round}, code="stale-round"
            )
        node.replica.raise_round(number)
        busy = node.coordinator.busy_keys()
        answer = bytes(self._judge(key, digest, busy) for key, digest in keys)
        self._pause(PAUSE_NS)  # somebody else's turn
        if "confirm-before-flush" in node.plants:
            connection.reply(id, answer)
        else:
            node.after_flush(lambda: connection.reply(id, answer))

    def _answer_reap(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        self._take_away(_read_reap(fields[0]))
        self.node.after_flush(lambda: connection.reply(id, None))

    def _take_away(self, items: list[Item]) -> None:
        """Do what was agreed. Raises StoreError: some is not done yet, and will be asked again."""
        count = 0
        for item in items:
            with suppress(CorruptRecordError):  # it is healed from another replica, or found to be nowhere
                count += self.node.replica.reap(item.key, item.digest, item.actors)
        if count:
            self.node.trace("round.reaped", keys=count)

    def _tell(self) -> None:
        """Repeat the end of a round to those that have shown us what it took away."""
        news, self._news = self._news, {}
        for id, items in sorted(news.items()):
            peer = self.node.peers.get(id)
            if peer is not None and peer.usable:
                fields = [{"keys": [item.to_wire() for item in items.values()]}]
                self.node.call(peer, Op.REAP, fields, ANSWER_MS, lambda _result, _error: None)


def _read_round(request: object) -> tuple[int, int, list[tuple[bytes, int]]]:
    """Return number, view and keys with digests of a ROUND. Raises PeerProtocolError."""
    if not isinstance(request, dict):
        raise PeerProtocolError("a ROUND must carry a map")
    number, view, rows = request.get("round"), request.get("view"), request.get("keys")
    if not is_uint(number) or number >= 2**63 or not is_uint(view) or not isinstance(rows, list):
        raise PeerProtocolError("a ROUND must carry its number, the hash of the view, and keys")
    if len(rows) > KEYS_MAX or not all(isinstance(row, list) and len(row) == 2 for row in rows):
        raise PeerProtocolError(f"a ROUND lists up to {KEYS_MAX} [key, digest]")
    if not all(_is_object_key(key) and is_uint(digest) for key, digest in rows):
        raise PeerProtocolError("a ROUND lists [key, digest]")
    return number, view, [(key, digest) for key, digest in rows]


def _read_reap(request: object) -> list[Item]:
    """Return the items of a REAP. Raises PeerProtocolError."""
    rows = request.get("keys") if isinstance(request, dict) else None
    if not isinstance(rows, list) or len(rows) > KEYS_MAX:
        raise PeerProtocolError(f"a REAP must carry a map with up to {KEYS_MAX} keys")
    items: list[Item] = []
    for row in rows:
        if not (isinstance(row, list) and len(row) == 3 and _is_object_key(row[0]) and is_uint(row[1])):
            raise PeerProtocolError("a REAP lists [key, digest, actors]")
        actors = row[2]
        if actors is not None and not (isinstance(actors, list) and all(map(is_uint, actors))):
            raise PeerProtocolError("the actors of a REAP are a list of integers, or null")
        items.append(Item(row[0], row[1], None if actors is None else tuple(actors)))
    return items


def _is_object_key(key: object) -> bool:
    return isinstance(key, bytes) and 8 < len(key) <= 8 + KEY_MAX
