"""What administrators do, in the middle of everything: by requests to any node, as our command line does."""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from dynafast._ext.codec import FrameReader, frame
from dynafast._ext.wires import End
from dynafast.core import identity
from dynafast.core.membership import Entry
from dynafast.protocol import Op
from dynafast.sim.disk import Disk
from dynafast.sim.faults import a_host, a_while
from dynafast.sim.registry import fault
from dynafast.sim.world import SECOND

if TYPE_CHECKING:
    from dynafast.sim.host import Host
    from dynafast.sim.run import Simulation

ANSWER_NS = 10 * SECOND
AGAIN_NS = SECOND
TIDY_NS = 5 * SECOND
HUNG_NS = 4 * SECOND  # less than the most patient clients wait
MORE_NODES = 3  # than at the start
FINAL = frozenset({"too-few-hosts", "would-lose", "unknown-node", "leaving"})  # refusals that stay
_HELLO = frame([int(Op.HELLO), 0, {"version": 1, "role": "client"}])

Done = Callable[[list[Any] | None], None]


class Errand:
    """One request to one node; ``done(answer or None)`` is called once."""

    def __init__(self, sim: "Simulation", at: "Host", op: Op, fields: list[Any], done: Done) -> None:
        self.place = "operator"
        self._sim = sim
        self._done: Done | None = done
        self._reader = FrameReader()
        self._message = frame([int(op), 1, *fields])
        sim.network.connect(self, at.name, at.listening, self._connected)
        sim.world.after(ANSWER_NS, self._end, None)

    def _end(self, answer: list[Any] | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(answer)

    def _connected(self, end: End | None) -> None:
        if end is None:
            self._end(None)
        else:
            self._sim.network.send(end, _HELLO + self._message)

    def accepted(self, end: End) -> None:
        """See `Owner`; nobody connects to an operator."""

    def received(self, end: End, data: bytes) -> None:
        """See `Owner`."""
        for message in self._reader.feed(data):
            if message[0] != Op.HELLO:
                self._sim.network.close(end)
                self._end(message)
                return

    def ended(self, end: End) -> None:  # noqa: ARG002 - the protocol has it
        """See `Owner`."""
        self._end(None)


def told(answer: list[Any] | None) -> str:
    """Return how an errand ended: ``ok``, the code of a refusal, or ``silent``."""
    if answer is None:
        return "silent"
    return "ok" if answer[0] == Op.OK else str(answer[2])


@fault("operators")
def join(sim: "Simulation", rng: Random) -> str | None:
    """Let a new node enter."""
    if len(sim.hosts) >= sim.options.nodes + MORE_NODES or len(sim.changing) >= sim.options.most_changes:
        return None
    host = sim.make_host(rng.choice([1, 1, 1, 2]))
    sim.begin_change(host)
    enter(sim, host, None, change=host)
    return host.name


@fault("operators")
def leave(sim: "Simulation", rng: Random) -> str | None:
    """Let a node leave."""
    host, at = a_host(sim, rng), a_host(sim, rng)
    if host is None or at is None or not sim.begin_change(host):
        return None

    def done(answer: list[Any] | None) -> None:
        sim.world.trace(f"leave {host.name} {told(answer)}")
        sim.end_change(host)

    Errand(sim, at, Op.LEAVE, [host.name], done)
    return f"{host.name} at {at.name}"


@fault("operators")
def weight(sim: "Simulation", rng: Random) -> str | None:
    """Give a node another weight."""
    host, at = a_host(sim, rng), a_host(sim, rng)
    if host is None or at is None or not sim.begin_change(host):
        return None
    value = rng.randint(1, 3)
    Errand(sim, at, Op.WEIGHT, [host.name, value], lambda _answer: sim.end_change(host))
    return f"{host.name} {value} at {at.name}"


@fault("operators")
def reweigh(sim: "Simulation", rng: Random) -> str | None:
    """Give all nodes new weights at once; what one of the two that get the least sends the other hangs meanwhile."""
    running = [host for host in sim.hosts if host.process is not None and not host.process.paused]
    if len(running) < MORE_NODES or len(sim.changing) >= sim.options.most_changes:
        return None
    one, two = rng.sample(running, 2)
    for end in list(sim.network.ends.values()):
        if (end.owner.place, end.far.owner.place) == (one.name, two.name) and not end.clogged:
            sim.network.clog(end)
            sim.heal_later(HUNG_NS, partial(sim.network.unclog, end))
    for host in running:
        if sim.begin_change(host):
            value = 1 if host in (one, two) else rng.randint(3, 5)
            Errand(sim, rng.choice(running), Op.WEIGHT, [host.name, value], partial(_reweighed, sim, host))
    return f"least {one.name} {two.name}"


def _reweighed(sim: "Simulation", host: "Host", _answer: list[Any] | None) -> None:
    sim.end_change(host)


@fault("operators")
def remove(sim: "Simulation", rng: Random) -> str | None:
    """Let a machine die for good, and remove its node; perhaps it turns up again."""
    host = a_host(sim, rng)
    if host is None or not sim.budget.allows_death(host) or not sim.begin_change(host):
        return None
    sim.budget.strike(host)
    host.kill()
    host.counts, host.doomed = False, True
    back_ns = a_while(rng) if rng.random() < 0.5 else None

    def ask() -> None:
        others = [other for other in sim.hosts if other.process is not None]
        if others:
            Errand(sim, rng.choice(others), Op.REMOVE, [host.name, False], done)
        else:
            sim.world.after(AGAIN_NS, ask)

    def done(answer: list[Any] | None) -> None:
        outcome = told(answer)
        sim.world.trace(f"remove {host.name} {outcome}")
        if outcome == "ok":
            sim.forget(host)
            sim.end_change(host)
            if back_ns is not None:
                sim.world.after(back_ns, host.start)
        elif outcome in FINAL:
            host.counts, host.doomed = True, False
            sim.restart(host)
            sim.end_change(host)
        else:
            sim.world.after(AGAIN_NS, ask)

    ask()
    return host.name


@fault("operators")
def replace(sim: "Simulation", rng: Random) -> str | None:
    """Let a machine die for good, and another take its place."""
    host = a_host(sim, rng)
    if host is None or not sim.budget.allows_death(host) or not sim.begin_change(host):
        return None
    sim.budget.strike(host)
    host.kill()
    host.counts = False
    sim.forget(host)
    heir = sim.make_host(1)
    enter(sim, heir, host.name, change=host)
    return f"{host.name} by {heir.name}"


@fault("nodes")
def wipe(sim: "Simulation", rng: Random) -> str | None:
    """Let a machine lose its disk; it comes back as a new node that replaces the old one."""
    host = a_host(sim, rng)
    if host is None or not sim.budget.allows_death(host) or not sim.begin_change(host):
        return None
    sim.budget.strike(host)
    host.kill()
    start_over(sim, host)
    return host.name


@fault("nodes")
def backup(sim: "Simulation", rng: Random) -> str | None:
    """Keep a copy of a disk, or put one back: the node that starts from it must find that out."""
    host = a_host(sim, rng)
    if host is None or host.process is None:
        return None
    kept = host.copy
    if kept is None or kept[0] != host.process.id or rng.random() < 0.3:
        host.copy = host.process.id, host.disk.copy()
        return f"of {host.name}"
    starts = host.disk.boot - kept[1].boot  # since the copy was made
    same = host.node.replica.round == identity.load_round(kept[1]) and (
        starts == 0 or (starts == 1 and _begins_alike(host.node.own, kept[1]))
    )
    if not same and (starts == 0 or not _known_life(sim, host, kept[1].boot + 2)):
        return None  # the entry of the life that was heard of may be the new one's, byte for byte
    if not sim.budget.allows_death(host) or not sim.begin_change(host):
        return None
    sim.budget.strike(host)
    host.kill()
    sim.lost_data_ns = sim.world.now
    if same:
        sim.tail_lost(everywhere=True)  # nobody can tell this from a restart
        sim.end_change(host)
    else:
        host.counts = False  # it is found out, and must start over
    host.disk, host.copy = kept[1], None
    host.start()
    return f"put back on {host.name}"


def _begins_alike(own: Entry, copy: Disk) -> bool:
    """Whether a node that starts from a copy has the very entry that it has now."""
    last = next(entry for entry in identity.load_entries(copy) if entry.id == own.id)
    begun = {**last.to_wire(), "address": own.address, "generation": own.generation, "version": 1}
    return Entry.from_wire(begun) == own


def _known_life(sim: "Simulation", host: "Host", generation: int) -> bool:
    """Whether another machine has heard of that life of a machine's node, or of a later one."""
    entries = [
        other.node.membership.entries.get(host.id)
        for other in sim.hosts
        if other is not host and other.process is not None
    ]
    return any(entry is not None and entry.generation >= generation for entry in entries)


def tidy(sim: "Simulation") -> None:
    """Bring what operators believe and what the members are together again.

    Who was told of a removal may have died before it told others: it is asked for once more. Or a name was taken for
    that of an earlier node, which was removed already: then the machine that turned up again has stayed a member, or
    there are two members of one name, of which one runs nowhere.
    """
    at = next((host for host in sim.hosts if host.process is not None), None)
    if at is not None and not sim.changing:
        running = {host.process.id: host for host in sim.every_host if host.process is not None}
        ids = {host.id for host in sim.hosts}
        for entry in at.node.membership.members():
            if entry.id in ids:
                continue
            host = running.get(entry.id)
            if host is None:
                Errand(sim, at, Op.REMOVE, [entry.id.hex(), False], lambda _answer: None)
            else:
                host.counts, host.doomed = True, False
                sim.welcome(host)
    sim.world.after(TIDY_NS, tidy, sim)


def start_over(sim: "Simulation", host: "Host") -> None:
    """Let a machine enter anew with an empty disk, in the place of its old node."""
    sim.lost_data_ns = sim.world.now
    host.counts = False
    host.wipe()
    enter(sim, host, host.name, change=host)


def enter(sim: "Simulation", host: "Host", replaced: str | None, *, change: "Host") -> None:
    """Let a machine join until it is let in, which ends a change."""

    def done(code: str | None) -> None:
        sim.world.trace(f"join {host.name} {code or 'ok'}")
        if code is None:
            host.counts = True
            sim.welcome(host)
            sim.end_change(change)
        else:
            sim.world.after(AGAIN_NS, again)

    def again() -> None:
        seeds = [other.address for other in sim.hosts if other.process is not None and other is not host]
        if seeds:
            host.join(seeds, done, replace=replaced)
        else:
            sim.world.after(AGAIN_NS, again)

    again()
