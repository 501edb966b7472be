"""A machine that asks to enter a cluster: what ``net/entry.py`` does, in virtual time."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dynafast._ext.codec import FrameReader
from dynafast._ext.wires import End
from dynafast.core.entering import answer_in, asking
from dynafast.errors import RefusedError
from dynafast.sim.world import MS, SECOND

if TYPE_CHECKING:
    from dynafast.sim.host import Host

JOIN_PAUSE_NS = 200 * MS
JOIN_TRY_NS = 5 * SECOND
JOIN_PATIENCE_NS = 30 * SECOND
AGAIN = frozenset(
    {"unavailable", "overloaded", "starting", "stopping", "change-in-progress", "alive"}
)  # refusals of a JOIN that may pass


class Joiner:
    """A machine that asks to enter: what ``net/entry.py`` does, in virtual time."""

    def __init__(
        self, host: "Host", seeds: list[str], done: Callable[[str | None], None], *, replace: str | None = None
    ) -> None:
        self._host = host
        self.place = host.name
        self._seeds = seeds
        self._done = done
        self._replace = replace
        self._turn = 0
        self._try = 0
        self._reader = FrameReader()
        self._entry = host.first_entry()
        self._until = host.world.now + JOIN_PATIENCE_NS
        self._over = False
        self._ask()

    def accepted(self, end: End) -> None:
        """See `Owner`; nobody connects to a joiner."""

    def _ask(self) -> None:
        if self._over:
            return
        if self._host.world.now > self._until:
            self._finish("not-reached")
            return
        self._try += 1
        target = self._host.directory[self._seeds[self._turn % len(self._seeds)]]
        self._turn += 1
        number = self._try
        self._reader = FrameReader()
        self._host.network.connect(self, target.name, target.listening, lambda end: self._connected(number, end))
        self._host.world.after(JOIN_TRY_NS, self._again, number)

    def _again(self, number: int) -> None:
        """The try of that number has failed, or takes too long."""
        if number == self._try and not self._over:
            self._try += 1
            self._host.world.after(JOIN_PAUSE_NS, self._ask)

    def _connected(self, number: int, end: End | None) -> None:
        if end is None or number != self._try or self._over:
            if end is not None:
                self._host.network.close(end)
            self._again(number)
            return
        end.tag = number
        self._host.network.send(end, asking(self._entry, replace=self._replace, wishes={}))

    def received(self, end: End, data: bytes) -> None:
        """See `Owner`."""
        if end.tag != self._try or self._over:
            return
        for message in self._reader.feed(data):
            try:
                answer = answer_in(message)
            except RefusedError as error:
                self._host.network.close(end)
                if error.code in AGAIN:
                    self._again(self._try)
                else:
                    self._finish(error.code)
                return
            if answer is not None:
                self._host.network.close(end)
                self._over = True
                self._host.admitted(self._entry, answer)
                self._done(None)
                return

    def ended(self, end: End) -> None:
        """See `Owner`."""
        if isinstance(end.tag, int):
            self._again(end.tag)

    def _finish(self, code: str) -> None:
        self._over = True
        self._done(code)
