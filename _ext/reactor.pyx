"""Moves the bytes of all connections between their sockets and the core: epoll, recv, feed, send, without a task or a
Python object for each step. Linux alone; elsewhere `dynafast.net.transport` does the same on trio.

It has an epoll of its own, which is a descriptor itself: one task of the shell waits until that is readable and then
calls `turn`. While there is traffic, `turn` waits in its own epoll for a moment rather than return at once: a round
through the shell's scheduler costs more than most requests. Per wake-up each connection gets one recv and one send,
so none can starve the others, and what is meant for one peer goes out together. A connection that does not take its
output is not read from: that is the back-pressure.

Owns the descriptors given to it. May not: look into the bytes, or touch a file.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, errno
from libc.string cimport strerror

from dynafast._ext.connection cimport READ_BELOW


cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP
        EPOLL_CTL_ADD
        EPOLL_CTL_DEL
        EPOLL_CTL_MOD
        EPOLL_CLOEXEC

    union epoll_data_t:
        void *ptr

    struct epoll_event:
        uint32_t events
        epoll_data_t data

    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int count, int timeout_ms)


cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_NOSIGNAL
        SOCK_NONBLOCK
        SOCK_CLOEXEC

    int accept4(int fd, void *address, void *size, int flags)
    Py_ssize_t recv(int fd, void *data, size_t size, int flags)
    Py_ssize_t send(int fd, const void *data, size_t size, int flags)
    int setsockopt(int fd, int level, int name, const void *value, unsigned int size)


cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_TCP


cdef extern from "<netinet/tcp.h>" nogil:
    enum:
        TCP_NODELAY


cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)


cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec

    enum:
        CLOCK_MONOTONIC
        CLOCK_REALTIME

    int clock_gettime(int clock, timespec *to)


cdef enum:
    EVENTS = 256                    # of one wake-up
    READ_SIZE = 64 * 1024           # of one recv: some hundred small requests, a few milliseconds of work
    ACCEPTS = 64                    # of one wake-up
    HOLD_NS = 200_000               # a flush waits that long for requests that go on arriving, to cover them too

# An end that takes no output, or leaves a frame unfinished, for so long is given up.
DEFAULT_STALLED_NS = 30_000_000_000

__all__ = ["Reactor"]


cdef int64_t _time_ns(int clock) noexcept nogil:
    cdef timespec at
    clock_gettime(clock, &at)
    return <int64_t>at.tv_sec * 1_000_000_000 + at.tv_nsec


cdef object _os_error(str what):
    return OSError(errno, f"{what}: {strerror(errno).decode()}")


cdef class Watched:

    cdef int ready(self, uint32_t events) except -1:
        raise NotImplementedError

    cdef int arm(self, uint32_t wanted) except -1:
        """Watch for these events from now on."""
        cdef epoll_event event
        if wanted == self.armed or self.fd < 0:
            return 0
        event.events = wanted
        event.data.ptr = <void *>self
        if epoll_ctl(self.home.epoll, EPOLL_CTL_MOD, self.fd, &event) < 0:
            raise _os_error("epoll_ctl")
        self.armed = wanted
        return 0


cdef class Listener(Watched):

    cdef int ready(self, uint32_t events) except -1:
        cdef int i, fd
        for i in range(ACCEPTS):
            fd = accept4(self.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd >= 0:
                self.home.add(fd, self.make())
            elif errno == EAGAIN:
                return 0
            elif errno not in (ECONNABORTED, EINTR):
                return self.arm(0)          # out of descriptors: those in use are served first; `check` tries again
        return 0


cdef class FlushEnd(Watched):

    cdef int ready(self, uint32_t events) except -1:
        self.home.flushing = False
        self.done()
        return 0


cdef class ReadEnd(Watched):

    cdef int ready(self, uint32_t events) except -1:
        self.arrived()
        return 0


cdef class Channel(Watched):

    cdef int ready(self, uint32_t events) except -1:
        if self.fd >= 0 and events & EPOLLOUT:
            self.push()
        if self.fd >= 0 and events & ~<uint32_t>EPOLLOUT:
            if self.armed & EPOLLIN:
                self.receive()
            elif events & (EPOLLERR | EPOLLHUP):
                self.end()
        return 0

    cdef int receive(self) except -1:
        cdef Py_ssize_t size = recv(self.fd, self.home.input, READ_SIZE, 0)
        if size > 0:
            self.read_ns = self.home.now_ns
            self.connection.feed_raw(self.home.input, size)
        elif size == 0 or errno not in (EAGAIN, EINTR):
            self.end()
        return 0

    cdef Py_ssize_t send(self, const uint8_t *data, Py_ssize_t size) noexcept:
        """Send without waiting; return how much the socket took, -1 when it is broken."""
        cdef Py_ssize_t sent = send(self.fd, data, size, MSG_NOSIGNAL)
        if sent >= 0:
            self.sent_ns = self.home.now_ns
            return sent
        return 0 if errno in (EAGAIN, EINTR) else -1

    cdef int push(self) except -1:
        """Send what there is, then watch for what is to come."""
        cdef Connection connection = self.connection
        cdef Buffer out
        cdef Py_ssize_t sent, unsent
        connection.dirty = False
        while True:
            if self.rest is None:
                out = connection.out
                if out.size == 0:
                    if not connection.full:
                        break
                    connection.resume()
                    connection.dirty = False
                    if out.size == 0:
                        break
                sent = self.send(out.data, out.size)
                if sent == out.size:
                    out.drop(sent)
                    continue
                if sent >= 0:               # the rest stays where it is, and the core goes on with another buffer
                    self.rest, self.sent = out, sent
                    connection.out = Buffer()
                    break
            else:
                sent = self.send(self.rest.data + self.sent, self.rest.size - self.sent)
                if sent >= 0:
                    self.sent += sent
                    if self.sent < self.rest.size:
                        break
                    self.rest = None
                    continue
            return self.end()
        unsent = connection.out.size + (0 if self.rest is None else self.rest.size - self.sent)
        if connection.closing:
            return self.arm(EPOLLOUT) if unsent else self.end()
        return self.arm(
            (EPOLLIN if not connection.full and unsent <= READ_BELOW else 0) | (EPOLLOUT if unsent else 0)
        )

    cdef int end(self) except -1:
        """Close the socket and tell the core."""
        if self.fd < 0:
            return 0
        epoll_ctl(self.home.epoll, EPOLL_CTL_DEL, self.fd, NULL)
        c_close(self.fd)
        self.fd = -1
        self.rest = None
        self.home.ended.append(self)
        del self.home.channels[self.connection]
        self.connection.drop()
        return 0


cdef class Reactor:
    """All connections of a node.

    Args:
        handler: the node's request path; is told the time, and asked what is to be sent and whether a flush is wanted.
        flusher: a `dynafast.storage.flushing.Flusher`, which stays the caller's.
        flushed: called when a flush has ended; calls the flusher's ``end``.
        read: called when a request waits for a record that is on the disk, again and again until it is being read.
        read_fd: a descriptor that is readable when some have been read; stays the caller's.
        arrived: called then; makes it unreadable again.

    Raises:
        OSError: the system has no descriptor left.

    Exceptions of the core leave `turn`, `pump` and `check` as they are: they are bugs, or a store that failed.
    """

    def __init__(
        self, Handler handler not None, *, flusher not None, flushed not None, read not None, int read_fd,
        arrived not None,
    ):
        cdef FlushEnd flush_end = FlushEnd()
        cdef ReadEnd read_end = ReadEnd()
        self.handler = handler
        self.flusher = flusher
        self.read = read
        self.channels = {}
        self.listeners = []
        self.ended = []
        self.input = <uint8_t *>PyMem_Malloc(READ_SIZE)
        if self.input == NULL:
            raise MemoryError
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise _os_error("epoll_create1")
        flush_end.fd = flusher.done
        flush_end.done = flushed
        self.flush_end = flush_end
        self.watch(flush_end, EPOLLIN)
        read_end.fd = read_fd
        read_end.arrived = arrived
        self.read_end = read_end
        self.watch(read_end, EPOLLIN)

    def __cinit__(self):
        self.epoll = -1

    def __dealloc__(self):
        PyMem_Free(self.input)

    def __len__(self):
        """Return how many connections there are."""
        return len(self.channels)

    @property
    def fd(self):
        """The descriptor that is readable when `turn` has something to do."""
        return self.epoll

    def listen(self, int fd, make not None):
        """Accept connections of a listening socket, which stays the caller's; *make* returns the core's end of each."""
        cdef Listener listener = Listener()
        listener.fd = fd
        listener.make = make
        self.watch(listener, EPOLLIN)
        self.listeners.append(listener)

    def add(self, int fd, Connection connection not None):
        """Serve a connected socket, from now on owned; `pump` after, if the core's end has output already."""
        cdef Channel channel = Channel()
        cdef int on = 1
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))   # fails on what is no TCP, which needs none
        channel.fd = fd
        channel.connection = connection
        channel.read_ns = channel.sent_ns = _time_ns(CLOCK_MONOTONIC)
        self.watch(channel, EPOLLIN)
        self.channels[connection] = channel

    def turn(self, int64_t limit_ns, int patience_ms):
        """Handle what arrives until nothing has come for a while, or the time is over; return whether it went quiet.

        Args:
            limit_ns: others wait that long at most, apart from *patience_ms* and the work of one wake-up.
            patience_ms: silence after which it is not worth waiting here.
        """
        cdef epoll_event[EVENTS] events
        cdef int count, i, wait_ms = 0
        cdef int64_t begun = _time_ns(CLOCK_MONOTONIC)
        cdef Watched what
        while True:
            with nogil:
                count = epoll_wait(self.epoll, events, EVENTS, wait_ms)
            if count < 0 and errno != EINTR:
                raise _os_error("epoll_wait")
            if count <= 0:
                if wait_ms:
                    return True
                self.flush_awaited()        # all that has arrived by now shares a flush
                wait_ms = patience_ms
                if wait_ms == 0:
                    return True
                continue
            wait_ms = 0
            self.tell_time()
            for i in range(count):
                what = <Watched><object>events[i].data.ptr
                if what.fd >= 0:
                    what.ready(events[i].events)
            self.send_all()
            self.ended.clear()
            if self.now_ns - begun >= limit_ns:
                self.flush_awaited()
                return False
            if not self.flushing and self.handler.awaits_flush():
                if self.held_ns == 0:
                    self.held_ns = self.now_ns
                elif self.now_ns - self.held_ns >= HOLD_NS:
                    self.flush()

    def pump(self):
        """Send what the core has produced outside of `turn`, and flush if something waits for that."""
        self.send_all()
        self.flush_awaited()
        self.ended.clear()

    def flush(self):
        """Let a flush begin, unless one is under way."""
        if not self.flushing:
            self.flushing = True
            self.held_ns = 0
            self.flusher.begin()

    def check(self, int64_t stalled_ns=DEFAULT_STALLED_NS):
        """Give up connections that have been stalled for so long; call about once a second."""
        cdef Channel channel
        cdef Listener listener
        self.tell_time()
        for found in list(self.channels.values()):
            channel = found
            if channel.fd < 0:
                continue
            if channel.rest is not None and self.now_ns - channel.sent_ns > stalled_ns:
                channel.end()
            elif channel.connection.unfinished and self.now_ns - channel.read_ns > stalled_ns:
                channel.connection.give_up()
        for found in self.listeners:
            listener = found
            listener.arm(EPOLLIN)
        self.pump()

    def close(self):
        """Close all sockets and forget their connections."""
        cdef Channel channel
        for found in list(self.channels.values()):
            channel = found
            channel.end()
        self.ended.clear()
        if self.epoll >= 0:
            c_close(self.epoll)
            self.epoll = -1

    cdef int watch(self, Watched what, uint32_t events) except -1:
        cdef epoll_event event
        what.home = self
        what.armed = events
        event.events = events
        event.data.ptr = <void *>what
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, what.fd, &event) < 0:
            raise _os_error("epoll_ctl")
        return 0

    cdef int tell_time(self) except -1:
        self.now_ns = _time_ns(CLOCK_MONOTONIC)
        return self.handler.turn(self.now_ns, _time_ns(CLOCK_REALTIME) // 1_000_000)

    cdef int send_all(self) except -1:
        """Send what every connection has; ending one may produce output for others."""
        cdef list dirty
        cdef Channel channel
        while True:
            dirty = self.handler.dirtied()
            if not dirty:
                break
            for connection in dirty:
                channel = self.channels.get(connection)
                if channel is not None:
                    channel.push()
        if self.flushing:
            self.flusher.accepted()         # it may not have begun yet
        if self.handler.wants_reads():
            self.read()
        return 0

    cdef int flush_awaited(self) except -1:
        if self.handler.awaits_flush():
            self.flush()
        return 0
