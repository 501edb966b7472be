"""Names of the wire (docs/protocol.md): operations, and what travels in cold messages. Pure data, no behaviour."""

from enum import IntEnum, StrEnum

HASH_NAME = "xxh3-64"


class Op(IntEnum):
    """First field of every message. Hot ones are parsed in ``_ext/connection.pyx``, which has the same numbers."""

    HELLO = 0
    PING = 1
    GET = 2
    PUT = 3
    RING = 4
    STATUS = 5
    OK = 8
    FOUND = 9
    WRITTEN = 10
    ERROR = 11
    PART = 12
    FETCHED = 14
    STORED = 15
    FETCH = 16
    STORE = 17
    GOSSIP = 18
    JOIN = 19
    CLAIM = 20
    EMPTY = 21


class Status(StrEnum):
    """What a member says of itself; `REMOVED` is said of it by an administrator."""

    JOINING = "joining"
    UP = "up"
    LEAVING = "leaving"
    LEFT = "left"
    REMOVED = "removed"


GONE = frozenset({Status.LEFT, Status.REMOVED})
