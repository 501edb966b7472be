"""Real node processes: start, stop, IPv6, restarts, dead replicas, big values, many connections."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynafast import Client
from dynafast.errors import DynafastError, RefusedError, TooLargeError, UnavailableError
from dynafast.testing import Cluster, Node
from tests.cluster.load import eventually, kept

DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def five() -> Iterator[Cluster]:
    with Cluster(5) as cluster:
        yield cluster


@contextlib.contextmanager
def single(tmp_path: Path, *options: str, durability: str = "group") -> Iterator[Cluster]:
    with Cluster(1, partitions=8, durability=durability, options=options, folder=tmp_path) as cluster:
        yield cluster


def replicas_of(cluster: Cluster, key: bytes) -> list[Node]:
    with cluster.client() as client:
        names = client.ring(key)["preference"][:3]
    return [next(node for node in cluster.nodes if node.name == name) for name in names]


# ---- one node


def test_sigterm_answers_what_is_in_flight_and_flushes(tmp_path: Path) -> None:
    """Writers run while the node is told to stop: every put is acknowledged and kept, or surely refused."""
    with single(tmp_path) as cluster:
        acknowledged: list[bytes] = []
        node = cluster.nodes[0]

        def write(writer: int) -> None:
            with Client([node.address], timeout=3.0) as client:
                for turn in range(100_000):
                    key = b"%d-%d" % (writer, turn)
                    try:
                        client.put(key, key)
                    except DynafastError:
                        return
                    acknowledged.append(key)

        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in writers:
            thread.start()
        eventually(lambda: len(acknowledged) > 200, "writers did not get going")
        node.stop()
        for thread in writers:
            thread.join(DEADLINE_S)
        assert "stop.drained left=0" in node.log.replace("event=", "").replace('"', "")
        node.start()
        assert "clean=true" in node.log.lower(), "a stop is a clean one"
        with cluster.client() as client:
            missing = [key for key in acknowledged if client.get(key).value != key]
        assert missing == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_node_exits_with_status_0(tmp_path: Path, number: signal.Signals) -> None:
    with single(tmp_path) as cluster:
        node = cluster.nodes[0]
        process = node._process
        assert process is not None
        assert node.pid is not None
        os.kill(node.pid, number)
        assert process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize(
    ("option", "address", "host"),
    [("--listen", "[::1]:0", "[::1]:"), ("--advertise", "localhost:0", "localhost:")],
)
def test_ipv6_and_advertise(tmp_path: Path, option: str, address: str, host: str) -> None:
    with Cluster(2, partitions=8, replicas=2, folder=tmp_path, options=[option, address]) as cluster:
        assert all(found.startswith(host) for found in cluster.addresses), "ready tells what others connect to"
        with cluster.client() as client:
            assert all(member["address"].startswith(host) for member in client.status()["members"])
            client.put(b"k", b"v", w=2)
            assert client.get(b"k", r=2).value == b"v"


def test_a_second_process_on_the_folder_is_refused(tmp_path: Path) -> None:
    with single(tmp_path) as cluster:
        again = subprocess.run(
            [*cluster.command, "--data", str(cluster.nodes[0].folder / "data"), "--listen", "127.0.0.1:0"],
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert again.returncode == 4
        assert len(again.stderr.splitlines()) == 1
        assert b"another process" in again.stderr


def test_a_taken_name_is_refused(tmp_path: Path) -> None:
    with single(tmp_path / "one") as cluster:
        options = ["--listen", "127.0.0.1:0", "--name", "n1", "--join", cluster.nodes[0].address]
        again = subprocess.run(
            [*cluster.command, "--data", str(tmp_path / "two"), *options],
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert again.returncode == 4
        assert b"n1" in again.stderr
        assert len(again.stderr.splitlines()) == 1


def test_a_node_joins_a_cluster_with_records(tmp_path: Path) -> None:
    with Cluster(2, folder=tmp_path) as cluster:
        with cluster.client() as client:
            for number in range(500):
                client.put(b"k%d" % number, b"v%d" % number)
        cluster.add_node()
        cluster.wait_until_clean()
        with cluster.client() as client:
            assert all(client.get(b"k%d" % number, r=2).value == b"v%d" % number for number in range(500))


def test_a_node_keeps_its_data_and_its_name_over_a_restart_without_join(tmp_path: Path) -> None:
    with single(tmp_path) as cluster:
        node = cluster.nodes[0]
        with cluster.client() as client:
            client.put(b"k", b"v")
            before = client.status()["members"][0]
        node.stop()
        node.start()
        with cluster.client() as client:
            assert client.get(b"k").value == b"v"
            after = client.status()["members"][0]
        assert (before["name"], before["address"]) == (after["name"], after["address"])


def test_interval_survives_sigkill(tmp_path: Path) -> None:
    with single(tmp_path, durability="interval") as cluster:
        with cluster.client() as client:
            for number in range(500):
                receipt = client.put(b"%d" % number, b"v").receipt
            assert receipt.synced == 0, "interval acknowledges before the fsync, and says so"
        cluster.nodes[0].kill()
        cluster.nodes[0].start()
        with cluster.client() as client:
            assert all(client.get(b"%d" % number).found for number in range(500))


# ---- five nodes


def test_values_of_every_size_come_back(five: Cluster) -> None:
    with five.client(timeout=20.0) as client:
        for size in (0, 1, 100, 4096, 100_000, 8 << 20):
            value = os.urandom(size)
            client.put(b"size-%d" % size, value)
            assert client.get(b"size-%d" % size).value == value
        with pytest.raises(TooLargeError):
            client.put(b"size", bytes((8 << 20) + 1))


def test_three_versions_of_8_mib_are_read_and_resolved(five: Cluster) -> None:
    big = [bytes([65 + number]) * (8 << 20) for number in range(3)]
    with five.client(timeout=30.0) as client:
        for value in big:
            client.put(b"big", value)
        found = client.get(b"big")
        assert sorted(found.values) == big
        client.put(b"big", b"resolved", context=found.context)
        assert client.get(b"big").value == b"resolved"


def test_every_node_takes_any_request(five: Cluster) -> None:
    for node in five.nodes:
        with Client([node.address]) as client:
            client.put(b"via-" + node.name.encode(), b"v")
    with five.client() as client:
        assert all(client.get(b"via-" + node.name.encode()).value == b"v" for node in five.nodes)


def test_a_client_that_reads_nothing_harms_nobody(five: Cluster) -> None:
    """It asks for much and takes nothing: the node stops reading from it, and serves the others."""
    from dynafast._ext.codec import frame

    key = b"much"
    with five.client(timeout=20.0) as client:
        client.put(key, bytes(4 << 20))
        host, port = five.nodes[0].address.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as deaf:
            deaf.setblocking(False)
            deaf.send(frame([0, 0, {"version": 1, "role": "client"}]))
            asked = frame([2, 1, key, {"r": 1}]) * 200
            with contextlib.suppress(BlockingIOError):
                deaf.send(asked)
            for number in range(50):
                client.put(b"meanwhile-%d" % number, b"v")
                assert client.get(b"meanwhile-%d" % number).value == b"v"


def test_five_hundred_connections_are_served(five: Cluster) -> None:
    host, port = five.nodes[0].address.rsplit(":", 1)
    from dynafast._ext.codec import FrameReader, frame

    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(500)]
        for connection in connections:
            connection.sendall(frame([0, 0, {"version": 1, "role": "client"}]) + frame([1, 7]))
        for connection in connections:
            connection.settimeout(DEADLINE_S)
            reader = FrameReader()
            answers: list[list[object]] = []
            while len(answers) < 2:
                answers += reader.feed(connection.recv(65536))
            assert answers[1][:2] == [8, 7]


def test_with_one_of_five_dead_or_frozen_everything_at_2_2_succeeds_and_with_two_replicas_dead_it_fails_fast(
    tmp_path: Path,
) -> None:
    with Cluster(5, folder=tmp_path) as cluster:
        keys = [b"k%d" % number for number in range(100)]
        with cluster.client() as client:
            for key in keys:
                client.put(key, key)
        victim = cluster.nodes[2]
        victim.pause()
        with cluster.client() as client:
            for key in keys:
                context = client.get(key).context
                client.put(key, key + b"1", context=context)
        victim.resume()
        victim.kill()
        with cluster.client() as client:
            for key in keys:
                found = client.get(key)
                assert found.value == key + b"1"
                client.put(key, key + b"2", context=found.context)
        first, second, third = replicas_of(cluster, b"k0")
        victim.start()
        cluster.wait_until_up()
        second.kill()
        third.kill()
        with Client([first.address]) as client:
            began = time.monotonic()
            with pytest.raises(UnavailableError) as refused:
                client.get(b"k0", sloppy=False)
            with pytest.raises(UnavailableError):
                client.put(b"k0", b"x", sloppy=False)
            assert time.monotonic() - began < 2.0
        assert refused.value.details == {"needed": 2, "reachable": 1}


# ---- SIGKILL

KEYS = [b"a", b"b", b"c", b"d"]


class Load:
    """Twelve writers on four keys of one node, until it dies. Four of them read, merge and replace; the rest are blind.

    `acknowledged` is by key; `saw` is what a replacing writer had read, by the value that it then wrote.
    """

    def __init__(self, node: Node, label: int) -> None:
        self.acknowledged: dict[bytes, set[bytes]] = {key: set() for key in KEYS}
        self.saw: dict[bytes, list[bytes]] = {}
        self._node, self._label = node, label
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(12)]
        for thread in self._threads:
            thread.start()

    def _write(self, writer: int) -> None:
        key = KEYS[writer % len(KEYS)]
        with contextlib.suppress(DynafastError), Client([self._node.address], timeout=1.0) as client:
            for turn in range(100_000):
                value = b"%d/%d/%d" % (self._label, writer, turn)
                context = None
                if writer < len(KEYS):
                    found = client.get(key)
                    context = found.context
                    with self._lock:
                        self.saw[value] = found.values
                with contextlib.suppress(RefusedError):  # too many versions: the replacing writer is behind
                    client.put(key, value, context=context)
                    with self._lock:
                        self.acknowledged[key].add(value)

    def enough(self) -> bool:
        return all(len(values) >= 16 for values in self.acknowledged.values())

    def join(self) -> None:
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()


def test_a_value_that_only_a_lost_write_has_seen_is_not_kept() -> None:
    """The check can fail: it is not enough that somebody had read a value."""
    saw = {b"c": [b"a", b"b"], b"d": [b"c"], b"lost": [b"x"]}
    assert kept([b"d", b"e"], saw) == {b"a", b"b", b"c", b"d", b"e"}


def test_sigkill_20_times_loses_no_acknowledged_write(tmp_path: Path) -> None:
    """Each acknowledged write is there afterwards, or a later one that saw it."""
    with single(tmp_path) as cluster:
        node = cluster.nodes[0]
        for number in range(20):
            load = Load(node, number)
            eventually(load.enough, "too few writes before the kill")
            node.kill()
            load.join()
            node.start()
            with Client([node.address]) as client:
                for key in KEYS:
                    found = client.get(key)
                    lost = load.acknowledged[key] - kept(found.values, load.saw)
                    assert lost == set(), f"round {number}, key {key!r}"
                    client.put(key, b"start of the next round", context=found.context)
