"""A target without a seat pulls its partitions, and takes a seat of each when it is given one.

The way of one partition: its range is emptied (left-overs are nobody's history), pulled page by page with a durable
cursor from whoever serves it, compared by trees until little differs, then its owner is asked for a seat. The owner
stops serving before it answers; what it still has got until then is taken by one more comparison, which begins after
the gift. Only then, and after a flush, this node serves the seat. From a removed node the seat is claimed instead
(`dynafast.core.claiming`), and the last comparison is with everybody who keeps anything of the partition.

Writes meanwhile reach both sides: the owner counts, this node gets an extra copy. Every question has a deadline, work
is paced by admission, and what waits says why (`figures`).
"""

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from dynafast._ext.replica import MODE_GIVEN, MODE_NONE, MODE_PULLED
from dynafast.core import identity
from dynafast.core.claiming import CONSENT_NS, WaitError, claim
from dynafast.core.comparing import NotReadyError, Passed, catch_up, pull
from dynafast.core.errands import ANSWER_MS, Ask, Errand, Errands
from dynafast.core.identity import ClusterFacts
from dynafast.core.machine import Machine
from dynafast.core.repairs import roots_of
from dynafast.core.seats import Seat
from dynafast.errors import CorruptRecordError, DynafastError, PeerProtocolError, StoreError
from dynafast.protocol import Op, Status, is_uint
from dynafast.storage.interface import Batch

if TYPE_CHECKING:
    from dynafast._ext.view import Peer
    from dynafast.core.node import Node

LOOK_NS = 20_000_000
RETRY_MIN_NS = 100_000_000
RETRY_MAX_NS = 2_000_000_000
VACANT_NS = 15_000_000_000  # a seat that no entry names is taken for lost after this: news has come by then
ERRANDS_MAX = 8
BEGIN_MAX = 16  # partitions emptied in one turn
BEGIN_OPS_MAX = 64  # written with that, if many records are kept for others
GATHER_NS = 500_000_000  # partitions that are ready within so long, while others are pulled, get their seats together
TOGETHER_MAX = 256  # partitions in one message
SMALL = 64  # a comparison that took fewer records was small enough to ask for the seat
SHOWN_MAX = 100  # transfers in `figures`
PULLED_ALL = b"\xff" * 9  # the cursor of a pull that is over


class Stage(Enum):
    """Where a partition is on its way. Values are what ``status`` says."""

    BEGIN = "begins"
    CHECK = "roots are compared"
    PULL = "pulls"
    ASK = "waits for a seat"
    CONFIRM = "asks for consent"
    DONE = "takes its seat"


