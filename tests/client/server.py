"""Pretended nodes behind real sockets on loopback, all in one thread."""

import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from tests.client.fake import Conversation, Node, Store

RELEASE_S = 0.002  # answers that a rule holds back come out of order after about this time
DEADLINE_S = 10.0


class _Peer:
    """One accepted connection."""

    def __init__(self, sock: socket.socket, node: Node) -> None:
        self.sock = sock
        self.talk = Conversation(node)
        self.out = bytearray()


class Server:
    """A pretended cluster; ``with Server(3) as server``.

    *releasing*: answers that a rule holds back are let go after a moment.
    """

    def __init__(self, nodes: int = 1, *, host: str = "127.0.0.1", releasing: bool = True) -> None:
        self.store = Store()
        self.accepted = 0
        self.errors: list[BaseException] = []
        self._releasing = releasing
        self._selector = selectors.DefaultSelector()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._bell, self._rope = socket.socketpair()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._stopping = False
        self._peers: dict[socket.socket, _Peer] = {}
        self._listeners: dict[str, socket.socket] = {}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        for _ in range(nodes):
            listener = socket.create_server((host, 0), family=family)
            port = listener.getsockname()[1]
            self._listeners[f"[{host}]:{port}" if ":" in host else f"{host}:{port}"] = listener
        self.addresses = list(self._listeners)
        self.nodes = {address: Node(address, self.store) for address in self.addresses}
        for address, node in self.nodes.items():
            node.peers = self.addresses
            self._selector.register(self._listeners[address], selectors.EVENT_READ, address)
        self._thread = threading.Thread(target=self._run, name="pretended nodes")

    def __getitem__(self, index: int) -> Node:
        return self.nodes[self.addresses[index]]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jobs.put(self._stop)
        self._rope.send(b"x")
        self._thread.join()
        self._bell.close()  # not before: the thread may stop for another event, while the rope is still to be pulled
        self._rope.close()
        assert not self.errors, self.errors

    def do(self, job: Callable[[], Any]) -> Any:
        """Run *job* between two rounds of the server's loop and return what it returns."""
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._jobs.put(lambda: done.put(job()))
        self._rope.send(b"x")
        return done.get(timeout=DEADLINE_S)

    def kill(self, index: int) -> None:
        """End a node: its connections are reset, new ones refused."""
        self.do(lambda: self._hang_up(self.addresses[index], refuse=True))

    def hang_up(self, index: int) -> None:
        """Close the connections of a node; it accepts new ones."""
        self.do(lambda: self._hang_up(self.addresses[index], refuse=False))

    def release(self) -> None:
        """Let the answers go that are held back."""
        self.do(self._release)

    # ---- in the thread

    def _run(self) -> None:
        while not self._stopping:
            held = self._releasing and any(peer.talk.held for peer in self._peers.values())
            for key, mask in self._selector.select(RELEASE_S if held else None):
                self._ready(key, mask)
            while not self._jobs.empty():
                self._jobs.get()()
            if held:
                self._release()

    def _ready(self, key: selectors.SelectorKey, mask: int) -> None:
        if key.fileobj is self._bell:
            self._bell.recv(4096)
        elif isinstance(key.data, str):
            sock, _ = self._listeners[key.data].accept()
            sock.settimeout(0)
            self.accepted += 1
            peer = self._peers[sock] = _Peer(sock, self.nodes[key.data])
            self._selector.register(sock, selectors.EVENT_READ, peer)
        elif key.data.sock in self._peers:
            try:
                if mask & selectors.EVENT_READ:
                    self._read(key.data)
                self._flush(key.data)
            except OSError:
                self._drop(key.data)
            except Exception as error:  # noqa: BLE001 - told to the test at its end
                self.errors.append(error)
                self._drop(key.data)

    def _read(self, peer: _Peer) -> None:
        data = peer.sock.recv(65536)
        if not data:
            raise ConnectionResetError
        peer.out += peer.talk.feed(data)

    def _flush(self, peer: _Peer) -> None:
        if peer.out:
            with suppress(BlockingIOError):
                del peer.out[: peer.sock.send(peer.out)]
        if peer.talk.closed and not peer.out:
            raise ConnectionResetError
        self._selector.modify(peer.sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.out else 0), peer)

    def _release(self) -> None:
        for peer in list(self._peers.values()):
            peer.out += peer.talk.release()
            try:
                self._flush(peer)
            except OSError:
                self._drop(peer)

    def _drop(self, peer: _Peer) -> None:
        if self._peers.pop(peer.sock, None) is not None:
            self._selector.unregister(peer.sock)
            peer.sock.close()

    def _hang_up(self, address: str, *, refuse: bool) -> None:
        if refuse:
            listener = self._listeners.pop(address)
            self._selector.unregister(listener)
            listener.close()
        for peer in [peer for peer in self._peers.values() if peer.talk.node.address == address]:
            self._drop(peer)

    def _stop(self) -> None:
        self._stopping = True
        for address in list(self._listeners):
            self._hang_up(address, refuse=True)
        self._selector.close()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again until *condition* holds; fail at the deadline."""
    end = time.monotonic() + DEADLINE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE_S} s: {what}"
        pause.wait(0.002)
