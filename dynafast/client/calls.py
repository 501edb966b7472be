"""The verbs, each told once for all shells: which node to ask next, when to give up, what to raise.

A call is a generator. It yields `Wait` (resume when the ticket it named is settled, or at that time) and
`Run` (call the user's function outside of any lock, send back what it returns), and returns the result of the
verb. Closing the generator cancels the call at any point.

What a node's error means for a write: every code but ``timeout`` and ``uncertain`` says that surely nothing
was done, so another node may be asked. After those two, or when the connection ends once a byte of the
request was handed over, nobody knows. Then the key is read: a version with this put's write id means done; if
the read shows nothing newer than what the put was based on, it is sent again with the same id (versions of
one id count as one); else only the caller can decide. A blind repeat could bring back a value that somebody
has read and deleted meanwhile.

May not: touch a socket, a clock or a random source; wait.
"""

from collections.abc import Callable, Generator, Hashable, Mapping
from typing import Any, NamedTuple

from dynafast.client.core import PATIENCE_MAX_S, PATIENCE_MIN_S, Core, check_timeout
from dynafast.client.link import Ticket
from dynafast.client.messages import Answer, Done, Failed, Found, Request, Written
from dynafast.client.results import GetResult, PutResult, Resolver
from dynafast.errors import (
    BadRequestError,
    DynafastError,
    InvariantViolation,
    NotReachedError,
    OverloadedError,
    PeerProtocolError,
    RequestError,
    RequestTimeoutError,
    TooLargeError,
    WriteUncertainError,
)
from dynafast.limits import KEY_MAX, REPLICAS_MAX_COUNT, VALUE_MAX, WEIGHT_MAX
from dynafast.protocol import Op, is_label

FINAL = frozenset({"bad-request", "bad-context", "too-large", "too-many-versions", "unknown-op"})
UNKNOWN = frozenset({"timeout", "uncertain"})
PASSING = frozenset(
    {"overloaded", "starting", "stopping", "not-replica", "no-seat"}
)  # worth asking until the time is over
UNREACHED_ROUNDS = 4  # over all nodes, when none lets us in
UNAVAILABLE_ASKS = 4  # other nodes asked after one has said that the quorum cannot be reached
UNAVAILABLE_ROUNDS = 4  # times they are asked: while a seat changes hands nobody serves it, for some milliseconds
UNKNOWN_TRIES = 4  # times a put of unknown outcome is sent again
PAUSE_MIN_S = 0.05
PAUSE_MAX_S = 0.5
CHECK_S = 12.0  # a node takes up to 10 s to compare all replicas
CHANGES = ("join", "leave", "remove", "weight")  # what a plan can be made for


class Wait(NamedTuple):
    """Resume when *ticket* is settled, at *until* (on the clock of the core) in any case."""

    until: float
    ticket: Ticket | None


class Run(NamedTuple):
    """Call *function* with *argument*; resume with what it returns, or throw what it raises."""

    function: Callable[[Any], Any]
    argument: Any


Step = Wait | Run


class _NotSent(Exception):
    """Surely nothing of the request left this process."""

    def __init__(self, cause: DynafastError) -> None:
        self.cause = cause


class _NoAnswer(Exception):
    """The request was handed over, and nobody knows what came of it."""

    def __init__(self, cause: DynafastError) -> None:
        self.cause = cause