class Task:
    """One partition on its way to this node."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.stage = Stage.BEGIN
        self.busy = False  # a conversation about it is under way
        self.retry_ns = 0
        self.pause_ns = RETRY_MIN_NS
        self.reason: str | None = None  # why it waits
        self.whole = True  # it must be pulled as a whole, from its cursor on
        self.source: bytes | None = None
        self.gift: Seat | None = None  # the seat that is ours after the last comparison
        self.giver: bytes | None = None  # who gave it; None: it is claimed
        self.consent_ns = 0  # when the consents to a claim were asked for last
        self.claimed: Seat | None = None  # the seat that others were asked to let us have
        self.rest: list[bytes] = []  # those to compare with before it is taken
        self.passed = Passed()


class Taking(Machine):
    """Pulls what this node should serve, and takes the seats."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._tasks: dict[int, Task] = {}
        self._errands = Errands(node, ERRANDS_MAX)
        self._talks = Errands(node, ERRANDS_MAX, urgent=True)  # short ones: no pull holds up a seat
        self._checking: set[bytes] = set()  # peers that are asked for roots
        self._asking: set[bytes] = set()  # peers that are asked for seats
        self._next_ns = 0
        self._ask_ns = 0  # not before this, while partitions are pulled
        self._steps = (  # in this order: a task may take several in one tick
            (Stage.BEGIN, self._begin),
            (Stage.CHECK, self._check),
            (Stage.PULL, self._pull),
            (Stage.ASK, self._ask),
            (Stage.CONFIRM, self._confirm),
            (Stage.DONE, self._finish),
        )
        self._vacant_ns: dict[int, int] = {}  # partition -> since when a seat of it is nobody's
        self.changed(set(range(node.facts.partitions)))

    def busy(self, partition: int) -> bool:
        """Whether a partition is on its way to this node."""
        return partition in self._tasks

    @property
    def count(self) -> int:
        """How many partitions are on their way to this node."""
        return len(self._tasks)

    def changed(self, partitions: set[int]) -> None:
        """Begin with what this node should serve now, and stop what it should not."""
        for partition in sorted(partitions):
            task = self._tasks.get(partition)
            if not self._wanted(partition, task):
                if task is not None and not task.busy:
                    self._give_up(task)
            elif task is None:
                self._tasks[partition] = Task(partition)
            elif task.giver is not None and not self._is_member(task.giver):
                self._restart(task)  # what it has not compared with its giver is lost: a seat to be claimed
            elif task.gift is not None and self._is_taken(task.gift):
                self._restart(task)
            elif not all(map(self._is_member, task.rest)):
                self._restart(task)  # one to compare with has been removed: its seats are lost too

    def tick(self, now_ns: int) -> None:
        """Move every partition on by a step, if it can."""
        self._errands.tick()
        if now_ns < self._next_ns:
            return
        self._next_ns = now_ns + LOOK_NS
        self._come_up()
        for partition in self.node.given:  # few, and mostly none
            if partition not in self._tasks and self._given_back(partition) is not None:
                self._tasks[partition] = Task(partition)
        if not self._tasks:
            return
        due = [self._tasks[partition] for partition in sorted(self._tasks)]
        for task in [task for task in due if not task.busy and not self._wanted(task.partition, task)]:
            self._give_up(task)
        self._move_on([task for task in due if task.partition in self._tasks])

    def _move_on(self, tasks: list[Task]) -> None:
        due = [task for task in tasks if not task.busy and task.retry_ns <= self.node.now_ns]
        for stage, step in self._steps if due else ():
            ready = [task for task in due if task.stage is stage]
            if ready:
                step(ready)

    def remind(self, giver: bytes, gifts: list[Seat]) -> None:
        """Take seats that were given to us: the answer that said so was lost, or forgotten in a crash."""
        for gift in gifts:
            task = self._tasks.get(gift.partition)
            if self._is_taken(gift) or not self._is_member(giver) or (task and (task.busy or task.gift is not None)):
                continue
            if task is None:
                task = self._tasks[gift.partition] = Task(gift.partition)
            task.gift, task.giver, task.rest = gift, giver, [giver]
            if task.stage is not Stage.BEGIN:
                self._go_on(task, Stage.CHECK)

    def figures(self) -> dict[str, object]:
        """What `status` shows: the transfers to this node, the first hundred, and how many there are."""
        node = self.node
        rows = []
        for partition in sorted(self._tasks)[:SHOWN_MAX]:
            task = self._tasks[partition]
            source = node.membership.entries.get(task.source) if task.source is not None else None
            share = task.passed.share if task.whole else 1.0
            rows.append(
                {
                    "partition": partition,
                    "from": None if source is None else source.name,
                    "progress": int(100 * share),
                    "waiting": task.reason or (None if task.busy else task.stage.value),
                }
            )
        return {"transfers": rows, "moving": len(self._tasks)}

    # ---- what is wanted

    def _wanted(self, partition: int, task: Task | None) -> bool:
        node = self.node
        if task is not None and task.gift is not None and task.giver is not None:
            return True  # a seat that was given is taken, whoever is a target by now
        if self._given_back(partition) is not None:
            return True
        if node.seats.serves(node.own.id, partition):
            lost = partition in node.seats.lost and self._lost_seat(partition) is not None
            return lost or self._giver(partition) is not None
        return node.own.id in node.targets(partition)

    def _given_back(self, partition: int) -> Seat | None:
        """Return the seat that this node gave to one that has gone before it took it."""
        for seat, (to, k) in sorted(self.node.given.get(partition, {}).items()):
            if not self._is_member(to):
                return Seat(partition, seat, k + 1)
        return None

    def _giver(self, partition: int) -> bytes | None:
        """Return whom this node, a target, may ask for a seat.

        If there are fewer targets than seats, one that has a seat takes those of a leaving node too: who else would?
        """
        node, seats = self.node, self.node.seats
        targets = node.targets(partition)
        if not seats.serves(node.own.id, partition):
            return seats.giver(partition, node.own.id, targets)
        if len(targets) < node.facts.replicas and node.own.id in targets:
            for _, owner in sorted(seats.owners[partition].items()):
                entry = node.membership.entries.get(owner.node)
                if entry is not None and entry.status is Status.LEAVING:
                    return owner.node if all(seats.serves(id, partition) for id in targets) else None
        return None

    def _lost_seat(self, partition: int) -> Seat | None:
        """Return the seat of a removed node that is ours to claim: each target without a seat has its own.

        What is left when there are fewer targets than seats is shared out too: else those seats would be nobody's.
        """
        node = self.node
        back = self._given_back(partition)
        if back is not None:
            return back
        lost = sorted({**node.seats.lost.get(partition, {}), **self._vacant(partition)}.items())
        targets = node.targets(partition)
        heirs = [id for id in targets if not node.seats.serves(id, partition)]
        if len(targets) < node.facts.replicas:
            heirs += targets * len(lost)
        shares = zip(lost, heirs, strict=False)
        return next((Seat(partition, seat, k + 1) for (seat, k), id in shares if id == node.own.id), None)

    def _vacant(self, partition: int) -> dict[int, int]:
        """Return the seats that have been nobody's for so long that their last owner must be lost."""
        vacant = self.node.seats.vacant(partition)
        if not vacant:
            self._vacant_ns.pop(partition, None)
            return {}
        since_ns = self._vacant_ns.setdefault(partition, self.node.now_ns)
        return vacant if self.node.now_ns - since_ns >= VACANT_NS else {}

    def _is_member(self, id: bytes) -> bool:
        entry = self.node.membership.entries.get(id)
        return entry is not None and entry.member

    def _is_taken(self, gift: Seat) -> bool:
        owner = self.node.seats.owners[gift.partition].get(gift.seat)
        return owner is not None and owner.k >= gift.k

    def _give_up(self, task: Task) -> None:
        """This partition is not for us any more: a seat of it that we claim is free for others."""
        del self._tasks[task.partition]
        if task.claimed is not None:
            self._release(task.claimed)

    def _release(self, claimed: Seat) -> None:
        """Take a claim back."""
        node, (partition, seat, _) = self.node, claimed
        for id in sorted({*node.seats.holders(partition), *node.targets(partition)} - {node.own.id}):
            if node.peers[id].link is not None:
                node.call(node.peers[id], Op.CLAIM, [[[partition, seat, 0]]], ANSWER_MS, lambda _result, _error: None)

    def _restart(self, task: Task) -> None:
        task.gift = task.giver = task.source = None
        task.rest = []
        task.stage = Stage.CHECK if task.stage is not Stage.BEGIN else Stage.BEGIN

    def _come_up(self) -> None:
        if self.node.own.status is Status.JOINING and not self._tasks:
            self.node.change_own(Batch(), status=Status.UP)

    def _wait(self, task: Task, reason: str) -> None:
        task.reason = reason
        task.retry_ns = self.node.now_ns + task.pause_ns
        task.pause_ns = min(RETRY_MAX_NS, 2 * task.pause_ns)

    def _go_on(self, task: Task, stage: Stage) -> None:
        task.stage = stage
        task.reason = None
        task.retry_ns = 0
        task.pause_ns = RETRY_MIN_NS

    # ---- steps

    def _begin(self, tasks: list[Task]) -> None:
        """Empty the ranges that hold left-overs only, and take what is written from now on as an extra copy."""
        node = self.node
        batch = Batch()
        emptied: list[Task] = []
        for task in tasks[:BEGIN_MAX]:
            if len(batch.ops) >= BEGIN_OPS_MAX:
                break
            partition = task.partition
            mode = node.replica.mode(partition)
            if mode == MODE_NONE:
                clearance = Batch()
                try:
                    node.replica.put_clearance(clearance, partition)
                except CorruptRecordError:  # kept for another node: it is mended first
                    self._wait(task, "a record is damaged")
                    continue
                batch.ops.extend(clearance.ops)
                emptied.append(task)
                continue
            if mode == MODE_PULLED:
                task.whole = node.replica.cursor(partition) != PULLED_ALL
            else:  # what is or was served here is complete, but for the latest
                task.whole = False
            self._go_on(task, Stage.CHECK)
        if emptied:
            node.change_modes(batch, {task.partition: (MODE_PULLED, b"") for task in emptied})
        for task in emptied:
            node.replica.cleared(task.partition)
            self._go_on(task, Stage.CHECK)

    def _check(self, tasks: list[Task]) -> None:
        """Compare roots, many partitions at a time: where they are equal nothing needs to be pulled."""
        by_source: dict[bytes, list[Task]] = {}
        for task in tasks:
            if not all(map(self._is_member, task.rest)):
                self._restart(task)  # one that kept records without a seat has gone: no news of this partition
            if task.gift is not None:
                task.source = task.rest[0]
            else:
                task.source = self._source(task)
            alone = not set(self.node.seats.holders(task.partition)) - {self.node.own.id}
            if task.source is None and alone and self._lost_seat(task.partition) is not None:
                self._go_on(task, Stage.ASK)  # nobody serves it any more, and the loss was accepted
            elif task.source is None:
                self._wait(task, "nobody who serves the partition can be reached")
            elif self.node.peers[task.source].link is None:
                self._wait(task, f"{self.node.peers[task.source].name} cannot be reached")
            else:
                by_source.setdefault(task.source, []).append(task)
        for id, together in sorted(by_source.items()):
            if id in self._checking or self._talks.full:
                continue
            self._checking.add(id)
            chosen = together[:TOGETHER_MAX]
            self._talk(
                self._talks, chosen, self._roots(self.node.peers[id], chosen), partial(self._checking.discard, id)
            )

    def _source(self, task: Task) -> bytes | None:
        """Return whom to compare with: who can give a seat, or else anybody who serves the partition."""
        node = self.node
        giver = self._giver(task.partition)
        order = ([] if giver is None else [giver]) + node.seats.holders(task.partition)
        order += [owner.node for _, owner in sorted(node.seats.moving.get(task.partition, {}).items())]
        usable = [id for id in order if id != node.own.id and node.peers[id].link is not None]
        return next((id for id in usable if not node.peers[id].suspected), usable[0] if usable else None)

    def _roots(self, peer: "Peer", tasks: list[Task]) -> Errand:
        answer = yield Ask(peer, Op.ROOTS, [[task.partition for task in tasks]], 16 * len(tasks))
        for task, (root, _) in zip(tasks, roots_of(answer, len(tasks)), strict=True):
            ours = self.node.replica.root(task.partition)
            if ours is not None and ours == root:
                self._compared(task)
            elif task.whole or (ours is not None and root is not None):
                self._go_on(task, Stage.PULL)
            else:
                self._wait(task, "a tree is being built")

    def _compared(self, task: Task) -> None:
        """This node has everything that the source had when the comparison began."""
        if task.gift is None:
            task.whole = False
            self._go_on(task, Stage.ASK)
            return
        task.rest.pop(0)
        self._go_on(task, Stage.CHECK if task.rest else Stage.CONFIRM if task.giver is None else Stage.DONE)

    def _pull(self, tasks: list[Task]) -> None:
        for task in tasks:
            given = task.giver is not None and not task.whole
            errands = self._talks if given else self._errands
            if errands.full:
                task.reason = "others go first"
                continue
            source = task.source if task.gift is not None or not task.whole else self._spread(task)
            if source is None or self.node.peers[source].link is None:
                self._go_on(task, Stage.CHECK)
                continue
            task.source = source
            task.passed = Passed(share=task.passed.share)
            self._talk(errands, [task], self._one(self.node.peers[source], task))

    def _spread(self, task: Task) -> bytes | None:
        """Return who is asked least among those that serve the partition."""
        pulls = [other.source for other in self._tasks.values() if other.busy and other.stage is Stage.PULL]
        peers = [self.node.peers[id] for id in self.node.seats.holders(task.partition)]
        usable = [peer.id for peer in peers if peer.link is not None and not peer.suspected]
        return min(usable, key=pulls.count, default=task.source)

    def _one(self, peer: "Peer", task: Task) -> Errand:
        node, partition = self.node, task.partition
        whole = task.whole
        if whole:
            cursor = node.replica.cursor(partition) if node.replica.mode(partition) == MODE_PULLED else b""

            def save(after: bytes) -> None:
                if node.replica.mode(partition) == MODE_PULLED:
                    node.change_modes(Batch(), {partition: (MODE_PULLED, after)})

            yield from pull(node, peer, partition, cursor, task.passed, save)
            save(PULLED_ALL)
            task.whole = False
            self._go_on(task, Stage.CHECK)
            return
        yield from catch_up(node, peer, partition, task.passed)
        if task.gift is None and task.passed.merged > SMALL:
            self._go_on(task, Stage.CHECK)
        else:
            self._compared(task)

    def _ask(self, tasks: list[Task]) -> None:
        """Ask owners for seats; claim those of removed nodes.

        Each seat that moves is news for every node of the cluster, so they go together while there is more to come.
        """
        node = self.node
        by_giver: dict[bytes, list[Task]] = {}
        for task in tasks:
            lost = self._lost_seat(task.partition)
            if task.claimed not in (None, lost):
                self._release(task.claimed)  # others have come or gone since: that seat is for them to claim
                task.claimed = None
            giver = self._giver(task.partition)
            if lost is not None:
                if not self._talks.full:
                    self._talk(self._talks, [task], self._claim(task, lost))
            elif giver is None:
                self._wait(task, "no seat is free")
            elif node.peers[giver].link is None:
                self._wait(task, f"{node.peers[giver].name} must give a seat, and cannot be reached")
            else:
                by_giver.setdefault(giver, []).append(task)
        if node.now_ns < self._ask_ns and any(task.stage is Stage.PULL for task in self._tasks.values()):
            return
        self._ask_ns = node.now_ns + GATHER_NS
        for id, together in sorted(by_giver.items()):
            if id not in self._asking and not self._talks.full:
                self._asking.add(id)
                chosen = together[:TOGETHER_MAX]
                self._talk(self._talks, chosen, self._seats(node.peers[id], chosen), partial(self._asking.discard, id))

    def _seats(self, peer: "Peer", tasks: list[Task]) -> Errand:
        answer = yield Ask(peer, Op.GIVE, [[task.partition for task in tasks]], 20 * len(tasks))
        gifts = {seat.partition: seat for seat in reversed(seats_in(answer, self.node.facts))}
        for task in tasks:
            gift = gifts.get(task.partition)
            if gift is None or self._is_taken(gift) or not self._is_member(peer.id):
                self._wait(task, f"{peer.name} has no seat to give yet")
            else:
                task.gift, task.giver, task.rest = gift, peer.id, [peer.id]
                self._go_on(task, Stage.CHECK)

    def _claim(self, task: Task, seat: Seat) -> Errand:
        task.claimed = seat
        keepers = yield from claim(self.node, seat)
        task.gift, task.giver, task.rest = seat, None, keepers
        self._go_on(task, Stage.CHECK if keepers else Stage.CONFIRM)

    def _confirm(self, tasks: list[Task]) -> None:
        """Ask once more before a claimed seat is taken: the consents may have lapsed during a long comparison."""
        for task in tasks:
            if task.gift is not None and not self._talks.full:
                self._talk(self._talks, [task], self._consent(task, task.gift))

    def _consent(self, task: Task, seat: Seat) -> Errand:
        task.consent_ns = self.node.now_ns
        yield from claim(self.node, seat)
        self._go_on(task, Stage.DONE)

    def _finish(self, tasks: list[Task]) -> None:
        """Serve the seats, once what was pulled is on disk."""
        for task in tasks:
            task.busy = True
        self.node.after_flush(lambda: self._take(tasks))

    def _take(self, tasks: list[Task]) -> None:
        node = self.node
        seats = {(seat.partition, seat.seat): seat for seat in node.own_seats()}
        taken: list[Task] = []
        modes: dict[int, tuple[int, bytes]] = {}
        batch, given = Batch(), dict(node.given)
        for task in tasks:
            gift = task.gift
            if gift is None or self._is_taken(gift):
                task.busy = False
                self._restart(task)
                continue
            if task.giver is None and node.now_ns - task.consent_ns > CONSENT_NS:
                task.busy = False
                self._go_on(task, Stage.CONFIRM)
                continue
            seats[gift.partition, gift.seat] = gift
            modes[gift.partition] = (MODE_GIVEN, b"")  # what it is if the seat is ever lost
            taken.append(task)
            if gift.seat in given.get(gift.partition, {}):  # claimed back
                identity.delete_given(batch, gift.partition, gift.seat)
                left = {seat: to for seat, to in given[gift.partition].items() if seat != gift.seat}
                given[gift.partition] = left
        try:
            node.change_own(batch, seats=list(seats.values()), given=given, modes=modes)
        except StoreError as error:  # tried again: what was given to us stays ours
            node.trace("store.refused", what="seats", error=str(error))
            for task in taken:
                task.busy = False
            return
        for task in taken:  # busy until here: as a claim that is given up it would be free for others before they hear
            task.busy = False
            task.claimed = None
            if self._wanted(task.partition, None):
                self._restart(task)
            else:
                del self._tasks[task.partition]
        node.trace("seats.taken", count=len(taken))

    # ---- conversations

    def _talk(
        self, errands: Errands, tasks: list[Task], errand: Errand, then: Callable[[], None] | None = None
    ) -> None:
        for task in tasks:
            task.busy = True
            task.reason = None

        def done(error: DynafastError | None) -> None:
            for task in tasks:
                task.busy = False
                if error is not None:
                    self._failed(task, error)
            if then is not None:
                then()
            # A seat that was given is nobody's until it is taken: nothing of that waits for a tick.
            given = [task for task in tasks if task.giver is not None]
            self._move_on([task for task in given if self._tasks.get(task.partition) is task])

        errands.start(errand, done)

    def _failed(self, task: Task, error: DynafastError) -> None:
        self._wait(task, str(error))
        if isinstance(error, WaitError) and task.stage is Stage.CONFIRM:
            self._restart(task)
        elif task.stage is Stage.PULL and not isinstance(error, NotReadyError):
            task.stage = Stage.CHECK  # perhaps from another source


def seats_in(message: object, facts: ClusterFacts) -> list[Seat]:
    """Return the seats that a message lists.

    Raises:
        PeerProtocolError: it is malformed, or names a seat that the cluster does not have.
    """
    seats = []
    for fields in message if isinstance(message, list) else [None]:
        match fields:
            case [partition, seat, k] if (
                all(map(is_uint, fields)) and partition < facts.partitions and seat < facts.replicas and k < 2**32
            ):
                seats.append(Seat(partition, seat, k))
            case _:
                raise PeerProtocolError("seats must be a list of [partition, seat, k] that the cluster has")
    return seats
