"""`dynafast.testing`: what it does when nodes do not come up, and that nothing is left behind, whatever happens."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dynafast import testing
from dynafast.testing import Cluster, ClusterError
from tests.client.server import wait_until

# A node that says it is ready, writes its process id to its log, and does nothing more.
IDLE = "import os, sys, time; print(os.getpid(), file=sys.stderr); print('ready n 127.0.0.1:1 cluster=0', flush=True)"


def pretend(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(testing, "COMMAND", (sys.executable, "-c", code))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made; nothing may be left there."""
    monkeypatch.setattr(testing.tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_node_that_ends_at_once_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch, folders: Path) -> None:
    pretend(monkeypatch, "import sys; sys.exit('the disk is full')")
    with (
        pytest.raises(ClusterError, match=r"(?s)n1 ended with status 1 before it was ready.*the disk is full"),
        Cluster(),
    ):
        pass


def test_node_that_is_never_ready_is_an_error(monkeypatch: pytest.MonkeyPatch, folders: Path) -> None:
    pretend(monkeypatch, "import signal; print('starting', flush=True); signal.pause()")
    with pytest.raises(ClusterError, match="n1 was not ready within 0 s"), Cluster(start_timeout_s=0.3):
        pass


def test_cluster_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch, folders: Path) -> None:
    pretend(monkeypatch, f"{IDLE}; import signal; signal.pause()")
    with pytest.raises(ClusterError, match=r"the cluster was not up within 0 s: n1: 127.0.0.1:1: Connection refused"):
        Cluster(start_timeout_s=0.3).__enter__()


def test_folder_of_the_caller_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, "import sys; sys.exit('no')")
    with pytest.raises(ClusterError), Cluster(folder=tmp_path):
        pass
    assert (tmp_path / "n1" / "log").read_text() == "no\n"


def test_cluster_outside_its_context_is_an_error() -> None:
    with pytest.raises(ClusterError, match="with statement"):
        _ = Cluster().folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nodes_and_folder_are_gone_when_the_testing_process_dies(folders: Path, number: signal.Signals) -> None:
    code = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have it ignored
from dynafast import testing
testing.COMMAND = (sys.executable, "-c", "{IDLE}; import signal; signal.pause()")
with testing.Cluster(): pass
"""

    def pids() -> list[int]:
        logs = [log.read_text() for log in folders.glob("*/*/log")]
        return [int(text) for text in logs if text.endswith("\n")]

    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(folders)}, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(lambda: len(pids()) == 3, "three nodes have started")
            nodes = pids()
            assert all(map(is_alive, nodes))
        finally:
            process.send_signal(number)
    wait_until(lambda: not any(map(is_alive, nodes)), "the nodes are gone")
    wait_until(lambda: list(folders.iterdir()) == [], "the folder is gone")


@pytest.mark.parametrize("place", ["first", "last"])
def test_interrupt_amid_the_start_of_a_process_leaves_none(
    monkeypatch: pytest.MonkeyPatch, folders: Path, place: str
) -> None:
    """Ctrl-C comes when the process is there and its maker does not know it yet."""
    pretend(monkeypatch, "import signal; signal.pause()")
    start = subprocess.Popen
    started = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        process = start(*arguments, **options)
        started.append(process)
        if len(started) == (1 if place == "first" else 2):  # the reaper, a node
            signal.raise_signal(signal.SIGINT)
        return process

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt), Cluster(1):
            pass
        assert signal.getsignal(signal.SIGINT) is before
        assert [process.poll() is None for process in started] == [False] * len(started)
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_node_is_waited_for_wiped_and_replaced(monkeypatch: pytest.MonkeyPatch, folders: Path) -> None:
    """What `Node` and `Cluster` do with processes; that a cluster agrees is for tests with real nodes."""
    pretend(monkeypatch, f"import sys; print(sys.argv, file=sys.stderr); {IDLE}; sys.exit(7)")
    monkeypatch.setattr(Cluster, "wait_until_up", lambda _: None)
    with Cluster(2) as cluster:
        first, second = cluster.nodes
        assert second.wait() == 7
        with pytest.raises(ClusterError, match="n2 was not started"):
            second.wait()
        (second.folder / "data").mkdir()
        second.wipe()
        assert not (second.folder / "data").exists()
        assert first.wait() == 7
        instead = cluster.add_node("--weight", "2", replace="n2")
        assert [node.name for node in cluster.nodes] == ["n1", "n2"]
        assert instead.folder != second.folder
        assert "'--weight', '2', '--replace', 'n2', '--join', '127.0.0.1:1'" in instead.log
        assert cluster.launch_node().name == "n4"
        with pytest.raises(ClusterError, match="n9 cannot be replaced: it is no node"):
            cluster.add_node(replace="n9")


def test_running_node_is_not_replaced_wiped_or_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, folders: Path
) -> None:
    pretend(monkeypatch, f"{IDLE}; import signal; signal.pause()")
    monkeypatch.setattr(Cluster, "wait_until_up", lambda _: None)
    with Cluster(1) as cluster:
        for attempt in (lambda: cluster.add_node(replace="n1"), cluster.nodes[0].wipe):
            with pytest.raises(ClusterError, match="running"):
                attempt()
        with pytest.raises(ClusterError, match="n1 did not end within 0 s"):
            cluster.nodes[0].wait(0.1)
        assert cluster.nodes[0].running


def test_cluster_that_is_never_clean_is_an_error_that_says_what_is_amiss(
    monkeypatch: pytest.MonkeyPatch, folders: Path
) -> None:
    found = {"partitions": 64, "divergent": [3], "unreachable": [], "hints": 0}
    monkeypatch.setattr(testing.Client, "check", lambda *_, **__: found)
    pretend(monkeypatch, f"{IDLE}; import signal; signal.pause()")
    monkeypatch.setattr(Cluster, "wait_until_up", lambda _: None)
    with Cluster(1) as cluster:
        with pytest.raises(ClusterError, match=r"not clean within 0 s: .*'divergent': \[3\]"):
            cluster.wait_until_clean(0.1)
        found["divergent"] = []
        assert cluster.wait_until_clean(0.1) == found


def test_cluster_is_started_from_any_thread(monkeypatch: pytest.MonkeyPatch, folders: Path) -> None:
    pretend(monkeypatch, "import sys; sys.exit('no')")
    errors = []

    def enter() -> None:
        try:
            Cluster().__enter__()
        except ClusterError as error:
            errors.append(str(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert [error.split(" before")[0] for error in errors] == ["n1 ended with status 1"]
