"""What moves the bytes of all connections of a node, and tells it what was flushed: two ways that do the same.

On Linux a compiled reactor (`dynafast.net.reactor`), elsewhere a trio task for each connection
(`dynafast.net.transport`). May not: look into the bytes, or decide anything about requests.
"""

import socket
import sys
from collections.abc import Callable
from typing import Literal, Protocol

import trio

from dynafast._ext.connection import Connection
from dynafast.core.node import Node
from dynafast.errors import ConfigError
from dynafast.storage.flushing import Flusher
from dynafast.storage.reading import Reader

Kind = Literal["auto", "reactor", "streams"]


class Sockets(Protocol):
    """The sockets of one node. All methods are called in the trio thread."""

    def listen(self, listener: socket.socket, make: Callable[[], Connection]) -> None:
        """Accept connections, once `run` has begun; *make* returns the core's end of each."""

    def add(self, sock: socket.socket, connection: Connection) -> None:
        """Serve a connected socket, which is owned from now on."""

    def pump(self) -> None:
        """Send what the core has produced by now; flush, and read from the disk, if something waits for that."""

    def flush(self) -> None:
        """Flush the store soon, whether or not something waits for it."""

    async def run(self, task_status: trio.TaskStatus[None] = ...) -> None:
        """Serve until cancelled; *task_status* is told once `add` may be called.

        Raises:
            StoreError: a flush has failed, so that nothing more may be answered.
        """

    def close(self) -> None:
        """Close all sockets, and wait for a flush and for reads that are under way.

        Raises:
            StoreError: one does not end.
        """


def begin_reads(node: Node, reader: Reader) -> None:
    """Hand what the core waits for from the disk to the threads that have nothing to do."""
    while reader.free and node.reads_wanted:
        reader.begin(node.take_reads())


def end_reads(node: Node, reader: Reader) -> None:
    """Give the core what has been read."""
    for keys, found in reader.end():
        node.read(keys, found)


def make_sockets(kind: Kind, node: Node, turn: Callable[[], None], flusher: Flusher, reader: Reader) -> Sockets:
    """Return what moves the bytes of *node*.

    Args:
        kind: which way; ``auto``: the fastest one that this system has.
        node: the core.
        turn: called before the core is given anything: tells it the time (the reactor does that itself).
        flusher: flushes the store; closed with the sockets.
        reader: reads what of it is on the disk alone; closed with the sockets.

    Raises:
        ConfigError: this system has no such way.
    """
    if kind != "streams" and sys.platform == "linux":
        from dynafast.net.reactor import ReactorSockets  # here: other systems have none

        return ReactorSockets(node, flusher, reader)
    if kind == "reactor":
        raise ConfigError(f"sockets must be auto or streams on {sys.platform}, which has no epoll, got 'reactor'")
    from dynafast.net.transport import StreamSockets

    return StreamSockets(node, turn, flusher, reader)
