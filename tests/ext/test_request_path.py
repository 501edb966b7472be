"""Memory of the request path: connection and coordinator among three nodes, requests of every kind and outcome."""

import cbor2

from dynafast._ext.connection import Connection
from tests.core.harness import Cluster, framed
from tests.ext.leaks import assert_no_leak

W1 = b"1" * 16
HELLO = [0, 0, {"version": 1, "role": "client"}]
KEYS = [b"key %d" % number for number in range(20)]


def pack(message: object) -> bytes:
    return framed(cbor2.dumps(message))


def requests(key: bytes) -> bytes:
    """Return 25 frames: most are answered by three nodes, some are refused at the door."""
    short = {"timeout": 100}
    served = [
        [3, 1, key, b"v" * 300, None, W1, short],
        [3, 2, key, b"w" * 300, None, b"2" * 16, {"overwrite": True, **short}],
        [3, 3, key, b"x", None, b"3" * 16, {"w": 3, "return": True, **short}],
        [3, 4, key, b"v" * 300, None, b"4" * 16, {"overwrite": True, **short}],
        [2, 5, key, short],
        [2, 6, key, {"r": 3, **short}],
        [2, 7, b"not there", {"r": 1}],
    ]
    refused = [[2, 8, b"", {}], [3, 9, key, b"v", b"no context", W1, {}], [7, 10], [1, 11], [2, 12, key, {"what": 1}]]
    odd = framed(b"\x9f\x18\x02\x0d\x5f\x41k\xff\xbf\xff\xff") + framed(b"\xff")
    return b"".join(map(pack, served)) * 3 + b"".join(map(pack, refused)) + odd


def test_requests_of_every_kind_leak_nothing() -> None:
    """Counted by frames: a client's request makes about three more between the nodes. Clients come and go."""
    cluster = Cluster(3, partitions=8)
    frames = [requests(key) for key in KEYS]
    hello = pack(HELLO)
    answered = 0

    def turn(i: int) -> None:
        nonlocal answered
        member = cluster.members[i % 3]
        client: Connection = member.node.accept()
        taken: list[bytes] = []
        member.ends[client] = taken.append
        cluster.enter(member)
        client.feed(hello + frames[i % len(frames)])
        cluster.pump(member)
        for _ in range(2):
            cluster.step()
        answered += len(taken)
        if i % 3:
            client.feed(frames[0][:50])  # gone in mid-request
        client.drop()
        del member.ends[client]
        if i % 50 == 0:
            for _ in range(30):
                cluster.step()  # what has a deadline reaches it

    assert_no_leak(turn, per_turn=80)
    assert answered > 10_000
