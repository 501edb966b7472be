"""One connection between a real socket and the core, in the virtual time of trio."""

import socket

import cbor2
import pytest
import trio
import trio.testing

from dynafast.net.transport import STALLED_S, Transport
from dynafast.protocol import Op
from tests.core.harness import Cluster, framed

HELLO = framed(cbor2.dumps([0, 0, {"version": 1, "role": "client"}]))
GET = framed(cbor2.dumps([2, 1, b"k", {}]))


def answers(data: bytes) -> list[list[object]]:
    found = []
    while data:
        length = int.from_bytes(data[:4], "big")
        found.append(cbor2.loads(data[4 : 4 + length]))
        data = data[4 + length :]
    return found


class Talk:
    """A node that serves one end of a socket pair; the test holds the other."""

    def __init__(self) -> None:
        self.cluster = Cluster(1, partitions=1)
        self.member = self.cluster.members[0]
        self.near, far = socket.socketpair()
        for end in (self.near, far):
            end.setblocking(False)
        self.connection = self.member.node.accept()
        self.transport = Transport(far, self.connection, lambda: self.cluster.enter(self.member), self.pump)

    def pump(self) -> None:
        for connection in self.member.node.take_dirty():
            if connection is self.connection:
                self.transport.push()


@pytest.mark.trio
@pytest.mark.parametrize("sent", [HELLO[:9], HELLO + GET[:2], HELLO + GET[:-1], HELLO + GET + GET[:5]], ids=len)
async def test_half_a_frame_then_silence_is_answered_and_closed(
    sent: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    talk = Talk()
    with talk.near:
        talk.near.send(sent)
        start = trio.current_time()
        with trio.fail_after(10 * STALLED_S):
            await talk.transport.run()
        assert trio.current_time() - start == pytest.approx(STALLED_S)
        told = answers(talk.near.recv(65536))
        assert told[-1][:3] == [Op.ERROR, 0, "bad-request"]
        assert talk.near.recv(1) == b""
    assert talk.connection.lost


@pytest.mark.trio
async def test_a_connection_without_a_hello_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    talk = Talk()
    with talk.near:
        with trio.fail_after(10 * STALLED_S):
            await talk.transport.run()
        assert talk.near.recv(1) == b""
    assert talk.connection.lost


@pytest.mark.trio
async def test_silence_between_frames_is_no_fault(autojump_clock: trio.testing.MockClock) -> None:
    talk = Talk()
    with talk.near:
        talk.near.send(HELLO + GET)
        with trio.move_on_after(10 * STALLED_S) as patience:
            await talk.transport.run()
        assert patience.cancelled_caught
        assert [answer[0] for answer in answers(talk.near.recv(65536))] == [Op.HELLO, Op.FOUND]


@pytest.mark.trio
async def test_slow_but_steady_bytes_are_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    talk = Talk()

    async def send() -> None:
        for byte in HELLO + GET:
            talk.near.send(bytes([byte]))
            await trio.sleep(0.9 * STALLED_S)
        talk.near.shutdown(socket.SHUT_WR)

    with talk.near:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await talk.transport.run()
        assert [answer[0] for answer in answers(talk.near.recv(65536))] == [Op.HELLO, Op.FOUND]
