"""Starts and ends the servers that are compared, each with fresh data in a temporary folder, all on loopback."""

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load import LoadError, Target, etcd, native, nats, resp
from dynafast.testing import Cluster

START_S = 30.0
STOP_S = 10.0
POLL_S = 0.05
BUCKET = "bench"
SOON = ("--repl-diskless-sync-delay", "0")  # replicas are fed at once, not after 5 s: for the start alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A store that serves.

    Attributes:
        pids: of all its processes.
        target: of our own client.
        resp: HOST:PORT for redis-benchmark; None: it does not speak that.
    """

    pids: tuple[int, ...]
    target: Target
    resp: str | None = None


class _Processes:
    """Server processes, ended together."""

    def __init__(self, stack: ExitStack) -> None:
        self.folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True))
        )
        self.pids: list[int] = []
        self._stack = stack

    def start(self, *command: object) -> None:
        if shutil.which(str(command[0])) is None:
            raise LoadError(f"{command[0]} is not installed: see bench/peers/README.md")
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log, cwd=self.folder)
        self._stack.callback(_end, process)
        self.pids.append(process.pid)

    def wait(self, ready: Callable[[], Any], what: str) -> Any:
        """Return what *ready* does as soon as it is true; errors of the connection mean not yet."""
        deadline = time.monotonic() + START_S
        while True:
            with suppress(OSError, ValueError, KeyError):
                found = ready()
                if found:
                    return found
            if time.monotonic() > deadline:
                last = (self.folder / "log").read_text(errors="replace").splitlines()[-5:]
                raise LoadError(f"{what} was not ready within {START_S:.0f} s: {last}")
            time.sleep(POLL_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens at; all are different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in sockets]


def _get(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=2) as answer:
        return json.loads(answer.read())


# ---- this project


@contextmanager
def dynafast(*, nodes: int, replicas: int, durability: str) -> Iterator[Running]:
    """Run a cluster, quorums of a majority, each node with the front for redis clients."""
    with Cluster(
        nodes, replicas=replicas, durability=durability, partitions=256, options=["--resp", "127.0.0.1:0"]
    ) as cluster:
        yield Running(
            pids=tuple(node.pid for node in cluster.nodes if node.pid),
            target=native(cluster.addresses),
            resp=cluster.nodes[0].resp,
        )


# ---- Redis


def _redis_says(port: int, command: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(command + b"\r\n")
        return connection.recv(65536)


@contextmanager
def redis(*, fsync: str | None, replicas: int = 0) -> Iterator[Running]:
    """Run a primary, and replicas of it that a write waits for one of.

    Args:
        fsync: "everysec" or "always"; None: no file at all.
        replicas: each with a file of its own, as the primary's.
    """
    keep = ["--appendonly", "yes", "--appendfsync", fsync] if fsync else ["--appendonly", "no"]
    with ExitStack() as stack:
        processes = _Processes(stack)
        ports = free_ports(1 + replicas)
        for number, port in enumerate(ports):
            folder = processes.folder / str(number)
            folder.mkdir()
            follow = ["--replicaof", "127.0.0.1", ports[0]] if number else []
            where = ["--port", port, "--bind", "127.0.0.1", "--dir", folder]
            processes.start("redis-server", *where, "--save", "", "--daemonize", "no", *keep, *follow, *SOON)
        for port in ports:
            processes.wait(lambda port=port: _redis_says(port, b"PING") == b"+PONG\r\n", "redis-server")
        online = b"state=online"
        processes.wait(
            lambda: _redis_says(ports[0], b"INFO replication").count(online) == replicas or not replicas, "WAIT"
        )
        address = f"127.0.0.1:{ports[0]}"
        wait = 1 if replicas else 0
        yield Running(pids=tuple(processes.pids), target=resp([address], wait=wait), resp=None if replicas else address)


# ---- etcd


@contextmanager
def etcd_nodes(count: int) -> Iterator[Running]:
    """Run etcd; the client speaks to the leader, which saves it a hop."""
    with ExitStack() as stack:
        processes = _Processes(stack)
        ports = free_ports(2 * count)
        clients, peers = ports[:count], ports[count:]
        members = ",".join(f"n{number}=http://127.0.0.1:{port}" for number, port in enumerate(peers))
        for number, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            urls = [f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"]
            where = ["--listen-client-urls", urls[0], "--advertise-client-urls", urls[0], "--listen-peer-urls", urls[1]]
            where += ["--initial-advertise-peer-urls", urls[1], "--initial-cluster", members]
            name = f"n{number}"
            processes.start(
                "etcd", "--name", name, "--data-dir", processes.folder / name, "--log-level", "error", *where
            )
        leader = processes.wait(lambda: _etcd_leader(clients), "etcd")
        yield Running(pids=tuple(processes.pids), target=etcd([f"127.0.0.1:{leader}"]))


def _etcd_leader(ports: Sequence[int]) -> int | None:
    """Return the port of the leader, once all know the same."""
    said = {port: _get(f"http://127.0.0.1:{port}/v3/maintenance/status", {}) for port in ports}
    leaders = {status["leader"] for status in said.values()}
    if len(leaders) != 1:
        return None
    return next((port for port, status in said.items() if status["header"]["member_id"] in leaders), None)


# ---- NATS


@contextmanager
def nats_nodes(count: int) -> Iterator[Running]:
    """Run JetStream with a key-value bucket in files; the client speaks to the leader of the bucket."""
    with ExitStack() as stack:
        processes = _Processes(stack)
        ports = free_ports(2 * count)
        clients, routes = ports[:count], ports[count:]
        for number, (client, route) in enumerate(zip(clients, routes, strict=True)):
            config = processes.folder / f"n{number}.conf"
            others = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
            cluster = (
                f'cluster {{ name: "bench", listen: "127.0.0.1:{route}", routes: [{others}] }}' if count > 1 else ""
            )
            store = processes.folder / f"n{number}"
            listen = f'server_name: "n{number}"\nlisten: "127.0.0.1:{client}"\n'
            config.write_text(f'{listen}jetstream {{ store_dir: "{store}" }}\n{cluster}\n')
            processes.start("nats-server", "-c", config)
        leader = processes.wait(lambda: _nats_bucket(clients, count), "nats-server")
        yield Running(pids=tuple(processes.pids), target=nats([f"127.0.0.1:{leader}"], bucket=BUCKET))


def _nats_bucket(ports: Sequence[int], replicas: int) -> int:
    """Create the bucket as the clients of NATS do, and return the port of its leader; ValueError: not yet."""
    stream = {
        "name": f"KV_{BUCKET}",
        "subjects": [f"$KV.{BUCKET}.>"],
        "num_replicas": replicas,
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "max_bytes": -1,
        "max_age": 0,
        "duplicate_window": 120 * 10**9,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
    }
    answer = _nats_ask(ports[0], f"$JS.API.STREAM.CREATE.KV_{BUCKET}", json.dumps(stream).encode())
    if "error" in answer:
        raise ValueError(answer["error"]["description"])
    info = _nats_ask(ports[0], f"$JS.API.STREAM.INFO.KV_{BUCKET}", b"")
    leader = info["cluster"].get("leader", "") if replicas > 1 else "n0"
    return ports[int(leader.removeprefix("n"))]


def _nats_ask(port: int, subject: str, body: bytes) -> dict[str, Any]:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection, connection.makefile("rb") as lines:
        hello = b'CONNECT {"verbose":false,"headers":false}\r\nSUB _INBOX.ask 1\r\n'
        connection.sendall(hello + f"PUB {subject} _INBOX.ask {len(body)}\r\n".encode() + body + b"\r\n")
        for line in lines:
            words = line.split()
            if words and words[0] == b"MSG":
                return dict(json.loads(lines.read(int(words[-1]))))
    raise ValueError("no answer")
