"""The request path of one node in process: bytes in, bytes out, without sockets and without a disk.

The baseline is the least that any server in Python would do: decode with cbor2, look up in a dict, encode.
"""

from collections.abc import Callable
from itertools import cycle
from typing import Any

import cbor2

from bench.micro.case import Case
from dynafast._ext.connection import Connection
from dynafast.core.identity import ClusterFacts, Identity, save
from dynafast.core.membership import Entry
from dynafast.core.node import Node
from dynafast.core.seats import Seat, pack
from dynafast.protocol import Op, Status
from dynafast.storage.memory import MemoryStore

KEYS = [b"user/%d/cart" % number for number in range(200)]
VALUE = bytes(range(100))
PARTITIONS = 64


def cases() -> list[Case]:
    """Return gets and puts of a node that is alone."""
    node = _node()
    connection = node.accept()
    connection.feed(_frame([int(Op.HELLO), 0, {"version": 1, "role": "client"}]))
    _answers(node, connection)
    puts = [  # two sets of write ids in turns: a put with the id that is stored already would do nothing
        [
            _frame([int(Op.PUT), number, key, VALUE, None, bytes([turn]) * 16, {"overwrite": True}])
            for number, key in enumerate(KEYS)
        ]
        for turn in range(2)
    ]
    gets = [[_frame([int(Op.GET), number, key, None]) for number, key in enumerate(KEYS)]]
    return [
        _case("node put", node, connection, puts, aim=1, floor=1.4),
        _case("node get", node, connection, gets, aim=5, floor=5),
    ]


def _node() -> Node:
    facts = ClusterFacts(cluster=bytes(16), partitions=PARTITIONS, replicas=1, read_quorum=1, write_quorum=1)
    store = MemoryStore()
    own = Entry(
        id=b"12345678",
        name="n0",
        address="n0",
        weight=1,
        zone="z",
        host="n0",
        status=Status.UP,
        generation=store.boot,
        version=1,
        seats=pack([Seat(partition, 0, 1) for partition in range(PARTITIONS)]),
    )
    save(store, Identity(node=own.id, facts=facts), [own])
    actors = iter(range(1, 2**63))
    node = Node(
        identity=Identity(node=own.id, facts=facts),
        own=own,
        store=store,
        group=False,
        random64=lambda: next(actors),
        trace=lambda _event, **_fields: None,
        settings={},
    )
    node.at(1_000_000_000, 1_700_000_000_000)
    return node


def _frame(message: list[Any]) -> bytes:
    body = cbor2.dumps(message)
    return len(body).to_bytes(4, "big") + body


def _answers(node: Node, connection: Connection) -> bytes:
    node.take_dirty()
    return connection.take()


def _messages(data: bytes) -> list[Any]:
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append(cbor2.loads(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def _plain(frames: list[bytes], table: dict[bytes, bytes]) -> bytes:
    out = bytearray()
    for frame in frames:
        message = cbor2.loads(frame[4:])
        if message[0] == Op.PUT:
            table[message[2]] = message[3]
            out += _frame([int(Op.WRITTEN), message[1], [1, 1, 1], 1, bytes(41), [1, 1, 1, 0, 0, 0], 1, None])
        else:
            versions = [[1, 1, 1, bytes(16), table[message[2]]]]
            out += _frame([int(Op.FOUND), message[1], versions, bytes(41), [1, 1, 1, 0, 0, 0], 1])
    return bytes(out)


def _case(name: str, node: Node, connection: Connection, turns: list[list[bytes]], *, aim: float, floor: float) -> Case:
    streams = cycle([b"".join(frames) for frames in turns])
    frames = turns[0]
    table = dict.fromkeys(KEYS, VALUE)

    def ours() -> bytes:
        connection.feed(next(streams))
        return _answers(node, connection)

    def verify() -> None:
        mine, plain = _messages(ours()), _messages(_plain(frames, table))
        assert [message[:2] for message in mine] == [message[:2] for message in plain]
        if mine[0][0] == Op.FOUND:
            assert [message[2][0][4] for message in mine] == [VALUE] * len(KEYS)

    baseline: Callable[[], object] = lambda: _plain(frames, table)  # noqa: E731
    return Case(
        name=name,
        against="cbor2, dict",
        calls=len(frames),
        ours=ours,
        baseline=baseline,
        verify=verify,
        aim=aim,
        floor=floor,
    )
