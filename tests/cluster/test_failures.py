"""Real processes that fail under load: killed, frozen, restarted, wiped, out of disk. No acknowledged write is lost."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynafast import Client
from dynafast.testing import Cluster, ClusterError
from tests.cluster.load import Load, eventually, hints_for

DISK_BYTES = 160 * 1024 * 1024  # RocksDB wants 64 MiB free before it goes on


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_node_that_is_away_under_load_gets_its_writes_as_hints(tmp_path: Path, fault: str) -> None:
    """Its place is taken by others, and no request fails; what they kept for it is delivered when it is back."""
    with Cluster(5, folder=tmp_path) as cluster:
        victim = cluster.nodes[2]
        with Load(cluster) as load:
            load.more(100)
            getattr(victim, fault)()
            load.more(100)
            eventually(lambda: hints_for(cluster, victim.name) > 20, "writes are kept for the node that is away")
            victim.start() if fault == "kill" else victim.resume()
            load.more(100)
        cluster.wait_until_clean()
        assert hints_for(cluster, victim.name) == 0
        load.assert_nothing_lost()
        assert load.failures == []


def test_rolling_restart_of_all_five_without_a_failed_request(tmp_path: Path) -> None:
    with Cluster(5, r=2, w=2, folder=tmp_path) as cluster:
        with Load(cluster) as load:
            for node in cluster.nodes:
                load.more(50)
                node.stop()
                node.start()
                cluster.wait_until_up()
            load.more(50)
        cluster.wait_until_clean()
        load.assert_nothing_lost()
        assert load.failures == []


def test_wiped_node_is_refused_under_its_name_and_may_take_its_own_place(tmp_path: Path) -> None:
    with Cluster(4, folder=tmp_path) as cluster:
        victim = cluster.nodes[2]
        with Load(cluster) as load:
            load.more(100)
            victim.kill()
            victim.wipe()
            load.more(50)
            with pytest.raises(ClusterError, match=r"(?s)n3 ended with status 4.*name-taken"):
                victim.start()
            cluster.add_node(replace="n3")
            load.more(50)
        cluster.wait_until_clean()
        load.assert_nothing_lost()
        assert load.failures == []
        with cluster.client() as client:
            members = client.status()["members"]
        assert [(row["name"], row["status"]) for row in members if row["status"] != "removed"] == [
            (f"n{number}", "up") for number in range(1, 5)
        ]
        assert [row["name"] for row in members if row["status"] == "removed"] == ["n3"]


def test_folder_restored_from_an_old_copy_serves_nothing(tmp_path: Path) -> None:
    """It would give dots out twice, and answer without what it has acknowledged since. The node says so and ends."""
    with Cluster(4, folder=tmp_path) as cluster, cluster.client() as client:
        node = cluster.nodes[2]
        node.stop()
        shutil.copytree(node.folder / "data", tmp_path / "copy")
        for _ in range(2):  # so that its starts since are more than that of the copy
            node.start()
            node.stop()
        node.start()
        for number in range(50):
            client.put(b"%d" % number, b"v")
        node.stop()
        node.wipe()
        shutil.copytree(tmp_path / "copy", node.folder / "data")
        node.launch()
        assert node.wait(30) == 4
        assert "dynafast: stale-generation: the cluster has seen a newer start of this node" in node.log
        assert all(client.get(b"%d" % number).value == b"v" for number in range(50))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a small file system there, for a node to fill. Skips where the machine does not let us."""
    folder.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free, and return the file that takes them."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return ballast


def test_node_with_a_full_disk_takes_no_writes_and_recovers_when_there_is_room(tmp_path: Path) -> None:
    """Its peers take them meanwhile, so that no request fails."""
    with small_disk(tmp_path / "n2") as disk, Cluster(5, folder=tmp_path) as cluster:
        node = cluster.nodes[1]
        assert node.folder == disk
        with Load(cluster, size=2000) as load:
            load.more(100)
            ballast = fill(disk)
            eventually(lambda: hints_for(cluster, node.name) > 20, "writes are kept for the node that takes none")
            assert node.running
            load.more(100)
            with Client([node.address]) as client:
                assert client.get(b"once/0/1").found, "a full disk can be read"
            ballast.unlink()
            load.more(100)
        assert os.statvfs(disk).f_bavail > 0
        cluster.wait_until_clean()
        load.assert_nothing_lost()
        assert load.failures == []
