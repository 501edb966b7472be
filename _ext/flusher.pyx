"""Makes the logs of a RocksDB folder durable, past RocksDB and without the interpreter's lock. Linux alone.

What RocksDB has accepted is in the page cache, since every write reaches its log before the call returns; a log only
grows. So what has to be done is an fdatasync of each log that has grown, by any descriptor: the kernel writes back the
pages of the file, whoever wrote them. RocksDB's own sync does the same; but it refuses, for good, after a full disk has
refused it a write, and to call it takes the interpreter's lock three times for each flush, which the event loop has most
of the time.

* *Which logs there are.* The folder is read when it is opened, and again when inotify has told of a new file. It
  tells before the call that makes a file returns, so a log is known before anything in it can have been accepted.
  Where there is no inotify (the system allows few of them) the folder is read for each flush.
* *A log that gave way to a newer one* may have an end that is not durable yet: every log is held, and synced when it is
  longer than it was when its last sync began, until it is deleted, which RocksDB does once all of it is in tables that
  are durable. It is let go when the folder is read again, at the latest a second later: it takes up room until then.
* *The name of a new log* is durable once the folder is synced. RocksDB leaves that to its own sync.
* *A failed sync* is reported for ever: the kernel tells of lost pages once, and a second sync that succeeds says
  nothing of them. A descriptor is told of what was lost since it was opened, which is why they are held.

Owns its descriptors and its thread, which knows nothing of Python. May not: write to a file.
"""

import os
import time

from dynafast.errors import StoreError

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, EINTR, ENOENT, ETIMEDOUT
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, realloc, strtoull
from libc.string cimport strcmp, strerror


cdef extern from *:
    enum:
        ACQUIRE "__ATOMIC_ACQUIRE"
        RELEASE "__ATOMIC_RELEASE"

    int64_t atomic_load "__atomic_load_n"(int64_t *value, int order) nogil
    void atomic_store "__atomic_store_n"(int64_t *value, int64_t now, int order) nogil


cdef extern from "<dirent.h>" nogil:
    ctypedef struct DIR:
        pass

    struct dirent:
        char *d_name

    DIR *fdopendir(int fd)
    dirent *readdir(DIR *folder)
    int closedir(DIR *folder)


cdef extern from "<errno.h>" nogil:
    int errno


cdef extern from "<fcntl.h>" nogil:
    enum:
        O_CLOEXEC
        O_DIRECTORY
        O_RDONLY

    int openat(int folder, const char *name, int flags)


cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_mutex_t:
        pass

    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_create(pthread_t *thread, void *attributes, void *(*run)(void *) noexcept nogil, void *argument)
    int pthread_sigmask(int how, const sigset_t *now, sigset_t *before)
    int pthread_tryjoin_np(pthread_t thread, void **result)


cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass

    int sem_destroy(sem_t *semaphore)
    int sem_init(sem_t *semaphore, int shared, unsigned int value)
    int sem_post(sem_t *semaphore)
    int sem_timedwait(sem_t *semaphore, const timespec *until)
    int sem_trywait(sem_t *semaphore)


cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass

    enum:
        SIG_SETMASK

    int sigfillset(sigset_t *signals)


cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd_read(int fd, uint64_t *value)
    int eventfd_write(int fd, uint64_t value)


cdef extern from "<sys/inotify.h>" nogil:
    enum:
        IN_CLOEXEC
        IN_CREATE
        IN_DELETE
        IN_MOVED_TO
        IN_NONBLOCK

    int inotify_init1(int flags)
    int inotify_add_watch(int fd, const char *path, unsigned int events)


cdef extern from "<sys/stat.h>" nogil:
    struct c_stat "stat":
        int64_t st_size

    int fstat(int fd, c_stat *to)


cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec

    enum:
        CLOCK_REALTIME

    int clock_gettime(int clock, timespec *to)


cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)
    int fdatasync(int fd)
    int fsync(int fd)
    Py_ssize_t c_read "read"(int fd, void *to, size_t size)


cdef enum:
    NEWS_SIZE = 4096                # of one read from inotify; a name has 255 bytes at most
    TIDY_S = 1                      # an idle thread lets go of deleted logs that often

JOIN_S = 60.0                       # an fdatasync that takes longer does not hold up the end of the process

__all__ = ["LogFlusher"]


cdef struct Log:
    uint64_t number                 # in its name; RocksDB uses none twice
    int fd
    int64_t covered                 # bytes that are durable
    bint listed                     # when the folder was read last


