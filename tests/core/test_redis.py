"""Redis commands on nodes in memory: what they mean in a quorum store, their order, how they fail."""

from typing import Any

import pytest

from dynafast.protocol import Op
from tests.core.harness import MS, Cluster, Member, Pipe
from tests.core.redis import RedisPipe
from tests.oracle import resp

MIB = 1024 * 1024
W = [bytes([letter]) * 16 for letter in b"abcdef"]


def holds(member: Member, key: bytes) -> bool:
    ring = Pipe(member)
    ring.hello()
    return member.name in ring.ask(Op.RING, key)[2]["preference"][:3]


def outsider(cluster: Cluster, key: bytes = b"k") -> Member:
    """The member of four that holds no replica of *key*, and so passes requests for it on."""
    return next(member for member in cluster.members if not holds(member, key))


def insider(cluster: Cluster, key: bytes = b"k") -> Member:
    return next(member for member in cluster.members if holds(member, key))


@pytest.fixture(params=["one", "holder", "other"])
def pipe(request: pytest.FixtureRequest) -> RedisPipe:
    """A client of a lone node, of one that coordinates the requests for b"k" itself, and of one that passes them on."""
    if request.param == "one":
        return RedisPipe(Cluster(1, replicas=1, r=1, w=1).members[0])
    cluster = Cluster(4)
    return RedisPipe((insider if request.param == "holder" else outsider)(cluster))


STORY: list[tuple[tuple[bytes, ...], Any]] = [
    ((b"GET", b"k"), None),
    ((b"SET", b"k", b"one"), "OK"),
    ((b"GET", b"k"), b"one"),
    ((b"get", b"k"), b"one"),
    ((b"SeT", b"k", b""), "OK"),
    ((b"GET", b"k"), b""),
    ((b"STRLEN", b"k"), 0),
    ((b"EXISTS", b"k"), 1),
    ((b"SET", b"k", b"\x00\r\n\xff"), "OK"),
    ((b"GET", b"k"), b"\x00\r\n\xff"),
    ((b"STRLEN", b"k"), 4),
    ((b"STRLEN", b"none"), 0),
    ((b"MSET", b"k", b"1", b"l", b"2", b"k", b"3"), "OK"),
    ((b"MGET", b"k", b"none", b"l", b"k"), [b"3", None, b"2", b"3"]),
    ((b"EXISTS", b"k", b"k", b"none", b"l"), 3),
    ((b"DEL", b"k", b"none", b"k"), 1),
    ((b"DEL", b"k"), 0),
    ((b"GET", b"k"), None),
    ((b"EXISTS", b"k"), 0),
    ((b"MGET", b"k"), [None]),
    ((b"SET", b"k", b"again"), "OK"),
    ((b"GET", b"k"), b"again"),
    ((b"DEL", b"k", b"l"), 2),
    ((b"PING",), "PONG"),
    ((b"PING", b"x"), b"x"),
    ((b"ECHO", b""), b""),
    ((b"SELECT", b"0"), "OK"),
]


def test_a_story_of_keys_command_by_command(pipe: RedisPipe) -> None:
    assert [pipe.ask(*words) for words, _ in STORY] == [expected for _, expected in STORY]


def test_the_same_story_in_one_piece_has_the_same_answers(pipe: RedisPipe) -> None:
    """Pipelined commands on one key take effect in their order, wherever they are coordinated."""
    pipe.send_raw(b"".join(resp.command(*words) for words, _ in STORY))
    assert pipe.wait(len(STORY)) == [expected for _, expected in STORY]


