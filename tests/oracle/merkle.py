"""A Merkle tree by its definition, computed anew for every question. Imports nothing of the package."""

FAN_OUT = 16
U64 = 2**64


def mix(x: int) -> int:
    """Return the finalizer of MurmurHash3."""
    x ^= x >> 33
    x = x * 0xFF51AFD7ED558CCD % U64
    x ^= x >> 33
    x = x * 0xC4CEB9FE1A85EC53 % U64
    return x ^ x >> 33


def parent(children: list[int]) -> int:
    """Return the hash of a node from the hashes of its children, in their order."""
    return sum(mix(child ^ (i + 1) * 0x9E3779B97F4A7C15 % U64) for i, child in enumerate(children)) % U64


class Tree:
    """One partition: for each segment, the hashes of the records in it."""

    def __init__(self, leaves: int) -> None:
        self.segments: list[list[int]] = [[] for _ in range(leaves)]

    def replace(self, leaf: int, old: int, new: int) -> None:
        """Exchange the hash of one record; 0 stands for no record. *old* is in the leaf."""
        if old:
            self.segments[leaf].remove(old)
        if new:
            self.segments[leaf].append(new)

    def levels(self) -> list[list[int]]:
        """Return the hashes of all levels, from the root down to the leaves."""
        levels = [[sum(records) % U64 for records in self.segments]]
        while len(levels[0]) > 1:
            below = levels[0]
            levels.insert(0, [parent(below[i : i + FAN_OUT]) for i in range(0, len(below), FAN_OUT)])
        return levels


def packed(hashes: list[int]) -> bytes:
    """Return hashes as they travel: 8 bytes each, big-endian."""
    return b"".join(h.to_bytes(8, "big") for h in hashes)


def leaf_of(position: int, partitions: int, leaves: int) -> int:
    """Return the leaf of a position: which of *leaves* equal parts of its partition it is in."""
    size = U64 // partitions
    return position % size // (size // leaves)


def differing(ours: list[int], theirs: list[int]) -> list[int]:
    """Return the indices at which two lists of hashes differ."""
    return [i for i in range(len(ours)) if ours[i] != theirs[i]]
