"""Entering a cluster, creating one, or coming back to it: what happens before a node serves.

Talks to a seed as any peer does (HELLO, JOIN), with waits that end. May not: serve anything.
"""

import secrets
from dataclasses import asdict, dataclass
from typing import Any

import trio

from dynafast._ext.codec import FrameReader
from dynafast.config import Address, ClusterConfig, Settings
from dynafast.core import entering, identity
from dynafast.core.identity import ClusterFacts, Identity
from dynafast.core.membership import Entry
from dynafast.core.seats import Seat, pack
from dynafast.errors import ConfigError, NotReachedError, PeerProtocolError, RefusedError
from dynafast.protocol import GONE, Status
from dynafast.storage.interface import Store

JOIN_PATIENCE_S = 30.0
TRY_S = 5.0
PAUSE_S = 0.2
_AGAIN = frozenset(
    {"unavailable", "overloaded", "starting", "stopping", "change-in-progress"}
)  # refusals that may pass
ALIVE_S = 6.0  # a node that has just died may be taken for alive so long


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a node begins with. ``created`` is set when it has founded a cluster."""

    identity: Identity
    own: Entry
    created: bool


async def begin(settings: Settings, store: Store, *, name: str, address: Address) -> Start:
    """Return what this node begins with; everything it names is durable.

    Raises:
        ConfigError: a flag contradicts what the folder or the cluster has. RefusedError: the cluster does not admit
        the node. NotReachedError: no seed answered in time.
    """
    known = identity.load(store)
    if known is not None:
        return _come_back(settings, store, known, address)
    if settings.node.join:
        return await _join(settings, store, name=name, address=address)
    if settings.node.replace is not None:
        raise ConfigError(f"replace needs a cluster to enter: give --join too, got {settings.node.replace!r}")
    return _create(settings, store, name=name, address=address)


def _first_entry(settings: Settings, store: Store, node: bytes, name: str, address: Address) -> Entry:
    return Entry(
        id=node,
        name=name,
        address=str(address),
        weight=settings.node.weight,
        zone=settings.node.zone,
        host=settings.node.host or name,
        status=Status.JOINING,
        generation=store.boot,
        version=1,
    )


def _create(settings: Settings, store: Store, *, name: str, address: Address) -> Start:
    config = settings.cluster.create()
    facts = ClusterFacts(
        cluster=secrets.token_bytes(16),
        partitions=config.partitions,
        replicas=config.replicas,
        read_quorum=config.read_quorum,
        write_quorum=config.write_quorum,
    )
    every = [Seat(partition, seat, 1) for partition in range(facts.partitions) for seat in range(facts.replicas)]
    entry = _first_entry(settings, store, secrets.token_bytes(8), name, address)
    entry = _changed(entry, status=Status.UP, seats=pack(every))
    found = Identity(node=entry.id, facts=facts)
    identity.save(store, found, [entry])
    store.sync()
    return Start(identity=found, own=entry, created=True)


def _come_back(settings: Settings, store: Store, known: Identity, address: Address) -> Start:
    entries = {entry.id: entry for entry in identity.load_entries(store)}
    last = entries[known.node]
    if last.status in GONE:
        raise RefusedError(
            f"the node of this folder, {last.name}, has left its cluster for ever: use an empty folder", code="removed"
        )
    facts = known.facts
    difference = settings.cluster.difference(
        ClusterConfig(partitions=facts.partitions, replicas=facts.replicas, r=facts.read_quorum, w=facts.write_quorum)
    )
    if difference is not None:
        raise ConfigError(difference)
    if settings.node.name is not None and settings.node.name != last.name:
        raise ConfigError(
            f"name must stay {last.name!r}, which this folder belongs to, got {settings.node.name!r}: leave it out"
        )
    given = {name for name, setting in settings.sources.items() if setting.source != "default"}
    entry = _changed(
        last,
        address=str(address),
        weight=settings.node.weight if "weight" in given else last.weight,
        zone=settings.node.zone if "zone" in given else last.zone,
        host=settings.node.host if settings.node.host is not None else last.host,
        generation=store.boot,
        version=1,
    )
    return Start(identity=known, own=entry, created=False)


def _changed(entry: Entry, **changes: Any) -> Entry:
    return Entry.from_wire({**entry.to_wire(), **changes})


async def _join(settings: Settings, store: Store, *, name: str, address: Address) -> Start:
    entry = _first_entry(settings, store, secrets.token_bytes(8), name, address)
    asking = entering.asking(entry, replace=settings.node.replace, wishes=asdict(settings.cluster))
    problem = "no seed was asked"
    begun = trio.current_time()
    with trio.move_on_after(JOIN_PATIENCE_S):
        while True:
            for seed in settings.node.join:
                try:
                    with trio.fail_after(TRY_S):
                        answer = await _ask(seed, asking)
                except (OSError, trio.TooSlowError, PeerProtocolError) as error:
                    problem = f"{seed}: {error or 'no answer'}"
                except RefusedError as error:
                    dying = error.code == "alive" and trio.current_time() - begun < ALIVE_S
                    if error.code not in _AGAIN and not dying:
                        raise
                    problem = f"{seed}: {error}"
                else:
                    return _entered(store, entry, answer)
            await trio.sleep(PAUSE_S)
    raise NotReachedError(f"could not join within {JOIN_PATIENCE_S:.0f} s, last: {problem}")


def _entered(store: Store, entry: Entry, answer: dict[str, Any]) -> Start:
    facts, others, number = entering.let_in(answer)
    found = Identity(node=entry.id, facts=facts)
    identity.save(store, found, [*others, entry], number=number)
    store.sync()
    return Start(identity=found, own=entry, created=False)


async def _ask(seed: Address, asking: bytes) -> dict[str, Any]:
    """Ask one seed; return its answer. Raises RefusedError, PeerProtocolError, OSError."""
    stream = await trio.open_tcp_stream(seed.host, seed.port)
    async with stream:
        await stream.send_all(asking)
        reader = FrameReader()
        while data := await stream.receive_some():
            for message in reader.feed(bytes(data)):
                answer = entering.answer_in(message)
                if answer is not None:
                    return answer
    raise PeerProtocolError("the seed closed the connection without an answer")