cdef struct Logs:
    int folder
    int watch                       # inotify; -1: there is none
    bint unread                     # the folder may have other logs than those that are held
    bint unlisted                   # the names of some may not be durable
    Log *held
    int count
    int room
    int error                       # errno of the first failure: all later syncs fail too
    const char *what                # was tried then


cdef struct Shared:
    pthread_mutex_t mutex           # of the logs
    Logs logs
    sem_t wanted
    int64_t accepted                # what the last change that was written to the logs is called
    int64_t covered                 # ... and the last one that is durable
    int done                        # an eventfd
    bint over


cdef int _fail(Logs *logs, const char *what) noexcept nogil:
    logs.error = errno
    logs.what = what
    return logs.error


cdef int _hold(Logs *logs, uint64_t number, const char *name) noexcept nogil:
    """Open a log of the folder if it is not held yet; return 0 or an errno."""
    cdef Log *log
    cdef void *grown
    cdef int i, fd
    for i in range(logs.count):
        if logs.held[i].number == number:
            logs.held[i].listed = True
            return 0
    if logs.count == logs.room:
        grown = realloc(logs.held, (logs.room + 16) * sizeof(Log))
        if grown == NULL:
            return _fail(logs, b"hold a log")
        logs.held = <Log *>grown
        logs.room += 16
    fd = openat(logs.folder, name, O_RDONLY | O_CLOEXEC)
    if fd < 0:                      # deleted meanwhile: what it had is in tables
        return 0 if errno == ENOENT else _fail(logs, b"open a log")
    log = &logs.held[logs.count]
    log.number, log.fd, log.covered, log.listed = number, fd, 0, True
    logs.count += 1
    logs.unlisted = True
    return 0


