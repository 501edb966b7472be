"""Whatever the bytes and however they are cut: a typed error or a closed connection, never a crash or a hang."""

import itertools
import random
import resource
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynafast._ext.codec import FrameReader
from dynafast.core.membership import Entry
from dynafast.core.seats import Seat
from dynafast.core.seats import pack as pack_seats
from dynafast.protocol import Op
from tests.core.harness import Cluster, Pipe, framed

KEY_MAX, VALUE_MAX, FRAME_MAX = 4096, 8 << 20, 16 << 20
W1 = b"1" * 16
HELLO = [0, 0, {"version": 1, "role": "client"}]


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster(1)


def pack(message: Any) -> bytes:
    return framed(cbor2.dumps(message))


def talk(cluster: Cluster, data: bytes, *, cut: int | None = None) -> tuple[list[Any], bool]:
    """Send *data*, whole or in pieces of *cut* bytes; return the answers and whether the node closed."""
    pipe = Pipe(cluster.members[0])
    pieces = [data] if cut is None else [data[i : i + cut] for i in range(0, len(data), cut)]
    for piece in pieces:
        pipe.send_raw(piece)
    for _ in range(20):
        cluster.step()
    closed = pipe.connection.lost
    answers = pipe.answers()
    pipe.connection.drop()
    return answers, closed


BAD_REQUESTS: list[tuple[Any, str]] = [
    ([2, 1, b"", {}], "bad-request"),
    ([2, 1, b"k" * (KEY_MAX + 1), {}], "too-large"),
    ([2, 1, "text", {}], "bad-request"),
    ([2, 1, b"k"], "bad-request"),
    ([2, 1, b"k", {}, 1], "bad-request"),
    ([2, 1, b"k", {"r": 0}], "bad-request"),
    ([2, 1, b"k", {"r": 9}], "bad-request"),
    ([2, 1, b"k", {"r": "2"}], "bad-request"),
    ([2, 1, b"k", {"w": 2}], "bad-request"),
    ([2, 1, b"k", {"what": 1}], "bad-request"),
    ([2, 1, b"k", {1: 1}], "bad-request"),
    ([2, 1, b"k", {"timeout": 0}], "bad-request"),
    ([2, 1, b"k", {"timeout": 60_001}], "bad-request"),
    ([2, 1, b"k", {"timeout": 1.5}], "bad-request"),
    ([2, 1, b"k", {"time": -1}], "bad-request"),
    ([2, 1, b"k", []], "bad-request"),
    ([3, 1, b"k", b"v" * (VALUE_MAX + 1), None, W1, {}], "too-large"),
    ([3, 1, b"k", "text", None, W1, {}], "bad-request"),
    ([3, 1, b"k", b"v", 1, W1, {}], "bad-request"),
    ([3, 1, b"k", b"v", b"x", W1, {}], "bad-context"),
    ([3, 1, b"k", b"v", None, b"short", {}], "bad-request"),
    ([3, 1, b"k", b"v", None, None, {}], "bad-request"),
    ([3, 1, b"k", None, None, W1, {}], "bad-request"),
    ([3, 1, b"k", b"v", None, W1, {"overwrite": 1}], "bad-request"),
    ([3, 1, b"k", b"v", None, W1, {"r": 1}], "bad-request"),
    ([4, 1, "text"], "bad-request"),
    ([4, 1, b""], "bad-request"),
    ([4, 1], "bad-request"),
    ([5, 1, 3], "bad-request"),
    ([1, 1, 1], "bad-request"),
    ([7, 1], "unknown-op"),
    ([999_999, 1], "unknown-op"),
    ([8, 1, None], "unknown-op"),  # an answer nobody asked for
    ([12, 1, True, b"x"], "unknown-op"),  # clients do not send parts
    ([16, 1, b"k", None], "unknown-op"),  # peers only
    ([17, 1, b"k", False, [[], []]], "unknown-op"),
    ([18, 1, {}], "unknown-op"),
    ([0, 1, {}], "unknown-op"),  # a second hello
]


