"""Which keys a load asks for, and what their values are.

Key number k is ``key-`` and twelve digits. Its value holds k and bytes that follow from k, so that an answer can be held
against it; a stamp in between makes every write differ from the one before.
"""

from array import array

cimport cython
from libc.math cimport exp, expm1, fabs, log, log1p
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

cdef enum:
    UNIFORM = 0
    ZIPFIAN = 1
    LATEST = 2
    SEQUENCE = 3

DISTRIBUTIONS = {"uniform": UNIFORM, "zipfian": ZIPFIAN, "latest": LATEST, "sequence": SEQUENCE}

cdef enum:
    WINDOW = 65536  # inserts that may be unanswered behind the oldest; a power of two
    SPREAD = 4096  # values begin at one of so many places of the filler
    CHECKED = 1024  # of a longer value its ends are looked at, and all of it once in a while
    SCRAMBLE = 2654435761  # a prime: spreads the popular ranks over all keys, one to one


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    """Scramble 64 bits (the finisher of splitmix64)."""
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef inline double log_ratio(double x) noexcept nogil:
    """log(1 + x) / x."""
    return log1p(x) / x if fabs(x) > 1e-8 else 1 - x * (0.5 - x * (1 / 3.0 - 0.25 * x))


cdef inline double exp_ratio(double x) noexcept nogil:
    """(exp(x) - 1) / x."""
    return expm1(x) / x if fabs(x) > 1e-8 else 1 + x * 0.5 * (1 + x / 3.0 * (1 + 0.25 * x))


