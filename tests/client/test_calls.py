"""The verbs among pretended nodes in virtual time: whom they ask, when they give up, what they raise."""

from typing import Any

import pytest

from dynafast import (
    BadContextError,
    BadRequestError,
    ConfigError,
    Conflict,
    ConflictError,
    DynafastError,
    NotReachedError,
    OverloadedError,
    RefusedError,
    RequestTimeoutError,
    TooLargeError,
    UnavailableError,
    WriteUncertainError,
    lww,
)
from dynafast.client.core import RING_AGE_MAX_S
from dynafast.limits import KEY_MAX, VALUE_MAX
from tests.client.fake import (
    CHECK,
    CLUSTER,
    GET,
    LEAVE,
    PING,
    PLAN,
    PUT,
    REMOVE,
    RING,
    WEIGHT,
    Fail,
    Twist,
    always,
    once,
    partition_of,
)
from tests.client.world import Door, World


def asked(world: World, op: int) -> list[int]:
    """How many requests of this kind each node got."""
    return [len(node.requests(op)) for node in world.nodes.values()]


# ---- results


def test_get_of_an_unknown_key_finds_nothing() -> None:
    found = World().get()
    assert not found.found
    assert found.value is None
    assert found.values == []
    assert found.context is None
    assert found.receipt.replicas == 3


def test_put_then_get_returns_value_and_context() -> None:
    world = World()
    written = world.put(value=b"milk")
    found = world.get()
    assert (written.live, written.context) == (1, found.context)
    assert (found.value, found.values) == (b"milk", [b"milk"])
    assert found.versions[0][:2] == written.dot


def test_two_puts_without_context_leave_a_conflict_and_a_put_with_context_resolves_it() -> None:
    world = World()
    world.put(value=b"a")
    assert world.put(value=b"b").context is None
    found = world.get()
    assert found.values == [b"a", b"b"]
    with pytest.raises(Conflict) as conflict:
        _ = found.value
    assert Conflict is ConflictError
    assert conflict.value.values == [b"a", b"b"]
    assert world.put(value=b"ab", context=found.context).live == 1


def test_resolvers_make_one_value_of_several() -> None:
    world = World()
    world.put(value=b"a")
    world.put(value=b"b")
    assert world.get(resolver=lww).value == b"b"
    assert world.get(resolver=b"+".join).value == b"a+b"


def test_delete_without_context_reads_first_and_one_of_nothing_writes_nothing() -> None:
    world = World()
    assert world.delete() is None
    assert asked(world, PUT) == [0, 0, 0]
    world.put()
    assert world.delete().live == 0
    assert not world.get().found


def test_update_resolves_and_writes_with_the_context_of_its_read() -> None:
    world = World()
    assert world.update(lambda old: (old or b"") + b"1").live == 1
    world.put(value=b"x")
    with pytest.raises(ConflictError):
        world.update(lambda old: old)
    assert world.update(lambda old: old + b"!", resolver=lww).live == 1
    assert world.get().value == b"x!"


def test_update_passes_on_what_the_function_raises_and_refuses_what_is_not_bytes() -> None:
    world = World()
    with pytest.raises(ZeroDivisionError):
        world.update(lambda _: 1 // 0)
    with pytest.raises(TypeError, match="must return bytes, not str"):
        world.update(lambda _: "text")
    assert asked(world, PUT) == [0, 0, 0]


# ---- arguments


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("text", b"v", TypeError),
        (bytearray(b"k"), b"v", TypeError),
        (b"k", "text", TypeError),
        (b"k", memoryview(b"v"), TypeError),
        (b"k", None, TypeError),  # a delete has its own verb
        (b"", b"v", BadRequestError),
        (bytes(KEY_MAX + 1), b"v", TooLargeError),
        (b"k", bytes(VALUE_MAX + 1), TooLargeError),
    ],
)
def test_put_of_a_bad_argument_raises_and_sends_nothing(key: object, value: object, error: type[Exception]) -> None:
    world = World()
    with pytest.raises(error):
        world.put(key, value)
    assert asked(world, PUT) == [0, 0, 0]


def test_largest_key_and_value_are_sent() -> None:
    world = World()
    world.put(bytes(KEY_MAX), bytes(VALUE_MAX))
    assert len(world.get(bytes(KEY_MAX)).value) == VALUE_MAX


