"""The compiled codec against cbor2: same bytes out, every valid encoding in, an error for all other bytes."""

import math
import random
from typing import Any

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dynafast._ext.codec import FrameReader, dumps, frame, loads
from dynafast.errors import PeerProtocolError
from dynafast.limits import FRAME_MAX, PART_SIZE
from tests.ext.leaks import assert_no_leak
from tests.oracle import codec as oracle

REFUSED = object()
EDGES = [0, 1, 23, 24, 255, 256, 2**16 - 1, 2**16, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]

integers = st.sampled_from(EDGES + [-1 - n for n in EDGES]) | st.integers(-(2**64), 2**64 - 1)
scalars = (
    integers
    | st.booleans()
    | st.none()
    | st.binary(max_size=300)
    | st.text(max_size=40)
    | st.floats(allow_nan=False, allow_infinity=False)
)
keys = integers | st.text(max_size=8) | st.binary(max_size=8)
items = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)
randoms = st.integers(0, 2**32).map(random.Random)
messages = st.lists(items, max_size=3).map(lambda rest: [8, *rest])


def accepted(data: bytes) -> Any:
    """Return the item, or `REFUSED` if the bytes are refused as they should be."""
    try:
        return loads(data)
    except ValueError:
        return REFUSED


def assert_same_reading(data: bytes) -> None:
    ours = accepted(data)
    try:
        theirs = oracle.loads(data)
    except ValueError:
        assert ours is REFUSED
        return
    if oracle.is_plain(theirs):
        assert repr(ours) == repr(theirs)


# ---- items


@given(items)
def test_dumps_of_any_item_equals_cbor2(item: object) -> None:
    encoded = dumps(item)
    assert encoded == oracle.dumps(item)
    assert repr(loads(encoded)) == repr(item)


@pytest.mark.parametrize("number", sorted({s * n + d for n in EDGES for s in (1, -1) for d in (-1, 0, 1)}))
def test_integer_at_the_edge_of_a_width_round_trips_or_is_refused(number: int) -> None:
    if -(2**64) <= number < 2**64:
        assert dumps(number) == oracle.dumps(number)
        assert loads(dumps(number)) == number
    else:
        with pytest.raises(OverflowError):
            dumps(number)


@pytest.mark.parametrize("size", [0, 23, 24, 255, 256, 65535, 65536])
@pytest.mark.parametrize("unit", [b"v", "v", "\u00fc", [1], (1,)])
def test_length_at_the_edge_of_a_width_round_trips(size: int, unit: Any) -> None:
    assert dumps(unit * size) == oracle.dumps(unit * size)
    assert loads(dumps(unit * size)) == (list(unit * size) if isinstance(unit, tuple) else unit * size)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308])
def test_special_float_is_read_back_by_both(number: float) -> None:
    assert repr(loads(dumps(number))) == repr(cbor2.loads(dumps(number))) == repr(number)
    assert repr(loads(cbor2.dumps(number))) == repr(number)


def test_every_half_float_is_decoded_as_cbor2_does() -> None:
    for bits in range(2**16):
        data = b"\xf9" + bits.to_bytes(2, "big")
        assert repr(loads(data)) == repr(cbor2.loads(data))


@given(st.floats(width=32))
def test_single_float_is_decoded_as_cbor2_does(number: float) -> None:
    data = oracle.any_encoding(number, random.Random(1))
    assert repr(loads(data)) == repr(cbor2.loads(data))


@given(items, randoms)
def test_loads_of_any_valid_encoding_gives_the_item(item: object, rng: random.Random) -> None:
    """Longer integers than needed, indefinite strings, arrays and maps, shorter floats, all at once."""
    data = oracle.any_encoding(item, rng)
    assert repr(oracle.loads(data)) == repr(item)
    assert repr(loads(data)) == repr(item)
    assert repr(loads(memoryview(bytearray(data)))) == repr(item)


