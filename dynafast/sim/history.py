"""What clients asked and were told, key by key, and what follows from it.

Each write has an index within its key, so that "the writes this one has seen" is an integer used as a set. What a
write has seen is what its client was *shown*: never what a context covers besides, since a false context is one of
the faults looked for.

Terms: a write is *acknowledged* when its client was told ok; *strict* when that stood on seats alone; *settled* by a
context when its dot is covered by it.
"""

from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from dynafast._ext.clock import Record, open_context
from dynafast.sim.world import MS

Dot = tuple[int, int]


class Kind(StrEnum):
    """What is done with a key."""

    SET = "set"  # clients read, add their element to the union, write
    REGISTER = "register"  # clients read and write something new
    CART = "cart"  # registers that are deleted and created again
    BLIND = "blind"  # writes without a context, and reads that resolve
    NEWEST = "newest"  # overwriting writers: the newest wins


class ViolationError(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, detail: str, history: "KeyHistory | None" = None) -> None:
        super().__init__(invariant, detail, history)  # as they are: so a process can hand it to another
        self.invariant = invariant
        self.detail = detail
        self.history = history

    def __str__(self) -> str:
        return f"{self.invariant}: {self.detail}"


@dataclass(slots=True, eq=False)
class Write:
    """One put or delete."""

    index: int
    id: bytes
    value: bytes | None  # None: a delete
    covers: dict[int, int]  # the context it was sent with: actor -> counter
    seen: int  # indexes of the writes it has seen, directly or not
    started_ns: int
    overwrite: bool
    acked_ns: int = 0
    dots: list[Dot] = field(default_factory=list)
    time: int = 0
    outcome: str = "under way"
    unsure: bool = False  # an attempt ended with an unknown outcome: it may have dots that nobody was told of
    sent_ns: int = 0  # when it was sent last

    bit: int = field(init=False)  # the set of this write alone

    def __post_init__(self) -> None:
        self.bit = 1 << self.index


class _Dots:
    """The known dots of one actor, and for the first so many of them: which writes, and what their deletes had seen."""

    __slots__ = ("counters", "gone", "masks", "writes")

    def __init__(self) -> None:
        self.counters: list[int] = []
        self.writes: list[Write] = []
        self.masks = [0]
        self.gone = [0]

    def add(self, counter: int, write: Write) -> None:
        place = bisect(self.counters, counter)
        self.counters.insert(place, counter)
        self.writes.insert(place, write)
        del self.masks[place + 1 :], self.gone[place + 1 :]
        for write in self.writes[place:]:
            self.masks.append(self.masks[-1] | write.bit)
            self.gone.append(self.gone[-1] | (write.bit | write.seen if write.value is None else 0))


@dataclass(slots=True, frozen=True)
class Reading:
    """A get that began: what it may not miss, and what it may not bring back."""

    started_ns: int
    must: int
    dead: dict[int, int]
    newest: int


@dataclass(slots=True, frozen=True)
class Shown:
    """What an answer showed: the basis of the next write."""

    context: bytes | None
    covers: dict[int, int]
    seen: int
    live: int
    values: tuple[bytes, ...]


NOTHING = Shown(None, {}, 0, 0, ())


