"""The seed's side of a join: who may enter, and what it is told. With ``replace``, a dead member is removed first."""

from functools import partial
from typing import TYPE_CHECKING, Any

from dynafast.core.changes import Changes
from dynafast.core.gossip import Gossip
from dynafast.core.machine import Machine, Ops
from dynafast.core.membership import Entry, is_node_id
from dynafast.errors import PeerProtocolError, RefusedError, RequestError
from dynafast.protocol import Op, is_label

if TYPE_CHECKING:
    from dynafast._ext.connection import Connection

REMEMBER_NS = 600_000_000_000  # whom a node has replaced, in case it is heard of later
LOOK_NS = 1_000_000_000
AWAY_NS = 3_000_000_000  # it is no heir of the heir: that would be linked, or the heir known to be gone, by then
RESERVE_NS = 10_000_000_000  # a name is kept for the node it was promised to, until that is heard of

_FIXED = ("partitions", "replicas", "r", "w", "hash")


class Entrance(Machine):
    """Answers JOIN requests."""

    def __init__(self, node: Any) -> None:
        super().__init__(node)
        self._promised: dict[str, tuple[bytes, int]] = {}  # name -> (node id, until)
        self._replaced: dict[str, tuple[bytes, int]] = {}  # name -> (node that took its place, until)
        self._away_ns: dict[bytes, int] = {}  # node that was to be replaced -> since when it is seen to be away
        self._next_ns = 0

    def ops(self) -> Ops:
        """Return the requests this machine answers."""
        return {Op.JOIN: (1, self._receive)}

    def tick(self, now_ns: int) -> None:
        """Remove a node that was replaced when nobody here had heard of it, once somebody has."""
        if not self._replaced or now_ns < self._next_ns:
            return
        self._next_ns = now_ns + LOOK_NS
        entries = self.node.membership.entries
        self._replaced = {
            name: (heir, until)
            for name, (heir, until) in self._replaced.items()
            if until > now_ns and (heir not in entries or entries[heir].member)  # else another may be its heir
        }
        found: dict[bytes, int] = {}
        for name, (heir, _) in sorted(self._replaced.items()):
            dead = self._member(name, heir)
            if dead is None or dead.id == self.node.own.id or self.node.peers[dead.id].link is not None:
                continue
            found[dead.id] = self._away_ns.get(dead.id, now_ns)
            if now_ns - found[dead.id] >= AWAY_NS:
                self.node.machine(Changes).remove(dead, lambda _error: None, accept_loss=False, replaced=True)
        self._away_ns = found

    def _receive(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        """JOIN [request] -> the cluster's facts and members."""
        request = fields[0]
        if not isinstance(request, dict) or not is_label(request.get("name")):
            raise PeerProtocolError("a JOIN must carry a map with the node's name")
        name, asker, replaced = request["name"], request.get("node"), request.get("replace")
        if not is_node_id(asker):
            raise PeerProtocolError("a JOIN must carry the node's id")
        if replaced is not None and not is_label(replaced):
            raise PeerProtocolError("a JOIN must name the node that it replaces, or null")
        self._check_facts(request)
        if replaced is None:
            self._check_name(name, asker)
            self._admit(connection, id, name, asker)
        elif self._member(replaced, asker) is not None:
            self._replace(connection, id, name, asker, replaced)
        else:  # removed already, or a node that others have heard of, and this one has not
            again = partial(self._replace, connection, id, name, asker, replaced)
            self.node.machine(Gossip).ask_everybody(again)

    def _replace(self, connection: "Connection", id: int, name: str, asker: bytes, replaced: str) -> None:

        dead = self._member(replaced, asker)

        def removed(error: RequestError | None) -> None:
            try:
                if error is not None:
                    raise error
                if dead is None:
                    self._check_unknown(replaced)
                self._check_name(name, asker)  # another may have entered meanwhile
            except RequestError as refusal:
                connection.fail(id, refusal.code, str(refusal), refusal.details)
            else:
                # Of another that was to be replaced this node may hear only later: perhaps one after `dead`.
                self._replaced[replaced] = (asker, self.node.now_ns + REMEMBER_NS)
                self._admit(connection, id, name, asker)

        if dead is None:
            removed(None)
        else:
            self.node.machine(Changes).remove(dead, removed, accept_loss=False, replaced=True)

    def _check_unknown(self, name: str) -> None:
        """Refuse to replace a node that nobody here has heard of, ever, while somebody who may have cannot be asked."""
        node = self.node
        if any(entry.name == name for entry in node.membership.entries.values()):
            return  # it has gone
        away = [entry.name for entry in node.membership.members() if not node.peers[entry.id].usable]
        away = [other for other in away if other != node.own.name]
        if away:
            raise RefusedError(
                f"{node.own.name} knows of no node named {name!r}, and {away[0]} cannot be asked: try again",
                {"name": name},
                code="unavailable",
            )

    def _admit(self, connection: "Connection", id: int, name: str, asker: bytes) -> None:
        self._promised[name] = (asker, self.node.now_ns + RESERVE_NS)
        entries = [entry.to_wire() for _, entry in sorted(self.node.membership.entries.items())]
        answer = {**self.node.facts.to_wire(), "round": self.node.replica.round, "entries": entries}
        connection.reply(id, answer)
        self.node.trace("join.admitted", name=name)

    def _member(self, name: str, asker: bytes) -> Entry | None:
        for entry in self.node.membership.members():
            if entry.name == name and entry.id != asker:
                return self.node.own if entry.id == self.node.own.id else entry
        return None

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
        holder, until = self._promised.get(name, (asker, 0))
        kept = holder != asker and until > self.node.now_ns and holder not in self.node.membership.entries
        if kept or self._member(name, asker) is not None:
            raise RefusedError(
                f"the cluster has a node named {name!r}: give this one another --name, or --replace {name}"
                " if that one is gone for good",
                {"name": name},
                code="name-taken",
            )
