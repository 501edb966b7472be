"""The heavy loops of ownership: choose columns (zones, hosts, nodes) for rows (partitions), and put them in order.

Every column ranks all rows by itself, whatever the other columns are, so that a new column takes rows over and
disturbs little else. Ranks are permutations, not free hashes: each column likes exactly one row best, one second best
and so on, which halves the scatter that free hashes have. From rank and share comes a score, and a row takes the
columns with the smallest. Two kinds of score, because no single one is fair to heavy and light columns alike:

* race, for one column per row: the expected value of that rank among exponential variables, over the share. The
  winner's chance is its share, and says nothing about the winning score.
* Pareto, for several: ``(2 rank + 1) / (2 rows - 2 rank - 1) * (rows - share) / share``. Each column is taken with a
  chance very near its share (B. Rosen, "On sampling with probability proportional to size", 1997); a walk clockwise
  falls far short of that for heavy nodes.

Bounds on each column's count hold by deferred acceptance (Gale and Shapley, 1962), whose result does not depend on
the order of events, and by exchanges for what that leaves.

Floats are sums and quotients of exact integers and shares, and products of two of them: IEEE rounds each step the same
way on every machine, and there is no product inside a sum that a compiler could fuse. No library logarithm may enter
for that reason. This module may not know what a node is, and keeps nothing between calls.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    COLUMNS_MAX = 0xFFFF


# Gaps of Shell's sort: M. Ciura's, continued by a factor of 2.25.
cdef Py_ssize_t[13] _GAPS = [44842, 19930, 8858, 3937, 1750, 701, 301, 132, 57, 23, 10, 4, 1]


cdef struct Keyed:
    uint64_t key
    uint32_t index


cdef inline bint _less(const Keyed *a, const Keyed *b) noexcept nogil:
    return a.key < b.key or (a.key == b.key and a.index < b.index)


cdef void _sort(Keyed *items, Py_ssize_t count) noexcept nogil:
    """Sort by key, then index. Shell's sort: nearly all calls are for a handful of columns, where it is at its best."""
    cdef Py_ssize_t gap, i, j
    cdef Keyed item
    for gap in _GAPS:
        for i in range(gap, count):
            item = items[i]
            j = i
            while j >= gap and _less(&item, &items[j - gap]):
                items[j] = items[j - gap]
                j -= gap
            items[j] = item


cdef inline uint64_t _key_of(double score) noexcept nogil:
    """Return an integer that orders as the scores do: IEEE numbers of one sign compare like their bits."""
    cdef uint64_t key
    memcpy(&key, &score, sizeof(key))
    return key


