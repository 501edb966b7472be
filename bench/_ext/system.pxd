# What the load generator's loop asks the system for.

from libc.stdint cimport uint16_t, uint32_t

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint32_t u32
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int)
    int epoll_ctl(int, int, int, epoll_event *)
    int epoll_wait(int, epoll_event *, int, int)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD
    uint32_t EPOLLIN, EPOLLOUT

cdef extern from "<sys/timerfd.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    struct itimerspec:
        timespec it_value
    int timerfd_create(int, int)
    int timerfd_settime(int, int, itimerspec *, itimerspec *)
    int TFD_CLOEXEC, TFD_NONBLOCK, TFD_TIMER_ABSTIME
    int CLOCK_MONOTONIC
    int clock_gettime(int, timespec *)

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        pass
    int socket(int, int, int)
    int connect(int, const sockaddr *, uint32_t)
    int setsockopt(int, int, int, const void *, uint32_t)
    int getsockopt(int, int, int, void *, uint32_t *)
    ssize_t recv(int, void *, size_t, int)
    ssize_t send(int, const void *, size_t, int)
    int AF_INET, AF_INET6, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, SOL_SOCKET, SO_ERROR, MSG_NOSIGNAL, IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
    uint16_t htons(uint16_t)

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int, const char *, void *)

cdef extern from "<unistd.h>" nogil:
    int close_fd "close"(int)
    ssize_t read_fd "read"(int, void *, size_t)

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int, unsigned long, unsigned long, unsigned long, unsigned long)
    int PR_SET_TIMERSLACK
