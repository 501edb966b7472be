"""How the process of a node ends when the node is of its cluster no more."""

import subprocess
import sys
from pathlib import Path

import pytest

# A node that after some ticks finds that it has ended, in the way that argument 1 says.
CODE = """
import sys
from dynafast.cli.main import main
from dynafast.core.node import Node

tick = Node.tick

def ending(node):
    tick(node)
    node.ended = sys.argv[1]

Node.tick = ending
sys.exit(main(["serve", "--data", sys.argv[2], "--listen", "127.0.0.1:0", "--partitions", "8"]))
"""


@pytest.mark.parametrize(
    ("ended", "status", "last"),
    [
        ("left", 0, "stop.drained"),
        ("removed", 4, "dynafast: removed: this node was removed from its cluster, and others serve what it held"),
        ("stale", 4, "dynafast: stale-generation: the cluster has seen a newer start of this node"),
    ],
)
def test_node_that_has_ended_stops_its_process_and_says_why(tmp_path: Path, ended: str, status: int, last: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, ended, str(tmp_path / "data")], capture_output=True, text=True, check=False
    )
    *_, line = done.stderr.splitlines()
    assert done.returncode == status
    assert last in line
    assert (status == 0) == ("event=" in line)


# A node that ends, and is told to stop once more while it closes its store; and the next one on the folder.
TOLD_TWICE = """
import os, signal, sys
from dynafast.cli.main import main
from dynafast.core.node import Node
from dynafast.storage.rocks import RocksStore

tick, close = Node.tick, RocksStore.close

def ending(node):
    tick(node)
    os.kill(os.getpid(), signal.SIGTERM)

def closing(store, *, clean):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    close(store, clean=clean)

Node.tick, RocksStore.close = ending, closing
sys.exit(main(["serve", "--data", sys.argv[1], "--listen", "127.0.0.1:0", "--partitions", "8"]))
"""


def test_node_that_is_told_twice_to_stop_closes_its_store_all_the_same(tmp_path: Path) -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", TOLD_TWICE, str(tmp_path / "data")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert "event=store.opened boot=2 clean=true" in done.stderr
