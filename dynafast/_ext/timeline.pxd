from libc.stdint cimport int64_t, uint64_t


cdef class Due:
    cdef int64_t when_ns
    cdef uint64_t number            # of two at one time the earlier pushed goes first

    cdef int happen(self) except -1


cdef class Timeline:
    cdef readonly int64_t now       # virtual nanoseconds
    cdef readonly Py_ssize_t events
    cdef list heap                  # of Due
    cdef uint64_t pushed
    cdef bint halted
    cdef list lines                 # of the trace, not handed on yet

    cdef int push(self, int64_t when_ns, Due due) except -1
    cdef int _pop(self) except -1
    cdef int add(self, str line) except -1
