"""Counts of durations by size, in the cells of a HdrHistogram with three significant digits.

`bench.load.histogram` makes percentiles of them.
"""

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset


cdef int make_cells(Cells *cells) except -1:
    cells.counts = <uint64_t *>calloc(CELLS, sizeof(uint64_t))
    if cells.counts is NULL:
        raise MemoryError
    return 0


cdef void free_cells(Cells *cells) noexcept:
    free(cells.counts)
    cells.counts = NULL


cdef list take_cells(Cells *cells):
    """Return (the largest value of a cell, its count) for every cell that has any, and empty them."""
    cdef list found = []
    cdef int i, shift
    for i in range(CELLS):
        if cells.counts[i]:
            shift = max(i // 1024 - 1, 0)
            found.append((((<int64_t>(i - 1024 * shift) + 1) << shift) - 1, cells.counts[i]))
    memset(cells.counts, 0, CELLS * sizeof(uint64_t))
    return found


@cython.final
cdef class Counts:
    """What the driver counts with, for tests of it."""

    def __cinit__(self):
        make_cells(&self.cells)

    def __dealloc__(self):
        free_cells(&self.cells)

    def add(self, int64_t ns):
        """Count one duration in nanoseconds; less than none is none."""
        count(&self.cells, ns)

    def take(self):
        """Return (the largest value of a cell, its count) for every cell that has any, and empty them."""
        return take_cells(&self.cells)