class Call:
    """One call of a verb: a deadline, and the steps towards its result.

    Args:
        owner: named by the `Wake` effect of the core.
    """

    def __init__(self, core: Core, *, owner: Hashable, resolver: Resolver | None = None) -> None:
        self._core = core
        self._owner = owner
        self._resolver = resolver
        self._deadline = core.clock() + core.timeout_s

    # ---- the verbs

    def get(
        self,
        key: bytes,
        *,
        r: int | None = None,
        pr: int | None = None,
        timeout: float | None = None,
        sloppy: bool | None = None,
    ) -> Generator[Step, Any, GetResult]:
        """Read a key."""
        check_key(key)
        request = Request(Op.GET, (key,), _options({"r": r, "pr": pr}, sloppy), timed=True)
        self._take(timeout)
        found = yield from self._found(key, request)
        return GetResult(versions=found.versions, context=found.context, receipt=found.receipt, resolver=self._resolver)

    def put(
        self,
        key: bytes,
        value: bytes,
        *,
        context: bytes | None = None,
        w: int | None = None,
        pw: int | None = None,
        dw: int | None = None,
        timeout: float | None = None,
        sloppy: bool | None = None,
        overwrite: bool = False,
    ) -> Generator[Step, Any, PutResult]:
        """Write a key once, however often it is sent."""
        check_value(value)
        options = _options({"w": w, "pw": pw, "dw": dw}, sloppy)
        if overwrite:
            options["overwrite"] = True
        self._take(timeout)
        return (yield from self._write(key, value, context, options))

    def delete(
        self,
        key: bytes,
        *,
        context: bytes | None = None,
        w: int | None = None,
        pw: int | None = None,
        dw: int | None = None,
        timeout: float | None = None,
        sloppy: bool | None = None,
    ) -> Generator[Step, Any, PutResult | None]:
        """Delete what *context* covers; without one, what a read finds. None: there was nothing to delete."""
        options = _options({"w": w, "pw": pw, "dw": dw}, sloppy)
        self._take(timeout)
        if context is None:
            found = yield from self.get(key, sloppy=sloppy)
            if not found.found or found.context is None:
                return None
            context = found.context
        return (yield from self._write(key, None, context, options))

    def update(self, key: bytes, function: Callable[[bytes | None], bytes]) -> Generator[Step, Any, PutResult]:
        """Read, resolve, let *function* make the new value, write it with the context of the read."""
        unknown: WriteUncertainError | None = None
        for _ in range(UNKNOWN_TRIES):
            try:
                found = yield from self.get(key)
                value = yield Run(_resolved, found)
            except DynafastError as error:
                if unknown is not None:
                    raise unknown from error
                raise
            new = yield Run(function, value)
            if not isinstance(new, bytes):
                raise TypeError(f"the function of an update must return bytes, not {type(new).__name__}")
            try:
                return (yield from self.put(key, new, context=found.context))
            except WriteUncertainError as error:
                unknown = error
                if self._core.clock() >= self._deadline:
                    raise
        raise unknown or InvariantViolation("an update was never tried")

    def ring(self, key: bytes | None, *, at: str | None) -> Generator[Step, Any, dict[str, Any]]:
        """Return the ring, or where *key* belongs, as the node *at* that address sees it, or any node."""
        if key is not None:
            check_key(key)
        return (yield from self._done(at, Request(Op.RING, (key,))))

    def status(self, *, at: str | None, config: bool) -> Generator[Step, Any, dict[str, Any]]:
        """Return the status of the cluster as the node *at* that address sees it, or any node."""
        return (yield from self._done(at, Request(Op.STATUS, (), {"config": True} if config else {})))

    def leave(self, name: str) -> Generator[Step, Any, dict[str, Any]]:
        """Tell a member to hand over what it has and go."""
        return (yield from self._changed(Request(Op.LEAVE, (check_name(name),))))

    def remove(self, name: str, *, accept_loss: bool = False) -> Generator[Step, Any, dict[str, Any]]:
        """Take a dead member out of the cluster for ever."""
        if not isinstance(accept_loss, bool):
            raise TypeError(f"accept_loss must be a boolean, not {type(accept_loss).__name__}")
        return (yield from self._changed(Request(Op.REMOVE, (check_name(name), accept_loss))))

    def weight(self, name: str, weight: int) -> Generator[Step, Any, dict[str, Any]]:
        """Change the share of a member."""
        return (yield from self._changed(Request(Op.WEIGHT, (check_name(name), check_weight(weight)))))

    def plan(
        self, change: str, *, name: str | None, weight: int | None, at: str | None
    ) -> Generator[Step, Any, dict[str, Any]]:
        """Return what a change would move."""
        if change not in CHANGES:
            raise BadRequestError(f"a plan is for one of {', '.join(CHANGES)}, got {change!r}")
        wish: dict[str, object] = {"change": change}
        if change != "join":
            wish["name"] = check_name(name)
        if change in ("join", "weight"):
            wish["weight"] = check_weight(weight)
        return (yield from self._done(at, Request(Op.PLAN, (wish,)), passing=PASSING))

    def check(self, *, at: str | None, timeout: float | None) -> Generator[Step, Any, dict[str, Any]]:
        """Compare the replicas of every partition."""
        self._take(max(self._core.timeout_s, CHECK_S) if timeout is None else timeout)
        return (yield from self._done(at, Request(Op.CHECK)))

    # ---- a write and its outcome

    def _write(
        self, key: bytes, value: bytes | None, context: bytes | None, options: dict[str, object]
    ) -> Generator[Step, Any, PutResult]:
        check_key(key)
        check_context(context)
        write_id = self._core.random.randbytes(16)
        request = Request(Op.PUT, (key, value, context, write_id), options, timed=True)
        unknown: WriteUncertainError | None = None
        for _ in range(UNKNOWN_TRIES):
            try:
                return (yield from self._written(key, request))
            except _NoAnswer as outcome:
                unknown = _uncertain(outcome.cause)
            except DynafastError as error:
                if unknown is not None:
                    raise unknown from error  # this time surely nothing was done; the time before, who knows
                raise
            if value is None:
                continue  # a delete covers what its context covers, twice does no more
            try:
                found = yield from self._found(key, Request(Op.GET, (key,), {}, timed=True))
            except DynafastError as error:
                raise unknown from error
            done = _find(found, write_id)
            if done is not None:
                return done
            unchanged = found.context == context and (context is not None or not found.versions)
            if not unchanged and not options.get("overwrite"):
                break
        raise unknown or InvariantViolation("a write was never tried")

    # ---- typed answers

    def _found(self, key: bytes, request: Request) -> Generator[Step, Any, Found]:
        answer = yield from self._ask_around(key, request, repeat=True)
        if not isinstance(answer, Found):
            raise PeerProtocolError("a GET was not answered with FOUND")
        return answer

    def _written(self, key: bytes, request: Request) -> Generator[Step, Any, PutResult]:
        answer = yield from self._ask_around(key, request, repeat=False)
        if not isinstance(answer, Written):
            raise PeerProtocolError("a PUT was not answered with WRITTEN")
        actor, counter, time = answer.dot
        return PutResult(
            dot=(actor, counter), time=time, live=answer.live, context=answer.context, receipt=answer.receipt
        )

    def _done(
        self, at: str | None, request: Request, *, passing: frozenset[str] | None = None
    ) -> Generator[Step, Any, dict[str, Any]]:
        answer = yield from self._ask_around(None, request, repeat=True, only=at, passing=passing)
        if not isinstance(answer, Done) or not isinstance(answer.result, dict):
            raise PeerProtocolError("a request was not answered with OK and a map")
        return answer.result

    def _changed(self, request: Request) -> Generator[Step, Any, dict[str, Any]]:
        """Ask for a change of the members: what one node refuses, another would refuse too."""
        return (yield from self._done(None, request, passing=PASSING))

    # ---- asking

    def _take(self, timeout: float | None) -> None:
        """Take *timeout* seconds for this call, retries included; None: as the client has it."""
        if timeout is not None:
            self._deadline = self._core.clock() + check_timeout(timeout)

    def _ask_around(
        self,
        key: bytes | None,
        request: Request,
        *,
        repeat: bool,
        only: str | None = None,
        passing: frozenset[str] | None = None,
    ) -> Generator[Step, Any, Answer]:
        """Ask nodes until one answers.

        *repeat*: asking again elsewhere does no harm. *only*: ask no other node. *passing*: the codes that another
        node may not answer; None: all but the final ones.

        Raises:
            _NoAnswer: not *repeat*, and the outcome is unknown.
            DynafastError: a final answer, or no node is left and the time or the tries are used up.
        """
        self._core.refresh()
        failure: DynafastError | None = None
        tried: set[str] = set()
        rounds = asks = 0
        while True:
            unavailable = isinstance(failure, RequestError) and failure.code == "unavailable"
            address = self._next(key, tried, only, poor=not unavailable)
            if address is None or (unavailable and asks > UNAVAILABLE_ASKS):
                pause_s = self._pause(failure, rounds)
                if pause_s is None:
                    raise failure or NotReachedError("the client is closed")
                yield Wait(self._core.clock() + pause_s, None)
                rounds += 1
                asks = 0
                tried.clear()
                continue
            tried.add(address)
            try:
                answer = yield from self._ask(address, request)
            except _NotSent as outcome:
                if not isinstance(failure, RequestError) or isinstance(outcome.cause, RequestError):
                    failure = outcome.cause
            except _NoAnswer as outcome:
                if not repeat:
                    raise
                failure = outcome.cause
            else:
                if not isinstance(answer, Failed):
                    return answer
                failure = answer.error
                if failure.code in FINAL or (passing is not None and failure.code not in passing):
                    raise failure
                if failure.code in UNKNOWN and not repeat:
                    raise _NoAnswer(failure)
                asks += 1
                self._core.refused(address, failure)
            if self._core.clock() >= self._deadline:
                raise failure

    def _next(self, key: bytes | None, tried: set[str], only: str | None, *, poor: bool) -> str | None:
        if only is None:
            return self._core.choose(key, tried, poor=poor)
        return None if only in tried or self._core.closed else only

    def _pause(self, failure: DynafastError | None, rounds: int) -> float | None:
        """Return how long to wait before all nodes are asked again; None: raise *failure*."""
        if failure is None or self._core.closed:
            return None
        passing = isinstance(failure, RequestTimeoutError)
        if isinstance(failure, NotReachedError):
            passing = rounds < UNREACHED_ROUNDS - 1
        elif isinstance(failure, RequestError) and failure.code == "unavailable":
            passing = rounds < UNAVAILABLE_ROUNDS - 1
        elif isinstance(failure, RequestError):
            passing = passing or failure.code in PASSING
        if not passing:
            return None
        pause_s = min(PAUSE_MIN_S * 2.0**rounds, PAUSE_MAX_S)
        if isinstance(failure, OverloadedError):
            retry_after_ms = failure.details.get("retry_after_ms")
            if isinstance(retry_after_ms, int):
                pause_s = max(pause_s, retry_after_ms / 1000)
        pause_s *= self._core.random.uniform(0.75, 1.25)
        return pause_s if self._core.clock() + pause_s < self._deadline else None

    def _ask(self, address: str, request: Request) -> Generator[Step, Any, Answer]:
        """Send to one node, wait for its answer, and look after it when it is silent."""
        core = self._core
        now = core.clock()
        patience_s = min(max((self._deadline - now) / 4, PATIENCE_MIN_S), PATIENCE_MAX_S)
        look_at = now + patience_s
        ticket = core.send(address, request, deadline=self._deadline, owner=self._owner)
        try:
            while not ticket.settled and now < self._deadline:
                yield Wait(min(look_at, self._deadline), ticket)
                now = core.clock()
                if now >= look_at:
                    core.examine(ticket, patience_s)
                    look_at = now + patience_s
        finally:
            ticket.link.recall(ticket)
        if ticket.answer is not None:
            return ticket.answer
        if ticket.failure is not None:
            raise _NoAnswer(ticket.failure) if ticket.handed else _NotSent(ticket.failure)
        if ticket.handed:
            raise _NoAnswer(RequestTimeoutError(f"{address} did not answer in time"))
        raise _NotSent(core.not_handed(ticket))


