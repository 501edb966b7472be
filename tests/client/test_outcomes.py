"""Writes whose outcome is unknown: when they are sent again, when found done, when only the caller can decide."""

from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest

from dynafast import DynafastError, WriteUncertainError, lww
from tests.client.fake import GET, PING, PUT, Fail, Twist, always, once
from tests.client.test_calls import asked
from tests.client.world import Door, World


def test_lost_put_that_was_done_is_found_by_its_write_id() -> None:
    world = World()
    world[0].rule = once(PUT, Twist.DO_AND_CLOSE)
    written = world.put()
    assert asked(world, PUT) == [1, 0, 0]
    assert (written.live, written.context) == (1, world.get().context)


def test_lost_put_beside_another_version_returns_no_context() -> None:
    world = World()
    world.put(value=b"other")
    world[0].rule = once(PUT, Twist.DO_AND_CLOSE)
    written = world.put()
    assert (written.live, written.context) == (2, None)


def test_lost_put_that_was_not_done_is_sent_again_with_the_same_write_id() -> None:
    world = World()
    world[0].rule = once(PUT, Twist.CLOSE)
    assert world.put().live == 1
    assert world[0].requests(PUT)[0][5] == world[1].requests(PUT)[0][5]


def test_lost_put_with_context_is_sent_again_when_nothing_newer_is_there() -> None:
    world = World()
    context = world.put(value=b"old").context
    world[0].rule = once(PUT, Twist.CLOSE)
    assert world.put(value=b"new", context=context).live == 1
    assert world.get().value == b"new"


@pytest.mark.parametrize("twist", [Twist.CLOSE, Twist.DO_AND_CLOSE])
def test_lost_put_is_uncertain_when_somebody_wrote_meanwhile(twist: Twist) -> None:
    """Whether the other one read ours and replaced it, or it never was there, nobody can tell."""
    world = World()
    context = world.put(value=b"old").context
    world[0].rule = once(PUT, twist)

    def meddle(item: list) -> None:
        if item[0] == GET and world.store.live(b"k")[0][4] != b"other":
            world.store.put(b"k", b"other", world.store.seal(b"k"), bytes(16), overwrite=False)

    world[1].rule = meddle
    with pytest.raises(WriteUncertainError):
        world.put(value=b"new", context=context)
    assert sum(asked(world, PUT)) == 2
    assert world.get().values == [b"other"]


def test_lost_blind_put_is_uncertain_when_the_key_was_deleted_meanwhile() -> None:
    """The trace of a blind repeat: stored, read and deleted by another client, repeated, back again."""
    world = World()
    world[0].rule = once(PUT, Twist.DO_AND_CLOSE)

    def meddle(item: list) -> None:
        if item[0] == GET:
            world.store.put(b"k", None, world.store.seal(b"k"), bytes(16), overwrite=False)

    world[1].rule = meddle
    with pytest.raises(WriteUncertainError):
        world.put()
    assert not world.get().found


def test_lost_overwrite_is_sent_again_whatever_is_there() -> None:
    world = World()
    world.put(value=b"other")
    world[0].rule = once(PUT, Twist.CLOSE)
    world.put(value=b"mine", overwrite=True)
    assert world.get().value == b"mine"


def test_lost_delete_is_repeated_without_a_read() -> None:
    world = World()
    context = world.put().context
    world[0].rule = once(PUT, Twist.CLOSE)
    assert world.delete(context=context).live == 0
    assert sum(asked(world, GET)) == 0


def test_lost_update_runs_the_function_again_on_what_is_there_then() -> None:
    world = World()
    context = world.put(value=b"1").context
    world[0].rule = once(PUT, Twist.CLOSE)
    meddled: list[int] = []

    def meddle(item: list) -> None:
        if item[0] == GET and not meddled:
            meddled.append(1)
            world.store.put(b"k", b"2", context, bytes(16), overwrite=False)

    world[1].rule = meddle
    seen: list[bytes | None] = []

    def function(old: bytes | None) -> bytes:
        seen.append(old)
        return (old or b"") + b"!"

    world.update(function)
    assert seen == [b"1", b"2"]
    assert world.get().value == b"2!"


@pytest.mark.parametrize("code", ["timeout", "uncertain"])
def test_uncertain_answer_of_a_put_that_was_done_is_settled_by_a_read(code: str) -> None:
    world = World()
    world[0].rule = once(PUT, Fail(code, {"needed": 2, "answered": 1}, done=True))
    assert world.put().live == 1
    assert sum(asked(world, PUT)) == 1


