"""The connections of one process of the load generator: made, made anew when they are lost, read and written.

May not: know what a request is. A subclass is told what arrived, and which connection was opened or lost.
"""

from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport strlen

from bench._ext.etcd cimport etcd_codec
from bench._ext.nats cimport nats_codec
from bench._ext.native cimport native_codec
from bench._ext.resp cimport resp_codec
from bench._ext.system cimport (
    AF_INET, AF_INET6, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLLIN, EPOLLOUT, IPPROTO_TCP, MSG_NOSIGNAL,
    SO_ERROR, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, TCP_NODELAY, close_fd, connect, epoll_create1,
    epoll_ctl, epoll_event, getsockopt, htons, inet_pton, recv, send, setsockopt, sockaddr, sockaddr_in, sockaddr_in6,
    socket,
)
from bench._ext.wire cimport Codec, Settings, reserve

cdef enum:
    RECEIVE = 65536

cdef int64_t RETRY_NS = 50_000_000  # until a lost connection is made anew


cdef Codec codec_of(str protocol) except *:
    if protocol == "native":
        return native_codec()
    if protocol == "resp":
        return resp_codec()
    if protocol == "etcd":
        return etcd_codec()
    if protocol == "nats":
        return nats_codec()
    raise ValueError(f"no such protocol: {protocol}")


