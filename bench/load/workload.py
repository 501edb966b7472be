"""What a load asks for: how many of each kind of request, of which keys, with values of what size."""

from dataclasses import dataclass, replace
from typing import Self

from dynafast.errors import ConfigError

DISTRIBUTIONS = ("uniform", "zipfian", "latest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Shares are in percent and sum to 100.

    Attributes:
        reads, updates: of records that are there.
        inserts: of records that are not.
        changes: a read, then a write with what was read.
        keys: "uniform", "zipfian" or "latest" (the newest most often).
        theta: the skew of the two latter.
        records: how many there are before the load starts.
        size_min, size_max: of values, in bytes.
    """

    reads: float = 50.0
    updates: float = 50.0
    inserts: float = 0.0
    changes: float = 0.0
    keys: str = "uniform"
    theta: float = 0.99
    records: int = 100_000
    size_min: int = 100
    size_max: int = 100

    def __post_init__(self) -> None:
        if sum(self.mix) != 10000 or min(self.mix) < 0:
            raise ConfigError(f"the shares of requests must sum to 100, got {sum(self.mix) / 100:g}")
        if self.keys not in DISTRIBUTIONS:
            raise ConfigError(f"keys must be one of {', '.join(DISTRIBUTIONS)}, got {self.keys!r}")
        if not 1 <= self.records <= 10**11:
            raise ConfigError(f"records must be in 1..10^11, got {self.records}")
        if not 1 <= self.size_min <= self.size_max <= 8 << 20:
            raise ConfigError(f"sizes of values must be in 1..{8 << 20}, got {self.size_min}-{self.size_max}")

    @property
    def mix(self) -> tuple[int, int, int, int]:
        """The shares of 10,000, as the driver has them."""
        reads, updates, inserts, changes = (
            round(100 * share) for share in (self.reads, self.updates, self.inserts, self.changes)
        )
        return reads, updates, inserts, changes

    def sized(self, size: str) -> Self:
        """Return the same with values of *size*: "100" or "10-1000"."""
        low, _, high = size.partition("-")
        try:
            return replace(self, size_min=int(low), size_max=int(high or low))
        except ValueError:
            raise ConfigError(f"a size must be BYTES or MIN-MAX, got {size!r}") from None


# Core workloads of the Yahoo! Cloud Serving Benchmark (2010), with its records of 1 kB. E scans, which no request does.
_YCSB = Workload(keys="zipfian", size_min=1000, size_max=1000)
YCSB = {
    "a": _YCSB,
    "b": replace(_YCSB, reads=95, updates=5),
    "c": replace(_YCSB, reads=100, updates=0),
    "d": replace(_YCSB, reads=95, updates=0, inserts=5, keys="latest"),
    "f": replace(_YCSB, updates=0, changes=50),
}
