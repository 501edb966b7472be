"""What moves the bytes of a node, over real sockets: one suite for each way that this system has."""

import gc
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import cbor2
import pytest
import trio

from dynafast._ext.connection import OUTPUT_HIGH, Connection
from dynafast.errors import StoreError
from dynafast.net.sockets import Kind, Sockets, make_sockets
from dynafast.protocol import Op
from dynafast.storage import reading
from dynafast.storage.flushing import ThreadFlusher
from dynafast.storage.reading import Reader
from tests.core.harness import Cluster, framed
from tests.core.stories import okey

KINDS = ["streams", *["reactor"] * (sys.platform == "linux")]
PATIENCE_S = 20.0
LIMIT_S = 60.0
MIB = 1024 * 1024

pytestmark = [pytest.mark.trio, pytest.mark.parametrize("kind", KINDS)]


class Server:
    """One node behind real sockets, on a free port of loopback."""

    def __init__(self, kind: Kind) -> None:
        member = Cluster(1, partitions=1, replicas=1, r=1, w=1).members[0]
        self.node, self.store = member.node, member.store
        self.syncs = 0
        self.may_read = threading.Event()  # a slow disk: reads of it hang until this is set
        self.may_read.set()
        self.clients: list[Client] = []
        self.before_sync: Callable[[], None] = lambda: None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.reader = Reader(self._get_many)
        self.sockets: Sockets = make_sockets(kind, self.node, self._turn, ThreadFlusher(self._sync), self.reader)
        self.sockets.listen(self.listener, self.node.accept)

    def _turn(self) -> None:
        self.node.at(time.monotonic_ns(), time.time_ns() // 1_000_000)

    def _sync(self) -> int:
        self.before_sync()
        self.syncs += 1
        return self.node.store.sync()

    def _get_many(self, keys: Sequence[bytes]) -> list[bytes | StoreError | None]:
        self.may_read.wait(PATIENCE_S)
        return self.store.get_many(keys)

    @contextmanager
    def holding_syncs(self) -> Iterator[None]:
        """Let flushes hang meanwhile."""
        held = [True]

        def wait() -> None:
            deadline = time.monotonic() + PATIENCE_S
            while held and time.monotonic() < deadline:
                time.sleep(0.001)

        self.before_sync = wait
        try:
            yield
        finally:
            held.clear()

    async def client(self) -> "Client":
        stream = await trio.open_tcp_stream(*self.listener.getsockname())
        return await self.greet(stream)

    async def greet(self, stream: trio.SocketStream) -> "Client":
        client = Client(stream)
        self.clients.append(client)
        assert (await client.ask(Op.HELLO, 0, {"version": 1, "role": "client"}))[0] == Op.HELLO
        return client


class Client:
    """A client's end; reads frames with plain cbor2."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._rest = b""

    async def send(self, *messages: list[Any]) -> None:
        await self.stream.send_all(b"".join(framed(cbor2.dumps([int(op), *rest])) for op, *rest in messages))

    async def _need(self, size: int) -> None:
        while len(self._rest) < size:
            data = await self.stream.receive_some()
            assert data, "the node closed the connection"
            self._rest += data

    async def receive(self) -> list[Any]:
        await self._need(4)
        size = int.from_bytes(self._rest[:4], "big")
        await self._need(4 + size)
        message, self._rest = self._rest[4 : 4 + size], self._rest[4 + size :]
        return list(cbor2.loads(message))

    async def ask(self, *message: Any) -> list[Any]:
        await self.send(list(message))
        return await self.receive()


@asynccontextmanager
async def serving(kind: Kind) -> AsyncIterator[Server]:
    server = Server(kind)
    try:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.sockets.run)
                yield server
                nursery.cancel_scope.cancel()
    finally:
        server.sockets.close()
        server.listener.close()
        for client in server.clients:
            await trio.aclose_forcefully(client.stream)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return near, far


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.005)


def put(id: int, key: bytes, value: bytes) -> list[Any]:
    return [Op.PUT, id, key, value, None, id.to_bytes(16, "big"), {"overwrite": True}]


async def test_put_then_get_answers_the_value_after_a_flush(kind: Kind) -> None:
    async with serving(kind) as server:
        client = await server.client()
        assert (await client.ask(*put(1, b"k", b"v")))[0] == Op.WRITTEN
        assert server.syncs > 0
        answer = await client.ask(Op.GET, 2, b"k", None)
        assert answer[:2] == [Op.FOUND, 2]
        assert answer[2][0][4] == b"v"


async def test_frames_come_in_any_pieces(kind: Kind) -> None:
    async with serving(kind) as server:
        client = await server.client()
        data = framed(cbor2.dumps([int(item) if i == 0 else item for i, item in enumerate(put(1, b"k", b"v"))]))
        for byte in data + framed(cbor2.dumps([int(Op.GET), 2, b"k", None])):
            await client.stream.send_all(bytes([byte]))
        assert {(await client.receive())[0] for _ in range(2)} == {Op.WRITTEN, Op.FOUND}


async def test_many_requests_of_many_connections_are_answered(kind: Kind) -> None:
    async with serving(kind) as server:
        clients = [await server.client() for _ in range(40)]
        for number, client in enumerate(clients):
            await client.send(*[put(i, b"%d/%d" % (number, i), b"x" * i) for i in range(1, 50)])
        for number, client in enumerate(clients):
            assert {(await client.receive())[1] for _ in range(1, 50)} == set(range(1, 50))
            found = await client.ask(Op.GET, 99, b"%d/%d" % (number, 49), None)
            assert found[2][0][4] == b"x" * 49
        assert server.syncs < 40 * 49  # writes shared flushes


async def test_large_values_pass_both_ways(kind: Kind) -> None:
    value = bytes(range(256)) * (32 * 1024)  # 8 MiB, the longest
    async with serving(kind) as server:
        client = await server.client()
        assert (await client.ask(*put(1, b"large", value)))[0] == Op.WRITTEN
        assert (await client.ask(Op.GET, 2, b"large", None))[2][0][4] == value


async def test_a_client_that_does_not_read_is_not_read_from_and_holds_up_nobody(kind: Kind) -> None:
    async with serving(kind) as server:
        greedy, other = await server.client(), await server.client()
        await other.ask(*put(1, b"k", b"x" * MIB))
        asked = 0

        async def ask_on() -> None:
            nonlocal asked
            while True:
                await greedy.send(*[[Op.GET, asked + i, b"k", None] for i in range(10)])
                asked += 10

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_on)
            before = -1
            with trio.fail_after(PATIENCE_S):
                while before != asked:  # until the node takes no more
                    before = asked
                    for _ in range(20):
                        assert (await other.ask(Op.GET, 1, b"none", None))[0] == Op.FOUND
                    await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        assert max(end.unsent for end in ends()) <= OUTPUT_HIGH + 2 * MIB
        with trio.fail_after(PATIENCE_S):
            for _ in range(50):  # once it reads, it gets what it asked for
                assert (await greedy.receive())[2][0][4] == b"x" * MIB


def ends() -> list[Connection]:
    """Every connection of the node's clients."""
    return [found for found in gc.get_objects() if isinstance(found, Connection) and found.role == "client"]


async def test_lost_framing_is_answered_then_closed(kind: Kind) -> None:
    async with serving(kind) as server:
        client = await server.client()
        await client.stream.send_all(b"\xff\xff\xff\xff")
        assert (await client.receive())[:3] == [Op.ERROR, 0, "bad-request"]
        assert await client.stream.receive_some() == b""


async def test_a_client_that_goes_is_forgotten_with_its_requests(kind: Kind) -> None:
    async with serving(kind) as server:
        client, other = await server.client(), await server.client()
        with server.holding_syncs():
            await client.send(put(1, b"k", b"v"))
            await until(lambda: server.node.busy > 0)
            await client.stream.aclose()
            assert (await other.ask(Op.GET, 1, b"none", None))[0] == Op.FOUND  # a flush under way holds up no read
        await until(lambda: server.node.busy == 0)
        assert (await other.ask(Op.GET, 2, b"k", None))[2][0][4] == b"v"


async def test_what_arrives_during_a_flush_shares_the_next_one(kind: Kind) -> None:
    async with serving(kind) as server:
        clients = [await server.client() for _ in range(20)]
        with server.holding_syncs():
            for number, client in enumerate(clients):
                await client.send(put(1, b"%d" % number, b"v"))
            await until(lambda: server.node.busy >= 2 * len(clients))  # each is pending and waits for a flush
        for client in clients:
            assert (await client.receive())[0] == Op.WRITTEN
        assert server.syncs <= 3


async def test_a_failed_flush_ends_the_service_and_answers_nothing(kind: Kind) -> None:
    def fail() -> None:
        raise StoreError("the disk is gone")

    told: list[Any] = []
    with pytest.RaisesGroup(StoreError, flatten_subgroups=True, allow_unwrapped=True):
        async with serving(kind) as server:
            server.before_sync = fail
            client = await server.client()
            await client.send(put(1, b"k", b"v"))
            told.append(await client.stream.receive_some())
    assert told in ([], [b""])


async def test_a_dialled_connection_is_served(kind: Kind) -> None:
    async with serving(kind) as server:
        near, far = tcp_pair()
        far.setblocking(False)
        server.sockets.add(far, server.node.accept())
        near.setblocking(False)
        client = await server.greet(trio.SocketStream(trio.socket.from_stdlib_socket(near)))
        assert (await client.ask(Op.GET, 1, b"none", None))[0] == Op.FOUND


async def test_all_connections_end_with_the_service(kind: Kind) -> None:
    async with serving(kind) as server:
        near, far = tcp_pair()
        far.setblocking(False)
        server.sockets.add(far, server.node.accept())
        await server.client()
    with near:
        near.settimeout(PATIENCE_S)
        assert near.recv(1) == b""


def cold(server: Server) -> None:
    """From now on everything is on the disk alone, and reads of it hang."""
    server.store.cold = None
    server.node.replica.hot.drop(okey(b"cold"))
    server.may_read.clear()


async def filled(server: Server) -> Client:
    client = await server.client()
    for id, key in enumerate((b"cold", b"hot"), 1):
        assert (await client.ask(Op.PUT, id, key, b"1", None, key.ljust(16), {}))[0] == Op.WRITTEN
    return client


async def begin_a_read(server: Server) -> None:
    """Let a read of the disk hang."""
    client = await filled(server)
    cold(server)
    await client.send([Op.GET, 900, b"cold", {}])
    with trio.fail_after(PATIENCE_S):
        while not server.reader.busy:
            await trio.sleep(0.001)


async def test_reads_of_a_disk_that_hangs_hold_up_nothing_else(kind: Kind) -> None:
    """What is in memory is read, new keys are written and pings are answered while reads of the disk hang."""
    async with serving(kind) as server:
        client = await filled(server)
        cold(server)
        await client.send([Op.GET, 900, b"cold", {}])
        for id in range(100, 200):
            assert (await client.ask(Op.GET, id, b"hot", {}))[:2] == [Op.FOUND, id]
            assert (await client.ask(Op.PING, 1000 + id))[1] == 1000 + id
        server.may_read.set()
        assert (await client.receive())[:2] == [Op.FOUND, 900]


async def test_many_cold_reads_are_all_answered(kind: Kind) -> None:
    async with serving(kind) as server:
        client = await filled(server)
        server.store.cold = None
        await client.send(*[[Op.GET, id, b"%d" % (id % 400), {}] for id in range(100, 900)])
        assert sorted([(await client.receive())[1] for _ in range(100, 900)]) == list(range(100, 900))


async def test_a_bug_in_a_reading_thread_ends_the_node(kind: Kind) -> None:
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True, allow_unwrapped=True):
        async with serving(kind) as server:
            client = await filled(server)
            server.store.get_many = lambda _keys: 1 // 0  # type: ignore[assignment]
            server.store.cold = {b"cold"}
            server.node.replica.hot.drop(okey(b"cold"))
            await client.send([Op.GET, 900, b"cold", {}])
            await trio.sleep(LIMIT_S)


async def test_closing_waits_for_a_read_of_a_disk_that_hangs_and_not_for_ever(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "JOIN_S", 0.2)
    servers = []

    async def end_during_a_read() -> None:
        async with serving(kind) as server:
            servers.append(server)
            await begin_a_read(server)

    with pytest.raises(StoreError, match="a read has not ended"):
        await end_during_a_read()
    servers[0].may_read.set()


async def test_closing_during_a_read_ends_as_it_does(kind: Kind) -> None:
    async with serving(kind) as server:
        await begin_a_read(server)
        threading.Timer(0.05, server.may_read.set).start()
    assert not any(thread.name == "read" and thread.is_alive() for thread in threading.enumerate())