def _resolved(found: GetResult) -> bytes | None:
    return found.value


def _find(found: Found, write_id: bytes) -> PutResult | None:
    """Return the result of the put with this id if a read shows it."""
    for version in found.versions:
        if version.write_id == write_id:
            live = len({other.write_id for other in found.versions})
            return PutResult(
                dot=(version.actor, version.counter),
                time=version.time,
                live=live,
                context=found.context if live == 1 else None,
                receipt=found.receipt,
            )
    return None


def _uncertain(cause: DynafastError) -> WriteUncertainError:
    if isinstance(cause, WriteUncertainError):
        return cause
    details = cause.details if isinstance(cause, RequestError) else {}
    return WriteUncertainError(f"outcome unknown: {cause}", details)


def check_key(key: object) -> None:
    """Raise what a node would answer to this key, before anything is sent."""
    if not isinstance(key, bytes):
        raise TypeError(f"a key must be bytes, not {type(key).__name__}")
    if not key:
        raise BadRequestError("the key must not be empty")
    if len(key) > KEY_MAX:
        raise TooLargeError(f"the key must have at most {KEY_MAX} bytes, got {len(key)}")


def check_value(value: object) -> None:
    """Raise what a node would answer to this value, before anything is sent."""
    if not isinstance(value, bytes):
        raise TypeError(f"a value must be bytes, not {type(value).__name__}")
    if len(value) > VALUE_MAX:
        raise TooLargeError(f"the value must have at most {VALUE_MAX} bytes, got {len(value)}")


