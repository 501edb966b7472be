"""Commands of redis clients. See ``_ext/commands.pyx``."""

from libc.stdint cimport uint8_t


cdef enum Parsed:
    WRONG = -2                      # the framing is lost; `problem` says why
    MORE = 0                        # must come first
    WHOLE = 1                       # a command is in `args`; none in it: an empty line or array
    REFUSED = 2                     # a command was too large, and has been read past; `problem` says what was


cdef struct Argument:
    const uint8_t *at
    Py_ssize_t size


cdef class CommandReader:
    cdef Argument *args             # of the last command, inside the input; owned
    cdef Py_ssize_t args_size
    cdef Py_ssize_t count           # of the arguments, the name among them
    cdef Py_ssize_t needed          # so many bytes from the cursor on must be there before another look is worth it
    cdef str problem
    cdef Py_ssize_t total           # arguments of the array that is being read; 0: none is
    cdef Py_ssize_t got             # how many of them have been; meanwhile `args` has offsets from its start
    cdef Py_ssize_t offset          # of the next
    cdef list words                 # keeps the arguments of a typed line alive
    cdef bint skipping              # a command is too large: its end is looked for
    cdef Py_ssize_t skip_bytes      # of the argument at hand
    cdef Py_ssize_t skip_count      # arguments after it
    cdef int next(self, const uint8_t **cursor, const uint8_t *end) except -1
    cdef int release(self) except -1
    cdef int _parse(self, const uint8_t **cursor, const uint8_t *end) except -1
    cdef int _parse_line(self, const uint8_t **cursor, const uint8_t *end) except -1
    cdef int _skip(self, const uint8_t **cursor, const uint8_t *end) except -1
    cdef int _argument(self, Py_ssize_t i, const uint8_t *at, Py_ssize_t size) except -1
    cdef int _lost(self, str why) except -1
