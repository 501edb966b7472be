/* A preloaded library that writes down, in one order, what a process hands to the disk and to the network.
 *
 * tests/durability.py builds it, sets its environment and reads its log; it also explains the lines.
 *   DURABILITY_LOG      file that lines are appended to; several processes may share it
 *   DURABILITY_WATCH    folder whose files are watched
 *   DURABILITY_SOCKETS  1: what is sent over TCP is written down too
 *   DURABILITY_FAULT    path P: while P.write exists, writes to *.log fail with ENOSPC; while P.sync exists, their
 *                       syncs fail with EIO; while P.hang exists, they do not end; while P.watch exists, there is no
 *                       inotify
 *
 * A write is noted after it was made, a sync before and after, a send before it is tried: what stands behind the end
 * of a sync was really sent after it. A line is one write to a file opened for appending, so lines never mix.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { DATA_MAX = 1024, TEXT_MAX = 2 * PATH_MAX + 256 };
enum kind { OTHER, WATCHED, SOCKET };

static int log_fd = -1;
static int log_sockets;
static const char *watch, *fault;
static atomic_ulong next_sync;

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv("DURABILITY_LOG"), *sockets = getenv("DURABILITY_SOCKETS");
    watch = getenv("DURABILITY_WATCH");
    fault = getenv("DURABILITY_FAULT");
    log_sockets = sockets != NULL && sockets[0] == '1';
    if (path != NULL && watch != NULL)
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
}

/* The function that this library stands before. */
#define REAL(name)                                               \
    ({                                                           \
        static _Atomic(__typeof__(&name)) found;                 \
        __typeof__(&name) f = atomic_load(&found);               \
        if (f == NULL)                                           \
            atomic_store(&found, f = dlsym(RTLD_NEXT, #name));   \
        f;                                                       \
    })

/* Appends one line: the process, *format*, and the first DATA_MAX bytes of *parts* as hex. Keeps errno. */
static void note(const struct iovec *parts, int count, const char *format, ...)
{
    static const char digits[] = "0123456789abcdef";
    char line[TEXT_MAX + 2 * DATA_MAX + 2];
    int saved = errno, used = snprintf(line, TEXT_MAX, "%d\t", (int)getpid()), left = DATA_MAX;
    va_list arguments;
    va_start(arguments, format);
    used += vsnprintf(line + used, TEXT_MAX - used, format, arguments);
    va_end(arguments);
    for (int i = 0; i < count; i++) {
        const unsigned char *bytes = parts[i].iov_base;
        for (size_t j = 0; j < parts[i].iov_len && left > 0; j++, left--) {
            line[used++] = digits[bytes[j] >> 4];
            line[used++] = digits[bytes[j] & 15];
        }
    }
    line[used++] = '\n';
    syscall(SYS_write, log_fd, line, (size_t)used);
    errno = saved;
}

static int is_watched(const char *path)
{
    size_t size = watch == NULL ? 0 : strlen(watch);
    return log_fd >= 0 && strncmp(path, watch, size) == 0 && (path[size] == '/' || path[size] == 0);
}

/* The kernel is asked for the path each time: a table of descriptors could miss a way to open or close one. */
static enum kind kind_of(int fd, char path[PATH_MAX])
{
    char link[64];
    int saved = errno;
    if (log_fd < 0)
        return OTHER;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    errno = saved;
    if (size < 0)
        return OTHER;
    path[size] = 0;
    if (strncmp(path, "socket:", 7) == 0)
        return log_sockets ? SOCKET : OTHER;
    return is_watched(path) ? WATCHED : OTHER;
}

static int fault_is_on(const char *what)
{
    char name[PATH_MAX];
    int saved = errno;
    snprintf(name, sizeof name, "%s.%s", fault, what);
    int found = access(name, F_OK) == 0;
    errno = saved;
    return found;
}

static int fails(const char *path, const char *what)
{
    size_t size = strlen(path);
    return fault != NULL && size >= 4 && strcmp(path + size - 4, ".log") == 0 && fault_is_on(what);
}

static int port_of(const struct sockaddr_storage *address)
{
    if (address->ss_family == AF_INET)
        return ntohs(((const struct sockaddr_in *)address)->sin_port);
    if (address->ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
    return -1;
}

static void note_send(int fd, const struct iovec *parts, size_t count)
{
    struct sockaddr_storage here = {0}, there = {0};
    socklen_t here_size = sizeof here, there_size = sizeof there;
    size_t size = 0;
    int saved = errno;
    for (size_t i = 0; i < count; i++)
        size += parts[i].iov_len;
    if (getsockname(fd, (struct sockaddr *)&here, &here_size) == 0 && port_of(&here) >= 0
        && getpeername(fd, (struct sockaddr *)&there, &there_size) == 0)
        note(parts, (int)count, "send\t%d\t%d\t%zu\t", port_of(&here), port_of(&there), size);
    errno = saved;
}

/* Makes a call that writes, and notes it. *after*: the file's position then, or where it wrote plus the result. */
#define WRITING(fd, parts, count, call, after)                                                          \
    ({                                                                                                  \
        char path[PATH_MAX];                                                                            \
        enum kind kind = kind_of(fd, path);                                                             \
        ssize_t result;                                                                                 \
        if (kind == SOCKET)                                                                             \
            note_send(fd, parts, count);                                                                \
        if (kind == WATCHED && fails(path, "write")) {                                                  \
            errno = ENOSPC;                                                                             \
            result = -1;                                                                                \
        } else {                                                                                        \
            result = (call);                                                                            \
        }                                                                                               \
        if (kind == WATCHED && result > 0)                                                              \
            note(parts, count, "write\t%s\t%lld\t%zd\t", path, (long long)(after) - result, result);    \
        result;                                                                                         \
    })

ssize_t write(int fd, const void *data, size_t size)
{
    struct iovec part = {(void *)data, size};
    return WRITING(fd, &part, 1, REAL(write)(fd, data, size), lseek(fd, 0, SEEK_CUR));
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return WRITING(fd, parts, count, REAL(writev)(fd, parts, count), lseek(fd, 0, SEEK_CUR));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    struct iovec part = {(void *)data, size};
    return WRITING(fd, &part, 1, REAL(pwrite)(fd, data, size, offset), offset + result);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    struct iovec part = {(void *)data, size};
    return WRITING(fd, &part, 1, REAL(pwrite64)(fd, data, size, offset), offset + result);
}

#define SYNCING(fd, call)                                                           \
    ({                                                                              \
        char path[PATH_MAX];                                                        \
        int watched = kind_of(fd, path) == WATCHED, result;                         \
        unsigned long id = watched ? atomic_fetch_add(&next_sync, 1) : 0;           \
        if (watched)                                                                \
            note(NULL, 0, "sync-begin\t%s\t%lu", path, id);                         \
        while (watched && fails(path, "hang"))                                      \
            usleep(1000);                                                           \
        if (watched && fails(path, "sync")) {                                       \
            errno = EIO;                                                            \
            result = -1;                                                            \
        } else {                                                                    \
            result = (call);                                                        \
        }                                                                           \
        if (watched && result == 0)                                                 \
            note(NULL, 0, "sync-end\t%s\t%lu", path, id);                           \
        result;                                                                     \
    })

int fsync(int fd)
{
    return SYNCING(fd, REAL(fsync)(fd));
}

int fdatasync(int fd)
{
    return SYNCING(fd, REAL(fdatasync)(fd));
}

#define TRUNCATING(fd, call, size)                                                  \
    ({                                                                              \
        char path[PATH_MAX];                                                        \
        int watched = kind_of(fd, path) == WATCHED, result = (call);                \
        if (watched && result == 0)                                                 \
            note(NULL, 0, "truncate\t%s\t%lld", path, (long long)(size));           \
        result;                                                                     \
    })

int ftruncate(int fd, off_t size)
{
    return TRUNCATING(fd, REAL(ftruncate)(fd, size), size);
}

int ftruncate64(int fd, off64_t size)
{
    return TRUNCATING(fd, REAL(ftruncate64)(fd, size), size);
}

/* *directory* is AT_FDCWD wherever RocksDB, Rust and Python open and rename: other paths are not followed. */
#define OPENING(name, flags, call)                                                                      \
    ({                                                                                                  \
        struct stat status;                                                                             \
        int saved = errno, created = (flags & O_CREAT) && stat(name, &status) != 0;                     \
        errno = saved;                                                                                  \
        int result = (call);                                                                            \
        if (result >= 0 && is_watched(name) && (created || (flags & O_TRUNC)))                          \
            note(NULL, 0, "%s\t%s", created ? "create" : "empty", name);                                \
        result;                                                                                         \
    })

#define MODE_OF(flags)                                                              \
    ({                                                                              \
        mode_t mode = 0;                                                            \
        if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) {                \
            va_list arguments;                                                      \
            va_start(arguments, flags);                                             \
            mode = va_arg(arguments, mode_t);                                       \
            va_end(arguments);                                                      \
        }                                                                           \
        mode;                                                                       \
    })

int open(const char *name, int flags, ...)
{
    mode_t mode = MODE_OF(flags);
    return OPENING(name, flags, REAL(open)(name, flags, mode));
}

int open64(const char *name, int flags, ...)
{
    mode_t mode = MODE_OF(flags);
    return OPENING(name, flags, REAL(open64)(name, flags, mode));
}

int openat(int directory, const char *name, int flags, ...)
{
    mode_t mode = MODE_OF(flags);
    return OPENING(name, flags, REAL(openat)(directory, name, flags, mode));
}

int openat64(int directory, const char *name, int flags, ...)
{
    mode_t mode = MODE_OF(flags);
    return OPENING(name, flags, REAL(openat64)(directory, name, flags, mode));
}

int inotify_init1(int flags)
{
    if (fault != NULL && fault_is_on("watch")) {
        errno = EMFILE;
        return -1;
    }
    return REAL(inotify_init1)(flags);
}

int rename(const char *from, const char *to)
{
    int result = REAL(rename)(from, to);
    if (result == 0 && is_watched(to))
        note(NULL, 0, "rename\t%s\t%s", from, to);
    return result;
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    struct iovec part = {(void *)data, size};
    if (log_fd >= 0 && log_sockets)
        note_send(fd, &part, 1);
    return REAL(send)(fd, data, size, flags);
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to, socklen_t to_size)
{
    struct iovec part = {(void *)data, size};
    if (log_fd >= 0 && log_sockets)
        note_send(fd, &part, 1);
    return REAL(sendto)(fd, data, size, flags, to, to_size);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    if (log_fd >= 0 && log_sockets)
        note_send(fd, message->msg_iov, message->msg_iovlen);
    return REAL(sendmsg)(fd, message, flags);
}
