"""put, get, delete, status and ring: what they print where, and with which status they end."""

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from dynafast.cli.main import Exit, exit_status
from dynafast.cli.options import context_text, parse_context
from dynafast.cli.output import print_table
from dynafast.errors import (
    BadContextError,
    BadRequestError,
    ConfigError,
    ConflictError,
    DynafastError,
    NotReachedError,
    OverloadedError,
    RefusedError,
    RequestTimeoutError,
    StoreFormatError,
    TooLargeError,
    UnavailableError,
    WriteUncertainError,
)
from dynafast.limits import KEY_MAX, VALUE_MAX
from tests.cli.conftest import CONFIG, STATUS_RESULT, Command, Done
from tests.client.fake import GET, PUT, Fail, Node, Twist

# ---- values and keys


def test_get_writes_the_raw_bytes_and_nothing_else(node: Node, run: Command) -> None:
    value = bytes(range(256)) + b"\n"
    assert run("put", "k", "-", stdin=value) == Done(0, b"", "")
    assert run("get", "k") == Done(0, value, "")


def test_get_of_an_absent_key_ends_with_1_and_empty_stdout(node: Node, run: Command) -> None:
    assert run("get", "k") == Done(1, b"", "dynafast: not found\n")


def test_put_reads_a_file_whole(node: Node, run: Command, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\0line\r\n")
    assert run("put", "k", f"@{tmp_path}/f").status == 0
    assert run("get", "k").out == b"\0line\r\n"


@pytest.mark.parametrize("value", ["", "-x", "--json", "é", "a b", "--"])
def test_put_value_after_a_double_dash_is_taken_as_it_is(node: Node, run: Command, value: str) -> None:
    assert run("put", "--", "-key", value).status == 0
    assert run("get", "--", "-key").out == value.encode()


def test_options_stand_anywhere_after_the_command(node: Node, run: Command) -> None:
    for words in [
        ("--w", "1", "k", "v"),
        ("k", "--w", "1", "v"),
        ("k", "v", "--w", "1"),
        ("k", "--w=1", "--", "v"),
    ]:
        assert run("put", "--overwrite", *words).status == 0
    assert [item[6].get("w") for item in node.requests(PUT)] == [1, 1, 1, 1]


def test_request_options_are_sent_as_they_are_given_and_only_then(node: Node, run: Command) -> None:
    assert run("put", "k", "v", "--w", "3", "--pw", "2", "--dw", "1", "--no-sloppy").status == 0
    assert run("get", "k", "--r", "3", "--pr", "1", "--sloppy").status == 0
    assert run("delete", "k", "--pw", "1").status == 0
    assert run("put", "k", "v").status == 0
    sent = [item[6] for item in node.requests(PUT)]
    assert [
        {name: value for name, value in options.items() if name not in ("time", "timeout")} for options in sent
    ] == [
        {"w": 3, "pw": 2, "dw": 1, "sloppy": False},
        {"pw": 1},
        {},
    ]
    assert node.requests(GET)[0][3].items() >= {"r": 3, "pr": 1, "sloppy": True}.items()


def test_at_overrides_the_environment(node: Node, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAFAST_AT", "127.0.0.1:1")
    assert run("get", "k", "--at", node.address).status == 1


# ---- versions and contexts


def test_get_json_of_an_absent_key_is_an_object_too(node: Node, run: Command) -> None:
    done = run("get", "k", "--json")
    assert (done.status, done.err) == (1, "")
    assert done.object["found"] is False
    assert done.object["versions"] == []
    assert done.object["context"] is None


def test_two_puts_without_context_leave_two_versions_and_one_with_it_resolves_them(node: Node, run: Command) -> None:
    run("put", "k", "a")
    second = run("put", "k", "b")
    assert (second.status, second.out) == (0, b"")
    assert second.err == "dynafast: 2 versions are live now: see get --json, then put --context\n"
    plain = run("get", "k")
    assert (plain.status, plain.out) == (3, b"")
    assert plain.err.startswith("dynafast: 2 versions survive")
    shown = run("get", "k", "--json")
    assert shown.status == 3
    assert [base64.b64decode(version["value_b64"]) for version in shown.object["versions"]] == [b"a", b"b"]
    assert run("put", "k", "c", "--context", shown.object["context"]).status == 0
    assert run("get", "k") == Done(0, b"c", "")


def test_get_json_has_the_documented_shape(node: Node, run: Command) -> None:
    node.store.time = 1_700_000_000_000 << 16
    run("put", "k", "milk")
    shown = run("get", "k", "--json").object
    assert list(shown) == ["found", "versions", "context", "receipt"]
    assert shown["versions"] == [
        {"value_b64": "bWlsaw==", "actor": "0000000000000007", "counter": 1, "time": 1_700_000_000_000}
    ]
    assert set(shown["receipt"]) == {
        "needed", "replicas", "primaries", "fallbacks", "synced", "sloppy", "forwarded"
    }  # fmt: skip
    assert parse_context(shown["context"]) == node.store.seal(b"k")


def test_put_json_shows_the_dot_and_a_context_for_the_next_put(node: Node, run: Command) -> None:
    shown = run("put", "k", "a", "--json").object
    assert (shown["actor"], shown["counter"], shown["live"]) == ("0000000000000007", 1, 1)
    assert run("put", "k", "b", "--context", shown["context"], "--json").object["live"] == 1


def test_put_overwrite_replaces_what_nobody_read(node: Node, run: Command) -> None:
    run("put", "k", "a")
    run("put", "k", "b")
    assert run("put", "k", "c", "--overwrite") == Done(0, b"", "")
    assert run("get", "k").out == b"c"


def test_delete_without_context_deletes_what_is_there(node: Node, run: Command) -> None:
    run("put", "k", "a")
    run("put", "k", "b")
    assert run("delete", "k") == Done(0, b"", "")
    assert run("get", "k").status == 1


def test_delete_with_context_leaves_what_it_does_not_cover(node: Node, run: Command) -> None:
    context = run("put", "k", "a", "--json").object["context"]
    run("put", "k", "b")
    assert run("delete", "k", "--context", context).status == 0
    assert run("get", "k").out == b"b"


def test_delete_of_an_absent_key_is_done(node: Node, run: Command) -> None:
    assert run("delete", "k") == Done(0, b"", "")
    assert run("delete", "k", "--json").object == {"deleted": False}


def test_context_text_is_url_safe_and_unpadded() -> None:
    assert context_text(b"\xfb\xff\xfe\xff") == "-__-_w"
    assert parse_context("-__-_w") == b"\xfb\xff\xfe\xff"
    assert context_text(None) is None
    assert parse_context(None) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-__-_w==",  # padded
        "+//+/w",  # the other alphabet
        "-__-_x",  # same bytes, other spare bits: the text was altered
        "-__-_",
        "é",
        "-__\n-_w",
    ],
)
def test_context_that_no_get_printed_is_refused_unsent(node: Node, run: Command, text: str) -> None:
    done = run("put", "k", "v", "--context", text)
    assert (done.status, done.out) == (4, b"")
    assert done.err == "dynafast: bad-context: the context is not the text that a get printed\n"
    assert node.seen == []


