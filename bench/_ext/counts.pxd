from libc.stdint cimport int64_t, uint64_t

cdef enum:
    CELLS = 28672  # up to 2^37 ns, 137 s; what is longer is counted there


cdef struct Cells:
    uint64_t *counts  # CELLS of them


cdef inline int cell_of(int64_t ns) noexcept nogil:
    """Values below 2048 have a cell each; above, each power of two has 1024."""
    cdef int shift
    if ns < 2048:
        return <int>ns if ns > 0 else 0
    shift = 53 - __builtin_clzll(<uint64_t>ns)
    return min(1024 * (shift + 1) + <int>((ns >> shift) - 1024), <int>CELLS - 1)


cdef inline void count(Cells *cells, int64_t ns) noexcept nogil:
    cells.counts[cell_of(ns)] += 1


cdef extern from *:
    int __builtin_clzll(unsigned long long) nogil


cdef int make_cells(Cells *cells) except -1
cdef void free_cells(Cells *cells) noexcept
cdef list take_cells(Cells *cells)


cdef class Counts:
    cdef Cells cells
