"""The command line on a real cluster: the whole way, and what ``serve`` refuses."""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynafast.testing import Cluster


def run(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command line as a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DYNAFAST_")}
    command = [sys.executable, "-m", "dynafast", *map(str, words)]
    return subprocess.run(command, input=stdin, env=environment, capture_output=True, check=False)


def join(folder: Path, address: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run a node that asks the cluster at *address* to let it in."""
    return run("serve", "--data", folder / "data", "--listen", "127.0.0.1:0", "--join", address, *options)


def complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the last line on stderr, where a command says why it failed; `serve` logs before it."""
    return done.stderr.decode().splitlines()[-1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(nodes=3) as cluster:
        yield cluster


def test_put_get_delete_through_different_nodes(cluster: Cluster) -> None:
    first, second, third = cluster.addresses
    assert run("put", "cart", "-", "--at", first, stdin=b"\0milk\n").returncode == 0
    assert run("get", "cart", "--at", second).stdout == b"\0milk\n"
    assert run("put", "cart", "bread", "--at", second).returncode == 0
    both = run("get", "cart", "--json", "--at", third)
    assert both.returncode == 3
    found = json.loads(both.stdout)
    assert {base64.b64decode(version["value_b64"]) for version in found["versions"]} == {b"\0milk\n", b"bread"}
    assert run("put", "cart", "both", "--context", found["context"], "--at", first).returncode == 0
    assert run("get", "cart", "--at", third).stdout == b"both"
    assert run("delete", "cart", "--at", second).returncode == 0
    gone = run("get", "cart", "--at", first)
    assert (gone.returncode, gone.stdout) == (1, b"")


def test_context_of_another_key_or_altered_is_refused(cluster: Cluster) -> None:
    at = cluster.addresses[0]
    assert run("put", "a", "1", "--at", at).returncode == 0
    context = json.loads(run("get", "a", "--json", "--at", at).stdout)["context"]
    altered = context[:-3] + ("A" if context[-3] != "A" else "B") + context[-2:]
    for key, text in (("b", context), ("a", altered)):
        done = run("put", key, "2", "--context", text, "--at", at)
        assert (done.returncode, done.stdout) == (4, b"")
        assert "bad-context" in complaint(done)
    assert run("get", "b", "--at", at).returncode == 1
    assert run("get", "a", "--at", at).stdout == b"1"


def test_status_and_ring_agree_about_the_members(cluster: Cluster) -> None:
    at = cluster.addresses[1]
    found = json.loads(run("status", "--json", "--at", at).stdout)
    assert {(member["name"], member["address"], member["status"], member["alive"]) for member in found["members"]} == {
        (node.name, node.address, "up", True) for node in cluster.nodes
    }
    assert set(found["members"][0]) >= {"weight", "zone", "host", "partitions", "keys", "bytes"}
    place = json.loads(run("ring", "cart", "--json", "--at", at).stdout)
    assert set(place) == {"position", "partition", "preference"}
    assert sorted(place["preference"]) == ["n1", "n2", "n3"]


def test_status_config_tells_where_each_setting_came_from(cluster: Cluster) -> None:
    config = json.loads(run("status", "--config", "--json", "--at", cluster.addresses[0]).stdout)["config"]
    assert config["name"] == {"value": "n1", "source": "flag"}
    assert config["zone"] == {"value": "default", "source": "default"}
    assert config["replicas"]["value"] == 3
    joined = json.loads(run("status", "--config", "--json", "--at", cluster.addresses[1]).stdout)["config"]
    assert joined["w"] == {"value": 2, "source": "cluster"}


@pytest.mark.parametrize(
    ("options", "status", "named"),
    [
        (["--weight", "0"], 2, "weight must be an integer in 1..10000, got 0 (from --weight)"),
        (["--listen", "nowhere"], 2, "listen must be HOST:PORT"),
        (["--w", "4"], 2, "w must be in 1..3 (replicas), got 4"),
        (["--config", "/no/such/file.toml"], 2, "config file /no/such/file.toml cannot be read"),
    ],
)
def test_serve_with_a_bad_value_is_one_line(tmp_path: Path, options: list[str], status: int, named: str) -> None:
    done = run("serve", "--data", tmp_path / "data", "--listen", "127.0.0.1:0", *options)
    assert (done.returncode, done.stdout) == (status, b"")
    assert named in complaint(done)
    assert complaint(done).startswith("dynafast: ")


def test_serve_on_a_folder_in_use_is_refused(cluster: Cluster) -> None:
    done = run("serve", "--data", cluster.nodes[0].folder / "data", "--listen", "127.0.0.1:0")
    assert (done.returncode, done.stdout) == (4, b"")
    assert complaint(done).startswith("dynafast: ")


def test_serve_on_a_port_in_use_says_what_to_do(cluster: Cluster, tmp_path: Path) -> None:
    address = cluster.addresses[0]
    done = run("serve", "--data", tmp_path / "data", "--listen", address)
    assert (done.returncode, done.stdout) == (2, b"")
    assert complaint(done) == (
        f"dynafast: listen: cannot listen on {address}: Address already in use: choose another address or port"
    )


@pytest.mark.parametrize(
    ("options", "named"), [(["--name", "n1"], "name-taken"), (["--name", "n9", "--replicas", "2"], "replicas")]
)
def test_serve_that_the_cluster_refuses_says_why(
    cluster: Cluster, tmp_path: Path, options: list[str], named: str
) -> None:
    done = join(tmp_path, cluster.addresses[0], *options)
    assert (done.returncode, done.stdout) == (4, b"")
    assert named in complaint(done)


def test_cluster_with_two_of_three_dead_says_the_numbers() -> None:
    with Cluster(nodes=3) as cluster:
        at = cluster.addresses[0]
        assert run("put", "k", "v", "--at", at).returncode == 0
        cluster.nodes[1].kill()
        assert run("get", "k", "--at", at).stdout == b"v"
        cluster.nodes[2].kill()
        deadline = time.monotonic() + 10
        while (done := run("put", "k", "w", "--at", at)).returncode != 4:  # the node may not have noticed yet
            assert done.returncode == 5
            assert time.monotonic() < deadline
        assert complaint(done) == "dynafast: unavailable: needed 2 replicas, reachable 1"
        members = json.loads(run("status", "--json", "--at", at).stdout)["members"]
        assert [member["name"] for member in members] == ["n1", "n2", "n3"]
