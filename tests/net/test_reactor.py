"""What the reactor alone has: it gives up stalled ends when it is asked to look (streams: `test_transport`)."""

import sys

import cbor2
import pytest
import trio

from dynafast.protocol import Op
from tests.core.harness import framed
from tests.net.test_sockets import MIB, PATIENCE_S, put, serving

pytestmark = [
    pytest.mark.trio,
    pytest.mark.skipif(sys.platform != "linux", reason="the reactor is made of epoll, which Linux alone has"),
]


async def test_half_a_frame_and_then_silence_is_answered_and_closed() -> None:
    async with serving("reactor") as server:
        client = await server.client()
        await client.stream.send_all(framed(cbor2.dumps([int(Op.GET), 2, b"k", None]))[:-1])
        with trio.fail_after(PATIENCE_S):
            answer = None
            while answer is None:
                server.sockets._reactor.check(0)  # type: ignore[attr-defined]
                with trio.move_on_after(0.01):
                    answer = await client.receive()
        assert answer[:3] == [Op.ERROR, 0, "bad-request"]
        assert await client.stream.receive_some() == b""


async def test_silence_between_frames_is_no_fault() -> None:
    async with serving("reactor") as server:
        client = await server.client()
        assert (await client.ask(Op.GET, 1, b"k", None))[0] == Op.FOUND
        server.sockets._reactor.check(0)  # type: ignore[attr-defined]
        assert (await client.ask(Op.GET, 2, b"k", None))[0] == Op.FOUND


async def test_an_end_that_takes_no_output_is_given_up() -> None:
    async with serving("reactor") as server:
        client, other = await server.client(), await server.client()
        await other.ask(*put(1, b"k", b"x" * MIB))
        await client.send(*[[Op.GET, number, b"k", None] for number in range(40)])
        with trio.fail_after(PATIENCE_S):
            while len(server.sockets._reactor) == 2:  # type: ignore[attr-defined]
                await trio.sleep(0.01)
                server.sockets._reactor.check(0)  # type: ignore[attr-defined]
        assert (await other.ask(Op.GET, 2, b"none", None))[0] == Op.FOUND
