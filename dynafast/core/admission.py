"""Lets background work go as fast as foreground requests do not feel it.

Source: Dynamo (SOSP 2007), section 6.5: background tasks run in slices that a controller grants by the 99th percentile
of foreground latencies. Here a bucket of bytes refills at a rate between a floor, so that repair always goes on, and a
ceiling. The rate is cut at once when a window's p99 is too high, and grows slowly while it is used and p99 is not (as
TCP does): that a rate which nothing used did no harm says nothing about it. What is too high is measured, not
configured: a multiple of the p99 of windows in which background work did next to nothing.

Work comes in small messages, few at a time, since whoever handles one serves no request meanwhile.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dynafast.core.machine import Machine

if TYPE_CHECKING:
    from dynafast.core.node import Node

WINDOW_NS = 500_000_000
SAMPLES_MIN_COUNT = 20  # a window with fewer requests says nothing of a p99, and has room anyway
FLOOR = 2_000_000  # bytes per second: some 500 small records, a few percent of a core. Where work begins
CEILING = 64_000_000
RAISE = 500_000  # per window
OPERATION = 1_000  # what a message costs besides its bytes
RECORD = 2_000  # what a record costs besides its bytes: to read, send, merge and write one takes some 30 us
LISTED = 500  # what it costs to list a key with its digest, and to compare that

# One message of background work: whoever handles it serves no request for as long, so it takes less than half a
# millisecond; a record that is larger travels alone.
RECORDS_MAX = 16
KEYS_MAX = 64
BYTES_MAX = 64 * 1024
FLIGHT_MAX = 48_000  # sent and not answered yet, of one node: answers that come together are handled in one go
BURST_NS = 50_000_000  # how much may be saved up
TARGET_MIN_NS = 500_000  # below this nobody minds
TARGET_FACTOR = 2  # of the quiet p99
USED_SHARE = 0.5  # of the rate: a window that used less has not tried it
QUIET_SHARE = 0.04  # of the ceiling: a window with less background work is quiet


def p99(samples: Sequence[float]) -> float:
    """Return the 99th percentile of *samples*, at least one: the smallest that 99 of 100 do not exceed."""
    return sorted(samples)[(99 * len(samples) + 99) // 100 - 1]


class Bucket:
    """A budget of bytes that refills with time. It may be overdrawn once: a large record still passes."""

    def __init__(self) -> None:
        self.rate = FLOOR
        self._level = 0
        self._filled_ns = 0

    def take(self, size: int, now_ns: int) -> bool:
        """Take *size* bytes if the bucket is not overdrawn; say whether they were taken."""
        most = self.rate * BURST_NS // 1_000_000_000
        gained = self.rate * (now_ns - self._filled_ns) // 1_000_000_000
        if gained > 0:
            self._level = min(most, self._level + gained)
            self._filled_ns = now_ns
        if self._level <= 0:
            return False
        self._level -= size
        return True

    def overdraw(self, size: int) -> None:
        """Take *size* bytes in any case."""
        self._level -= size


class Admission(Machine):
    """Grants background work, and learns from foreground latencies how much."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node)
        self._bucket = Bucket()
        self._alone = False  # whether the last window had next to no requests
        self._window_ns = 0  # when the present window ends
        self._granted = 0  # in the present window
        self._flying = 0  # granted to questions that are not answered yet
        self._quiet_ns = 0.0  # p99 without background work, averaged; 0: not known
        self._p99_ns = 0.0

    def room(self, size: int) -> bool:
        """Whether background work of *size* bytes may start now; then they count as used."""
        if not self._bucket.take(size + OPERATION, self.node.now_ns):
            return False
        self._granted += size + OPERATION
        return True

    def start(self, size: int) -> bool:
        """As `room`, for a question that is under way until `end`: few are at a time."""
        if (self._flying and self._flying + size > FLIGHT_MAX) or not self.room(size):
            return False
        self._flying += size
        return True

    def end(self, size: int) -> None:
        """A question that `start` let in is answered, or never will be."""
        self._flying -= size

    def spend(self, size: int) -> None:
        """Count *size* bytes that turn out to be moved by work which was let in; what comes next waits for it."""
        self._bucket.overdraw(size)
        self._granted += size

    def tick(self, now_ns: int) -> None:
        """Close a window that is over, and set the rate for the next one."""
        if now_ns < self._window_ns:
            return
        self._window_ns = now_ns + WINDOW_NS
        self._learn(self.node.coordinator.take_latencies())
        self._granted = 0

    def figures(self) -> dict[str, object]:
        """What `status` shows."""
        return {"background": {"bytes_per_second": self._bucket.rate, "p99_us": int(self._p99_ns) // 1000}}

    def _learn(self, samples: Sequence[float]) -> None:
        bucket, alone = self._bucket, self._alone
        self._alone = len(samples) < SAMPLES_MIN_COUNT
        if self._alone:
            bucket.rate = min(CEILING, 2 * bucket.rate)
            return
        self._p99_ns = p99(samples)
        quiet = self._granted < QUIET_SHARE * CEILING * WINDOW_NS / 1e9
        if quiet:
            # Other nodes may do background work in these windows, so a shorter one tells more.
            weight = 1 / 2 if self._p99_ns < self._quiet_ns else 1 / 32
            self._quiet_ns += weight * (self._p99_ns - self._quiet_ns) if self._quiet_ns else self._p99_ns
        if alone or self._granted < USED_SHARE * bucket.rate * WINDOW_NS / 1e9:
            bucket.rate = FLOOR
        elif self._p99_ns <= max(TARGET_MIN_NS, TARGET_FACTOR * self._quiet_ns):
            bucket.rate = min(CEILING, bucket.rate + RAISE)
        elif not quiet:
            bucket.rate = max(FLOOR, bucket.rate // 2)
