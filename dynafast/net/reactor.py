"""The node's sockets on Linux: the compiled reactor under one trio task.

May not: touch the core but in the trio thread.
"""

import socket
from collections.abc import Callable
from functools import partial

import trio

from dynafast._ext.connection import Connection
from dynafast._ext.reactor import Reactor
from dynafast.core.node import Node
from dynafast.net.sockets import begin_reads, end_reads
from dynafast.storage.flushing import Flusher
from dynafast.storage.reading import Reader

LIMIT_NS = 2_000_000  # other tasks wait at most that long
PATIENCE_MS = 1  # while there is traffic the reactor waits itself; after that much silence trio does
CHECK_S = 1.0


class ReactorSockets:
    """See `dynafast.net.sockets.Sockets`."""

    def __init__(self, node: Node, flusher: Flusher, reader: Reader) -> None:
        self._node = node
        self._flusher = flusher
        self._reader = reader
        self._reactor = Reactor(
            node.coordinator,
            flusher=flusher,
            flushed=self._flushed,
            read=partial(begin_reads, node, reader),
            read_fd=reader.done,
            arrived=partial(end_reads, node, reader),
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
        self._reader.close()
        self._flusher.close()

    def _flushed(self) -> None:
        self._node.flushed(self._flusher.end())

    async def _check(self) -> None:
        while True:
            await trio.sleep(CHECK_S)
            self._reactor.check()
