"""Virtual time, one heap of what is due, and the lines of the trace: the hot half of `dynafast.sim.world`.

May not: know what an action does, or choose anything.
"""

cdef enum:
    LINES_MAX = 2048  # joined and handed on at once


cdef class Due:
    """Something that is to happen at a time; subclasses say what."""

    cdef int happen(self) except -1:
        raise NotImplementedError


cdef class _Call(Due):
    """A Python action."""
    cdef object action
    cdef tuple arguments

    cdef int happen(self) except -1:
        self.action(*self.arguments)
        return 0


cdef class Timeline:
    """The clock of a run: actions wait in one heap, and of two at one time the earlier pushed goes first.

    Attributes:
        now: virtual nanoseconds.
        events: how many actions have run.
    """

    def __cinit__(self):
        self.heap = []
        self.lines = []

    def __init__(self, int64_t start_ns):
        self.now = start_ns

    def at(self, int64_t when_ns, action, *arguments):
        """Run an action at that time."""
        cdef _Call call = _Call.__new__(_Call)
        call.action = action
        call.arguments = arguments
        self.push(when_ns, call)

    def after(self, int64_t delay_ns, action, *arguments):
        """Run an action that much later."""
        cdef _Call call = _Call.__new__(_Call)
        call.action = action
        call.arguments = arguments
        self.push(self.now + delay_ns, call)

    def run(self, int64_t until_ns):
        """Run actions up to that time, or until `halt`."""
        cdef Due due
        self.halted = False
        while self.heap:
            due = <Due>self.heap[0]
            if due.when_ns > until_ns:
                break
            self._pop()
            self.now = due.when_ns
            self.events += 1
            due.happen()
            if self.halted:
                return
        self.now = max(self.now, until_ns)

    def halt(self):
        """Let `run` return after this action."""
        self.halted = True

    def trace(self, str line):
        """Add a line to the trace."""
        self.add(f"{self.now} {line}\n")

    def flush(self):
        """Hand the lines so far to `keep`."""
        if self.lines:
            text = "".join(self.lines)
            self.lines.clear()
            self.keep(text)

    def keep(self, text):
        """Take some lines; a subclass does."""
        raise NotImplementedError

    cdef int add(self, str line) except -1:
        self.lines.append(line)
        if len(self.lines) >= LINES_MAX:
            self.flush()
        return 0

    # ---- the heap: a list, so that the garbage collector sees what is in it

    cdef int push(self, int64_t when_ns, Due due) except -1:
        cdef list heap = self.heap
        cdef Py_ssize_t place = len(heap), parent
        cdef Due above
        self.pushed += 1
        due.when_ns = when_ns
        due.number = self.pushed
        heap.append(due)
        while place > 0:
            parent = (place - 1) >> 1
            above = <Due>heap[parent]
            if not _before(due, above):
                break
            heap[place] = above
            place = parent
        heap[place] = due
        return 0

    cdef int _pop(self) except -1:
        cdef list heap = self.heap
        cdef Due last = <Due>heap.pop(), least
        cdef Py_ssize_t place = 0, child = 1, count = len(heap)
        if count == 0:
            return 0
        while child < count:
            if child + 1 < count and _before(<Due>heap[child + 1], <Due>heap[child]):
                child += 1
            least = <Due>heap[child]
            if not _before(least, last):
                break
            heap[place] = least
            place = child
            child = 2 * place + 1
        heap[place] = last
        return 0


cdef inline bint _before(Due one, Due two) noexcept:
    return one.when_ns < two.when_ns or (one.when_ns == two.when_ns and one.number < two.number)
