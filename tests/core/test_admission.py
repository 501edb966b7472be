"""Background work yields to foreground latency, and never stops altogether."""

import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dynafast.core.admission import (
    BURST_NS,
    CEILING,
    FLIGHT_MAX,
    FLOOR,
    OPERATION,
    RAISE,
    WINDOW_NS,
    Admission,
    Bucket,
    p99,
)

MS = 1_000_000
STEP_NS = 20 * MS


class Foreground:
    """A node whose requests get slower with the background work that it does."""

    def __init__(self, *, quiet_ns: int, per_mb_ns: int, requests: int = 100) -> None:
        self.now_ns = 0
        self.quiet_ns, self.per_mb_ns, self.requests = quiet_ns, per_mb_ns, requests
        self.done = 0  # background bytes in this window
        self.coordinator = SimpleNamespace(take_latencies=self.take_latencies)

    def take_latencies(self) -> list[int]:
        rate_mb = self.done / (WINDOW_NS / 1e9) / 1e6
        self.done = 0
        return [int(self.quiet_ns + self.per_mb_ns * rate_mb)] * self.requests

    def run(self, admission: Admission, seconds: float, *, busy: bool = True) -> list[int]:
        """Use all the room there is; return the bytes done in each second."""
        seconds_done = [0]
        until_ns = self.now_ns + int(seconds * 1e9)
        while self.now_ns < until_ns:
            self.now_ns += STEP_NS
            admission.tick(self.now_ns)
            while busy and admission.room(10_000):
                self.done += 10_000
                seconds_done[-1] += 10_000
            if self.now_ns % 1_000_000_000 == 0:
                seconds_done.append(0)
        return seconds_done[:-1]


def controller(foreground: Foreground) -> Admission:
    return Admission(cast("Any", foreground))


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 1000])
def test_p99_is_the_smallest_that_99_of_100_do_not_exceed(count: int) -> None:
    samples = random.Random(count).sample(range(10_000), count)
    found = p99(samples)
    assert found in samples
    assert 100 * sum(sample <= found for sample in samples) >= 99 * count
    below = max((sample for sample in samples if sample < found), default=-1)
    assert 100 * sum(sample <= below for sample in samples) < 99 * count


@pytest.mark.parametrize("seed", range(20))
def test_bucket_gives_no_more_than_rate_and_burst_and_the_last_item(seed: int) -> None:
    rng = random.Random(seed)
    bucket, now_ns, taken, largest = Bucket(), 0, 0, 0
    for _ in range(2000):
        now_ns += rng.choice((0, 1000, MS, 30 * MS))
        size = rng.choice((1, 100, 10_000, 1_000_000))
        if bucket.take(size, now_ns):
            taken, largest = taken + size, max(largest, size)
    assert taken <= FLOOR * (now_ns + BURST_NS) / 1e9 + largest


def test_bucket_lets_an_item_larger_than_itself_pass_and_then_waits() -> None:
    bucket = Bucket()
    assert bucket.take(3 * FLOOR, 100 * MS)
    assert not bucket.take(1, 1_000 * MS)
    assert bucket.take(1, 5_000 * MS)


def test_without_requests_background_work_reaches_the_ceiling() -> None:
    foreground = Foreground(quiet_ns=0, per_mb_ns=0, requests=0)
    done = foreground.run(controller(foreground), 30)
    assert done[-1] >= 0.8 * CEILING


def test_background_work_is_cut_when_foreground_suffers_and_grows_again_after() -> None:
    """1 ms when left alone, 0.1 ms more for each MB/s: 2 ms is bearable, so about 10 MB/s are."""
    foreground = Foreground(quiet_ns=1 * MS, per_mb_ns=MS // 10)
    admission = controller(foreground)
    foreground.run(admission, 3, busy=False)  # learns how it is without
    done = foreground.run(admission, 60)
    mean = sum(done[10:]) / len(done[10:])
    assert 4e6 < mean < 12e6
    foreground.per_mb_ns = 0
    assert foreground.run(admission, 30)[-1] > 3 * mean


@pytest.mark.parametrize("requests", [100, 0])
def test_work_that_begins_while_there_are_requests_begins_slowly(requests: int) -> None:
    """However long nothing was moved, with requests or without: what was not tried is not known to be harmless."""
    foreground = Foreground(quiet_ns=1 * MS, per_mb_ns=0, requests=requests)
    admission = controller(foreground)
    foreground.run(admission, 60, busy=False)
    foreground.requests = 100
    foreground.run(admission, WINDOW_NS / 1e9, busy=False)
    assert foreground.run(admission, 1)[0] <= FLOOR + 2 * RAISE


def test_few_questions_are_under_way_at_a_time() -> None:
    """Answers that come together are handled in one go, so there must not be many; a large one goes alone."""
    admission = controller(Foreground(quiet_ns=0, per_mb_ns=0))
    admission.node.now_ns = 1_000 * MS
    size = FLIGHT_MAX // 3
    assert [admission.start(size) for _ in range(4)] == [True, True, True, False]
    admission.node.now_ns += 1_000 * MS
    assert not admission.start(size)
    admission.end(size)
    assert admission.start(size)
    for _ in range(3):
        admission.end(size)
    admission.node.now_ns += 1_000 * MS
    assert admission.start(2 * FLIGHT_MAX)
    assert not admission.start(1)


def test_slow_foreground_by_itself_does_not_starve_repair() -> None:
    """Latency that background work does not cause is no reason to stop it."""
    foreground = Foreground(quiet_ns=200 * MS, per_mb_ns=0)
    admission = controller(foreground)
    done = foreground.run(admission, 60)
    assert min(done) >= 0.5 * FLOOR
    assert done[-1] > 10 * FLOOR


def test_even_at_the_floor_something_is_done() -> None:
    foreground = Foreground(quiet_ns=1 * MS, per_mb_ns=1_000 * MS)
    admission = controller(foreground)
    foreground.run(admission, 3, busy=False)
    done = foreground.run(admission, 60)
    assert min(done[10:]) >= 0.5 * FLOOR * 10_000 / (10_000 + OPERATION)
