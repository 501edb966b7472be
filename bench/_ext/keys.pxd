from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    KEY_SIZE = 16

cdef class Keys:
    cdef readonly uint64_t records  # that are there from the start
    cdef int distribution
    cdef uint64_t state  # of the random numbers
    cdef uint64_t stride, offset  # of the inserts of this process
    cdef uint64_t inserts, known  # so far sent; so far answered, without a gap
    cdef uint8_t *answered  # of the inserts from `known` on; a ring
    cdef uint64_t taken  # keys handed out in sequence
    cdef readonly uint64_t size_min, size_max
    cdef uint8_t *filler
    cdef double theta, edge, integral_first, integral_last  # of the Zipf distribution over `ranks` ranks
    cdef uint64_t ranks

    cdef uint64_t random(self) noexcept nogil
    cdef double integral(self, double x) noexcept nogil
    cdef double inverse(self, double x) noexcept nogil
    cdef uint64_t pick(self) noexcept nogil
    cdef uint64_t rank(self, uint64_t ranks) noexcept nogil
    cdef bint can_insert(self) noexcept nogil
    cdef uint64_t insert(self) noexcept nogil
    cdef void inserted(self, uint64_t key) noexcept nogil
    cdef void write_key(self, uint8_t *out, uint64_t key) noexcept nogil
    cdef uint64_t size_of(self, uint64_t key) noexcept nogil
    cdef void write_value(self, uint8_t *out, uint64_t key) noexcept nogil
    cdef bint right(self, uint64_t key, const uint8_t *value, uint64_t size) noexcept nogil
