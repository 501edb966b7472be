"""The ring at the level of C, for the request path: a position to a token, a token to its row of nodes."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef enum:
    NODE_NONE = 0xFFFF              # no node has this index: it says "none" in tables


cdef class Ring:
    """Immutable. Token i owns the positions in ``(token[i-1], token[i]]``; the ring wraps."""

    cdef readonly Py_ssize_t count  # of tokens, at least 1
    cdef uint64_t *tokens           # owned, strictly increasing
    cdef uint16_t *nodes            # owned; all rows, one after the other
    cdef Py_ssize_t *starts         # owned; row i is nodes[starts[i]:starts[i + 1]], never empty
    cdef uint32_t *guide            # owned; [top bits of a position]: the first token at or above them
    cdef int shift                  # what leaves these bits of a position
    cdef list rows                  # the same rows as tuples

    cdef int fill_row(self, Py_ssize_t index, tuple row) except -1
    cdef int fill_guide(self) except -1
    cdef Py_ssize_t locate(self, uint64_t position) noexcept nogil
    cdef const uint16_t *row(self, Py_ssize_t index, Py_ssize_t *size) noexcept nogil
