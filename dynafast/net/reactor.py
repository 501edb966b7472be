"""The node's sockets on Linux: the compiled reactor under one trio task, and a thread that flushes the store.

The thread is woken, and tells that it is done, by eventfds, so that a flush costs the event loop no more than two
small reads. May not: touch the core but in the trio thread.
"""

import os
import socket
import threading
from collections.abc import Callable

import trio

from dynafast._ext.connection import Connection
from dynafast._ext.reactor import Reactor
from dynafast.core.node import Node
from dynafast.errors import StoreError

LIMIT_NS = 2_000_000  # other tasks wait at most that long
PATIENCE_MS = 1  # while there is traffic the reactor waits itself; after that much silence trio does
CHECK_S = 1.0
JOIN_S = 60.0


class _Flusher:
    """A thread that calls *sync* whenever ``wake`` is written to, one at a time."""

    def __init__(self, sync: Callable[[], int]) -> None:
        self.wake = os.eventfd(0, os.EFD_CLOEXEC)
        self.done = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._sync = sync
        self._result: int | Exception = 0
        self._over = False
        self._thread = threading.Thread(target=self._run, name="flush", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            os.eventfd_read(self.wake)
            if self._over:
                return
            try:
                self._result = self._sync()
            except Exception as error:  # noqa: BLE001 - raised again where the core is
                self._result = error
            os.eventfd_write(self.done, 1)

    def result(self) -> int:
        """Return what the last sync returned, or raise what it raised."""
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    def close(self) -> None:
        """End the thread; wait for the sync that is under way."""
        self._over = True
        os.eventfd_write(self.wake, 1)
        self._thread.join(JOIN_S)
        if self._thread.is_alive():
            raise StoreError(f"a flush has not ended within {JOIN_S:.0f} s")
        os.close(self.wake)
        os.close(self.done)


class ReactorSockets:
    """See `dynafast.net.sockets.Sockets`."""

    def __init__(self, node: Node, sync: Callable[[], int]) -> None:
        self._node = node
        self._flusher = _Flusher(sync)
        self._reactor = Reactor(
            node.coordinator, flush_fd=self._flusher.wake, flushed_fd=self._flusher.done, flushed=self._flushed
        )

    def listen(self, listener: socket.socket, make: Callable[[], Connection]) -> None:
        """See `Sockets`."""
        self._reactor.listen(listener.fileno(), make)

    def add(self, sock: socket.socket, connection: Connection) -> None:
        """See `Sockets`."""
        self._reactor.add(sock.detach(), connection)

    def pump(self) -> None:
        """See `Sockets`."""
        self._reactor.pump()

    def flush(self) -> None:
        """See `Sockets`."""
        self._reactor.flush()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """See `Sockets`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._check)
            task_status.started()
            while True:
                if self._reactor.turn(LIMIT_NS, PATIENCE_MS):
                    await trio.lowlevel.wait_readable(self._reactor.fd)
                else:
                    await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """See `Sockets`."""
        self._reactor.close()
        self._flusher.close()

    def _flushed(self) -> None:
        self._node.flushed(self._flusher.result())

    async def _check(self) -> None:
        while True:
            await trio.sleep(CHECK_S)
            self._reactor.check()
