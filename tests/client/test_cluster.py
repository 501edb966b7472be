"""Clients and `dynafast.testing` against real node processes: kill, pause, stop, restart, join."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random

import anyio
import pytest

from dynafast import AsyncClient, BadContextError, Client, UnavailableError, lww
from dynafast.testing import Cluster, dynafast_cluster  # noqa: F401 - the fixture, also where no plugin is installed


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Five nodes for all tests of this file; a test that ends a node starts it again."""
    with Cluster(5) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client


def work(client: Client, name: str, steps: int, *, until: threading.Event | None = None) -> int:
    """Put and get keys of our own, *steps* of them or until told; return how many."""
    step = 0
    while step < steps if until is None else not until.is_set():
        key = f"{name}/{step}".encode()
        value = Random(key).randbytes(100)
        client.put(key, value)
        found = client.get(key)
        assert found.values == [value], (key, found)
        step += 1
    return step


def test_verbs(client: Client) -> None:
    assert client.get(b"cart").value is None
    written = client.put(b"cart", b"milk")
    assert written.receipt.needed == 2
    found = client.get(b"cart")
    assert (found.value, found.context) == (b"milk", written.context)
    assert client.put(b"cart", b"milk, eggs", context=found.context).live == 1
    client.put(b"cart", b"bread")
    both = client.get(b"cart")
    assert sorted(both.values) == [b"bread", b"milk, eggs"]
    assert client.put(b"cart", lww(both.values), context=both.context).live == 1
    assert client.update(b"cart", lambda old: (old or b"") + b"!").live == 1
    assert client.put(b"cart", b"", overwrite=True).live == 1
    assert client.get(b"cart").value == b""
    deleted = client.delete(b"cart")
    assert deleted is not None
    assert deleted.live == 0
    assert not client.get(b"cart").found
    assert client.delete(b"cart") is None


def test_context_of_another_key_writes_nothing(client: Client) -> None:
    context = client.put(b"context/a", b"1").context
    with pytest.raises(BadContextError):
        client.put(b"context/b", b"2", context=context)
    assert not client.get(b"context/b").found


def test_status_and_ring(cluster: Cluster, client: Client) -> None:
    members = client.status(at=cluster.addresses[3])["members"]
    assert sorted(member["name"] for member in members) == ["n1", "n2", "n3", "n4", "n5"]
    assert len(client.ring(b"key")["preference"]) == 5
    assert client.ring()["partitions"] == 64


def test_warm_client_asks_replicas_only(client: Client) -> None:
    """Nothing is forwarded once the ring is known."""
    client.get(b"warm")
    client.get(b"warm")
    assert not any(client.put(b"warm %d" % i, b"v").receipt.forwarded for i in range(50))


def test_three_versions_of_eight_mebibytes_are_read_and_resolved(cluster: Cluster) -> None:
    values = [bytes([i]) * (8 * 1024 * 1024) for i in range(3)]
    with cluster.client(timeout=30.0, resolver=lww) as client:
        for value in values:
            client.put(b"large", value)
        found = client.get(b"large")
        assert sorted(found.values) == values
        client.put(b"large", found.value or b"", context=found.context)
        assert client.get(b"large").value == found.value
        client.delete(b"large")


def test_no_request_fails_while_nodes_are_killed_and_stopped_and_started(cluster: Cluster, client: Client) -> None:
    """One at a time: each is back, and seen by all, before the next one goes."""
    over = threading.Event()
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(work, client, f"under load {i}", 0, until=over) for i in range(16)]
        try:
            for node, end in ((cluster.nodes[1], "kill"), (cluster.nodes[2], "stop")):
                work(client, f"before {end}", 10)
                getattr(node, end)()
                work(client, f"after {end}", 10)
                node.start()
                cluster.wait_until_up()
        finally:
            over.set()
        assert sum(call.result() for call in calls) > 16


def test_frozen_node_delays_requests_and_fails_none(cluster: Cluster, client: Client) -> None:
    work(client, "pause before", 10)
    cluster.nodes[3].pause()
    try:
        work(client, "pause", 40)
        start = time.monotonic()
        work(client, "pause later", 10)
        assert time.monotonic() - start < 5.0
    finally:
        cluster.nodes[3].resume()
    cluster.wait_until_up()
    work(client, "pause after", 10)


def await_unseen(cluster: Cluster, dead: list[str]) -> None:
    """Wait until every live node knows of the deaths: before that a put may end with an unknown outcome."""
    deadline = time.monotonic() + 10
    for node in (node for node in cluster.nodes if node.name not in dead):
        with Client(node.address) as there:
            while any(row["alive"] for row in there.status()["members"] if row["name"] in dead):
                assert time.monotonic() < deadline, f"{node.name} has not noticed"


def test_two_of_three_replicas_dead_is_unavailable_fast(cluster: Cluster, client: Client) -> None:
    client.put(b"quorum", b"v")
    replicas = client.ring(b"quorum")["preference"][:3]
    dead = [node for node in cluster.nodes if node.name in replicas[:2]]
    try:
        for node in dead:
            node.kill()
        await_unseen(cluster, [node.name for node in dead])
        start = time.monotonic()
        # a client of its own: on a connection that it does not know to be broken a put would have an unknown outcome
        with cluster.client() as fresh, pytest.raises(UnavailableError) as caught:
            fresh.put(b"quorum", b"w", sloppy=False)
        assert time.monotonic() - start < 3.0
        assert caught.value.details == {"needed": 2, "reachable": 1}
    finally:
        for node in dead:
            node.launch()
        for node in dead:
            node.await_ready()
        cluster.wait_until_up()
    assert client.get(b"quorum").value == b"v"


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_async_client(cluster: Cluster, backend: str) -> None:
    async def one(client: AsyncClient, number: int) -> None:
        key = f"{backend}/{number}".encode()
        await client.put(key, key)
        assert (await client.get(key)).value == key
        assert (await client.update(key, lambda old: (old or b"") + b"!")).live == 1
        assert (await client.get(key)).value == key + b"!"
        await client.delete(key)
        assert not (await client.get(key)).found

    async def main() -> None:
        with anyio.fail_after(30):
            async with AsyncClient(cluster.addresses) as client, anyio.create_task_group() as tasks:
                for number in range(50):
                    tasks.start_soon(one, client, number)

    anyio.run(main, backend=backend)


def test_fixture_gives_a_cluster_that_nodes_join(dynafast_cluster: Cluster) -> None:  # noqa: F811
    node = dynafast_cluster.add_node("--zone", "b")
    with dynafast_cluster.client() as client:
        members = {member["name"]: member["zone"] for member in client.status()["members"]}
        assert (len(members), members[node.name]) == (4, "b")
        client.put(b"k", b"v")
        dynafast_cluster.nodes[0].kill()
        assert client.get(b"k").value == b"v"
