"""The asynchronous client, on trio and asyncio through anyio.

One task per connection reads, one beside it writes: a call only queues its request and waits for its own
event, so cancelling a call touches no socket and cannot cut a frame.
"""

import time
from collections.abc import Callable, Generator, Sequence
from random import SystemRandom
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
from anyio.abc import ByteStream, TaskGroup

from dynafast.client.calls import Call, Run, Step, Wait
from dynafast.client.core import Close, Core, Open, Wake, Write, split_address
from dynafast.client.link import Link
from dynafast.client.results import GetResult, PutResult, Resolver

RECEIVE_SIZE = 256 * 1024

_T = TypeVar("_T")


class _Waiter:
    """A task inside a call."""

    __slots__ = ("event",)

    def __init__(self) -> None:
        self.event = anyio.Event()


class _Wire:
    """The tasks of one link: the scope that ends them, and what wakes the writer."""

    __slots__ = ("more", "scope")

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.more = anyio.Event()


class AsyncClient:
    """A client of a cluster, for many tasks of one event loop: ``async with AsyncClient(...) as client``.

    Args:
        addresses: "HOST:PORT" (or "[IPV6]:PORT") of a node, or a sequence of them: the others are learnt.
        timeout: seconds, at most 60; every call answers or raises within it, retries included.
        resolver: makes one value of several, the oldest first: `dynafast.lww`, or any function.

    Raises:
        ConfigError: an argument is bad.

    Verbs and their errors are those of `Client`. A call may be cancelled at any time; of a write that is
    cancelled nobody knows whether it was done.
    """

    def __init__(
        self, addresses: str | Sequence[str], *, timeout: float = 5.0, resolver: Resolver | None = None
    ) -> None:
        self._core = Core(addresses, timeout_s=timeout, clock=time.monotonic, random=SystemRandom())
        self._resolver = resolver
        self._wires: dict[Link, _Wire] = {}
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        if self._tasks is not None or self._core.closed:
            raise RuntimeError("an AsyncClient can be entered once")
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._core.close()
        self._perform()
        if self._tasks is not None:
            if isinstance(error, anyio.get_cancelled_exc_class()):
                await self._tasks.__aexit__(kind, error, trace)
            else:  # the user's own error passes by the group, which would wrap it
                await self._tasks.__aexit__(None, None, None)

    # ---- the verbs

    async def get(
        self,
        key: bytes,
        *,
        r: int | None = None,
        pr: int | None = None,
        timeout: float | None = None,
        sloppy: bool | None = None,
    ) -> GetResult:
        """Return what *r* replicas know of the key (None: as the cluster has it).

        *pr*: how many of them must be primaries, which serve the key. *timeout*: seconds for this call; None: the
        client's. *sloppy*: whether fallbacks may stand in for primaries (None: yes).
        """
        return await self._run(lambda call: call.get(key, r=r, pr=pr, timeout=timeout, sloppy=sloppy))

    async def put(
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
    ) -> PutResult:
        """Write a value; with the *context* of a read it replaces what that read found.

        Without a context it stands beside what is there. *overwrite*: it replaces whatever is there, and among
        concurrent overwrites the last one wins. *w*: replicas that must have it (None: as the cluster has it); *pw*:
        how many of them must be primaries; *dw*: how many must have it synced to disk. *timeout*, *sloppy*: as for
        `get`.
        """
        return await self._run(
            lambda call: call.put(
                key,
                value,
                context=context,
                w=w,
                pw=pw,
                dw=dw,
                timeout=timeout,
                sloppy=sloppy,
                overwrite=overwrite,
            )
        )

    async def delete(
        self,
        key: bytes,
        *,
        context: bytes | None = None,
        w: int | None = None,
        pw: int | None = None,
        dw: int | None = None,
        timeout: float | None = None,
        sloppy: bool | None = None,
    ) -> PutResult | None:
        """Delete what *context* covers; without one, what is there. None: there was nothing.

        The options are those of `put`.
        """
        return await self._run(
            lambda call: call.delete(key, context=context, w=w, pw=pw, dw=dw, timeout=timeout, sloppy=sloppy)
        )

    async def update(self, key: bytes, function: Callable[[bytes | None], bytes]) -> PutResult:
        """Write what *function* makes of the present value (None: there is none), replacing what was read.

        *function* may be called more than once. Raises `ConflictError` when there are several values and no
        resolver.
        """
        return await self._run(lambda call: call.update(key, function))

    async def status(self, *, at: str | None = None, config: bool = False) -> dict[str, Any]:
        """Return the cluster as the node *at* that address sees it, or any node; *config*: its settings."""
        return await self._run(lambda call: call.status(at=at, config=config))

    async def ring(self, key: bytes | None = None, *, at: str | None = None) -> dict[str, Any]:
        """Return where *key* belongs, or without one the whole ring, as one node sees it."""
        return await self._run(lambda call: call.ring(key, at=at))

    # ---- the members

    async def leave(self, name: str) -> dict[str, Any]:
        """Tell the member *name* to hand over what it has and go; its process ends when that is done.

        Like `remove` and `weight` this returns when the change is accepted, and raises `RefusedError` with the reason
        when it is not. The work goes on behind: `check` tells when it is done.
        """
        return await self._run(lambda call: call.leave(name))

    async def remove(self, name: str, *, accept_loss: bool = False) -> dict[str, Any]:
        """Take the member *name*, which is dead, out of the cluster for ever; others take over what it served.

        *accept_loss*: also if no copy of some partitions is left. The result lists them under "lost".
        """
        return await self._run(lambda call: call.remove(name, accept_loss=accept_loss))

    async def weight(self, name: str, weight: int) -> dict[str, Any]:
        """Give the member *name* another share of the data, relative to the other members."""
        return await self._run(lambda call: call.weight(name, weight))

    async def plan(
        self, change: str, *, name: str | None = None, weight: int | None = None, at: str | None = None
    ) -> dict[str, Any]:
        """Return what a change would move, and between whom; nothing is done.

        *change*: "join" (of a node with that *weight*), "leave" or "remove" (of the member *name*), or "weight".
        """
        return await self._run(lambda call: call.plan(change, name=name, weight=weight, at=at))

    async def check(self, *, at: str | None = None, timeout: float | None = None) -> dict[str, Any]:
        """Compare the replicas of every partition.

        Under "divergent" are the partitions whose replicas differ or lack one, under "unreachable" the members that
        did not answer, under "hints" how many writes wait for their node. All is well when these are empty and 0.
        """
        return await self._run(lambda call: call.check(at=at, timeout=timeout))

    # ---- one call

    async def _run(self, begin: Callable[[Call], Generator[Step, Any, _T]]) -> _T:
        if self._tasks is None:
            raise RuntimeError("use an AsyncClient inside `async with`")
        await anyio.lowlevel.checkpoint()
        waiter = _Waiter()
        steps = begin(Call(self._core, owner=waiter, resolver=self._resolver))
        try:
            step = next(steps)
            while True:
                self._perform()
                if isinstance(step, Wait):
                    await self._wait(waiter, step)
                    step = steps.send(None)
                else:
                    step = _call_user(steps, step)
        except StopIteration as done:
            result: _T = done.value
            return result
        finally:
            steps.close()
            self._perform()

    async def _wait(self, waiter: _Waiter, step: Wait) -> None:
        if step.ticket is not None and step.ticket.settled:
            return
        waiter.event = anyio.Event()
        with anyio.move_on_after(step.until - time.monotonic()):
            await waiter.event.wait()

    # ---- connections

    def _perform(self) -> None:
        """Do what the core asks for, and what follows from that."""
        while effects := self._core.effects():
            for effect in effects:
                if isinstance(effect, Wake):
                    if isinstance(effect.owner, _Waiter):
                        effect.owner.event.set()
                elif isinstance(effect, Write):
                    wire = self._wires.get(effect.link)
                    if wire is not None:
                        wire.more.set()
                elif isinstance(effect, Open):
                    wire = self._wires[effect.link] = _Wire()
                    if self._tasks is not None:
                        self._tasks.start_soon(self._serve, effect.link, wire)
                elif isinstance(effect, Close):
                    wire = self._wires.pop(effect.link, None)
                    if wire is not None:
                        wire.scope.cancel()

    async def _serve(self, link: Link, wire: _Wire) -> None:
        """Live as long as the link."""
        reason = "the connection was closed"
        with wire.scope:
            try:
                host, port = split_address(link.address)
                stream = await anyio.connect_tcp(host, port)
                async with stream:
                    self._core.connected(link)
                    self._perform()
                    async with anyio.create_task_group() as both:
                        both.start_soon(self._write, link, wire, stream)
                        reason = await self._read(link, stream)
                        both.cancel_scope.cancel()
            except OSError as error:
                reason = str(error.__cause__ or error)
        self._core.lost(link, reason)
        self._perform()

    async def _read(self, link: Link, stream: ByteStream) -> str:
        """Feed the link until the connection ends; return why it did."""
        while True:
            try:
                data = await stream.receive(RECEIVE_SIZE)
            except anyio.EndOfStream:
                return "the node closed the connection"
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return "the connection broke"
            self._core.received(link, data)
            self._perform()

    async def _write(self, link: Link, wire: _Wire, stream: ByteStream) -> None:
        """Send what the link has. Only this task writes, and only the end of the connection cancels it."""
        while True:
            wire.more = anyio.Event()
            data = self._core.output(link)
            try:
                if data:
                    await stream.send(data)
                else:
                    await wire.more.wait()
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                self._core.lost(link, "the connection broke")
                self._perform()
                return


def _call_user(steps: Generator[Step, Any, _T], step: Run) -> Step:
    try:
        result = step.function(step.argument)
    except Exception as error:  # noqa: BLE001 - whatever the user's function raises belongs to the call
        return steps.throw(error)
    return steps.send(result)
