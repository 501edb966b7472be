"""Writes that go on while the members change, and what must be true of a cluster when it has come to rest."""

from typing import Any

from dynafast.core.dropping import Dropping
from dynafast.core.seats import Seat
from dynafast.core.taking import Taking
from dynafast.protocol import Op, Status
from dynafast.storage.interface import Family
from tests.core.harness import Cluster, Member, Pipe


class Load:
    """One client that puts new keys, one after another, through the members it is told of."""

    def __init__(self, cluster: Cluster, *, size: int = 20, every: int = 1) -> None:
        self.cluster = cluster
        self.acked: dict[bytes, bytes] = {}
        self.failed: list[list[Any]] = []
        self._size, self._every = size, every
        self._pipes: dict[str, Pipe] = {}
        self._asked: dict[int, tuple[bytes, bytes]] = {}
        self._turn = self._next = 0

    def put(self, through: Member) -> None:
        """Send one put of a new key."""
        pipe = self._pipes.get(through.name)
        if pipe is None or pipe.connection.lost or pipe.member.node is not through.node:
            pipe = self._pipes[through.name] = Pipe(through)
            pipe.hello()
        self._next += 1
        key = b"key %d" % self._next
        value = key.ljust(self._size, b".")
        self._asked[self._next] = (key, value)
        pipe.send([Op.PUT, self._next, key, value, None, b"%016d" % self._next, {}])
        self.collect()

    def collect(self) -> None:
        """Take the answers that have come."""
        for pipe in self._pipes.values():
            for answer in pipe.answers():
                if answer[0] == Op.WRITTEN:
                    key, value = self._asked[answer[1]]
                    self.acked[key] = value
                elif answer[0] == Op.ERROR:
                    self.failed.append(answer)

    def run(self, condition: Any, *, limit_ms: int = 60_000, members: list[Member] | None = None) -> None:
        """Write through live members in turn until the condition is true."""

        def step() -> bool:
            live = [
                member
                for member in members or self.cluster.members
                if member.up and member.node.ended is None and member.node.own.status is Status.UP
            ]
            if self._turn % self._every == 0 and live:
                self.put(live[self._turn // self._every % len(live)])
            self._turn += 1
            self.collect()
            return bool(condition())

        self.cluster.run_until(step, limit_ms=limit_ms)

    def fill(self, count: int) -> None:
        """Write *count* keys and await their answers."""
        for number in range(count):
            self.put(self.cluster.members[number % len(self.cluster.members)])
            if number % 20 == 0:
                self.cluster.step()
        self.cluster.run_until(self._all_answered)
        assert not self.failed

    def _all_answered(self) -> bool:
        self.collect()
        return len(self.acked) + len(self.failed) == self._next


def present(cluster: Cluster) -> list[Member]:
    return [member for member in cluster.members if member.up and member.node.ended is None]


def at_rest(cluster: Cluster) -> bool:
    """Whether every seat is where it should be, by everybody's view, and nobody has anything to move or to drop."""
    members = present(cluster)
    for member in members:
        node = member.node
        if node.machine(Taking).count or node.machine(Dropping).count or node.given or node.seats.moving:
            return False
        if node.own.status is not Status.UP or len(node.membership.members()) != len(members):
            return False
        for partition in range(cluster.facts.partitions):
            if set(node.seats.holders(partition)) != set(node.targets(partition)):
                return False
    return True


def check_one_owner(cluster: Cluster) -> None:
    """No seat is served by two nodes, as they state it themselves; one that was removed counts for nobody."""
    found: dict[tuple[int, int], str] = {}
    gone = {
        entry.id
        for member in present(cluster)
        for entry in member.node.membership.entries.values()
        if entry.status is Status.REMOVED
    }
    for member in present(cluster):
        if member.node.own.id in gone:
            continue
        own = member.node.coordinator.view.own
        for partition in range(cluster.facts.partitions):
            for seat in range(cluster.facts.replicas):
                if own[partition] >> seat & 1:
                    assert (partition, seat) not in found, (found[partition, seat], member.name, partition, seat)
                    found[partition, seat] = member.name


def check_nothing_lost(cluster: Cluster, load: Load, *, copies: int | None = None) -> None:
    """Every acknowledged value is in every seat of its partition (or *copies* of them), and nowhere else."""
    members = present(cluster)
    for key, value in sorted(load.acked.items()):
        holders = [member for member in members if _holds(member, key, value)]
        partition = _partition(cluster, key)
        seated = [member for member in members if member.node.coordinator.view.own[partition]]
        assert {member.name for member in holders} <= {member.name for member in seated} or any(
            member.node.replica.hinted for member in members
        ), key
        needed = len(seated) if copies is None else copies
        assert sum(member in holders for member in seated) >= needed, (key, [member.name for member in holders])


def check_nothing_left_over(cluster: Cluster) -> None:
    """What a store holds is of a partition that its node serves, or is kept for another node."""
    for member in present(cluster):
        for object_key, _ in member.store.scan(Family.OBJECTS, b"", None, limit=1_000_000):
            partition = member.node.partition_of(object_key)
            assert member.node.coordinator.view.own[partition] or member.node.replica.hint_targets(object_key), (
                member.name,
                partition,
            )


def _partition(cluster: Cluster, key: bytes) -> int:
    return cluster.members[0].node.partition_of(_object_key(key))


def _object_key(key: bytes) -> bytes:
    from xxhash import xxh3_64_intdigest

    return xxh3_64_intdigest(key).to_bytes(8, "big") + key


def _holds(member: Member, key: bytes, value: bytes) -> bool:
    record = member.node.replica.read(_object_key(key))
    return record is not None and any(version[4] == value for version in record.versions)


def seats_of(member: Member) -> list[Seat]:
    return member.node.own_seats()
