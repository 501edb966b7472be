"""The blocking client. Many threads share one connection per node, and there is no thread of its own.

Leader and followers: of the threads that wait for an answer one, the leader, watches all sockets and wakes
the others when their answers come; when it has its own it hands the watch to one of them. A thread alone is
always the leader, so its request costs one send, one wait and one receive. One lock guards everything; the
leader lets go of it only while it waits. Only with the lock held and nobody watching are sockets registered
or closed: a file descriptor that was closed under the leader's eyes could be another connection a moment
    later.

Name resolution has no timeout, so names (not numeric addresses) are looked up in a short-lived thread.
"""

import errno
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from random import SystemRandom
from types import TracebackType
from typing import Any, Self, TypeVar

from dynafast.client.calls import Call, Run, Step, Wait
from dynafast.client.core import Close, Core, Open, Wake, Write, split_address
from dynafast.client.link import Link
from dynafast.client.results import GetResult, PutResult, Resolver

RECEIVE_SIZE = 256 * 1024
IDLE_S = 0.05  # after this long without a look, see first whether connections have ended meanwhile

_T = TypeVar("_T")
_SocketAddress = tuple[Any, ...]


class _Waiter:
    """A thread inside a call."""

    __slots__ = ("condition",)

    def __init__(self, lock: threading.Lock) -> None:
        self.condition = threading.Condition(lock)


class _Wire:
    """The socket of one link."""

    __slots__ = ("choices", "connecting", "link", "mask", "socket", "unsent")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.choices: list[tuple[int, _SocketAddress]] = []  # addresses of the host that are still to be tried
        self.socket: socket.socket | None = None
        self.connecting = True
        self.mask = 0  # as registered with the selector
        self.unsent = memoryview(b"")


