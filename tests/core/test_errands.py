"""Conversations: in order, paced, bounded, and each with one end."""

from types import SimpleNamespace
from typing import Any, cast

from dynafast.core.errands import Ask, Errand, Errands
from dynafast.errors import BadRequestError, DynafastError, NotReachedError
from dynafast.protocol import Op


class World:
    """A node whose peers answer when the test says so."""

    def __init__(self) -> None:
        self.budget = 10**9
        self.flying = 0
        self.asked: list[tuple[list[Any], Any]] = []
        self.node = cast("Any", SimpleNamespace(admission=self, call=self.call))

    def start(self, size: int) -> bool:
        if self.budget <= 0:
            return False
        self.spend(size)
        self.flying += size
        return True

    def end(self, size: int) -> None:
        self.flying -= size

    def spend(self, size: int) -> None:
        self.budget -= size

    def call(self, _peer: object, _op: Op, fields: list[Any], _timeout_ms: int, done: Any) -> None:
        self.asked.append((fields, done))

    def answer(self, result: object = None, error: DynafastError | None = None) -> None:
        _, done = self.asked.pop(0)
        done(result, error)


def ask(*fields: Any, size: int = 1) -> Ask:
    return Ask(cast("Any", None), Op.ROOTS, list(fields), size)


def test_questions_go_out_one_after_the_other_and_the_end_is_told_once() -> None:
    world, heard, ended = World(), [], []

    def errand() -> Errand:
        for number in range(3):
            heard.append((yield ask(number)))

    Errands(world.node, 1).start(errand(), ended.append)
    for number in range(3):
        assert [fields for fields, _ in world.asked] == [[number]]
        assert ended == []
        world.answer(10 * number)
    assert heard == [0, 10, 20]
    assert ended == [None]


def test_an_error_is_thrown_into_the_conversation_which_may_go_on() -> None:
    world, ended = World(), []

    def errand() -> Errand:
        try:
            yield ask(1)
        except NotReachedError:
            yield ask(2)

    Errands(world.node, 1).start(errand(), ended.append)
    world.answer(error=NotReachedError("away"))
    assert [fields for fields, _ in world.asked] == [[2]]
    refusal = BadRequestError("no")
    world.answer(error=refusal)
    assert ended == [refusal]


def test_without_room_questions_wait_for_a_tick_in_their_order() -> None:
    world, ended = World(), []
    errands = Errands(world.node, 5)

    def errand(number: int) -> Errand:
        yield ask(number, size=100)

    world.budget = 0
    for number in range(3):
        errands.start(errand(number), ended.append)
    errands.tick()
    assert world.asked == []
    assert errands.paced
    world.budget = 150
    errands.tick()
    assert [fields for fields, _ in world.asked] == [[0], [1]]
    world.budget = 1
    errands.tick()
    assert [fields for fields, _ in world.asked] == [[0], [1], [2]]
    for _ in range(3):
        world.answer()
    assert ended == [None, None, None]
    assert world.flying == 0


def test_urgent_questions_go_at_once_and_are_charged() -> None:
    world = World()
    world.budget = 0

    def errand() -> Errand:
        yield ask(1, size=100)

    Errands(world.node, 1, urgent=True).start(errand(), lambda _error: None)
    assert [fields for fields, _ in world.asked] == [[1]]
    assert world.budget == -100


def test_full_counts_those_under_way() -> None:
    world = World()
    errands = Errands(world.node, 2)

    def errand() -> Errand:
        yield ask()

    assert not errands.full
    errands.start(errand(), lambda _error: None)
    errands.start(errand(), lambda _error: None)
    assert errands.full
    world.answer()
    assert not errands.full