cdef class Links:
    """Connections, spread evenly over the nodes.

    Args:
        protocol, nodes, connections, number, greeting, get_tail, put_tail, need: see `bench._ext.driver.Driver`.
    """

    def __cinit__(
        self, str protocol, nodes, *, bytes greeting, bytes get_tail, bytes put_tail, int64_t need, int connections,
        int number, **rest,
    ):
        self.codec = codec_of(protocol)
        self.epoll = -1
        self.kept = (greeting, get_tail, put_tail)
        self.settings = Settings(
            greeting=greeting, greeting_size=len(greeting), get_tail=get_tail, get_tail_size=len(get_tail),
            put_tail=put_tail, put_tail_size=len(put_tail), need=need,
        )
        if not nodes or connections < 1:
            raise ValueError("a node and a connection are the least")
        cdef int i
        self.addresses = <Address *>calloc(len(nodes), sizeof(Address))
        self.conns = <Conn *>calloc(connections, sizeof(Conn))
        if self.addresses is NULL or self.conns is NULL:
            raise MemoryError
        self.node_count, self.conn_count = len(nodes), connections
        for i in range(connections):
            self.conns[i].fd = -1
            self.conns[i].wire.settings, self.conns[i].wire.number = &self.settings, number + i
            self.conns[i].node = i % self.node_count
        for index, (host, port) in enumerate(nodes):
            self.set_address(&self.addresses[index], host.encode(), port)
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, "epoll")

    def __dealloc__(self):
        cdef int i
        for i in range(self.conn_count):
            if self.conns[i].fd >= 0:
                close_fd(self.conns[i].fd)
            free(self.conns[i].wire.input.data)
            free(self.conns[i].wire.output.data)
            free(self.conns[i].wire.slots)
            free(self.conns[i].queue)
        if self.epoll >= 0:
            close_fd(self.epoll)
        free(self.addresses)
        free(self.conns)

    cdef int set_address(self, Address *address, bytes host, int port) except -1:
        cdef sockaddr_in *four = <sockaddr_in *>address.data
        cdef sockaddr_in6 *six = <sockaddr_in6 *>address.data
        if inet_pton(AF_INET, host, &four.sin_addr) == 1:
            four.sin_family, four.sin_port = <uint16_t>AF_INET, htons(<uint16_t>port)
            address.family, address.size = AF_INET, sizeof(sockaddr_in)
        elif inet_pton(AF_INET6, host, &six.sin6_addr) == 1:
            six.sin6_family, six.sin6_port = <uint16_t>AF_INET6, htons(<uint16_t>port)
            address.family, address.size = AF_INET6, sizeof(sockaddr_in6)
        else:
            raise ValueError(f"not a numeric address: {host!r}")
        return 0

    cdef void opened(self, int index) noexcept nogil:
        """A connection may be used."""

    cdef void arrived(self, int index) noexcept nogil:
        """There is more input."""

    cdef void lost(self, int index, int64_t now, const uint8_t *why, size_t size) noexcept nogil:
        """A connection that could be used has ended."""

    cdef void open_missing(self, int64_t now) noexcept nogil:
        """Make the connections that are not there, unless that was tried just now."""
        cdef int i
        for i in range(self.conn_count):
            if self.conns[i].fd < 0 and self.conns[i].retry_ns <= now:
                self.open_one(i, now)

    cdef void open_one(self, int index, int64_t now) noexcept nogil:
        cdef Conn *conn = &self.conns[index]
        cdef Address *address = &self.addresses[conn.node]
        cdef epoll_event event
        cdef int one = 1
        conn.wire.input.start = conn.wire.input.end = conn.wire.output.start = conn.wire.output.end = 0
        conn.first = conn.last = 0
        conn.open = conn.dirty = False
        conn.watched = True
        conn.retry_ns = now + RETRY_NS
        conn.fd = socket(address.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        if conn.fd < 0:
            return
        setsockopt(conn.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        event.events, event.data.u32 = EPOLLIN | EPOLLOUT, <uint32_t>index
        if connect(conn.fd, <sockaddr *>address.data, address.size) < 0 and errno != EINPROGRESS:
            self.drop(conn)
        elif epoll_ctl(self.epoll, EPOLL_CTL_ADD, conn.fd, &event) or self.codec.greet(&conn.wire):
            self.drop(conn)

    cdef void drop(self, Conn *conn) noexcept nogil:
        close_fd(conn.fd)
        conn.fd = -1

    cdef void lose(self, int index, int64_t now, const char *why) noexcept nogil:
        """End a connection; it is made anew after a while."""
        cdef Conn *conn = &self.conns[index]
        if conn.fd < 0:
            return
        self.drop(conn)
        conn.retry_ns = now + RETRY_NS
        if conn.open:
            conn.open = False
            self.connected -= 1
            self.lost_connections += 1
            self.lost(index, now, <const uint8_t *>why, strlen(why))

    cdef void event(self, int index) noexcept nogil:
        cdef Conn *conn = &self.conns[index]
        cdef int error = 0
        cdef uint32_t size = sizeof(error)
        cdef ssize_t got
        if conn.fd < 0:
            return
        if not conn.open:
            getsockopt(conn.fd, SOL_SOCKET, SO_ERROR, &error, &size)
            if error:
                self.drop(conn)
                return
            conn.open = True
            self.connected += 1
            self.opened(index)
        if conn.watched:
            self.send_output(index)
        if conn.fd < 0 or reserve(&conn.wire.input, RECEIVE):
            return
        got = recv(conn.fd, conn.wire.input.data + conn.wire.input.end, conn.wire.input.room - conn.wire.input.end, 0)
        if got > 0:
            conn.wire.input.end += got
            self.arrived(index)
        elif got == 0 or (errno != EAGAIN and errno != EINTR):
            self.lose(index, clock(), b"connection lost")

    cdef void flush(self) noexcept nogil:
        cdef int i
        for i in range(self.conn_count):
            if self.conns[i].dirty:
                self.send_output(i)

    cdef void send_output(self, int index) noexcept nogil:
        cdef Conn *conn = &self.conns[index]
        cdef size_t size = conn.wire.output.end - conn.wire.output.start
        cdef ssize_t sent = 0
        cdef epoll_event event
        conn.dirty = False
        if size:
            sent = send(conn.fd, conn.wire.output.data + conn.wire.output.start, size, MSG_NOSIGNAL)
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.lose(index, clock(), b"connection lost")
                    return
                sent = 0
            conn.wire.output.start += sent
        if conn.wire.output.start == conn.wire.output.end:
            conn.wire.output.start = conn.wire.output.end = 0
        if conn.watched != (<size_t>sent < size):
            conn.watched = <size_t>sent < size
            event.events, event.data.u32 = EPOLLIN | (EPOLLOUT if conn.watched else 0), <uint32_t>index
            epoll_ctl(self.epoll, EPOLL_CTL_MOD, conn.fd, &event)
