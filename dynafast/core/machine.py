"""What the background machines of a node have in common.

Each is a state machine: it is told the time by `tick`, answers rare requests of peers and clients, and acts through
the node's few calls. It never waits and never blocks; what it asks of peers has a deadline. May not: know of sockets,
clocks or files.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dynafast.protocol import Op

if TYPE_CHECKING:
    from dynafast._ext.connection import Connection
    from dynafast._ext.view import Peer
    from dynafast.core.node import Node

Answering = Callable[["Connection", int, list[Any]], None]
Ops = Mapping[Op, tuple[int | None, Answering]]


class Machine:
    """One background task of a node; subclasses override what they need."""

    def __init__(self, node: "Node") -> None:
        self.node = node

    def ops(self) -> Ops:
        """Return the requests this machine answers: number of fields after the id (None: any), and who answers.

        An answering method gets (connection, id, fields) and replies through the connection, now or later. It may
        raise RequestError or PeerProtocolError, which becomes an error answer.
        """
        return {}

    def tick(self, now_ns: int) -> None:
        """Do what is due."""

    def linked(self, peer: "Peer") -> None:
        """A connection to a peer can take requests now."""

    def changed(self, partitions: set[int]) -> None:
        """Members or seats have changed: who should serve, or who does serve, these partitions."""

    def figures(self) -> dict[str, object]:
        """Return what ``status`` shows of this machine."""
        return {}
