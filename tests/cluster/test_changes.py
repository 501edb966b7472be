"""Real clusters that change under load: join, leave, remove, replace, another weight. No acknowledged write is lost."""

from array import array
from pathlib import Path
from random import Random

import pytest
import trio

from dynafast import AsyncClient, Client
from dynafast.cli.demo_cluster import members_of
from dynafast.client.messages import Request
from dynafast.errors import RefusedError
from dynafast.protocol import Op
from dynafast.testing import Cluster, ClusterError
from tests.cluster.load import Load, eventually


def names(cluster: Cluster) -> list[str]:
    """Return the names of those that are of the cluster."""
    with cluster.client() as client:
        members = client.status()["members"]
    return [row["name"] for row in members if row["status"] not in ("left", "removed")]


def seats(cluster: Cluster) -> dict[str, int]:
    """Return how many partitions each node serves, as one node sees it."""
    with cluster.client() as client:
        ring = client.ring()
    table = array("H", ring["table"])
    table.byteswap()
    return {node["name"]: table.count(index) for index, node in enumerate(ring["nodes"])}


def test_join_and_leave_under_load(tmp_path: Path) -> None:
    with Cluster(4, folder=tmp_path) as cluster:
        leaver = cluster.nodes[1]
        with Load(cluster) as load:
            load.more(200)
            cluster.add_node()
            load.more(50)
            with cluster.client() as client:
                planned = client.plan("leave", name=leaver.name)
                client.leave(leaver.name)
            assert planned["partitions"] > 0
            assert leaver.wait(30) == 0
            load.more(50)
        cluster.wait_until_clean()
        assert names(cluster) == ["n1", "n3", "n4", "n5"]
        assert sum(seats(cluster).values()) == 3 * 64
        load.assert_nothing_lost()
        assert load.failures == []
        with pytest.raises(ClusterError, match=r"(?s)n2 ended with status 4.*has left its cluster for ever"):
            leaver.start()


def test_change_that_cannot_be_is_refused_with_the_reason(tmp_path: Path) -> None:
    with Cluster(3, folder=tmp_path) as cluster, cluster.client() as client:
        for attempt, codes in [
            (lambda: client.leave("n2"), {"too-few-hosts"}),
            (lambda: client.leave("n9"), {"unknown-node"}),
            (lambda: client.remove("n2"), {"too-few-hosts", "alive"}),  # the latter if it is n2 that is asked
            (lambda: client.weight("n9", 2), {"unknown-node"}),
        ]:
            with pytest.raises(RefusedError) as refused:
                attempt()
            assert refused.value.code in codes
        assert client.check()["divergent"] == []


def test_remove_and_replace_of_dead_nodes_under_load(tmp_path: Path) -> None:
    with Cluster(5, folder=tmp_path) as cluster:
        _, _, third, fourth, _ = cluster.nodes
        with Load(cluster) as load:
            load.more(200)
            with cluster.client() as client:
                assert not removed(client, "n3"), "a node that answers is not removed"
            third.kill()
            with cluster.client() as client:
                eventually(lambda: removed(client, "n3"), "a dead node is removed")
            cluster.wait_until_clean()
            fourth.kill()
            load.more(50)
            cluster.add_node(replace="n4")
            load.more(50)
        cluster.wait_until_clean()
        assert names(cluster) == ["n1", "n2", "n4", "n5"]
        load.assert_nothing_lost()
        assert load.failures == []
        for gone in (third, fourth):
            gone.launch()
            assert gone.wait(30) == 4
            assert "dynafast: removed: this node was removed from its cluster" in gone.log


def removed(client: Client, name: str) -> bool:
    """Try to remove a node that may not be known to be dead yet."""
    try:
        client.remove(name)
    except RefusedError as error:
        if error.code != "alive":
            raise
        return False
    return True


def test_weight_changes_under_load(tmp_path: Path) -> None:
    with Cluster(5, folder=tmp_path) as cluster:
        with Load(cluster) as load:
            load.more(200)
            with cluster.client() as client:
                client.weight("n2", 2)
            share = pytest.approx(64, rel=0.08)  # 2 of 6 shares of 3 x 64 seats
            eventually(lambda: seats(cluster)["n2"] == share, "the seats have moved")
            cluster.wait_until_clean()
            load.more(50)
        found = seats(cluster)
        assert all(found[name] == pytest.approx(32, rel=0.1) for name in found if name != "n2")
        load.assert_nothing_lost()
        assert load.failures == []


def test_node_of_weight_2_among_8_gets_twice_the_requests(tmp_path: Path) -> None:
    """Its share of what clients ask, and of what is stored, is 2 of 9 parts, within 10 %."""
    requests = 6000
    asked: dict[str, int] = {}

    async def load(addresses: list[str]) -> None:
        async with AsyncClient(addresses, timeout=30.0) as client, trio.open_nursery() as nursery:
            await client.get(b"first")  # the ring is known from now on
            await client.ring()
            send = client._core.send

            def counted(address: str, request: Request, **how: object) -> object:
                if request.op == Op.PUT:
                    asked[address] = asked.get(address, 0) + 1
                return send(address, request, **how)  # type: ignore[arg-type]

            client._core.send = counted  # type: ignore[method-assign,assignment]
            rng = Random("weights")
            keys = iter([rng.randbytes(12) for _ in range(requests)])

            async def work() -> None:
                for key in keys:
                    await client.put(key, b"v", w=3)

            for _ in range(32):
                nursery.start_soon(work)

    with Cluster(7, partitions=512, folder=tmp_path) as cluster:
        heavy = cluster.add_node("--weight", "2")
        cluster.wait_until_clean()
        assert seats(cluster)[heavy.name] / (3 * 512) == pytest.approx(2 / 9, rel=0.08)
        trio.run(load, cluster.addresses)
        own = members_of(cluster)
        assert abs(own[-1]["partitions"] - 2 * 512 / 9) <= 1, "those of which it is the first choice"
        stored = [row["keys"] for row in own]
    assert sum(asked.values()) == requests
    assert asked[heavy.address] / requests == pytest.approx(2 / 9, rel=0.1)
    assert stored[-1] / sum(stored) == pytest.approx(2 / 9, rel=0.1)
