"""Compares the replicas of every partition on the running cluster, for `dynafast check`.

Clean is: every target of every partition answers, serves a seat of it, has the same root as the others, and no member
has a hint waiting. Writes on their way make roots differ for a moment, and a tree may still be building; so what is
not clean is asked again, until a partition was seen clean once or the time is over.
"""

from typing import TYPE_CHECKING, Any

from dynafast.core.machine import Answering, Machine
from dynafast.core.repairs import roots_of
from dynafast.errors import DynafastError, OverloadedError, PeerProtocolError
from dynafast.protocol import Op, is_uint

if TYPE_CHECKING:
    from collections.abc import Callable

    from dynafast._ext.connection import Connection
    from dynafast._ext.view import Peer
    from dynafast.core.node import Node

TIME_NS = 8_000_000_000  # of the 10 s that the answer may take
ANSWER_MS = 2_000
AGAIN_NS = 250_000_000
ROOTS_MAX = 1024  # partitions in one message
CHECKS_MAX = 16  # at once


class Check:
    """One comparison under way."""

    def __init__(self, node: "Node", until_ns: int, reply: "Callable[[object], None]") -> None:
        self.node = node
        self.until_ns = until_ns
        self.reply = reply
        self.next_ns = 0  # when to ask again; 0: answers are awaited
        self.unclean = set(range(node.facts.partitions))
        self.unreachable: set[str] = set()  # as of the last time that all had answered, or had not; so below
        self.hints = 0
        self._awaited = 0
        self._failed: set[str] = set()
        self._counted = 0
        self._seen: dict[int, list[tuple[int | None, int]]] = {}  # partition -> what its targets answered
        self.ask()

    @property
    def clean(self) -> bool:
        """Whether nothing is left to be found fault with."""
        return not (self.unclean or self.unreachable or self.hints)

    def result(self) -> dict[str, object]:
        """Return what is answered."""
        return {
            "partitions": self.node.facts.partitions,
            "divergent": sorted(self.unclean),
            "unreachable": sorted(self.unreachable),
            "hints": self.hints,
        }

    def ask(self) -> None:
        """Ask every member for its hints, and every target for the roots of what is not clean yet."""
        node = self.node
        self.next_ns = 0
        self._seen, self._failed, self._counted = {}, set(), 0
        by_target: dict[bytes, list[int]] = {}
        for partition in sorted(self.unclean):
            for target in node.targets(partition):
                by_target.setdefault(target, []).append(partition)
        self._awaited = 1  # this method itself
        for entry in node.membership.members():
            partitions = by_target.get(entry.id, [])
            if entry.id == node.own.id:
                self._saw(partitions, [(node.replica.root(p), node.coordinator.view.own[p]) for p in partitions])
                self._counted += sum(count for count, _ in node.replica.hinted.values())
                continue
            peer = node.peers[entry.id]
            for first in range(0, len(partitions), ROOTS_MAX):
                self._ask_roots(peer, partitions[first : first + ROOTS_MAX])
            self._ask_hints(peer)
        self._came()

    def _ask_roots(self, peer: "Peer", partitions: list[int]) -> None:
        def take(result: object) -> None:
            self._saw(partitions, roots_of(result, len(partitions)))

        self._call(peer, Op.ROOTS, [partitions], take)

    def _ask_hints(self, peer: "Peer") -> None:
        def take(result: object) -> None:
            match result:
                case {"hints": [*rows]}:
                    self._counted += sum(_count(row) for row in rows)
                case _:
                    raise PeerProtocolError("an answer to STATUS must list hints")

        self._call(peer, Op.STATUS, [None], take)

    def _call(self, peer: "Peer", op: Op, fields: list[Any], take: "Callable[[object], None]") -> None:
        self._awaited += 1

        def done(result: Any, error: DynafastError | None) -> None:
            try:
                if error is not None:
                    raise error
                take(result)
            except DynafastError:
                self._failed.add(peer.name)
            self._came()

        self.node.call(peer, op, fields, ANSWER_MS, done)

    def _saw(self, partitions: list[int], answers: list[tuple[int | None, int]]) -> None:
        for partition, answer in zip(partitions, answers, strict=True):
            self._seen.setdefault(partition, []).append(answer)

    def _came(self) -> None:
        """An answer is there, or will not come. With the last one, see what is clean."""
        self._awaited -= 1
        if self._awaited:
            return
        self.unreachable, self.hints = self._failed, self._counted
        for partition in sorted(self.unclean):
            answers = self._seen.get(partition, [])
            roots = {root for root, _ in answers}
            seated = all(seats for _, seats in answers)
            if len(answers) == len(self.node.targets(partition)) and seated and len(roots) == 1 and None not in roots:
                self.unclean.discard(partition)
        self.next_ns = self.node.now_ns + AGAIN_NS


def _count(row: object) -> int:
    match row:
        case {"count": count} if is_uint(count):
            return count
    raise PeerProtocolError("hints in an answer to STATUS must have a count")


class Checks(Machine):
    """Answers CHECK."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._checks: list[Check] = []

    def ops(self) -> dict[Op, tuple[int, Answering]]:
        """See `Machine`."""
        return {Op.CHECK: (0, self._check)}

    def tick(self, now_ns: int) -> None:
        """Answer the checks that are clean or whose time is over, and ask again for the rest."""
        if not self._checks:
            return
        going: list[Check] = []
        for check in self._checks:
            if (check.next_ns and check.clean) or now_ns >= check.until_ns:
                check.reply(check.result())
                continue
            if check.next_ns and now_ns >= check.next_ns:
                check.ask()
            going.append(check)
        self._checks = going

    def _check(self, connection: "Connection", id: int, _fields: list[Any]) -> None:
        if len(self._checks) >= CHECKS_MAX:
            raise OverloadedError("too many checks are under way", {"retry_after_ms": 1000})
        until_ns = self.node.now_ns + TIME_NS
        self._checks.append(Check(self.node, until_ns, lambda result: connection.reply(id, result)))