cdef inline uint64_t _mixed(uint64_t x) noexcept nogil:
    """Mix all bits (the finaliser of splitmix64): neighbouring rows must not get neighbouring hashes."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu
    return x ^ (x >> 31)


cdef void *_room(Py_ssize_t count, size_t size) except NULL:
    cdef void *memory = PyMem_Calloc(count + 1, size)
    if memory == NULL:
        raise MemoryError
    return memory


@cython.final
cdef class Ranks:
    """A permutation of rows, the one liked best at rank 0. Immutable.

    Args:
        seed: u64: whose permutation it is.
        rows: at least 1.
    """

    cdef Py_ssize_t rows
    cdef uint32_t *rank             # [row]
    cdef uint32_t *row_at           # [rank]: the inverse

    def __cinit__(self, uint64_t seed, Py_ssize_t rows):
        cdef Keyed *hashed
        cdef Py_ssize_t i
        if not 1 <= rows <= 0x7FFFFFFF:
            raise ValueError(f"rows must be in 1..{0x7FFFFFFF}, got {rows}")
        self.rows = rows
        self.rank = <uint32_t *>_room(rows, sizeof(uint32_t))
        self.row_at = <uint32_t *>_room(rows, sizeof(uint32_t))
        hashed = <Keyed *>_room(rows, sizeof(Keyed))
        for i in range(rows):
            hashed[i].key = _mixed(seed + <uint64_t>(i + 1) * 0x9E3779B97F4A7C15u)
            hashed[i].index = <uint32_t>i
        _sort(hashed, rows)
        for i in range(rows):
            self.put(i, hashed[i].index)
        PyMem_Free(hashed)

    def __dealloc__(self):
        PyMem_Free(self.rank)
        PyMem_Free(self.row_at)

    cdef void put(self, Py_ssize_t rank, uint32_t row) noexcept:
        self.row_at[rank] = row
        self.rank[row] = <uint32_t>rank

    @staticmethod
    def joined(parts, shares, *, Py_ssize_t place):
        """Return the ranks of a group of columns: by the score that is at *place* among its parts' in each row.

        With place 0 a row is liked as its best part likes it, so when the group gains a part and takes more rows for
        that, they are mostly rows that the new part has brought.

        Args:
            parts: the ranks of the columns, all over the same rows.
            shares: one per part.
            place: in ``0..len(parts) - 1``.
        """
        cdef _Scores scores = _Scores(parts, shares)
        cdef Ranks result
        cdef Keyed *by_row
        cdef Keyed *by_part = NULL
        cdef Py_ssize_t row, i
        if not 0 <= place < scores.columns:
            raise ValueError(f"place must be in 0..{scores.columns - 1}, got {place}")
        if scores.columns == 1:
            return parts[0]
        result = Ranks(0, scores.rows)
        by_row = <Keyed *>_room(scores.rows, sizeof(Keyed))
        try:
            by_part = <Keyed *>_room(scores.columns, sizeof(Keyed))
            for row in range(scores.rows):
                for i in range(scores.columns):
                    by_part[i].index = <uint32_t>i
                    by_part[i].key = _key_of(scores.at(row, i))
                _sort(by_part, scores.columns)
                by_row[row].index = <uint32_t>row
                by_row[row].key = by_part[place].key
            _sort(by_row, scores.rows)
            for i in range(scores.rows):
                result.put(i, by_row[i].index)
        finally:
            PyMem_Free(by_row)
            PyMem_Free(by_part)
        return result


cdef class _Scores:
    """What rows think of columns: the smaller, the better.

    Shares above 1.5 columns per row in the mean make it Pareto, fewer a race.
    """

    cdef Py_ssize_t rows, columns
    cdef list owners                # keeps the ranks alive
    cdef const uint32_t **ranks     # [column]; borrowed from the owners
    cdef double *of_rank            # [rank]
    cdef double *factor             # [column]

    def __cinit__(self, parts, shares, *, bint race=False):
        cdef Py_ssize_t i
        cdef Ranks ranks
        cdef double share
        self.owners = list(parts)
        self.columns = len(self.owners)
        if not 1 <= self.columns < COLUMNS_MAX or len(shares) != self.columns:
            raise ValueError(f"{self.columns} columns, {len(shares)} shares: need as many, in 1..{COLUMNS_MAX - 1}")
        self.rows = (<Ranks?>self.owners[0]).rows
        self.ranks = <const uint32_t **>_room(self.columns, sizeof(uint32_t *))
        self.factor = <double *>_room(self.columns, sizeof(double))
        self.of_rank = <double *>_room(self.rows, sizeof(double))
        race = race or 2 * sum(shares) < 3 * self.rows
        for i in range(self.columns):
            ranks, share = self.owners[i], shares[i]
            if ranks.rows != self.rows:
                raise ValueError(f"column {i} ranks {ranks.rows} rows, column 0 ranks {self.rows}: must be the same")
            if not 0 <= share <= self.rows:
                raise ValueError(f"column {i} has a share of {share}: must be in 0..{self.rows}")
            self.ranks[i] = ranks.rank
            if share == 0:
                self.factor[i] = 1e300  # behind every other column, and still no infinity with the largest `of_rank`
            elif race:
                self.factor[i] = 1 / share
            else:
                self.factor[i] = (<double>self.rows - share) / share
        self.fill_of_rank(race)

    def __dealloc__(self):
        PyMem_Free(self.ranks)
        PyMem_Free(self.factor)
        PyMem_Free(self.of_rank)

    cdef void fill_of_rank(self, bint race) noexcept:
        cdef Py_ssize_t i
        cdef double total = 0
        for i in range(self.rows):
            if race:
                # Renyi, 1953: the least of n exponential variables is expected at 1/n, the next 1/(n-1) later, ...
                total += 1 / <double>(self.rows - i)
                self.of_rank[i] = total
            else:
                self.of_rank[i] = <double>(2 * i + 1) / <double>(2 * (self.rows - i) - 1)

    cdef double at(self, Py_ssize_t row, Py_ssize_t column) noexcept:
        return self.of_rank[self.ranks[column][row]] * self.factor[column]


cdef class _Filling:
    """The state of one `spread`: which columns each row has so far."""

    cdef _Scores scores
    cdef Py_ssize_t rows, columns, width
    cdef const uint8_t *demand      # [row]: how many columns it wants; borrowed from the caller
    cdef const uint8_t *allowed     # [row][column], or NULL: all; borrowed too
    cdef uint8_t *chosen            # [row][column]
    cdef uint8_t *have              # [row]: columns it has
    cdef uint16_t *held             # [row][width]: which, in no order
    cdef uint16_t *order            # [row][column]: the columns it may have, best first
    cdef uint16_t *allowances       # [row]: how many those are
    cdef uint16_t *asked            # [row]: how many of them it has asked
    cdef int64_t *count             # [column]: rows that have it
    cdef int64_t *least
    cdef int64_t *most
    cdef int64_t *worst             # [column]: no row that has it is ranked behind this
    cdef uint32_t *via_row          # [column]: of `pull`, the step that leads on from here
    cdef uint16_t *via_column
    cdef uint16_t *queue
    cdef uint8_t *seen

    def __cinit__(self, _Scores scores not None, Py_ssize_t width):
        cdef Py_ssize_t rows = scores.rows, columns = scores.columns
        self.scores, self.rows, self.columns, self.width = scores, rows, columns, width
        self.chosen = <uint8_t *>_room(rows * columns, 1)
        self.have = <uint8_t *>_room(rows, 1)
        self.held = <uint16_t *>_room(rows * width, sizeof(uint16_t))
        self.order = <uint16_t *>_room(rows * columns, sizeof(uint16_t))
        self.allowances = <uint16_t *>_room(rows, sizeof(uint16_t))
        self.asked = <uint16_t *>_room(rows, sizeof(uint16_t))
        self.count = <int64_t *>_room(columns, sizeof(int64_t))
        self.least = <int64_t *>_room(columns, sizeof(int64_t))
        self.most = <int64_t *>_room(columns, sizeof(int64_t))
        self.worst = <int64_t *>_room(columns, sizeof(int64_t))
        self.via_row = <uint32_t *>_room(columns, sizeof(uint32_t))
        self.via_column = <uint16_t *>_room(columns, sizeof(uint16_t))
        self.queue = <uint16_t *>_room(columns, sizeof(uint16_t))
        self.seen = <uint8_t *>_room(columns, 1)

    def __dealloc__(self):
        PyMem_Free(self.chosen)
        PyMem_Free(self.have)
        PyMem_Free(self.held)
        PyMem_Free(self.order)
        PyMem_Free(self.allowances)
        PyMem_Free(self.asked)
        PyMem_Free(self.count)
        PyMem_Free(self.least)
        PyMem_Free(self.most)
        PyMem_Free(self.worst)
        PyMem_Free(self.via_row)
        PyMem_Free(self.via_column)
        PyMem_Free(self.queue)
        PyMem_Free(self.seen)

    cdef uint32_t rank(self, Py_ssize_t row, Py_ssize_t column) noexcept:
        return self.scores.ranks[column][row]

    cdef uint32_t row_at(self, Py_ssize_t rank, Py_ssize_t column) noexcept:
        return (<Ranks>self.scores.owners[column]).row_at[rank]

    cdef bint has(self, Py_ssize_t row, Py_ssize_t column) noexcept:
        return self.chosen[row * self.columns + column]

    cdef bint may_have(self, Py_ssize_t row, Py_ssize_t column) noexcept:
        return self.allowed == NULL or self.allowed[row * self.columns + column]

    cdef void add(self, Py_ssize_t row, Py_ssize_t column) noexcept:
        self.chosen[row * self.columns + column] = 1
        self.held[row * self.width + self.have[row]] = <uint16_t>column
        self.have[row] += 1
        self.count[column] += 1

    cdef void remove(self, Py_ssize_t row, Py_ssize_t column) noexcept:
        cdef uint16_t *held = self.held + row * self.width
        cdef Py_ssize_t i = 0
        while held[i] != column:
            i += 1
        self.have[row] -= 1
        held[i] = held[self.have[row]]
        self.chosen[row * self.columns + column] = 0
        self.count[column] -= 1

    cdef int sort_columns(self) except -1:
        """Fill `order`: the columns each row may have, best first; ties go to the lower index."""
        cdef Keyed *scored = <Keyed *>_room(self.columns, sizeof(Keyed))
        cdef Py_ssize_t row, column, n
        try:
            for row in range(self.rows):
                n = 0
                for column in range(self.columns if self.demand[row] else 0):
                    if self.may_have(row, column):
                        scored[n].index = <uint32_t>column
                        scored[n].key = _key_of(self.scores.at(row, column))
                        n += 1
                if n < self.demand[row]:
                    raise ValueError(f"row {row} wants {self.demand[row]} columns and may have {n}")
                _sort(scored, n)
                for column in range(n):
                    self.order[row * self.columns + column] = <uint16_t>scored[column].index
                self.allowances[row] = <uint16_t>n
        finally:
            PyMem_Free(scored)
        return 0

    cdef Py_ssize_t admit(self, Py_ssize_t row, Py_ssize_t column) noexcept:
        """Let *row* have *column*; return the row that goes without it for that, maybe the same row, or -1."""
        cdef int64_t worst
        if self.count[column] < self.most[column]:
            self.add(row, column)
            return -1
        worst = self.worst[column]
        if self.most[column] <= 0 or self.rank(row, column) > worst:
            return row
        self.add(row, column)
        # A full column stays full and only ever improves: the mark never has to move back.
        while not self.has(self.row_at(worst, column), column):
            worst -= 1
        self.worst[column] = worst
        row = self.row_at(worst, column)
        self.remove(row, column)
        return row

    cdef int accept(self) except -1:
        """Deferred acceptance: rows ask their columns in order, a full column keeps the rows it ranks best."""
        # Each entry stands for one column lost, so a row can be there `width` times at most.
        cdef uint32_t *waiting = <uint32_t *>_room(self.rows * self.width, sizeof(uint32_t))
        cdef Py_ssize_t top, start, row, loser
        for start in range(self.rows):
            waiting[0] = <uint32_t>start
            top = 1
            while top:
                top -= 1
                row = waiting[top]
                while self.have[row] < self.demand[row] and self.asked[row] < self.allowances[row]:
                    loser = self.admit(row, self.order[row * self.columns + self.asked[row]])
                    self.asked[row] += 1
                    if loser >= 0 and loser != row:
                        waiting[top] = <uint32_t>loser
                        top += 1
        PyMem_Free(waiting)
        return 0

    cdef void complete(self) noexcept:
        """Give rows that were turned away too often the best they lack; columns may overflow until `balance`."""
        cdef Py_ssize_t row, i, column
        for row in range(self.rows):
            i = 0
            while self.have[row] < self.demand[row]:
                column = self.order[row * self.columns + i]
                if not self.has(row, column):
                    self.add(row, column)
                i += 1

    cdef bint pull(self, Py_ssize_t sink, const int64_t *floor) noexcept:
        """Take one row for *sink* from a column above its *floor*, by the fewest exchanges. False: there is no way.

        An exchange replaces in one row one column by another. When there is no way, no other filling does better for
        *sink*: the columns met on the search are in every row that could give them up.
        """
        cdef Py_ssize_t head = 0, tail = 1, column, i, row, taker
        for column in range(self.columns):
            self.seen[column] = 0
        self.queue[0] = <uint16_t>sink
        self.seen[sink] = 1
        while head < tail:
            taker = self.queue[head]
            head += 1
            for i in range(self.rows):
                row = self.row_at(i, taker)
                if self.has(row, taker) or not self.may_have(row, taker):
                    continue
                column = self.find_giver(row, taker, floor, &tail)
                if column >= 0:
                    self.hand_on(column, sink)
                    return True
        return False

    cdef Py_ssize_t find_giver(self, Py_ssize_t row, Py_ssize_t taker, const int64_t *floor, Py_ssize_t *tail) noexcept:
        """Return the column above its floor that ranks *row* last, or -1; note the others as steps on the way."""
        cdef Py_ssize_t i, column, best = -1
        for i in range(self.have[row]):
            column = self.held[row * self.width + i]
            if self.seen[column]:
                continue
            self.seen[column] = 1
            self.via_row[column] = <uint32_t>row
            self.via_column[column] = <uint16_t>taker
            if self.count[column] <= floor[column]:
                self.queue[tail[0]] = <uint16_t>column
                tail[0] += 1
            elif best < 0 or self.rank(row, column) > self.rank(row, best):
                best = column
        return best

    cdef void hand_on(self, Py_ssize_t column, Py_ssize_t sink) noexcept:
        """Make the exchanges that `pull` found, from *column* to *sink*."""
        cdef Py_ssize_t row
        while column != sink:
            row = self.via_row[column]
            self.remove(row, column)
            column = self.via_column[column]
            self.add(row, column)

    cdef void balance(self) noexcept:
        """Bring every column between its bounds, as far as that can be done."""
        cdef Py_ssize_t column
        for column in range(self.columns):
            while self.count[column] > self.most[column] and self.relieve():
                pass
        for column in range(self.columns):
            while self.count[column] < self.least[column] and self.pull(column, self.least):
                pass

    cdef bint relieve(self) noexcept:
        """Take one row from any overfull column."""
        cdef Py_ssize_t sink
        for sink in range(self.columns):
            if self.count[sink] < self.most[sink] and self.pull(sink, self.most):
                return True
        return False


def spread(bytes demand not None, *, ranks, shares, least, most, bytes allowed=None):
    """Choose distinct columns for every row, so that the columns' counts lie between their bounds.

    Args:
        demand: one byte per row: how many columns it wants.
        ranks: one per column: which rows it likes. A column that keeps its ranks keeps most of its rows.
        shares: one per column: the count to come close to; at most the number of rows.
        least, most: one per column: bounds of its count. They are met exactly if any choice meets them.
        allowed: ``rows * columns`` bytes, row by row: 0 where a row may not have a column. None: it may.

    Returns:
        ``rows * columns`` bytes, row by row: 1 where the row has the column.

    Raises:
        ValueError: lengths differ, there is no row or no column, or a row wants more columns than it may have.

    Cost: O(rows * columns * log(columns)) time, plus the little that is left to even out.
    """
    cdef _Scores scores = _Scores(ranks, shares)
    cdef _Filling filling = _Filling(scores, max(demand, default=0))
    cdef Py_ssize_t i
    if len(demand) != scores.rows or not scores.columns == len(least) == len(most):
        raise ValueError("demand: need one byte per row; ranks, shares, least and most: one of each per column")
    if allowed is not None:
        if PyBytes_GET_SIZE(allowed) != scores.rows * scores.columns:
            raise ValueError(f"allowed has {len(allowed)} bytes: must be {scores.rows} * {scores.columns}")
        filling.allowed = <const uint8_t *>PyBytes_AS_STRING(allowed)
    filling.demand = <const uint8_t *>PyBytes_AS_STRING(demand)
    for i in range(scores.columns):
        filling.least[i], filling.most[i] = least[i], most[i]
        filling.worst[i] = scores.rows - 1
    filling.sort_columns()
    filling.accept()
    filling.complete()
    filling.balance()
    return PyBytes_FromStringAndSize(<char *>filling.chosen, scores.rows * scores.columns)


cdef class _Line:
    """Puts the columns of one row after the other into a list; says which hosts and zones are in it already."""

    cdef Py_ssize_t size
    cdef uint16_t *columns          # [place]
    cdef uint32_t *host             # [column]
    cdef uint32_t *zone
    cdef uint32_t *host_seen        # [host]: the last line it was in; lines count from 1
    cdef uint32_t *zone_seen
    cdef uint32_t number

    def __cinit__(self, hosts, zones):
        cdef Py_ssize_t i, count = len(hosts)
        if len(zones) != count:
            raise ValueError(f"{count} hosts for {len(zones)} zones: need as many")
        self.columns = <uint16_t *>_room(count, sizeof(uint16_t))
        self.host = <uint32_t *>_room(count, sizeof(uint32_t))
        self.zone = <uint32_t *>_room(count, sizeof(uint32_t))
        self.host_seen = <uint32_t *>_room(count, sizeof(uint32_t))
        self.zone_seen = <uint32_t *>_room(count, sizeof(uint32_t))
        for i in range(count):
            if not 0 <= hosts[i] < count or not 0 <= zones[i] < count:
                raise ValueError(f"column {i} has host {hosts[i]}, zone {zones[i]}: must be in 0..{count - 1}")
            self.host[i], self.zone[i] = hosts[i], zones[i]

    def __dealloc__(self):
        PyMem_Free(self.columns)
        PyMem_Free(self.host)
        PyMem_Free(self.zone)
        PyMem_Free(self.host_seen)
        PyMem_Free(self.zone_seen)

    cdef void begin(self) noexcept:
        self.size = 0
        self.number += 1

    cdef void append(self, Py_ssize_t column) noexcept:
        self.columns[self.size] = <uint16_t>column
        self.size += 1
        self.host_seen[self.host[column]] = self.number
        self.zone_seen[self.zone[column]] = self.number

    cdef bint has_host(self, Py_ssize_t column) noexcept:
        return self.host_seen[self.host[column]] == self.number

    cdef bint has_zone(self, Py_ssize_t column) noexcept:
        return self.zone_seen[self.zone[column]] == self.number

    cdef void fill(self, const Keyed *scored, Py_ssize_t count, const uint8_t *first, const uint8_t *chosen) noexcept:
        """Write one line: the first, the chosen, one from each unseen zone, the rest; one column per host."""
        cdef Py_ssize_t i, column
        self.begin()
        for column in range(count):
            if first[column]:
                self.append(column)
        for i in range(count):
            column = scored[i].index
            if chosen[column] and not self.has_host(column):
                self.append(column)
        for i in range(count):
            column = scored[i].index
            if not self.has_host(column) and not self.has_zone(column):
                self.append(column)
        for i in range(count):
            column = scored[i].index
            if not self.has_host(column):
                self.append(column)


def arrange(bytes first not None, bytes chosen not None, *, ranks, shares, hosts, zones):
    """Return each row's preference list: column indexes, one per host.

    The first of the row comes first, then its other chosen columns, then the best of each zone not yet in the list,
    then the others. Among equals the scores of a race decide, so that each place, and not only the first, falls to
    each column by its share.

    Args:
        first, chosen: ``rows * columns`` bytes as `spread` gives them; at most one first per row, and chosen.
        ranks, shares: one per column, as for `spread`.
        hosts, zones: one label per column, in ``0..columns - 1``.

    Raises:
        ValueError: the lengths do not fit, or a label is out of range.
    """
    cdef _Scores scores = _Scores(ranks, shares, race=True)
    cdef _Line line = _Line(hosts, zones)
    cdef const uint8_t *firsts = <const uint8_t *>PyBytes_AS_STRING(first)
    cdef const uint8_t *choices = <const uint8_t *>PyBytes_AS_STRING(chosen)
    cdef Py_ssize_t row, i
    cdef Keyed *scored
    cdef list lists = []
    if not len(first) == len(chosen) == scores.rows * scores.columns or len(hosts) != scores.columns:
        raise ValueError(f"{len(chosen)} cells and {len(first)} of firsts: must be {scores.rows} * {scores.columns}")
    scored = <Keyed *>_room(scores.columns, sizeof(Keyed))
    try:
        for row in range(scores.rows):
            for i in range(scores.columns):
                scored[i].index = <uint32_t>i
                scored[i].key = _key_of(scores.at(row, i))
            _sort(scored, scores.columns)
            line.fill(scored, scores.columns, firsts + row * scores.columns, choices + row * scores.columns)
            lists.append(tuple([line.columns[i] for i in range(line.size)]))
    finally:
        PyMem_Free(scored)
    return lists
