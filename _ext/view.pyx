"""Who serves which partition, and who stands in, as one node sees it; and how seats are counted.

R and W count distinct seats on distinct hosts (docs/architecture.md, "Seats"): `distinct_seats` is that number. The
node writes the rows of a `View` when members or seats change; the request path reads them.

May not: send anything, or decide who should serve what.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.bytearray cimport PyByteArray_AS_STRING

from dynafast._ext.codec cimport load_be

cdef enum:
    LINK_BACKLOG_MAX = 64 * 1024 * 1024   # a replica with more unsent is taken for unreachable
    COUNTED_MAX = 64                # answers that can be counted at once
    NODE_ID_SIZE = 8

cdef double LATENCY_SHARE = 0.1     # of the newest answer in a peer's smoothed latency


cdef bint _seat_host(const uint8_t *masks, int host, int *holder, int *visited) noexcept:
    """Kuhn's augmenting step: find a seat for *host*, moving earlier hosts to other seats of theirs if need be."""
    cdef int seat
    for seat in range(SEATS_MAX):
        if masks[host] >> seat & 1 and not visited[0] >> seat & 1:
            visited[0] |= 1 << seat
            if holder[seat] < 0 or _seat_host(masks, holder[seat], holder, visited):
                holder[seat] = host
                return True
    return False


cdef int count_seats(const uint8_t *masks, const int *hosts, int count) noexcept:
    """Return the largest number of distinct seats on distinct hosts: a matching of hosts with seats.

    *count* is at most COUNTED_MAX.
    """
    cdef uint8_t[COUNTED_MAX] merged
    cdef int[COUNTED_MAX] names
    cdef int[SEATS_MAX] holder
    cdef int i, j, distinct = 0, total = 0, visited
    for i in range(count):
        if masks[i] == 0:
            continue
        for j in range(distinct):
            if names[j] == hosts[i]:
                merged[j] |= masks[i]
                break
        else:
            names[distinct] = hosts[i]
            merged[distinct] = masks[i]
            distinct += 1
    for i in range(SEATS_MAX):
        holder[i] = -1
    for i in range(distinct):
        visited = 0
        if _seat_host(merged, i, holder, &visited):
            total += 1
    return total


def distinct_seats(answers):
    """Return the largest number of distinct seats on distinct hosts among *answers* ``(host, seats as bits)``.

    At most 64 answers. This is what R and W count (docs/architecture.md, "Seats").
    """
    cdef uint8_t[COUNTED_MAX] masks
    cdef int[COUNTED_MAX] hosts
    cdef int count = 0
    for host, mask in answers:
        if count == COUNTED_MAX:
            raise ValueError(f"at most {COUNTED_MAX} answers")
        hosts[count] = host
        masks[count] = mask
        count += 1
    return count_seats(masks, hosts, count)


cdef class Peer:
    """A member as the request path sees it. ``link`` is set while requests can be sent to it."""

    def __init__(self, *, bytes id not None, str name not None, int host, bint me=False):
        if len(id) != NODE_ID_SIZE:
            raise ValueError(f"a node id has {NODE_ID_SIZE} bytes, got {len(id)}")
        self.id = id
        self.number = load_be(<const uint8_t *>PyBytes_AS_STRING(id), NODE_ID_SIZE)
        self.name = name
        self.host = host
        self.me = me

    cdef bint reachable(self) noexcept:
        return self.me or (
            self.link is not None and not self.suspected and not self.link.lost
            and self.link.out.size < LINK_BACKLOG_MAX
        )

    cdef int answered(self, int64_t took_ns) noexcept:
        """Take one answer of the request path into the smoothed latency."""
        if self.latency_ns == 0:
            self.latency_ns = <double>took_ns
        else:
            self.latency_ns += LATENCY_SHARE * (<double>took_ns - self.latency_ns)
        return 0

    @property
    def usable(self):
        """Whether requests go to it: linked, not suspected, and taking what it is sent."""
        return self.reachable()


cdef class View:
    """Who serves which partition. Its rows are replaced, never changed: a request keeps the row it began with.

    Args:
        partitions: a power of two.
        replicas: N.

    Attributes:
        peers: all members.
        holders: per partition the peers that serve a seat of it, in preference order, at most 8.
        extras: per partition the targets that serve no seat of it: they get every write, and are not counted.
        orders: per partition one peer for each host, in preference order: who stands in.
        own: per partition the seats of this node, as bits.
        most: distinct hosts that quorums may ask for, 1..N.
    """

    def __init__(self, *, Py_ssize_t partitions, int replicas):
        if partitions <= 0 or partitions & (partitions - 1):
            raise ValueError(f"the number of partitions must be a power of two, got {partitions}")
        self.peers = ()
        self.holders = [()] * partitions
        self.extras = [()] * partitions
        self.orders = [()] * partitions
        self.masks = bytearray(SEATS_MAX * partitions)
        self.own = bytearray(partitions)
        self.shift = 64 - (<object>partitions).bit_length() + 1
        self.replicas = replicas
        self.most = 1

    def set_peers(self, peers, int most):
        """Take over the members, and the number of distinct hosts that quorums may ask for."""
        self.peers = tuple(peers)
        self.most = most

    def set_row(self, Py_ssize_t partition, holders, extras, order):
        """Replace the rows of one partition.

        Args:
            holders: ``(peer, seats as bits)``, in preference order, at most 8.
            extras: targets without a seat.
            order: one peer for each host, in preference order.
        """
        cdef Py_ssize_t place, first = SEATS_MAX * partition
        cdef bytearray masks = bytearray(SEATS_MAX)
        cdef int mine = 0
        if not 0 <= partition < len(self.holders):
            raise IndexError(f"partition {partition} of {len(self.holders)}")
        if len(holders) > SEATS_MAX:
            raise ValueError(f"partition {partition} has more than {SEATS_MAX} holders")
        for place, (peer, seats) in enumerate(holders):
            masks[place] = seats
            if (<Peer?>peer).me:
                mine = seats
        self.masks[first:first + SEATS_MAX] = masks
        self.own[partition] = mine
        self.holders[partition] = tuple([peer for peer, _ in holders])
        self.extras[partition] = tuple(extras)
        self.orders[partition] = tuple(order)

    def seats(self, Py_ssize_t partition):
        """Return ``(peer, seats as bits)`` of those who serve *partition*, in preference order."""
        cdef tuple row = self.holders[partition]
        return [(row[place], self.masks[SEATS_MAX * partition + place]) for place in range(len(row))]

    cdef Py_ssize_t locate(self, uint64_t position) noexcept:
        return 0 if self.shift == 64 else <Py_ssize_t>(position >> self.shift)

    cdef uint8_t mine(self, Py_ssize_t partition) noexcept:
        return (<const uint8_t *>PyByteArray_AS_STRING(self.own))[partition]

    cdef const uint8_t *row(self, Py_ssize_t partition) noexcept:
        return <const uint8_t *>PyByteArray_AS_STRING(self.masks) + SEATS_MAX * partition
