"""What stories about repair have in common: puts, what each member holds, damage, and counts of what is sent."""

import itertools
from collections import Counter
from typing import Any

from xxhash import xxh3_64_intdigest

from dynafast._ext.clock import Record
from dynafast.errors import DynafastError
from dynafast.protocol import Op
from dynafast.storage.interface import Family, object_key
from tests.core.harness import Cluster, Member, Pipe


def okey(key: bytes) -> bytes:
    """The object key of *key*."""
    return object_key(xxh3_64_intdigest(key), key)


def partition_of(cluster: Cluster, key: bytes) -> int:
    return xxh3_64_intdigest(key) * cluster.facts.partitions >> 64


def member_of(cluster: Cluster, name: str) -> Member:
    return next(member for member in cluster.members if member.name == name)


def holders(cluster: Cluster, key: bytes) -> list[Member]:
    """The members that serve *key*, in preference order."""
    view = cluster.members[0].node.coordinator.view
    return [member_of(cluster, peer.name) for peer in view.holders[partition_of(cluster, key)]]


def keys_of(cluster: Cluster, *members: Member) -> list[bytes]:
    """Ten keys that all of *members* serve."""
    found = (key for i in itertools.count() if set(members) <= set(holders(cluster, key := b"k%d" % i)))
    return list(itertools.islice(found, 10))


def put(client: Pipe, key: bytes, value: bytes, **options: Any) -> list[Any]:
    answer = client.ask(Op.PUT, key, value, None, xxh3_64_intdigest(key + value).to_bytes(16, "big"), options)
    assert answer[0] == Op.WRITTEN, answer
    return answer


def record(number: int, value: bytes | None = b"v") -> Record:
    """A record with one version, by an actor of its own."""
    return Record([(number, 1, 1)], [(number, 1, 1, number.to_bytes(16, "big"), value)])


def held(member: Member, key: bytes) -> int | None:
    """The digest of what *member* has under *key*."""
    found = member.node.replica.read(okey(key))
    return None if found is None else found.digest()


def contents(member: Member) -> dict[int, dict[bytes, int]]:
    """Partition → object key → digest, of the partitions that *member* serves."""
    view, replica = member.node.coordinator.view, member.node.replica
    return {
        partition: dict(replica.keys(partition, None, b"", 100_000)[0])
        for partition in range(len(view.own))
        if view.own[partition]
    }


def alike(cluster: Cluster) -> bool:
    """Whether all members that serve a partition hold the same of it."""
    seen: dict[int, dict[bytes, int]] = {}
    for member in cluster.members:
        for partition, records in contents(member).items():
            if seen.setdefault(partition, records) != records:
                return False
    return True


def hints(cluster: Cluster) -> int:
    """How many hints wait anywhere."""
    return sum(count for member in cluster.members if member.up for count, _ in member.node.replica.hinted.values())


def damage(member: Member, key: bytes) -> None:
    """Flip a bit of what *member* has stored under *key*, and has no more in memory."""
    member.node.replica.hot.drop(okey(key))
    stored = member.store._stored[Family.OBJECTS]
    stored[okey(key)] = stored[okey(key)][:-1] + bytes([stored[okey(key)][-1] ^ 1])


def run_ms(cluster: Cluster, duration_ms: int) -> None:
    until_ns = cluster.now_ns + duration_ms * 1_000_000
    while cluster.now_ns < until_ns:
        cluster.step()


def pause(cluster: Cluster, member: Member) -> None:
    """Stop a process, as SIGSTOP does: what is sent to it waits, and connections stay."""
    for other in cluster.members:
        if other is not member:
            cluster.hold(other, member)
            cluster.hold(member, other)
    member.up = False


def resume(cluster: Cluster, member: Member) -> None:
    """Let it go on."""
    member.up = True
    for other in cluster.members:
        if other is not member:
            cluster.release(other, member)
            cluster.release(member, other)


def count_calls(cluster: Cluster) -> Counter[Op]:
    """Count from now on what machines ask of peers."""
    counted: Counter[Op] = Counter()
    for member in cluster.members:
        member.node.call = _counting(member.node.call, counted)  # type: ignore[method-assign]
    return counted


def _counting(call: Any, counted: Counter[Op]) -> Any:
    def counting(peer: Any, op: Op, fields: list[Any], timeout_ms: int, done: Any) -> None:
        counted[op] += 1
        call(peer, op, fields, timeout_ms, done)

    return counting


class Answers:
    """Takes the outcome of `Node.call`."""

    def __init__(self) -> None:
        self.result: Any = None
        self.error: DynafastError | None = None
        self.done = False

    def __call__(self, result: Any, error: DynafastError | None) -> None:
        self.result, self.error, self.done = result, error, True
