"""The node as a process: sockets, timers and signals around `dynafast.core.node.Node`, on trio.

One task owns the core at any moment (trio runs one at a time), so nothing here locks. May not: decide anything about
data, members or requests.
"""

import contextlib
import gc
import random
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator

import structlog
import trio

from dynafast.config import Address, ClusterConfig, Settings, default_name, parse_address
from dynafast.core import identity
from dynafast.core.node import Node
from dynafast.errors import ConfigError, DynafastError, RefusedError
from dynafast.net.entry import Start, begin
from dynafast.net.logs import configure_logging
from dynafast.net.sockets import Sockets, make_sockets
from dynafast.storage.reading import Reader
from dynafast.storage.rocks import RocksStore

TICK_S = 0.02
DIAL_S = 2.0
REDIAL_MIN_S = 0.05
REDIAL_MAX_S = 1.0
INTERVAL_S = 1.0  # durability "interval": an fsync at least so often
INTERVAL_BYTES = 8 * 1024 * 1024  # and after so much
DRAIN_S = 5.0
READY_S = 10.0  # a node that has not got all its seats by then serves nevertheless
BACKLOG = 1024
GC_COUNT = 50_000

# Why the node stopped by itself, unless it has left in good order -> code and sentence.
_ENDS = {
    "removed": ("removed", "this node was removed from its cluster, and others serve what it held"),
    "stale": ("stale-generation", "the cluster has seen a newer start of this node, so this folder is an old copy"),
}

log = structlog.get_logger("dynafast")


def run(settings: Settings) -> bool:
    """Serve until SIGTERM or SIGINT, or until the node has left its cluster; return whether it has left.

    Raises:
        ConfigError, RefusedError, NotReachedError, StoreFormatError, StoreError: the node could not start, may not
        go on, or the store failed.
    """
    configure_logging()
    store = RocksStore(settings.node.data)
    clean = False
    try:
        with contextlib.ExitStack() as sockets:
            listener = sockets.enter_context(_listen("listen", settings.node.listen))
            redis = settings.node.resp and sockets.enter_context(_listen("resp", settings.node.resp))
            ended = trio.run(_Server(settings, store, listener, redis).run)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # told once is enough, and the store is to be closed to the end
        clean = True
    finally:
        store.close(clean=clean)
    if ended in _ENDS:
        code, why = _ENDS[ended]
        raise RefusedError(f"{why}: to enter the cluster it needs an empty folder", code=code)
    return ended is not None


def _trace(event: str, /, **fields: object) -> None:
    """Render an event of the core; bytes as hex."""
    log.info(event, **{name: value.hex() if isinstance(value, bytes) else value for name, value in fields.items()})


def _listen(setting: str, address: Address) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"{setting}: cannot listen on {address}: {error.strerror or error}: choose another address or port"
        ) from error
    listener.setblocking(False)
    return listener