REFUSED: list[tuple[tuple[bytes, ...], str]] = [
    ((b"SET", b"k", b"v", b"NX"), "ERR SET takes no options here, got 'NX'"),
    ((b"SET", b"k", b"v", b"EX", b"10"), "ERR SET takes no options here, got 'EX'"),
    ((b"SET", b"k"), "ERR wrong number of arguments for 'set' command"),
    ((b"GET",), "ERR wrong number of arguments for 'get' command"),
    ((b"GET", b"k", b"l"), "ERR wrong number of arguments for 'get' command"),
    ((b"MSET", b"k"), "ERR wrong number of arguments for 'mset' command"),
    ((b"MSET", b"k", b"v", b"l"), "ERR wrong number of arguments for 'mset' command"),
    ((b"MGET",), "ERR wrong number of arguments for 'mget' command"),
    ((b"DEL",), "ERR wrong number of arguments for 'del' command"),
    ((b"EXISTS",), "ERR wrong number of arguments for 'exists' command"),
    ((b"STRLEN",), "ERR wrong number of arguments for 'strlen' command"),
    ((b"ECHO",), "ERR wrong number of arguments for 'echo' command"),
    ((b"PING", b"a", b"b"), "ERR wrong number of arguments for 'ping' command"),
    ((b"DBSIZE", b"a"), "ERR wrong number of arguments for 'dbsize' command"),
    ((b"INCR", b"k"), "ERR unknown command 'INCR', see docs/resp.md for those that are supported"),
    ((b"EXEC",), "ERR EXEC without MULTI"),
    ((b"DISCARD",), "ERR DISCARD without MULTI"),
    ((b"GET", b""), "ERR the key must not be empty"),
    ((b"SET", b"", b"v"), "ERR the key must not be empty"),
    ((b"SET", b"k" * 4097, b"v"), "ERR the key must have at most 4096 bytes"),
    ((b"MSET", b"k", b"v", b"k" * 4097, b"v"), "ERR the key must have at most 4096 bytes"),
    ((b"SELECT", b"1"), "ERR DB index is out of range: there is database 0 alone"),
    ((b"CONFIG", b"SET", b"save", b""), "ERR CONFIG SET is not supported: CONFIG GET PATTERN... is"),
    ((b"HELLO", b"4"), "NOPROTO unsupported protocol version: 2 and 3 are supported"),
    ((b"HELLO", b"3", b"AUTH", b"u", b"p"), "ERR HELLO with AUTH: this node has no users and no passwords"),
    ((b"HELLO", b"3", b"WHAT"), "ERR HELLO does not know the option 'WHAT'"),
    ((b"COMMAND", b"GETKEYS"), "ERR COMMAND GETKEYS is not supported: COUNT, DOCS, INFO and LIST are"),
    ((b"CLIENT", b"SETNAME", b"a b"), "ERR a name must have at most 256 characters, and no spaces or newlines"),
]


def test_what_is_not_supported_is_refused_and_nothing_is_done(pipe: RedisPipe) -> None:
    for words, error in REFUSED:
        answer = pipe.ask(*words)
        assert isinstance(answer, resp.Error), words
        assert answer == error
    assert pipe.ask(b"MGET", b"k", b"l") == [None, None]
    assert pipe.ask(b"CLIENT", b"TRACKING", b"ON").startswith("ERR CLIENT TRACKING with 1 arguments is not supported")


def test_a_transaction_is_refused_as_a_whole(pipe: RedisPipe) -> None:
    """A client sends it in one go: what follows a MULTI must not be done by itself."""
    pipe.send_raw(b"SET k v\r\nMULTI\r\nSET k w\r\nMULTI\r\nDEL k\r\nEXEC\r\nGET k\r\nMULTI\r\nDISCARD\r\nGET k\r\n")
    refusal = "ERR transactions are not supported, nothing between MULTI and EXEC is done"
    aborted = "EXECABORT Transaction discarded because of previous errors."
    assert pipe.wait(10) == ["OK", "OK", refusal, refusal, refusal, aborted, b"v", "OK", "OK", b"v"]


def test_hello_chooses_how_answers_are_written() -> None:
    pipe = RedisPipe(Cluster(1).members[0])
    pipe.send_raw(resp.command(b"GET", b"k") + resp.command(b"HELLO", b"3", b"SETNAME", b"me") + b"GET k\r\nMGET k\r\n")
    before, hello, after, several = pipe.wait(4)
    assert (before, after, several) == (None, None, [None])
    assert hello[b"proto"] == 3
    assert hello[b"server"] == b"dynafast"
    assert pipe.ask(b"CLIENT", b"GETNAME") == b"me"
    pipe.send(b"GET", b"k")
    assert pipe.received == b"_\r\n"
    pipe.answers()
    flat = pipe.ask(b"HELLO", b"2")
    assert dict(zip(flat[::2], flat[1::2], strict=True))[b"proto"] == 2
    pipe.send(b"GET", b"k")
    assert pipe.received == b"$-1\r\n"


def test_hello_does_not_change_how_earlier_commands_are_answered() -> None:
    cluster = Cluster(3)
    pipe = RedisPipe(cluster.members[0])
    pipe.send_raw(b"GET k\r\nHELLO 3\r\nGET k\r\n")
    cluster.run_until(lambda: pipe.received.endswith(b"\r\n_\r\n"))
    assert pipe.received.startswith(b"$-1\r\n%")


