"""One connection without its socket: hello, ids, bounds, hostile bytes."""

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynafast._ext.codec import FrameReader
from dynafast.client import link as link_module
from dynafast.client.link import OUTSTANDING_MAX_BYTES, OUTSTANDING_MAX_COUNT, OVERDUE_S, Link, State, Ticket
from dynafast.client.messages import Done, Request
from dynafast.errors import NotReachedError, PeerProtocolError, RefusedError, RequestError
from dynafast.protocol import Op
from tests.client.fake import CLUSTER, ERROR, OK, pack

HELLO_ANSWER = pack([0, 0, {"version": 1, "role": "node", "cluster": CLUSTER, "node": bytes(8), "name": "n"}])
PING = Request(Op.PING)


def opened(*, cluster: bytes | None = None) -> Link:
    link = Link("n:1", cluster=cluster, now=0.0)
    link.connected(0.0)
    link.output(0.0, time=0)
    link.receive(HELLO_ANSWER, 0.0)
    return link


def send(link: Link, request: Request = PING, *, deadline: float = 5.0) -> Ticket:
    return link.send(request, deadline=deadline, owner="me")


def frames(data: bytes) -> list:
    return FrameReader().feed(data)


def test_hello_goes_first_and_requests_wait_for_its_answer() -> None:
    link = Link("n:1", cluster=None, now=0.0)
    ticket = send(link)
    assert link.output(0.0, time=0) == b""
    link.connected(0.0)
    assert frames(link.output(0.0, time=0)) == [[0, 0, {"version": 1, "role": "client"}]]
    assert link.output(0.0, time=0) == b""
    link.receive(HELLO_ANSWER, 0.0)
    assert frames(link.output(0.0, time=0)) == [[1, ticket.number]]


def test_hello_names_the_cluster_once_it_is_known() -> None:
    link = Link("n:1", cluster=CLUSTER, now=0.0)
    link.connected(0.0)
    assert frames(link.output(0.0, time=0))[0][2]["cluster"] == CLUSTER


def test_node_of_another_cluster_is_refused() -> None:
    link = Link("n:1", cluster=b"D" * 16, now=0.0)
    link.connected(0.0)
    with pytest.raises(RefusedError, match="another cluster"):
        link.receive(HELLO_ANSWER, 0.0)


def test_answers_find_their_tickets_in_any_order() -> None:
    link = opened()
    first, second = send(link), send(link)
    link.output(0.0, time=0)
    assert link.receive(pack([OK, second.number, "b"]) + pack([OK, first.number, "a"]), 0.0) == [
        second,
        first,
    ]
    assert (first.answer, second.answer) == (Done("a"), Done("b"))


def test_answer_to_a_recalled_request_finds_nobody_and_the_next_caller_gets_its_own() -> None:
    link = opened()
    given_up = send(link)
    link.output(0.0, time=0)
    assert not link.recall(given_up)
    other = send(link)
    link.output(0.0, time=0)
    link.receive(pack([OK, given_up.number, "old"]), 0.0)
    assert not other.settled
    link.receive(pack([OK, other.number, "new"]), 0.0)
    assert other.answer == Done("new")


def test_request_that_was_not_handed_yet_can_be_recalled() -> None:
    link = opened()
    ticket = send(link)
    assert link.recall(ticket)
    assert link.output(0.0, time=0) == b""
    assert not ticket.handed


def test_lost_link_settles_its_tickets_and_tells_which_were_handed() -> None:
    link = opened()
    handed = send(link)
    link.output(0.0, time=0)
    waiting = send(link)
    failure = NotReachedError("gone")
    assert link.lose(failure) == [handed, waiting]
    assert (handed.handed, waiting.handed) == (True, False)
    assert handed.failure is waiting.failure is failure
    assert send(link).failure is not None


def test_answers_before_a_bad_frame_still_settle_their_tickets() -> None:
    link = opened()
    first, second = send(link), send(link)
    link.output(0.0, time=0)
    with pytest.raises(PeerProtocolError):
        link.receive(pack([OK, first.number, "a"]) + pack([99, 99, 99]), 0.0)
    assert link.lose(NotReachedError("gone")) == [first, second]
    assert first.answer == Done("a")
    assert first.failure is None


