"""The answers that machines which compare replicas get from each other (`dynafast.core.exchange`), checked."""

from dynafast._ext.clock import Record
from dynafast.errors import PeerProtocolError
from dynafast.protocol import is_uint

ABSENT = Record()


def roots_of(answer: object, count: int) -> list[tuple[int | None, int]]:
    """Return ``(root, seats as bits)`` for each partition of an answer to ROOTS; None: not ready.

    Raises:
        PeerProtocolError: here and below, it is malformed.
    """
    if isinstance(answer, list) and len(answer) == count:
        found: list[tuple[int | None, int]] = []
        for item in answer:
            match item:
                case [root, seats] if is_uint(seats) and (root is None or is_uint(root)):
                    found.append((root, seats))
        if len(found) == count:
            return found
    raise PeerProtocolError("an answer to ROOTS must list [root or null, seats] for each partition")


def keys_of(answer: object) -> tuple[dict[bytes, int], bool]:
    """Return the digests of an answer to KEYS, by key, and whether these are the last."""
    match answer:
        case [_, [*items], bool(over)]:
            found: dict[bytes, int] = {}
            for item in items:
                match item:
                    case [bytes(key), digest] if is_uint(digest):
                        found[key] = digest
                    case _:
                        raise PeerProtocolError("an answer to KEYS must list [key, digest]")
            return found, over or not items
    raise PeerProtocolError("an answer to KEYS must be [round, keys, done]")


def records_of(answer: object, keys: list[bytes]) -> tuple[int, list[tuple[bytes, Record | None]]]:
    """Return the round and the records of an answer to READ, which may stop early.

    An empty record stands for nothing there, None for one that cannot be read.
    """
    match answer:
        case [round, [*items]] if is_uint(round) and 0 < len(items) <= len(keys):
            return round, [(key, _record(item)) for key, item in zip(keys, items, strict=False)]
    raise PeerProtocolError("an answer to READ must be [round, records]")


def _record(item: object) -> Record | None:
    match item:
        case None:
            return ABSENT
        case False:
            return None
        case bytes(data):
            try:
                return Record.decode(data)
            except ValueError as error:
                raise PeerProtocolError(f"a record that cannot be read: {error}") from error
    raise PeerProtocolError("a record must be bytes, null (nothing there) or false (damaged)")