def test_rare_commands_tell_of_the_node() -> None:
    pipe = RedisPipe(Cluster(2).members[0])
    assert pipe.ask(b"DBSIZE") == 0
    pipe.ask(b"MSET", b"a", b"1", b"b", b"2")
    assert pipe.ask(b"DBSIZE") == 2
    info = pipe.ask(b"INFO").decode()
    assert {"members:2", "members_alive:2", "node_name:n0", "redis_mode:standalone"} <= set(info.split("\r\n"))
    assert pipe.ask(b"INFO", b"keyspace").startswith(b"# Keyspace\r\ndb0:keys=2,")
    names = pipe.ask(b"COMMAND", b"LIST")
    assert pipe.ask(b"COMMAND", b"COUNT") == len(names) == len(pipe.ask(b"COMMAND")) == 17
    assert pipe.ask(b"COMMAND", b"INFO", b"get", b"incr") == [[b"get", 2, ["readonly", "fast"], 1, 1, 1], None]
    assert pipe.ask(b"COMMAND", b"DOCS", b"GET")[0] == b"get"
    assert pipe.ask(b"CONFIG", b"GET", b"save", b"append*") == [
        b"appendfsync", b"always", b"appendonly", b"yes", b"save", b"",
    ]  # fmt: skip
    assert pipe.ask(b"CLIENT", b"ID") > 0
    assert pipe.ask(b"CLIENT", b"SETINFO", b"LIB-NAME", b"x") == "OK"
    assert pipe.ask(b"CLIENT", b"INFO").startswith(b"id=")


def test_every_command_is_described_and_there() -> None:
    """What COMMAND lists is what is served: none of them is answered as unknown."""
    pipe = RedisPipe(Cluster(1).members[0])
    for name in pipe.ask(b"COMMAND", b"LIST"):
        if name != b"quit":
            assert "unknown" not in str(pipe.ask(name))


def test_quit_is_answered_last_and_closes() -> None:
    cluster = Cluster(3)
    pipe = RedisPipe(cluster.members[0])
    pipe.send_raw(resp.command(b"SET", b"k", b"v") + b"QUIT\r\nSET k w\r\n")
    assert not pipe.connection.lost
    assert pipe.wait(2) == ["OK", "OK"]
    assert pipe.connection.lost
    assert RedisPipe(cluster.members[0]).ask(b"GET", b"k") == b"v"


# ---- versions


@pytest.mark.parametrize("where", [insider, outsider])
def test_get_answers_the_newest_of_several_versions(where: Any) -> None:
    """As the resolver `lww` does; a SET then replaces all of them."""
    cluster = Cluster(4)
    pipe = RedisPipe(where(cluster))
    for key in (b"k", b"l", b"m", b"n", b"o"):  # actors are random: the newest is not the last of them everywhere
        for number, value in enumerate((b"first", b"second", b"third", b"last of all")):
            native = cluster.client(number)
            assert native.ask(Op.PUT, key, value, None, W[number], {"w": 3})[0] == Op.WRITTEN
        assert len(native.ask(Op.GET, key, {"r": 3})[2]) == 4
        assert pipe.ask(b"GET", key) == b"last of all"
        assert pipe.ask(b"MGET", key) == [b"last of all"]
        assert pipe.ask(b"STRLEN", key) == 11
        assert pipe.ask(b"SET", key, b"new") == "OK"
        assert [version[4] for version in native.ask(Op.GET, key, {"r": 3})[2]] == [b"new"]


@pytest.mark.parametrize("where", [insider, outsider])
def test_del_covers_every_version_and_counts_one(where: Any) -> None:
    cluster = Cluster(4)
    native = cluster.client(0)
    for write_id, value in zip(W, (b"first", b"second"), strict=False):
        native.ask(Op.PUT, b"k", value, None, write_id, {})
    pipe = RedisPipe(where(cluster))
    assert pipe.ask(b"DEL", b"k") == 1
    assert native.ask(Op.GET, b"k", {"r": 3})[2] == []


def test_a_write_is_answered_after_the_flush_in_group_and_at_once_in_interval() -> None:
    """What comes behind it waits for its turn."""
    data = b"SET k v\r\nGET k\r\nDEL k\r\nGET k\r\nPING\r\n"
    answers = ["OK", b"v", 1, None, "PONG"]
    quick = RedisPipe(Cluster(1, replicas=1, r=1, w=1, group=False).members[0])
    quick.send_raw(data)
    assert quick.answers() == answers
    cluster = Cluster(1, replicas=1, r=1, w=1, group=True)
    cluster.members[0].flushing = False
    pipe = RedisPipe(cluster.members[0])
    pipe.send_raw(data)
    for _ in range(100):
        cluster.step()
    assert pipe.answers() == []
    cluster.members[0].flushing = True
    assert pipe.wait(5) == answers