# ---- errors


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("frobnicate",),
        ("get",),
        ("get", "k", "extra"),
        ("get", "k", "--r", "0"),
        ("get", "k", "--r", "two"),
        ("get", "k", "--frob"),
        ("get", "-k"),
        ("put", "k"),
        ("put", "k", "-5"),
        ("put", "k", "@/no/such/file"),
        ("put", "k", "@/"),
        ("put", "k", "v", "--overwrite", "--context", "abc"),
        ("get", "k", "--timeout", "0"),
        ("get", "k", "--timeout", "61"),
        ("get", "k", "--timeout", "nan"),
        ("get", "k", "--at", "localhost"),
        ("serve",),
        ("serve", "--data", "d", "--weight", "0"),
        ("demo", "--nodes", "1"),
        ("demo", "/no/such/folder"),
    ],
)
def test_usage_error_is_one_line_and_status_2(run: Command, words: tuple[str, ...]) -> None:
    done = run(*words)
    assert (done.status, done.out) == (2, b"")
    assert done.err.startswith("dynafast: ")
    assert done.err.count("\n") == 1


def test_unreached_node_is_one_line_and_status_6(run: Command) -> None:
    done = run("get", "k", "--at", "127.0.0.1:1", "--timeout", "2")
    assert (done.status, done.out) == (6, b"")
    assert done.err.startswith("dynafast: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "status"),
    [("unavailable", 4), ("bad-context", 4), ("overloaded", 4), ("too-many-versions", 4), ("uncertain", 5)],
)
def test_node_error_of_a_put_keeps_its_meaning(node: Node, run: Command, code: str, status: int) -> None:
    node.rule = lambda item: Fail(code) if item[0] == PUT else None
    done = run("put", "k", "v", "--timeout", "1")
    assert (done.status, done.out) == (status, b"")
    assert done.err.count("\n") == 1


