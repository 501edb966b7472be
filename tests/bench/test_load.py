"""The load generator: what it sends, what it notices, and from when it counts."""

import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.load import YCSB, LoadError, Tick, Workload, command, etcd, fill, native, nats, owners, resp, run
from dynafast.errors import ConfigError
from dynafast.protocol import Op
from tests.bench.fakes import Etcd, Nats, Redis, flipped, serving
from tests.client.fake import Conversation, Fail, Twist, always
from tests.client.server import Server

ROOT = Path(__file__).parents[2]
FEW = Workload(records=50)
SHORT = {"connections": 4, "seconds": 0.3, "warmup": 0.1, "tick": 0.1}


def test_fill_writes_every_record_once() -> None:
    with Server(3) as server:
        result = fill(native(server.addresses), FEW, processes=2)
        assert (result.done, result.failed) == (50, 0)
        assert set(server.store.versions) == {b"key-%012d" % number for number in range(50)}
        assert len(server.store.written) == len(set(server.store.written)) == 50


@pytest.mark.parametrize("name", sorted(YCSB))
def test_ycsb_workloads_mix_as_they_should(name: str) -> None:
    """Each kind has its share, every answer is right, and a change replaces what it read."""
    with Server(1) as server:
        workload = replace(YCSB[name], records=50).sized("20-200")
        target = native(server.addresses)
        fill(target, workload)
        server.do(server[0].seen.clear)
        result = run(target, workload, **SHORT).must_be_right()
        total = len(result.all)
        assert total == result.done > 50
        shares = {kind: 100 * len(one) / total for kind, one in result.latency.items()}
        wanted = dict(zip(("read", "update", "insert", "change"), (share / 100 for share in workload.mix), strict=True))
        assert shares == pytest.approx(wanted, abs=15)
        assert result.rate == pytest.approx(result.done / result.seconds, rel=0.2)
        puts = server[0].requests(Op.PUT)
        assert all((put[4] is None) == (name != "f") and (put[4] is not None or put[6]["overwrite"]) for put in puts)


def test_options_of_requests_are_sent() -> None:
    with Server(1) as server:
        target = native(server.addresses, r=1, w=2, dw=1, timeout=900)
        fill(target, FEW)
        run(target, FEW, **SHORT).must_be_right()
        assert server[0].requests(Op.GET)[0][3] == {"r": 1, "timeout": 900}
        assert server[0].requests(Op.PUT)[0][6] == {"w": 2, "dw": 1, "timeout": 900, "overwrite": True}


def test_routed_requests_go_to_the_node_that_their_key_prefers() -> None:
    with Server(3) as server:
        for address in server.addresses:
            server.nodes[address].serving = lambda partition: [partition % 3, (partition + 1) % 3]
        target = native(server.addresses)
        fill(target, FEW)
        table = owners(server.addresses, FEW)
        for node in server.nodes.values():
            server.do(node.seen.clear)
        run(replace(target, owners=table), FEW, **SHORT).must_be_right()
        for index, address in enumerate(server.addresses):
            asked = {int(item[2][4:]) for item in server.nodes[address].seen}
            assert asked
            assert {table[2 * key] for key in asked} == {index}


def test_owners_are_asked_for_until_every_key_has_one() -> None:
    """A seat on its way has no holder in the table of a node that has not heard of it yet."""
    with Server(1) as server:
        [address] = server.addresses
        node = server.nodes[address]
        asked = 0

        def serving(_: int) -> list[int]:
            nonlocal asked
            asked += 1
            return [0] if asked > 100 else []

        node.serving = serving
        assert owners(server.addresses, FEW) == bytes(2 * FEW.records)
        assert asked > 100


def test_owners_that_do_not_appear_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.load.target.RING_S", 0.1)
    with Server(1) as server:
        [address] = server.addresses
        server.nodes[address].serving = lambda _: []
        with pytest.raises(LoadError, match="names no node"):
            owners(server.addresses, FEW)


def test_wrong_value_is_noticed() -> None:
    """A fast server that answers with something else does not pass for one that works."""
    with Server(1) as server:
        target = native(server.addresses)
        fill(target, FEW)
        for [version] in server.store.versions.values():
            version[4] = version[4][:-1] + bytes([version[4][-1] ^ 1])
        result = run(target, replace(FEW, reads=100, updates=0), **SHORT)
        assert result.wrong == result.failed == result.errors["wrong value"] > 0
        with pytest.raises(LoadError, match="wrong value"):
            result.must_be_right()


def test_missing_records_and_refusals_are_failures_by_name() -> None:
    with Server(1) as server:
        result = run(native(server.addresses), replace(FEW, reads=100, updates=0), **SHORT)
        assert result.errors == {"not found": result.failed}
        server[0].rule = always(Op.PUT, Fail("overloaded"))
        result = run(native(server.addresses), replace(FEW, reads=0, updates=100), **SHORT)
        assert result.errors == {"overloaded": result.failed}
        assert result.done == 0
        with pytest.raises(LoadError, match="overloaded"):
            fill(native(server.addresses), FEW)