# ---- order and back-pressure


def test_answers_that_come_out_of_order_go_out_in_order() -> None:
    """Replicas answer at different times; each client sees its answers in the order of its commands."""
    cluster = Cluster(4)
    member = cluster.members[0]
    keys = [b"key %d" % number for number in range(40)]
    RedisPipe(member).ask(b"MSET", *[word for key in keys for word in (key, key)])
    for number, far in enumerate(cluster.members[1:]):
        cluster.delays[far.name, member.name] = (30 - 10 * number) * MS
    pipe = RedisPipe(member)
    pipe.send_raw(b"".join(resp.command(b"GET", key) + b"PING\r\n" for key in keys))
    assert pipe.wait(80) == [answer for key in keys for answer in (key, "PONG")]


def test_a_command_waits_for_one_on_its_key_that_was_passed_on() -> None:
    """Another coordinator might take the second first. Commands on other keys go on."""
    cluster = Cluster(4)
    pipe = RedisPipe(outsider(cluster))
    for member in cluster.members:
        if member is not pipe.member:
            cluster.hold(pipe.member, member)
    pipe.send(b"SET", b"k", b"v")
    pipe.send(b"SET", b"l", b"v")
    assert (pipe.connection.outstanding, pipe.connection.full) == (2, False)
    pipe.send(b"GET", b"k")
    assert (pipe.connection.outstanding, pipe.connection.full) == (2, True)
    for member in cluster.members:
        cluster.release(pipe.member, member)
    assert pipe.wait(3) == ["OK", "OK", b"v"]


def test_more_than_the_window_waits_and_nothing_is_refused() -> None:
    cluster = Cluster(3)
    cluster.members[0].flushing = False
    pipe = RedisPipe(cluster.members[0])
    pipe.send_raw(b"".join(resp.command(b"SET", b"k%d" % number, b"v") for number in range(2_000)))
    assert pipe.connection.full
    assert pipe.connection.outstanding == 512
    cluster.members[0].flushing = True
    assert pipe.wait(2_000) == ["OK"] * 2_000
    assert not pipe.connection.full


def test_a_command_on_more_keys_than_the_window_is_served() -> None:
    cluster = Cluster(4)
    keys = [b"k%d" % number for number in range(2_000)]
    pipe = RedisPipe(cluster.members[0])
    assert pipe.ask(b"MSET", *[word for key in keys for word in (key, key)]) == "OK"
    assert pipe.ask(b"MGET", *keys, b"none") == [*keys, None]
    assert pipe.ask(b"EXISTS", *keys, b"none") == 2_000
    assert pipe.ask(b"DEL", *keys, b"none") == 2_000
    assert pipe.ask(b"EXISTS", *keys) == 0


def test_output_that_is_not_taken_keeps_input_back() -> None:
    """Many answers of 1 MiB are asked for at once: no more than some are ready before they are taken."""
    cluster = Cluster(1, replicas=1, r=1, w=1)
    pipe = RedisPipe(cluster.members[0])
    assert pipe.ask(b"SET", b"k", b"v" * MIB) == "OK"
    cluster.enter(pipe.member)
    pipe.connection.feed(b"GET k\r\n" * 20)
    assert pipe.connection.full
    assert 4 * MIB <= pipe.connection.unsent <= 6 * MIB
    pipe.connection.feed(b"PING\r\n")
    assert pipe.connection.unsent <= 6 * MIB
    cluster.pump(pipe.member)
    assert pipe.wait(21) == [b"v" * MIB] * 20 + ["PONG"]


def test_values_that_are_being_written_keep_input_back() -> None:
    """As long as they are not flushed: some MiB of them, not as many as there are requests allowed."""
    cluster = Cluster(1, replicas=1, r=1, w=1)
    cluster.members[0].flushing = False
    pipe = RedisPipe(cluster.members[0])
    value = b"v" * (4 * MIB)
    for number in range(10):
        pipe.send(b"SET" if number % 2 else b"MSET", b"k%d" % number, value)
    assert pipe.connection.full
    assert pipe.connection.outstanding == 8
    cluster.members[0].flushing = True
    assert pipe.wait(10) == ["OK"] * 10
    assert not pipe.connection.full
    for command in (b"SET", b"MSET"):
        for _ in range(10):
            assert pipe.ask(command, b"k", value) == "OK", "what is answered is under way no more"