@pytest.mark.parametrize("cut", [None, 1000, 7])
@pytest.mark.parametrize(("message", "code"), BAD_REQUESTS, ids=lambda item: str(item)[:40])
def test_bad_request_is_answered_with_its_code_and_the_connection_lives(
    cluster: Cluster, message: Any, code: str, cut: int | None
) -> None:
    if cut == 7 and len(pack(message)) > 100_000:
        cut = 4099
    answers, closed = talk(cluster, pack(HELLO) + pack(message) + pack([1, 77]), cut=cut)
    assert [answer[0] for answer in answers] == [Op.HELLO, Op.ERROR, Op.OK]
    assert answers[1][1:3] == [1, code]
    assert isinstance(answers[1][3], str)
    assert isinstance(answers[1][4], dict)
    assert not closed


@pytest.mark.parametrize(
    "item",
    [
        b"\xff",
        b"\x00",
        b"\x80",
        b"\x82\x01",
        b"\xa1\x01\x02",
        b"\x5f\x41a",
        b"\x9f",
        b"\x82\x20\x01",
        b"\x81" * 1000,
        b"junk",
    ],
)
def test_a_frame_that_is_no_message_is_answered_and_the_connection_lives(cluster: Cluster, item: bytes) -> None:
    answers, closed = talk(cluster, pack(HELLO) + framed(item) + pack([1, 77]))
    assert [answer[0] for answer in answers] == [Op.HELLO, Op.ERROR, Op.OK]
    assert answers[1][1:3] == [0, "bad-request"]
    assert not closed


@pytest.mark.parametrize("length", [0, FRAME_MAX + 1, 0xFFFFFFFF])
def test_a_length_out_of_range_is_answered_and_closes(cluster: Cluster, length: int) -> None:
    answers, closed = talk(cluster, pack(HELLO) + length.to_bytes(4, "big") + b"x" * 100)
    assert answers[1][1:3] == [0, "bad-request"]
    assert closed


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ([1, 5], "bad-request"),
        ([2, 5, b"k", {}], "bad-request"),
        ([0, 0], "bad-request"),
        ([0, 0, []], "bad-request"),
        ([0, 0, {}], "version-mismatch"),
        ([0, 0, {"version": 2, "role": "client"}], "version-mismatch"),
        ([0, 0, {"version": 1}], "bad-request"),
        ([0, 0, {"version": 1, "role": "king"}], "bad-request"),
        ([0, 0, {"version": 1, "role": []}], "bad-request"),
        ([0, 0, {"version": 1, "role": {}}], "bad-request"),
        ([0, 0, {"version": [], "role": "client"}], "version-mismatch"),
        ([0, 0, {"version": 1, "role": "client", "cluster": []}], "wrong-cluster"),
        ([0, 0, {"version": 1, "role": "peer", "node": []}], "bad-request"),
        ([0, 0, {"version": 1, "role": "client", "cluster": b"x" * 16}], "wrong-cluster"),
        ([0, 0, {"version": 1, "role": "peer"}], "bad-request"),
        ([0, 0, {"version": 1, "role": "peer", "node": b"x" * 8, "to": b"y" * 8}], "wrong-node"),
    ],
)
def test_a_bad_hello_is_refused_with_its_code_and_closes(cluster: Cluster, first: Any, code: str) -> None:
    answers, closed = talk(cluster, pack(first) + pack([1, 77]))
    assert [(answer[0], answer[2]) for answer in answers] == [(Op.ERROR, code)]
    assert closed


def test_a_frame_before_the_hello_that_is_junk_closes(cluster: Cluster) -> None:
    answers, closed = talk(cluster, framed(b"\xff\xff"))
    assert answers[0][2] == "bad-request"
    assert closed


def test_half_a_frame_then_silence_waits_and_harms_nobody(cluster: Cluster) -> None:
    pipe = Pipe(cluster.members[0])
    pipe.hello()
    pipe.send_raw(pack([2, 1, b"k", {}])[:-1])
    for _ in range(50):
        cluster.step()
    assert pipe.answers() == []
    assert cluster.members[0].node.busy == 0
    pipe.connection.drop()


def test_half_a_frame_then_the_end_is_dropped_silently(cluster: Cluster) -> None:
    pipe = Pipe(cluster.members[0])
    pipe.hello()
    pipe.send_raw(pack([3, 1, b"half", b"v", None, W1, {}])[:-3])
    pipe.connection.drop()
    pipe.connection.feed(b"\x00\x00\x00")
    assert cluster.client(0).ask(Op.GET, b"half", {})[2] == []


# ---- any valid encoding of a request is accepted