class Client:
    """A client of a cluster. Thread-safe; opens nothing before the first call.

    Args:
        addresses: "HOST:PORT" (or "[IPV6]:PORT") of a node, or a sequence of them: the others are learnt.
        timeout: seconds, at most 60; every call answers or raises within it, retries included.
        resolver: makes one value of several, the oldest first: `dynafast.lww`, or any function.

    Raises:
        ConfigError: an argument is bad.

    Every verb may raise `NotReachedError` (no node could be asked), `UnavailableError`, `OverloadedError`,
    `RefusedError`, `TooLargeError` and `BadRequestError` (nothing was written); reads `RequestTimeoutError`;
    writes `WriteUncertainError` (read before you write again).
    """

    def __init__(
        self, addresses: str | Sequence[str], *, timeout: float = 5.0, resolver: Resolver | None = None
    ) -> None:
        self._core = Core(addresses, timeout_s=timeout, clock=time.monotonic, random=SystemRandom())
        self._resolver = resolver
        self._lock = threading.Lock()
        self._wires: dict[Link, _Wire] = {}
        self._changed: dict[_Wire, None] = {}  # to be registered anew
        self._ended: list[_Wire] = []  # to be closed
        self._waiters: dict[_Waiter, None] = {}  # threads that wait, the leader apart
        self._leading = False
        self._looked_at = 0.0
        self._left = threading.Condition(self._lock)  # the leader has come back
        self._selector: selectors.BaseSelector | None = None
        self._bell: tuple[socket.socket, socket.socket] | None = None  # (heard by the leader, rung by the others)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. Calls in progress in other threads raise."""
        with self._lock:
            self._core.close()
            self._perform()
            while self._leading:
                self._ring_bell()
                self._left.wait()
            self._close_ended(self._selector)
            if self._selector is not None:
                self._selector.close()
                self._selector = None
            for end in self._bell or ():
                end.close()
            self._bell = None

    # ---- the verbs

    def get(
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
        return self._run(lambda call: call.get(key, r=r, pr=pr, timeout=timeout, sloppy=sloppy))

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
    ) -> PutResult:
        """Write a value; with the *context* of a read it replaces what that read found.

        Without a context it stands beside what is there. *overwrite*: it replaces whatever is there, and among
        concurrent overwrites the last one wins. *w*: replicas that must have it (None: as the cluster has it); *pw*:
        how many of them must be primaries; *dw*: how many must have it synced to disk. *timeout*, *sloppy*: as for
        `get`.
        """
        return self._run(
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
    ) -> PutResult | None:
        """Delete what *context* covers; without one, what is there. None: there was nothing.

        The options are those of `put`.
        """
        return self._run(
            lambda call: call.delete(key, context=context, w=w, pw=pw, dw=dw, timeout=timeout, sloppy=sloppy)
        )

    def update(self, key: bytes, function: Callable[[bytes | None], bytes]) -> PutResult:
        """Write what *function* makes of the present value (None: there is none), replacing what was read.

        *function* may be called more than once. Raises `ConflictError` when there are several values and no
        resolver.
        """
        return self._run(lambda call: call.update(key, function))

    def status(self, *, at: str | None = None, config: bool = False) -> dict[str, Any]:
        """Return the cluster as the node *at* that address sees it, or any node; *config*: its settings."""
        return self._run(lambda call: call.status(at=at, config=config))

    def ring(self, key: bytes | None = None, *, at: str | None = None) -> dict[str, Any]:
        """Return where *key* belongs, or without one the whole ring, as one node sees it."""
        return self._run(lambda call: call.ring(key, at=at))

    # ---- the members

    def leave(self, name: str) -> dict[str, Any]:
        """Tell the member *name* to hand over what it has and go; its process ends when that is done.

        Like `remove` and `weight` this returns when the change is accepted, and raises `RefusedError` with the reason
        when it is not. The work goes on behind: `check` tells when it is done.
        """
        return self._run(lambda call: call.leave(name))

    def remove(self, name: str, *, accept_loss: bool = False) -> dict[str, Any]:
        """Take the member *name*, which is dead, out of the cluster for ever; others take over what it served.

        *accept_loss*: also if no copy of some partitions is left. The result lists them under "lost".
        """
        return self._run(lambda call: call.remove(name, accept_loss=accept_loss))

    def weight(self, name: str, weight: int) -> dict[str, Any]:
        """Give the member *name* another share of the data, relative to the other members."""
        return self._run(lambda call: call.weight(name, weight))

    def plan(
        self, change: str, *, name: str | None = None, weight: int | None = None, at: str | None = None
    ) -> dict[str, Any]:
        """Return what a change would move, and between whom; nothing is done.

        *change*: "join" (of a node with that *weight*), "leave" or "remove" (of the member *name*), or "weight".
        """
        return self._run(lambda call: call.plan(change, name=name, weight=weight, at=at))

    def check(self, *, at: str | None = None, timeout: float | None = None) -> dict[str, Any]:
        """Compare the replicas of every partition.

        Under "divergent" are the partitions whose replicas differ or lack one, under "unreachable" the members that
        did not answer, under "hints" how many writes wait for their node. All is well when these are empty and 0.
        """
        return self._run(lambda call: call.check(at=at, timeout=timeout))

    # ---- one call

    def _run(self, begin: Callable[[Call], Generator[Step, Any, _T]]) -> _T:
        with self._lock:
            waiter = _Waiter(self._lock)
            self._look_after_idling()
            steps = begin(Call(self._core, owner=waiter, resolver=self._resolver))
            try:
                step = next(steps)
                while True:
                    self._perform()
                    if isinstance(step, Wait):
                        self._wait(waiter, step)
                        step = steps.send(None)
                    else:
                        step = self._call_user(steps, step)
            except StopIteration as done:
                result: _T = done.value
                return result
            except Exception:
                raise
            except BaseException:
                # Ctrl-C may strike between any two steps, also with a frame half on its way: start afresh.
                self._core.disconnect("interrupted")
                raise
            finally:
                steps.close()
                self._perform()
                self._call_leader()

    def _call_user(self, steps: Generator[Step, Any, _T], step: Run) -> Step:
        self._lock.release()
        try:
            result = step.function(step.argument)
        except BaseException as error:  # noqa: BLE001 - whatever the user's function raises belongs to the call
            self._lock.acquire()
            return steps.throw(error)
        self._lock.acquire()
        return steps.send(result)

    def _wait(self, waiter: _Waiter, step: Wait) -> None:
        """Return when the ticket is settled or the time has come; watch the sockets if nobody does."""
        try:
            while not (self._core.closed or (step.ticket is not None and step.ticket.settled)):
                left_s = step.until - time.monotonic()
                if left_s <= 0:
                    return
                if not self._leading:
                    self._watch(left_s)
                else:
                    self._waiters[waiter] = None
                    waiter.condition.wait(left_s)
        finally:
            self._waiters.pop(waiter, None)
            self._call_leader()

    def _call_leader(self) -> None:
        """Somebody must watch: wake one of those who wait."""
        if not self._leading and self._waiters:
            next(iter(self._waiters)).condition.notify()

    # ---- sockets; always with the lock held

    def _look_after_idling(self) -> None:
        if self._wires and not self._leading and time.monotonic() - self._looked_at > IDLE_S:
            self._watch(0.0)

    def _watch(self, timeout_s: float) -> None:
        """Wait for the sockets once, as the leader, and handle what they have."""
        selector = self._apply()
        self._leading = True
        self._lock.release()
        try:
            ready = selector.select(timeout_s)
        finally:
            self._lock.acquire()
            self._leading = False
            self._left.notify_all()
        self._looked_at = time.monotonic()
        for key, mask in ready:
            if key.data is None and self._bell is not None:
                self._bell[0].recv(RECEIVE_SIZE)
            elif key.data.link in self._wires:
                self._ready(key.data, mask)
        self._perform()

    def _apply(self) -> selectors.BaseSelector:
        """Bring the selector up to date. Nobody watches."""
        selector = self._selector
        if selector is None:
            selector = self._selector = selectors.DefaultSelector()
            self._bell = socket.socketpair()
            for end in self._bell:
                end.settimeout(0)
            selector.register(self._bell[0], selectors.EVENT_READ)
        self._close_ended(selector)
        for wire in self._changed:
            self._register(selector, wire)
        self._changed.clear()
        return selector

    def _close_ended(self, selector: selectors.BaseSelector | None) -> None:
        for wire in self._ended:
            self._changed.pop(wire, None)
            if wire.socket is not None:
                if wire.mask and selector is not None:
                    selector.unregister(wire.socket)
                wire.socket.close()
        self._ended.clear()

    def _register(self, selector: selectors.BaseSelector, wire: _Wire) -> None:
        if wire.socket is None:
            return
        mask = selectors.EVENT_WRITE if wire.connecting else selectors.EVENT_READ
        if wire.unsent:
            mask |= selectors.EVENT_WRITE
        if not wire.mask:
            selector.register(wire.socket, mask, wire)
        elif mask != wire.mask:
            selector.modify(wire.socket, mask, wire)
        wire.mask = mask

    def _change(self, wire: _Wire) -> None:
        self._changed[wire] = None
        if self._leading:
            self._ring_bell()

    def _ring_bell(self) -> None:
        if self._bell is not None:
            with suppress(BlockingIOError):  # full: it rings already
                self._bell[1].send(b"\0")

    def _perform(self) -> None:
        """Do what the core asks for, and what follows from that."""
        while effects := self._core.effects():
            for effect in effects:
                if isinstance(effect, Wake):
                    if isinstance(effect.owner, _Waiter):
                        effect.owner.condition.notify()
                elif isinstance(effect, Write):
                    wire = self._wires.get(effect.link)
                    if wire is not None and not wire.connecting:
                        self._send(wire)
                elif isinstance(effect, Open):
                    self._open(effect.link)
                elif isinstance(effect, Close):
                    self._end(effect.link)

    def _open(self, link: Link) -> None:
        wire = self._wires[link] = _Wire(link)
        host, port = split_address(link.address)
        try:
            wire.choices = _resolve(host, port, socket.AI_NUMERICHOST)
        except OSError:
            threading.Thread(target=self._look_up, args=(wire, host, port), daemon=True).start()
        else:
            self._dial(wire, "no address")

    def _look_up(self, wire: _Wire, host: str, port: int) -> None:
        choices: list[tuple[int, _SocketAddress]] = []
        reason = "no address"
        try:
            choices = _resolve(host, port, 0)
        except OSError as error:
            reason = f"cannot resolve {host}: {error.strerror}"
        with self._lock:
            if wire.link in self._wires:
                wire.choices = choices
                self._dial(wire, reason)
                self._perform()

    def _dial(self, wire: _Wire, reason: str) -> None:
        """Connect to the next address of the host. *reason*: why the last one failed."""
        if wire.socket is not None:
            failed = _Wire(wire.link)
            failed.socket, failed.mask = wire.socket, wire.mask
            self._ended.append(failed)
            wire.socket, wire.mask = None, 0
        while wire.choices:
            family, address = wire.choices.pop(0)
            try:
                wire.socket = socket.socket(family, socket.SOCK_STREAM)
                wire.socket.settimeout(0)
                wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                code = wire.socket.connect_ex(address)
            except OSError as error:
                code = error.errno or errno.EIO
            if code in (0, errno.EINPROGRESS):
                self._change(wire)
                return
            reason = os.strerror(code)
            if wire.socket is not None:
                wire.socket.close()
                wire.socket = None
        self._core.lost(wire.link, reason)

    def _ready(self, wire: _Wire, mask: int) -> None:
        if wire.socket is None:
            return
        if wire.connecting:
            code = wire.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._dial(wire, os.strerror(code))
                return
            wire.connecting = False
            self._change(wire)
            self._core.connected(wire.link)
            return
        if mask & selectors.EVENT_READ:
            self._receive(wire, wire.socket)
        if mask & selectors.EVENT_WRITE and wire.link in self._wires:
            self._send(wire)

    def _receive(self, wire: _Wire, sock: socket.socket) -> None:
        try:
            data = sock.recv(RECEIVE_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._core.lost(wire.link, error.strerror or str(error))
            return
        if data:
            self._core.received(wire.link, data)
        else:
            self._core.lost(wire.link, "the node closed the connection")

    def _send(self, wire: _Wire) -> None:
        """Send until there is nothing left or the socket takes no more."""
        if wire.socket is None:
            return
        was_full = bool(wire.unsent)
        try:
            while True:
                if not wire.unsent:
                    wire.unsent = memoryview(self._core.output(wire.link))
                if not wire.unsent:
                    break
                wire.unsent = wire.unsent[wire.socket.send(wire.unsent) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._core.lost(wire.link, error.strerror or str(error))
            return
        if was_full != bool(wire.unsent):
            self._change(wire)

    def _end(self, link: Link) -> None:
        wire = self._wires.pop(link, None)
        if wire is not None:
            wire.unsent = memoryview(b"")
            self._ended.append(wire)
            if self._leading:
                self._ring_bell()


def _resolve(host: str, port: int, flags: int) -> list[tuple[int, _SocketAddress]]:
    """Return the socket addresses of a host. Raises OSError, also for what can be no name at all."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:
        raise OSError(errno.EINVAL, str(error)) from error
    return [(family, address) for family, _, _, _, address in found]
