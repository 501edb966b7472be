"""What a data folder remembers of its node and its cluster, in the store's meta family.

Reads and writes through the store it is given; knows nothing of folders, sockets or other nodes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from dynafast._ext.codec import dumps, loads
from dynafast.core.membership import Entry
from dynafast.errors import PeerProtocolError, StoreFormatError
from dynafast.protocol import HASH_NAME
from dynafast.storage.interface import Batch, Family, Store, entries, walk

_IDENTITY = b"identity"
_CLOCK = b"clock"
_ENTRY = b"entry/"
_GIVEN = b"given/"
_ROUND = b"round"  # read by ``_ext/replica.pyx``
_GRANT = b"grant/"
_PERMIT = b"permit"
_BOOT = b"boot"  # of a canary alone

Given = dict[int, dict[int, tuple[bytes, int]]]  # partition -> seat -> (node it was given to, k)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What is fixed when a cluster is created and equal on all its nodes.

    Attributes:
        cluster: id, 16 bytes. partitions: Q, a power of two. replicas: N.
        read_quorum, write_quorum: R and W of requests that do not say.
        hash: the name of the function that places keys.
    """

    cluster: bytes
    partitions: int
    replicas: int
    read_quorum: int
    write_quorum: int
    hash: str = HASH_NAME

    def to_wire(self) -> dict[str, object]:
        """Return the map that a joining node receives, and that is stored."""
        return {
            "cluster": self.cluster,
            "partitions": self.partitions,
            "replicas": self.replicas,
            "r": self.read_quorum,
            "w": self.write_quorum,
            "hash": self.hash,
        }

    @classmethod
    def from_wire(cls, fields: dict[str, Any]) -> Self:
        """Return the facts that a map holds. Raises PeerProtocolError."""
        try:
            facts = cls(
                cluster=fields["cluster"],
                partitions=fields["partitions"],
                replicas=fields["replicas"],
                read_quorum=fields["r"],
                write_quorum=fields["w"],
                hash=fields["hash"],
            )
        except (KeyError, TypeError) as error:
            raise PeerProtocolError(f"malformed cluster facts: {error}") from error
        if facts.hash != HASH_NAME:
            raise PeerProtocolError(f"the cluster places keys by {facts.hash!r}, this program by {HASH_NAME!r}")
        return facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which node a folder is."""

    node: bytes
    facts: ClusterFacts


def load(store: Store) -> Identity | None:
    """Return the identity that the folder remembers, or None for a new one. Raises StoreFormatError."""
    data = store.read(Family.META, _IDENTITY)
    if data is None:
        return None
    try:
        fields = loads(data)
        return Identity(node=fields["node"], facts=ClusterFacts.from_wire(fields))
    except (ValueError, KeyError, TypeError, PeerProtocolError) as error:
        raise StoreFormatError(f"the folder's identity cannot be read: {error}") from error


def save(store: Store, identity: Identity, known: Iterable[Entry], *, number: int = 0) -> None:
    """Remember an identity, the entries and the round number it starts with; the caller syncs."""
    batch = Batch()
    batch.put(Family.META, _IDENTITY, dumps({**identity.facts.to_wire(), "node": identity.node}))
    batch.put(Family.META, _ROUND, number.to_bytes(8, "big"))
    put_entries(batch, known)
    store.write(batch)


def put_entries(batch: Batch, known: Iterable[Entry]) -> None:
    """Add member entries to a batch."""
    for entry in known:
        batch.put(Family.META, _ENTRY + entry.id, dumps(entry.to_wire()))


def load_entries(store: Store) -> list[Entry]:
    """Return the member entries that the folder remembers."""
    return [Entry.from_wire(loads(value)) for _, value in _under(store, _ENTRY)]


def put_given(batch: Batch, partition: int, seat: int, to: bytes, k: int) -> None:
    """Add to a batch that this node gave a seat away."""
    batch.put(Family.META, _GIVEN + dumps([partition, seat]), dumps([to, k]))


def delete_given(batch: Batch, partition: int, seat: int) -> None:
    """Forget a gift that has arrived."""
    batch.delete(Family.META, _GIVEN + dumps([partition, seat]))


def load_given(store: Store) -> Given:
    """Return the seats given away and perhaps not yet taken."""
    given: Given = {}
    for key, value in _under(store, _GIVEN):
        partition, seat = loads(key[len(_GIVEN) :])
        to, k = loads(value)
        given.setdefault(partition, {})[seat] = (to, k)
    return given


def put_grant(batch: Batch, partition: int, seat: int, claimant: bytes, k: int) -> None:
    """Add to a batch that this node agrees to a claim of a lost seat."""
    batch.put(Family.META, _GRANT + dumps([partition, seat]), dumps([claimant, k]))


def delete_grant(batch: Batch, partition: int, seat: int) -> None:
    """Forget a claim that has ended."""
    batch.delete(Family.META, _GRANT + dumps([partition, seat]))


def load_grants(store: Store) -> dict[tuple[int, int], tuple[bytes, int]]:
    """Return the claims this node has agreed to: (partition, seat) -> (claimant, k)."""
    grants: dict[tuple[int, int], tuple[bytes, int]] = {}
    for key, value in _under(store, _GRANT):
        partition, seat = loads(key[len(_GRANT) :])
        claimant, k = loads(value)
        grants[partition, seat] = (claimant, k)
    return grants


def put_permit(batch: Batch, holder: bytes | None) -> None:
    """Add to a batch which node's change of members this node lets go first; None: nobody's."""
    if holder is None:
        batch.delete(Family.META, _PERMIT)
    else:
        batch.put(Family.META, _PERMIT, holder)


def load_permit(store: Store) -> bytes | None:
    """Return the node whose change of members was let go first, if that was not over."""
    return store.read(Family.META, _PERMIT)


def load_clock(store: Store) -> int:
    """Return the hybrid time that was saved ahead; 0 for a new folder."""
    data = store.read(Family.META, _CLOCK)
    return 0 if data is None else int.from_bytes(data, "big")


def load_round(store: Store) -> int:
    """Return the round number that was raised last; 0 for a new folder."""
    data = store.read(Family.META, _ROUND)
    return 0 if data is None else int.from_bytes(data, "big")


def save_clock(store: Store, time: int) -> None:
    """Remember that times up to *time* may have been given out."""
    batch = Batch()
    batch.put(Family.META, _CLOCK, time.to_bytes(8, "big"))
    store.write(batch)


def kept_boot(store: Store, fresh: int) -> int:
    """A canary: return the boot id of the start before if that was closed cleanly, else remember *fresh*."""
    data = store.read(Family.META, _BOOT) if store.was_clean else None
    if data is not None:
        return int.from_bytes(data, "big")
    batch = Batch()
    batch.put(Family.META, _BOOT, fresh.to_bytes(8, "big"))
    store.write(batch)
    return fresh


def _under(store: Store, prefix: bytes) -> list[tuple[bytes, bytes]]:
    end = prefix[:-1] + bytes([prefix[-1] + 1])
    return [item for page in walk(store, Family.META, prefix, end, limit=1000) for item in entries(page)]
