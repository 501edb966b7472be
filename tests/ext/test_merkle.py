"""The compiled Merkle tree against its definition, on every level, leaf and edge."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynafast._ext.merkle import MerkleTree, differing
from dynafast.errors import PeerProtocolError
from tests.ext.leaks import assert_no_leak
from tests.oracle import merkle as oracle

TOP = 2**64 - 1
LEAVES = (16, 256, 4096)

hashes = st.integers(1, TOP) | st.sampled_from([1, 2, TOP, TOP - 1, 2**63])
changes = st.lists(st.tuples(st.integers(0, 255), hashes), max_size=60)


def all_levels(tree: MerkleTree) -> list[bytes]:
    return [tree.level(depth, 0, 16**depth) for depth in range(tree.depth + 1)]


@pytest.mark.parametrize("leaves", LEAVES)
@pytest.mark.parametrize("seed", range(6))
def test_tree_under_random_changes_equals_oracle(leaves: int, seed: int) -> None:
    """Records come, change and go, and any node is asked for in between: both trees always agree."""
    rng = random.Random(f"{seed}/{leaves}")
    tree, slow = MerkleTree(leaves), oracle.Tree(leaves)
    for _ in range(12):
        for _ in range(rng.choice([0, 1, 2, 40])):
            leaf = rng.choice([0, leaves - 1, rng.randrange(leaves)])
            there = slow.segments[leaf]
            old = rng.choice([0, *there])
            new = rng.choice([0, rng.getrandbits(64), TOP])
            tree.replace(leaf, old, new)
            slow.replace(leaf, old, new)
        levels = slow.levels()
        # A few nodes first: what they leave clean and dirty must not change what is asked next.
        for _ in range(rng.randrange(4)):
            depth = rng.randrange(len(levels))
            first = rng.randrange(len(levels[depth]))
            count = rng.randint(0, len(levels[depth]) - first)
            assert tree.level(depth, first, count) == oracle.packed(levels[depth][first : first + count])
        if rng.random() < 0.7:
            assert tree.root() == levels[0][0]
            assert all_levels(tree) == [oracle.packed(level) for level in levels]


@given(changes, st.randoms(use_true_random=False))
def test_root_of_equal_contents_in_any_order_is_equal(pairs: list[tuple[int, int]], rng: random.Random) -> None:
    """Updates commute, whenever the root was asked for, and a record that came and went leaves no trace."""
    shuffled = rng.sample(pairs, len(pairs))
    one, other = MerkleTree(256), MerkleTree(256)
    for leaf, new in pairs:
        one.replace(leaf, 0, new)
    for leaf, new in shuffled:
        other.replace(leaf, 0, TOP)
        other.root()
        other.replace(leaf, TOP, new)
    assert one.root() == other.root()
    assert all_levels(one) == all_levels(other)
    for leaf, new in shuffled:
        one.replace(leaf, new, 0)
    assert one.root() == MerkleTree(256).root()


@given(changes, st.sets(st.integers(0, 255), max_size=12))
def test_descent_by_differing_finds_exactly_the_changed_leaves(pairs: list[tuple[int, int]], changed: set[int]) -> None:
    """Root, then only children of nodes that differ: the way two replicas compare."""
    ours, theirs = MerkleTree(256), MerkleTree(256)
    for leaf, new in pairs:
        ours.replace(leaf, 0, new)
        theirs.replace(leaf, 0, new)
    for leaf in changed:
        theirs.replace(leaf, 0, 1)
    nodes = [0]
    for depth in range(ours.depth + 1):
        found = []
        for first in nodes:
            start, count = (0, 1) if depth == 0 else (16 * first, 16)
            found += [start + i for i in differing(ours.level(depth, start, count), theirs.level(depth, start, count))]
        nodes = found
    assert nodes == sorted(changed)
    assert (ours.root() == theirs.root()) == (not changed)


@given(st.lists(st.tuples(hashes, hashes, st.booleans()), max_size=70))
def test_differing_equals_oracle(rows: list[tuple[int, int, bool]]) -> None:
    ours = [a for a, _, _ in rows]
    theirs = [a if same else b for a, b, same in rows]
    assert differing(oracle.packed(ours), oracle.packed(theirs)) == oracle.differing(ours, theirs)


def test_differing_in_one_bit_of_any_byte_is_found() -> None:
    ours = bytes(range(32))
    for place in range(32):
        for bit in range(8):
            theirs = bytearray(ours)
            theirs[place] ^= 1 << bit
            assert differing(ours, bytes(theirs)) == [place // 8]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(8, 16), (16, 8), (0, 8), (7, 7), (8, 9), (12, 12)],
)
def test_differing_of_lengths_no_correct_peer_sends_is_refused(ours: int, theirs: int) -> None:
    with pytest.raises(PeerProtocolError):
        differing(bytes(ours), bytes(theirs))


@pytest.mark.parametrize("leaves", LEAVES)
@pytest.mark.parametrize("partition_bits", [0, 1, 8, 16])
def test_leaf_of_position_equals_oracle_at_every_edge(leaves: int, partition_bits: int) -> None:
    """On, below and above the ends of segments, in the first, some and the last partition."""
    tree = MerkleTree(leaves)
    size = 2**64 >> partition_bits
    segment = size // leaves
    for partition in {0, (1 << partition_bits) // 2, (1 << partition_bits) - 1}:
        for leaf in {0, 1, leaves // 2, leaves - 1}:
            start = partition * size + leaf * segment
            assert tree.leaf_of(start, partition_bits) == leaf
            assert tree.leaf_of(start + segment - 1, partition_bits) == leaf
            for position in (max(start - 1, 0), start + 1, min(start + segment, TOP)):
                expected = oracle.leaf_of(position, 1 << partition_bits, leaves)
                assert tree.leaf_of(position, partition_bits) == expected


@given(st.integers(0, TOP), st.integers(0, 16), st.sampled_from(LEAVES))
def test_leaf_of_any_position_equals_oracle(position: int, partition_bits: int, leaves: int) -> None:
    assert MerkleTree(leaves).leaf_of(position, partition_bits) == oracle.leaf_of(position, 1 << partition_bits, leaves)


@settings(max_examples=30)
@given(changes, changes)
def test_load_of_a_dump_gives_the_same_tree(pairs: list[tuple[int, int]], before: list[tuple[int, int]]) -> None:
    """Whatever the loading tree held, and had computed, is gone."""
    saved, loaded = MerkleTree(256), MerkleTree(256)
    for leaf, new in pairs:
        saved.replace(leaf, 0, new)
    for leaf, new in before:
        loaded.replace(leaf, 0, new)
    loaded.root()
    loaded.load(saved.dump())
    assert all_levels(loaded) == all_levels(saved)
    loaded.replace(255, 0, 7)
    saved.replace(255, 0, 7)
    assert loaded.root() == saved.root()


@pytest.mark.parametrize("size", [0, 8, 127, 129, 2048])
def test_load_of_a_wrong_length_is_refused_and_changes_nothing(size: int) -> None:
    tree = MerkleTree(16)
    tree.replace(3, 0, 5)
    root = tree.root()
    with pytest.raises(ValueError, match="128 bytes"):
        tree.load(bytes(size))
    assert tree.root() == root


@pytest.mark.parametrize("leaves", [-16, 0, 1, 15, 17, 32, 1024, 65536, 2**70])
def test_tree_of_another_size_is_refused(leaves: int) -> None:
    with pytest.raises(ValueError, match="leaves must be"):
        MerkleTree(leaves)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("replace", (-1, 0, 0)),
        ("replace", (16, 0, 0)),
        ("replace", (2**70, 0, 0)),
        ("replace", (0, -1, 0)),
        ("replace", (0, 0, 2**64)),
        ("level", (-1, 0, 1)),
        ("level", (2, 0, 1)),
        ("level", (0, 0, 2)),
        ("level", (0, 2, 0)),
        ("level", (1, 16, 1)),
        ("level", (1, 0, 17)),
        ("level", (1, 8, 9)),
        ("level", (1, 0, -1)),
        ("level", (1, 2**63, 2**63)),  # the sum must not wrap
        ("leaf_of", (-1, 0)),
        ("leaf_of", (2**64, 0)),
        ("leaf_of", (0, 17)),
        ("leaf_of", (0, -1)),
    ],
)
def test_number_out_of_range_is_refused_and_changes_nothing(name: str, arguments: tuple[int, ...]) -> None:
    tree = MerkleTree(16)
    root = tree.root()
    with pytest.raises(ValueError, match="must be in 0"):
        getattr(tree, name)(*arguments)
    assert tree.root() == root


@pytest.mark.parametrize("number", [1.5, "1", None, b"1"])
def test_argument_that_is_no_integer_is_refused(number: object) -> None:
    """A float is refused too: cut down in silence it would put a record in another leaf."""
    with pytest.raises(TypeError):
        MerkleTree(16).replace(number, 0, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("leaves", "empty", "filled"),
    [
        (16, 0xB0F3FAF7F22F2946, 0x6035F4889FB95BF1),
        (256, 0xB116972AF3E94AA7, 0x47DE76CB9D6C9F50),
        (4096, 0xA3F278AD2CEC99BE, 0xC08D787936CFDFDC),
    ],
)
def test_tree_of_known_contents_has_the_documented_root(leaves: int, empty: int, filled: int) -> None:
    """Fixed numbers: nodes of different releases must be able to compare their trees."""
    tree = MerkleTree(leaves)
    assert tree.root() == empty
    tree.replace(0, 0, 1)
    tree.replace(leaves - 1, 0, TOP)
    assert tree.root() == filled


def test_tree_operations_leak_nothing() -> None:
    tree = MerkleTree(256)
    state = {"hash": 0}

    def turn(i: int) -> None:
        new = (i * 0x9E3779B97F4A7C15) & TOP or 1
        for leaf in (i & 255, 3, 255):
            tree.replace(leaf, 0, new)
        tree.root()
        differing(tree.level(1, 0, 16), tree.level(2, i & 128, 16))
        tree.replace(3, new, 0)
        tree.replace(tree.leaf_of(i, 16), 0, state["hash"])
        state["hash"] = new
        if i % 8 == 0:
            fresh = MerkleTree(16)
            fresh.load(tree.level(2, 0, 16))
            tree.load(tree.dump())
        if i % 32 == 0:
            for call, error in (
                (lambda: tree.replace(-1, 0, 0), ValueError),
                (lambda: differing(b"1", b""), PeerProtocolError),
            ):
                with pytest.raises(error):
                    call()

    assert_no_leak(turn, per_turn=10)
