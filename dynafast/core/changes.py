"""Changes of the members on request, at any node: a node leaves, a dead one is removed, a weight is set.

A change that takes a node away first asks the members for their permit: more than half of all must give it (half of
all for a removal, since the dead node gives none to anybody; who replaces a node needs no more than those it can ask),
none that can be asked may refuse, and each gives one at a time. So two operators who act at once, a leave here and a
removal there, cannot together leave fewer hosts than replicas, whatever each of their nodes has heard. A permit is
remembered on disk, and lapses when its change is seen or after ten seconds.

A removal is answered once most of the members that can be reached have it on disk: whoever was asked may die next.

Accepted or refused within five seconds; the work goes on behind (`dynafast.core.taking`, `dynafast.core.leaving`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dynafast.core import identity
from dynafast.core.gossip import Gossip
from dynafast.core.machine import Machine, Ops
from dynafast.core.membership import Entry, is_node_id
from dynafast.errors import BadRequestError, DynafastError, PeerProtocolError, RefusedError, RequestError, StoreError
from dynafast.limits import WEIGHT_MAX
from dynafast.protocol import Op, Status, is_label, is_uint
from dynafast.storage.interface import Batch

if TYPE_CHECKING:
    from dynafast._ext.connection import Connection
    from dynafast.core.node import Node

PASS_ON_MS = 4_500  # the node concerned answers by then
PERMIT_MS = 2_000  # a member that has not answered by then gives no permit
PING_MS = 1_500
PERMIT_NS = 10_000_000_000
HEARD_NS = 3_000_000_000  # a peer heard of since then is alive
LISTED_MAX = 100  # partitions in a refusal

Done = Callable[[RequestError | None], None]


class Changes(Machine):
    """Accepts or refuses changes, and gives permits for those of others."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        holder = identity.load_permit(node.store)
        self._permit: tuple[bytes, bytes] | None = None  # who may go first, with the change of which node
        if holder is not None:
            self._permit = holder[:8], holder[8:]
        self._until_ns: int | None = None  # None: not counted yet, since the time is not known at the start

    def ops(self) -> Ops:
        """Return the requests this machine answers."""
        return {
            Op.LEAVE: (1, self._leave),
            Op.REMOVE: (2, self._remove),
            Op.WEIGHT: (2, self._weight),
            Op.PERMIT: (3, self._permit_asked),
        }

    def tick(self, now_ns: int) -> None:
        """Let a permit lapse."""
        if self._permit is None:
            return
        if self._until_ns is None:
            self._until_ns = now_ns + PERMIT_NS
        entry = self.node.membership.entries.get(self._permit[1])
        if now_ns >= self._until_ns or entry is None or entry.status not in (Status.UP, Status.JOINING):
            self._keep_permit(None)

    # ---- requests

    def _named(self, name: object) -> Entry:
        """Return the entry of a name, or of a node id in hex: a node that was replaced may be a member still."""
        if not is_label(name):
            raise BadRequestError("the name of a node must be 1 to 64 letters, digits, dots, dashes or underscores")
        entries = sorted(self.node.membership.entries.items())
        found = [entry for _, entry in entries if name in (entry.name, entry.id.hex())]
        for entry in sorted(found, key=lambda entry: not entry.member):
            return self.node.own if entry.id == self.node.own.id else entry
        raise RefusedError(f"the cluster has no node named {name!r}", {"name": name}, code="unknown-node")

    def _already(
        self, name: str, connection: "Connection", id: int, result: dict[str, object], again: Callable[[], None]
    ) -> None:
        """Say that a node has gone already, unless others have heard of a new one of that name."""

        def told(kept: bool) -> None:  # noqa: FBT001 - a callback
            if kept:
                connection.reply(id, result)
            else:
                _fail(connection, id, _little_known(name))

        def asked() -> None:
            gone = self._named(name)
            if not gone.member:
                self.node.tell_removed(gone, told)  # who was asked first may have died before it told others
                return
            try:
                again()
            except RequestError as error:
                _fail(connection, id, error)

        self.node.machine(Gossip).ask_everybody(asked)

    def _pass_on(self, entry: Entry, connection: "Connection", id: int, op: Op, fields: list[Any]) -> bool:
        """Have the node concerned answer; False if that is us."""
        if entry.id == self.node.own.id:
            return False
        if connection.role == "peer":
            raise RefusedError(f"this is {self.node.own.name}, not {entry.name}", code="wrong-node")
        peer = self.node.peers[entry.id]
        if peer.link is None:
            raise RefusedError(
                f"{entry.name} cannot be reached from {self.node.own.name}", {"name": entry.name}, code="unreachable"
            )

        def done(result: Any, error: DynafastError | None) -> None:
            if error is None:
                connection.reply(id, result)
            else:
                _fail(connection, id, error)

        self.node.call(peer, op, fields, PASS_ON_MS, done)
        return True

    def _weight(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        """WEIGHT [name, weight] -> {}."""
        entry = self._named(fields[0])
        if not entry.member:
            raise RefusedError(f"{entry.name} has gone", {"name": entry.name}, code="unknown-node")
        if not is_uint(fields[1]) or not 1 <= fields[1] <= WEIGHT_MAX:
            raise BadRequestError(f"the weight must be an integer in 1..{WEIGHT_MAX}")
        if self._pass_on(entry, connection, id, Op.WEIGHT, fields):
            return
        if self.node.own.status is Status.LEAVING:
            raise RefusedError(f"{entry.name} is leaving", code="leaving")
        if fields[1] != self.node.own.weight:
            self.node.change_own(Batch(), weight=fields[1])
        self.node.after_flush(lambda: connection.reply(id, {}))

    def _leave(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        """LEAVE [name] -> {}. One that was accepted already is accepted again."""
        entry = self._named(fields[0])
        if not entry.member:
            self._already(fields[0], connection, id, {}, lambda: self._leave(connection, id, fields))
            return
        if self._pass_on(entry, connection, id, Op.LEAVE, fields):
            return
        node = self.node
        if node.own.status is Status.LEAVING:
            connection.reply(id, {})
            return

        def permitted(error: RequestError | None) -> None:
            if error is None:
                try:
                    node.change_own(Batch(), status=Status.LEAVING)
                except StoreError as refused:
                    error = RefusedError(str(refused), code="store-error")
            if error is not None:
                _fail(connection, id, error)
                return
            node.trace("leave.accepted")
            node.after_flush(lambda: connection.reply(id, {}))

        self._check_hosts(entry)
        self._ask_all("leave", entry, permitted, lone=False)

    def _remove(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        """REMOVE [name, accept loss] -> {"lost": partitions that nobody serves any more}."""
        if not isinstance(fields[1], bool):
            raise BadRequestError("REMOVE must be [name, whether to accept losses]")
        entry = self._named(fields[0])
        if not entry.member:
            self._already(fields[0], connection, id, {"lost": []}, lambda: self._remove(connection, id, fields))
            return
        if entry.id == self.node.own.id:
            raise RefusedError(f"{entry.name} answers: let it leave", {"name": entry.name}, code="alive")
        if not fields[1]:
            self._check_hosts(entry)
        lost = self.lost_with(entry.id)

        def removed(error: RequestError | None) -> None:
            if error is None:
                connection.reply(id, {"lost": lost})
            else:
                _fail(connection, id, error)

        self.remove(entry, removed, accept_loss=fields[1])

    def remove(self, entry: Entry, done: Done, *, accept_loss: bool, replaced: bool = False) -> None:
        """Remove a dead node; ``done(error)`` is called once it is removed for good, or with why it is not.

        Args:
            entry: of the node.
            done: told what has come of it.
            accept_loss: though nobody else may serve what it does, or most members may be away.
            replaced: another takes its place, so that the number of hosts stays.
        """
        lost = self.lost_with(entry.id)
        if lost and not accept_loss:
            done(
                RefusedError(
                    f"nobody else serves {len(lost)} partitions that {entry.name} does: their records would be lost",
                    {"partitions": lost[:LISTED_MAX], "count": len(lost)},
                    code="would-lose",
                )
            )
            return

        def permitted(error: RequestError | None) -> None:
            if error is None and self.node.own.status is Status.LEFT:  # nobody listens to us any more
                error = RefusedError(f"{self.node.own.name} has left: ask another", code="stopping")
            if error is not None:
                done(error)
                return
            known = self.node.membership.entries.get(entry.id, entry)
            try:
                self.node.mark_removed(known, lambda kept: done(None if kept else _little_known(entry.name)))
            except StoreError as refused:
                done(RefusedError(str(refused), code="store-error"))

        def silent(*, answers: bool) -> None:
            if answers:
                done(RefusedError(f"{entry.name} answers: let it leave", {"name": entry.name}, code="alive"))
            else:
                # What takes its place keeps the number of hosts; so nobody else's change can clash with it.
                kind = "replace" if replaced or accept_loss else "remove"
                self._ask_all(kind, entry, permitted, lone=replaced or accept_loss)

        self._ping(entry, silent)

    def lost_with(self, id: bytes) -> list[int]:
        """Return the partitions of which nobody else serves a seat."""
        seats = self.node.seats
        return [
            partition
            for partition in range(self.node.facts.partitions)
            if seats.owners[partition]
            and all(owner.node == id for owner in seats.owners[partition].values())
            and all(owner.node == id for owner in seats.moving.get(partition, {}).values())
        ]

    def _ping(self, entry: Entry, done: "Callable[..., None]") -> None:
        peer = self.node.peers[entry.id]
        if peer.link is None:
            done(answers=False)
            return
        self.node.call(peer, Op.PING, [], PING_MS, lambda _result, error: done(answers=error is None))

    # ---- permits

    def _check_hosts(self, entry: Entry) -> None:
        """Raise RefusedError if without that node fewer hosts were left, and fewer than replicas."""
        stay = self._staying(entry.id)
        if entry.host not in stay and len(stay) < self.node.facts.replicas:
            raise RefusedError(
                f"without {entry.name} there would be {len(stay)} hosts for {self.node.facts.replicas} replicas:"
                " let another join first, or replace it",
                {"hosts": len(stay), "replicas": self.node.facts.replicas},
                code="too-few-hosts",
            )

    def _staying(self, without: bytes) -> set[str]:
        entries = [entry for entry in self.node.membership.members() if entry.id not in (without, self.node.own.id)]
        entries += [self.node.own] if without != self.node.own.id else []
        return {entry.host for entry in entries if entry.status is not Status.LEAVING}

    def _ask_all(self, kind: str, entry: Entry, done: Done, *, lone: bool) -> None:
        """Ask every member for its permit; ``done(error)`` once it is certain.

        Args:
            kind: ``leave``, ``remove``, or ``replace`` for a removal that leaves the number of hosts aside.
            entry: of the node that goes.
            done: told what has come of it.
            lone: more than half of the members need not be reached.
        """
        node = self.node
        try:
            self._grant(node.own.id, kind, entry.id)
        except RequestError as error:
            done(error)
            return
        except StoreError as error:
            done(RefusedError(str(error), code="store-error"))
            return
        members = [member.id for member in node.membership.members() if member.id not in (entry.id, node.own.id)]
        asked = [node.peers[id] for id in members if node.peers[id].link is not None]
        total = len(members) + (1 if entry.id == node.own.id else 2)
        needed = 1 if lone else total // 2 + 1 if kind == "leave" else (total + 1) // 2
        left = {peer.id for peer in asked}
        given = 1
        refusal: RequestError | None = None

        def conclude() -> None:
            if left:
                return
            error = refusal
            if error is None and given < needed:
                error = RefusedError(
                    f"{given} of {total} members agree, {needed} must: the others cannot be reached",
                    {"needed": needed, "reachable": given},
                    code="unavailable",
                )
            if error is not None:
                self._release(entry.id)
            done(error)

        def answered(id: bytes) -> Callable[[Any, DynafastError | None], None]:
            def take(_result: Any, error: DynafastError | None) -> None:
                nonlocal given, refusal
                left.discard(id)
                if error is None:
                    given += 1
                elif isinstance(error, RequestError):
                    refusal = refusal or error
                conclude()

            return take

        if not asked:
            conclude()
        for peer in asked:
            node.call(peer, Op.PERMIT, [kind, entry.id, True], PERMIT_MS, answered(peer.id))

    def _release(self, subject: bytes) -> None:
        try:
            self._keep_permit(None)
        except StoreError as error:  # it lapses
            self.node.trace("store.refused", what="permit", error=str(error))
        for peer in self.node.linked_peers():
            self.node.call(peer, Op.PERMIT, ["leave", subject, False], PERMIT_MS, lambda _result, _error: None)

    def _permit_asked(self, connection: "Connection", id: int, fields: list[Any]) -> None:
        """PERMIT [kind, node id, whether to give it (else it is given back)] -> true."""
        match fields:
            case [("leave" | "remove" | "replace") as kind, subject, bool(give)] if is_node_id(subject):
                pass
            case _:
                raise PeerProtocolError("PERMIT must be [kind, node id, whether to give it]")
        if not give:
            if self._permit == (connection.peer, subject):
                self._keep_permit(None)
            connection.reply(id, True)
            return
        self._grant(connection.peer, kind, subject)
        self.node.after_flush(lambda: connection.reply(id, True))

    def _grant(self, asker: bytes, kind: str, subject: bytes) -> None:
        """Give a permit, or raise RefusedError."""
        node = self.node
        self.tick(node.now_ns)
        entry = node.own if subject == node.own.id else node.membership.entries.get(subject)
        if self._permit not in (None, (asker, subject)):
            raise RefusedError("another change of the members is under way: try again", code="change-in-progress")
        if entry is None or not entry.member:
            if kind == "leave":
                raise RefusedError("the node is not known everywhere yet: try again", code="change-in-progress")
            return
        if kind != "leave":
            peer = node.peers[subject]
            if subject == node.own.id or (
                asker != node.own.id and peer.link is not None and node.now_ns - peer.heard_ns < HEARD_NS
            ):
                raise RefusedError(
                    f"{entry.name} answers {node.own.name}: let it leave", {"name": entry.name}, code="alive"
                )
        if kind != "replace":
            self._check_hosts(entry)
        self._keep_permit((asker, subject))

    def _keep_permit(self, permit: tuple[bytes, bytes] | None) -> None:
        if permit != self._permit:
            batch = Batch()
            identity.put_permit(batch, None if permit is None else b"".join(permit))
            try:
                self.node.write(batch)
            except StoreError as error:
                if permit is not None:
                    raise
                self.node.trace("store.refused", what="permit", error=str(error))  # after a restart it lapses anew
        self._permit = permit
        self._until_ns = self.node.now_ns + PERMIT_NS


def _little_known(name: str) -> RefusedError:
    return RefusedError(
        f"{name} has gone, but too few of the other members have said that they know: ask again",
        {"name": name},
        code="unavailable",
    )


def _fail(connection: "Connection", id: int, error: DynafastError) -> None:
    if isinstance(error, RequestError):
        connection.fail(id, error.code, str(error), error.details)
    else:
        connection.fail(id, "unreachable", str(error), {})