class KeyHistory:
    """All that clients know of one key."""

    def __init__(self, key: bytes, kind: Kind, cluster: bytes, *, ordered: bool) -> None:
        self.key = key
        self.kind = kind
        self._ordered = ordered  # any two write quorums meet: so overwrites have an order
        self._cluster = cluster
        self.writes: list[Write] = []
        self.by_id: dict[bytes, Write] = {}
        self.by_dot: dict[Dot, Write] = {}
        self._actors: dict[int, _Dots] = {}
        self.acked = 0
        self.strict = 0
        self.dead: dict[int, int] = {}  # covered by strict acknowledged writes; replaced, never changed
        self.buried: dict[int, int] = {}  # covered by any acknowledged write
        self.burials: list[tuple[int, int]] = []  # of strict deletes: when acknowledged, what they had seen
        self.newest = 0  # when the latest strict acknowledged write began
        self._drifted_ns = -1
        self._story: list[tuple[int, Callable[[], str]]] = []

    def note(self, now_ns: int, line: Callable[[], str]) -> None:
        """Add a line to the story of this key. It is made only when somebody reads it, so from what never changes."""
        self._story.append((now_ns, line))

    def __getstate__(self) -> dict[str, object]:
        """As it is handed to another process: told."""
        return {**self.__dict__, "_story": [(now_ns, partial(str, line())) for now_ns, line in self._story]}

    @property
    def lines(self) -> list[str]:
        """The story of this key, for people."""
        return [f"{now_ns / MS:12.3f} ms  {line()}" for now_ns, line in self._story]

    # ---- writes

    def begin_write(
        self, now_ns: int, id: bytes, value: bytes | None, basis: Shown, *, overwrite: bool, client: str
    ) -> Write:
        """A client is about to send a write."""
        write = Write(len(self.writes), id, value, basis.covers, basis.seen, now_ns, overwrite)
        self.writes.append(write)
        self.by_id[id] = write
        self.note(now_ns, lambda: _told(write, client))
        return write

    def end_write(self, now_ns: int, write: Write, outcome: str, *, unsure: bool = False) -> None:
        """A write ended otherwise than with ok."""
        write.outcome = outcome
        write.unsure = write.unsure or unsure
        self.note(now_ns, lambda: f"w{write.index} {outcome}")

    def acknowledge(self, now_ns: int, write: Write, dot: Dot, time: int, *, strict: bool) -> None:
        """A client was told ok."""
        self.know(write, dot)
        write.outcome = "ok"
        write.acked_ns = now_ns
        write.time = max(write.time, time)
        self.acked |= write.bit
        self.note(now_ns, lambda: f"w{write.index} ok dot={dot[0]:016x},{dot[1]} {'strict' if strict else 'sloppy'}")
        self.buried = joined(self.buried, write.covers)
        if strict:
            self.strict |= write.bit
            self.dead = joined(self.dead, write.covers)
            if write.value is None:
                self.burials.append((now_ns, write.seen))
            if self._ordered:
                self.newest = max(self.newest, write.started_ns)

    def drift(self, now_ns: int) -> None:
        """No seat has all any more that was acknowledged until now: strict reads need not know it."""
        self.note(now_ns, lambda: "the last seat that had all is lost")
        self.strict, self.dead, self.burials, self.newest = 0, {}, [], 0
        self._drifted_ns = now_ns

    def know(self, write: Write, dot: Dot) -> None:
        """A dot was seen to be of this write."""
        other = self.by_dot.get(dot)
        if other is None:
            self.by_dot[dot] = write
            write.dots.append(dot)
            self._actors.setdefault(dot[0], _Dots()).add(dot[1], write)
        elif other is not write:
            raise ViolationError(
                "dots-unique", f"dot {dot[0]:016x},{dot[1]} is of w{other.index} and of w{write.index}", self
            )

    # ---- reads

    def begin_read(self, now_ns: int) -> Reading:
        """A client is about to send a get."""
        return Reading(now_ns, self.strict, self.dead, self.newest)

    def versions(self, rows: list[list[object]]) -> list[tuple[Dot, Write]]:
        """Return dot and write of each version shown; checks that they are what was written."""
        found = []
        for actor, counter, time, id, value in rows:
            write = self.by_id.get(id)  # type: ignore[call-overload]
            if write is None or write.value != value:
                raise ViolationError("values-written", f"a version {value!r} that nobody wrote", self)
            dot: Dot = (actor, counter)  # type: ignore[assignment]
            self.know(write, dot)
            write.time = time
            found.append((dot, write))
        return found

    def shown(self, found: list[tuple[Dot, Write]], context: bytes | None) -> Shown:
        """Return what an answer showed; checks that its context hides no acknowledged write."""
        covers = {} if context is None else opened(context, self.key, self._cluster)
        seen = live = hidden = 0
        for _, write in found:
            live |= write.bit
            seen |= write.bit | write.seen
        for actor, counter in covers.items():
            dots = self._actors.get(actor)
            if dots is not None:
                place = bisect(dots.counters, counter)
                hidden |= dots.masks[place]
                seen |= dots.gone[place]
        hidden &= self.acked & ~seen
        if hidden and self.kind is not Kind.NEWEST:
            hidden &= ~self._may_be_deleted()
            if hidden:
                raise ViolationError(
                    "context-true",
                    f"a context covers {members(hidden)}, shown to nobody: shown were {members(seen)}",
                    self,
                )
        return Shown(context, covers, seen, live, tuple(w.value for _, w in found if w.value is not None))

    def _may_be_deleted(self) -> int:
        """Return what deletes of unknown dot, or overwrites, may have taken away."""
        result = 0
        for write in self.writes:
            if (write.value is None and (write.unsure or not write.dots)) or write.overwrite:
                result |= write.bit | write.seen
        return result

    def deleted(self) -> int:
        """Return all deletes and what they have seen."""
        result = 0
        for write in self.writes:
            if write.value is None:
                result |= write.bit | write.seen
        return result

    def end_read(
        self,
        now_ns: int,
        reading: Reading,
        rows: list[list[object]],
        context: bytes | None,
        *,
        strict: bool,
        client: str,
    ) -> Shown:
        """A get was answered; check it against what was acknowledged before it began."""
        found = self.versions(rows)
        shown = self.shown(found, context)
        began = reading.started_ns
        self.note(
            now_ns,
            lambda: f"{client} get from {began / MS:.3f} found {names(found)} {'' if strict else 'not strict'}",
        )
        for dot, write in found if len(found) > 1 else ():
            for _, other in found:
                if other is not write and other.covers.get(dot[0], 0) >= dot[1]:
                    raise ViolationError(
                        "siblings-concurrent", f"w{write.index} lives beside w{other.index}, which has seen it", self
                    )
        if strict and reading.started_ns > self._drifted_ns:
            self._check_strict(reading, found, shown)
        return shown

    def _check_strict(self, reading: Reading, found: list[tuple[Dot, Write]], shown: Shown) -> None:
        for dot, write in found:
            if reading.dead.get(dot[0], 0) >= dot[1]:
                raise ViolationError(
                    "no-value-back", f"w{write.index} is back: an acknowledged write had seen it before this get", self
                )
            for buried_ns, seen in self.burials if write.unsure else ():
                if seen & write.bit and buried_ns < min(write.sent_ns, reading.started_ns):
                    raise ViolationError(
                        "no-value-back",
                        f"w{write.index} was sent once more after a delete had seen it, and is back",
                        self,
                    )
        if self.kind is Kind.NEWEST:
            self._check_newest(reading.newest, [write for _, write in found])
            return
        missing = reading.must & ~shown.seen
        if missing:
            missing &= ~self.deleted() & ~self._may_be_deleted()
            if missing:
                raise ViolationError(
                    "read-your-writes", f"{members(missing)} acknowledged before this get, which does not know it", self
                )

    def _check_newest(self, newest_ns: int, found: list[Write]) -> None:
        """The version with the largest time was not acknowledged strictly before another such write began.

        Its time may be the smaller one: clocks that are far ahead are not followed, only covered. A write that was
        sent twice may take effect twice, the second time after those that came between.
        """
        if not newest_ns:
            return
        last = max(found, key=lambda write: write.time, default=None)
        older = last is not None and last.bit & self.strict and last.acked_ns < newest_ns and not last.unsure
        if last is None or older:
            shown = "nothing" if last is None else f"w{last.index}"
            raise ViolationError("newest-wins", f"{shown}, where a later overwrite was acknowledged", self)

    # ---- the end

    def check_final(self, record: Record | None) -> None:
        """Compare with the merged record of all replicas after everything has come to rest."""
        versions = () if record is None else record.versions
        alive_seen = 0
        for actor, counter, time, id, value in versions:
            write = self.by_id.get(id)
            if write is None or write.value != value:
                raise ViolationError("values-written", f"a version {value!r} that nobody wrote", self)
            self.know(write, (actor, counter))
            alive_seen |= write.bit | write.seen
            write.time = time
            if value is not None and self.buried.get(actor, 0) >= counter:
                raise ViolationError("no-value-back", f"w{write.index} is back at the end", self)
        if self.kind is Kind.NEWEST:
            self._check_newest(self.newest, [self.by_id[row[3]] for row in versions])
            return
        lost = self.acked & ~alive_seen & ~self.deleted()
        if lost:
            raise ViolationError("no-write-lost", f"acknowledged {members(lost)} gone", self)
        if self.kind is Kind.SET:
            self._check_set(record)

    def _check_set(self, record: Record | None) -> None:
        """The union of all values has every acknowledged element."""
        union = 0
        for *_, value in () if record is None else record.versions:
            union |= int(value or b"0", 16)
        for write in self.writes:
            if write.acked_ns and write.value is not None and int(write.value, 16) & ~union:
                raise ViolationError("no-write-lost", f"an element of acknowledged w{write.index} is gone", self)


def opened(context: bytes, key: bytes, cluster: bytes) -> dict[int, int]:
    """Return what a context covers: actor -> counter."""
    return {actor: counter for actor, counter, _ in open_context(context, key, cluster)}


def joined(one: dict[int, int], two: dict[int, int]) -> dict[int, int]:
    """Return the larger counter of each actor; *one* itself when *two* adds nothing."""
    result = one
    for actor, counter in two.items():
        if result.get(actor, 0) < counter:
            if result is one:
                result = dict(one)
            result[actor] = counter
    return result


def members(mask: int) -> str:
    """Return the writes of a set, for people."""
    return "{" + " ".join(f"w{index}" for index in range(mask.bit_length()) if mask >> index & 1) + "}"


def _told(write: Write, client: str) -> str:
    shown = "delete" if write.value is None else f"put {write.value[:24]!r}"
    return f"{client} w{write.index} {shown} having seen {members(write.seen)} {'overwrite' * write.overwrite}"


def names(found: list[tuple[Dot, Write]]) -> str:
    """Return the writes found, for people."""
    return " ".join(f"w{write.index}" for _, write in found) or "nothing"