def test_lost_connection_fails_its_requests_and_is_made_anew() -> None:
    with Server(1) as server:
        target = native(server.addresses)
        fill(target, FEW)
        accepted = server.accepted
        seen: list[Tick] = []

        def on_tick(tick: Tick) -> None:
            if not seen:
                server.hang_up(0)
            seen.append(tick)

        result = run(target, FEW, **{**SHORT, "seconds": 0.6}, on_tick=on_tick)
        assert server.accepted == accepted + 8
        assert result.lost_connections == 4
        assert set(result.errors) <= {"connection lost"}
        assert result.ticks[-1].done > result.ticks[1].done


def test_request_without_answer_fails_after_its_time() -> None:
    with Server(1) as server:
        server[0].rule = always(Op.GET, Twist.IGNORE)
        result = run(native(server.addresses), replace(FEW, reads=100, updates=0), **SHORT, timeout=0.2)
        assert set(result.errors) == {"no answer in time"}
        assert result.all.ms(100) >= 200


class Stall:
    """Holds the answers back from the first tick of a load on, for half a second and until the next tick."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.begin_s = self.end_s = 0.0

    def on_tick(self, _: Tick) -> None:
        if not self.begin_s:
            self.server.do(self._hold)
            self.begin_s = time.monotonic()
        elif not self.end_s and time.monotonic() > self.begin_s + 0.5:
            self.end_s = time.monotonic()
            self.server.do(self._let_go)
            self.server.release()

    def _hold(self) -> None:
        self.server[0].rule = always(Op.GET, Twist.HOLD)

    def _let_go(self) -> None:
        self.server[0].rule = lambda _: None


STALLED = {"connections": 1, "warmup": 0.1, "tick": 0.05}


def test_open_loop_counts_from_when_a_request_was_due() -> None:
    """While the server stalls requests go on being due; each waited for the rest of the stall, and that counts."""
    with Server(1, releasing=False) as server:
        target = native(server.addresses)
        reads = replace(FEW, reads=100, updates=0)
        fill(target, reads)
        stall = Stall(server)
        result = run(target, reads, **STALLED, paces=[(1.5, 200)], on_tick=stall.on_tick)
        stalled_ms = 1000 * (stall.end_s - stall.begin_s)
        late = sum(count for ms, count in result.all.cells() if ms > stalled_ms / 2)
        assert late >= 0.8 * 200 * stalled_ms / 2 / 1000
        assert result.all.ms(100) >= 0.8 * stalled_ms
        assert result.all.ms(90) > stalled_ms / 4
        assert result.done == len(result.all) == 300
        assert result.offered == 200


def test_closed_loop_has_one_late_request_for_a_stall() -> None:
    """The other way of counting, which the open loop is there to avoid: it is one request that waits."""
    with Server(1, releasing=False) as server:
        target = native(server.addresses)
        reads = replace(FEW, reads=100, updates=0)
        fill(target, reads)
        stall = Stall(server)
        result = run(target, reads, **STALLED, seconds=1.5, on_tick=stall.on_tick)
        late = sum(count for ms, count in result.all.cells() if ms > 500 * (stall.end_s - stall.begin_s))
        assert 1 <= late <= 3  # a busy machine may hold up another
        assert result.all.ms(90) < 100


def test_what_was_due_and_never_sent_counts_too() -> None:
    """More is due than the server can do: the rest is counted with the time that it waited, not left out."""
    with Server(1, releasing=False) as server:
        server[0].rule = always(Op.GET, Twist.HOLD)
        result = run(
            native(server.addresses), replace(FEW, reads=100, updates=0), **STALLED, paces=[(0.5, 400)], timeout=0.3
        )
        assert result.done == 0
        assert result.unsent > 100
        assert len(result.all) == pytest.approx(result.failed + result.unsent, abs=5)
        assert result.all.ms(99) > 300


def test_rate_changes_as_told() -> None:
    with Server(1) as server:
        target = native(server.addresses)
        fill(target, FEW)
        result = run(target, FEW, connections=4, processes=2, warmup=0.0, tick=0.3, paces=[(0.3, 200), (0.6, 500)])
        assert result.done == len(result.all)
        assert result.done + result.unsent == pytest.approx(60 + 300, abs=2)
        assert 0 < result.ticks[0].done < 60 + 15
        assert result.offered == pytest.approx(400)


each_other_protocol = pytest.mark.parametrize(
    ("kind", "target"),
    [
        (Redis, lambda at: resp([at])),
        (Redis, lambda at: resp([at], wait=1)),
        (Nats, lambda at: nats([at], bucket="b")),
        (Etcd, lambda at: etcd([at])),
    ],
    ids=["resp", "resp-wait", "nats", "etcd"],
)


@each_other_protocol
def test_other_protocols_write_read_and_check(kind: Any, target: Any) -> None:
    workload = replace(FEW, reads=60, updates=20, changes=20).sized("20-300")
    with serving(kind) as address:
        fill(target(address), workload, depth=4)
        result = run(target(address), workload, **SHORT, depth=2).must_be_right()
        assert result.done == len(result.all) > 20


DAMAGED = {**SHORT, "seconds": 0.5, "timeout": 0.2}


@each_other_protocol
@pytest.mark.parametrize("seed", range(2))
def test_damaged_answers_are_failures_and_no_end(kind: Any, target: Any, seed: int) -> None:
    """Whatever a server sends, the generator goes on: a new connection, the next request."""
    with serving(kind, damage=random.Random(seed)) as address:
        result = run(target(address), replace(FEW, reads=50, updates=50), **DAMAGED)
        assert result.failed > 0
        assert result.done + result.failed == len(result.all)


@pytest.mark.parametrize("seed", range(2))
def test_damaged_answers_of_a_node_are_failures_and_no_end(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    whole = Conversation.feed
    with Server(1) as server:
        target = native(server.addresses)
        fill(target, FEW)
        monkeypatch.setattr(Conversation, "feed", lambda self, data: flipped(whole(self, data), rng))
        result = run(target, FEW, **DAMAGED)
        assert result.failed > 0
        assert result.done > 0
        assert result.done + result.failed == len(result.all)


def test_write_that_too_few_replicas_have_is_a_failure() -> None:
    with serving(Redis, replicas=0) as address:
        result = run(resp([address], wait=1), replace(FEW, reads=0, updates=100), **SHORT)
        assert result.errors == {"too few replicas": result.failed}


def test_nobody_at_the_address_is_an_error() -> None:
    with Server(1) as server:
        address = server.addresses[0]
    with pytest.raises(LoadError, match="only 0 of 4 connections"):
        run(native([address]), FEW, **SHORT)


@pytest.mark.parametrize(
    "bad", [{"reads": 60.0}, {"keys": "odd"}, {"records": 0}, {"size_min": 0}, {"size_min": 9, "size_max": 8}]
)
def test_workload_out_of_range_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Workload(**bad)


def test_command_on_a_cluster_of_its_own_prints_and_writes(tmp_path: Path) -> None:
    """``python -m bench load --quick`` starts nodes, finds every answer right, and leaves numbers and plots."""
    file = tmp_path / "found.json"
    command = [sys.executable, "-m", "bench", "load", "--quick", "--nodes", "1", "--workload", "f", "--curve"]
    command += ["--json", str(file), "--plot", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "| closed loop |" in done.stdout
    found = json.loads(file.read_text())
    assert found["command"].startswith("python -m bench load --quick")
    assert [load["failed"] for load in found["loads"]] == [0, 0, 0, 0]
    assert all(load["server_us"] > 0 and load["all"]["p99_ms"] > 0 for load in found["loads"])
    assert {path.name for path in tmp_path.glob("*.svg")} == {"load-curve.svg", "load-percentiles.svg"}


def test_names_are_looked_up_before_the_load() -> None:
    assert native(["[::1]:7", "127.0.0.1:8"]).nodes == (("::1", 7), ("127.0.0.1", 8))
    assert native(["localhost:9"]).nodes[0] in (("127.0.0.1", 9), ("::1", 9))
    with pytest.raises(ConfigError, match=r"no-such-host\.invalid:1"):
        native(["no-such-host.invalid:1"])


def test_versions_that_gets_find_are_counted() -> None:
    """Writes that do not overwrite add versions; the write of a change replaces all that its read found."""
    with Server(1) as server:
        target = native(server.addresses, overwrite=False)
        fill(target, replace(FEW, records=1))
        updates = run(target, replace(FEW, records=1, reads=0, updates=100), **SHORT).must_be_right()
        [versions] = server.store.versions.values()
        assert len(versions) > updates.done
        found = run(target, replace(FEW, records=1, reads=100, updates=0), **{**SHORT, "connections": 1})
        assert found.versions == {16: found.done}
        found = run(target, replace(FEW, records=1, reads=0, updates=0, changes=100), **{**SHORT, "connections": 1})
        assert set(found.must_be_right().versions) == {1}
        assert [len(versions) for versions in server.store.versions.values()] == [1]


def test_routed_load_has_no_more_under_way_than_asked_for() -> None:
    """One client of three nodes has a connection to each, and one request."""
    with Server(3) as server:
        target = native(server.addresses)
        fill(target, FEW)
        accepted = server.accepted
        table = owners(server.addresses, FEW)
        reads = replace(FEW, reads=100, updates=0)
        for address in server.addresses:
            server.nodes[address].rule = always(Op.GET, Twist.IGNORE)
        result = run(
            replace(target, owners=table),
            reads,
            **{**SHORT, "connections": 1, "seconds": 0.1, "warmup": 0.0},
            timeout=1.0,
        )
        assert server.accepted >= accepted + 3
        assert result.failed == 1


def test_command_measures_the_workers_of_a_machine(tmp_path: Path) -> None:
    """With --workers the nodes are machines of several processes; the processor time is that of all of them."""
    file = tmp_path / "found.json"
    arguments = ["--quick", "--nodes", "1", "--workers", "2", "--route", "owner", "--json", str(file)]
    assert command.run(arguments) == 0
    [load] = json.loads(file.read_text())["loads"]
    assert load["done"] > 0
    assert load["server_us"] > 1
