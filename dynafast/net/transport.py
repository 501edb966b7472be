"""Moves the bytes of one connection between its socket and its core, on trio.

Output is sent at once when the socket takes it; what is left goes out by a task that lives only as long as it is
needed. While a peer or client does not take its output, nothing more is read from it: that is the back-pressure.
May not: look into the bytes.
"""

import math
import socket
from collections.abc import Callable

import trio

from dynafast._ext.connection import OUTPUT_HIGH, Connection

READ_SIZE = 256 * 1024
STALLED_S = 30.0  # an end that takes no output, or leaves a frame unfinished, for so long is given up


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
        self._rest = memoryview(self._connection.take())
        if self._rest and not self._send_some():
            self._sending = True
            self._nursery.start_soon(self._drain)
        elif self._connection.closing and not self._rest:
            self._nursery.cancel_scope.cancel()

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
            if not self._rest:
                self._rest = memoryview(self._connection.take())
                if not self._rest:
                    break
            with trio.move_on_after(STALLED_S) as patience:
                await trio.lowlevel.wait_writable(self._sock)
            if patience.cancelled_caught:
                break
            self._send_some()
        stalled = bool(self._rest)
        self._sending = False
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
            while self._sending and self._connection.unsent + len(self._rest) > OUTPUT_HIGH:
                self._taken = trio.Event()
                await self._taken.wait()
        while self._sending:  # closing: let the last answer out
            self._taken = trio.Event()
            await self._taken.wait()
