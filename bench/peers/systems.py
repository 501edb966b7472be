"""What is compared: each system in each setting, what that setting may lose, and what is measured of it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from bench.peers.servers import Running, dynafast, etcd_nodes, nats_nodes, redis


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One load.

    Attributes:
        client: "own" or "redis-benchmark"; the latter asks for one kind at a time.
        reads: percent; the rest are updates.
        half: open loop, at half of the rate that the measure of that name had in this turn.
    """

    client: str = "own"
    reads: int = 0
    connections: int = 50
    depth: int = 1
    half: str | None = None


# Name -> load. A later one may refer to an earlier one by `half`.
MEASURES: Mapping[str, Measure] = {
    "resp-set": Measure(client="redis-benchmark"),
    "resp-get": Measure(client="redis-benchmark", reads=100),
    "resp-set-16": Measure(client="redis-benchmark", depth=16),
    "resp-get-16": Measure(client="redis-benchmark", depth=16, reads=100),
    "put": Measure(),
    "get": Measure(reads=100),
    "put-one": Measure(connections=1),
    "mixed": Measure(reads=50),
    "mixed-half": Measure(reads=50, half="mixed"),
}
RESP = ("resp-set", "resp-get", "resp-set-16", "resp-get-16")
OWN = ("put", "get", "put-one")
HALF = ("mixed", "mixed-half")


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One store in one setting.

    Attributes:
        start: runs it while the block lasts.
        loses: which acknowledged writes its setting may lose, and when.
        measures: names of `MEASURES`, in order.
    """

    start: Callable[[], AbstractContextManager[Running]]
    loses: str
    measures: tuple[str, ...]


KILL = "nothing at a SIGKILL"
# In the order of a turn: those that are held against each other stand together.
SYSTEMS: Mapping[str, System] = {
    "redis": System(
        start=partial(redis, fsync=None), loses="everything at a SIGKILL", measures=("resp-set", "resp-get")
    ),
    "redis everysec": System(
        start=partial(redis, fsync="everysec"),
        loses=f"the last second or two in a power cut, {KILL}",
        measures=(*RESP, *HALF),
    ),
    "dynafast, N=1, interval": System(
        start=partial(dynafast, nodes=1, replicas=1, durability="interval"),
        loses=f"the last second in a power cut, {KILL}",
        measures=(*RESP, *OWN),
    ),
    "redis always": System(start=partial(redis, fsync="always"), loses="nothing but the disk", measures=RESP),
    "dynafast, N=1, group": System(
        start=partial(dynafast, nodes=1, replicas=1, durability="group"),
        loses="nothing but the disk",
        measures=(*RESP, *OWN),
    ),
    "redis + 2, WAIT 1": System(
        start=partial(redis, fsync="everysec", replicas=2),
        loses="the last second or two when two machines lose power; a failover may choose the replica without it",
        measures=OWN,
    ),
    "dynafast, 3 nodes, interval": System(
        start=partial(dynafast, nodes=3, replicas=3, durability="interval"),
        loses="the last second when two machines lose power",
        measures=(*OWN, *HALF),
    ),
    "etcd, 1 node": System(start=partial(etcd_nodes, 1), loses="nothing but the disk", measures=OWN),
    "etcd, 3 nodes": System(start=partial(etcd_nodes, 3), loses="nothing while two disks live", measures=OWN),
    "dynafast, 3 nodes, group": System(
        start=partial(dynafast, nodes=3, replicas=3, durability="group"),
        loses="nothing while two disks live",
        measures=(*OWN, *HALF),
    ),
    "nats kv, 3 replicas": System(
        start=partial(nats_nodes, 3),
        loses="up to two minutes when two machines lose power (it syncs that seldom); gets may be stale",
        measures=OWN,
    ),
}
