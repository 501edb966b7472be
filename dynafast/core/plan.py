"""Answers PLAN: what a change of the members would move, between whom, and about how many bytes. Nothing is done.

Ownership is a pure function of the members, so a plan computes it for the members as they would be. A new node's id
is not known before it joins, so a plan for a join counts what a node like it would get: the counts come out the same,
give or take a few, the partitions do not.
"""

from collections import Counter
from typing import TYPE_CHECKING, Any

from dynafast.core.machine import Machine, Ops
from dynafast.core.ownership import Member, Placement, place
from dynafast.errors import BadRequestError, RefusedError
from dynafast.limits import WEIGHT_MAX
from dynafast.protocol import Op, Status, is_label, is_uint

if TYPE_CHECKING:
    from dynafast._ext.connection import Connection

_NEW = b"newcomer"  # stands for the id of a node that would join
_NEW_HOST = "(new)"  # no label can be it


class Plan(Machine):
    """Computes what would move."""

    def ops(self) -> Ops:
        """Return the requests this machine answers."""
        return {Op.PLAN: (1, self._receive)}

    def _receive(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        node = self.node
        members = [
            Member(id=entry.id, weight=entry.weight, zone=entry.zone, host=entry.host)
            for entry in node.members()
            if entry.status is not Status.LEAVING
        ]
        after = self._changed(members, fields[0])
        connection.reply(id, self._moves(members, after))

    def _changed(self, members: list[Member], change: object) -> list[Member]:
        match change:
            case {"change": "join", "weight": weight, **rest} if self._is_weight(weight) and not rest:
                zone = min(members, key=lambda member: member.id).zone
                return [*members, Member(id=_NEW, weight=weight, zone=zone, host=_NEW_HOST)]
            case {"change": "leave" | "remove", "name": name, **rest} if is_label(name) and not rest:
                id = self._id(name)
                after = [member for member in members if member.id != id]
                if not after:
                    raise RefusedError(f"{name} is the only member", {"name": name}, code="too-few-hosts")
                return after
            case {"change": "weight", "name": name, "weight": weight, **rest} if (
                is_label(name) and self._is_weight(weight) and not rest
            ):
                id = self._id(name)
                return [
                    Member(id=it.id, weight=weight if it.id == id else it.weight, zone=it.zone, host=it.host)
                    for it in members
                ]
        raise BadRequestError(
            "a plan must be {change: join, weight}, {change: leave | remove, name} or {change: weight, name, weight}"
        )

    def _is_weight(self, weight: object) -> bool:
        return is_uint(weight) and 1 <= weight <= WEIGHT_MAX

    def _id(self, name: str) -> bytes:
        for entry in self.node.members():
            if entry.name == name:
                return entry.id
        raise RefusedError(f"the cluster has no node named {name!r}", {"name": name}, code="unknown-node")

    def _moves(self, members: list[Member], after: list[Member]) -> dict[str, object]:
        facts = self.node.facts
        old = place(members, partitions=facts.partitions, replicas=facts.replicas)
        new = place(after, partitions=facts.partitions, replicas=facts.replicas)
        moves: Counter[tuple[bytes | None, bytes]] = Counter()
        sizes: Counter[tuple[bytes | None, bytes]] = Counter()
        for partition in range(facts.partitions):
            before, then = _targets(old, partition, facts.replicas), _targets(new, partition, facts.replicas)
            gone = [id for id in before if id not in then]
            for id in then:
                if id not in before:
                    source = gone.pop() if gone else None
                    moves[source, id] += 1
                    sizes[source, id] += self._size(source if source is not None else before[0])
        rows = [
            {
                "from": self._name(source),
                "to": self._name(to),
                "partitions": count,
                "bytes": sizes[source, to],
            }
            for (source, to), count in sorted(moves.items(), key=lambda item: (item[0][0] or b"", item[0][1]))
        ]
        return {
            "moves": rows,
            "partitions": moves.total(),
            "bytes": sizes.total(),
            "warnings": list(new.warnings),
        }

    def _name(self, id: bytes | None) -> str | None:
        return None if id is None or id == _NEW else self.node.membership.entries[id].name

    def _size(self, id: bytes) -> int:
        """Return about how large a partition is at a node: what it holds over the seats it serves."""
        node = self.node
        if id == node.own.id:
            size, seats = node.store.usage()[1], len(node.own_seats())
        else:
            size = node.detector.sizes.get(id, (0, 0))[1]
            seats = sum(1 for p in range(node.facts.partitions) if node.seats.serves(id, p))
        return size // max(1, seats)


def _targets(placement: Placement, partition: int, replicas: int) -> list[bytes]:
    return [placement.members[index].id for index in placement.ring.at(partition)[:replicas]]