cdef int _read_folder(Logs *logs) noexcept nogil:
    """Hold exactly the logs that the folder has now; return 0 or an errno."""
    global errno
    cdef int i, kept = 0, fd = openat(logs.folder, b".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    cdef DIR *folder
    cdef dirent *entry
    cdef char *end
    cdef uint64_t number
    if fd < 0:
        return _fail(logs, b"open the folder")
    folder = fdopendir(fd)
    if folder == NULL:
        _fail(logs, b"open the folder")
        c_close(fd)
        return logs.error
    for i in range(logs.count):
        logs.held[i].listed = False
    while not logs.error:
        errno = 0
        entry = readdir(folder)
        if entry == NULL:
            if errno:
                _fail(logs, b"read the folder")
            break
        number = strtoull(entry.d_name, &end, 10)
        if end != entry.d_name and strcmp(end, b".log") == 0:
            _hold(logs, number, entry.d_name)
    closedir(folder)
    if logs.error:
        return logs.error
    for i in range(logs.count):
        if logs.held[i].listed:
            logs.held[kept] = logs.held[i]
            kept += 1
        else:
            c_close(logs.held[i].fd)
    logs.count = kept
    logs.unread = False
    return 0


cdef int _find(Logs *logs) noexcept nogil:
    """Read the folder if it may have changed; return 0 or an errno."""
    cdef char[NEWS_SIZE] news
    cdef Py_ssize_t told
    if logs.error:
        return logs.error
    while logs.watch >= 0:
        told = c_read(logs.watch, news, NEWS_SIZE)
        if told > 0:
            logs.unread = True
        elif errno == EAGAIN:
            break
        elif errno != EINTR:
            return _fail(logs, b"watch the folder")
    return _read_folder(logs) if logs.unread or logs.watch < 0 else 0


cdef int _sync(Logs *logs) noexcept nogil:
    """Make durable what the logs have now; return 0 or an errno."""
    cdef c_stat status
    cdef int i
    if _find(logs):
        return logs.error
    for i in range(logs.count):
        if fstat(logs.held[i].fd, &status):
            return _fail(logs, b"look at a log")
        if status.st_size > logs.held[i].covered:
            if fdatasync(logs.held[i].fd):
                return _fail(logs, b"sync a log")
            logs.held[i].covered = status.st_size
    if logs.unlisted:
        if fsync(logs.folder):
            return _fail(logs, b"sync the folder")
        logs.unlisted = False
    return 0


cdef int _turn(Shared *shared, int (*act)(Logs *logs) noexcept nogil) noexcept nogil:
    cdef int error
    pthread_mutex_lock(&shared.mutex)
    error = act(&shared.logs)
    pthread_mutex_unlock(&shared.mutex)
    return error


cdef void *_run(void *argument) noexcept nogil:
    """The thread: a sync each time that one is wanted, and a last one."""
    cdef Shared *shared = <Shared *>argument
    cdef timespec until
    cdef int64_t accepted
    while True:
        clock_gettime(CLOCK_REALTIME, &until)
        until.tv_sec += TIDY_S
        if sem_timedwait(&shared.wanted, &until) == 0:
            accepted = atomic_load(&shared.accepted, ACQUIRE)
            if _turn(shared, _sync) == 0:
                shared.covered = accepted
            eventfd_write(shared.done, 1)
            if shared.over:
                return NULL
        elif errno == ETIMEDOUT:
            _turn(shared, _find)


cdef class LogFlusher:
    """Syncs the logs in a folder: in the caller's thread, or in one of its own, and then one at a time.

    Args:
        folder: of an open database; a path.

    Raises:
        OSError: the folder cannot be opened, or the system has no descriptor left.
    """

    cdef Shared shared
    cdef pthread_t thread
    cdef bint running               # there is a thread; it holds a reference to this object

    def __cinit__(self):
        self.shared.logs.folder = self.shared.logs.watch = self.shared.done = -1
        pthread_mutex_init(&self.shared.mutex, NULL)
        sem_init(&self.shared.wanted, 0, 0)

    def __init__(self, folder):
        cdef Logs *logs = &self.shared.logs
        logs.folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.shared.done = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        logs.watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK)
        events = IN_CREATE | IN_MOVED_TO | IN_DELETE
        if logs.watch >= 0 and inotify_add_watch(logs.watch, os.fsencode(folder), events) < 0:
            c_close(logs.watch)
            logs.watch = -1
        logs.unread = True

    def __dealloc__(self):
        self.let_go()
        free(self.shared.logs.held)
        pthread_mutex_destroy(&self.shared.mutex)
        sem_destroy(&self.shared.wanted)

    @property
    def done(self):
        """The descriptor that is readable once a sync of the thread has ended, until `end`."""
        return self.shared.done

    def sync(self):
        """Make durable what was written to the logs by now; raise StoreError if that fails, now or ever before."""
        with nogil:
            _turn(&self.shared, _sync)
        self.check()

    def accepted(self, int64_t number):
        """Tell the number of the last change that was written to the logs: a sync that begins later covers it."""
        atomic_store(&self.shared.accepted, number, RELEASE)

    def begin(self):
        """Let the thread do a sync; the first time, start it."""
        if not self.running:
            self.start()
        sem_post(&self.shared.wanted)

    def end(self):
        """Return the number of the last change that is durable, after a sync of the thread has ended.

        Raises:
            StoreError: it failed, or an earlier one.
        """
        cdef uint64_t count
        eventfd_read(self.shared.done, &count)
        self.check()
        return self.shared.covered

    def stop(self):
        """End the thread, after a last sync.

        Raises:
            StoreError: that one has not ended within `JOIN_S`.
        """
        cdef double deadline = time.monotonic() + JOIN_S
        if not self.running:
            return
        self.shared.over = True
        sem_post(&self.shared.wanted)
        while pthread_tryjoin_np(self.thread, NULL):
            if time.monotonic() > deadline:
                raise StoreError(f"a flush has not ended within {JOIN_S:.0f} s")
            time.sleep(0.001)
        while sem_trywait(&self.shared.wanted) == 0:
            pass                        # the last sync may have been the one that was under way
        self.running = self.shared.over = False
        Py_DECREF(self)

    def close(self):
        """Let go of the folder and its logs; not while the thread runs."""
        if not self.running:
            self.let_go()

    cdef int check(self) except -1:
        if self.shared.logs.error:
            raise StoreError(f"cannot {self.shared.logs.what.decode()}: {strerror(self.shared.logs.error).decode()}")
        return 0

    cdef int start(self) except -1:
        """Start the thread, which is to take none of the process's signals."""
        cdef sigset_t all_signals, before
        cdef int error
        sigfillset(&all_signals)
        pthread_sigmask(SIG_SETMASK, &all_signals, &before)
        error = pthread_create(&self.thread, NULL, _run, &self.shared)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        if error:
            raise OSError(error, f"start a thread: {strerror(error).decode()}")
        self.running = True
        Py_INCREF(self)
        return 0

    cdef void let_go(self) noexcept:
        cdef int i
        for i in range(self.shared.logs.count):
            c_close(self.shared.logs.held[i].fd)
        self.shared.logs.count = 0
        for fd in (self.shared.logs.folder, self.shared.logs.watch, self.shared.done):
            if fd >= 0:
                c_close(fd)
        self.shared.logs.folder = self.shared.logs.watch = self.shared.done = -1
