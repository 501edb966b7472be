"""The ring map: from a key to the addresses that serve it, and answers that cannot be one."""

import struct
from random import Random
from typing import Any

import pytest
import xxhash

from dynafast.client.ring import RingMap
from dynafast.errors import PeerProtocolError

NONE = 0xFFFF


def result(*, partitions: int = 4, replicas: int = 2, rows: list[list[int]] | None = None, **other: Any) -> dict:
    rows = rows or [[p % 3, (p + 1) % 3] for p in range(partitions)]
    nodes = [{"name": f"n{i}", "address": f"h{i}:1", "alive": i != 2} for i in range(3)]
    table = b"".join(struct.pack(f">{replicas}H", *row) for row in rows)
    return {
        "version": 5, "partitions": partitions, "replicas": replicas, "hash": "xxh3-64", "nodes": nodes,
        "table": table, **other,
    }  # fmt: skip


@pytest.mark.parametrize("partitions", [1, 2, 4, 1024, 65536])
def test_serving_follows_the_upper_bits_of_the_position(partitions: int) -> None:
    dice = Random(f"ring/{partitions}")
    rows = [[dice.randrange(3), NONE] if dice.random() < 0.3 else dice.sample(range(3), 2) for _ in range(partitions)]
    ring = RingMap(result(partitions=partitions, rows=rows))
    for number in range(200):
        key = b"key %d" % number
        partition = xxhash.xxh3_64_intdigest(key) * partitions >> 64
        assert ring.partition(key) == partition
        assert ring.serving(key) == tuple(f"h{i}:1" for i in rows[partition] if i != NONE)


def test_partition_without_a_serving_node_gives_nobody() -> None:
    assert RingMap(result(partitions=1, rows=[[NONE, NONE]])).serving(b"k") == ()


def test_dead_nodes_are_listed() -> None:
    assert RingMap(result()).dead == {"h2:1"}


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        {},
        result(partitions=3, rows=[[0, 1]] * 3),
        result(partitions=0, rows=[[0, 1]]),
        result(replicas=9, rows=[[0] * 9] * 4),
        {**result(), "replicas": 0, "table": b""},
        result(table=bytes(15)),
        result(table=None),
        result(rows=[[0, 3]] * 4),  # a node that is not listed
        result(hash="md5"),
        result(version=None),
        result(nodes=[{"name": "n"}] * 3),
        result(nodes={}),
    ],
)
def test_answer_that_is_no_ring_is_refused(bad: Any) -> None:
    with pytest.raises(PeerProtocolError):
        RingMap(bad)