@given(items, randoms)
def test_loads_of_a_truncated_or_continued_item_is_refused(item: object, rng: random.Random) -> None:
    for data in (dumps(item), oracle.any_encoding(item, rng)):
        for cut in {0, len(data) - 1, rng.randrange(len(data))}:
            assert accepted(data[:cut]) is REFUSED
        assert accepted(data + dumps(item)) is REFUSED


@settings(max_examples=300)
@given(st.binary(max_size=40))
@example(b"\xc1\x00\x00")  # a tail after a tagged item
@example(b"\x7f\x61\xc3\x61\xa9\xff")  # a character cut in two by the chunks of a text
@example(b"\xf8\x14")  # "false" in two bytes
@example(b"\x5f\x5f\x41\x00\xff\xff")  # an indefinite string in an indefinite string
@example(b"\xbf\x01\xff")  # a key without a value
@example(b"\x1f")
@example(b"\xdf\x00\xff")
@example(b"\xff")
@example(b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff")  # claims of more than there is
@example(b"\xbb\x7f\xff\xff\xff\xff\xff\xff\xff\x00")
@example(b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff\x00")
@example(b"\xc1\x5b\x7f\xff\xff\xff\xff\xff\xff\xff")
@example(b"\xd8\x1e\x82\x01\x00")  # a fraction over zero
@example(b"\xc5\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01")  # a float of astronomic size
@example(b"\xd8\x23\x61(")  # a broken regular expression
@example(b"\xd8\x1c\x81\xd8\x1d\x00")  # an array that holds itself
@example(b"\xa1\xd8\x1c\x81\xd8\x1d\x00\x00")  # the same as a key
@example(b"\xa1\xc1\x80\x00")
def test_loads_of_any_bytes_gives_what_cbor2_gives_or_valueerror(data: bytes) -> None:
    """What one accepts as an item without tags, the other accepts and reads alike."""
    assert_same_reading(data)


@given(items, randoms)
def test_loads_of_a_damaged_item_gives_what_cbor2_gives_or_valueerror(item: object, rng: random.Random) -> None:
    data = bytearray(oracle.any_encoding(item, rng))
    for _ in range(6):
        place = rng.randrange(len(data))
        data[place] = rng.choice([data[place] ^ 1 << rng.randrange(8), 0xFF, 0x5F, 0x9F, 0xBF, 0x1B, 0xC1])
        assert_same_reading(bytes(data))


@pytest.mark.parametrize("levels", [1000, 100_000])
@pytest.mark.parametrize(
    ("opening", "inside", "closing"),
    [
        (b"\x81", b"\x00", b""),
        (b"\x9f", b"\x00", b"\xff"),
        (b"\x9f", b"", b""),  # never closed
        (b"\xa1\x00", b"\x00", b""),
        (b"\xbf\x00", b"\x00", b"\xff"),
        (b"\xa1", b"\x00", b"\x00"),  # maps as keys
        (b"\xc1", b"\x00", b""),
        (b"\xc1\x81", b"\x00", b""),
        (b"\x81\xc1", b"\x00", b""),
        (b"\xd8\x1c\x81", b"\x00", b""),
    ],
)
def test_loads_of_a_deeply_nested_item_is_refused(levels: int, opening: bytes, inside: bytes, closing: bytes) -> None:
    assert accepted(opening * levels + inside + closing * levels) is REFUSED


@pytest.mark.parametrize(
    ("opening", "closing"), [(b"\x81", b""), (b"\x9f", b"\xff"), (b"\xa1\x00", b""), (b"\xbf\x61k", b"\xff")]
)
@pytest.mark.parametrize(
    "inside", [b"\x00", b"\x18\x18", b"\x80", b"\xa0", b"\x9f\xff", b"\x60", b"\xf6", b"\xd9\xd9\xf7\x00"]
)
def test_loads_takes_64_levels_and_no_more(opening: bytes, closing: bytes, inside: bytes) -> None:
    """An item inside 64 others is read, inside 65 refused; an empty array there adds no level, a tag does."""
    deepest = 63 if inside.startswith(b"\xd9") else 64
    assert accepted(opening * deepest + inside + closing * deepest) is not REFUSED
    assert accepted(opening * (deepest + 1) + inside + closing * (deepest + 1)) is REFUSED


def test_loads_of_keys_met_before_or_like_them_gives_each_its_own() -> None:
    """Keys that agree in length, first, middle and last byte, in turns; at the edges of what is kept; not ASCII."""
    alike = ["abcde", "axcye", "aycxe", "a\u00e9", "\u00e9a", "t", "u"]
    edges = [letter * size for letter in "xy" for size in (0, 1, 22, 23, 24, 200)] + ["\u00fc" * 11, "\u00fc" * 12]
    many = [f"key-{number}" for number in range(2000)]
    for keys in (alike, edges, many, [*many[:50], *alike, *edges]):
        for _ in range(3):
            assert all(list(loads(oracle.dumps({key: 0}))) == [key] for key in keys)
            whole = dict.fromkeys(keys, 1)
            assert list(loads(oracle.dumps(whole)).items()) == list(whole.items())
    for broken in (b"\xa1\x63ab", b"\xa1\x62\xc3\x28\x00", b"\xa1\x61k", b"\xa1\x77" + b"k" * 22):
        assert accepted(broken) is REFUSED


def test_dumps_of_a_deeply_nested_item_is_refused() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(ValueError, match="nested"):
        dumps(nested)
    while nested:  # its own destructor would recurse
        nested = nested.pop()
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(ValueError, match="nested"):
        dumps(cycle)


@pytest.mark.parametrize("thing", [object(), {1, 2}, 1j, [object()], {"key": object()}, {object(): 1}])
def test_dumps_of_another_type_is_refused(thing: object) -> None:
    with pytest.raises(TypeError):
        dumps(thing)


def test_dumps_of_half_a_character_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        dumps("\ud800")


# ---- frames


def read(chunks: list[bytes]) -> list[list[Any]]:
    reader = FrameReader()
    return [message for chunk in chunks for message in reader.feed(chunk)]


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    """Cut into pieces, empty ones too, with a liking for cuts near each other."""
    places = rng.choices(range(len(data) + 1), k=rng.randrange(12))
    places += [min(len(data), p + rng.randrange(3)) for p in places]
    return [data[a:b] for a, b in zip([0, *sorted(places)], [*sorted(places), len(data)], strict=True)]


@given(messages)
def test_frame_of_a_message_equals_oracle(rest: list[Any]) -> None:
    message = [8, 2**64 - 1, *rest]
    assert frame(message) == frame(tuple(message)) == oracle.frame(message)


@given(st.lists(messages, max_size=4), randoms)
def test_reader_fed_in_any_cutting_gives_the_same_messages(sent: list[list[Any]], rng: random.Random) -> None:
    data = b"".join(oracle.body_frame(oracle.any_encoding(message, rng)) for message in sent)
    assert repr(read([data])) == repr(sent)
    assert repr(read(cut(data, rng))) == repr(sent)
    assert repr(read([data[i : i + 1] for i in range(len(data))])) == repr(sent)


@given(st.lists(messages, min_size=1, max_size=4), randoms)
def test_reader_joins_parts_of_interleaved_messages(sent: list[list[Any]], rng: random.Random) -> None:
    """Each message in parts of its own, of any size, mixed with those of others: order of completion."""
    queues = []
    for request, message in enumerate(sent):
        body = oracle.any_encoding(message, rng)
        sizes = [rng.randrange(len(body) + 1) for _ in range(rng.randrange(4))]
        queues.append((message, oracle.part_frames(body, request, sizes)))
    stream, expected = [], []
    while queues:
        turn = rng.randrange(len(queues))
        message, frames = queues[turn]
        stream.append(frames.pop(0))
        if not frames:
            expected.append(message)
            del queues[turn]
    assert repr(read(cut(b"".join(stream), rng))) == repr(expected)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_message_at_the_limit_of_a_frame_is_split_only_above_it(more: int) -> None:
    message = [9, 77, bytes(FRAME_MAX - 9 + more)]
    assert len(oracle.dumps(message)) == FRAME_MAX + more
    framed = frame(message)
    assert framed == oracle.frame(message)
    assert (len(framed) == 4 + FRAME_MAX + more) == (more <= 0)
    assert read([framed[:PART_SIZE], framed[PART_SIZE:-1], framed[-1:]]) == [message]


def test_message_of_several_frames_in_network_sized_pieces_is_joined() -> None:
    """Three values of the largest size: what a read of three siblings sends."""
    message = [9, 5, [[n, 1, 0, bytes(16), bytes([n]) * (8 * 1024 * 1024)] for n in range(3)], None]
    framed = frame(message)
    assert framed == oracle.frame(message)
    pieces = [framed[i : i + 65536] for i in range(0, len(framed), 65536)]
    assert read([*pieces, oracle.frame([8, 6, None])]) == [message, [8, 6, None]]


@pytest.mark.parametrize("length", [0, FRAME_MAX + 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("pieces", [1, 4])
def test_frame_of_an_impossible_length_is_refused_before_it_arrives(length: int, pieces: int) -> None:
    reader = FrameReader()
    assert reader.feed(oracle.frame([8, 1, None])) == [[8, 1, None]]
    head = length.to_bytes(4, "big")
    for i in range(pieces - 1):
        assert reader.feed(head[4 * i // pieces : 4 * (i + 1) // pieces]) == []
    with pytest.raises(PeerProtocolError, match=str(length)):
        reader.feed(head[4 * (pieces - 1) // pieces :])


@pytest.mark.parametrize(
    "body",
    [
        b"\x00",
        b"\xa0",
        b"\xf6",
        b"\x80",  # an array without an op
        b"\x82\x01",
        b"\x81\x01\x00",
        b"\xff",
        b"\x81" * 1000 + b"\x00",
        b"\xc1\x00",
        oracle.dumps([12]),  # parts must have their four elements
        oracle.dumps([12, 1, True]),
        oracle.dumps([12, 1, True, b"\x81\x08", 0]),
        oracle.dumps([12, 1, 1, b"\x81\x08"]),
        oracle.dumps([12, -1, True, b"\x81\x08"]),
        oracle.dumps([12, "1", True, b"\x81\x08"]),
        oracle.dumps([12, 1, True, "text"]),
        oracle.dumps([12, 1, True, b""]),  # what is joined must be an item, and an array
        oracle.dumps([12, 1, True, b"\x00"]),
        oracle.dumps([12, 1, True, b"\x82\x08"]),
    ],
)
def test_frame_without_a_message_is_refused(body: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        FrameReader().feed(oracle.body_frame(body))


@given(st.binary(max_size=60), randoms)
def test_reader_of_any_bytes_gives_messages_or_peerprotocolerror(data: bytes, rng: random.Random) -> None:
    for stream in (data, oracle.body_frame(data) if data else b"", oracle.frame([8, 1, data]) + data):
        try:
            assert all(isinstance(message, list) for message in read(cut(stream, rng)))
        except PeerProtocolError:
            continue


# ---- memory


def test_codec_operations_leak_nothing() -> None:
    good = [9, 7, [[1, 2, 3, bytes(16), b"value" * 20]], None, {"text": [True, -1, 1.5]}]
    encoded = dumps(good)
    loose = oracle.any_encoding(good, random.Random(5))
    bad = [b"", b"\x82\x01", b"\x5f\x41a\x00", b"\x9f\x41a", b"\xa1\x41a", b"\xa1\x80\x00", b"\x62\xff\xff"]
    reader = FrameReader()

    def turn(i: int) -> None:
        framed = frame(good)
        reader.feed(framed[:30])
        reader.feed(framed[30:] + b"".join(oracle.part_frames(encoded, i, [10, 30])))
        for _ in range(2):
            loads(encoded)
            loads(loose)
            dumps(good)
        if i % 16 == 0:
            for call, error in (
                (lambda: loads(bad[i // 16 % len(bad)]), ValueError),
                (lambda: dumps([b"begun", object()]), TypeError),
                (lambda: FrameReader().feed(framed + bytes(4)), PeerProtocolError),
            ):
                with pytest.raises(error):
                    call()

    assert_no_leak(turn, per_turn=9)
