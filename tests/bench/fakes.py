"""Servers that speak just enough of other stores' protocols for the load generator, behind real sockets."""

import random
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

END_STREAM, ACK = 1, 1
DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes, once in ten times with one bit changed."""
    if not data or rng.random() > 0.1:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


class Handler(socketserver.StreamRequestHandler):
    """One connection; all of one server share *data*."""

    disable_nagle_algorithm = True
    data: ClassVar[dict[bytes, bytes]]

    damage: ClassVar[random.Random | None] = None  # flips a bit of some answers

    def say(self, data: bytes) -> None:
        self.wfile.write(data if self.damage is None else flipped(data, self.damage))

    def handle(self) -> None:
        try:
            while self.step():
                pass
        except ConnectionError:
            pass

    def step(self) -> bool:
        """Read one request and answer it; false at the end."""
        raise NotImplementedError


class Redis(Handler):
    """GET, SET and WAIT; a WAIT has *replicas*."""

    replicas: ClassVar[int] = 1

    def step(self) -> bool:
        head = self.rfile.readline()
        if not head:
            return False
        words = []
        for _ in range(int(head[1:])):
            size = int(self.rfile.readline()[1:])
            words.append(self.rfile.read(size + 2)[:-2])
        if words[0] == b"SET":
            self.data[words[1]] = words[2]
            self.say(b"+OK\r\n")
        elif words[0] == b"WAIT":
            self.say(b":%d\r\n" % self.replicas)
        else:
            value = self.data.get(words[1])
            self.say(b"$-1\r\n" if value is None else b"$%d\r\n%s\r\n" % (len(value), value))
        return True


class Nats(Handler):
    """A bucket named b: puts, and gets by subject."""

    def step(self) -> bool:
        words = self.rfile.readline().split()
        if not words:
            return False
        if words[0] == b"CONNECT":
            self.say(b'INFO {"headers":true}\r\nPING\r\n')
        elif words[0] == b"SUB":
            self.inbox = words[1].removesuffix(b"*")
        elif words[0] == b"PUB":
            self.publish(words[1], words[2], self.rfile.read(int(words[3]) + 2)[:-2])
        else:
            assert words == [b"PONG"]
        return True

    def publish(self, subject: bytes, reply: bytes, payload: bytes) -> None:
        assert reply.startswith(self.inbox)
        if subject.startswith(b"$KV.b."):
            self.data[subject] = payload
            ack = b'{"stream":"KV_b", "seq":7}'
            self.say(b"MSG %s 1 %d\r\n%s\r\n" % (reply, len(ack), ack))
            return
        value = self.data.get(subject.removeprefix(b"$JS.API.DIRECT.GET.KV_b."))
        head = b"NATS/1.0 404 Message Not Found\r\n\r\n" if value is None else b"NATS/1.0\r\nNats-Sequence: 7\r\n\r\n"
        sizes = len(head), len(head) + len(value or b"")
        self.say(b"HMSG %s 1 %d %d\r\n%s%s\r\n" % (reply, *sizes, head, value or b""))


class Etcd(Handler):
    """Range and Put over HTTP/2; pings now and then, as a real one does."""

    def setup(self) -> None:
        super().setup()
        self.paths: dict[int, bytes] = {}
        self.greeted = False

    def frame(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self.say(struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload)

    def step(self) -> bool:
        if not self.greeted:
            assert self.rfile.read(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            self.greeted = True
            self.frame(SETTINGS, 0, 0)
        head = self.rfile.read(9)
        if not head:
            return False
        kind, flags, stream = struct.unpack(">BBI", head[3:])
        payload = self.rfile.read(int.from_bytes(head[:3], "big"))
        if kind == HEADERS:
            self.paths[stream] = b"Put" if b"/etcdserverpb.KV/Put" in payload else b"Range"
        elif kind == DATA:
            self.frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload)))
            self.call(stream, self.paths.pop(stream), payload[5:])
        elif kind == PING:
            assert flags & ACK
            assert payload == b"pingpong"
        return True

    def call(self, stream: int, method: bytes, message: bytes) -> None:
        fields = dict(_fields(message))
        header = b"\x0a\x02\x18\x05"
        if method == b"Put":
            self.data[fields[1]] = fields[2]
            answer = header
        elif fields[1] not in self.data:
            answer = header
        else:
            pair = b"".join(_field(number, part) for number, part in ((1, fields[1]), (5, self.data[fields[1]])))
            answer = header + _field(2, pair) + b"\x20\x01"
        self.frame(HEADERS, 4, stream, b"\x88")
        self.frame(DATA, 0, stream, b"\0" + struct.pack(">I", len(answer)) + answer)
        self.frame(HEADERS, 4 | END_STREAM, stream, b"\x88")
        if stream % 100 == 1:
            self.frame(PING, 0, 0, b"pingpong")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if not data[at - 1] & 128:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        size, at = _varint(data, at)
        assert tag & 7 == 2
        yield tag >> 3, data[at : at + size]
        at += size


def _field(number: int, data: bytes) -> bytes:
    size = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
    return bytes([number << 3 | 2]) + size + data


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def serving(kind: type[Handler], **attributes: object) -> Iterator[str]:
    """Serve on a free port, and give the address."""
    handler = type(kind.__name__, (kind,), {"data": {}, **attributes})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
