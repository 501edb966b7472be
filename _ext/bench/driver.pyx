"""The load generator's loop: many connections of one process, each request timed, every answer held against its key.

Closed: so many requests are always under way, each timed from when it is sent. Open: requests are due at
given times, whether answers come or not, and are timed from when they were due; one for which no connection is free
waits, and its waiting counts. What goes wrong is counted and never repeated: a failed request is a failed request.

May not: call Python while it runs. `run` is called in slices, so that signals and progress have their turn.
"""

cimport cython
from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset, strlen

from bench._ext.counts cimport Cells, count, free_cells, make_cells, take_cells
from bench._ext.keys cimport KEY_SIZE, Keys
from bench._ext.links cimport Conn, Links, clock
from bench._ext.system cimport (
    CLOCK_MONOTONIC, EPOLL_CTL_ADD, EPOLLIN, PR_SET_TIMERSLACK, TFD_CLOEXEC, TFD_NONBLOCK, TFD_TIMER_ABSTIME, close_fd,
    epoll_ctl, epoll_event, epoll_wait, itimerspec, prctl, read_fd, timerfd_create, timerfd_settime,
)
from bench._ext.wire cimport CONTROL, FAILED, FOUND, MISSING, Answer, Put

cdef enum:
    READ = 0
    UPDATE = 1
    INSERT = 2
    CHANGE = 3  # read, then write with what was read
    KINDS = 4
    EVENTS = 256
    REASONS = 32
    VERSIONS_MAX = 16
    REASON_SIZE = 48
    TIMER = 0xFFFFFFFF  # as the number of a connection

cdef int64_t LOOK_NS = 100_000_000  # between two looks at what is overdue
cdef double NEVER = 1e300

KIND_NAMES = ("read", "update", "insert", "change")


cdef struct Slot:
    int conn  # -1: free
    int kind
    bint second  # the write of a CHANGE
    uint64_t key
    double due
    int64_t sent
    int next  # free one


cdef struct Reason:
    uint8_t text[REASON_SIZE]
    size_t size
    uint64_t count


cdef struct Pace:
    double until  # ns; as long as requests are due
    double interval  # ns between two of them


def clock_ns():
    """Return the time that all of a run is told in: nanoseconds of the machine's monotonic clock."""
    return clock()


