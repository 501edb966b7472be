"""Requests and answers as the wire has them (``docs/protocol.md``): checked here once, typed everywhere else.

May not: keep state, know connections.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from dynafast.client.results import Receipt, Version, in_order
from dynafast.errors import PeerProtocolError, RequestError, error_for
from dynafast.limits import WIRE_VERSION
from dynafast.protocol import Op

SLOPPY, FORWARDED = 1, 2
_U64 = 1 << 64


class Request(NamedTuple):
    """One request without its id.

    Attributes:
        fields: what stands between the id and the options.
        options: None for the requests that have none.
        timed: the options carry the time left and the clock of the client.
    """

    op: Op
    fields: tuple[object, ...] = ()
    options: Mapping[str, object] | None = None
    timed: bool = False

    def item(self, number: int, *, left_ms: int, time: int) -> list[object]:
        """Return the wire item.

        Args:
            number: the request id.
            left_ms: time left, in 1..60000.
            time: the largest HLC time seen.
        """
        if self.options is None:
            return [int(self.op), number, *self.fields]
        if not self.timed:
            return [int(self.op), number, *self.fields, dict(self.options)]
        return [int(self.op), number, *self.fields, {**self.options, "timeout": left_ms, "time": time}]


class Done(NamedTuple):
    """OK: the result of a PING, RING or STATUS."""

    result: Any


class Found(NamedTuple):
    """FOUND: what a read returned."""

    versions: tuple[Version, ...]
    context: bytes | None
    receipt: Receipt
    time: int


class Written(NamedTuple):
    """WRITTEN: what a write left behind."""

    dot: tuple[int, int, int]
    live: int
    context: bytes | None
    receipt: Receipt
    time: int


class Failed(NamedTuple):
    """ERROR: a typed refusal, or an outcome that nobody knows."""

    error: RequestError


Answer = Done | Found | Written | Failed


def hello(cluster: bytes | None) -> list[object]:
    """Return the first frame of a client. *cluster*: the only cluster it wants, once it knows one."""
    fields: dict[str, object] = {"version": WIRE_VERSION, "role": "client"}
    if cluster is not None:
        fields["cluster"] = cluster
    return [int(Op.HELLO), 0, fields]


def read_hello(item: list[Any]) -> bytes:
    """Return the cluster id that a node states in its hello.

    Raises:
        RequestError: the node refuses the connection.
        PeerProtocolError: the item is no answer to a hello.
    """
    if len(item) == 5 and item[0] == Op.ERROR:
        raise _error(item)
    if len(item) == 3 and item[0] == Op.HELLO and item[1] == 0 and isinstance(item[2], dict):
        fields = item[2]
        cluster = fields.get("cluster")
        if fields.get("version") == WIRE_VERSION and isinstance(cluster, bytes) and len(cluster) == 16:
            return cluster
    raise PeerProtocolError("the node did not answer the hello")


def read_answer(item: list[Any]) -> tuple[int, Answer]:
    """Return (request id, answer).

    Raises:
        PeerProtocolError: the item is no answer that a correct node gives.
    """
    if len(item) < 3 or not _is_uint(item[1]):
        raise PeerProtocolError("an answer must be [op, id, ...]")
    op, size = item[0], len(item)
    answer: Answer
    if op == Op.FOUND and size == 6:
        answer = Found(_versions(item[2]), _context(item[3]), _receipt(item[4]), _uint(item[5]))
    elif op == Op.WRITTEN and size == 8:
        answer = Written(_dot(item[2]), _uint(item[3]), _context(item[4]), _receipt(item[5]), _uint(item[6]))
    elif op == Op.OK and size == 3:
        answer = Done(item[2])
    elif op == Op.ERROR and size == 5:
        answer = Failed(_error(item))
    else:
        raise PeerProtocolError(f"not an answer: op {op!r} with {size} fields")
    return item[1], answer


def _is_uint(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _U64


def _uint(value: Any) -> int:
    if not _is_uint(value):
        raise PeerProtocolError("an answer has no unsigned integer where one belongs")
    return int(value)


def _context(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    raise PeerProtocolError("a context must be bytes or null")


def _dot(value: Any) -> tuple[int, int, int]:
    if not isinstance(value, list) or len(value) != 3:
        raise PeerProtocolError("a dot must be [actor, counter, time]")
    return _uint(value[0]), _uint(value[1]), _uint(value[2])


def _versions(rows: Any) -> tuple[Version, ...]:
    if not isinstance(rows, list):
        raise PeerProtocolError("versions must be an array")
    versions = []
    for row in rows:
        if not isinstance(row, list) or len(row) != 5 or not isinstance(row[3], bytes) or not isinstance(row[4], bytes):
            raise PeerProtocolError("a version must be [actor, counter, time, write id, value]")
        versions.append(Version(*_dot(row[:3]), row[3], row[4]))
    return in_order(versions) if len(versions) > 1 else tuple(versions)


def _receipt(row: Any) -> Receipt:
    if not isinstance(row, list) or len(row) != 6:
        raise PeerProtocolError("a receipt must be an array of 6")
    needed, replicas, primaries, fallbacks, synced, flags = (_uint(value) for value in row)
    return Receipt(
        needed=needed,
        replicas=replicas,
        primaries=primaries,
        fallbacks=fallbacks,
        synced=synced,
        sloppy=bool(flags & SLOPPY),
        forwarded=bool(flags & FORWARDED),
    )


def _error(item: list[Any]) -> RequestError:
    code, message, details = item[2:5]
    if not isinstance(code, str) or not isinstance(message, str) or not isinstance(details, dict):
        raise PeerProtocolError("an error must be [11, id, code, message, details]")
    return error_for(code, message, {str(name): value for name, value in details.items()})