@pytest.mark.parametrize(
    ("r", "error"), [(0, BadRequestError), (9, BadRequestError), (True, TypeError), ("2", TypeError)]
)
def test_get_with_a_bad_r_raises(r: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        World().run(lambda call: call.get(b"k", r=r))


def test_context_that_is_not_bytes_raises() -> None:
    with pytest.raises(TypeError, match="a context must be bytes"):
        World().put(context="text")


# ---- options on the wire


def test_requests_carry_time_left_and_the_largest_time_seen() -> None:
    world = World(timeout_s=2.0)
    world.store.time = 5000
    world.put()
    world[0].rule = once(GET, Fail("stopping"))
    world.get()
    first, second = world[0].requests(GET)[0][3], world[1].requests(GET)[0][3]
    assert first["time"] == second["time"] == 5001
    assert 1900 < second["timeout"] < first["timeout"] <= 2000


def test_options_are_sent_as_given_and_only_then() -> None:
    world = World()
    world.run(lambda call: call.get(b"k", r=3, pr=2, sloppy=False))
    world.run(lambda call: call.put(b"k", b"v", w=3, pw=2, dw=1, sloppy=True))
    context = world.get().context
    world.run(lambda call: call.delete(b"k", context=context, pw=1))
    options = [item[-1] for node in world.nodes.values() for item in node.seen if item[0] in (GET, PUT)]
    assert [{name: o[name] for name in o if name not in ("time", "timeout")} for o in options] == [
        {"r": 3, "pr": 2, "sloppy": False},
        {"w": 3, "pw": 2, "dw": 1, "sloppy": True},
        {},
        {"pw": 1},
    ]


@pytest.mark.parametrize("verb", ["get", "put", "delete"])
def test_timeout_of_one_call_holds_for_all_its_tries(verb: str) -> None:
    world = World()
    world.put()
    for node in world.nodes.values():
        node.rule = lambda _: Twist.IGNORE
    arguments = (b"k", b"v") if verb == "put" else (b"k",)
    start = world.now
    with pytest.raises(DynafastError):
        world.run(lambda call: getattr(call, verb)(*arguments, timeout=0.5))
    assert world.now - start == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"pr": 0}, BadRequestError),
        ({"pr": 9}, BadRequestError),
        ({"r": "2"}, TypeError),
        ({"sloppy": 1}, TypeError),
        ({"timeout": 0}, ConfigError),
        ({"timeout": 61}, ConfigError),
    ],
)
def test_bad_options_raise_and_send_nothing(options: dict[str, object], error: type[Exception]) -> None:
    world = World()
    with pytest.raises(error):
        world.run(lambda call: call.get(b"k", **options))
    assert asked(world, GET) == [0, 0, 0]


# ---- the members


def test_changes_ask_one_node_and_return_its_answer() -> None:
    world = World()
    assert "asked" in world.run(lambda call: call.leave("n1"))
    world.run(lambda call: call.remove("n1", accept_loss=True))
    world.run(lambda call: call.weight("n1", 3))
    world.run(lambda call: call.plan("join", name=None, weight=2, at=None))
    world.run(lambda call: call.check(at=world.addresses[2], timeout=None))
    seen = [[item[0], *item[2:]] for node in world.nodes.values() for item in node.seen if item[0] >= LEAVE]
    assert sorted(seen, key=lambda item: item[0]) == [
        [LEAVE, "n1"],
        [REMOVE, "n1", True],
        [WEIGHT, "n1", 3],
        [PLAN, {"change": "join", "weight": 2}],
        [CHECK],
    ]
    assert asked(world, CHECK) == [0, 0, 1]


def test_refused_change_is_raised_at_once_and_one_that_may_pass_is_asked_again() -> None:
    world = World()
    world[0].rule = once(LEAVE, Fail("stopping"))
    world.run(lambda call: call.leave("n1"))
    assert sum(asked(world, LEAVE)) == 2
    for node in world.nodes.values():
        node.rule = always(REMOVE, Fail("alive", {"name": "n1"}))
    with pytest.raises(RefusedError) as refused:
        world.run(lambda call: call.remove("n1"))
    assert refused.value.code == "alive"
    assert sum(asked(world, REMOVE)) == 1


@pytest.mark.parametrize(
    ("begin", "error"),
    [
        (lambda call: call.leave("no such name"), BadRequestError),
        (lambda call: call.leave(b"n1"), TypeError),
        (lambda call: call.weight("n1", 0), BadRequestError),
        (lambda call: call.weight("n1", 10_001), BadRequestError),
        (lambda call: call.remove("n1", accept_loss=1), TypeError),
        (lambda call: call.plan("grow", name=None, weight=None, at=None), BadRequestError),
        (lambda call: call.plan("leave", name=None, weight=None, at=None), TypeError),
        (lambda call: call.plan("join", name=None, weight=None, at=None), TypeError),
    ],
)
def test_bad_arguments_of_changes_raise_and_send_nothing(begin: Any, error: type[Exception]) -> None:
    world = World()
    with pytest.raises(error):
        world.run(begin)
    assert [node.seen for node in world.nodes.values()] == [[], [], []]


def test_check_waits_longer_than_the_client_does_for_other_answers() -> None:
    world = World(1)
    world[0].rule = once(CHECK, Twist.HOLD)
    world.later(lambda: release(world), 9.0)
    assert "asked" in world.run(lambda call: call.check(at=None, timeout=None))


