"""What this project aims at against the others, and whether it is there: ratios of two measures within one turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

# One measure of one turn, by the names of its fields.
Sample = Mapping[str, float | None]
# System -> measure -> one sample per turn.
Samples = Mapping[str, Mapping[str, Sequence[Sample]]]


@dataclass(frozen=True, slots=True)
class Side:
    """A number of a measure of a system."""

    system: str
    measure: str
    field: str = "rate"

    def numbers(self, samples: Samples) -> list[float | None]:
        """Return it for every turn."""
        return [sample[self.field] for sample in samples.get(self.system, {}).get(self.measure, ())]


@dataclass(frozen=True, slots=True)
class Aim:
    """*ours* by *theirs*, at least or at most *limit*."""

    what: str
    ours: Side
    theirs: Side
    limit: float
    at_least: bool = True

    def ratios(self, samples: Samples) -> list[float]:
        """Return the ratio of every turn that has both sides."""
        pairs = zip(self.ours.numbers(samples), self.theirs.numbers(samples), strict=False)
        return [ours / theirs for ours, theirs in pairs if ours is not None and theirs]

    def met(self, samples: Samples) -> bool | None:
        """Whether the median of the turns reaches the limit; None: it was not measured."""
        ratios = self.ratios(samples)
        if not ratios:
            return None
        return median(ratios) >= self.limit if self.at_least else median(ratios) <= self.limit

    def row(self, samples: Samples) -> list[object]:
        """Return a row for a table: what, aim, median, spread, verdict."""
        ratios = self.ratios(samples)
        aim = f"{'at least' if self.at_least else 'at most'} {self.limit:g}x"
        if not ratios:
            return [self.what, aim, None, "", "not measured"]
        spread = f"{min(ratios):.2f} .. {max(ratios):.2f}"
        return [self.what, aim, f"{median(ratios):.2f}x", spread, "met" if self.met(samples) else "short"]


ONE, ONE_SYNCED = "dynafast, N=1, interval", "dynafast, N=1, group"
THREE, THREE_SYNCED = "dynafast, 3 nodes, interval", "dynafast, 3 nodes, group"
EVERYSEC, ALWAYS, WAIT = "redis everysec", "redis always", "redis + 2, WAIT 1"
ETCD, NATS = "etcd, 3 nodes", "nats kv, 3 replicas"

AIMS = (
    Aim("SET, 50 connections: interval, redis everysec", Side(ONE, "resp-set"), Side(EVERYSEC, "resp-set"), 0.9),
    Aim("GET, the same", Side(ONE, "resp-get"), Side(EVERYSEC, "resp-get"), 0.95),
    Aim("SET, pipeline 16", Side(ONE, "resp-set-16"), Side(EVERYSEC, "resp-set-16"), 0.4),
    Aim("GET, pipeline 16", Side(ONE, "resp-get-16"), Side(EVERYSEC, "resp-get-16"), 0.5),
    Aim("SET, 50 connections: group, redis always", Side(ONE_SYNCED, "resp-set"), Side(ALWAYS, "resp-set"), 1.0),
    Aim("GET, the same", Side(ONE_SYNCED, "resp-get"), Side(ALWAYS, "resp-get"), 1.0),
    Aim("SET, pipeline 16, the same", Side(ONE_SYNCED, "resp-set-16"), Side(ALWAYS, "resp-set-16"), 1.0),
    Aim("GET, pipeline 16, the same", Side(ONE_SYNCED, "resp-get-16"), Side(ALWAYS, "resp-get-16"), 1.0),
    Aim("one node: native put, SET", Side(ONE, "put"), Side(ONE, "resp-set"), 1.0),
    Aim("one node: native get, GET", Side(ONE, "get"), Side(ONE, "resp-get"), 1.0),
    Aim("three nodes, group: put, etcd's", Side(THREE_SYNCED, "put"), Side(ETCD, "put"), 5.0),
    Aim("three nodes, group: put, NATS's", Side(THREE_SYNCED, "put"), Side(NATS, "put"), 3.0),
    Aim("three nodes: get with R=2, etcd's linearizable", Side(THREE_SYNCED, "get"), Side(ETCD, "get"), 4.0),
    Aim(
        "three nodes, group, one connection: p50 of a put, etcd's",
        Side(THREE_SYNCED, "put-one", "p50_ms"),
        Side(ETCD, "put-one", "p50_ms"),
        0.6,
        at_least=False,
    ),
    Aim("three nodes, interval: put, redis with WAIT 1", Side(THREE, "put"), Side(WAIT, "put"), 0.8),
    Aim("the same, in the end", Side(THREE, "put"), Side(WAIT, "put"), 1.0),
    Aim("three nodes: get with R=2, one node's", Side(THREE, "get"), Side(ONE, "get"), 0.5),
    Aim(
        "three nodes, half load: p99.9, p50",
        Side(THREE, "mixed-half", "p99.9_ms"),
        Side(THREE, "mixed-half", "p50_ms"),
        5.0,
        at_least=False,
    ),
    Aim(
        "three nodes, half load: p99.9, redis's",
        Side(THREE, "mixed-half", "p99.9_ms"),
        Side(EVERYSEC, "mixed-half", "p99.9_ms"),
        3.0,
        at_least=False,
    ),
    Aim(
        "processor time of a SET, redis's",
        Side(ONE, "resp-set", "server_us"),
        Side(EVERYSEC, "resp-set", "server_us"),
        1.5,
        at_least=False,
    ),
    Aim(
        "processor time of a GET, redis's",
        Side(ONE, "resp-get", "server_us"),
        Side(EVERYSEC, "resp-get", "server_us"),
        1.5,
        at_least=False,
    ),
)
