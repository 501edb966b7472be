"""Items and frames by means of cbor2 and struct. Imports nothing of the package."""

import math
import random
import struct
from typing import Any

import cbor2

FRAME_MAX = 16 * 1024 * 1024
PART_SIZE = 4 * 1024 * 1024
OP_PART = 12


def dumps(item: object) -> bytes:
    """Return the canonical encoding."""
    return cbor2.dumps(item)


def loads(data: bytes) -> Any:
    """Return the one item that *data* holds. Raises ValueError."""
    try:
        # As all that is in an array, and before another item: cbor2 itself overlooks what follows an item.
        items = cbor2.loads(b"\x9f" + data + b"\xff")
        pair = cbor2.loads(b"\x82" + data + b"\x00")
    except cbor2.CBORError as error:
        raise ValueError(str(error)) from error
    if len(items) != 1 or len(pair) != 2:
        raise ValueError("not exactly one item")
    return items[0]


def is_plain(item: object, levels: int = 64) -> bool:
    """Return whether messages are made of such items: no tags, simple keys, at most *levels* deep."""
    if isinstance(item, list):  # one that holds itself (tag 29) is deeper than any limit
        return levels > 0 and all(is_plain(each, levels - 1) for each in item)
    if isinstance(item, dict):
        return levels > 0 and all(is_plain(k, 0) and is_plain(v, levels - 1) for k, v in item.items())
    if type(item) is int:
        return -(2**64) <= item < 2**64
    return item is None or type(item) in (bool, bytes, str, float)


def body_frame(body: bytes) -> bytes:
    """Return one frame with any bytes in it."""
    return struct.pack(">I", len(body)) + body


def part_frames(body: bytes, request: int, sizes: list[int]) -> list[bytes]:
    """Return PART frames with chunks of the given sizes; the last chunk takes what is left."""
    frames, at = [], 0
    for size in sizes:
        frames.append(body_frame(dumps([OP_PART, request, False, body[at : at + size]])))
        at += size
    return [*frames, body_frame(dumps([OP_PART, request, True, body[at:]]))]


def frame(item: list[Any]) -> bytes:
    """Return the frame of a message, or its PART frames if it is too large for one."""
    body = dumps(item)
    if len(body) <= FRAME_MAX:
        return body_frame(body)
    return b"".join(part_frames(body, item[1], [PART_SIZE] * ((len(body) - 1) // PART_SIZE)))


def any_encoding(item: object, rng: random.Random) -> bytes:
    """Return some valid encoding: longer heads, indefinite lengths, shorter floats (RFC 8949, section 3)."""
    if item is None or isinstance(item, bool):
        return dumps(item)
    if isinstance(item, int):
        return _head(0, item, rng) if item >= 0 else _head(1, -1 - item, rng)
    if isinstance(item, float):
        return _float(item, rng)
    if isinstance(item, bytes | str):
        return _string(item, rng)
    if isinstance(item, list):
        inner = [any_encoding(each, rng) for each in item]
        return _container(4, inner, len(item), rng)
    if isinstance(item, dict):
        inner = [any_encoding(k, rng) + any_encoding(v, rng) for k, v in item.items()]
        return _container(5, inner, len(item), rng)
    raise TypeError(type(item).__name__)


def _head(major: int, number: int, rng: random.Random) -> bytes:
    widths = [width for width in (1, 2, 4, 8) if number < 256**width]
    if number < 24 and rng.random() < 0.5:
        return bytes([major << 5 | number])
    width = rng.choice(widths)
    return bytes([major << 5 | 24 + width.bit_length() - 1]) + number.to_bytes(width, "big")


def _string(text: bytes | str, rng: random.Random) -> bytes:
    def definite(chunk: bytes | str) -> bytes:
        raw = chunk if isinstance(chunk, bytes) else chunk.encode()
        return _head(major, len(raw), rng) + raw

    major = 2 if isinstance(text, bytes) else 3
    if rng.random() < 0.5:
        return definite(text)
    cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randrange(4)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    if not text and rng.random() < 0.5:
        chunks = []
    return bytes([major << 5 | 31]) + b"".join(definite(chunk) for chunk in chunks) + b"\xff"


def _container(major: int, inner: list[bytes], count: int, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return _head(major, count, rng) + b"".join(inner)
    return bytes([major << 5 | 31]) + b"".join(inner) + b"\xff"


def _float(number: float, rng: random.Random) -> bytes:
    encodings = [b"\xfb" + struct.pack(">d", number)]
    for head, code in ((b"\xfa", ">f"), (b"\xf9", ">e")):
        try:
            packed = struct.pack(code, number)
        except OverflowError:
            continue
        if struct.unpack(code, packed)[0] == number or math.isnan(number):
            encodings.append(head + packed)
    return rng.choice(encodings)
