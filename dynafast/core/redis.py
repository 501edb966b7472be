"""What redis clients ask a node besides keys: who it is, what it can do, how it is set (docs/resp.md).

May not: touch keys; those are the request path's, in ``_ext/resp.pyx``.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dynafast.errors import BadRequestError, RefusedError
from dynafast.limits import WIRE_VERSION

if TYPE_CHECKING:
    from dynafast._ext.connection import Connection
    from dynafast._ext.resp import RespConnection
    from dynafast.core.node import Node

REDIS_VERSION = "7.0.0"  # what clients may expect of the commands that are here
NOPROTO, EXECABORT = "NOPROTO", "EXECABORT"  # codes of redis, not of ours
SHOWN = 64  # characters of a word of the client's that an error repeats
LABEL_MAX = 256

# Command -> arity (negative: at least), flags, first key, last key, step, and what it does here.
COMMANDS: dict[str, tuple[int, tuple[str, ...], int, int, int, str]] = {
    "client": (-2, ("loading", "fast"), 0, 0, 0, "About this connection: ID, INFO, GETNAME, SETNAME, SETINFO."),
    "command": (-1, ("loading",), 0, 0, 0, "The commands that there are: COUNT, DOCS, INFO, LIST."),
    "config": (-2, ("loading",), 0, 0, 0, "CONFIG GET: settings of this node, read only."),
    "dbsize": (1, ("readonly", "fast"), 0, 0, 0, "About how many records this node keeps."),
    "del": (-2, ("write",), 1, -1, 1, "Deletes keys; the number of those that were there."),
    "echo": (2, ("loading", "fast"), 0, 0, 0, "Answers its argument."),
    "exists": (-2, ("readonly", "fast"), 1, -1, 1, "The number of keys that are there."),
    "get": (2, ("readonly", "fast"), 1, 1, 1, "The newest version of a key."),
    "hello": (-1, ("loading", "fast"), 0, 0, 0, "Chooses version 2 or 3 of the protocol."),
    "info": (-1, ("loading",), 0, 0, 0, "About this node and its cluster."),
    "mget": (-2, ("readonly", "fast"), 1, -1, 1, "The newest versions of several keys."),
    "mset": (-3, ("write",), 1, -1, 2, "Sets several keys, each by itself."),
    "ping": (-1, ("loading", "fast"), 0, 0, 0, "Answers PONG, or its argument."),
    "quit": (-1, ("loading", "fast"), 0, 0, 0, "Closes the connection."),
    "select": (2, ("loading", "fast"), 0, 0, 0, "Database 0 is the only one."),
    "set": (3, ("write",), 1, 1, 1, "Replaces what the key has; takes no options."),
    "strlen": (2, ("readonly", "fast"), 1, 1, 1, "Bytes of the newest version of a key."),
}


def _text(word: bytes) -> str:
    return word.decode(errors="replace")


def _shown(word: bytes) -> str:
    return _text(word)[:SHOWN]


class Redis:
    """Answers the rare commands of redis clients for one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._count = 0  # of the connections so far
        self._answers: dict[bytes, tuple[int, int, Callable[[RespConnection, list[bytes]], Any]]] = {
            b"client": (1, 99, self._client),
            b"command": (0, 10_000, self._command),
            b"config": (1, 10_000, self._config),
            b"dbsize": (0, 0, lambda _connection, _words: node.store.usage()[0]),
            b"hello": (0, 99, self._hello),
            b"info": (0, 99, self._info),
            b"select": (1, 1, self._select),
        }

    def dropped(self, connection: "Connection") -> None:
        """A connection has ended."""

    def command(self, connection: "RespConnection", words: list[bytes]) -> Any:
        """Answer one command: text is a status, bytes are a string. Raises RequestError."""
        name, *rest = words
        if connection.in_multi or name.upper() in (b"MULTI", b"EXEC", b"DISCARD"):
            return self._transaction(connection, name.upper())
        least, most, answer = self._answers.get(name.lower(), (0, 0, None))
        if answer is None:
            raise BadRequestError(f"unknown command '{_shown(name)}', see docs/resp.md for those that are supported")
        if not least <= len(rest) <= most:
            raise BadRequestError(f"wrong number of arguments for '{_text(name.lower())}' command")
        return answer(connection, rest)

    def _select(self, _connection: "RespConnection", words: list[bytes]) -> str:
        if words[0] != b"0":
            raise BadRequestError("DB index is out of range: there is database 0 alone")
        return "OK"

    def _transaction(self, connection: "RespConnection", name: bytes) -> str:
        """Refuse all of a transaction: a client sends it in one go, and would not know what of it was done."""
        begun, connection.in_multi = connection.in_multi, name not in (b"EXEC", b"DISCARD")
        if name == b"MULTI" and not begun:
            return "OK"
        if not begun:
            raise BadRequestError(f"{_text(name)} without MULTI")
        if name == b"DISCARD":
            return "OK"
        if name == b"EXEC":
            raise RefusedError("Transaction discarded because of previous errors.", code=EXECABORT)
        raise BadRequestError("transactions are not supported, nothing between MULTI and EXEC is done")

    # ---- the connection

    def _hello(self, connection: "RespConnection", words: list[bytes]) -> Any:
        protocol = connection.protocol
        if words:
            if words[0] not in (b"2", b"3"):
                raise RefusedError("unsupported protocol version: 2 and 3 are supported", code=NOPROTO)
            protocol = int(words[0])
        name = connection.name
        options = words[1:]
        while options:
            option = options.pop(0)
            if option.upper() == b"SETNAME" and options:
                name = self._label(options.pop(0))
            elif option.upper() == b"AUTH":
                raise BadRequestError("HELLO with AUTH: this node has no users and no passwords")
            else:
                raise BadRequestError(f"HELLO does not know the option '{_shown(option)}'")
        connection.protocol, connection.name = protocol, name
        return {
            b"server": b"dynafast",
            b"version": REDIS_VERSION.encode(),
            b"proto": protocol,
            b"id": self._id(connection),
            b"mode": b"standalone",
            b"role": b"master",
            b"modules": [],
        }

    def _label(self, word: bytes) -> bytes:
        if len(word) > LABEL_MAX or re.search(rb"[^!-~]", word):
            raise BadRequestError("a name must have at most 256 characters, and no spaces or newlines")
        return word

    def _id(self, connection: "RespConnection") -> int:
        return connection.number >> 1  # of 63 bits, as the integers of redis are signed

    def _client(self, connection: "RespConnection", words: list[bytes]) -> Any:
        match [words[0].upper(), *words[1:]]:
            case [b"ID"]:
                return self._id(connection)
            case [b"GETNAME"]:
                return connection.name or None
            case [b"SETNAME", name]:
                connection.name = self._label(name)
                return "OK"
            case [b"SETINFO", attribute, value] if attribute.upper() in (b"LIB-NAME", b"LIB-VER"):
                self._label(value)
                return "OK"
            case [b"INFO"]:
                own = _text(connection.name)
                return f"id={self._id(connection)} name={own} db=0 resp={connection.protocol}\n".encode()
        raise BadRequestError(
            f"CLIENT {_shown(words[0])} with {len(words) - 1} arguments is not supported: ID, INFO, GETNAME,"
            " SETNAME NAME, SETINFO LIB-NAME|LIB-VER VALUE are"
        )

    # ---- the node

    def _settings(self) -> dict[str, str]:
        settings = {}
        for name, item in self._node.settings.items():
            value = item["value"] if isinstance(item, dict) else item
            settings[name] = " ".join(value) if isinstance(value, list) else "" if value is None else str(value)
        everysec = settings.get("durability") == "interval"
        return {
            "appendfsync": "everysec" if everysec else "always",
            "appendonly": "yes",
            "databases": "1",
            "save": "",
            **settings,
        }

    def _config(self, _connection: "RespConnection", words: list[bytes]) -> dict[bytes, Any]:
        if words[0].upper() != b"GET" or len(words) < 2:
            raise BadRequestError(f"CONFIG {_shown(words[0])} is not supported: CONFIG GET PATTERN... is")
        patterns = [_glob(word) for word in words[1:]]
        return {
            name.encode(): value.encode()
            for name, value in self._settings().items()
            if any(pattern.fullmatch(name) for pattern in patterns)
        }

    def _info(self, _connection: "RespConnection", words: list[bytes]) -> bytes:
        node = self._node
        keys, size = node.store.usage()
        members = node.members()
        sections = {
            "Server": {
                "redis_version": REDIS_VERSION,
                "redis_mode": "standalone",
                "server_name": "dynafast",
                "wire_version": WIRE_VERSION,
                "node_name": node.own.name,
                "node_id": node.own.id.hex(),
            },
            "Persistence": {"aof_enabled": 1, "appendfsync": self._settings()["appendfsync"]},
            "Replication": {"role": "master", "connected_slaves": 0},
            "Cluster": {
                "cluster_enabled": 0,
                "cluster_id": node.facts.cluster.hex(),
                "members": len(members),
                "members_alive": sum(node.peers[entry.id].usable or entry.id == node.own.id for entry in members),
                "replicas": node.facts.replicas,
                "r": node.facts.read_quorum,
                "w": node.facts.write_quorum,
            },
            "Keyspace": {"db0": f"keys={keys},expires=0,avg_ttl=0", "stored_bytes": size},
        }
        wanted = {_text(word).lower() for word in words} - {"default", "all", "everything"}
        chosen = {name: lines for name, lines in sections.items() if not wanted or name.lower() in wanted}
        return "\r\n".join(
            f"# {name}\r\n" + "".join(f"{key}:{value}\r\n" for key, value in lines.items())
            for name, lines in chosen.items()
        ).encode()

    # ---- the commands

    def _command(self, _connection: "RespConnection", words: list[bytes]) -> Any:
        if not words:
            return [_described(name) for name in COMMANDS]
        names = [_text(word).lower() for word in words[1:]]
        match words[0].upper():
            case b"COUNT" if not names:
                return len(COMMANDS)
            case b"LIST" if not names:
                return [name.encode() for name in COMMANDS]
            case b"INFO":
                return [_described(name) if name in COMMANDS else None for name in names or COMMANDS]
            case b"DOCS":
                return {
                    name.encode(): {b"summary": COMMANDS[name][5].encode()}
                    for name in names or COMMANDS
                    if name in COMMANDS
                }
        raise BadRequestError(f"COMMAND {_shown(words[0])} is not supported: COUNT, DOCS, INFO and LIST are")


def _described(name: str) -> list[Any]:
    arity, flags, first, last, step, _ = COMMANDS[name]
    return [name.encode(), arity, list(flags), first, last, step]


def _glob(word: bytes) -> re.Pattern[str]:
    """Return the pattern of redis, as far as settings need it: ``*`` and ``?``."""
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(letter, re.escape(letter)) for letter in _text(word)), re.IGNORECASE)
