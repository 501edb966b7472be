"""The heap of the simulator: what is due happens in order, at its time, and the trace keeps every line."""

import gc
import heapq
import random
import weakref

import pytest

from dynafast._ext.timeline import Timeline


class Kept(Timeline):
    """A timeline that keeps its trace."""

    def __init__(self, start_ns: int) -> None:
        super().__init__(start_ns)
        self.texts: list[str] = []

    def keep(self, text: str) -> None:
        self.texts.append(text)


@pytest.mark.parametrize("seed", range(50))
def test_actions_run_in_the_order_of_a_heap_of_time_and_number(seed: int) -> None:
    """Few distinct times, so that many are equal; actions push more, for now, for later and for the past."""
    rng = random.Random(seed)
    heap: list[tuple[int, int]] = []
    expected: list[tuple[int, int]] = []
    delays = [[rng.randrange(-2, 9) for _ in range(rng.randrange(3))] for _ in range(300)]
    starts = [rng.randrange(12) for _ in range(rng.randrange(1, 40))]

    for number, start in enumerate(starts):
        heapq.heappush(heap, (start, number))
    pushed = len(starts)
    while heap and heap[0][0] <= 40:
        now, number = heapq.heappop(heap)
        expected.append((now, number))
        for delay in delays[number] if number < len(delays) else []:
            heapq.heappush(heap, (now + delay, pushed))
            pushed += 1

    timeline, seen, count = Timeline(0), [], len(starts)

    def act(number: int) -> None:
        nonlocal count
        seen.append((timeline.now, number))
        for delay in delays[number] if number < len(delays) else []:
            timeline.after(delay, act, count)
            count += 1

    for number, start in enumerate(starts):
        timeline.at(start, act, number)
    timeline.run(40)
    assert seen == expected
    assert timeline.events == len(expected)


def test_run_stops_at_its_time_and_goes_on_later() -> None:
    timeline, seen = Timeline(100), []
    for when in (100, 150, 151):
        timeline.at(when, seen.append, when)
    timeline.run(150)
    assert (seen, timeline.now, timeline.events) == ([100, 150], 150, 2)
    timeline.run(200)
    assert (seen, timeline.now, timeline.events) == ([100, 150, 151], 200, 3)
    timeline.run(120)
    assert timeline.now == 200  # time does not run back


def test_halt_stops_after_the_action_that_asked_for_it() -> None:
    timeline, seen = Timeline(0), []
    timeline.at(1, timeline.halt)
    timeline.at(1, seen.append, "next")
    timeline.run(10)
    assert (seen, timeline.now) == ([], 1)
    timeline.run(10)
    assert (seen, timeline.now) == (["next"], 10)


def test_an_error_in_an_action_comes_out_of_run_and_the_rest_still_waits() -> None:
    timeline, seen = Timeline(0), []
    timeline.at(1, {}.__getitem__, "none")
    timeline.at(2, seen.append, "rest")
    with pytest.raises(KeyError):
        timeline.run(10)
    timeline.run(10)
    assert seen == ["rest"]


@pytest.mark.parametrize("count", [0, 1, 2047, 2048, 2049, 5000])
def test_the_trace_keeps_every_line_with_its_time(count: int) -> None:
    """On both sides of the number of lines that are handed on at once."""
    timeline = Kept(7)
    for number in range(count):
        timeline.trace(f"line {number}")
    timeline.flush()
    assert "".join(timeline.texts) == "".join(f"7 line {number}\n" for number in range(count))


def test_what_waits_for_ever_does_not_keep_its_timeline_alive() -> None:
    """The garbage collector sees through the heap: a run that is over goes away with all it had."""
    timeline = Kept(0)
    timeline.at(5, timeline.trace, "never")
    gone = weakref.ref(timeline)
    del timeline
    gc.collect()
    assert gone() is None