def test_uncertain_answer_keeps_its_numbers_when_no_read_can_settle_it() -> None:
    world = World(1)
    numbers = {"needed": 2, "answered": 1}
    world[0].rule = lambda item: Fail("uncertain" if item[0] == PUT else "unavailable", numbers)
    with pytest.raises(WriteUncertainError) as caught:
        world.put()
    assert caught.value.details == numbers


def test_refusal_after_an_unknown_outcome_stays_uncertain() -> None:
    world = World()
    closes = once(PUT, Twist.CLOSE)
    world[0].rule = lambda item: closes(item) or (Fail("unavailable") if item[0] == PUT else None)
    for index in (1, 2):
        world[index].rule = always(PUT, Fail("unavailable"))
    with pytest.raises(WriteUncertainError):
        world.put()


def play(seed: int) -> None:
    """One seed of `test_write_outcomes_are_told_truthfully_among_failing_nodes`."""
    dice = Random(f"client/outcomes/{seed}")
    world = World(dice.randint(1, 4), timeout_s=dice.choice([0.2, 1.0, 5.0]))
    twists = [None, *Twist, Fail("overloaded"), Fail("stopping"), Fail("unavailable"), Fail("no-seat")]
    twists += [Fail("uncertain", done=True), Fail("timeout"), Fail("bad-request")]
    calm = dice.random()

    def rule(item: list) -> Twist | Fail | None:
        return None if item[0] == PING or dice.random() < calm else dice.choice(twists)

    for address in world.addresses:
        world.nodes[address].rule = rule
    for round_ in range(6):
        for address in world.addresses:
            world.doors[address] = Door.OPEN if dice.random() < calm else dice.choice(list(Door))
        written = len(world.store.written)
        value = b"%d" % round_
        start = world.now
        try:
            result = world.put(value=value, overwrite=dice.random() < 0.3)
        except WriteUncertainError:
            pass
        except DynafastError:
            assert world.store.written[written:] == []  # surely nothing was done
        else:
            assert len(world.store.written) > written
            assert [v[4] for v in world.store.live(b"k")].count(value) == 1
            assert result.live >= 1
        assert world.now - start <= world.core.timeout_s + 0.001
        world.settle(dice.choice([0.0, 0.5, 15.0]))


@pytest.mark.parametrize("block", range(4))
def test_write_outcomes_are_told_truthfully_among_failing_nodes(block: int) -> None:
    """Within the timeout: a put that is acknowledged was done, one that is refused was not."""
    for seed in range(block * 250, block * 250 + 250):
        try:
            play(seed)
        except BaseException as error:
            error.add_note(f"replay: tests.client.test_outcomes.play({seed})")
            raise


def play_any(seed: int) -> None:
    """One seed of `test_every_verb_ends_within_the_timeout_among_failing_nodes`."""
    dice = Random(f"client/any verb/{seed}")
    world = World(dice.randint(1, 4), timeout_s=dice.choice([0.2, 1.0, 5.0]))
    twists = [None, *Twist, *(Fail(code) for code in ("stopping", "unavailable", "not-replica", "corrupt", "timeout"))]
    twists += [Fail("uncertain", done=True), Fail("overloaded", {"retry_after_ms": dice.choice([1, 5000, 60_000])})]
    calm = dice.random()
    verbs: list[Callable[[], object]] = [
        world.get,
        world.put,
        world.delete,
        lambda: world.update(lambda old: (old or b"") + b"!", resolver=lww),
        lambda: world.run(lambda call: call.status(at=dice.choice([None, *world.addresses]), config=False)),
        lambda: world.run(lambda call: call.ring(b"k", at=dice.choice([None, *world.addresses]))),
    ]

    def rule(item: list) -> Twist | Fail | None:
        return None if item[0] == PING or dice.random() < calm else dice.choice(twists)

    for address in world.addresses:
        world.nodes[address].rule = rule
    for _ in range(6):
        for address in world.addresses:
            world.doors[address] = Door.OPEN if dice.random() < calm else dice.choice(list(Door))
        start = world.now
        with suppress(DynafastError):
            dice.choice(verbs)()
        assert world.now - start <= world.core.timeout_s + 0.001
        world.settle(dice.choice([0.0, 0.5, 15.0]))


def test_every_verb_ends_within_the_timeout_among_failing_nodes() -> None:
    """Retries, pauses that a node asks for and the reads that settle an outcome included."""
    for seed in range(500):
        try:
            play_any(seed)
        except BaseException as error:
            error.add_note(f"replay: tests.client.test_outcomes.play_any({seed})")
            raise