class _Server:
    """One running node."""

    def __init__(
        self, settings: Settings, store: RocksStore, listener: socket.socket, redis: socket.socket | None
    ) -> None:
        self._settings = settings
        self._store = store
        self._listener = listener
        self._redis = redis  # where redis clients connect
        self._dialling: set[bytes] = set()
        self._pauses: dict[bytes, tuple[float, float]] = {}  # peer -> (not before, last pause), seconds
        self._over = trio.Event()
        self._node: Node
        self._sockets: Sockets

    async def run(self) -> str | None:
        """Start, serve, stop; return why the node is of its cluster no more, None if it is."""
        port = self._listener.getsockname()[1]
        address = self._settings.node.advertised(port)
        remembered = identity.load(self._store)
        name = self._settings.node.name or self._settings.node.replace or default_name(socket.gethostname(), port)
        start = await begin(self._settings, self._store, name=name, address=address)
        if start.created:
            print(f"created cluster {start.identity.facts.cluster.hex()}", flush=True)  # noqa: T201
        elif remembered is not None:
            log.info("store.opened", boot=self._store.boot, clean=self._store.was_clean)
        self._node = self._make_node(start, address)
        self._store.sync()  # the entry of this generation is on disk before anybody hears of it
        kind, flusher, reader = self._settings.node.sockets, self._store.flusher(), Reader(self._store.get_many)
        self._sockets = make_sockets(kind, self._node, self._turn, flusher, reader)
        try:
            await self._serve(start, address)
        finally:
            self._sockets.close()
        self._node.close()  # only now: a task that was cancelled may have had a turn left, and written
        return self._node.ended

    async def _serve(self, start: Start, address: Address) -> None:
        """Serve until told to stop, then drain."""
        # What is there by now stays. What requests make is freed without the collector's help, so it may come seldom:
        # each pass stops everything for milliseconds.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_COUNT, 20, 20)
        self._sockets.listen(self._listener, self._node.accept)
        if self._redis is not None:
            self._sockets.listen(self._redis, self._node.accept_redis)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._sockets.run)
                nursery.start_soon(self._tick, nursery)
                if self._settings.node.durability == "interval":
                    nursery.start_soon(self._periodic_flush)
                nursery.start_soon(self._announce, start, address)
                nursery.start_soon(self._await_signal, signals)
                await self._over.wait()
                await self._drain()
                nursery.cancel_scope.cancel()

    async def _await_signal(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            log.info("stop.asked", signal=signal.Signals(number).name)
            self._over.set()

    def _make_node(self, start: Start, address: Address) -> Node:
        facts = start.identity.facts
        config = ClusterConfig(
            partitions=facts.partitions, replicas=facts.replicas, r=facts.read_quorum, w=facts.write_quorum
        )
        shown = self._settings.effective(config, name=start.own.name, host=start.own.host, advertise=address)
        node = Node(
            identity=start.identity,
            own=start.own,
            store=self._store,
            group=self._settings.node.durability == "group",
            cache_bytes=self._settings.node.cache * 1024 * 1024,
            random64=lambda: secrets.randbits(64),
            trace=_trace,
            settings={name: {"value": item.value, "source": item.source} for name, item in shown.items()},
        )
        node.at(time.monotonic_ns(), time.time_ns() // 1_000_000)
        return node

    def _turn(self) -> None:
        self._node.at(time.monotonic_ns(), time.time_ns() // 1_000_000)

    async def _tick(self, nursery: trio.Nursery) -> None:
        while True:
            self._turn()
            self._node.tick()
            self._sockets.pump()
            if self._node.ended is not None and not self._over.is_set():
                log.info("stop.ended", why=self._node.ended)
                self._over.set()
            now = trio.current_time()
            for peer, where in self._node.wanted().items():
                if peer not in self._dialling and self._pauses.get(peer, (0.0, 0.0))[0] <= now:
                    self._dialling.add(peer)
                    nursery.start_soon(self._dial, peer, where)
            await trio.sleep(TICK_S)

    async def _dial(self, peer: bytes, where: str) -> None:
        """Connect to a peer and serve the connection; after a failure, pause a little longer each time."""
        try:
            address = parse_address(where)
            with trio.fail_after(DIAL_S):
                stream = await trio.open_tcp_stream(address.host, address.port)
        except (OSError, trio.TooSlowError, DynafastError):
            pause = min(REDIAL_MAX_S, 2 * self._pauses.get(peer, (0.0, REDIAL_MIN_S / 2))[1])
            self._pauses[peer] = (trio.current_time() + pause * random.uniform(0.5, 1.0), pause)  # noqa: S311
            return
        finally:
            self._dialling.discard(peer)
        self._pauses.pop(peer, None)
        sock = socket.socket(fileno=stream.socket.detach())
        if peer not in self._node.wanted():
            sock.close()
            return
        self._turn()
        self._sockets.add(sock, self._node.dial(peer))
        self._sockets.pump()

    async def _periodic_flush(self) -> None:
        while True:
            with trio.move_on_after(INTERVAL_S):
                while self._store.unsynced_bytes < INTERVAL_BYTES:
                    await trio.sleep(TICK_S)
            if self._store.unsynced_bytes:
                self._sockets.flush()
                await trio.sleep(0)

    async def _announce(self, start: Start, address: Address) -> None:
        """Say that the node is ready: it has its seats and has heard from others, or has waited for long enough."""
        with trio.move_on_after(READY_S):
            while not self._node.serves or self._dialling:
                await trio.sleep(TICK_S)
        words = [f"ready {start.own.name} {address} cluster={start.identity.facts.cluster.hex()}"]
        if self._redis is not None and self._settings.node.resp is not None:
            words.append(f"resp={Address(self._settings.node.resp.host, self._redis.getsockname()[1])}")
        print(*words, flush=True)  # noqa: T201

    async def _drain(self) -> None:
        """Answer what is under way, take nothing new."""
        self._node.stop()
        with trio.move_on_after(DRAIN_S):
            while self._node.busy:
                await trio.sleep(TICK_S)
        log.info("stop.drained", left=self._node.busy)
