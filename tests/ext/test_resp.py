"""Commands of redis clients: however they are cut, what is whole is taken, in order; bad bytes end with an error."""

import itertools
import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynafast._ext.resp import RespConnection
from dynafast.errors import OverloadedError, RefusedError
from tests.core.harness import Cluster
from tests.core.redis import RedisPipe
from tests.ext.leaks import assert_no_leak
from tests.oracle import resp

MIB = 1024 * 1024
CLUSTER = Cluster(1, partitions=1, replicas=1, r=1, w=1)


class Recorder:
    """Takes every command that the connection does not know itself."""

    def __init__(self, answer: Any = "OK") -> None:
        self.seen: list[list[bytes]] = []
        self.answer = answer

    def command(self, _connection: RespConnection, words: list[bytes]) -> Any:
        self.seen.append(words)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def dropped(self, _connection: object) -> None:
        pass


def opened(recorder: Recorder) -> RespConnection:
    return RespConnection(CLUSTER.members[0].node.coordinator, recorder, 1)


def read(data: bytes, cuts: list[int] | None = None) -> tuple[list[list[bytes] | None], bool]:
    """Feed *data* cut at *cuts*; return the commands, None for one refused as too large, and whether it was lost."""
    recorder = Recorder()
    connection = opened(recorder)
    for begin, end in itertools.pairwise([0, *(cuts or []), len(data)]):
        connection.feed(data[begin:end])
    taken = iter(recorder.seen)
    answers, rest = resp.answers(connection.take())
    assert rest == b""
    lost = connection.closing
    if lost:
        assert answers.pop().startswith("ERR Protocol error: ")
    found = [None if isinstance(answer, resp.Error) else next(taken) for answer in answers]
    assert next(taken, None) is None
    CLUSTER.members[0].node.take_dirty()
    return found, lost


# No name that the connection answers itself, so that the recorder sees every command.
NAMES = st.sampled_from([b"x", b"xx", b"xxx", b"xxxx", b"SETS", b"GE", b"strle", b"\x00\xff", b"$3\r\n"])
COMMANDS = st.tuples(NAMES, st.lists(st.binary(max_size=20), max_size=4)).map(lambda c: resp.command(c[0], *c[1]))
LINES = st.sampled_from([b"x\r\n", b"xx yy\n", b"  x  y \r\n", b"\r\n", b"\n", b"*0\r\n", b"*-1\r\n", b"xxxx\ty\n"])


@given(data=st.data(), parts=st.lists(COMMANDS | LINES, max_size=8))
def test_commands_are_read_however_they_are_cut(data: st.DataObject, parts: list[bytes]) -> None:
    whole = b"".join(parts)
    expected = resp.commands(whole)
    assert read(whole) == expected
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=6).map(sorted))
    assert read(whole, cuts) == expected


def test_every_single_cut_and_every_single_byte() -> None:
    whole = resp.command(b"x", b"", b"\r\n", b"a" * 11) + b"x y\r\n" + resp.command(b"xx") + b"*0\r\n" + b"xx\n"
    expected = resp.commands(whole)
    assert [len(words or []) for words in expected[0]] == [4, 2, 1, 1]
    for cut in range(len(whole) + 1):
        assert read(whole, [cut]) == expected
    assert read(whole, list(range(len(whole)))) == expected


