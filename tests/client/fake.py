"""A pretended node: speaks the wire with plain cbor2, keeps a small dotted store, and misbehaves on demand.

Nothing here touches a socket: `tests.client.world` runs it in virtual time, `tests.client.server` behind real
sockets. It shares no code with the package, so that both read the protocol independently.
"""

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import cbor2
import xxhash

HELLO, PING, GET, PUT, RING, STATUS = range(6)
OK, FOUND, WRITTEN, ERROR, PART = 8, 9, 10, 11, 12
LEAVE, REMOVE, WEIGHT, PLAN, CHECK = range(30, 35)
FRAME_MAX = 16 * 1024 * 1024
PART_SIZE = 4 * 1024 * 1024
CLUSTER = b"C" * 16
PARTITIONS = 8
ROW = {"id": bytes(8), "zone": "", "weight": 1, "status": "up", "alive": True}


class Twist(Enum):
    """What a node does with a request instead of answering it."""

    MUTE = auto()  # do it, never answer
    IGNORE = auto()  # do nothing, never answer
    HOLD = auto()  # do it, answer when `release` is called
    CLOSE = auto()  # do nothing, close the connection
    DO_AND_CLOSE = auto()  # do it, close the connection


@dataclass(frozen=True)
class Fail:
    """Answer with an error, having done nothing (or, with *done*, having done it)."""

    code: str
    details: dict[str, Any] = field(default_factory=dict)
    done: bool = False


Rule = Callable[[list[Any]], "Twist | Fail | None"]


class Store:
    """Keys with dotted versions, shared by all nodes of a pretended cluster as if each reached all others."""

    def __init__(self) -> None:
        self.versions: dict[bytes, list[list[Any]]] = {}
        self.contexts: dict[bytes, dict[int, int]] = {}
        self.time = 1000
        self.written: list[bytes] = []
        self._counter = itertools.count(1)

    def put(self, key: bytes, value: bytes | None, context: bytes | None, write_id: bytes, *, overwrite: bool) -> list:
        seen = self.contexts.get(key, {}) if overwrite else self.open(key, context)
        actor, counter = 7, next(self._counter)
        self.time += 1
        self.written.append(write_id)
        kept = [v for v in self.versions.get(key, []) if v[1] > seen.get(v[0], 0)]
        self.versions[key] = [*kept, [actor, counter, self.time, write_id, value]]
        self.contexts[key] = {**self.contexts.get(key, {}), actor: counter}
        return [actor, counter, self.time]

    def live(self, key: bytes) -> list[list[Any]]:
        unique = {v[3]: v for v in self.versions.get(key, []) if v[4] is not None}
        return list(unique.values())

    def seal(self, key: bytes) -> bytes | None:
        context = self.contexts.get(key)
        return None if context is None else cbor2.dumps([key, sorted(context.items())])

    def open(self, key: bytes, context: bytes | None) -> dict[int, int]:
        if context is None:
            return {}
        owner, entries = cbor2.loads(context)
        assert owner == key
        return dict(entries)