# ---- the ring


def test_requests_go_to_the_first_serving_node_once_the_ring_is_known() -> None:
    world = World(5)
    for node in world.nodes.values():
        node.serving = lambda p: [(p + i) % 5 for i in range(3)]
    world.get()
    world.settle()
    keys = [b"key %d" % i for i in range(40)]
    for key in keys:
        world.put(key)
    assert [len(n.requests(PUT)) for n in world.nodes.values()] == [
        sum(partition_of(key) % 5 == i for key in keys) for i in range(5)
    ]


def test_forwarded_answer_makes_the_client_read_the_ring_again() -> None:
    world = World()
    world.get()
    world.settle()
    before = sum(asked(world, RING))
    for node in world.nodes.values():
        node.serving = lambda _: [2, 1, 0]
    world[0].forwarded = True
    world.settle(1.0)
    world.get()
    world.get()
    world.settle()
    assert sum(asked(world, RING)) == before + 1
    world.get()
    assert asked(world, GET)[2] == 1


def test_ring_is_read_again_when_it_is_old() -> None:
    world = World()
    world.get()
    world.settle(RING_AGE_MAX_S - 1)
    world.get()
    world.settle()
    assert sum(asked(world, RING)) == 1
    world.settle(1.0)
    world.get()
    world.settle()
    assert sum(asked(world, RING)) == 2


def test_nodes_that_were_never_named_are_found_through_the_ring() -> None:
    world = World(3, seeds=1)
    world.get()
    world.settle()
    world.kill(0)
    assert world.get().receipt.replicas == 3


def test_nodes_that_join_and_leave_are_found_and_forgotten() -> None:
    """The cluster changes entirely under the client; no request fails."""
    world = World(6, seeds=1)
    old, new = world.addresses[:3], world.addresses[3:]
    for node in world.nodes.values():
        node.peers = old
    world.put()
    world.settle()
    for moved in range(3):  # one joins and one leaves, three times
        for node in world.nodes.values():
            node.peers = [*old[moved + 1 :], *new[: moved + 1]]
        world.kill(moved)
        assert world.get().value == b"v"
        world.settle(1.0)
        assert world.get().value == b"v"
        world.settle(1.0)
    assert world.core.ring is not None
    assert set(world.core.ring.addresses) == set(new)
    assert set(world.core._health) <= {*new, *world.core.seeds}
    opened = len(world.opened)
    for _ in range(10):
        world.settle(5.0)
        world.get()
    assert set(world.opened[opened:]) <= {*new, *world.core.seeds}


def test_bad_ring_is_ignored_and_any_node_serves() -> None:
    world = World()
    for node in world.nodes.values():
        node.peers = ["10.0.0.1:7411"]
        node.serving = lambda _: [4]
    world.get()
    world.settle()
    assert world.core.ring is None
    assert not world.get().found


# ---- nodes that do not answer


def test_refused_connection_lets_another_node_be_asked_and_the_first_be_avoided() -> None:
    world = World()
    world.doors[world.addresses[0]] = Door.REFUSES
    world.put()
    world.put()
    assert asked(world, PUT) == [0, 2, 0]
    assert world.opened.count(world.addresses[0]) == 1


def test_node_that_comes_back_is_asked_again() -> None:
    world = World()
    world.put()
    world.settle()
    world.kill(0)
    world.put()
    assert asked(world, PUT) == [1, 1, 0]
    world.doors[world.addresses[0]] = Door.OPEN
    world.settle(2.0)
    world.put()  # knocks at the door in the background
    world.settle()
    world.put()
    assert asked(world, PUT) == [2, 2, 0]


def test_cluster_that_refuses_every_connection_raises_long_before_the_timeout() -> None:
    world = World()
    for address in world.addresses:
        world.doors[address] = Door.REFUSES
    start = world.now
    with pytest.raises(NotReachedError):
        world.put()
    assert world.now - start < 1.0


def test_machine_that_is_gone_costs_one_patience_and_is_then_avoided() -> None:
    world = World()
    world.doors[world.addresses[0]] = Door.HANGS
    start = world.now
    world.put()
    assert world.now - start < 1.4
    start = world.now
    world.put()
    assert world.now - start < 0.1
    assert asked(world, PUT) == [0, 2, 0]


def test_frozen_process_is_given_up_after_an_unanswered_ping() -> None:
    world = World()
    world.put()
    world.settle()
    world.doors[world.addresses[0]] = Door.FROZEN
    start = world.now
    assert world.get().value == b"v"
    assert 1.2 < world.now - start < 2.8
    for _ in range(5):
        start = world.now
        assert world.get().value == b"v"
        assert world.now - start < 0.1
        world.settle(2.0)
    world.doors[world.addresses[0]] = Door.OPEN
    for _ in range(3):  # the stuck connection is made anew, waits for its turn, and is used again
        world.settle(12.0)
        world.get()
    assert world[0].requests(GET)


