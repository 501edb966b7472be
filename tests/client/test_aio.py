"""The asynchronous client on both backends: many tasks, thousands of cancellations, broken connections."""

import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import anyio
import pytest

import dynafast
from dynafast import AsyncClient, ConflictError, NotReachedError, RequestTimeoutError, lww
from tests.client.fake import GET, PUT, Twist, always
from tests.client.server import Server
from tests.client.test_blocking import expected, fill, holding

both_backends = pytest.mark.parametrize("backend", ["trio", "asyncio"])
BIG = 300_000  # larger than the buffers of a socket: its frame leaves in several pieces


def run(backend: str, main: Callable[[], Awaitable[Any]]) -> None:
    """Run *main*, bounded in time."""

    async def bounded() -> None:
        with anyio.fail_after(60):
            await main()

    anyio.run(bounded, backend=backend)


@both_backends
def test_verbs_over_a_socket(backend: str) -> None:
    async def main() -> None:
        async with AsyncClient(server.addresses[0], resolver=None) as client:
            assert (await client.get(b"k")).value is None
            assert await client.delete(b"k") is None
            written = await client.put(b"k", b"1")
            assert (await client.get(b"k", r=2)).context == written.context
            assert (await client.put(b"k", b"2", context=written.context, w=2)).live == 1
            await client.put(b"k", b"3")
            with pytest.raises(ConflictError):
                _ = (await client.get(b"k")).value
            assert (await client.put(b"k", b"4", overwrite=True)).live == 1
            assert (await client.update(b"k", lambda old: (old or b"") + b"!")).live == 1
            assert (await client.get(b"k")).value == b"4!"
            assert await client.status(at=server.addresses[1]) == {"asked": server.addresses[1]}
            assert (await client.ring())["partitions"] == 8
            assert (await client.get(b"k", r=2, pr=1, timeout=2.0, sloppy=False)).found
            asked = [
                await client.leave("n1"),
                await client.remove("n1", accept_loss=True),
                await client.weight("n1", 2),
                await client.plan("leave", name="n1"),
                await client.check(timeout=3.0),
            ]
            assert all("asked" in answer for answer in asked)
            deleted = await client.delete(b"k")
            assert deleted is not None
            assert deleted.live == 0
            with pytest.raises(ZeroDivisionError):
                await client.update(b"k", lambda _: b"%d" % (1 // 0))

    with Server(3) as server:
        run(backend, main)


@both_backends
def test_three_versions_of_eight_mebibytes_are_read_and_resolved(backend: str) -> None:
    async def main() -> None:
        async with AsyncClient(server.addresses, resolver=lww, timeout=20.0) as client:
            values = [bytes([i]) * (8 * 1024 * 1024) for i in range(3)]
            for value in values:
                await client.put(b"k", value)
            found = await client.get(b"k")
            assert found.values == values
            assert found.value == values[-1]

    with Server() as server:
        run(backend, main)


@both_backends
def test_many_tasks_share_one_connection_and_get_their_own_answers(backend: str) -> None:
    async def work(client: AsyncClient, dice: Random) -> None:
        for _ in range(10):
            key = dice.choice(keys)
            assert (await client.get(key)).value == expected(key)

    async def main() -> None:
        async with AsyncClient(server.addresses) as client, anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(work, client, Random(number))

    with Server() as server:
        server[0].rule = holding("aio/many tasks")
        keys = fill(server, 50)
        run(backend, main)
        assert server.accepted == 1


@both_backends
def test_thousands_of_cancellations_cut_no_frame_and_mix_up_no_answer(backend: str) -> None:
    """30 tasks, 100 calls each, cancelled at random moments: before, while and after their frames leave.

    The pretended node would report a frame it cannot read; one connection must last from beginning to end.
    """
    told = {"done": 0, "cancelled": 0}

    async def work(client: AsyncClient, dice: Random) -> None:
        for _ in range(100):
            key = dice.choice(keys)
            with anyio.CancelScope() as scope:
                scope.deadline = anyio.current_time() + dice.choice([0.0, dice.uniform(0, 0.02), 20.0])
                if dice.random() < 0.05:
                    await client.put(b"big", bytes(BIG), overwrite=True)
                else:
                    assert (await client.get(key)).value == expected(key)
            told["cancelled" if scope.cancelled_caught else "done"] += 1

    async def main() -> None:
        async with AsyncClient(server.addresses, timeout=30.0) as client:
            async with anyio.create_task_group() as tasks:
                for number in range(30):
                    tasks.start_soon(work, client, Random(f"aio/cancel/{number}"))
            assert (await client.get(keys[0])).value == expected(keys[0])

    with Server() as server:
        server[0].rule = holding("aio/cancel")
        keys = fill(server, 50)
        run(backend, main)
        assert server.accepted == 1
    assert told["done"] + told["cancelled"] == 3000
    assert told["cancelled"] > 1000
    assert told["done"] > 500


@both_backends
def test_call_cancelled_before_its_frame_left_reaches_no_node(backend: str) -> None:
    async def main() -> None:
        async with AsyncClient(server.addresses) as client:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await client.put(b"k", b"v")
            assert (await client.get(b"k")).value is None

    with Server() as server:
        run(backend, main)
        assert server[0].requests(PUT) == []


@both_backends
def test_no_request_fails_when_a_node_is_killed_under_load(backend: str) -> None:
    async def work(client: AsyncClient, number: int) -> None:
        for step in range(20):
            key = b"%d/%d" % (number, step)
            await client.put(key, key)
            assert (await client.get(key)).value == key
            if (number, step) == (0, 5):
                await anyio.to_thread.run_sync(server.kill, 0)

    async def main() -> None:
        async with AsyncClient(server.addresses) as client, anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(work, client, number)

    with Server(3) as server:
        for node in server.nodes.values():
            node.rule = holding(node.address)
        run(backend, main)


@both_backends
def test_call_raises_when_its_time_is_over(backend: str) -> None:
    async def main() -> None:
        async with AsyncClient(server.addresses, timeout=0.3) as client:
            start = time.monotonic()
            with pytest.raises(RequestTimeoutError):
                await client.get(b"k")
            assert 0.29 <= time.monotonic() - start < 2.0

    with Server() as server:
        server[0].rule = always(GET, Twist.MUTE)
        run(backend, main)


@both_backends
def test_unreachable_cluster_is_an_error_before_the_timeout(backend: str) -> None:
    async def main() -> None:
        async with AsyncClient(addresses, timeout=5.0) as client:
            start = time.monotonic()
            with pytest.raises(NotReachedError):
                await client.get(b"k")
            assert time.monotonic() - start < 2.0

    with Server() as server:
        addresses = server.addresses
    run(backend, main)


@both_backends
def test_error_in_the_body_leaves_the_client_as_it_is(backend: str) -> None:
    """No exception group around the user's own error."""

    async def main() -> None:
        async with AsyncClient(server.addresses) as client:
            await client.put(b"k", b"v")
            raise ZeroDivisionError

    with Server() as server, pytest.raises(ZeroDivisionError):
        run(backend, main)


@both_backends
def test_cancelled_body_leaves_no_task_behind(backend: str) -> None:
    async def main() -> None:
        with anyio.move_on_after(0.1) as scope:
            async with AsyncClient(server.addresses) as client, anyio.create_task_group() as tasks:
                for number in range(10):
                    tasks.start_soon(client.get, b"%d" % number)
        assert scope.cancelled_caught

    with Server() as server:
        server[0].rule = always(GET, Twist.MUTE)
        run(backend, main)


@both_backends
def test_client_outside_its_context_raises(backend: str) -> None:
    async def main() -> None:
        client = AsyncClient("127.0.0.1:1")
        with pytest.raises(RuntimeError, match="async with"):
            await client.get(b"k")
        async with client:
            pass
        with pytest.raises(NotReachedError, match="closed"):
            await client.get(b"k")
        with pytest.raises(RuntimeError, match="once"):
            await client.__aenter__()

    run(backend, main)


def test_async_client_is_loaded_when_it_is_asked_for() -> None:
    assert dynafast.AsyncClient is AsyncClient
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = dynafast.Nonsense
