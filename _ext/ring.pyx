"""Consistent hashing: tokens on a circle of 64-bit positions, and the nodes each token prefers.

Source: Dynamo (SOSP 2007), sections 4.2, 4.3 and 4.6. Does: lookup by binary search, preference lists ready for every
token, the clockwise walk of the paper. May not: choose who owns what (`dynafast.core.ownership`), hash keys, or change
after it was made; so lookups need no lock.
"""

from array import array

cimport cython
from cpython.array cimport array
from cpython.mem cimport PyMem_Calloc, PyMem_Free


@cython.final
cdef class Ring:
    """Tokens with their preference lists.

    Args:
        tokens: unsigned 64-bit, strictly increasing, at least one. Token i owns the positions above token i-1 up to
            and including itself; positions above the last token belong to the first.
        preference: one row per token: indexes of distinct nodes, the most preferred first, at least one.

    Raises:
        ValueError: the tokens do not increase, a row is empty or names a node twice, or the lengths differ.
        OverflowError: a token or an index is negative or too large.
    """

    def __cinit__(self, tokens, preference):
        cdef Py_ssize_t i, total
        if len(tokens) == 0 or len(tokens) != len(preference):
            raise ValueError(f"a ring of {len(tokens)} tokens and {len(preference)} rows: need as many, at least one")
        self.rows = [tuple(row) for row in preference]
        self.tokens = <uint64_t *>PyMem_Calloc(len(tokens), sizeof(uint64_t))
        self.starts = <Py_ssize_t *>PyMem_Calloc(len(tokens) + 1, sizeof(Py_ssize_t))
        total = sum(map(len, self.rows))
        self.nodes = <uint16_t *>PyMem_Calloc(total + 1, sizeof(uint16_t))
        if self.tokens == NULL or self.starts == NULL or self.nodes == NULL:
            raise MemoryError
        for i in range(len(tokens)):
            self.tokens[i] = tokens[i]
            if i and self.tokens[i] <= self.tokens[i - 1]:
                raise ValueError(f"tokens must increase: token {i} is {tokens[i]} after {tokens[i - 1]}")
            self.fill_row(i, self.rows[i])
        self.count = len(tokens)
        self.fill_guide()

    def __dealloc__(self):
        PyMem_Free(self.tokens)
        PyMem_Free(self.starts)
        PyMem_Free(self.nodes)
        PyMem_Free(self.guide)

    cdef int fill_row(self, Py_ssize_t index, tuple row) except -1:
        cdef Py_ssize_t at = self.starts[index]
        if len(row) == 0 or len(set(row)) != len(row):
            raise ValueError(f"row {index} must name distinct nodes, at least one: {row}")
        for node in row:
            self.nodes[at] = node
            if self.nodes[at] == NODE_NONE:
                raise OverflowError(f"row {index} names node {node}: must be in 0..{NODE_NONE - 1}")
            at += 1
        self.starts[index + 1] = at
        return 0

    cdef int fill_guide(self) except -1:
        cdef Py_ssize_t bits = 1, bucket, token = 0
        while (<Py_ssize_t>1 << bits) < self.count:
            bits += 1
        self.shift = <int>(64 - bits)
        self.guide = <uint32_t *>PyMem_Calloc((<Py_ssize_t>1 << bits) + 1, sizeof(uint32_t))
        if self.guide == NULL:
            raise MemoryError
        for bucket in range(<Py_ssize_t>1 << bits):
            while token < self.count and self.tokens[token] < <uint64_t>bucket << self.shift:
                token += 1
            self.guide[bucket] = <uint32_t>token
        self.guide[<Py_ssize_t>1 << bits] = <uint32_t>self.count
        return 0

    cdef Py_ssize_t locate(self, uint64_t position) noexcept nogil:
        """Return the index of the token that owns *position*."""
        # The guide leaves about one token to look at, exactly one when the tokens are equally far apart.
        cdef const uint32_t *bucket = self.guide + (position >> self.shift)
        cdef Py_ssize_t low = bucket[0], length = bucket[1] - bucket[0], half
        while length > 0:
            half = length >> 1
            if self.tokens[low + half] < position:
                low += half + 1
                length -= half + 1
            else:
                length = half
        return 0 if low == self.count else low

    cdef const uint16_t *row(self, Py_ssize_t index, Py_ssize_t *size) noexcept nogil:
        """Return the row of a token, `size[0]` nodes; *index* must be in ``0..count - 1``."""
        size[0] = self.starts[index + 1] - self.starts[index]
        return self.nodes + self.starts[index]

    @staticmethod
    def walk(tokens, owners, *, hosts, zones, Py_ssize_t replicas):
        """Return the ring of a clockwise walk: from each token on, the nodes on distinct hosts as they come.

        The first *replicas* places go to distinct zones while there are unseen ones; hosts passed over for that follow
        in clockwise order. Every host that owns a token is in every row, by the first of its nodes on the way.

        Args:
            tokens: as for the ring itself.
            owners: one node index per token.
            hosts, zones: one label per node; nodes with equal host labels are one host.
            replicas: at least 1.

        Raises:
            ValueError: lengths differ, an owner is no index into *hosts*, or what the ring itself refuses.

        Cost: O(tokens * the way to the last host), for a ring that is made once.
        """
        return Ring(tokens, _walk_rows(owners, hosts, zones, replicas))

    def find(self, uint64_t position):
        """Return the index of the token that owns *position* (u64). A step or two in the mean, O(log tokens) at worst.

        Raises:
            OverflowError: the position is negative or above 2**64 - 1.
        """
        return self.locate(position)

    def preference(self, uint64_t position):
        """Return the nodes to ask for *position* (u64), the most preferred first; cost as of `find`.

        Raises:
            OverflowError: the position is negative or above 2**64 - 1.
        """
        return self.rows[self.locate(position)]

    def at(self, Py_ssize_t index):
        """Return the row of the token at *index*.

        Raises:
            IndexError: not in ``0..count - 1``.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"token {index} of a ring of {self.count}")
        return self.rows[index]


def equal_tokens(partitions):
    """Return the last positions of *partitions* equal parts of the circle, increasing.

    Raises:
        ValueError: not a power of two in 1..65536.
    """
    if not 1 <= partitions <= 65_536 or partitions & (partitions - 1):
        raise ValueError(f"partitions must be a power of two in 1..65536, got {partitions}")
    width = (1 << 64) // partitions
    return [(i + 1) * width - 1 for i in range(partitions)]


def _numbered(labels):
    """Return small integers that are equal where the labels are."""
    numbers = {}
    return array("q", [numbers.setdefault(label, len(numbers)) for label in labels])


def _walk_rows(owners, hosts, zones, Py_ssize_t replicas):
    cdef array owner = array("q", owners)
    cdef array host = _numbered(hosts), zone = _numbered(zones)
    cdef array host_seen = array("q", bytes(8 * len(host))), zone_seen = array("q", bytes(8 * len(zone)))
    cdef Py_ssize_t start, at, wanted, count = len(owner)
    cdef long long node, number
    cdef list rows = [], row, rest
    if len(host) != len(zone):
        raise ValueError(f"{len(host)} host labels for {len(zone)} zone labels: need as many")
    if replicas < 1:
        raise ValueError(f"replicas must be at least 1, got {replicas}")
    for number in owner:
        if not 0 <= number < len(host):
            raise ValueError(f"owner {number} of a token must be in 0..{len(host) - 1}")
    wanted = len({host[number] for number in owner})
    for start in range(count):
        row, rest = [], []
        at = start
        # A label is seen on this walk when it carries the walk's number: nothing to clear between walks.
        while len(row) + len(rest) < wanted:
            node = owner.data.as_longlongs[at]
            at = at + 1 if at + 1 < count else 0
            if host_seen.data.as_longlongs[host.data.as_longlongs[node]] == start + 1:
                continue
            host_seen.data.as_longlongs[host.data.as_longlongs[node]] = start + 1
            number = zone.data.as_longlongs[node]
            if len(row) < replicas and zone_seen.data.as_longlongs[number] != start + 1:
                zone_seen.data.as_longlongs[number] = start + 1
                row.append(node)
            else:
                rest.append(node)
        rows.append(row + rest)
    return rows
