"""The blocking client over real sockets: threads that share a connection, time limits, broken connections."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

from dynafast import Client, ConfigError, ConflictError, NotReachedError, RequestTimeoutError, lww
from dynafast.client import blocking
from tests.client.fake import GET, PUT, Fail, Twist, always
from tests.client.server import Server, wait_until


def expected(key: bytes) -> bytes:
    return key * 5


def fill(server: Server, count: int) -> list[bytes]:
    keys = [b"key %d" % i for i in range(count)]
    for i, key in enumerate(keys):
        server.store.put(key, expected(key), None, b"%16d" % i, overwrite=False)
    return keys


def holding(seed: str) -> Callable[[Any], Any]:
    """Answer half of the requests late and out of order."""
    dice = Random(seed)
    return lambda item: Twist.HOLD if item[0] in (GET, PUT) and dice.random() < 0.5 else None


def test_verbs_over_a_socket() -> None:
    with Server(3) as server, Client(server.addresses[0]) as client:
        assert client.get(b"k").value is None
        assert client.delete(b"k") is None
        written = client.put(b"k", b"1")
        assert client.get(b"k", r=2).context == written.context
        assert client.put(b"k", b"2", context=written.context, w=2).live == 1
        client.put(b"k", b"3")
        with pytest.raises(ConflictError):
            _ = client.get(b"k").value
        assert client.put(b"k", b"4", overwrite=True).live == 1
        assert client.update(b"k", lambda old: (old or b"") + b"!").live == 1
        assert client.get(b"k").value == b"4!"
        assert client.status(at=server.addresses[1]) == {"asked": server.addresses[1]}
        assert client.ring()["partitions"] == 8
        assert (client.get(b"k", r=2, pr=1, timeout=2.0, sloppy=False)).found
        asked = [
            client.leave("n1"),
            client.remove("n1", accept_loss=True),
            client.weight("n1", 2),
            client.plan("leave", name="n1"),
            client.check(timeout=3.0),
        ]
        assert all("asked" in answer for answer in asked)
        deleted = client.delete(b"k")
        assert deleted is not None
        assert deleted.live == 0


def test_three_versions_of_eight_mebibytes_are_read_and_resolved() -> None:
    with Server() as server, Client(server.addresses, resolver=lww, timeout=20.0) as client:
        values = [bytes([i]) * (8 * 1024 * 1024) for i in range(3)]
        for value in values:
            client.put(b"k", value)
        found = client.get(b"k")
        assert found.values == values
        assert found.value == values[-1]


def test_many_threads_share_one_connection_and_get_their_own_answers() -> None:
    with Server() as server, Client(server.addresses) as client, ThreadPoolExecutor(16) as pool:
        server[0].rule = holding("blocking/many threads")
        keys = fill(server, 50)

        def work(number: int) -> int:
            dice = Random(number)
            for _ in range(60):
                key = dice.choice(keys)
                assert client.get(key).value == expected(key)
            return 1

        assert sum(pool.map(work, range(16))) == 16
        assert server.accepted == 1


def test_leader_with_the_first_answer_hands_the_watch_over() -> None:
    """The thread that watches the sockets returns first; those that still wait must get theirs."""
    with Server(releasing=False) as server, Client(server.addresses) as client, ThreadPoolExecutor(4) as pool:
        keys = fill(server, 4)
        client.get(keys[0])
        server[0].rule = lambda item: Twist.HOLD if item[0] == GET and item[2] != keys[0] else None
        slow = [pool.submit(client.get, key) for key in keys[1:]]
        wait_until(lambda: len(server[0].requests(GET)) == 4, "three reads are held")
        assert client.get(keys[0]).value == expected(keys[0])
        server.release()
        assert [found.result().value for found in slow] == [expected(key) for key in keys[1:]]


def test_waiting_thread_times_out_while_another_one_watches() -> None:
    with Server() as server, Client(server.addresses, timeout=0.3) as client, ThreadPoolExecutor(3) as pool:
        server[0].rule = always(GET, Twist.MUTE)
        start = time.monotonic()
        calls = [pool.submit(client.get, b"%d" % i) for i in range(3)]
        for call in calls:
            with pytest.raises(RequestTimeoutError):
                call.result()
        assert 0.3 <= time.monotonic() - start < 2.0


def test_no_request_fails_when_a_node_is_killed_under_load() -> None:
    with Server(3) as server, Client(server.addresses) as client, ThreadPoolExecutor(16) as pool:
        for node in server.nodes.values():
            node.rule = holding(node.address)
        killed = threading.Event()

        def work(number: int) -> None:
            for step in range(60):
                key = b"%d/%d" % (number, step)
                client.put(key, key)
                assert client.get(key).value == key
                if step == 20:
                    killed.set()

        calls = [pool.submit(work, number) for number in range(16)]
        assert killed.wait(10.0)
        server.kill(0)
        for call in calls:
            call.result()
        assert all(len(versions) <= 2 for versions in server.store.versions.values())


def test_connection_closed_while_idle_is_noticed_before_a_put_is_risked_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocking, "IDLE_S", 0.0)
    with Server() as server, Client(server.addresses) as client:
        client.put(b"k", b"1")
        server.hang_up(0)
        client.put(b"k", b"2")
        assert len(server[0].requests(PUT)) == 2
        assert server[0].requests(GET) == []


def test_interrupted_call_leaves_the_client_usable() -> None:
    with Server() as server, Client(server.addresses) as client:
        keys = fill(server, 2)
        client.get(keys[0])
        server[0].rule = lambda item: Twist.MUTE if item[0] == GET and item[2] == keys[0] else None

        def interrupt(_signal: int, _frame: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                client.get(keys[0])
        finally:
            signal.signal(signal.SIGALRM, before)
        assert client.get(keys[1]).value == expected(keys[1])


def test_function_of_an_update_may_use_the_client() -> None:
    with Server() as server, Client(server.addresses) as client:
        client.put(b"price", b"7")
        client.update(b"cart", lambda _: client.get(b"price").value or b"")
        assert client.get(b"cart").value == b"7"


def test_close_ends_the_calls_of_other_threads() -> None:
    with Server() as server, Client(server.addresses, timeout=30.0) as client, ThreadPoolExecutor(2) as pool:
        server[0].rule = always(GET, Twist.MUTE)
        calls = [pool.submit(client.get, b"%d" % i) for i in range(2)]
        wait_until(lambda: len(server[0].requests(GET)) == 2, "two reads wait")
        client.close()
        for call in calls:
            with pytest.raises(NotReachedError, match="closed"):
                call.result(timeout=5.0)
        with pytest.raises(NotReachedError, match="closed"):
            client.get(b"k")


def test_overloaded_node_is_asked_again() -> None:
    with Server() as server, Client(server.addresses) as client:
        refusals = [Fail("overloaded", {"retry_after_ms": 1})] * 3
        server[0].rule = lambda item: refusals.pop() if refusals and item[0] == PUT else None
        assert client.put(b"k", b"v").live == 1
        assert refusals == []


def test_call_that_never_waits_leaves_no_socket_behind() -> None:
    """A warning about an unclosed socket would be an error here."""
    with Server() as server:
        with Client(server.addresses) as client, pytest.raises(TypeError):
            client.put(b"k", "text")  # type: ignore[arg-type]
        with Client(server.addresses, timeout=1e-9) as client, pytest.raises(NotReachedError):
            client.get(b"k")
        gc.collect()


@pytest.mark.parametrize("host", ["::1", "127.0.0.1"])
def test_numeric_addresses_of_both_families_are_reached(host: str) -> None:
    with Server(host=host) as server, Client(server.addresses) as client:
        assert client.get(b"k").value is None


def test_names_are_resolved_and_their_addresses_tried_in_turn() -> None:
    """The name localhost may be ::1 first, where nobody listens."""
    with Server() as server:
        port = server.addresses[0].rpartition(":")[2]
        with Client(f"localhost:{port}") as client:
            assert client.get(b"k").value is None


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70, "a..b"])
def test_name_that_nobody_knows_is_not_reached(host: str) -> None:
    with Client(f"{host}:7411", timeout=3.0) as client, pytest.raises(NotReachedError):
        client.get(b"k")


@pytest.mark.parametrize(
    "addresses", ["", [], "host", "host:", ":1", "host:0", "host:65536", "host:x", "::1:7411", ["a:1", "b"]]
)
def test_malformed_address_is_a_config_error(addresses: Any) -> None:
    with pytest.raises(ConfigError):
        Client(addresses)


@pytest.mark.parametrize("timeout", [0, -1, 61, float("nan")])
def test_timeout_out_of_range_is_a_config_error(timeout: float) -> None:
    with pytest.raises(ConfigError, match="timeout must be in"):
        Client("h:1", timeout=timeout)


def test_nodes_are_asked_only_when_a_call_is_made() -> None:
    with Server() as server, Client(server.addresses):
        assert server.do(lambda: server.accepted) == 0


IMPORTS = """
import sys
before = set(sys.modules)
import dynafast
client = dynafast.Client("127.0.0.1:1", timeout=1.0)
try:
    client.get(b"k")
except dynafast.NotReachedError:
    pass
client.close()
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def python(code: str, **environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_blocking_client_loads_nothing_of_the_server() -> None:
    loaded = set(python(IMPORTS).split())
    assert loaded & {"trio", "anyio", "structlog", "rocksdict", "click", "rich", "asyncio", "pytest"} == set()


def test_import_takes_less_than_100_ms(tmp_path: Any) -> None:
    """Processor time, the best of five: what other processes do meanwhile is not ours."""
    code = "import time; t = time.process_time(); import dynafast; print(time.process_time() - t)"
    cached = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    assert min(float(python(code, **cached)) for _ in range(5)) < 0.1