def wide(n: int) -> bytes:
    """An unsigned integer in nine bytes, whatever its size."""
    return b"\x1b" + n.to_bytes(8, "big")


def chunked(data: bytes) -> bytes:
    """A byte string of indefinite length, in two chunks."""
    half = len(data) // 2
    return b"\x5f" + cbor2.dumps(data[:half]) + cbor2.dumps(data[half:]) + b"\xff"


@pytest.mark.parametrize("cut", [None, 1])
def test_unusual_but_valid_encodings_are_accepted(cluster: Cluster, cut: int | None) -> None:
    put = (
        b"\x9f" + wide(3) + wide(1) + chunked(b"odd") + chunked(b"value") + b"\xf6" + chunked(b"u" * 16)
        + b"\xbf\x7f\x63tim\x64eout\xff" + wide(700) + b"\xff\xff"
    )  # fmt: skip
    get = b"\x98\x04" + b"\x18\x02" + b"\x19\x00\x02" + b"\x58\x03odd" + b"\xb8\x00"
    answers, _ = talk(cluster, pack(HELLO) + framed(put) + framed(get), cut=cut)
    assert sorted(answer[0] for answer in answers) == [Op.HELLO, Op.FOUND, Op.WRITTEN]
    found = cluster.client(0).ask(Op.GET, b"odd", {})
    assert [version[4] for version in found[2]] == [b"value"]


# ---- fuzz: whole and byte by byte give the same, and nothing breaks

messages = st.one_of(
    st.sampled_from([message for message, _ in BAD_REQUESTS if len(cbor2.dumps(message)) < 10_000]),
    st.lists(
        st.one_of(st.integers(-5, 40), st.binary(max_size=20), st.none(), st.booleans(), st.text(max_size=5)),
        max_size=8,
    ),
    st.tuples(st.just(2), st.integers(0, 9), st.binary(min_size=1, max_size=9), st.just({})).map(list),
    st.tuples(
        st.just(3), st.integers(0, 9), st.binary(min_size=1, max_size=9), st.binary(max_size=30), st.none(),
        st.binary(min_size=16, max_size=16), st.sampled_from([{}, {"w": 1}, {"timeout": 100}]),
    ).map(list),
)  # fmt: skip


def shape(answers: list[Any]) -> list[Any]:
    """What does not depend on random actors and on time."""
    return [(answer[0], answer[1], answer[2] if answer[0] == Op.ERROR else None) for answer in answers]


def fresh_answers(data: bytes, cut: int | None) -> tuple[list[Any], bool]:
    return talk(Cluster(1, partitions=1), data, cut=cut)


@settings(max_examples=60, deadline=None)
@given(st.lists(messages, max_size=6))
def test_whole_and_byte_by_byte_give_the_same_answers(sent: list[Any]) -> None:
    data = pack(HELLO) + b"".join(pack(message) for message in sent)
    whole, closed = fresh_answers(data, None)
    pieces, closed_too = fresh_answers(data, 1)
    assert (sorted(shape(whole), key=repr), closed) == (sorted(shape(pieces), key=repr), closed_too)
    assert len(whole) == len(sent) + 1, "every message has its answer"


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.booleans(), st.sampled_from([None, 1]))
def test_random_bytes_never_break_a_node(data: bytes, greet: bool, cut: int | None) -> None:
    cluster = Cluster(1, partitions=1)
    talk(cluster, (pack(HELLO) if greet else b"") + data, cut=cut)
    assert cluster.client(0).ask(Op.PING)[0] == Op.OK


@settings(max_examples=150, deadline=None)
@given(messages, st.integers(0, 10_000), st.integers(1, 255), st.sampled_from(["client", "peer"]))
def test_one_damaged_byte_never_breaks_a_node(message: Any, where: int, flip: int, role: str) -> None:
    cluster = Cluster(1, partitions=1)
    data = bytearray(pack(message))
    data[where % len(data)] ^= flip
    facts = cluster.facts.cluster
    hello = {"version": 1, "role": role, "node": b"n" * 8, "generation": 1, "cluster": facts}
    talk(cluster, pack([0, 0, hello]) + bytes(data))
    assert cluster.client(0).ask(Op.PING)[0] == Op.OK


