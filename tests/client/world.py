"""The sans-I/O core of the client among pretended nodes, in virtual time: no socket, no thread."""

import heapq
import itertools
from collections.abc import Callable
from enum import Enum, auto
from random import Random
from typing import Any

from dynafast.client.calls import Call, Run, Wait
from dynafast.client.core import Close, Core, Open, Wake, Write
from dynafast.client.link import Link
from tests.client.fake import Conversation, Node, Store

LATENCY_S = 0.001


class Door(Enum):
    """What a node does with a connection."""

    OPEN = auto()
    REFUSES = auto()
    HANGS = auto()  # a machine that is gone: no answer to the connect
    FROZEN = auto()  # a stopped process: connections are made, nothing is read


class World:
    """Pretended nodes, and the one client under test."""

    def __init__(self, nodes: int = 3, *, timeout_s: float = 5.0, seeds: int | None = None) -> None:
        self.now = 100.0
        self.store = Store()
        self.nodes = {f"10.0.0.{i}:7411": Node(f"10.0.0.{i}:7411", self.store) for i in range(1, nodes + 1)}
        self.addresses = list(self.nodes)
        for node in self.nodes.values():
            node.peers = self.addresses
        self.doors = dict.fromkeys(self.addresses, Door.OPEN)
        self.core = Core(
            self.addresses[:seeds], timeout_s=timeout_s, clock=lambda: self.now, random=Random("client/world")
        )
        self.opened: list[str] = []
        self._talks: dict[Link, Conversation] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def __getitem__(self, index: int) -> Node:
        return self.nodes[self.addresses[index]]

    def run(self, begin: Callable[[Call], Any], *, resolver: Any = None) -> Any:
        """Drive one call to its end."""
        steps = begin(Call(self.core, owner="call", resolver=resolver))
        try:
            step = next(steps)
            while True:
                self.perform()
                if isinstance(step, Run):
                    try:
                        result = step.function(step.argument)
                    except Exception as error:  # noqa: BLE001 - it belongs to the call
                        step = steps.throw(error)
                    else:
                        step = steps.send(result)
                else:
                    self.wait(step)
                    step = steps.send(None)
        except StopIteration as done:
            return done.value
        finally:
            self.perform()

    def get(self, key: bytes = b"k", **options: Any) -> Any:
        return self.run(lambda call: call.get(key, r=None), **options)

    def put(
        self, key: bytes = b"k", value: bytes = b"v", *, context: bytes | None = None, overwrite: bool = False
    ) -> Any:
        return self.run(lambda call: call.put(key, value, context=context, w=None, overwrite=overwrite))

    def delete(self, key: bytes = b"k", *, context: bytes | None = None) -> Any:
        return self.run(lambda call: call.delete(key, context=context))

    def update(self, function: Callable[[Any], Any], key: bytes = b"k", **options: Any) -> Any:
        return self.run(lambda call: call.update(key, function), **options)

    def wait(self, step: Wait) -> None:
        """Let the world go on until the ticket is settled or the time has come."""
        while not (step.ticket is not None and step.ticket.settled):
            if not self._events or self._events[0][0] > step.until:
                self.now = max(self.now, step.until)
                return
            self._next()

    def settle(self, seconds: float = 0.1) -> None:
        """Let the world go on without the client asking anything."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self._next()
        self.now = end

    def later(self, action: Callable[[], None], after_s: float = LATENCY_S) -> None:
        heapq.heappush(self._events, (self.now + after_s, next(self._order), action))

    def _next(self) -> None:
        at, _, action = heapq.heappop(self._events)
        self.now = max(self.now, at)
        action()
        self.perform()

    def perform(self) -> None:
        while effects := self.core.effects():
            for effect in effects:
                if isinstance(effect, Open):
                    self._open(effect.link)
                elif isinstance(effect, Write):
                    self._write(effect.link)
                elif isinstance(effect, Close):
                    self._talks.pop(effect.link, None)
                else:
                    assert isinstance(effect, Wake)

    def _open(self, link: Link) -> None:
        self.opened.append(link.address)
        door = self.doors[link.address]
        if door is Door.REFUSES:
            self.later(lambda: self.core.lost(link, "Connection refused"))
        elif door is not Door.HANGS:
            self._talks[link] = Conversation(self.nodes[link.address])
            self.later(lambda: self.core.connected(link))

    def _write(self, link: Link) -> None:
        while link in self._talks and (data := self.core.output(link)):
            self.later(lambda data=data: self._deliver(link, data))

    def _deliver(self, link: Link, data: bytes) -> None:
        talk = self._talks.get(link)
        if talk is None or self.doors[link.address] is Door.FROZEN:
            return
        answers = talk.feed(data)
        if answers:
            self.later(lambda: self.core.received(link, answers))
        if talk.closed:
            self.later(lambda: self.core.lost(link, "the node closed the connection"))

    def kill(self, index: int) -> None:
        """End a node: its connections break, new ones are refused."""
        address = self.addresses[index]
        self.doors[address] = Door.REFUSES
        for link in [link for link in self._talks if link.address == address]:
            self.core.lost(link, "Connection reset by peer")
        self.perform()
