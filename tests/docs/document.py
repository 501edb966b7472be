"""Reads docs/protocol.md: its fenced blocks, its tables, and the diagnostic notation (RFC 8949, section 8) in them."""

import re
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")

_FENCE = re.compile(r"^```(?P<kind>frame|exchange|vector) (?P<rest>[^\n]+)\n(?P<body>.*?)^```$", re.M | re.S)
_TOKEN = re.compile(r"h'[0-9a-f]*'|\"[^\"]*\"|-?\d+|null|true|false|[\[\]{}:,]")
_WORDS = {"null": None, "true": True, "false": False}


class Frame(NamedTuple):
    """One whole frame as the document has it."""

    name: str
    answer: str | None  # the name of the frame that answers it
    data: bytes
    item: Any


class Exchange(NamedTuple):
    """A request and its answer, as items only."""

    name: str
    request: list[Any]
    answer: list[Any]


def parse(text: str) -> list[Any]:
    """Return the items that *text* writes in diagnostic notation, one after the other."""
    tokens = _TOKEN.findall(text)
    assert not _TOKEN.sub("", text).strip(), f"not diagnostic notation: {text}"
    items = []
    while tokens:
        items.append(_item(tokens))
    return items


def _item(tokens: list[str]) -> Any:
    token = tokens.pop(0)
    if token == "[":
        return [item for item, _ in _until("]", tokens)]
    if token == "{":
        return dict(_until("}", tokens))
    if token in _WORDS:
        return _WORDS[token]
    if token.startswith("h'"):
        return bytes.fromhex(token[2:-1])
    return token[1:-1] if token.startswith('"') else int(token)


def _until(end: str, tokens: list[str]) -> list[tuple[Any, Any]]:
    """Return the elements of an array, or the pairs of a map, and take their closing bracket."""
    found = []
    while tokens[0] != end:
        first, second = _item(tokens), None
        if end == "}":
            assert tokens.pop(0) == ":"
            second = _item(tokens)
        found.append((first, second))
        if tokens[0] == ",":
            tokens.pop(0)
    tokens.pop(0)
    return found


def frames() -> dict[str, Frame]:
    """Return the frames of the document by name, in its order."""
    found: dict[str, Frame] = {}
    for block in _FENCE.finditer(TEXT):
        if block["kind"] != "frame":
            continue
        name, _, answer = block["rest"].partition(" answer=")
        code, _, printed = block["body"].partition("\n= ")
        data = bytes.fromhex(re.sub(r";[^\n]*", "", code))
        (item,) = parse(printed)
        assert name not in found, f"two frames are named {name}"
        found[name] = Frame(name, answer or None, data, item)
    return found


def exchanges() -> dict[str, Exchange]:
    """Return the exchanges of the document by name."""
    found = {}
    for block in _FENCE.finditer(TEXT):
        if block["kind"] == "exchange":
            request, _, answer = block["body"].removeprefix("-> ").partition("<- ")
            found[block["rest"]] = Exchange(block["rest"], *parse(request), *parse(answer))
    return found


def vectors(name: str) -> list[list[Any]]:
    """Return the items on each line of a block of test vectors; words in front of them are dropped."""
    (body,) = [block["body"] for block in _FENCE.finditer(TEXT) if (block["kind"], block["rest"]) == ("vector", name)]
    return [parse(re.sub(r"^[a-z]+ +", "", line)) for line in body.splitlines()]


def table(header: str) -> list[list[str]]:
    """Return the rows of the table whose header line begins with *header*; back quotes are taken off the first cell."""
    lines = TEXT[TEXT.index(f"\n| {header}") + 1 :].split("\n")
    rows = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows.append([cells[0].strip("`"), *cells[1:]])
    return rows
