"""Merkle trees: a write, a write whose root is read, and finding what differs.

A write is one call of `MerkleTree.replace`: leaf, old hash, new hash, and parents that are computed when somebody asks.
About half of its time is Python's loop and call. In a node the call is one of C, and costs a few nanoseconds.
"""

import random
from array import array
from collections.abc import Callable

from xxhash import xxh3_64_intdigest

from bench.micro.case import Case
from dynafast._ext.merkle import MerkleTree, differing
from tests.oracle import merkle as oracle

LEAVES = 4096
DEPTH = 3
INNER = (LEAVES - 1) // 15
WRITES = 1000
CHANGES = 20
MASK = 2**64 - 1

Write = tuple[int, int, int]  # leaf, old hash, new hash


class Plain:
    """The same tree in plain Python: one array, inner nodes hashed from the bytes of their children when asked for.

    The children of node i are 16*i+1 .. 16*i+16, as in the native tree. A node is dirty only if its ancestors are.
    """

    def __init__(self) -> None:
        self.nodes = array("Q", bytes(8 * (INNER + LEAVES)))
        self.view = memoryview(self.nodes).cast("B")
        self.dirty = bytearray(b"\1" * INNER)

    def replace(self, leaf: int, old: int, new: int) -> None:
        """Exchange the hash of one record in a leaf."""
        nodes, dirty = self.nodes, self.dirty
        node = INNER + leaf
        nodes[node] = (nodes[node] + new - old) & MASK
        node = (node - 1) >> 4
        while not dirty[node]:
            dirty[node] = 1
            if not node:
                break
            node = (node - 1) >> 4

    def root(self, node: int = 0) -> int:
        """Return the hash of a node, computing what is dirty below it."""
        dirty = self.dirty
        if node < INNER and dirty[node]:
            first = 16 * node + 1
            child = dirty.find(1, first, first + 16)  # there are no flags of leaves to be found
            while child >= 0:
                self.root(child)
                child = dirty.find(1, child + 1, first + 16)
            self.nodes[node] = xxh3_64_intdigest(self.view[8 * first : 8 * first + 128])
            dirty[node] = 0
        return self.nodes[node]

    def children(self, node: int) -> "array[int]":
        """Return the hashes of a node's children, none of them dirty."""
        first = 16 * node + 1
        if first < INNER:
            for child in range(first, first + 16):
                self.root(child)
        return self.nodes[first : first + 16]


def native_diff(a: MerkleTree, b: MerkleTree) -> list[int]:
    """Return the leaves that differ, going down from the root only where it does."""
    found = [0] if a.root() != b.root() else []
    for depth in range(1, DEPTH + 1):
        found = [
            16 * node + child
            for node in found
            for child in differing(a.level(depth, 16 * node, 16), b.level(depth, 16 * node, 16))
        ]
    return found


def plain_diff(a: Plain, b: Plain) -> list[int]:
    """Return the same in plain Python."""
    found = [0] if a.root() != b.root() else []
    for _ in range(DEPTH):
        below = []
        for node in found:
            ours, theirs = a.children(node), b.children(node)
            if ours != theirs:
                below += [16 * node + 1 + child for child in range(16) if ours[child] != theirs[child]]
        found = below
    return [node - INNER for node in found]


def _there_and_back(rng: random.Random) -> list[Write]:
    """Return writes after which the tree is as before: a benchmark runs them again and again."""
    there = [(rng.randrange(LEAVES), 0, rng.getrandbits(64)) for _ in range(WRITES // 2)]
    return there + [(leaf, new, 0) for leaf, _, new in there]


def cases() -> list[Case]:
    """Return updates and a diff of trees of 4096 leaves."""
    rng = random.Random("bench/merkle")
    writes = _there_and_back(rng)
    return [_updates(writes, read=False), _updates(writes, read=True), _diff(rng)]


def _updates(writes: list[Write], *, read: bool) -> Case:
    tree, plain, expected = MerkleTree(LEAVES), Plain(), oracle.Tree(LEAVES)

    def repeated(tree: MerkleTree | Plain) -> Callable[[], object]:
        replace, root = tree.replace, tree.root

        def update() -> object:
            for leaf, old, new in writes:
                replace(leaf, old, new)
            return root()

        def update_and_read() -> object:
            for leaf, old, new in writes:
                replace(leaf, old, new)
                root()
            return root()

        return update_and_read if read else update

    def verify() -> None:
        for leaf, old, new in writes[: WRITES // 4]:
            tree.replace(leaf, old, new)
            plain.replace(leaf, old, new)
            expected.replace(leaf, old, new)
        levels = expected.levels()
        assert (tree.root(), tree.dump()) == (levels[0][0], oracle.packed(levels[-1]))
        assert plain.nodes[INNER:].tolist() == levels[-1]
        fresh = Plain()  # its root by the shortest way: all leaves at once
        fresh.nodes[INNER:] = array("Q", levels[-1])
        assert plain.root() == fresh.root()
        for leaf, _, new in writes[: WRITES // 4]:
            tree.replace(leaf, new, 0)
            plain.replace(leaf, new, 0)

    return Case(
        name="merkle update and root" if read else "merkle update",
        against="array, xxhash",
        calls=len(writes),
        ours=repeated(tree),
        baseline=repeated(plain),
        verify=verify,
        aim=10,
        floor=11 if read else 7,
    )


def _diff(rng: random.Random) -> Case:
    hashes = [rng.getrandbits(64) for _ in range(LEAVES)]
    others = list(hashes)
    for leaf in rng.sample(range(LEAVES), CHANGES):
        others[leaf] ^= 1
    trees, plains = [MerkleTree(LEAVES) for _ in range(2)], [Plain() for _ in range(2)]
    for tree, plain, leaves in zip(trees, plains, (hashes, others), strict=True):
        tree.load(oracle.packed(leaves))
        plain.nodes[INNER:] = array("Q", leaves)

    def verify() -> None:
        expected = oracle.differing(hashes, others)
        assert len(expected) == CHANGES
        assert native_diff(*trees) == plain_diff(*plains) == expected

    return Case(
        name=f"merkle diff, {CHANGES} of {LEAVES} leaves",
        against="array, xxhash",
        calls=1,
        ours=lambda: native_diff(*trees),
        baseline=lambda: plain_diff(*plains),
        verify=verify,
        floor=6,
    )
