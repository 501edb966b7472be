"""Settings of a node and of its cluster: what may be given, where it may come from, and what is refused.

A value comes from the first of: flag, environment (``DYNAFAST_NAME``), file (TOML), default. Where it came
from is kept for ``dynafast status --config``. Every bad value gives one `ConfigError` that names the setting,
what it may be, and what it is. This module reads at most the one file it is told to read, and of the package
it imports nothing but errors and limits.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from dynafast.errors import ConfigError
from dynafast.limits import REPLICAS_MAX_COUNT, WEIGHT_MAX
from dynafast.protocol import LABEL_MAX, is_label

DEFAULT_PORT = 7411
DURABILITIES = ("group", "interval")
SOCKETS = ("auto", "reactor", "streams")
PARTITIONS_MAX_COUNT = 65_536
CACHE_MAX_MIB = 1024 * 1024
WORKERS_MAX_COUNT = 256

_HOST = re.compile(r"[^\s\[\]:/@]{1,255}")
_HOST_V6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9._-]+)?")
_WILDCARDS = frozenset({"0.0.0.0", "::", "0::0"})  # noqa: S104 - recognised, never bound from here

Plain = str | int | list[str] | None


class Address(NamedTuple):
    """A host (name, IPv4 or IPv6, no brackets) and a TCP port; as text ``HOST:PORT`` or ``[IPV6]:PORT``."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


DEFAULT_ADDRESS = Address("127.0.0.1", DEFAULT_PORT)


def parse_address(text: str, *, setting: str = "address", port_min: int = 1) -> Address:
    """Return the address that *text* writes as ``HOST:PORT`` or ``[IPV6]:PORT``.

    Args:
        text: the address; white space around it is ignored.
        setting: what the error calls it.
        port_min: 0 where the system may choose the port, else 1.

    Raises:
        ConfigError: it is not of that form, or the port is not in ``port_min..65535``.
    """
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    pattern = _HOST_V6 if bracketed else _HOST
    name = host[1:-1] if bracketed else host
    if not colon or pattern.fullmatch(name) is None or re.fullmatch(r"[0-9]{1,5}", port) is None:
        raise ConfigError(f"{setting} must be HOST:PORT, or [ADDRESS]:PORT for IPv6, got {text!r}")
    if not port_min <= int(port) <= 65_535:
        raise ConfigError(f"{setting} must have a port in {port_min}..65535, got {text!r}")
    return Address(name, int(port))


def default_name(hostname: str, port: int) -> str:
    """Return the name of a node that was given none: the machine's name and the port it listens on."""
    machine = re.sub(r"[^A-Za-z0-9._-]+", "-", hostname.partition(".")[0]) or "node"
    return f"{machine[: LABEL_MAX - 6]}-{port}"


def _integer(setting: str, value: object, low: int, high: int) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
        value = int(value)
    # bool is an int to Python, never to a user
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{setting} must be an integer in {low}..{high}, got {value!r}")
    return value


def _partitions(setting: str, value: object) -> int:
    count = _integer(setting, value, 1, PARTITIONS_MAX_COUNT)
    if count & (count - 1):
        raise ConfigError(f"{setting} must be a power of two in 1..{PARTITIONS_MAX_COUNT}, got {count}")
    return count


def _cache(setting: str, value: object) -> int:
    return _integer(setting, value, 0, CACHE_MAX_MIB)


def _replicas(setting: str, value: object) -> int:
    return _integer(setting, value, 1, REPLICAS_MAX_COUNT)


def _weight(setting: str, value: object) -> int:
    return _integer(setting, value, 1, WEIGHT_MAX)