class Node:
    """One pretended node. *rule* looks at each request first."""

    def __init__(self, address: str, store: Store, *, cluster: bytes = CLUSTER) -> None:
        self.address = address
        self.store = store
        self.cluster = cluster
        self.peers: list[str] = [address]
        self.serving: Callable[[int], list[int]] = lambda _: list(range(min(3, len(self.peers))))
        self.rule: Rule = lambda _: None
        self.hello_error: tuple[str, str] | None = None
        self.greets = True
        self.forwarded = False
        self.seen: list[list[Any]] = []  # requests, in order of arrival

    def requests(self, op: int) -> list[list[Any]]:
        return [item for item in self.seen if item[0] == op]

    def answer(self, item: list[Any]) -> list[Any]:
        """Do what was asked and return the answer."""
        op, number = item[0], item[1]
        receipt = [2, 3, 3, 0, 3, 2 if self.forwarded else 0]
        if op == GET:
            key = item[2]
            return [FOUND, number, self.store.live(key), self.store.seal(key), receipt, self.store.time]
        if op == PUT:
            key, value, context, write_id, options = item[2:]
            dot = self.store.put(key, value, context, write_id, overwrite=bool((options or {}).get("overwrite")))
            live = self.store.live(key)
            alone = len(live) == (0 if value is None else 1)
            context = self.store.seal(key) if alone else None
            return [WRITTEN, number, dot, len(live), context, receipt, dot[2], None]
        if op == RING and item[2] is None:
            return [OK, number, self.ring()]
        return [OK, number, None if op == PING else {"asked": self.address}]

    def ring(self) -> dict[str, Any]:
        rows = [(self.serving(p) + [0xFFFF] * 3)[:3] for p in range(PARTITIONS)]
        return {
            "cluster": self.cluster,
            "version": 1,
            "partitions": PARTITIONS,
            "replicas": 3,
            "r": 2,
            "w": 2,
            "hash": "xxh3-64",
            "nodes": [{**ROW, "name": peer, "address": peer, "host": peer} for peer in self.peers],
            "table": b"".join(struct.pack(">3H", *row) for row in rows),
        }


class Conversation:
    """The node's end of one connection."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.closed = False
        self.held: list[list[Any]] = []
        self._buffer = bytearray()
        self._greeted = False

    def feed(self, data: bytes) -> bytes:
        """Return the answers to the requests that *data* completes; `closed` tells to close after them."""
        self._buffer += data
        out = []
        while not self.closed and len(self._buffer) >= 4:
            (size,) = struct.unpack_from(">I", self._buffer)
            if len(self._buffer) < 4 + size:
                break
            item = cbor2.loads(bytes(self._buffer[4 : 4 + size]))
            del self._buffer[: 4 + size]
            answer = self._handle(item)
            if answer is not None:
                out.append(pack(answer))
        return b"".join(out)

    def _handle(self, item: list[Any]) -> list[Any] | None:
        node = self.node
        if not self._greeted:
            assert item[:2] == [HELLO, 0]
            assert item[2]["role"] == "client"
            self._greeted = True
            if node.hello_error is not None:
                self.closed = True
                return [ERROR, 0, *node.hello_error, {}]
            hello = {
                "version": 1,
                "role": "node",
                "cluster": node.cluster,
                "node": bytes(8),
                "name": node.address,
            }
            return [HELLO, 0, {**hello, "generation": 1}] if node.greets else None
        node.seen.append(item)
        twist = node.rule(item)
        if isinstance(twist, Fail):
            if twist.done:
                node.answer(item)
            return [ERROR, item[1], twist.code, f"pretended {twist.code}", twist.details]
        if twist in (Twist.IGNORE, Twist.CLOSE):
            self.closed = twist is Twist.CLOSE
            return None
        answer = node.answer(item)
        if twist is Twist.HOLD:
            self.held.append(answer)
        self.closed = twist is Twist.DO_AND_CLOSE
        return answer if twist is None else None

    def release(self) -> bytes:
        """Return the answers held back so far, the last one first."""
        held, self.held = self.held, []
        return b"".join(pack(answer) for answer in reversed(held))


def pack(item: list[Any]) -> bytes:
    """Frame a message, in PARTs when it is too large for one frame."""
    body = cbor2.dumps(item)
    if len(body) <= FRAME_MAX:
        return struct.pack(">I", len(body)) + body
    cuts = range(0, len(body), PART_SIZE)
    return b"".join(pack([PART, item[1], at + PART_SIZE >= len(body), body[at : at + PART_SIZE]]) for at in cuts)


def partition_of(key: bytes) -> int:
    return xxhash.xxh3_64_intdigest(key) >> 61


def once(op: int, twist: Twist | Fail) -> Rule:
    """Misbehave at the first request with this *op*."""
    left = [twist]
    return lambda item: left.pop() if left and item[0] == op else None


def always(op: int, twist: Twist | Fail) -> Rule:
    """Misbehave at every request with this *op*."""
    return lambda item: twist if item[0] == op else None
