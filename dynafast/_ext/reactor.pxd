"""Many connections on one epoll, without a task for each. See ``_ext/reactor.pyx``."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from dynafast._ext.codec cimport Buffer
from dynafast._ext.connection cimport Connection, Handler


cdef class Watched:
    """A descriptor that epoll watches."""
    cdef Reactor home
    cdef int fd                     # -1: given up
    cdef uint32_t armed             # events that epoll watches for
    cdef int ready(self, uint32_t events) except -1
    cdef int arm(self, uint32_t wanted) except -1


cdef class Listener(Watched):
    cdef object make                # returns the core's end of a new connection


cdef class FlushEnd(Watched):
    """A descriptor that is readable once a flush has ended."""
    cdef object done


cdef class ReadEnd(Watched):
    """A descriptor that is readable once records have been read from the disk."""
    cdef object arrived


cdef class Channel(Watched):
    """One socket and the core's end of its connection."""
    cdef Connection connection
    cdef Buffer rest                # output that the socket did not take; None: none
    cdef Py_ssize_t sent            # of `rest`
    cdef int64_t read_ns            # when bytes came last
    cdef int64_t sent_ns            # when the socket took bytes last
    cdef int receive(self) except -1
    cdef int push(self) except -1
    cdef Py_ssize_t send(self, const uint8_t *data, Py_ssize_t size) noexcept
    cdef int end(self) except -1


cdef class Reactor:
    cdef Handler handler
    cdef int epoll
    cdef object flusher
    cdef bint flushing              # a flush is under way
    cdef int64_t held_ns            # since when one is wanted; 0: not
    cdef uint8_t *input             # owned; freed in __dealloc__
    cdef dict channels              # connection -> Channel
    cdef list listeners
    cdef FlushEnd flush_end
    cdef object read                # hands what is to be read from the disk to a thread
    cdef ReadEnd read_end
    cdef list ended                 # of this wake-up: events at hand may still name them
    cdef int64_t now_ns
    cdef int watch(self, Watched what, uint32_t events) except -1
    cdef int tell_time(self) except -1
    cdef int send_all(self) except -1
    cdef int flush_awaited(self) except -1