def test_a_large_value_comes_through_another_coordinator_in_parts() -> None:
    cluster = Cluster(4)
    pipe = RedisPipe(outsider(cluster))
    value = b"v" * (8 * MIB)
    native = cluster.client(0)
    for write_id in W[:3]:
        native.ask(Op.PUT, b"k", value, None, write_id, {})
    assert pipe.ask(b"GET", b"k") == value
    assert pipe.ask(b"STRLEN", b"k") == len(value)
    assert pipe.ask(b"DEL", b"k") == 1
    assert pipe.ask(b"SET", b"k", value) == "OK"
    assert pipe.ask(b"GET", b"k") == value


def test_an_answer_to_mget_beyond_the_limit_is_refused() -> None:
    pipe = RedisPipe(Cluster(1, replicas=1, r=1, w=1).members[0])
    assert pipe.ask(b"SET", b"k", b"v" * (7 * MIB)) == "OK"
    assert pipe.ask(b"MGET", *[b"k"] * 9)[8] == b"v" * (7 * MIB)
    assert pipe.ask(b"MGET", *[b"k"] * 10) == "ERR the values must have at most 67108864 bytes together"
    assert pipe.ask(b"STRLEN", b"k") == 7 * MIB


# ---- failures


def test_without_a_quorum_a_command_fails_with_its_numbers() -> None:
    cluster = Cluster(3)
    pipe = RedisPipe(cluster.members[0])
    pipe.ask(b"SET", b"k", b"v")
    for member in cluster.members[1:]:
        cluster.kill(member)
    for words in ((b"GET", b"k"), (b"STRLEN", b"k"), (b"EXISTS", b"k"), (b"MGET", b"k", b"l"), (b"SET", b"k", b"w")):
        assert pipe.ask(*words) == "UNAVAILABLE needed 2 replicas, reachable 1", words
    assert pipe.ask(b"MSET", b"k", b"w", b"l", b"w") == (
        "UNAVAILABLE needed 2 replicas, reachable 1 (done for 0 of 2 keys)"
    )
    assert pipe.ask(b"DEL", b"k", b"l") == "UNAVAILABLE needed 2 replicas, reachable 1 (done for 0 of 2 keys)"
    assert pipe.ask(b"PING") == "PONG"


def test_a_write_that_is_not_confirmed_says_that_its_outcome_is_unknown() -> None:
    """A read does not: it has no outcome. What comes behind is answered in its turn."""
    cluster = Cluster(3)
    near, *far = cluster.members
    for member in far:
        cluster.hold(near, member)
        cluster.hold(member, near)
    pipe = RedisPipe(near)
    pipe.send_raw(b"SET k v\r\nGET l\r\nDEL k\r\nPING\r\n")
    put, get, delete, pong = pipe.wait(4)
    assert put.startswith(("TIMEOUT write not confirmed", "UNCERTAIN write not confirmed"))
    assert put.endswith("; outcome unknown")
    for read in (get, delete):
        assert read.startswith(("TIMEOUT needed 2 replicas", "UNAVAILABLE needed 2 replicas"))
        assert "outcome" not in read
    assert pong == "PONG"


def test_a_node_that_shuts_down_says_so() -> None:
    cluster = Cluster(1)
    pipe = RedisPipe(cluster.members[0])
    cluster.members[0].node.stop()
    assert pipe.ask(b"GET", b"k") == "STOPPING this node is shutting down: ask another"
    assert pipe.ask(b"MSET", b"k", b"v") == "STOPPING this node is shutting down: ask another"


def test_a_coordinator_that_is_lost_leaves_no_command_without_an_answer() -> None:
    """Requests that were passed on to a node that dies: gets go to another replica, puts say that they do not know."""
    cluster = Cluster(4)
    pipe = RedisPipe(outsider(cluster))
    pipe.ask(b"SET", b"k", b"v")
    first = next(name for name in cluster.client(0).ask(Op.RING, b"k")[2]["preference"])
    dying = next(member for member in cluster.members if member.name == first)
    cluster.hold(pipe.member, dying)
    pipe.send_raw(b"GET k\r\nSET k w\r\nGET k\r\n")
    cluster.kill(dying)
    get, put, after = pipe.wait(3)
    assert get == b"v"
    assert put in (
        "OK",
        "UNCERTAIN the coordinating replica was lost: the write may or may not be there; outcome unknown",
    )
    assert after in (b"v", b"w")