ENTRY = {
    "id": b"m" * 8, "name": "m", "address": "m:1", "weight": 1, "zone": "z", "host": "m", "status": "up",
    "generation": 1, "version": 1, "seats": b"",
}  # fmt: skip
PEER_MESSAGES = [
    [14, 1, 1, None],
    [15, 1, 1, True, None],
    [16, 1, b"k", 5],
    [16, 1, b"k", b"no digest"],
    [17, 1, b"k", False, [[[1, 1, 1]], [[1, 1, 1, W1, b"v"]]]],
    [17, 1, b"k", False, [[], [[1, 1, 1, W1, b"v"]]]],  # a dot that its context does not cover
    [17, 1, b"k", False, [[[1, 0, 1]], []]],
    [17, 1, b"k", False, "junk"],
    [17, 1, b"k", False, [[[1, 1, 1], [1, 2, 1]], []]],
    [18, 1, {"digests": 5}],
    [18, 1, {"digests": [[10**11, 1, 1]]}],
    [18, 1, {"digests": [[2**64 - 1, 1, 1]]}],
    [18, 1, {"digests": [[b"n" * 8, -1, 1]]}],
    [18, 1, {"entries": [ENTRY | {"seats": b"123"}]}],
    [18, 1, {"entries": [ENTRY | {"seats": bytes(8) + b"\xff"}]}],
    [18, 1, {"entries": [ENTRY | {"weight": 0}]}],
    [18, 1, {"entries": [ENTRY | {"id": b"x"}]}],
    [18, 1, {"entries": [ENTRY | {"name": "a b"}]}],
    [18, 1, {"entries": [ENTRY | {"status": []}]}],
    [18, 1, {"entries": [5]}],
    [18, 1, {"digests": [[b"x"]]}],
    [18, 1, {"entries": [{"id": b"x"}]}],
    [18, 1, {"entries": 5}],
    [18, 1, 5],
    [19, 1, {"name": "x"}],
    [20, 1, ["x"]],
    [20, 1, [0, 0]],
    [20, 1, [True]],
    [20, 1, [99_999_999]],
    [20, 1, 5],
    [21, 1],
    [12, 1, True, b"\xff"],
    [12, 1, False, b"abc"],
    [12, 1, "x", b"abc"],
]


@pytest.mark.parametrize("message", PEER_MESSAGES, ids=str)
def test_malformed_peer_messages_are_answered_and_the_node_lives(message: Any) -> None:
    cluster = Cluster(1, partitions=1)
    hello = {"version": 1, "role": "peer", "node": b"n" * 8, "generation": 1, "cluster": cluster.facts.cluster}
    answers, closed = talk(cluster, pack([0, 0, hello]) + pack(message) + pack([1, 77]))
    assert [Op.OK, 77] in [answer[:2] for answer in answers]
    assert not closed
    assert cluster.client(0).ask(Op.PING)[0] == Op.OK


def test_malformed_entries_are_not_kept() -> None:
    """What was refused does not come back at the next tick or the next start."""
    cluster = Cluster(1, partitions=1)
    member = cluster.members[0]
    hello = {"version": 1, "role": "peer", "node": b"n" * 8, "generation": 1, "cluster": cluster.facts.cluster}
    for fields in ({"seats": b"123"}, {"weight": 0}, {"id": b"x"}):
        talk(cluster, pack([0, 0, hello]) + pack([18, 1, {"entries": [ENTRY | fields]}]))
    assert [entry.name for entry in member.node.membership.members()] == ["n0"]
    cluster.kill(member)
    cluster.restart(member)
    cluster.settle()


ANSWERS = [
    [],
    ["unavailable"],
    [["unavailable"], "text", {}],
    [{}, "text", {}],
    [5, "text", {}],
    [1, None],
    [1, True, None],
    [1, True, [[[1, 1, 1]], [[1, 1, 1, W1, b"v"]]]],
    [300, None],
    [[], b"", [2, 2, 2, 0, 2, 0], 0],
    [{"entries": 5}],
    [{"entries": [ENTRY | {"weight": 0}]}],
    [{"want": [[]]}],
    ["overloaded", "text", {}],
]


