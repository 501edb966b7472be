"""A pretended node behind a real socket, so that the commands run as they are, down to the wire."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.client.fake import OK, RING, STATUS, Node
from tests.client.server import Server

CONFIG = {
    "data": {"value": "/data", "source": "flag"},
    "join": {"value": ["a:1", "[::1]:2"], "source": "env"},
    "name": {"value": None, "source": "default"},
}
MEMBER = {
    "name": "n1",
    "address": "[::1]:7411",
    "status": "up",
    "alive": True,
    "weight": 1,
    "zone": "default",
    "host": "n1",
    "partitions": 1024,
    "keys": 12,
    "bytes": 3456,
}
DEAD = {**MEMBER, "name": "n2", "alive": False, "partitions": None, "keys": None, "bytes": None}
STATUS_RESULT = {"cluster": {"id": "00ff", "replicas": 3}, "members": [MEMBER, DEAD]}


class StatusNode(Node):
    """Answers STATUS, and RING for a key, in their real shapes."""

    def answer(self, item: list[Any]) -> list[Any]:
        if item[0] == STATUS:
            config = {"config": CONFIG} if (item[2] or {}).get("config") else {}
            return [OK, item[1], {**STATUS_RESULT, **config}]
        if item[0] == RING and item[2] is not None:
            position = (1 << 64) - 1
            return [
                OK,
                item[1],
                {"position": position, "partition": 1023, "preference": ["n1", "n2"], "more": 1},
            ]
        return super().answer(item)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """Start a pretended node that the commands find by DYNAFAST_AT."""
    server = Server()
    (address,) = server.addresses
    node = server.nodes[address] = StatusNode(address, server.store)
    monkeypatch.setenv("DYNAFAST_AT", address)
    with server:
        yield node