def test_silent_node_ends_a_put_with_5_and_a_get_with_6(node: Node, run: Command) -> None:
    node.rule = lambda _: Twist.IGNORE
    assert run("put", "k", "v", "--timeout", "0.3").status == 5
    assert run("get", "k", "--timeout", "0.3").status == 6


def test_too_large_key_and_value_are_refused(node: Node, run: Command) -> None:
    assert run("put", "k" * (KEY_MAX + 1), "v").status == 4
    assert run("put", "", "v").status == 4
    assert run("put", "k", "-", stdin=bytes(VALUE_MAX)).status == 0
    done = run("put", "k", "-", stdin=bytes(VALUE_MAX + 1))
    assert (done.status, done.err) == (
        4,
        f"dynafast: too-large: a value must have at most {VALUE_MAX} bytes\n",
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("x"), 2),
        (ConflictError([b"a", b"b"]), 3),
        (BadRequestError("x"), 4),
        (BadContextError("x"), 4),
        (TooLargeError("x"), 4),
        (UnavailableError("x"), 4),
        (OverloadedError("x"), 4),
        (RefusedError("x", code="name-taken"), 4),
        (StoreFormatError("x"), 4),
        (WriteUncertainError("x"), 5),
        (RequestTimeoutError("x"), 6),
        (NotReachedError("x"), 6),
    ],
)
def test_exit_status_of_every_error(error: DynafastError, status: int) -> None:
    assert exit_status(error) == status


def test_bug_is_shown_whole_and_never_ends_with_1(node: Node, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynafast.Client.get", lambda *_, **__: 1 / 0)
    done = run("get", "k")
    assert done.status == Exit.BUG
    assert "ZeroDivisionError" in done.err


# ---- status and ring


def test_status_json_is_what_the_node_says(node: Node, run: Command) -> None:
    assert run("status", "--json").object == STATUS_RESULT
    assert run("status", "--config", "--json").object == {**STATUS_RESULT, "config": CONFIG}


def test_status_lists_members_in_aligned_columns_with_dashes_for_the_unknown(node: Node, run: Command) -> None:
    done = run("status")
    first, header, *rows = done.out.decode().splitlines()
    assert first == "cluster id=00ff  replicas=3"
    assert header.split() == list(STATUS_RESULT["members"][0])
    assert [row.split() for row in rows] == [
        ["n1", "00010203c", "[::1]:7411", "up", "yes", "1", "default", "n1", "1024", "12", "3456"],
        ["n2", "00010203d", "[::1]:7411", "up", "no", "1", "default", "n1", "-", "-", "-"],
    ]
    assert {row.index("up") for row in rows} == {header.index("status")}


def test_table_on_a_narrow_terminal_is_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "20")
    print_table(("name", "address", "keys"), [("node-of-a-long-name", "[2001:db8::1]:7411", 12_345_678)])
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("node-of-a-long-name", "[2001:db8::1]:7411", "12345678"))


