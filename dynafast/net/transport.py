"""The node's sockets on trio streams: a task for each connection. Runs everywhere; Linux has a faster way, the reactor.

Output is sent at once when the socket takes it; what is left goes out by a task that lives only as long as it is
needed. While a peer or client does not take its output, nothing more is read from it: that is the back-pressure.
May not: look into the bytes.
"""

import errno
import math
import socket
from collections.abc import Callable

import structlog
import trio

from dynafast._ext.connection import OUTPUT_HIGH, Connection
from dynafast.core.node import Node
from dynafast.net.sockets import begin_reads, end_reads
from dynafast.storage.flushing import Flusher
from dynafast.storage.reading import Reader

ACCEPT_PAUSE_S = 0.05
READ_SIZE = 256 * 1024
STALLED_S = 30.0  # an end that takes no output, or leaves a frame unfinished, for so long is given up

log = structlog.get_logger("dynafast")


class StreamSockets:
    """See `dynafast.net.sockets.Sockets`."""

    def __init__(self, node: Node, turn: Callable[[], None], flusher: Flusher, reader: Reader) -> None:
        self._node = node
        self._turn = turn
        self._flusher = flusher
        self._reader = reader
        self._transports: dict[Connection, Transport] = {}
        self._listeners: list[tuple[socket.socket, Callable[[], Connection]]] = []
        self._flush = trio.Event()
        self._nursery: trio.Nursery

    def listen(self, listener: socket.socket, make: Callable[[], Connection]) -> None:
        """See `Sockets`."""
        self._listeners.append((listener, make))

    def add(self, sock: socket.socket, connection: Connection) -> None:
        """See `Sockets`."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport = Transport(sock, connection, self._turn, self.pump)
        self._transports[connection] = transport
        self._nursery.start_soon(self._serve, connection, transport)

    def pump(self) -> None:
        """See `Sockets`."""
        for connection in self._node.take_dirty():
            transport = self._transports.get(connection)
            if transport is not None:
                transport.push()
        if self._node.flush_wanted:
            self.flush()
        begin_reads(self._node, self._reader)

    def flush(self) -> None:
        """See `Sockets`."""
        self._flush.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Sockets`."""
        async with trio.open_nursery() as self._nursery:
            for listener, make in self._listeners:
                self._nursery.start_soon(self._accept, listener, make)
            self._nursery.start_soon(self._take_what_is_read)
            task_status.started()
            await self._flush_as_wanted()

    def close(self) -> None:
        """See `Sockets`; the tasks have closed all sockets as they ended."""
        self._reader.close()
        self._flusher.close()

    async def _serve(self, connection: Connection, transport: "Transport") -> None:
        try:
            await transport.run()
        finally:
            del self._transports[connection]

    async def _accept(self, listener: socket.socket, make: Callable[[], Connection]) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:
                if error.errno not in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    raise
                log.warning("accept.failed", error=str(error))
                await trio.sleep(ACCEPT_PAUSE_S)  # out of descriptors: those in use are served first
                continue
            self.add(sock, make())

    async def _flush_as_wanted(self) -> None:
        """One flush at a time: what arrives meanwhile shares the next one."""
        while True:
            await self._flush.wait()
            self._flush = trio.Event()
            self._flusher.begin()
            await trio.lowlevel.wait_readable(self._flusher.done)
            sequence = self._flusher.end()
            self._turn()
            self._node.flushed(sequence)
            self.pump()

    async def _take_what_is_read(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._reader.done)
            self._turn()
            end_reads(self._node, self._reader)
            self.pump()


class Transport:
    """One socket and the core's connection that it serves.

    Args:
        sock: a connected stream socket, not blocking; owned.
        connection: the core's end.
        turn: called before the core is given anything: tells it the time.
        pump: called after: sends what the core has produced, anywhere.
    """

    def __init__(
        self, sock: socket.socket, connection: Connection, turn: Callable[[], None], pump: Callable[[], None]
    ) -> None:
        self._sock = sock
        self._connection = connection
        self._turn = turn
        self._pump = pump
        self._nursery: trio.Nursery | None = None
        self._rest = memoryview(b"")
        self._sending = False
        self._taken = trio.Event()

    async def run(self) -> None:
        """Serve the connection until either end closes it, then tell the core."""
        try:
            async with trio.open_nursery() as self._nursery:
                self.push()
                await self._read()
                self._nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self._sock.close()
            self._turn()
            self._connection.drop()
            self._pump()

    def push(self) -> None:
        """Send what the connection has produced; called whenever it has."""
        if self._nursery is None or self._sending:
            return
        while self._take():
            if not self._send_some():
                self._sending = True
                self._nursery.start_soon(self._drain)
                return
        self._taken.set()
        if self._connection.closing:
            self._nursery.cancel_scope.cancel()

    def _take(self) -> bool:
        """Get what there is to send; whether there is anything."""
        self._rest = memoryview(self._connection.take())
        if not self._rest and self._connection.full:
            self._turn()
            self._connection.resume()
            self._rest = memoryview(self._connection.take())
        return bool(self._rest)

    def _send_some(self) -> bool:
        """Send without waiting; whether all is gone."""
        try:
            sent = self._sock.send(self._rest)
        except BlockingIOError:
            return False
        except OSError:
            self._rest = memoryview(b"")
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()
            return True
        self._rest = self._rest[sent:]
        return not self._rest

    async def _drain(self) -> None:
        """Send the rest as the socket takes it, then go."""
        while True:
            if not self._rest and not self._take():
                break
            with trio.move_on_after(STALLED_S) as patience:
                await trio.lowlevel.wait_writable(self._sock)
            if patience.cancelled_caught:
                break
            self._send_some()
        stalled = bool(self._rest)
        self._sending = False
        self._pump()  # input that had to wait may have been handled, and be meant for others
        self._taken.set()
        if (stalled or self._connection.closing) and self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _read(self) -> None:
        while not self._connection.closing:
            patience_s = STALLED_S if self._connection.unfinished else math.inf
            with trio.move_on_after(patience_s) as patience:
                await trio.lowlevel.wait_readable(self._sock)
            if patience.cancelled_caught:
                self._turn()
                self._connection.give_up()
                self._pump()
                break
            try:
                data = self._sock.recv(READ_SIZE)
            except BlockingIOError:
                continue
            except OSError:
                return
            if not data:
                return
            self._turn()
            self._connection.feed(data)
            self._pump()
            while self._connection.full or (self._sending and self._connection.unsent + len(self._rest) > OUTPUT_HIGH):
                self._taken = trio.Event()
                await self._taken.wait()
        while self._sending:  # closing: let the last answer out
            self._taken = trio.Event()
            await self._taken.wait()