def test_put_to_a_frozen_process_is_repeated_with_its_write_id() -> None:
    world = World()
    world.get()
    world.settle()
    world.doors[world.addresses[0]] = Door.FROZEN
    assert world.put().live == 1
    assert asked(world, PUT) == [0, 1, 0]


def test_slow_node_that_answers_pings_is_waited_for() -> None:
    world = World()
    world[0].rule = once(GET, Twist.HOLD)
    world.later(lambda: release(world), 4.0)
    start = world.now
    assert not world.get().found
    assert 4.0 <= world.now - start < 4.1
    assert asked(world, GET) == [1, 0, 0]
    assert asked(world, PING)[0] >= 1


def release(world: World) -> None:
    for link, talk in world._talks.items():
        held = talk.release()
        if held:
            world.core.received(link, held)


def test_answer_that_never_comes_is_a_timeout_for_a_read_and_uncertain_for_a_write() -> None:
    world = World(1)
    world[0].rule = lambda item: Twist.MUTE if item[0] in (GET, PUT) else None
    for verb, error in ((world.get, RequestTimeoutError), (world.put, WriteUncertainError)):
        start = world.now
        with pytest.raises(error):
            verb()
        assert world.now - start == pytest.approx(5.0)


# ---- errors


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("bad-request", BadRequestError),
        ("bad-context", BadContextError),
        ("too-large", TooLargeError),
        ("too-many-versions", RefusedError),
    ],
)
def test_final_error_is_raised_at_once(code: str, error: type[Exception]) -> None:
    world = World()
    world[0].rule = always(PUT, Fail(code))
    with pytest.raises(error) as caught:
        world.put()
    assert caught.value.code == code
    assert sum(asked(world, PUT)) == 1


@pytest.mark.parametrize("code", ["overloaded", "stopping", "not-replica", "no-seat", "unavailable", "corrupt"])
def test_refusal_of_one_node_lets_another_be_asked(code: str) -> None:
    world = World()
    world[0].rule = always(PUT, Fail(code))
    assert world.put().live == 1
    assert asked(world, PUT) == [1, 1, 0]


def test_unavailable_is_raised_soon_after_every_other_node_was_asked_a_few_times() -> None:
    world = World()
    for node in world.nodes.values():
        node.rule = always(GET, Fail("unavailable", {"needed": 2, "reachable": 1}))
    world.doors[world.addresses[2]] = Door.REFUSES
    start = world.now
    with pytest.raises(UnavailableError) as caught:
        world.get()
    assert caught.value.details == {"needed": 2, "reachable": 1}
    assert world.now - start < 0.6
    assert asked(world, GET) == [4, 4, 0]


def test_unavailable_that_passes_while_a_seat_changes_hands_is_survived() -> None:
    world = World()
    refusals = [Fail("unavailable")] * 5
    for node in world.nodes.values():
        node.rule = lambda item: refusals.pop() if refusals and item[0] == PUT else None
    start = world.now
    assert world.put().live == 1
    assert world.now - start < 0.3


def test_overload_is_retried_with_pauses_until_the_time_is_over() -> None:
    world = World(timeout_s=3.0)
    for node in world.nodes.values():
        node.rule = always(PUT, Fail("overloaded", {"retry_after_ms": 100}))
    start = world.now
    with pytest.raises(OverloadedError):
        world.put()
    assert 2.0 < world.now - start <= 3.0
    assert 3 < sum(asked(world, PUT)) < 60


def test_overload_that_passes_is_survived() -> None:
    world = World()
    refusals = [Fail("overloaded")] * 7
    for node in world.nodes.values():
        node.rule = lambda item: refusals.pop() if refusals and item[0] == PUT else None
    assert world.put().live == 1


def test_node_of_another_cluster_is_refused_and_not_written_to() -> None:
    world = World(2, seeds=2)
    world.put()
    world.settle()
    world[1].cluster = b"D" * 16
    world.kill(0)
    with pytest.raises(RefusedError) as caught:
        world.put()
    assert caught.value.code == "wrong-cluster"
    assert asked(world, PUT)[1] == 0
    assert world.core.cluster == CLUSTER


def test_refused_hello_is_raised_with_its_code() -> None:
    world = World(1)
    world[0].hello_error = ("version-mismatch", "this node speaks version 2")
    with pytest.raises(RefusedError, match="speaks version 2") as caught:
        world.get()
    assert caught.value.code == "version-mismatch"


# ---- the end


def test_closed_client_raises_and_asks_nobody() -> None:
    world = World()
    world.put()
    world.core.close()
    with pytest.raises(NotReachedError, match="closed"):
        world.get()
    assert sum(asked(world, GET)) == 0
