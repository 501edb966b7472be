"""What ``group`` promises, seen from below: an fdatasync of the log lies between each write and its answer.

A SIGKILL cannot show a missing fsync (the page cache survives it), so a preloaded shim notes every write, sync and
send of a whole node process in order, and a power cut is played from that.
"""

import threading
from pathlib import Path

import pytest

from dynafast import Client
from dynafast.testing import Cluster
from tests.durability import Event, ShimLog, build_shim

WRITERS = 8
TURNS = 40


class Written:
    """Puts of many threads, each of a key of its own; by key the actor that the node chose for it."""

    def __init__(self, address: str) -> None:
        self.actors: dict[bytes, int] = {}
        self._address = address
        threads = [threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _write(self, writer: int) -> None:
        with Client([self._address]) as client:
            for turn in range(TURNS):
                key = b"key-%d-%d" % (writer, turn)
                self.actors[key] = client.put(key, b"value of " + key).dot[0]


def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShimLog:
    """Let every process that is started from now on run with the shim."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    shim = ShimLog(build_shim(tmp_path), tmp_path / "shim", watch=folder, sockets=True)
    for name, value in shim.environment().items():
        monkeypatch.setenv(name, value)
    return shim


def pairs(shim: ShimLog, cluster: Cluster, written: Written) -> list[tuple[Event, Event]]:
    """For each put its write to the log and its answer on the socket, found by the actor in both."""
    writes = shim.writes(cluster.nodes[0].folder / "data")
    answers = shim.sends(port=int(cluster.nodes[0].address.rsplit(":", 1)[1]))
    found = []
    for actor in written.actors.values():
        mark = actor.to_bytes(8, "big")
        write = next(event for event in writes if mark in event.data)
        answer = next(event for event in answers if mark in event.data)
        assert write.index < answer.index
        found.append((write, answer))
    return found


def test_in_group_an_fdatasync_lies_between_each_write_and_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = watched(tmp_path, monkeypatch)
    with Cluster(1, partitions=8, folder=tmp_path / "cluster") as cluster:
        written = Written(cluster.nodes[0].address)
        cluster.nodes[0].kill()
        found = pairs(shim, cluster, written)
        assert len(found) == WRITERS * TURNS
        assert all(shim.is_durable(write, before=answer) for write, answer in found)


def test_in_interval_the_same_check_finds_answers_without_a_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check can fail; and a second later everything is synced there too."""
    shim = watched(tmp_path, monkeypatch)
    with Cluster(1, partitions=8, durability="interval", folder=tmp_path / "cluster") as cluster:
        written = Written(cluster.nodes[0].address)
        found = pairs(shim, cluster, written)
        assert not all(shim.is_durable(write, before=answer) for write, answer in found)
        deadline = threading.Event()
        for _ in range(500):
            if all(shim.is_durable(write) for write, _ in found):
                break
            deadline.wait(0.02)
        else:
            pytest.fail("not everything was synced within 10 s")


def test_a_restart_from_files_cut_to_their_synced_length_loses_nothing_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = watched(tmp_path, monkeypatch)
    with Cluster(1, partitions=8, folder=tmp_path / "cluster") as cluster:
        written = Written(cluster.nodes[0].address)
        cluster.nodes[0].kill()
        shim.cut(cluster.nodes[0].folder / "data", tmp_path / "after" / "n1" / "data")
    with Cluster(1, partitions=8, folder=tmp_path / "after") as cluster, cluster.client() as client:
        missing = [key for key in written.actors if client.get(key).value != b"value of " + key]
        assert missing == []