@pytest.mark.parametrize("seed", range(300))
def test_damaged_bytes_end_as_the_oracle_says(seed: int) -> None:
    """Whole or byte by byte: the same commands are taken, and the same damage is seen."""
    rng = random.Random(seed)
    data = bytearray(b"".join(resp.command(b"x", rng.randbytes(rng.randrange(6))) for _ in range(3)))
    for _ in range(rng.randrange(1, 4)):
        data[rng.randrange(len(data))] = rng.choice(b"*$-0123456789\r\n x\x00\xff:+")
    damaged = bytes(data).replace(b'"', b"x").replace(b"'", b"x")
    expected = resp.commands(damaged)
    assert read(damaged) == expected
    assert read(damaged, list(range(len(damaged)))) == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'xx "a b"', [b"xx", b"a b"]),
        (b"xx 'a b'", [b"xx", b"a b"]),
        (b'xx "\\x41\\n\\r\\t\\b\\a\\\\\\"\\q"', [b"xx", b'A\n\r\t\b\a\\"q']),
        (b"xx 'a\\'b\\n'", [b"xx", b"a'b\\n"]),
        (b'xx "\\xzz"', [b"xx", b"xzz"]),
        (b'xx ""', [b"xx", b""]),
        (b'xx a"b c"', [b"xx", b"ab c"]),
        (b'xx "a', None),
        (b"xx 'a", None),
        (b'xx "a"b', None),
        (b'xx "a\\', None),
    ],
)
def test_typed_lines_have_the_quotes_of_redis(line: bytes, words: list[bytes] | None) -> None:
    assert read(line + b"\r\n") == (([], True) if words is None else ([words], False))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"*x\r\n", "invalid multibulk length"),
        (b"*1048577\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*1\n", "invalid multibulk length"),
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n\x00", "expected '$', got '?'"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"*1\r\n$1\r\nxyz", "expected the end of a line after a bulk string"),
        (b"x" * (64 * 1024 + 1), "too big inline request"),
        (b"x" * (64 * 1024 + 1) + b"\n", "too big inline request"),
        (b'x "\n', "unbalanced quotes in request"),
        (b"*2\r\n$8388609\r\n" + b"x" * 8388611 + b":", "invalid bulk length"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bytes_that_are_no_protocol_are_said_so_and_the_connection_closes(data: bytes, why: str) -> None:
    recorder = Recorder()
    connection = opened(recorder)
    connection.feed(b"PING\r\n" + data)
    connection.feed(b"xx never read\r\n")
    assert connection.take() == b"+PONG\r\n-ERR Protocol error: %s\r\n" % why.encode()
    assert connection.closing
    assert recorder.seen == []


def test_silence_within_a_command_is_said_so() -> None:
    connection = opened(Recorder())
    assert not connection.unfinished
    connection.feed(b"*1\r\n$4\r\nPI")
    assert connection.unfinished
    connection.give_up()
    assert connection.take() == b"-ERR Protocol error: silence in the middle of a command\r\n"
    assert connection.closing


@pytest.mark.parametrize("piece", [1 << 16, 1 << 20, 1 << 26])
def test_a_command_beyond_the_limits_is_read_past_and_refused(piece: int) -> None:
    """Its framing is intact, so what follows is served; nothing of it is kept in memory."""
    many = [b"mset", *itertools.chain.from_iterable((b"k%d" % i, b"v" * (6 * MIB)) for i in range(3))]
    data = resp.command(b"set", b"k", b"v" * (8 * MIB + 1)) + resp.command(*many) + b"PING\r\n"
    connection = opened(Recorder())
    for at in range(0, len(data), piece):
        connection.feed(data[at : at + piece])
    assert resp.answers(connection.take())[0] == [
        "ERR an argument must have at most 8388608 bytes",
        "ERR a command must have at most 16777216 bytes",
        "PONG",
    ]
    assert not connection.closing


def test_a_long_command_in_small_pieces_costs_no_more_than_its_bytes() -> None:
    """Each look goes on where the last one stopped: else this would take minutes."""
    data = resp.command(b"x", *[b"y"] * 300_000)
    recorder = Recorder()
    connection = opened(recorder)
    begun = time.process_time()
    for at in range(0, len(data), 100):
        connection.feed(data[at : at + 100])
    assert time.process_time() - begun < 20
    assert [len(words) for words in recorder.seen] == [300_001]


@pytest.mark.parametrize(
    ("answer", "two", "three"),
    [
        (None, b"$-1\r\n", b"_\r\n"),
        ("OK", b"+OK\r\n", b"+OK\r\n"),
        (b"a\r\nb", b"$4\r\na\r\nb\r\n", b"$4\r\na\r\nb\r\n"),
        (0, b":0\r\n", b":0\r\n"),
        (-(2**63), b":-9223372036854775808\r\n", b":-9223372036854775808\r\n"),
        (2**63 - 1, b":9223372036854775807\r\n", b":9223372036854775807\r\n"),
        ([1, [None]], b"*2\r\n:1\r\n*1\r\n$-1\r\n", b"*2\r\n:1\r\n*1\r\n_\r\n"),
        ({b"a": 1}, b"*2\r\n$1\r\na\r\n:1\r\n", b"%1\r\n$1\r\na\r\n:1\r\n"),
        (RefusedError("two\r\nlines", code="no-seat"), b"-NO-SEAT two  lines\r\n", b"-NO-SEAT two  lines\r\n"),
        (
            OverloadedError("busy", {"retry_after_ms": 50}),
            b"-OVERLOADED busy; retry after 50 ms\r\n",
            b"-OVERLOADED busy; retry after 50 ms\r\n",
        ),
    ],
)
def test_answers_of_the_node_are_written_for_either_version(answer: Any, two: bytes, three: bytes) -> None:
    connection = opened(Recorder(answer))
    for protocol, expected in ((2, two), (3, three)):
        connection.protocol = protocol
        connection.feed(b"xx\r\n")
        assert connection.take() == expected


def test_conversations_of_every_kind_leak_nothing() -> None:
    """Among three nodes: commands coordinated here and elsewhere, cut anywhere, refused, and given up half way."""
    cluster = Cluster(3, partitions=8)
    rng = random.Random(1)
    keys = [b"key %d" % number for number in range(20)]

    def commands() -> bytes:
        key, other = rng.sample(keys, 2)
        every = [
            (b"set", key, b"v" * 300), (b"get", key), (b"strlen", key), (b"mset", key, b"1", other, b"2"),
            (b"mget", key, other, b"not there"), (b"exists", key, key), (b"del", key, other), (b"get", key),
            (b"ping",), (b"info",), (b"set", key, b"v", b"NX"), (b"get", b""), (b"what",),
        ]  # fmt: skip
        return b"".join(resp.command(*words) for words in every) + b'ECHO "a b"\r\n'

    answered = 0

    def turn(i: int) -> None:
        nonlocal answered
        pipe = RedisPipe(cluster.members[i % 3])
        data = commands() * 3
        cut = rng.randrange(len(data))
        pipe.send_raw(data[:cut])
        if i % 5:
            pipe.send_raw(data[cut:])
            for _ in range(4):
                cluster.step()
            answered += len(pipe.answers())
        pipe.connection.drop()
        del pipe.member.ends[pipe.connection]
        if i % 50 == 0:
            for _ in range(30):
                cluster.step()

    assert_no_leak(turn, per_turn=100)
    assert answered > 100_000
