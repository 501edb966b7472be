"""CBOR and frames, against cbor2, whose functions are compiled too."""

from collections.abc import Callable
from typing import Any

import cbor2

from bench.micro.case import Case
from dynafast._ext.codec import FrameReader, dumps, frame, loads
from tests.oracle import codec as oracle

REPEATS = 100
FRAMES = 32

_ACTOR, _TIME = 0x8F3A61C2D4E5B607, 1_700_000_001_090 << 16
_KEY, _VALUE, _CONTEXT, _WRITE_ID = b"user/1234567/cart", b"v" * 100, bytes(range(41)), bytes(range(16))
_OPTIONS = {"timeout": 5000, "time": _TIME}
MESSAGES: dict[str, list[Any]] = {
    "GET": [2, 4711, _KEY, _OPTIONS],
    "PUT": [3, 4711, _KEY, _VALUE, _CONTEXT, _WRITE_ID, _OPTIONS],
    "FOUND": [9, 4711, [[_ACTOR, 7, _TIME, _WRITE_ID, _VALUE]], _CONTEXT, [2, 2, 2, 0, 0, 0], _TIME],
}


def cases() -> list[Case]:
    """Return encoding and decoding of the three hot messages, and frames cut out of a stream."""
    found = []
    for name, message in MESSAGES.items():
        found.append(_repeated(f"codec dumps {name}", dumps, cbor2.dumps, message, oracle.dumps(message), floor=4))
        found.append(_repeated(f"codec loads {name}", loads, cbor2.loads, oracle.dumps(message), message, floor=2.6))
    return [*found, _stream()]


def _repeated(
    name: str,
    ours: Callable[[Any], Any],
    theirs: Callable[[Any], Any],
    given: Any,
    expected: Any,
    *,
    floor: float,
) -> Case:
    def run(function: Callable[[Any], Any]) -> Callable[[], object]:
        def repeated() -> object:
            for _ in range(REPEATS):
                result = function(given)
            return result

        return repeated

    def verify() -> None:
        assert ours(given) == theirs(given) == expected

    return Case(
        name=name,
        against="cbor2",
        calls=REPEATS,
        ours=run(ours),
        baseline=run(theirs),
        verify=verify,
        aim=3,
        floor=floor,
    )


def plain_feed(data: bytes) -> list[Any]:
    """Cut a stream of whole frames and decode each, as a client without our codec would."""
    messages, at, end = [], 0, len(data)
    while at < end:
        start = at + 4
        at = start + int.from_bytes(data[at:start], "big")
        messages.append(cbor2.loads(data[start:at]))
    return messages


def _stream() -> Case:
    stream = b"".join(frame(MESSAGES["FOUND"]) for _ in range(FRAMES))

    def verify() -> None:
        assert stream == b"".join([oracle.frame(MESSAGES["FOUND"])] * FRAMES)
        assert FrameReader().feed(stream) == plain_feed(stream) == [MESSAGES["FOUND"]] * FRAMES

    return Case(
        name=f"codec feed, {FRAMES} frames FOUND",
        against="cbor2",
        calls=FRAMES,
        ours=lambda: FrameReader().feed(stream),
        baseline=lambda: plain_feed(stream),
        verify=verify,
        aim=3,
        floor=3,
    )