def linked(cluster: Cluster, *, seats: range) -> dict[Any, list[Any]]:
    """Let the only node know peers that serve *seats*; return its ends of the connections, and what it has sent."""
    member = cluster.members[0]
    node = member.node
    peers = [
        ENTRY | {"id": bytes([65 + n]) * 8, "name": f"p{n}", "host": f"p{n}", "seats": pack_seats([Seat(0, n, 2)])}
        for n in seats
    ]
    node.learn([Entry.from_wire(fields) for fields in peers])
    sent: dict[Any, list[Any]] = {}
    for fields in peers:
        end = node.dial(fields["id"])
        end.take()
        sent[end] = []
        member.ends[end] = lambda data, end=end: sent[end].extend(FrameReader().feed(data))
        hello = {"version": 1, "role": "node", "cluster": cluster.facts.cluster, "node": fields["id"], "name": "p"}
        end.feed(pack([0, 0, hello]))
    return sent


@pytest.mark.parametrize("seats", [range(3), range(1, 3)], ids=["relay", "coordinator"])
@pytest.mark.parametrize("op", [Op.OK, Op.FOUND, Op.WRITTEN, Op.ERROR, Op.FETCHED, Op.STORED, Op.PART, 99])
def test_malformed_answers_of_peers_break_neither_the_node_nor_its_requests(op: int, seats: range) -> None:
    """Whatever the node asks gets such an answer; each request of a client is answered all the same."""
    for answer in ANSWERS:
        cluster = Cluster(1, partitions=1, replicas=3)
        sent = linked(cluster, seats=seats)
        client = cluster.client(0)
        client.send([2, 1, b"k", {"timeout": 200}])
        client.send([3, 2, b"k", b"v", None, W1, {"timeout": 200}])
        for _ in range(60):
            for end, requests in sent.items():
                while requests:
                    end.feed(pack([int(op), requests.pop(0)[1], *answer]))
            cluster.pump(cluster.members[0])
            cluster.step()
        assert sorted(got[1] for got in client.answers()) == [1, 2], answer
        assert client.ask(Op.PING)[0] == Op.OK


@pytest.mark.parametrize(
    "message", [[16, 1, b"k", None], [17, 1, b"k", False, [[], []]], [18, 1, {}], [20, 1, []], [21, 1]]
)
def test_a_node_that_is_not_of_the_cluster_may_only_ask_to_join(cluster: Cluster, message: Any) -> None:
    hello = {"version": 1, "role": "peer", "node": b"n" * 8, "generation": 1, "cluster": None}
    answers, _ = talk(cluster, pack([0, 0, hello]) + pack(message) + pack([19, 2, {}]))
    assert [answer[2] for answer in answers[1:]] == ["unknown-op", "bad-request"]


def test_an_id_that_is_no_number_is_answered_with_id_0(cluster: Cluster) -> None:
    answers, _ = talk(cluster, pack(HELLO) + pack([2, -5, b"k", {}]))
    assert answers[1][1:3] == [0, "bad-request"]


def test_more_requests_than_may_wait_are_answered_overloaded() -> None:
    cluster = Cluster(1, partitions=1)
    cluster.members[0].flushing = False
    pipe = cluster.client(0)
    for number in range(1100):
        pipe.send([3, number, b"k%d" % number, b"v", None, W1, {}])
    refused = [answer for answer in pipe.answers() if answer[0] == Op.ERROR]
    assert len(refused) == 1100 - 1024
    assert {answer[2] for answer in refused} == {"overloaded"}
    assert all(answer[4]["retry_after_ms"] > 0 for answer in refused)
    cluster.members[0].flushing = True
    cluster.step()
    assert len(pipe.answers()) == 1024


def test_clients_gone_in_mid_request_leave_nothing_behind() -> None:
    """Connections that die at any byte of a request do not grow the node."""
    cluster = Cluster(1, partitions=1)
    data = pack(HELLO) + pack([3, 1, b"key", b"v" * 1000, None, W1, {}]) + pack([2, 2, b"key", {}])
    rng = random.Random(5)

    def round_of(count: int) -> int:
        for _ in range(count):
            pipe = Pipe(cluster.members[0])
            pipe.send_raw(data[: rng.randrange(len(data))])
            pipe.connection.drop()
            cluster.members[0].ends.clear()
        cluster.step()
        assert cluster.members[0].node.busy == 0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = round_of(2000)
    assert round_of(20_000) - before < 8_000, "resident memory grew by more than 8 MB"


def test_ids_of_any_size_come_back() -> None:
    client = Cluster(1, partitions=1).client(0)
    for id in itertools.chain(range(22, 26), [255, 256, 2**16, 2**32, 2**64 - 1]):
        client.send([1, id])
        assert client.answers()[0][:2] == [Op.OK, id]
