"""A cluster for told stories: no dice but for latencies, and every step is asked for by name.

What is written and read goes into the same histories as in a drawn run, and a story ends with the same checks.
"""

from dataclasses import replace
from typing import Any

from xxhash import xxh3_64_intdigest

from dynafast.protocol import Op
from dynafast.sim import invariants
from dynafast.sim.history import NOTHING, KeyHistory, Kind, Shown, ViolationError
from dynafast.sim.host import Host
from dynafast.sim.operators import Errand, enter, told
from dynafast.sim.options import draw
from dynafast.sim.run import LIVENESS_NS, SETUP_NS, Simulation
from dynafast.sim.world import MS, SECOND, World

ANSWER_NS = 20 * SECOND


class Stage:
    """A cluster and what a story does with it."""

    def __init__(
        self, *, nodes: int = 5, seed: int = 1, partitions: int = 8, plants: frozenset[str] = frozenset()
    ) -> None:
        world = World(seed)
        options = replace(
            draw(world, nodes=nodes, ops=1, faults=()),
            partitions=partitions,
            replicas=3,
            r=2,
            w=2,
            group=True,
            keys=0,
            pieces=0.0,
            latency_us=200,
            jitter_us=100,
            flush_us=500,
        )
        self.world = world
        self.sim = Simulation(seed, options, world, plants=plants)
        self._histories: dict[bytes, KeyHistory] = {}
        self._writes = 0

    # ---- time

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.world.run(self.world.now + int(seconds * SECOND))

    def rest(self) -> None:
        """Wait until nothing is under way and all replicas are equal."""
        sim = self.sim
        sim.wait(lambda: sim.unrest() or invariants.unrest_of_data(sim), LIVENESS_NS, "comes-to-rest")

    def settle(self) -> None:
        """Wait until all nodes are up and linked, and see the same."""
        self.sim.wait(self.sim.unrest, LIVENESS_NS, "comes-to-rest")

    def finish(self) -> None:
        """Start what is down, come to rest, and hold what was acknowledged."""
        self.sim.liveness()

    # ---- who is who

    @property
    def hosts(self) -> list[Host]:
        """The machines of the cluster."""
        return self.sim.hosts

    def holders(self, key: bytes) -> list[Host]:
        """Return the machines that should hold *key*, in preference order; the first node that runs tells."""
        node = next(host.node for host in self.hosts if host.up)
        partition = self.partition(key)
        by_id = {host.node.own.id: host for host in self.hosts if host.up}
        return [by_id[id] for id in node.targets(partition) if id in by_id]

    def others(self, key: bytes) -> list[Host]:
        """Return the machines that run and should not hold *key*."""
        holders = self.holders(key)
        return [host for host in self.hosts if host.up and host not in holders]

    def partition(self, key: bytes) -> int:
        """Return the partition of a key."""
        return int(xxh3_64_intdigest(key)) * self.sim.options.partitions >> 64

    def history(self, key: bytes) -> KeyHistory:
        """Return the history of a key."""
        if key not in self._histories:
            history = KeyHistory(key, Kind.REGISTER, self.sim.facts.cluster, ordered=True)
            self._histories[key] = history
            self.sim.histories.append(history)
            self.sim.place(key)
        return self._histories[key]

    # ---- requests

    def ask(self, host: Host, op: Op, *fields: Any) -> list[Any] | None:
        """Send a request to a node and wait for the answer; None: none came."""
        answers: list[list[Any] | None] = []
        Errand(self.sim, host, op, list(fields), answers.append)
        until = self.world.now + ANSWER_NS
        while not answers and self.world.now < until:
            self.world.run(self.world.now + MS)
        return answers[0] if answers else None

    def get(self, host: Host, key: bytes, **options: object) -> Shown:
        """Read; the read must be answered with ok."""
        history = self.history(key)
        reading = history.begin_read(self.world.now)
        answer = self.ask(host, Op.GET, key, options or None)
        if answer is None or answer[0] != Op.FOUND:
            raise ViolationError("story", f"a get of {key!r} at {host.name} was answered {told(answer)}", history)
        strict = self.sim.is_strict(Op.GET, answer[4])
        return history.end_read(self.world.now, reading, answer[2], answer[3], strict=strict, client="story")

    def put(self, host: Host, key: bytes, value: bytes | None, basis: Shown = NOTHING, **options: object) -> Shown:
        """Write; the write must be answered with ok. None deletes."""
        history = self.history(key)
        self._writes += 1
        id = self._writes.to_bytes(16, "big")
        write = history.begin_write(self.world.now, id, value, basis, overwrite=False, client="story")
        asked_ns = self.world.now
        answer = self.ask(host, Op.PUT, key, value, basis.context, id, options or None)
        if answer is None or answer[0] != Op.WRITTEN:
            raise ViolationError("story", f"a put of {key!r} at {host.name} was answered {told(answer)}", history)
        _, _, dot, _, context, receipt, _, _ = answer
        strict = self.sim.is_strict(Op.PUT, receipt)
        history.acknowledge(self.world.now, write, (dot[0], dot[1]), dot[2], strict=strict)
        self.sim.acknowledged(history, write, receipt, asked_ns)
        return NOTHING if context is None else history.shown([((dot[0], dot[1]), write)], context)

    def fill(self, count: int, *, prefix: bytes = b"fill") -> list[bytes]:
        """Write so many keys and return them."""
        keys = [b"%s-%d" % (prefix, number) for number in range(count)]
        for number, key in enumerate(keys):
            running = [host for host in self.hosts if host.up]
            self.put(running[number % len(running)], key, b"value of " + key)
        return keys

    # ---- machines

    def join(self, *, replaced: str | None = None) -> Host:
        """Let a new machine begin to enter."""
        host = self.sim.make_host()
        self.sim.begin_change(host)
        enter(self.sim, host, replaced, change=host)
        return host

    def join_at(self, address: str) -> Host:
        """Let a new machine begin to enter through that node, which need not be there yet."""
        host = self.sim.make_host()

        def done(code: str | None) -> None:
            if code is None:
                self.sim.welcome(host)
            else:
                host.join([address], done)

        host.join([address], done)
        return host

    def operate(self, host: Host, op: Op, *fields: Any, tries: int = 30) -> list[Any]:
        """Ask for a change of members until it is accepted."""
        answer: list[Any] | None = None
        for _ in range(tries):
            answer = self.ask(host, op, *fields)
            if answer is not None and answer[0] == Op.OK:
                return answer
            self.wait(1)
        raise ViolationError("story", f"{op.name} {fields} at {host.name} was answered {answer}")

    def until(self, condition: Any, what: str, limit_ns: int = SETUP_NS) -> None:
        """Wait for a condition."""
        self.sim.wait(lambda: None if condition() else what, limit_ns, "story")

    def expect(self, truth: object, what: str) -> None:
        """Hold a story to what it says."""
        if not truth:
            raise ViolationError("story", what)
