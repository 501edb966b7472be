"""The redis protocol, slow and obvious: commands from bytes, answers from bytes. Imports nothing of the package."""

import re
from typing import Any

VALUE_MAX = 8 * 1024 * 1024
COMMAND_MAX = 16 * 1024 * 1024
BULK_MAX = 512 * 1024 * 1024
ARGUMENTS_MAX = 1024 * 1024
INLINE_MAX = 64 * 1024


class Lost(Exception):
    """The framing is lost."""


def command(*words: bytes) -> bytes:
    """Return a command as clients send it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _number(data: bytes, at: int, what: str) -> tuple[int, int] | None:
    """Return the number in a line and where the next begins, None if the line has not ended."""
    whole = re.compile(rb"(-?[0-9]{1,18})\r\n").match(data, at)
    if whole is not None:
        return int(whole[1]), whole.end()
    if re.fullmatch(rb"-?[0-9]{0,18}|-?[0-9]{1,18}\r", data[at:]) is None:
        raise Lost(what)
    return None


def commands(data: bytes) -> tuple[list[list[bytes] | None], bool]:
    """Return the whole commands in *data*, None for one that is too large, and whether the framing was lost."""
    found: list[list[bytes] | None] = []
    at = 0
    try:
        while at < len(data):
            one = _command(data, at)
            if one is None:
                break
            words, at = one
            if words is None or words:
                found.append(words)
    except Lost:
        return found, True
    return found, False


def _command(data: bytes, start: int) -> tuple[list[bytes] | None, int] | None:
    if data[start : start + 1] != b"*":
        end = data.find(b"\n", start)
        if end - start > INLINE_MAX or (end < 0 and len(data) - start > INLINE_MAX):
            raise Lost("too big inline request")
        return None if end < 0 else (_words(data[start:end]), end + 1)
    head = _number(data, start + 1, "invalid multibulk length")
    if head is None:
        return None
    count, at = head
    if count > ARGUMENTS_MAX:
        raise Lost("invalid multibulk length")
    words: list[bytes] = []
    large = False
    for _ in range(count):
        if at == len(data):
            return None
        if data[at : at + 1] != b"$":
            raise Lost("expected '$'")
        head = _number(data, at + 1, "invalid bulk length")
        if head is None:
            return None
        size, at = head
        if not 0 <= size <= BULK_MAX:
            raise Lost("invalid bulk length")
        large = large or size > VALUE_MAX or at - start + size > COMMAND_MAX
        if len(data) < at + size + 2:
            return None
        if not large and data[at + size : at + size + 2] != b"\r\n":
            raise Lost("expected the end of a line")
        words.append(data[at : at + size])
        at += size + 2
    return (None if large else words), at


def _words(line: bytes) -> list[bytes]:
    if b'"' in line or b"'" in line:
        raise ValueError("quotes are beyond this oracle")
    return line.split()


class Error(str):
    """An error answer: what follows the minus sign."""


def answers(data: bytes) -> tuple[list[Any], bytes]:
    """Return the whole answers in *data*, RESP 2 or 3, and what is left."""
    found = []
    while True:
        one = _answer(data)
        if one is None:
            return found, data
        found.append(one[0])
        data = one[1]


def _answer(data: bytes) -> tuple[Any, bytes] | None:
    kind, (line, end, rest) = data[:1], data[1:].partition(b"\r\n")
    if not end:
        return None
    if kind == b"+":
        return line.decode(), rest
    if kind == b"-":
        return Error(line.decode()), rest
    if kind == b":":
        return int(line), rest
    if kind == b"_" or (kind in b"$*" and line == b"-1"):
        return None, rest
    if kind == b"$":
        size = int(line)
        return None if len(rest) < size + 2 else (rest[:size], rest[size + 2 :])
    assert kind in (b"*", b"%"), data[:40]
    items = []
    for _ in range(int(line) * (2 if kind == b"%" else 1)):
        one = _answer(rest)
        if one is None:
            return None
        items.append(one[0])
        rest = one[1]
    return (dict(zip(items[::2], items[1::2], strict=True)) if kind == b"%" else items), rest