@cython.final
cdef class Driver(Links):
    """A share of a load, as one process gives it.

    Args:
        protocol: "native", "resp", "etcd" or "nats".
        nodes: (numeric host, port) of each.
        greeting, get_tail, put_tail, need: what the protocol puts into its bytes; `bench.load.protocols` makes them.
        connections: of this process, spread evenly over the nodes.
        slots: requests under way at most; without *owners* each connection has as many, so a multiple of *connections*.
        number: of the first connection; unlike those of other processes.
        keys: what to ask for.
        mix: how many of 10,000 are reads, updates, inserts and changes.
        owners: the index of the node for every record, as u16; for as many inserts as there are more, the others go to
            any node. Empty: any node is asked.
        timeout_ns: after which a request has failed, and its connection with it.
    """

    cdef Keys keys
    cdef int mix[KINDS]
    cdef bytes kept_owners
    cdef const uint16_t *owners  # NULL: any node is asked
    cdef uint64_t owner_count
    cdef Slot *slots
    cdef int slot_count, free_slot
    cdef int *ready  # a ring of connections, each as often as it may have another request
    cdef int ready_first, ready_count
    cdef int *turns  # of each node: which of its connections is next
    cdef uint32_t queue_mask
    cdef int timer
    cdef int64_t timeout_ns, look_ns, timer_ns
    cdef double due_ns
    cdef Pace *paces
    cdef int pace_count, pace
    cdef int64_t remaining  # requests still to be sent; -1: no limit
    cdef uint8_t *value
    cdef Cells cells[KINDS]
    cdef Reason reasons[REASONS]
    cdef readonly uint64_t done, failed, wrong, unsent
    cdef readonly int in_flight
    cdef uint64_t versions[VERSIONS_MAX + 1]  # gets that found so many values

    def __cinit__(
        self, str protocol, nodes, *, int connections, int slots, Keys keys, mix, bytes owners, int64_t timeout_ns,
        **rest,
    ):
        self.timer = -1
        self.keys, self.timeout_ns = keys, timeout_ns
        self.mix = mix
        if sum(mix) != 10000:
            raise ValueError("the mix must be of 10,000")
        if owners:
            self.kept_owners, self.owners = owners, <const uint16_t *><const char *>owners
            self.owner_count = <uint64_t>len(owners) // 2
            if connections % len(nodes) or self.owner_count < keys.records:
                raise ValueError("every record must have an owner, and every node as many connections")
        if slots < 1 or (not owners and slots % connections):
            raise ValueError("every connection must have as many slots")
        self.slot_count = slots
        self.due_ns, self.remaining = NEVER, -1
        self.allocate()
        self.set_timer()

    cdef int allocate(self) except -1:
        cdef int i
        cdef uint32_t room = 1
        while room < <uint32_t>self.slot_count:
            room *= 2
        self.queue_mask = room - 1
        self.slots = <Slot *>calloc(self.slot_count, sizeof(Slot))
        self.ready = <int *>calloc(self.slot_count, sizeof(int))
        self.turns = <int *>calloc(self.node_count, sizeof(int))
        self.value = <uint8_t *>calloc(self.keys.size_max, 1)
        if not (self.slots and self.ready and self.turns and self.value):
            raise MemoryError
        for i in range(self.conn_count if self.codec.ordered else 0):
            self.conns[i].queue = <int32_t *>calloc(room, sizeof(int32_t))
            if self.conns[i].queue is NULL:
                raise MemoryError
        for i in range(KINDS):
            make_cells(&self.cells[i])
        self.free_slot = -1
        for i in range(self.slot_count):
            self.slots[i].conn, self.slots[i].next = -1, self.free_slot
            self.free_slot = i
        return 0

    cdef int set_timer(self) except -1:
        cdef epoll_event event
        self.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
        event.events, event.data.u32 = EPOLLIN, TIMER
        if self.timer < 0 or epoll_ctl(self.epoll, EPOLL_CTL_ADD, self.timer, &event):
            raise OSError(errno, "timerfd")
        prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0)  # requests that are due wait 1 µs longer at most, not 50
        return 0

    def __dealloc__(self):
        cdef int i
        for i in range(KINDS):
            free_cells(&self.cells[i])
        if self.timer >= 0:
            close_fd(self.timer)
        free(self.slots)
        free(self.ready)
        free(self.turns)
        free(self.value)
        free(self.paces)

    # ---- for Python

    def schedule(self, paces, int64_t start_ns):
        """Make requests due: from *start_ns* on, for each (until_ns, rate per second) of *paces* in turn."""
        free(self.paces)
        self.paces = <Pace *>calloc(len(paces), sizeof(Pace))
        if self.paces is NULL:
            raise MemoryError
        for index, (until_ns, rate) in enumerate(paces):
            self.paces[index] = Pace(until=until_ns, interval=1e9 / rate)
        self.pace_count, self.pace, self.due_ns = len(paces), 0, start_ns

    def limit(self, int64_t count):
        """Send so many more requests and no more; -1: without end."""
        self.remaining = count

    def connect(self, int64_t until_ns):
        """Make the connections; return when all are there, or at that time. Nothing is sent but greetings."""
        cdef int64_t limit = self.remaining
        self.remaining = 0
        while self.connected < self.conn_count and clock() < until_ns:
            self.look_ns = 0
            with nogil:
                self.loop(min(until_ns, clock() + 10_000_000), True, False)
        self.remaining = limit

    def run(self, int64_t until_ns):
        """Send and receive until then, or until nothing is under way and the limit is reached; return whether it is."""
        with nogil:
            self.loop(until_ns, True, True)
        return self.remaining == 0 and not self.in_flight

    def drain(self, int64_t until_ns):
        """Send nothing new; wait for what is under way, then count as failed what has no answer, and what was due."""
        with nogil:
            self.loop(until_ns, False, True)
            self.give_up(clock())

    def take(self):
        """Return the counts of durations since the last time, by kind: (largest ns of a cell, count) of each."""
        return {name: take_cells(&self.cells[kind]) for kind, name in enumerate(KIND_NAMES)}

    def reset(self):
        """Forget what was counted so far, a warm-up for instance."""
        self.take()
        memset(self.reasons, 0, sizeof(self.reasons))
        memset(self.versions, 0, sizeof(self.versions))
        self.done = self.failed = self.wrong = self.unsent = self.lost_connections = 0

    @property
    def version_counts(self):
        """Number of values of a key -> how many gets found so many; the last one stands for more, too."""
        return {number: self.versions[number] for number in range(VERSIONS_MAX + 1) if self.versions[number]}

    @property
    def errors(self):
        """Reason -> how many requests failed for it."""
        cdef dict found = {}
        cdef int i
        for i in range(REASONS):
            if self.reasons[i].count:
                text = (<bytes>self.reasons[i].text[:self.reasons[i].size]).decode(errors="replace")
                found[text] = self.reasons[i].count
        return found

    # ---- the loop

    cdef void loop(self, int64_t until, bint sending, bint stopping) noexcept nogil:
        """*stopping*: return as soon as nothing is under way and nothing will be."""
        cdef epoll_event events[EVENTS]
        cdef int64_t now = clock()
        cdef int i, got
        while now < until:
            if now >= self.look_ns:
                self.look(now)
            if sending:
                self.start(now)
            if stopping and not self.in_flight and (not sending or self.remaining == 0):
                return
            self.flush()
            self.wait_until(min(until, self.look_ns), now, sending)
            got = epoll_wait(self.epoll, events, EVENTS, -1)
            for i in range(got):
                if events[i].data.u32 == TIMER:
                    read_fd(self.timer, &now, 8)
                    self.timer_ns = 0
                else:
                    self.event(<int>events[i].data.u32)
            now = clock()

    cdef void wait_until(self, int64_t limit, int64_t now, bint sending) noexcept nogil:
        """Set the timer for when something is to be done without an answer."""
        cdef itimerspec at
        cdef int64_t when = limit
        if sending and self.free_slot >= 0 and self.due_ns < when:
            if self.ready_count or (self.owners and self.connected):
                when = max(<int64_t>self.due_ns, now + 1)
        if self.timer_ns != when:
            memset(&at, 0, sizeof(at))
            at.it_value.tv_sec, at.it_value.tv_nsec = when // 1000000000, when % 1000000000
            timerfd_settime(self.timer, TFD_TIMER_ABSTIME, &at, NULL)
            self.timer_ns = when

    cdef void look(self, int64_t now) noexcept nogil:
        """Give up connections with a request that is overdue, and make lost ones anew."""
        cdef int i
        for i in range(self.slot_count):
            if self.slots[i].conn >= 0 and now - self.slots[i].sent > self.timeout_ns:
                self.lose(self.slots[i].conn, now, b"no answer in time")
        self.open_missing(now)
        self.look_ns = now + LOOK_NS

    # ---- connections

    cdef void opened(self, int index) noexcept nogil:
        """It is connected: let it have its requests."""
        cdef int i
        for i in range(self.slot_count // self.conn_count if self.owners is NULL else 0):
            self.make_ready(index)

    cdef void make_ready(self, int index) noexcept nogil:
        self.ready[(self.ready_first + self.ready_count) % self.slot_count] = index
        self.ready_count += 1

    cdef void lost(self, int index, int64_t now, const uint8_t *why, size_t size) noexcept nogil:
        """What was under way on a connection has failed."""
        cdef int i, kept = 0, other
        for i in range(self.ready_count):
            other = self.ready[(self.ready_first + i) % self.slot_count]
            if other != index:
                self.ready[(self.ready_first + kept) % self.slot_count] = other
                kept += 1
        self.ready_count = kept
        for i in range(self.slot_count):
            if self.slots[i].conn == index:
                self.fail(i, now, why, size)

    # ---- requests

    cdef void start(self, int64_t now) noexcept nogil:
        """Send what is due and may be sent."""
        cdef double due
        while self.free_slot >= 0 and self.remaining != 0:
            if not (self.ready_count or (self.owners and self.connected)):
                return
            due = now
            if self.paces:
                if self.due_ns > now:
                    return
                due = self.next_due()
            if self.remaining > 0:
                self.remaining -= 1
            self.send_request(due, now)

    cdef double next_due(self) noexcept nogil:
        """Return when the next request was due, and go on to the one after it."""
        cdef double due = self.due_ns
        self.due_ns += self.paces[self.pace].interval
        while self.due_ns >= self.paces[self.pace].until:
            self.due_ns = self.paces[self.pace].until
            self.pace += 1
            if self.pace == self.pace_count:
                self.due_ns = NEVER
                break
        return due

    cdef int pick_kind(self) noexcept nogil:
        cdef int drawn = <int>(self.keys.random() % 10000), kind = 0
        while drawn >= self.mix[kind]:
            drawn -= self.mix[kind]
            kind += 1
        if kind == INSERT and not self.keys.can_insert():
            return READ
        return kind

    cdef int choose(self, uint64_t key) noexcept nogil:
        """Return the connection for a request: one of the key's own node if keys have nodes, else the next."""
        cdef int node, i, index, each = self.conn_count // self.node_count
        if self.owners is NULL:
            index = self.ready[self.ready_first]
            self.ready_first = (self.ready_first + 1) % self.slot_count
            self.ready_count -= 1
            return index
        node = (self.owners[key] if key < self.owner_count else <int>(key & 0xFFFF)) % self.node_count
        for i in range(each):
            index = node + self.turns[node] % each * self.node_count
            self.turns[node] += 1
            if self.conns[index].open:
                return index
        index = 0
        while not self.conns[index].open:  # the caller has seen that there is one
            index += 1
        return index

    cdef void send_request(self, double due, int64_t now) noexcept nogil:
        cdef int index = self.free_slot
        cdef Slot *slot = &self.slots[index]
        self.free_slot = slot.next
        slot.kind, slot.second, slot.due, slot.sent = self.pick_kind(), False, due, now
        slot.key = self.keys.insert() if slot.kind == INSERT else self.keys.pick()
        slot.conn = self.choose(slot.key)
        self.in_flight += 1
        self.write(index, NULL, now)

    cdef void write(self, int index, const Answer *read, int64_t now) noexcept nogil:
        """Put the request of a slot into its connection's output. *read*: what a CHANGE has read."""
        cdef Slot *slot = &self.slots[index]
        cdef Conn *conn = &self.conns[slot.conn]
        cdef uint8_t key[KEY_SIZE]
        cdef Put put
        cdef int status
        self.keys.write_key(key, slot.key)
        if slot.kind == READ or (slot.kind == CHANGE and not slot.second):
            status = self.codec.get(&conn.wire, index, key, KEY_SIZE)
        else:
            self.keys.write_value(self.value, slot.key)
            memset(&put, 0, sizeof(put))
            put.key, put.key_size, put.value, put.value_size = key, KEY_SIZE, self.value, self.keys.size_of(slot.key)
            put.nonce[0], put.nonce[1] = self.keys.random(), self.keys.random()
            if read is not NULL:
                put.context, put.context_size = read.context, read.context_size
            status = self.codec.put(&conn.wire, index, &put)
        if self.codec.ordered:
            conn.queue[conn.last & self.queue_mask] = index
            conn.last += 1
        conn.dirty = True
        if status:
            self.lose(slot.conn, now, b"cannot be sent")

    # ---- answers

    cdef void arrived(self, int index) noexcept nogil:
        cdef Conn *conn = &self.conns[index]
        cdef int64_t now = clock()
        cdef Answer answer
        cdef int got = 0
        while conn.fd >= 0:
            got = self.codec.next(&conn.wire, &answer)
            if got != 1:
                break
            if answer.kind == CONTROL:
                conn.dirty = True
            elif not self.answered(index, &answer, now):
                got = -1
                break
        if got < 0:
            self.lose(index, now, b"bad bytes")
        elif conn.wire.input.start == conn.wire.input.end:
            conn.wire.input.start = conn.wire.input.end = 0

    cdef bint answered(self, int index, Answer *answer, int64_t now) noexcept nogil:
        """Settle the request that an answer belongs to; false: there is none."""
        cdef Conn *conn = &self.conns[index]
        cdef Slot *slot
        if answer.id < 0:
            if conn.first == conn.last:
                return False
            answer.id = conn.queue[conn.first & self.queue_mask]
            conn.first += 1
        if answer.id >= self.slot_count:
            return False
        slot = &self.slots[answer.id]
        if slot.conn != index:
            return False
        if answer.kind == FAILED:
            self.fail(<int>answer.id, now, answer.error, answer.error_size)
            return True
        if answer.kind == FOUND:
            self.versions[min(answer.versions, <uint32_t>VERSIONS_MAX)] += 1
        if slot.kind == READ or (slot.kind == CHANGE and not slot.second):
            if answer.kind == MISSING:
                self.fail_for(<int>answer.id, now, b"not found")
                return True
            if answer.kind != FOUND or not self.keys.right(slot.key, answer.value, answer.size):
                self.wrong += 1
                self.fail_for(<int>answer.id, now, b"wrong value")
                return True
            if slot.kind == CHANGE:
                slot.second = True
                self.write(<int>answer.id, answer, now)
                return True
        self.done += 1
        self.settle(<int>answer.id, now)
        return True

    cdef void settle(self, int index, int64_t now) noexcept nogil:
        """Count how long a request took, and free its slot."""
        cdef Slot *slot = &self.slots[index]
        count(&self.cells[slot.kind], now - <int64_t>slot.due)
        if slot.kind == INSERT:
            self.keys.inserted(slot.key)
        if self.conns[slot.conn].open and self.owners is NULL:
            self.make_ready(slot.conn)
        slot.conn, slot.next = -1, self.free_slot
        self.free_slot = index
        self.in_flight -= 1

    cdef void fail(self, int index, int64_t now, const uint8_t *why, size_t size) noexcept nogil:
        cdef int i
        self.failed += 1
        size = min(size, <size_t>REASON_SIZE)
        for i in range(REASONS):
            if not self.reasons[i].count:
                memcpy(self.reasons[i].text, why, size)
                self.reasons[i].size = size
            elif self.reasons[i].size != size or memcmp(self.reasons[i].text, why, size):
                continue
            self.reasons[i].count += 1
            break
        self.settle(index, now)

    cdef void fail_for(self, int index, int64_t now, const char *why) noexcept nogil:
        self.fail(index, now, <const uint8_t *>why, strlen(why))

    cdef void give_up(self, int64_t now) noexcept nogil:
        """Count what is under way as failed, and what was due and never sent too, as long as it has waited."""
        cdef int i
        for i in range(self.slot_count):
            if self.slots[i].conn >= 0:
                self.lose(self.slots[i].conn, now, b"no answer at the end")
        while self.paces and self.due_ns <= now:
            count(&self.cells[self.pick_kind()], now - <int64_t>self.next_due())
            self.unsent += 1