def test_timed_request_carries_what_is_left_when_it_is_handed() -> None:
    link = opened()
    send(link, Request(Op.GET, (b"k",), {}, timed=True), deadline=5.0)
    assert frames(link.output(3.5, time=9))[0][3] == {"timeout": 1500, "time": 9}


def test_requests_above_the_bound_wait_until_others_are_answered() -> None:
    link = opened()
    tickets = [send(link) for _ in range(OUTSTANDING_MAX_COUNT + 1)]
    link.output(0.0, time=0)
    assert (link.outstanding, link.waiting) == (OUTSTANDING_MAX_COUNT, 1)
    assert link.output(0.0, time=0) == b""
    link.receive(pack([OK, tickets[0].number, None]), 0.0)
    assert frames(link.output(0.0, time=0)) == [[1, tickets[-1].number]]


def test_large_requests_are_bounded_by_their_bytes() -> None:
    link = opened()
    size = 8 * 1024 * 1024
    for _ in range(8):
        send(link, Request(Op.PUT, (b"k", bytes(size), None, bytes(16)), {}, timed=True))
    sent = 0
    while data := link.output(0.0, time=0):
        sent += len(data)
    assert size <= sent <= OUTSTANDING_MAX_BYTES + size + 1024
    assert link.waiting > 0


def test_requests_that_were_never_answered_make_room_when_they_are_overdue() -> None:
    link = opened()
    for _ in range(OUTSTANDING_MAX_COUNT):
        send(link, deadline=5.0)
    link.output(0.0, time=0)
    late = send(link, deadline=20.0)
    assert link.output(5.0 + OVERDUE_S, time=0) == b""
    assert frames(link.output(5.1 + OVERDUE_S, time=0)) == [[1, late.number]]


def test_ping_overtakes_what_waits_and_its_answer_is_dropped() -> None:
    link = opened()
    ticket = send(link)
    link.ping(1.0)
    ping, request = frames(link.output(1.0, time=0))
    assert request == [1, ticket.number]
    assert link.receive(pack([OK, ping[1], None]), 2.0) == []
    assert link.heard_at == 2.0


def test_one_output_is_bounded_however_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "OUTPUT_SIZE", 64)
    link = opened()
    for _ in range(100):
        send(link)
    assert len(link.output(0.0, time=0)) <= 64 + 16


def answers_of(link: Link, count: int) -> bytes:
    tickets = [send(link) for _ in range(count)]
    link.output(0.0, time=0)
    return b"".join(pack([OK, ticket.number, ticket.number]) for ticket in tickets)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=30))
def test_answers_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    link = opened()
    data = answers_of(link, 12)
    settled = []
    for cut in cuts:
        settled += link.receive(data[:cut], 0.0)
        data = data[cut:]
    settled += link.receive(data, 0.0)
    assert [ticket.answer for ticket in settled] == [Done(ticket.number) for ticket in settled]
    assert len(settled) == 12


def hostile() -> st.SearchStrategy[bytes]:
    """Junk, well-framed junk, and answers with wrong fields."""
    value = st.recursive(
        st.none() | st.booleans() | st.integers(-1, 2**64 - 1) | st.binary(max_size=20) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    )
    answer = st.lists(value, max_size=6).map(lambda rest: rest)
    framed = st.tuples(st.integers(0, 14), st.integers(0, 3), answer).map(lambda a: pack([a[0], a[1], *a[2]]))
    return st.one_of(st.binary(max_size=60), value.map(cbor2.dumps).map(lambda b: len(b).to_bytes(4) + b), framed)


@settings(deadline=None, max_examples=60)
@given(st.lists(hostile(), max_size=8), st.booleans())
def test_hostile_bytes_raise_typed_errors_only(pieces: list[bytes], greeted: bool) -> None:
    link = opened()
    if not greeted:
        link = Link("n:1", cluster=None, now=0.0)
        link.connected(0.0)
    send(link)
    send(link)
    link.output(0.0, time=0)
    try:
        for piece in pieces:
            link.receive(piece, 0.0)
    except (PeerProtocolError, RequestError) as error:
        link.lose(error)
        assert link.state is State.CLOSED


def test_error_about_no_request_ends_the_connection_with_its_code() -> None:
    link = opened()
    with pytest.raises(RequestError) as caught:
        link.receive(pack([ERROR, 0, "stopping", "the node stops", {}]), 0.0)
    assert caught.value.code == "stopping"
