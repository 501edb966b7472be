"""Clients of the simulator: they read, merge and write, repeat what may be repeated, and report all of it.

A client is one generator that yields `Ask` and `Sleep`. It keeps the rules of our client library: a write whose
outcome is unknown is repeated only by its client and only after a get; another node is asked only when surely nothing
was done. Bytes go through the real codec.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple, Protocol

from xxhash import xxh3_64_intdigest

from dynafast._ext.codec import FrameReader, frame
from dynafast._ext.wires import End
from dynafast.errors import PeerProtocolError
from dynafast.protocol import Op
from dynafast.sim.history import NOTHING, KeyHistory, Kind, Shown, Write
from dynafast.sim.network import Network
from dynafast.sim.world import MS, SECOND, World

TRIES = 4
PATIENCE_MS = 400  # after its deadline an answer that is still missing counts as none
AVOID_NS = 300 * MS
RING_PAUSE_NS = SECOND
TOUR_NS = 500 * MS  # a tour goes on by a key
SULK_NS = 200 * MS  # after a verb that failed
UNKNOWN = frozenset({"timeout", "uncertain"})
STALE = frozenset({"not-replica", "no-seat"})
FORWARDED = 2
_HELLO = frame([int(Op.HELLO), 0, {"version": 1, "role": "client"}])


class Ask(NamedTuple):
    """Send a request to a node and wait for the answer."""

    address: str
    op: int
    fields: list[Any]
    timeout_ms: int


class Sleep(NamedTuple):
    """Wait."""

    delay_ns: int


class Unsent(NamedTuple):
    """Surely nothing reached the node."""


class Lost(NamedTuple):
    """The connection ended, or there is silence: nobody knows."""


Outcome = list[Any] | Unsent | Lost
Script = Generator[Ask | Sleep, Outcome | None, None]
Step = Generator[Ask | Sleep, Outcome | None, Any]


class Cluster(Protocol):
    """What clients see of the run they are in."""

    world: World
    network: Network

    def addresses(self) -> Sequence[str]:
        """Return where nodes may be."""

    def listener(self, address: str) -> Any:
        """Return who accepts there, or None."""

    def may_go_on(self) -> bool:
        """Whether clients begin anything new."""

    def finished(self, verb: str, outcome: str) -> None:
        """Count a verb that has ended."""

    def overdue(self, end: End, asked_ns: int, text: str) -> None:
        """A request was not answered in its time."""

    def is_strict(self, op: Op, receipt: list[int]) -> bool:
        """Whether an answer stands on so many seats that reads and writes meet."""

    def answered(self, history: KeyHistory, op: Op, options: dict[str, Any], receipt: list[int]) -> None:
        """A request was answered with ok: as its options ask."""

    def acknowledged(self, history: KeyHistory, write: Write, receipt: list[int], asked_ns: int) -> None:
        """A write was answered with ok: its receipt must be true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How the clients of a run behave; drawn from its seed."""

    think_ms: int  # mean pause between two steps
    timeout_ms: int
    ring_aware: float  # share of clients
    stale: float  # share of writes on what was read long ago
    chained: float  # share of writes on the context that the write before returned
    giving: float  # share of writes that ask for what is live
    odd_quorum: float  # share of requests with an R or W of their own
    particular: float  # share of requests that ask for primaries, for synced replicas, or for no fallbacks


class Client:
    """One client: one request at a time."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        keys: list[KeyHistory],
        habits: Habits,
        *,
        plants: frozenset[str] = frozenset(),
        replicas: int,
        tour: int = 0,
    ) -> None:
        self._cluster = cluster
        self._world = cluster.world
        self._rng: Random = cluster.world.random(f"client/{name}")
        self._wishes: Random = cluster.world.random(f"wishes/{name}")
        self.name = name
        self.place = "clients"
        self.done = False
        self._keys = keys
        self._habits = habits
        self._plants = plants
        self._replicas = replicas
        self._tour = tour
        self._ends: dict[str, End] = {}
        self._avoid: dict[str, int] = {}
        self._time = 0
        self._aware = self._rng.random() < habits.ring_aware
        self._ring: _Ring | None = None
        self._ring_at = -RING_PAUSE_NS
        self._next = 0
        self._waiting = 0  # id of the request whose answer is awaited; 0: none
        self._asked: Ask | None = None
        self._asked_ns = 0
        self._stale: dict[bytes, Shown] = {}
        self._script: Script = self._life()

    def start(self) -> None:
        """Begin."""
        self._resume(None)

    # ---- the script's requests

    def _resume(self, value: Outcome | None) -> None:
        try:
            step = self._script.send(value)
        except StopIteration:
            self.done = True
            return
        if isinstance(step, Sleep):
            self._world.after(step.delay_ns, self._resume, None)
            return
        self._next += 1
        self._waiting = self._next
        self._asked = step
        self._asked_ns = self._world.now
        end = self._ends.get(step.address)
        if end is not None and end.open:
            self._hand(end, self._waiting)
            return
        network, number = self._cluster.network, self._waiting
        place = step.address.partition(":")[0]
        network.connect(
            self,
            place,
            lambda: self._cluster.listener(step.address),
            lambda end: self._connected(number, step.address, end),
        )

    def _connected(self, number: int, address: str, end: End | None) -> None:
        if end is None:
            if number == self._waiting:
                self._settle(Unsent())
            return
        end.tag = (address, FrameReader())
        self._ends[address] = end
        self._cluster.network.send(end, _HELLO)
        if number == self._waiting:
            self._hand(end, number)

    def _hand(self, end: End, number: int) -> None:
        ask = self._asked
        if ask is None:
            raise PeerProtocolError("no request to hand over")
        self._cluster.network.send(end, frame([ask.op, number, *ask.fields]))
        self._world.after((ask.timeout_ms + PATIENCE_MS) * MS, self._silence, number, end)

    def _silence(self, number: int, end: End) -> None:
        if number == self._waiting:
            self._cluster.overdue(end, self._asked_ns, f"{self.name} asked {self._asked}")
            self._settle(Lost())

    def _settle(self, outcome: Outcome) -> None:
        self._waiting = 0
        self._resume(outcome)

    # ---- the owner of ends

    def accepted(self, end: End) -> None:
        """See `Owner`; nobody connects to a client."""

    def received(self, end: End, data: bytes) -> None:
        """See `Owner`."""
        tag: Any = end.tag
        for message in tag[1].feed(data):
            if message[0] == Op.HELLO:
                continue
            if message[1] == 0:  # refused, or what we sent is no frame
                self._cluster.network.close(end)
                self.ended(end)
                return
            if message[1] == self._waiting:
                self._settle(message)

    def ended(self, end: End) -> None:
        """See `Owner`."""
        tag: Any = end.tag
        if tag is None:
            return  # before we were told that it was there
        address = tag[0]
        if self._ends.get(address) is end:
            del self._ends[address]
        if self._waiting and self._asked is not None and self._asked.address == address:
            self._settle(Lost())

    # ---- what it does

    def _life(self) -> Script:
        while True:
            yield Sleep(self._pause())
            if not self._cluster.may_go_on():
                return
            if self._aware:
                yield from self._refresh()
            yield from self._visit(self._keys[self._next_key()])

    def _next_key(self) -> int:
        if self._tour:
            return (self._world.now // TOUR_NS + self._rng.randrange(self._tour)) % len(self._keys)
        return self._rng.randrange(len(self._keys))

    def _pause(self) -> int:
        return int(self._rng.expovariate(1.0) * self._habits.think_ms * MS) + 1

    def _visit(self, history: KeyHistory) -> Step:
        rng, kind = self._rng, history.kind
        if kind is Kind.NEWEST:
            if rng.random() < 0.5:
                yield from self._write(history, self._new_value(history, NOTHING), NOTHING, overwrite=True)
            else:
                yield from self.get(history)
            return
        if kind is Kind.BLIND and rng.random() < 0.5:
            yield from self._write(history, self._new_value(history, NOTHING), NOTHING)
            return
        shown = self._stale.get(history.key) if rng.random() < self._habits.stale else None
        if shown is None:
            shown = yield from self.get(history)
            if shown is None or rng.random() < 0.3:
                return
            if rng.random() < 0.3:
                yield Sleep(self._pause())
        while True:
            delete = kind is Kind.CART and bool(shown.values) and rng.random() < 0.45
            value = None if delete else self._new_value(history, shown)
            after = yield from self._write(history, value, shown)
            if after is None or rng.random() >= self._habits.chained:
                return
            shown = after

    def _new_value(self, history: KeyHistory, shown: Shown) -> bytes:
        if history.kind is Kind.SET:
            union = 1 << len(history.writes)
            for value in shown.values:
                union |= int(value, 16)
            return b"%x" % union
        return b"%s-%d" % (self.name.encode(), len(history.writes))

    # ---- verbs

    def get(self, history: KeyHistory) -> Step:
        """Read; return what was shown, or None."""
        reading = history.begin_read(self._world.now)
        options = self._options(Op.GET)
        answer = yield from self._around(history.key, Op.GET, [history.key], options, repeat=True)
        if not isinstance(answer, list) or answer[0] != Op.FOUND:
            self._cluster.finished("get", _named(answer))
            yield Sleep(self._rng.randrange(1, SULK_NS))
            return None
        _, _, rows, context, receipt, time = answer
        self._time = max(self._time, time)
        self._cluster.answered(history, Op.GET, options, receipt)
        shown = history.end_read(
            self._world.now,
            reading,
            rows,
            context,
            strict=self._cluster.is_strict(Op.GET, receipt),
            client=self.name,
        )
        self._stale[history.key] = shown
        self._cluster.finished("get", "ok")
        return shown

    def _write(self, history: KeyHistory, value: bytes | None, basis: Shown, *, overwrite: bool = False) -> Step:
        """Write once, however often it is sent; return what the next write may build on, or None."""
        rng = self._rng
        write = history.begin_write(
            self._world.now, rng.randbytes(16), value, basis, overwrite=overwrite, client=self.name
        )
        options = self._options(Op.PUT)
        if overwrite:
            options["overwrite"] = True
        if self._habits.giving and rng.random() < self._habits.giving:
            options["return"] = True
        fields = [history.key, value, basis.context, write.id]
        for _ in range(TRIES):
            asked_ns = self._world.now
            answer = yield from self._around(history.key, Op.PUT, fields, options, repeat=False, write=write)
            if isinstance(answer, list) and answer[0] == Op.WRITTEN:
                self._cluster.finished("put", "ok")
                self._cluster.answered(history, Op.PUT, options, answer[5])
                return self._written(history, write, answer, asked_ns)
            unsure = isinstance(answer, Lost) or (isinstance(answer, list) and answer[2] in UNKNOWN)
            history.end_write(self._world.now, write, _named(answer), unsure=unsure)
            if not unsure:
                break
            if value is None or "repeat-put" in self._plants:
                continue
            shown = yield from self.get(history)
            if shown is None:
                break
            if shown.live & write.bit:
                history.end_write(self._world.now, write, "confirmed by a get")
                break
            if shown.context != basis.context and not overwrite:
                break
        self._cluster.finished("put", write.outcome)
        yield Sleep(self._rng.randrange(1, SULK_NS))
        return None

    def _written(self, history: KeyHistory, write: Write, answer: list[Any], asked_ns: int) -> Shown | None:
        _, _, dot, _, context, receipt, time, rows = answer
        self._time = max(self._time, time)
        strict = self._cluster.is_strict(Op.PUT, receipt)
        history.acknowledge(self._world.now, write, (dot[0], dot[1]), dot[2], strict=strict)
        self._cluster.acknowledged(history, write, receipt, asked_ns)
        if rows is not None:
            found = history.versions(rows)
        elif context is not None:
            found = [((dot[0], dot[1]), write)]
        else:
            return None
        shown = history.shown(found, context)
        self._stale[history.key] = shown
        return shown if context is not None else None

    def _options(self, op: Op) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self._habits.odd_quorum and self._rng.random() < self._habits.odd_quorum:
            options["r" if op is Op.GET else "w"] = self._rng.randint(1, self._replicas)
        wishes = self._wishes
        if self._habits.particular and wishes.random() < self._habits.particular:
            if wishes.random() < 0.5:
                options["pr" if op is Op.GET else "pw"] = wishes.randint(1, self._replicas)
            if op is Op.PUT and wishes.random() < 0.5:
                options["dw"] = wishes.randint(1, self._replicas)
            if wishes.random() < 0.5:
                options["sloppy"] = False
        return options

    def _around(
        self,
        key: bytes,
        op: Op,
        fields: list[Any],
        options: dict[str, Any],
        *,
        repeat: bool,
        write: Write | None = None,
    ) -> Generator[Ask | Sleep, Outcome | None, Outcome]:
        """Ask nodes until one answers, the time is over, or nobody knows what came of it."""
        deadline = self._world.now + self._habits.timeout_ms * MS
        tried: set[str] = set()
        answer: Outcome = Unsent()
        for _ in range(TRIES):
            left_ms = (deadline - self._world.now) // MS
            if left_ms <= 0:
                return answer
            address = self._choose(key, tried)
            tried.add(address)
            if write is not None:
                write.sent_ns = self._world.now
            sent = {**options, "timeout": left_ms, "time": self._time}
            got = yield Ask(address, int(op), [*fields, sent], left_ms)
            if got is None:
                raise PeerProtocolError("an Ask was answered with nothing")
            answer = got
            if isinstance(answer, list):
                if answer[0] != Op.ERROR:
                    if answer[5 if op is Op.PUT else 4][5] & FORWARDED:
                        self._ring = None
                    return answer
                if answer[2] in STALE:
                    self._ring = None
                if answer[2] in UNKNOWN and not repeat:
                    return answer
            elif isinstance(answer, Lost):
                self._ring = None
                if not repeat:
                    return answer
            self._avoid[address] = self._world.now + AVOID_NS
        return answer

    def _choose(self, key: bytes, tried: set[str]) -> str:
        now = self._world.now
        if self._ring is not None:
            for address in self._ring.serving(key):
                if address not in tried and self._avoid.get(address, 0) <= now:
                    return address
        addresses = self._cluster.addresses()
        good = [a for a in addresses if a not in tried and self._avoid.get(a, 0) <= now]
        good = good or [a for a in addresses if a not in tried] or list(addresses)
        return good[self._rng.randrange(len(good))]

    def _refresh(self) -> Step:
        if self._ring is not None or self._world.now - self._ring_at < RING_PAUSE_NS:
            return
        self._ring_at = self._world.now
        answer = yield Ask(self._choose(b"", set()), int(Op.RING), [None], 1000)
        if isinstance(answer, list) and answer[0] == Op.OK:
            self._ring = _Ring(answer[2])


class _Ring:
    """Who serves a key, as a node said."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self._addresses = [node["address"] for node in answer["nodes"]]
        self._replicas = answer["replicas"]
        self._shift = 64 - (answer["partitions"].bit_length() - 1)
        self._table = answer["table"]

    def serving(self, key: bytes) -> list[str]:
        width = 2 * self._replicas
        start = (xxh3_64_intdigest(key) >> self._shift) * width
        row = self._table[start : start + width]
        numbers = [int.from_bytes(row[i : i + 2], "big") for i in range(0, width, 2)]
        return [self._addresses[number] for number in numbers if number != 0xFFFF]


def _named(answer: Outcome) -> str:
    if isinstance(answer, list):
        return str(answer[2])
    return "lost" if isinstance(answer, Lost) else "unsent"
