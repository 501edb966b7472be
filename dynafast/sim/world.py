"""Virtual time, one heap of events, named random streams, and the trace that makes two runs comparable.

Everything that happens in a run is an action of this heap, and every choice comes from a stream named after its
purpose: so one fault more or less does not change the luck of the others.
"""

import hashlib
from random import Random
from typing import IO

from dynafast._ext.timeline import Timeline

US = 1_000
MS = 1_000_000
SECOND = 1_000_000_000
START_NS = 10 * SECOND
EPOCH_MS = 1_700_000_000_000


class World(Timeline):
    """The clock, the dice and the log of one run."""

    def __init__(self, seed: int, *, file: IO[str] | None = None) -> None:
        super().__init__(START_NS)
        self.seed = seed
        self._hash = hashlib.sha256()
        self._file = file

    def random(self, name: str) -> Random:
        """Return the stream of that name; asking again begins it anew."""
        return Random(f"{self.seed}/{name}")  # noqa: S311 - to be repeated, not to be secret

    def digest(self) -> str:
        """Return the SHA-256 of all lines so far."""
        self.flush()
        return self._hash.hexdigest()

    def keep(self, text: str) -> None:
        """See `Timeline`."""
        self._hash.update(text.encode())
        if self._file is not None:
            self._file.write(text)