@cython.final
cdef class Keys:
    """The keys of one process.

    Args:
        distribution: "uniform", "zipfian" (of all records, the popular ones spread), "latest" (Zipfian by age, the
            newest first) or "sequence" (each record of this process's share once).
        records: how many are there from the start.
        size_min, size_max: of values, in bytes; each key has its own size between them.
        theta: how skewed: 0 is uniform, YCSB has 0.99.
        seed: of the choices. Every process has its own.
        stride, offset: this process inserts, or loads, record *offset* of every *stride*.
    """

    def __cinit__(
        self, distribution, records, *, size_min=100, size_max=100, theta=0.99, seed=0, stride=1, offset=0
    ):
        cdef uint64_t i, state = 0
        if not records or not 0 < size_min <= size_max or not 0 <= offset < stride or theta < 0:
            raise ValueError("records, sizes or share out of range")
        self.distribution = DISTRIBUTIONS[distribution]
        self.records, self.theta = records, theta
        self.size_min, self.size_max = size_min, size_max
        self.stride, self.offset = stride, offset
        self.state = mix(<uint64_t>seed + 1)
        self.answered = <uint8_t *>calloc(WINDOW, 1)
        self.filler = <uint8_t *>malloc(size_max + SPREAD + 8)
        if self.answered is NULL or self.filler is NULL:
            raise MemoryError
        for i in range((self.size_max + SPREAD) // 8 + 1):
            state += <uint64_t>0x9E3779B97F4A7C15
            (<uint64_t *>self.filler)[i] = mix(state)
        self.edge = 2 - self.inverse(self.integral(2.5) - exp(-self.theta * log(2)))
        self.integral_first = self.integral(1.5) - 1

    def __dealloc__(self):
        free(self.answered)
        free(self.filler)

    cdef uint64_t random(self) noexcept nogil:
        self.state += <uint64_t>0x9E3779B97F4A7C15
        return mix(self.state)

    cdef double integral(self, double x) noexcept nogil:
        cdef double logarithm = log(x)
        return exp_ratio((1 - self.theta) * logarithm) * logarithm

    cdef double inverse(self, double x) noexcept nogil:
        return exp(log_ratio(max(x * (1 - self.theta), -1)) * x)

    cdef uint64_t rank(self, uint64_t ranks) noexcept nogil:
        """Draw from 0 .. ranks - 1, rank r as often as (r + 1) ** -theta.

        Exact for every number of ranks and without a table: rejection-inversion (Hörmann and Derflinger, 1996).
        """
        cdef double u, x
        cdef uint64_t k
        if ranks != self.ranks:
            self.ranks = ranks
            self.integral_last = self.integral(ranks + 0.5)
        while True:
            u = <double>(self.random() >> 11) / 9007199254740992.0
            u = self.integral_last + u * (self.integral_first - self.integral_last)
            x = self.inverse(u)
            k = min(max(<uint64_t>(x + 0.5), <uint64_t>1), ranks)
            if k - x <= self.edge or u >= self.integral(k + 0.5) - exp(-self.theta * log(k)):
                return k - 1

    cdef uint64_t pick(self) noexcept nogil:
        """Return a record that is there (in sequence: the next one)."""
        cdef uint64_t rank
        if self.distribution == UNIFORM:
            return self.random() % self.records
        if self.distribution == ZIPFIAN:
            return self.rank(self.records) * SCRAMBLE % self.records
        if self.distribution == LATEST:
            rank = self.rank(self.records + self.known)
            if rank < self.known:
                return self.records + (self.known - 1 - rank) * self.stride + self.offset
            return self.records - 1 - (rank - self.known)
        rank = self.taken * self.stride + self.offset
        self.taken += 1
        return rank

    cdef bint can_insert(self) noexcept nogil:
        return self.inserts - self.known < WINDOW

    cdef uint64_t insert(self) noexcept nogil:
        """Return a record that is not there yet."""
        self.inserts += 1
        return self.records + (self.inserts - 1) * self.stride + self.offset

    cdef void inserted(self, uint64_t key) noexcept nogil:
        """Take note that an insert was answered: it may be asked for."""
        self.answered[((key - self.records) // self.stride) & (WINDOW - 1)] = 1
        while self.answered[self.known & (WINDOW - 1)]:
            self.answered[self.known & (WINDOW - 1)] = 0
            self.known += 1

    cdef void write_key(self, uint8_t *out, uint64_t key) noexcept nogil:
        cdef int i
        memcpy(out, b"key-", 4)
        for i in range(KEY_SIZE - 1, 3, -1):
            out[i] = <uint8_t>(48 + key % 10)
            key //= 10

    cdef uint64_t size_of(self, uint64_t key) noexcept nogil:
        if self.size_min == self.size_max:
            return self.size_min
        return self.size_min + mix(key) % (self.size_max - self.size_min + 1)

    cdef void write_value(self, uint8_t *out, uint64_t key) noexcept nogil:
        cdef uint64_t size = self.size_of(key)
        cdef uint32_t stamp = <uint32_t>self.random()
        memcpy(out, self.filler + mix(key) % SPREAD, size)
        memcpy(out, &key, min(size, <uint64_t>8))
        if size >= 16:
            memcpy(out + 8, &stamp, 4)

    cdef bint right(self, uint64_t key, const uint8_t *value, uint64_t size) noexcept nogil:
        """Whether this is a value of *key*. Of a long one the ends are looked at, and all of it once in 16 times."""
        cdef const uint8_t *filler = self.filler + mix(key) % SPREAD
        cdef uint64_t begin = 12 if size >= 16 else 8
        if size != self.size_of(key) or memcmp(value, &key, min(size, <uint64_t>8)):
            return False
        if size <= begin:
            return True
        if size > CHECKED and self.random() & 15:
            return (
                memcmp(value + begin, filler + begin, CHECKED // 2) == 0
                and memcmp(value + size - CHECKED // 2, filler + size - CHECKED // 2, CHECKED // 2) == 0
            )
        return memcmp(value + begin, filler + begin, size - begin) == 0

    def draw(self, count):
        """Return the next *count* records that would be asked for."""
        return array("Q", (self.pick() for _ in range(count)))

    def draw_ranks(self, count):
        """Return *count* ranks of the Zipf distribution over all records, the most popular 0."""
        return array("Q", (self.rank(self.records) for _ in range(count)))

    def key(self, uint64_t number):
        """Return the bytes of a key."""
        cdef uint8_t out[KEY_SIZE]
        self.write_key(out, number)
        return <bytes>out[:KEY_SIZE]

    def value(self, uint64_t number):
        """Return a value of that key."""
        out = bytearray(self.size_of(number))
        cdef uint8_t[::1] view = out
        self.write_value(&view[0], number)
        return bytes(out)

    def is_right(self, uint64_t number, const uint8_t[::1] value):
        """Whether *value*, not empty, is one of that key."""
        return self.right(number, &value[0], value.shape[0])
