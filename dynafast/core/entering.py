"""What a node says first to another, and how one that is of no cluster yet asks to be let in.

Both shells that start nodes speak so: ``net/entry.py`` and ``sim/joining.py``. The other side is `Entrance`.
May not: wait, or write anything.
"""

from collections.abc import Mapping
from typing import Any

from dynafast._ext.codec import frame
from dynafast.core.identity import ClusterFacts
from dynafast.core.membership import Entry
from dynafast.errors import PeerProtocolError, RefusedError, error_for
from dynafast.limits import WIRE_VERSION
from dynafast.protocol import HASH_NAME, Op, is_uint


def hello(own: Entry, *, cluster: bytes | None, to: bytes | None) -> dict[str, object]:
    """Return the fields of a peer's HELLO; without a cluster and a node that is meant: of one that asks to enter."""
    return {
        "version": WIRE_VERSION,
        "role": "peer",
        "cluster": cluster,
        "node": own.id,
        "to": to,
        "generation": own.generation,
        "name": own.name,
    }


def asking(own: Entry, *, replace: str | None, wishes: Mapping[str, int | None]) -> bytes:
    """Return the frames HELLO and JOIN, the latter with request id 1.

    Args:
        own: the entry to enter with.
        replace: the name of the dead member whose place it takes; None: nobody's.
        wishes: what the cluster must be like: ``partitions``, ``replicas``, ``r``, ``w``; None or missing: any.
    """
    request = {
        "node": own.id,
        "name": own.name,
        **{wish: wishes.get(wish) for wish in ("partitions", "replicas", "r", "w")},
        "hash": HASH_NAME,
        "replace": replace,
    }
    return frame([int(Op.HELLO), 0, hello(own, cluster=None, to=None)]) + frame([int(Op.JOIN), 1, request])


def answer_in(message: list[Any]) -> dict[str, Any] | None:
    """Return the answer to the JOIN, or None when *message* is something else. Raises RefusedError."""
    if message[0] == Op.ERROR and len(message) == 5:
        error = error_for(message[2], message[3], message[4])
        raise RefusedError(str(error), error.details, code=error.code)
    if message[0] == Op.OK and message[1] == 1 and isinstance(message[2], dict):
        return message[2]
    return None


def let_in(answer: dict[str, Any]) -> tuple[ClusterFacts, list[Entry], int]:
    """Return what the answer to a JOIN says: the cluster, its members, the number of its last round.

    Raises:
        PeerProtocolError: it is malformed, or the cluster is none that this program can be of.
    """
    facts = ClusterFacts.from_wire(answer)
    members = [Entry.from_wire(fields) for fields in answer["entries"]]
    if not is_uint(answer.get("round")):
        raise PeerProtocolError("the answer to a JOIN must have the number of the last round")
    return facts, members, answer["round"]
