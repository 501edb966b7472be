"""Whom a load is for: the nodes, their protocol, and the bytes that each of its requests carries."""

import socket
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from bench._ext.keys import Keys
from bench.load.errors import LoadError
from bench.load.workload import Workload
from dynafast import Client
from dynafast._ext.codec import dumps, frame
from dynafast.client.core import split_address
from dynafast.client.messages import hello
from dynafast.client.ring import RingMap
from dynafast.errors import ConfigError

INSERTS = 200_000  # of which the owner is looked up beforehand
RING_S = 20.0  # a node hears of a seat's new holder by gossip: later than those who handed it over
POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Made by `native`, `resp`, `etcd` or `nats`.

    Attributes:
        protocol: the name of the driver's codec.
        nodes: (numeric host, port).
        greeting, get_tail, put_tail, need: what the codec puts into its bytes.
        owners: the index of the node to be asked for each record, and for some inserts, 2 bytes each; empty: any node.
    """

    protocol: str
    nodes: tuple[tuple[str, int], ...]
    greeting: bytes = b""
    get_tail: bytes = b""
    put_tail: bytes = b""
    need: int = 0
    owners: bytes = b""


def _nodes(addresses: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Look the names up: the driver connects to numbers."""
    nodes = []
    for address in addresses:
        host, port = split_address(address)
        try:
            _, _, _, _, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise ConfigError(f"{address}: {error}") from error
        nodes.append((str(found[0]), port))
    return tuple(nodes)


def native(addresses: Sequence[str], *, owners: bytes = b"", overwrite: bool = True, **options: int | bool) -> Target:
    """Dynafast's own protocol.

    Args:
        addresses: HOST:PORT of each node.
        owners: from `owners`: each request goes to a node that serves its key (client-driven coordination).
        overwrite: updates replace what is there, as a SET does; else they add a version. (The write of a change always
            replaces what was read.)
        options: of the requests, as in docs/protocol.md: r, pr; w, pw, dw; sloppy, timeout.
    """
    both = {name: value for name, value in options.items() if name in ("sloppy", "timeout")}
    reads = {name: options[name] for name in ("r", "pr") if name in options} | both
    writes = {name: options[name] for name in ("w", "pw", "dw") if name in options} | both
    return Target(
        protocol="native",
        nodes=_nodes(addresses),
        greeting=frame(hello(None)),
        get_tail=dumps(reads or None),
        put_tail=dumps((writes | {"overwrite": True} if overwrite else writes) or None),
        owners=owners,
    )


def owners(addresses: Sequence[str], workload: Workload) -> bytes:
    """Return for every record, and for some inserts if there are any, the index of the node that its key prefers.

    Raises:
        LoadError: the node that was asked knew of none for some of them, for longer than a seat is on its way.
    """
    keys = Keys("uniform", workload.records)
    every = [keys.key(record) for record in range(workload.records + (INSERTS if workload.inserts else 0))]
    index = {address: number for number, address in enumerate(addresses)}
    deadline = time.monotonic() + RING_S
    with Client(list(addresses)) as client:
        while time.monotonic() < deadline:
            ring = RingMap(client.ring())
            serving = [ring.serving(key) for key in every]
            if all(serving):
                return array("H", (index[nodes[0]] for nodes in serving)).tobytes()
            time.sleep(POLL_S)
    raise LoadError(f"after {RING_S:.0f} s the ring still names no node for some keys: `dynafast status` tells why")


def resp(addresses: Sequence[str], *, wait: int = 0) -> Target:
    """Redis's protocol. *wait*: replicas that must have a write before it counts (WAIT)."""
    tail = b"*3\r\n$4\r\nWAIT\r\n$1\r\n%d\r\n$4\r\n5000\r\n" % wait if wait else b""
    return Target(protocol="resp", nodes=_nodes(addresses), put_tail=tail, need=wait)


def nats(addresses: Sequence[str], *, bucket: str) -> Target:
    """A key-value bucket of NATS JetStream."""
    options = b'{"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"lang":"bench","version":"1"}'
    return Target(
        protocol="nats",
        nodes=_nodes(addresses),
        greeting=b"CONNECT " + options + b"\r\n",
        get_tail=f"$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.".encode(),
        put_tail=f"$KV.{bucket}.".encode(),
    )


def etcd(addresses: Sequence[str]) -> Target:
    """Etcd's version 3 API; reads are linearizable."""
    window = 0x7FFFFFFF
    setting = b"\x00\x02" + (0).to_bytes(4, "big") + b"\x00\x04" + window.to_bytes(4, "big")  # no push; stream window
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + len(setting).to_bytes(3, "big") + b"\x04\x00" + bytes(4) + setting
    greeting += b"\x00\x00\x04\x08\x00" + bytes(4) + (window - 65535).to_bytes(4, "big")  # and the connection's
    return Target(
        protocol="etcd",
        nodes=_nodes(addresses),
        greeting=greeting,
        get_tail=_header_block("Range"),
        put_tail=_header_block("Put"),
    )


def _header_block(method: str) -> bytes:
    """Return the header block of a call (RFC 7541): indexed fields of the static table, and literals not indexed."""

    def literal(name: bytes, value: str) -> bytes:
        return name + len(value).to_bytes(1, "big") + value.encode()

    post, http = b"\x83", b"\x86"
    path = literal(b"\x04", f"/etcdserverpb.KV/{method}")
    content = literal(b"\x0f\x10", "application/grpc")
    return post + http + path + literal(b"\x01", "bench") + content + literal(b"\x00\x02te", "trailers")
