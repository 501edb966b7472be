"""leave, remove, weight, plan and check: what they ask, print and wait for, and with which status they end."""

from typing import Any

import pytest

from tests.cli.conftest import CLEAN, MEMBER, PLAN_RESULT, STATUS_RESULT, Command, StatusNode
from tests.client.fake import CHECK, LEAVE, PLAN, REMOVE, STATUS, WEIGHT, Fail, always


def status(**changes: object) -> dict[str, Any]:
    return {**STATUS_RESULT, "members": [{**MEMBER, **changes}]}


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (("leave", "n1"), [LEAVE, "n1"]),
        (("remove", "n1"), [REMOVE, "n1", False]),
        (("remove", "n1", "--accept-loss"), [REMOVE, "n1", True]),
        (("weight", "n1", "3"), [WEIGHT, "n1", 3]),
    ],
)
def test_change_asks_once_and_says_that_it_is_accepted(
    node: StatusNode, run: Command, words: tuple[str, ...], fields: list[Any]
) -> None:
    done = run(*words)
    assert (done.status, done.out, done.err) == (0, f"{words[0]} n1: accepted\n".encode(), "")
    assert [[item[0], *item[2:]] for item in node.requests(fields[0])] == [fields]
    assert node.requests(STATUS) == []
    shown = run(*words, "--json").object
    assert (shown["change"], shown["name"], shown["done"]) == (words[0], "n1", False)


@pytest.mark.parametrize(("op", "words"), [(LEAVE, "leave n1"), (REMOVE, "remove n1"), (WEIGHT, "weight n1 2")])
def test_refused_change_is_one_line_with_the_reason_and_status_4(
    node: StatusNode, run: Command, op: int, words: str
) -> None:
    node.rule = always(op, Fail("too-few-hosts", {"hosts": 3, "needed": 3}))
    done = run(*words.split(), "--wait")
    assert (done.status, done.out) == (4, b"")
    assert done.err == "dynafast: too-few-hosts: pretended too-few-hosts\n"
    assert len(node.requests(op)) == 1, "what one node refuses another would refuse too"


def test_leave_wait_ends_when_the_member_has_left(node: StatusNode, run: Command) -> None:
    node.statuses = [status(), status(status="leaving"), status(status="left")]
    assert run("leave", "n1", "--wait").out == b"leave n1: done\n"
    assert len(node.requests(STATUS)) == 3


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("00010203cafe0607", "00010203cafe0607"),
        ("00010203c", "00010203cafe0607"),
        ("0001020", "0001020"),  # could be either
        ("000", "000"),  # too short to be meant as an id
        ("0001-x", "0001-x"),
        ("beef", "beef"),  # somebody's name, and the beginning of another's id
    ],
)
def test_a_change_takes_the_id_that_status_shows(node: StatusNode, run: Command, given: str, asked: str) -> None:
    named = {**MEMBER, "name": "beef", "id": "1111111111111111"}
    like = {**MEMBER, "name": "n4", "id": "beef111111111111"}
    node.statuses = [{**STATUS_RESULT, "members": [*STATUS_RESULT["members"], named, like]}]
    assert run("leave", given).status == 0
    assert node.requests(LEAVE)[0][2] == asked


@pytest.mark.parametrize(
    ("words", "last"), [("leave", {"status": "left"}), ("remove", {"status": "removed"}), ("weight 4", {"weight": 4})]
)
def test_wait_knows_a_node_by_its_id_too(node: StatusNode, run: Command, words: str, last: dict[str, Any]) -> None:
    node.statuses = [status(), status(), status(**last)]
    change, *rest = words.split()
    done = run(change, MEMBER["id"][:6], *rest, "--wait")
    assert done.out.decode() == f"{change} {MEMBER['id']}: done\n"
    assert len(node.requests(STATUS)) == 3


def test_remove_wait_ends_when_others_have_what_it_served(node: StatusNode, run: Command) -> None:
    node.statuses = [status(), status(status="removed")]
    node.checks = [{**CLEAN, "divergent": [3]}, {**CLEAN, "unreachable": ["n2"]}, {**CLEAN, "hints": 5}]
    node.lost = [7, 9]
    done = run("remove", "n1", "--accept-loss", "--wait")
    assert done.out.decode().splitlines() == ["remove n1: done", "lost partitions: 7 9"]
    assert len(node.requests(CHECK)) == 3


