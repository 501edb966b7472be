"""Real clients and tools of redis against real nodes: redis-py, redis-cli, redis-benchmark, and a node that dies."""

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from dynafast.testing import COMMAND, Cluster, Node
from tests.cluster.load import eventually

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def three() -> Iterator[Cluster]:
    with Cluster(3, options=["--resp", "127.0.0.1:0"]) as cluster:
        yield cluster


@pytest.fixture(scope="module", params=["reactor", "streams"])
def one(request: pytest.FixtureRequest) -> Iterator[Node]:
    options = ["--resp", "127.0.0.1:0", "--sockets", request.param]
    with Cluster(1, replicas=1, partitions=8, durability="interval", options=options) as cluster:
        yield cluster.nodes[0]


def address(node: Node) -> tuple[str, int]:
    assert node.resp is not None
    host, _, port = node.resp.rpartition(":")
    return host, int(port)


def client(node: Node, protocol: int = 2, **options: Any) -> "redis.Redis[bytes]":
    host, port = address(node)
    return redis.Redis(host, port, protocol=protocol, socket_timeout=20, **options)


def tool(name: str, node: Node, *arguments: str, typed: bytes = b"") -> str:
    """Run a tool of Debian's redis-tools against a node; return what it prints."""
    path = shutil.which(name)
    assert path is not None, f"these tests drive {name}: apt-get install redis-tools"
    host, port = address(node)
    done = subprocess.run([path, "-h", host, "-p", str(port), *arguments], input=typed, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_uses_every_command(three: Cluster, protocol: int) -> None:
    """Written through one node, read through another."""
    with client(three.nodes[0], protocol, client_name="me") as near, client(three.nodes[1], protocol) as far:
        assert near.ping()
        assert near.client_getname() in ("me", b"me")
        key, other = b"key %d" % protocol, b"other %d" % protocol
        assert near.set(key, b"\x00\xff\r\n")
        assert far.get(key) == b"\x00\xff\r\n"
        assert near.mset({key: b"1", other: b"2"})
        assert far.mget(key, b"none", other) == [b"1", None, b"2"]
        assert far.exists(key, other, b"none") == 2
        assert far.strlen(key) == 1
        assert near.delete(key, b"none") == 1
        assert far.get(key) is None
        assert far.echo(b"x") == b"x"
        assert near.dbsize() > 0
        assert near.info()["members"] == 3
        assert near.config_get("append*") == {"appendfsync": "always", "appendonly": "yes"}
        assert near.client_id() > 0
        assert near.command_count() == 17
        big = b"v" * (8 * MIB)
        assert near.set(key, big)
        assert far.get(key) == big


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_is_refused_what_is_not_supported_and_goes_on(three: Cluster, protocol: int) -> None:
    with client(three.nodes[0], protocol) as near:
        for refused in (
            lambda: near.set("k", "v", nx=True),
            lambda: near.set("k", "v", ex=10),
            lambda: near.incr("k"),
            lambda: near.set("k", b"v" * (8 * MIB + 1)),
            lambda: near.set("k" * 4097, "v"),
            lambda: near.get(""),
            lambda: near.pipeline(transaction=True).set("k", "v").execute(),
        ):
            with pytest.raises(redis.ResponseError):
                refused()
        assert near.get("k") is None


def test_pipelines_of_redis_py_are_answered_in_order(three: Cluster) -> None:
    """Thousands of commands at once, on keys of all nodes."""
    with client(three.nodes[0]) as near:
        pipe = near.pipeline(transaction=False)
        for number in range(3_000):
            pipe.set(b"p%d" % (number % 100), b"%d" % number)
            pipe.get(b"p%d" % (number % 100))
        answers = pipe.execute()
        assert answers[0::2] == [True] * 3_000
        assert answers[1::2] == [b"%d" % number for number in range(3_000)]


def test_native_client_and_redis_client_see_the_same_keys(three: Cluster) -> None:
    with client(three.nodes[0]) as near, three.client() as native:
        native.put(b"cart", b"milk")
        native.put(b"cart", b"eggs")
        assert len(native.get(b"cart").versions) == 2
        assert near.get(b"cart") == b"eggs"
        near.set(b"cart", b"bread")
        assert native.get(b"cart").value == b"bread"
        near.delete(b"cart")
        assert not native.get(b"cart").found


def test_redis_cli_talks_to_a_node(three: Cluster) -> None:
    node = three.nodes[2]
    assert tool("redis-cli", node, "set", "cli", "a value") == "OK\n"
    assert tool("redis-cli", node, "-3", "get", "cli") == "a value\n"
    assert tool("redis-cli", node, "set", "cli", "x", "NX").startswith("ERR SET takes no options here, got 'NX'")
    assert tool("redis-cli", node, "get", "none") == "\n"
    assert "node_name:" in tool("redis-cli", node, "info")
    assert tool("redis-cli", node, "--pipe", typed=b'SET "typed key" "a\\x41"\r\nGET cli\r\n').endswith(
        "errors: 0, replies: 2\n"
    )
    assert tool("redis-cli", node, typed=b'get "typed key"\nmget cli none\nquit\n') == "aA\na value\n\n"
    assert int(tool("redis-cli", node, "--raw", "command", "count")) == 17


@pytest.mark.parametrize("arguments", [(), ("-P", "16"), ("-P", "16", "-r", "1000"), ("-3", "-P", "4")], ids=" ".join)
def test_redis_benchmark_runs_without_an_error(one: Node, arguments: tuple[str, ...]) -> None:
    said = tool("redis-benchmark", one, "-t", "ping,set,get,mset", "-n", "4000", "--csv", *arguments)
    names = [line.split(",")[0].strip('"') for line in said.splitlines()[1:]]
    assert names == ["PING_INLINE", "PING_MBULK", "SET", "GET", "MSET (10 keys)"]
    assert "rror" not in said


def test_typed_lines_over_a_socket(one: Node) -> None:
    """As somebody with telnet does; bytes that are no protocol are said so, and the connection closes."""
    with socket.create_connection(address(one), timeout=20) as sock, sock.makefile("rb") as lines:
        sock.sendall(b"set typed 'a b'\r\n\r\nGET typed\nfoo\r\n")
        assert [lines.readline() for _ in range(3)] == [b"+OK\r\n", b"$3\r\n", b"a b\r\n"]
        assert lines.readline().startswith(b"-ERR unknown command 'foo'")
        sock.sendall(b"*1\r\nGET\r\n")
        assert lines.readline() == b"-ERR Protocol error: expected '$', got 'G'\r\n"
        assert lines.readline() == b""


def test_a_client_that_does_not_read_has_its_input_wait(one: Node) -> None:
    """Many answers of 1 MiB are asked for and not read; others are served meanwhile, and then all of them come."""
    with client(one) as near, socket.create_connection(address(one), timeout=20) as sock:
        near.set("big", b"v" * MIB)
        sock.sendall(b"GET big\r\n" * 200)
        assert near.get("big") == b"v" * MIB
        with sock.makefile("rb") as answers:
            for _ in range(200):
                assert answers.readline() == b"$%d\r\n" % MIB
                assert answers.read(MIB + 2)[-3:] == b"v\r\n"
            sock.sendall(b"PING\r\n")
            assert answers.readline() == b"+PONG\r\n"


def test_a_port_that_is_taken_is_refused_at_the_start(tmp_path: Path, one: Node) -> None:
    assert one.resp is not None
    done = subprocess.run(
        [*COMMAND, "--data", str(tmp_path), "--listen", "127.0.0.1:0", "--resp", one.resp],
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"resp: cannot listen on " + one.resp.encode() in done.stderr


def test_a_node_dies_and_redis_clients_of_the_others_lose_nothing() -> None:
    """Writers of both other nodes go on; every value that was answered OK is there afterwards, at every node."""
    with Cluster(3, options=["--resp", "127.0.0.1:0"]) as cluster:
        first, second, dying = cluster.nodes
        kept: dict[bytes, bytes] = {}
        errors: list[str] = []
        halt = threading.Event()

        def write(number: int, node: Node) -> None:
            with client(node) as near:
                for turn in range(1_000_000):
                    if halt.is_set():
                        return
                    key, value = b"%d-%d" % (number, turn % 50), b"%d" % turn
                    try:
                        near.set(key, value)
                    except redis.RedisError as error:  # the outcome may be unknown: the next one decides
                        errors.append(str(error))
                        kept.pop(key, None)
                    else:
                        kept[key] = value

        writers = [threading.Thread(target=write, args=item) for item in enumerate((first, second, first, second))]
        for writer in writers:
            writer.start()
        eventually(lambda: len(kept) >= 200, "the writers write")
        dying.kill()
        begun = {key: kept.get(key) for key in list(kept)}
        eventually(
            lambda: all(kept.get(key) != value for key, value in begun.items()), "they write without the third node"
        )
        halt.set()
        for writer in writers:
            writer.join(30)
        assert all(re.match("TIMEOUT|UNCERTAIN|UNAVAILABLE", error) for error in errors), errors
        for node in (first, second):
            with client(node) as near:
                assert near.mget(list(kept)) == list(kept.values())
        dying.start()
        cluster.wait_until_clean()
        with client(dying) as near:
            assert near.mget(list(kept)) == list(kept.values())
            assert near.delete(*kept) == len(kept)
            assert near.exists(*kept) == 0