def _workers(setting: str, value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    try:
        return _integer(setting, value, 1, WORKERS_MAX_COUNT)
    except ConfigError:
        raise ConfigError(f"{setting} must be auto or an integer in 1..{WORKERS_MAX_COUNT}, got {value!r}") from None


def _label(setting: str, value: object) -> str:
    if not is_label(value):
        raise ConfigError(
            f"{setting} must be 1 to {LABEL_MAX} letters, digits, dots, dashes or underscores, got {value!r}"
        )
    return value


def _one_of(known: tuple[str, ...]) -> Callable[[str, object], str]:
    def parse(setting: str, value: object) -> str:
        if not isinstance(value, str) or value not in known:
            raise ConfigError(f"{setting} must be one of {', '.join(known)}, got {value!r}")
        return value

    return parse


def _folder(setting: str, value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ConfigError(f"{setting} must be the path of a folder, got {value!r}")
    return Path(value)


def _address(setting: str, value: object, port_min: int = 1) -> Address:
    if isinstance(value, Address):
        value = str(value)
    if not isinstance(value, str):
        raise ConfigError(f"{setting} must be HOST:PORT, or [ADDRESS]:PORT for IPv6, got {value!r}")
    return parse_address(value, setting=setting, port_min=port_min)


def _open_address(setting: str, value: object) -> Address:
    return _address(setting, value, port_min=0)


def _addresses(setting: str, value: object) -> tuple[Address, ...]:
    if isinstance(value, str):
        value = [part for part in re.split(r"[,\s]+", value) if part]
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{setting} must be a list of HOST:PORT, got {value!r}")
    return tuple(_address(setting, item) for item in value)


# Setting -> its parser, which is its only rule: it takes text, what TOML gives, or the finished value.
_PARSERS: dict[str, Callable[[str, object], Any]] = {
    "data": _folder,
    "listen": _open_address,
    "resp": _open_address,
    "workers": _workers,
    "join": _addresses,
    "replace": _label,
    "name": _label,
    "weight": _weight,
    "zone": _label,
    "host": _label,
    "advertise": _open_address,
    "durability": _one_of(DURABILITIES),
    "sockets": _one_of(SOCKETS),
    "cache": _cache,
    "partitions": _partitions,
    "replicas": _replicas,
    "r": _replicas,
    "w": _replicas,
}
SETTINGS = tuple(_PARSERS)


def _check_fields(config: "NodeConfig | ClusterConfig | ClusterWish") -> None:
    """Hold every field that is set to its rule, so that no object with a bad value exists."""
    for field in fields(config):
        value = getattr(config, field.name)
        if value is not None and _PARSERS[field.name](field.name, value) != value:
            raise ConfigError(f"{field.name} must be parsed before it is set, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """What is fixed when a cluster is created, and equal on every node of it. Raises `ConfigError`."""

    partitions: int = 1024  # Q, a power of two; low: coarse shares of the load; high: more trees and gossip
    replicas: int = 3  # N: distinct hosts per key
    r: int | None = None  # replicas that must answer a get; None: majority of N
    w: int | None = None  # replicas that must have a put; None: majority of N

    def __post_init__(self) -> None:
        _check_fields(self)
        for setting, value in (("r", self.r), ("w", self.w)):
            if value is not None and value > self.replicas:
                raise ConfigError(f"{setting} must be in 1..{self.replicas} (replicas), got {value}")

    @property
    def read_quorum(self) -> int:
        """R: replicas that must answer a get which names no other number."""
        return self.replicas // 2 + 1 if self.r is None else self.r

    @property
    def write_quorum(self) -> int:
        """W: replicas that must have a put which names no other number."""
        return self.replicas // 2 + 1 if self.w is None else self.w


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterWish:
    """What the user asked the cluster to be; None where nothing was asked. A wish never changes a cluster."""

    partitions: int | None = None
    replicas: int | None = None
    r: int | None = None
    w: int | None = None

    def __post_init__(self) -> None:
        _check_fields(self)

    def create(self) -> ClusterConfig:
        """Return the configuration of a new cluster. Raises `ConfigError` when r or w exceed replicas."""
        asked = {field.name: getattr(self, field.name) for field in fields(self)}
        return ClusterConfig(**{name: value for name, value in asked.items() if value is not None})

    def difference(self, cluster: ClusterConfig) -> str | None:
        """Return one sentence on the first wish that *cluster* does not meet, or None when it meets all."""
        for setting, value in _in_force(cluster).items():
            asked = getattr(self, setting)
            if asked is not None and asked != value:
                return f"{setting} is fixed at {value} in this cluster, got {asked}: leave it out"
        return None


def _in_force(cluster: ClusterConfig) -> dict[str, int]:
    return {
        "partitions": cluster.partitions,
        "replicas": cluster.replicas,
        "r": cluster.read_quorum,
        "w": cluster.write_quorum,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What may differ from node to node. Raises `ConfigError`.

    ``name``, ``host`` and ``advertise`` are None when not given: the folder may remember a name, the name is
    the default of ``host``, and the port may be known only once it listens (`default_name`, `advertised`).
    """

    data: Path
    listen: Address = DEFAULT_ADDRESS  # port 0: any free one
    resp: Address | None = None  # where redis clients are served too; port 0: any free one
    workers: int | Literal["auto"] | None = None  # processes, each a node; auto: one per processor; None: one node
    join: tuple[Address, ...] = ()
    replace: str | None = None  # the dead member whose place a new node takes, under its name unless it has another
    name: str | None = None
    weight: int = 1  # share of the data, relative to the other nodes
    zone: str = "default"
    host: str | None = None  # nodes of one host count as one replica
    advertise: Address | None = None  # what others connect to; port 0: the one listened on
    durability: Literal["group", "interval"] = "group"
    cache: int = 64  # MiB of hot records in memory; low: more reads of the store; high: memory
    sockets: Literal["auto", "reactor", "streams"] = "auto"  # auto: the reactor, where the system has epoll

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.advertise is not None and self.advertise.host in _WILDCARDS:
            raise ConfigError(f"advertise must be an address others can connect to, got {str(self.advertise)!r}")
        if self.advertise is None and self.listen.host in _WILDCARDS:
            raise ConfigError(
                f"advertise must be given when listen is {str(self.listen)!r}: others cannot connect to that"
            )
        if self.workers is not None and self.replace is not None:
            raise ConfigError(f"replace is for one node, so it cannot be given with workers, got {self.replace!r}")

    def advertised(self, port: int) -> Address:
        """Return the address that other nodes and clients are told, once the node listens on *port*."""
        given = self.advertise or self.listen
        return Address(given.host, port if self.advertise is None else given.port or port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting as ``status --config`` shows it; its value is text, an integer, a list of text, or None."""

    value: Plain
    source: Literal["default", "flag", "env", "file", "cluster"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything ``dynafast serve`` was told. ``sources`` has an entry for every name in `SETTINGS`."""

    node: NodeConfig
    cluster: ClusterWish
    sources: Mapping[str, Setting]

    def effective(self, cluster: ClusterConfig, *, name: str, host: str, advertise: Address) -> dict[str, Setting]:
        """Return every setting as it is in force on a running node: what was left open is filled in."""
        shown = dict(self.sources)
        for setting, value in _in_force(cluster).items():
            if shown[setting].source == "default":
                shown[setting] = Setting(value=value, source="cluster")
        for setting, chosen in (("name", name), ("host", host), ("advertise", str(advertise))):
            shown[setting] = Setting(value=chosen, source=shown[setting].source)
        return shown

    def for_worker(
        self,
        index: int,
        *,
        name: str,
        host: str,
        seeds: tuple[Address, ...] = (),
        listen_port: int = 0,
        resp_port: int = 0,
    ) -> "Settings":
        """Return what worker *index* of these settings is told: a folder, ports and a name of its own.

        Args:
            index: from 0.
            name: what all are called after.
            host: the label of all.
            seeds: other workers that it may enter the cluster through.
            listen_port: the one to be used where ``listen`` has port 0; 0: any free one.
            resp_port: the same for ``resp``.

        Raises:
            ConfigError: a port would be above 65535, or the name too long.
        """
        node = self.node
        changes: dict[str, Any] = {
            "data": node.data / str(index),
            "listen": _nth("listen", node.listen, index, listen_port),
            "join": (*seeds, *node.join),
            "name": f"{name}-{index}",
            "host": host,
        }
        if node.resp is not None:
            changes["resp"] = _nth("resp", node.resp, index, resp_port)
        if node.advertise is not None:
            changes["advertise"] = _nth("advertise", node.advertise, index, 0)
        shown = {
            name: Setting(value=_plain(value), source=self.sources[name].source) for name, value in changes.items()
        }
        return Settings(node=replace(node, **changes), cluster=self.cluster, sources={**self.sources, **shown})

    def to_json(self) -> str:
        """Return everything as one line, for another process."""
        return json.dumps({name: [item.value, item.source] for name, item in self.sources.items()})

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Return the settings that `to_json` wrote."""
        sources = {name: Setting(value=value, source=source) for name, (value, source) in json.loads(text).items()}
        values = {name: _PARSERS[name](name, item.value) for name, item in sources.items() if item.value is not None}
        return _settings(values, sources)


def _nth(setting: str, first: Address, index: int, otherwise: int) -> Address:
    """Return the address *index* ports after *first*; where that has port 0, the one with port *otherwise*."""
    if first.port == 0:
        return Address(first.host, otherwise)
    if first.port + index > 65_535:
        raise ConfigError(
            f"{setting} must leave ports for all workers, and worker {index} would need {first.port + index}, "
            f"got {str(first)!r}"
        )
    return Address(first.host, first.port + index)


def _settings(values: Mapping[str, Any], sources: Mapping[str, Setting]) -> Settings:
    wishes = {field.name for field in fields(ClusterWish)}
    return Settings(
        node=NodeConfig(**{name: value for name, value in values.items() if name not in wishes}),
        cluster=ClusterWish(**{name: value for name, value in values.items() if name in wishes}),
        sources=sources,
    )


def _plain(value: object) -> Plain:
    if isinstance(value, Path | Address):
        return str(value)
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return cast(Plain, value)


def read_file(path: Path) -> dict[str, object]:
    """Return the settings that the TOML file *path* gives, by name, not yet parsed.

    Raises:
        ConfigError: it cannot be read, is no TOML, or has a key that is no setting.
    """
    import tomllib  # here: only who has a file pays for the parser

    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {path} is not TOML: {error}") from error
    unknown = sorted(set(found) - set(SETTINGS))
    if unknown:
        raise ConfigError(f"config file {path} has an unknown key {unknown[0]!r}, known are {', '.join(SETTINGS)}")
    return found


def load(flags: Mapping[str, object], *, environ: Mapping[str, str], file: Path | None = None) -> Settings:
    """Return the settings of a node from all their sources.

    Args:
        flags: by setting name; None or an empty list where the flag was not given.
        environ: the environment; ``DYNAFAST_CONFIG`` names the file when *file* is None. Empty means unset.
        file: the TOML file, if any.

    Raises:
        ConfigError: a value is bad (the message says where it stands), ``data`` is missing, or the file is.
    """
    if file is None and environ.get("DYNAFAST_CONFIG"):
        file = Path(environ["DYNAFAST_CONFIG"])
    in_file = {} if file is None else read_file(file)
    values: dict[str, Any] = {}
    sources: dict[str, Setting] = {}
    defaults = {field.name: field.default for field in fields(NodeConfig)}
    for name, parse in _PARSERS.items():
        variable = f"DYNAFAST_{name.upper()}"
        given: object
        source: Literal["default", "flag", "env", "file"]
        if flags.get(name) not in (None, (), []):
            given, source, place = flags[name], "flag", f"--{name}"
        elif environ.get(variable):
            given, source, place = environ[variable], "env", variable
        elif name in in_file:
            given, source, place = in_file[name], "file", str(file)
        else:
            sources[name] = Setting(value=_plain(defaults.get(name)), source="default")
            continue
        try:
            values[name] = parse(name, given)
        except ConfigError as error:
            raise ConfigError(f"{error} (from {place})") from None
        sources[name] = Setting(value=_plain(values[name]), source=source)
    if "data" not in values:
        raise ConfigError("data must be given: --data DIR, DYNAFAST_DATA, or data in the config file")
    return _settings(values, sources)
