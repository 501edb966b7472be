"""The seed's side of a join: who may enter, and what it is told.

Until data can be moved, a node enters only while no member holds a record (``not-empty``).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dynafast.core.machine import Answering, Machine
from dynafast.core.membership import Entry, is_node_id
from dynafast.errors import DynafastError, PeerProtocolError, RefusedError, RequestError
from dynafast.protocol import Op, is_label
from dynafast.storage.interface import Family

if TYPE_CHECKING:
    from dynafast._ext.connection import Connection
    from dynafast.core.node import Node

ANSWER_MS = 3_000
RESERVE_NS = 10_000_000_000  # a name is kept for the node it was promised to, until that is heard of

_FIXED = ("partitions", "replicas", "r", "w", "hash")


class Entrance(Machine):
    """Answers JOIN requests."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._promised: dict[str, tuple[bytes, int]] = {}  # name -> (node id, until)

    def ops(self) -> dict[Op, tuple[int, Answering]]:
        """See `Machine`."""
        return {Op.JOIN: (1, self._answer_join), Op.EMPTY: (0, self._answer_empty)}

    def _answer_join(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        self.receive(connection, id, fields[0])

    def _answer_empty(self, connection: "Connection", id: int, _fields: list[Any]) -> None:
        connection.reply(id, not self._holds_any())

    def _holds_any(self) -> bool:
        return bool(self.node.store.scan(Family.OBJECTS, b"", None, limit=1))

    def receive(self, connection: "Connection", id: int, request: object) -> None:
        """Answer one JOIN: the cluster's facts and members, or why not.

        Raises:
            RefusedError: the request can be refused at once. PeerProtocolError: it is malformed.
        """
        if not isinstance(request, dict) or not is_label(request.get("name")):
            raise PeerProtocolError("a JOIN must carry a map with the node's name")
        asker = request.get("node")
        if not is_node_id(asker):
            raise PeerProtocolError("a JOIN must carry the node's id")
        self._check_facts(request)
        self._check_name(request["name"], asker)

        def decided(error: RequestError | None) -> None:
            if error is not None:
                connection.fail(id, error.code, str(error), error.details)
                return
            try:
                self._check_name(request["name"], asker)  # another may have entered meanwhile
            except RefusedError as late:
                connection.fail(id, late.code, str(late), late.details)
                return
            self._promised[request["name"]] = (asker, self.node.now_ns + RESERVE_NS)
            entries = [entry.to_wire() for _, entry in sorted(self.node.membership.entries.items())]
            connection.reply(id, {**self.node.facts.to_wire(), "entries": entries})
            self.node.trace("join.admitted", name=request["name"])

        self._ask_all(decided)

    def _check_facts(self, request: dict[str, Any]) -> None:
        facts = self.node.facts.to_wire()
        for name in _FIXED:
            asked = request.get(name)
            if asked is not None and asked != facts[name]:
                raise RefusedError(
                    f"the cluster has {name}={facts[name]}, the joining node was given {asked}: leave it unset",
                    {"setting": name, "cluster": facts[name]},
                    code="config-mismatch",
                )

    def _check_name(self, name: str, asker: bytes) -> None:
        taken = any(
            entry.name == name and entry.id != asker for entry in self.node.membership.entries.values() if entry.member
        )
        holder, until = self._promised.get(name, (asker, 0))
        if taken or (holder != asker and until > self.node.now_ns):
            raise RefusedError(
                f"the cluster has a node named {name!r}: give this one another --name",
                {"name": name},
                code="name-taken",
            )

    def _ask_all(self, decided: Any) -> None:
        """Call ``decided(error)`` once every member has said whether it holds records."""
        node = self.node
        if self._holds_any():
            decided(_not_empty(node.own.name))
            return
        others = [entry for entry in node.membership.members() if entry.id != node.own.id]
        left = {entry.id for entry in others}
        if not left:
            decided(None)
            return

        def asked(entry: Entry) -> Callable[[Any, DynafastError | None], None]:
            def answered(result: Any, error: DynafastError | None) -> None:
                if entry.id not in left:
                    return  # decided meanwhile
                if error is None and result is True:
                    left.discard(entry.id)
                    if not left:
                        decided(None)
                    return
                left.clear()
                decided(_not_empty(entry.name) if error is None else _unknown(entry.name, error))

            return answered

        for entry in others:
            node.call(node.peers[entry.id], Op.EMPTY, [], ANSWER_MS, asked(entry))


def _unknown(name: str, error: DynafastError) -> RequestError:
    return RequestError(f"cannot tell whether {name} holds records: {error}", code="unavailable")


def _not_empty(name: str) -> RefusedError:
    return RefusedError(
        f"the cluster holds records (on {name}): this version admits nodes only to an empty cluster",
        {"node": name},
        code="not-empty",
    )
