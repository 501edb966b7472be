"""A pretended node behind a real socket, so that the commands run as they are, down to the wire."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from dynafast.cli.main import main
from tests.client.fake import CHECK, LEAVE, OK, PLAN, REMOVE, RING, STATUS, WEIGHT, Node
from tests.client.server import Server

CONFIG = {
    "data": {"value": "/data", "source": "flag"},
    "join": {"value": ["a:1", "[::1]:2"], "source": "env"},
    "name": {"value": None, "source": "default"},
}
MEMBER = {
    "name": "n1",
    "id": "00010203cafe0607",
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
DEAD = {
    **MEMBER,
    "name": "n2",
    "id": "00010203dead0607",
    "alive": False,
    "partitions": None,
    "keys": None,
    "bytes": None,
}
CLEAN = {"partitions": 64, "divergent": [], "unreachable": [], "hints": 0}
PLAN_RESULT = {
    "moves": [{"from": "n1", "to": None, "partitions": 7, "bytes": 700}],
    "partitions": 7,
    "bytes": 700,
    "warnings": ["one zone is small"],
}
STATUS_RESULT = {"cluster": {"id": "00ff", "replicas": 3}, "members": [MEMBER, DEAD]}


class StatusNode(Node):
    """Answers STATUS, RING for a key, and what concerns the members, in their real shapes.

    *statuses* and *checks* are told one after another, the last one for ever.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.statuses: list[dict[str, Any]] = [STATUS_RESULT]
        self.checks: list[dict[str, Any]] = [CLEAN]
        self.lost: list[int] = []

    def answer(self, item: list[Any]) -> list[Any]:
        if item[0] == STATUS:
            config = {"config": CONFIG} if (item[2] or {}).get("config") else {}
            return [OK, item[1], {**_next(self.statuses), **config}]
        if item[0] in (LEAVE, REMOVE, WEIGHT):
            return [OK, item[1], {"lost": self.lost} if item[0] == REMOVE else {}]
        if item[0] == PLAN:
            return [OK, item[1], PLAN_RESULT]
        if item[0] == CHECK:
            return [OK, item[1], _next(self.checks)]
        if item[0] == RING and item[2] is not None:
            position = (1 << 64) - 1
            return [
                OK,
                item[1],
                {"position": position, "partition": 1023, "preference": ["n1", "n2"], "more": 1},
            ]
        return super().answer(item)


def _next(answers: list[dict[str, Any]]) -> dict[str, Any]:
    return answers.pop(0) if len(answers) > 1 else answers[0]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: bytes
    err: str

    @property
    def object(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Done]


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs a command line in this process."""

    def run(*words: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = main(words)
        out, err = capfdbinary.readouterr()
        return Done(status, out, err.decode())

    return run


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """Start a pretended node that the commands find by DYNAFAST_AT."""
    server = Server()
    (address,) = server.addresses
    node = server.nodes[address] = StatusNode(address, server.store)
    monkeypatch.setenv("DYNAFAST_AT", address)
    with server:
        yield node
