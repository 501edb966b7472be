"""The compiled dotted version sets against their definition, and the stories that they are there for."""

import random
from typing import Any

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dynafast._ext.clock import (
    AFTER,
    BEFORE,
    CONCURRENT,
    EQUAL,
    Record,
    open_context,
    seal_context,
)
from dynafast.errors import BadContextError, InvariantViolation
from tests.ext.leaks import assert_no_leak
from tests.oracle import clock as oracle
from tests.oracle import codec

TOP = 2**64 - 1
ACTORS = (0, 1, 2, 2**63, TOP)
RELATIONS = {"equal": EQUAL, "before": BEFORE, "after": AFTER, "concurrent": CONCURRENT}

KEY, CLUSTER = b"basket", bytes(range(16))


def row_of(dot: tuple[int, int]) -> oracle.Version:
    """Return the version of a dot: a dot belongs to one write, so all that is in it follows from the dot."""
    rng = random.Random(f"{dot}")
    write_id = bytes([rng.randrange(4)]) * 16  # few, so that some are there twice
    return (*dot, rng.getrandbits(64), write_id, rng.choice([None, b"", b"milk", rng.randbytes(300)]))


@st.composite
def records(draw: st.DrawFn) -> oracle.Record:
    """Any valid record over few actors and counters, so that two of them often meet."""
    context = draw(st.dictionaries(st.sampled_from(ACTORS), st.integers(1, 4)))
    seen = [(actor, n) for actor in context for n in range(1, context[actor] + 1)]
    dots = draw(st.sets(st.sampled_from(seen), max_size=6)) if seen else set()
    entries = [row_of((actor, counter))[:3] for actor, counter in context.items()]
    return oracle.record(entries, [row_of(dot) for dot in dots])


numbers = st.sampled_from([0, 1, 23, 24, 255, 256, 2**32, TOP]) | st.integers(0, TOP)
randoms = st.integers(0, 2**32).map(random.Random)


