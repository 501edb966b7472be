"""Durations by how often they came: HdrHistogram with three significant digits, in nanoseconds."""

from collections.abc import Iterable, Iterator
from typing import Self

from hdrh.histogram import HdrHistogram

LONGEST_NS = 1 << 37  # as in bench/_ext/counts.pxd: about 137 s; what is longer counts as that
NAMED = (50, 90, 99, 99.9, 99.99)


class Histogram:
    """Counts of durations.

    Args:
        counts: (ns, how many), as the driver gives them.
    """

    def __init__(self, counts: Iterable[tuple[int, int]] = ()) -> None:
        self._hdr = HdrHistogram(1, LONGEST_NS, 3)
        self.add(counts)

    def add(self, counts: Iterable[tuple[int, int]]) -> Self:
        """Count more durations; return self."""
        for ns, count in counts:
            self._hdr.record_value(min(ns, LONGEST_NS), count)
        return self

    def merge(self, other: "Histogram") -> Self:
        """Count all that *other* has; return self."""
        self._hdr.add(other._hdr)
        return self

    @classmethod
    def decode(cls, hdr: str) -> Self:
        """Return the histogram of which `json` has this as "hdr"."""
        histogram = cls()
        histogram._hdr = HdrHistogram.decode(hdr)
        return histogram

    def __len__(self) -> int:
        return int(self._hdr.total_count)

    def ms(self, percentile: float) -> float:
        """Return the milliseconds within which so many percent were done; 0 if there are none."""
        return float(self._hdr.get_value_at_percentile(percentile)) / 1e6 if len(self) else 0.0

    @property
    def mean_ms(self) -> float:
        """The mean in milliseconds; 0 if there are none."""
        return float(self._hdr.get_mean_value()) / 1e6 if len(self) else 0.0

    @property
    def max_ms(self) -> float:
        """The longest in milliseconds; 0 if there are none."""
        return float(self._hdr.get_max_value()) / 1e6 if len(self) else 0.0

    def cells(self) -> Iterator[tuple[float, int]]:
        """Yield (ms, how many) for every duration that came, rising."""
        for item in self._hdr.get_recorded_iterator():
            yield item.value_iterated_to / 1e6, item.count_added_in_this_iter_step

    def json(self) -> dict[str, object]:
        """Return the named percentiles, and the whole as HdrHistogram's own tools read it."""
        return {
            "count": len(self),
            "mean_ms": self.mean_ms,
            "max_ms": self.max_ms,
            **{f"p{percentile}_ms": self.ms(percentile) for percentile in NAMED},
            "hdr": self._hdr.encode().decode(),
        }