def test_status_config_shows_value_and_source(node: Node, run: Command) -> None:
    header, *rows = run("status", "--config").out.decode().splitlines()
    assert header.split() == ["setting", "value", "source"]
    assert [row.split() for row in rows] == [
        ["data", "/data", "flag"],
        ["join", "a:1", "[::1]:2", "env"],
        ["name", "-", "default"],
    ]


def test_ring_shows_position_partition_and_preference(node: Node, run: Command) -> None:
    assert run("ring", "k", "--json").object == {
        "position": (1 << 64) - 1,
        "partition": 1023,
        "preference": ["n1", "n2"],
    }
    assert run("ring", "k").out.decode().splitlines() == [
        "position   0xffffffffffffffff",
        "partition  1023",
        "preference n1 n2",
    ]


# ---- the process


def test_help_is_there_for_every_command(run: Command) -> None:
    overview = run("--help").out.decode()
    for command in (
        "serve",
        "put",
        "get",
        "delete",
        "status",
        "ring",
        "leave",
        "remove",
        "weight",
        "plan",
        "check",
        "demo",
    ):
        assert f"  {command} " in overview
        done = run(command, "--help")
        assert done.status == 0
        assert done.out.startswith(b"Usage: dynafast " + command.encode())


def test_what_serve_starts_is_hidden_and_no_use_alone(run: Command) -> None:
    assert "\n  worker" not in run("--help").out.decode()
    done = run("worker", "n-0")
    assert (done.status, done.out) == (2, b"")
    assert done.err == "dynafast: serve --workers starts this command, and tells it on stdin what to do\n"


def test_get_loads_nothing_of_the_server(node: Node) -> None:
    """A short command must not wait for an event loop, a database or a logger to load."""
    code = (
        "import sys; from dynafast.cli.main import main; status = main(['get', 'k']); "
        "print(sorted({'trio', 'anyio', 'rocksdict', 'structlog', 'rich', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_closed_pipe_is_no_traceback(node: Node, run: Command) -> None:
    run("put", "k", "-", stdin=bytes(VALUE_MAX))
    process = subprocess.Popen(
        [sys.executable, "-m", "dynafast", "get", "k"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == Exit.PIPE_CLOSED


@pytest.mark.parametrize("place", ["raise KeyboardInterrupt", "exec('raise KeyboardInterrupt')"])
def test_interrupted_ends_with_130_wherever_it_is_met(place: str) -> None:
    code = (
        "import sys, dynafast; from dynafast.cli.main import main\n"
        f"def get(*_, **__): {place}\n"
        "dynafast.Client.get = get; sys.exit(main(['get', 'k']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (Exit.INTERRUPTED, b"dynafast: interrupted\n")


def test_full_disk_under_stdout_is_one_line(node: Node, run: Command) -> None:
    run("put", "k", "v")
    for words in (["get", "k"], ["get", "k", "--json"], ["status"], ["--help"]):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                [sys.executable, "-m", "dynafast", *words], stdout=full, stderr=subprocess.PIPE, check=False
            )
        assert (done.returncode, done.stderr) == (
            Exit.OUTPUT,
            b"dynafast: cannot write to stdout: No space left on device\n",
        )


def _with_closed(number: int, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose file *number* is closed, as `>&-` of a shell does it."""
    code = "import os, sys; os.close(int(sys.argv[1])); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    command = [sys.executable, "-c", code, str(number), "-m", "dynafast", *words]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def test_closed_stdin_stores_nothing(node: Node) -> None:
    done = _with_closed(0, "put", "k", "-")
    assert (done.returncode, done.stderr) == (2, b"dynafast: '-' reads stdin, which is closed\n")
    assert node.requests(PUT) == []


@pytest.mark.parametrize(("number", "words"), [(1, ["get", "k"]), (1, ["status"]), (2, ["get", "absent"])])
def test_closed_stdout_or_stderr_loses_what_is_printed_and_nothing_else(
    node: Node, run: Command, number: int, words: list[str]
) -> None:
    run("put", "k", "v")
    done = _with_closed(number, *words)
    assert (done.returncode, done.stdout, done.stderr) == (1 if "absent" in words else 0, b"", b"")