def test_weight_wait_ends_when_the_weight_is_seen_and_everyone_has_its_share(node: StatusNode, run: Command) -> None:
    node.statuses = [status(), status(weight=4)]
    node.checks = [{**CLEAN, "divergent": [3]}, CLEAN]
    assert run("weight", "n1", "4", "--wait", "--json").object["done"] is True
    assert len(node.requests(CHECK)) == 2


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("plan join", {"change": "join", "weight": 1}),
        ("plan join --weight 3", {"change": "join", "weight": 3}),
        ("plan leave n1", {"change": "leave", "name": "n1"}),
        ("plan remove n1", {"change": "remove", "name": "n1"}),
        ("plan weight n1 2", {"change": "weight", "name": "n1", "weight": 2}),
    ],
)
def test_plan_asks_what_a_change_would_move_and_shows_it(
    node: StatusNode, run: Command, words: str, change: dict[str, Any]
) -> None:
    assert run(*words.split(), "--json").object == PLAN_RESULT
    assert [item[2] for item in node.requests(PLAN)] == [change]
    assert run(*words.split()).out.decode().splitlines() == [
        "from  to     partitions  bytes",
        "n1    (new)           7    700",
        "7 partitions would move, about 700 bytes",
        "warning: one zone is small",
    ]


@pytest.mark.parametrize("words", ["plan", "plan grow", "plan weight n1", "plan leave", "weight n1 0", "leave"])
def test_bad_words_are_a_usage_error(run: Command, words: str) -> None:
    done = run(*words.split())
    assert (done.status, done.out, done.err.count("\n")) == (2, b"", 1)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (CLEAN, 0),
        ({**CLEAN, "hints": 1}, 1),
        ({**CLEAN, "divergent": list(range(30))}, 1),
        ({**CLEAN, "unreachable": ["n2"]}, 1),
    ],
)
def test_check_ends_with_0_only_if_all_is_well(
    node: StatusNode, run: Command, found: dict[str, Any], expected: int
) -> None:
    node.checks = [found]
    shown = run("check", "--json")
    assert (shown.status, shown.object) == (expected, found)
    text = run("check")
    assert text.status == expected
    assert ("and 10 more" in text.out.decode()) == (len(found["divergent"]) == 30)


def test_check_that_is_answered_with_an_error_ends_as_every_request_does(node: StatusNode, run: Command) -> None:
    node.rule = always(CHECK, Fail("unavailable"))
    done = run("check", "--json")
    assert done.status == 4
    assert done.object["error"]["code"] == "unavailable"


def test_status_shows_hints_transfers_and_what_differs(node: StatusNode, run: Command) -> None:
    node.statuses = [
        {
            **STATUS_RESULT,
            "hints": [{"target": "n2", "count": 3, "bytes": 300, "reason": "not reachable"}],
            "transfers": [{"partition": 5, "from": "n2", "progress": 40, "waiting": None}],
            "differ": [1, 5],
            "tombstones": {"waiting": 2, "reason": "n2 cannot be reached"},
        }
    ]
    assert run("status").out.decode().splitlines()[4:] == [
        "",
        "hints: target  count  bytes  reason",
        "n2                 3    300  not reachable",
        "",
        "transfers: partition  from  progress  waiting",
        "                   5  n2          40  -",
        "",
        "partitions whose replicas differ: 1 5",
        "",
        "deleted keys and long contexts to be dropped: 2 (n2 cannot be reached)",
    ]


@pytest.mark.parametrize(("words", "expected"), [(("get", "k"), 6), (("put", "k", "v"), 6), (("check",), 6)])
def test_json_is_an_object_also_when_nobody_is_reached(run: Command, words: tuple[str, ...], expected: int) -> None:
    done = run(*words, "--json", "--at", "127.0.0.1:1", "--timeout", "1")
    assert done.status == expected
    assert done.object["error"]["code"] == "not-reached"
    assert done.err.startswith("dynafast: ")


def test_json_of_a_refused_request_has_its_code_and_numbers(node: StatusNode, run: Command) -> None:
    node.rule = lambda _: Fail("unavailable", {"needed": 2, "reachable": 1})
    done = run("get", "k", "--json")
    assert done.status == 4
    assert done.object == {
        "error": {
            "code": "unavailable",
            "message": "pretended unavailable",
            "details": {"needed": 2, "reachable": 1},
        }
    }