def check_integer(name: str, number: object, most: int) -> int:
    """Return *number*, which must be in 1..*most*."""
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{name} must be an integer, not {type(number).__name__}")
    if not 1 <= number <= most:
        raise BadRequestError(f"{name} must be in 1..{most}, got {number}")
    return number


def check_weight(weight: object) -> int:
    """Return *weight*, the share of a member."""
    return check_integer("weight", weight, WEIGHT_MAX)


def check_name(name: object) -> str:
    """Return *name*, that of a member."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a node must be a string, not {type(name).__name__}")
    if not is_label(name):
        raise BadRequestError(f"{name!r} cannot be the name of a node")
    return name


def _options(counts: Mapping[str, int | None], sloppy: bool | None) -> dict[str, object]:  # noqa: FBT001 - a value that is passed on
    """Return those request options that were given."""
    options: dict[str, object] = {
        name: check_integer(name, count, REPLICAS_MAX_COUNT) for name, count in counts.items() if count is not None
    }
    if sloppy is not None:
        if not isinstance(sloppy, bool):
            raise TypeError(f"sloppy must be a boolean, not {type(sloppy).__name__}")
        options["sloppy"] = sloppy
    return options


def check_context(context: object) -> None:
    """Raise if the context cannot be one."""
    if context is not None and not isinstance(context, bytes):
        raise TypeError(f"a context must be bytes or None, not {type(context).__name__}")
