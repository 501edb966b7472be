"""Names of the wire (docs/protocol.md): operations, and what travels in cold messages. Data and its rules."""

import re
from enum import IntEnum, StrEnum
from typing import TypeGuard

HASH_NAME = "xxh3-64"
LABEL_MAX = 64  # characters of the name of a node, a zone or a host
ADDRESS_MAX = 300

_LABEL = re.compile(rf"[A-Za-z0-9._-]{{1,{LABEL_MAX}}}")


def is_label(text: object) -> TypeGuard[str]:
    """Whether *text* can name a node, a zone or a host: 1 to 64 letters, digits, dots, dashes or underscores."""
    return isinstance(text, str) and _LABEL.fullmatch(text) is not None


def is_uint(number: object) -> TypeGuard[int]:
    """Whether *number* is an unsigned integer of 64 bits (and no boolean, which Python takes for one)."""
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**64


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
    ROOTS = 21
    KEYS = 22
    READ = 23
    MERGE = 24
    TREE = 25
    ROUND = 26
    REAP = 27
    GIVE = 28
    HINT = 29
    LEAVE = 30
    REMOVE = 31
    WEIGHT = 32
    PLAN = 33
    CHECK = 34
    PERMIT = 35


class Status(StrEnum):
    """What a member says of itself; `REMOVED` is said of it by an administrator."""

    JOINING = "joining"
    UP = "up"
    LEAVING = "leaving"
    LEFT = "left"
    REMOVED = "removed"


GONE = frozenset({Status.LEFT, Status.REMOVED})