@st.composite
def wide_records(draw: st.DrawFn) -> oracle.Record:
    """Any valid record with numbers, write ids and values of all sizes: for encodings."""
    context = draw(st.dictionaries(numbers, st.tuples(numbers.map(lambda n: n or 1), numbers), max_size=5))
    rows = []
    for actor, (counter, time) in context.items():
        for n in draw(st.sets(st.sampled_from([1, counter, (counter + 1) // 2]), max_size=2)):
            value = draw(st.none() | st.binary(max_size=300))
            rows.append((actor, n, time, draw(st.binary(min_size=16, max_size=16)), value))
    return oracle.record([(a, n, t) for a, (n, t) in context.items()], rows)


def native(record: oracle.Record) -> Record:
    return Record(record.entries(), record.rows())


def content(record: Record) -> tuple[Any, Any]:
    return record.context, record.versions


def expected(record: oracle.Record) -> tuple[Any, Any]:
    return tuple(record.entries()), tuple(record.rows())


# ---- the algebra


@given(wide_records(), randoms)
def test_record_of_parts_in_any_order_has_them_sorted(record: oracle.Record, rng: random.Random) -> None:
    entries, rows = record.entries(), record.rows()
    rng.shuffle(entries)
    rng.shuffle(rows)
    assert content(Record(entries, rows)) == expected(record)
    assert content(Record(iter(entries), iter(rows))) == expected(record)


@settings(max_examples=150)
@given(records(), records())
def test_merge_equals_oracle_and_commutes(a: oracle.Record, b: oracle.Record) -> None:
    merged = native(a).merge(native(b))
    assert content(merged) == expected(oracle.merge(a, b))
    assert merged.encode() == native(b).merge(native(a)).encode()


@given(records(), records(), records())
def test_merge_is_associative_and_idempotent(a: oracle.Record, b: oracle.Record, c: oracle.Record) -> None:
    x, y, z = native(a), native(b), native(c)
    assert x.merge(y).merge(z).encode() == x.merge(y.merge(z)).encode()
    assert x.merge(x).encode() == x.encode()
    assert x.merge(y).merge(y).encode() == x.merge(y).encode()
    assert x.merge(Record()).encode() == x.encode()


@given(records(), records())
def test_merge_leaves_its_arguments_as_they_were(a: oracle.Record, b: oracle.Record) -> None:
    x, y = native(a), native(b)
    x.merge(y)
    x.compare(y)
    assert (content(x), content(y)) == (expected(a), expected(b))


@settings(max_examples=150)
@given(records(), records())
def test_compare_equals_oracle_and_mirrors(a: oracle.Record, b: oracle.Record) -> None:
    x, y = native(a), native(b)
    relation = x.compare(y)
    assert relation == RELATIONS[oracle.compare(a, b)]
    assert y.compare(x) == {BEFORE: AFTER, AFTER: BEFORE}.get(relation, relation)
    assert x.compare(x) == EQUAL
    assert x.merge(y).compare(x) in (EQUAL, AFTER)


@given(records(), records())
def test_digest_is_equal_exactly_when_the_records_are(a: oracle.Record, b: oracle.Record) -> None:
    x, y = native(a), native(b)
    assert (x.digest() == y.digest()) == (x.compare(y) == EQUAL)
    assert 0 <= x.digest() <= TOP


@given(records())
def test_digest_and_compare_look_at_no_time_and_no_value(a: oracle.Record) -> None:
    other = oracle.record(
        [(actor, n, time ^ 1) for actor, n, time in a.entries()],
        [(actor, n, time ^ 1, write_id, b"other") for actor, n, time, write_id, _ in a.rows()],
    )
    assert native(a).digest() == native(other).digest()
    assert native(a).compare(native(other)) == EQUAL


@given(records(), records(), st.booleans(), st.sampled_from([0, 3, 2**64 - 2]))
def test_put_equals_oracle(a: oracle.Record, b: oracle.Record, informed: bool, new_actor: int) -> None:
    """With the context of a read somewhere, or none, under an actor in use or a new one."""
    seen = b.entries() if informed else []
    for actor in (*a.context, new_actor):
        known = oracle.record(seen, [])
        counter = max(a.context.get(actor, 0), known.context.get(actor, 0)) + 1
        row = row_of((actor, counter))
        new = native(a).put(
            actor=actor,
            counter=counter,
            time=row[2],
            write_id=row[3],
            value=row[4],
            context=seen if informed else None,
        )
        assert content(new) == expected(oracle.put(a, row, seen))


@given(records())
def test_put_with_the_context_of_a_read_leaves_one_version_and_without_one_more(a: oracle.Record) -> None:
    record = native(a)
    version: dict[str, Any] = {"actor": 9, "counter": 1, "time": 5, "write_id": bytes(16), "value": b"new"}
    resolved = record.put(**version, context=record.context)
    assert resolved.versions == ((9, 1, 5, bytes(16), b"new"),)
    assert resolved.compare(record) == AFTER
    assert len(record.put(**version).versions) == len(a.versions) + 1


@pytest.mark.parametrize("counter", [1, 2, 3])
@pytest.mark.parametrize("covered_by", ["record", "client"])
def test_put_of_a_dot_that_exists_is_a_bug_of_ours(counter: int, covered_by: str) -> None:
    """Its version would silently be taken for an old one, everywhere."""
    context = [(7, 3, 0)]
    record = Record(context) if covered_by == "record" else Record()
    with pytest.raises(InvariantViolation):
        record.put(actor=7, counter=counter, time=0, write_id=bytes(16), value=b"", context=context)


@given(records())
def test_live_equals_oracle(a: oracle.Record) -> None:
    assert native(a).live() == oracle.live(a)


@pytest.mark.parametrize(
    ("versions", "live"),
    [
        ([], 0),
        ([(1, b"a", b"x"), (2, b"b", b"y")], 2),
        ([(1, b"a", b"x"), (2, b"a", b"x")], 1),  # one write, stored by two coordinators
        ([(1, b"a", b"x"), (2, b"b", b"x"), (3, b"a", b"x")], 2),
        ([(1, b"a", None)], 0),
        ([(1, b"a", None), (2, b"a", b"x")], 1),  # a tombstone does not hide a value of the same id
        ([(1, b"a", b"x"), (2, b"a", None)], 1),
        ([(1, b"a", b""), (2, b"b", None)], 1),  # an empty value is a value
    ],
)
def test_live_counts_values_by_write_id(versions: list[tuple[int, bytes, bytes | None]], live: int) -> None:
    rows = [(n, 1, 0, write_id * 16, value) for n, write_id, value in versions]
    assert Record([row[:3] for row in rows], rows).live() == live


# ---- stories


def put(record: Record, actor: int, value: bytes, context: Any = None) -> Record:
    """Write as a coordinator does: the next dot of its own actor."""
    counter = next((n for a, n, _ in record.context if a == actor), 0) + 1
    write_id = value.ljust(16, b".")[:16]
    return record.put(actor=actor, counter=counter, time=0, write_id=write_id, value=value, context=context)


def clock(record: Record) -> dict[int, int]:
    return {actor: counter for actor, counter, _ in record.context}


def values(record: Record) -> list[bytes | None]:
    return [version[4] for version in record.versions]


def test_figure_3_of_the_paper() -> None:
    """Dynamo (SOSP 2007), section 4.4: D1 to D5, with the clocks that are printed there."""
    sx, sy, sz = 1, 2, 3
    d1 = put(Record(), sx, b"D1")
    assert clock(d1) == {sx: 1}
    d2 = put(d1, sx, b"D2", d1.context)
    assert clock(d2) == {sx: 2}
    d3 = put(d2, sy, b"D3", d2.context)
    d4 = put(d2, sz, b"D4", d2.context)
    assert (clock(d3), clock(d4)) == ({sx: 2, sy: 1}, {sx: 2, sz: 1})
    assert (values(d2), values(d3), values(d4)) == ([b"D2"], [b"D3"], [b"D4"])
    assert (d1.compare(d2), d2.compare(d3), d2.compare(d4)) == (BEFORE, BEFORE, BEFORE)
    assert d3.compare(d4) == CONCURRENT
    read = d3.merge(d4)
    assert values(read) == [b"D3", b"D4"]
    assert clock(read) == {sx: 2, sy: 1, sz: 1}
    d5 = put(read, sx, b"D5", read.context)
    assert clock(d5) == {sx: 3, sy: 1, sz: 1}
    assert values(d5) == [b"D5"]
    assert {d5.compare(old) for old in (d1, d2, d3, d4, read)} == {AFTER}
    assert {values(d5.merge(old))[0] for old in (d1, d2, d3, d4, read)} == {b"D5"}


@pytest.mark.parametrize("stale", [1, 2, 3])
def test_two_writers_each_always_stale_never_pile_up_versions(stale: int) -> None:
    """200 turns on one node, each put ignorant of the last *stale* writes: plain clocks keep everything."""
    record, plain = Record(), oracle.PlainObject()
    contexts: list[Any] = [()] * (stale + 1)
    clocks: list[dict[str, int]] = [{}] * (stale + 1)
    for turn in range(200):
        value = b"%d" % turn
        record = put(record, 1, value, contexts.pop(0))
        contexts.append(record.context)
        clocks.append(plain.put("node", value, clocks.pop(0)))
        assert len(record.versions) <= stale + 1 <= 4
        assert record.live() == len(record.versions)
        assert value in values(record)
    assert values(record) == [b"%d" % turn for turn in range(199 - stale, 200)]
    assert len(plain.values) == 200


@pytest.mark.parametrize("seed", range(40))
def test_any_history_keeps_exactly_what_no_writer_has_seen(seed: int) -> None:
    """Nothing is lost, nothing comes back, and replicas that have heard everything are equal.

    Puts at three replicas with contexts read anywhere at any time, records sent around in any order.
    """
    rng = random.Random(seed)
    replicas = [Record() for _ in range(3)]
    slow = [oracle.Record() for _ in range(3)]
    contexts: list[Any] = [()]
    written: set[tuple[int, int]] = set()
    replaced: set[tuple[int, int]] = set()
    for step in range(rng.choice([10, 80])):
        here = rng.randrange(3)
        if rng.random() < 0.5:
            context = rng.choice([None, rng.choice(contexts), replicas[here].context])
            replicas[here] = put(replicas[here], here, b"%d" % step, context)
            dot = (here, clock(replicas[here])[here])
            row = next(v for v in replicas[here].versions if v[:2] == dot)
            slow[here] = oracle.put(slow[here], row, context or ())
            replaced |= {d for d in written if oracle.record(context or (), []).has_seen(d)}
            written.add(dot)
        else:
            there = rng.randrange(3)
            replicas[here] = replicas[here].merge(Record.decode(replicas[there].encode()))
            slow[here] = oracle.merge(slow[here], slow[there])
        contexts.append(replicas[here].context)
        assert content(replicas[here]) == expected(slow[here])
    final = []
    for _ in range(3):
        everything = Record()
        for replica in rng.sample(replicas, 3):
            everything = everything.merge(replica)
        final.append(everything)
    assert len({record.encode() for record in final}) == len({record.digest() for record in final}) == 1
    assert {version[:2] for version in final[0].versions} == written - replaced


# ---- bytes


@given(wide_records())
def test_encode_is_canonical_and_round_trips(record: oracle.Record) -> None:
    encoded = native(record).encode()
    assert encoded == codec.dumps(oracle.item(record))
    assert content(Record.decode(encoded)) == expected(record)
    assert Record.decode(encoded).encode() == encoded


@given(wide_records(), randoms)
def test_decode_of_any_valid_encoding_gives_the_record(record: oracle.Record, rng: random.Random) -> None:
    """Non-minimal integers, indefinite arrays and byte strings."""
    decoded = Record.decode(codec.any_encoding(oracle.item(record), rng))
    assert content(decoded) == expected(record)
    assert decoded.encode() == native(record).encode()


def test_decode_of_a_record_larger_than_any_value_round_trips() -> None:
    rows = [(n, 1, 0, bytes(16), bytes([n]) * 8_000_000) for n in range(3)]
    record = Record([row[:3] for row in rows], rows)
    assert Record.decode(record.encode()).versions == record.versions
    many = Record([(0, 5000, 0)], [(0, n, 0, bytes(16), None) for n in range(1, 5001)])
    assert Record.decode(many.encode()).encode() == many.encode()


def decoded(data: bytes) -> Record | None:
    """Return the record, or None if the bytes are refused as they should be."""
    try:
        return Record.decode(data)
    except ValueError:
        return None


def assert_same_reading(data: bytes) -> None:
    """Whatever the bytes are: the oracle reads the same record, or both refuse."""
    try:
        theirs = oracle.parse(codec.loads(data))
    except ValueError:
        assert decoded(data) is None
        return
    ours = decoded(data)
    assert ours is not None
    assert content(ours) == expected(theirs)


@given(wide_records(), randoms)
def test_decode_of_a_truncated_or_continued_record_is_refused(record: oracle.Record, rng: random.Random) -> None:
    for data in (native(record).encode(), codec.any_encoding(oracle.item(record), rng)):
        for cut in {0, len(data) - 1, rng.randrange(len(data))}:
            assert decoded(data[:cut]) is None
        for tail in (b"\x00", b"\xff", data):
            assert decoded(data + tail) is None


@given(st.binary(max_size=60))
@example(b"\x82\x9b\xff\xff\xff\xff\xff\xff\xff\xff\x80")  # claims of more than there is
@example(b"\x82\x80\x9b\x7f\xff\xff\xff\xff\xff\xff\xff")
@example(b"\x82\x81\x83\x01\x01\x00\x81\x85\x01\x01\x00\x5b\xff\xff\xff\xff\xff\xff\xff\xff")
@example(b"\x82" * 100_000)
@example(b"\x9f" * 100_000)
@example(b"\x82\x80\x80\x00")
def test_decode_of_any_bytes_gives_a_record_or_valueerror(data: bytes) -> None:
    assert_same_reading(data)


@given(wide_records(), randoms)
def test_decode_of_a_damaged_record_gives_a_record_or_valueerror(record: oracle.Record, rng: random.Random) -> None:
    data = bytearray(codec.any_encoding(oracle.item(record), rng))
    for _ in range(5):
        place = rng.randrange(len(data))
        data[place] = rng.choice([data[place] ^ 1 << rng.randrange(8), 0xFF, 0x5F, 0x9F, 0x1B, 0xF6, 0x80])
        assert_same_reading(bytes(data))


odd_numbers = st.sampled_from([0, 1, -1, TOP, TOP + 1, 1.0, 1.5, True, None, "1", b"1", [1], {1: 1}])
odd_rows = (
    st.lists(odd_numbers, max_size=6)
    | st.tuples(st.just(1), odd_numbers, st.just(0)).map(list)
    | st.tuples(st.just(1), odd_numbers, st.just(0), st.just(bytes(16)), odd_numbers).map(list)
    | st.sampled_from([b"abc", b"abcde", "abc", {1: 2, 3: 4, 5: 6}, {0: 1}, 7, None])
)
odd_parts = st.lists(odd_rows, max_size=3) | st.sampled_from([b"", "", {}, 0, None, b"abc", {1: 2}])


@settings(max_examples=200)
@given(st.tuples(odd_parts, odd_parts) | st.lists(odd_parts, max_size=3) | odd_parts)
@example([[[1, 2, 0], [1, 1, 0]], []])  # an actor twice
@example([[[2, 1, 0], [1, 1, 0]], []])  # out of order
@example([[[1, 2, 0]], [[1, 1, 0, bytes(16), b""]] * 2])  # a dot twice
@example([[[1, 2, 0]], [[1, 3, 0, bytes(16), b""]]])  # a version that the context has not seen
@example([[[1, 2, 0]], [[2, 1, 0, bytes(16), b""]]])
@example([[[1, 0, 0]], []])  # counters begin with 1
@example([[[1, 1, 0]], [[1, 0, 0, bytes(16), b""]]])
@example([[[1, 1, 0]], [[1, 1, 0, bytes(15), b""]]])
@example([[[1, 1, 0]], [[1, 1, 0, bytes(17), b""]]])
@example([[[1, 1, 0]], [[1, 1, 0, None, b""]]])
@example([[[1, 1, 0]], [[1, 1, 0, "0123456789abcdef", b""]]])
@example([[[1, 1, 0]], [[1, 1, 0, bytes(16), "text"]]])
@example([[[TOP + 1, 1, 0]], []])
@example([[[1.0, 1, 0]], []])
@example([[[True, 1, 0]], []])
@example([[b"abc"], []])
@example([[{1: 2}], []])  # its element 0 is a missing key
@example([[], [{0: 0, 1: 1, 2: 2, 3: 3, 4: 4}]])
@example(["", b""])
@example({b"": 0, "": 0})
def test_decode_of_any_other_item_is_refused(item: Any) -> None:
    assert_same_reading(cbor2.dumps(item))


def test_decode_of_entries_that_hold_themselves_is_refused() -> None:
    """Shared references of CBOR make lists whose comparison never ends."""
    entry = b"\xd8\x1c\x83\xd8\x1d%c\x01\x00"
    assert decoded(b"\x82\x82" + entry % b"\x00" + entry % b"\x01" + b"\x80") is None


@pytest.mark.parametrize(
    ("context", "versions"),
    [
        ([(1, 1, 0), (1, 2, 0)], []),
        ([(1, 0, 0)], []),
        ([(-1, 1, 0)], []),
        ([(TOP + 1, 1, 0)], []),
        ([(1, 1, TOP + 1)], []),
        ([], [(1, 1, 0, bytes(16), b"")]),
        ([(1, 1, 0)], [(1, 2, 0, bytes(16), b"")]),
        ([(1, 1, 0)], [(1, 0, 0, bytes(16), b"")]),
        ([(1, 1, 0)], [(1, 1, 0, bytes(16), b"")] * 2),
        ([(1, 1, 0)], [(1, 1, 0, bytes(15), b"")]),
        ([(1, 1)], []),
        ([(1, 1, 0)], [(1, 1, 0, bytes(16))]),
    ],
)
def test_record_of_malformed_parts_is_refused(context: list[Any], versions: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Record(context, versions)


# ---- client contexts


@given(wide_records(), st.binary(max_size=40), st.binary(min_size=16, max_size=16))
def test_sealed_context_opens_under_its_own_key_and_cluster_only(
    record: oracle.Record, key: bytes, cluster: bytes
) -> None:
    entries = tuple(record.entries())
    sealed = seal_context(entries, key, cluster)
    assert open_context(sealed, key, cluster) == entries
    others = [(key + b"\x00", cluster), (b"x" + key, cluster), (key[:-1] or b"y", cluster)]
    for other_key, other_cluster in [*others, (key, cluster[1:] + bytes([cluster[0] ^ 1]))]:
        if (other_key, other_cluster) != (key, cluster):
            with pytest.raises(BadContextError):
                open_context(sealed, other_key, other_cluster)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_sealed_context_with_any_flipped_bit_is_refused(count: int) -> None:
    entries = [(actor, actor + 1, TOP - actor) for actor in range(count)]
    sealed = seal_context(entries, KEY, CLUSTER)
    for place in range(len(sealed)):
        for bit in range(8):
            damaged = bytearray(sealed)
            damaged[place] ^= 1 << bit
            with pytest.raises(BadContextError):
                open_context(bytes(damaged), KEY, CLUSTER)


def test_sealed_context_cut_continued_or_joined_is_refused() -> None:
    one, two = (seal_context([(n, 1, 0)], KEY, CLUSTER) for n in (1, 2))
    wrong = [one[:size] for size in range(len(one))] + [one + b"\x00", one + one, one[:-8] + two[-8:]]
    # Bytes moved between the entries and the key must not be taken for each other.
    wrong += [seal_context([], KEY, CLUSTER)[:-8] + one[-8:], seal_context([], one[5:29] + KEY, CLUSTER)]
    for damaged in wrong:
        with pytest.raises(BadContextError):
            open_context(damaged, KEY, CLUSTER)


@given(st.binary(max_size=80))
def test_open_of_any_bytes_raises_badcontexterror(data: bytes) -> None:
    with pytest.raises(BadContextError):
        open_context(data, KEY, CLUSTER)


def test_seal_of_entries_that_are_no_context_is_refused() -> None:
    with pytest.raises(ValueError, match="distinct"):
        seal_context([(1, 1, 0), (1, 2, 0)], KEY, CLUSTER)


# ---- memory


def test_record_operations_leak_nothing() -> None:
    a = Record([(1, 9, 5), (2, 3, 6)], [(1, 9, 5, bytes(16), b"v" * 700), (2, 1, 4, bytes(16), None)])
    b = Record([(1, 8, 5), (3, 1, 6)], [(1, 8, 5, bytes(16), b"w" * 700), (3, 1, 6, bytes(16), b"x" * 700)])
    encoded = a.encode()
    loose = codec.any_encoding(codec.loads(encoded), random.Random(3))
    version: dict[str, Any] = {"actor": 7, "counter": 1, "time": 1, "write_id": bytes(16)}
    sealed = seal_context(a.context, KEY, CLUSTER)

    def turn(i: int) -> None:
        merged = a.merge(b)
        merged = merged.merge(Record.decode(encoded))
        new = merged.put(value=b"%d" % i * 100, context=a.context, **version)
        merged.put(value=None, **version).encode()
        new.compare(merged)
        merged.compare(new)
        new.digest()
        new.live()
        Record.decode(new.encode())
        if i % 16 == 0:
            Record(new.context, new.versions)
            Record.decode(loose)
            open_context(seal_context(a.context, KEY, CLUSTER), KEY, CLUSTER)
            for call, error in (
                (lambda: Record(a.context, [*a.versions, a.versions[0]]), ValueError),
                (lambda: Record([(1, 1, 1), (1, 2, 1)]), ValueError),
                (lambda: Record.decode(encoded[: i // 16 % len(encoded)]), ValueError),
                (lambda: Record.decode(loose[: i // 16 % len(loose)]), ValueError),
                (lambda: Record.decode(encoded + b"\x00"), ValueError),
                (lambda: a.put(value=b"y" * 50, **{**version, "actor": 1}), InvariantViolation),
                (lambda: open_context(sealed, b"other", CLUSTER), BadContextError),
            ):
                with pytest.raises(error):
                    call()

    assert_no_leak(turn, per_turn=12)
