"""Virtual time, one heap of events, named random streams, and the trace that makes two runs comparable.

Everything that happens in a run is an action of this heap, and every choice comes from a stream named after its
purpose: so one fault more or less does not change the luck of the others.
"""

import hashlib
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import IO

US = 1_000
MS = 1_000_000
SECOND = 1_000_000_000
START_NS = 10 * SECOND
EPOCH_MS = 1_700_000_000_000

_JOINED_LINES = 2048

Action = Callable[..., object]


class World:
    """The clock, the dice and the log of one run.

    Attributes:
        now: virtual nanoseconds.
        events: how many actions have run.
    """

    def __init__(self, seed: int, *, file: IO[str] | None = None) -> None:
        self.seed = seed
        self.now = START_NS
        self.events = 0
        self._heap: list[tuple[int, int, Action, tuple[object, ...]]] = []
        self._pushed = 0
        self._halted = False
        self._lines: list[str] = []
        self._hash = hashlib.sha256()
        self._file = file

    def random(self, name: str) -> Random:
        """Return the stream of that name; asking again begins it anew."""
        return Random(f"{self.seed}/{name}")  # noqa: S311 - to be repeated, not to be secret

    def at(self, when_ns: int, action: Action, *arguments: object) -> None:
        """Run an action at that time; of two at one time the earlier pushed goes first."""
        self._pushed += 1
        heappush(self._heap, (when_ns, self._pushed, action, arguments))

    def after(self, delay_ns: int, action: Action, *arguments: object) -> None:
        """Run an action that much later."""
        self._pushed += 1
        heappush(self._heap, (self.now + delay_ns, self._pushed, action, arguments))

    def run(self, until_ns: int) -> None:
        """Run actions up to that time, or until `halt`."""
        heap = self._heap
        self._halted = False
        while heap and heap[0][0] <= until_ns:
            self.now, _, action, arguments = heappop(heap)
            self.events += 1
            action(*arguments)
            if self._halted:
                return
        self.now = max(self.now, until_ns)

    def halt(self) -> None:
        """Let `run` return after this action."""
        self._halted = True

    def trace(self, line: str) -> None:
        """Add a line to the trace."""
        self._lines.append(f"{self.now} {line}\n")
        if len(self._lines) >= _JOINED_LINES:
            self._flush()

    def digest(self) -> str:
        """Return the SHA-256 of all lines so far."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        text = "".join(self._lines)
        self._lines.clear()
        self._hash.update(text.encode())
        if self._file is not None:
            self._file.write(text)
