"""Bytes on their way between two ends of a wire: the hot half of `dynafast.sim.network`.

May not: decide which wires there are, or which faults strike them.
"""

from zlib import crc32

from libc.stdint cimport int64_t, uint32_t

from dynafast._ext.timeline cimport Due, Timeline


cdef class End:
    """One end of a wire, and the direction in which it sends.

    Attributes:
        number: its name in the trace.
        owner: who has it, as `dynafast.sim.network.Owner` describes.
        far: the other end.
        open: the owner has not learned of an end, and has not ended it itself.
        due_ns: when what was sent last arrives.
        extra_ns: delay of this direction on top of the usual.
        clogged: nothing leaves here.
        held: what waits while nothing flows; None: the end of the stream.
        troubled_ns: when something last kept this direction from flowing.
        tag: the owner's.
    """
    cdef readonly Py_ssize_t number
    cdef readonly object owner
    cdef public End far
    cdef public bint open
    cdef readonly int64_t due_ns
    cdef public int64_t extra_ns
    cdef public bint clogged
    cdef public list held
    cdef public int64_t troubled_ns
    cdef public object tag

    def __cinit__(self, Py_ssize_t number, owner):
        self.number = number
        self.owner = owner
        self.far = self
        self.open = True
        self.held = []
        self.troubled_ns = -1


cdef class _Delivery(Due):
    """What an end is to receive; None: the end of the stream."""
    cdef Wires wires
    cdef End end
    cdef bytes data

    cdef int happen(self) except -1:
        return self.wires.deliver(self.end, self.data)


cdef class Wires:
    """Carries bytes, in order, each with a delay drawn from *rng*.

    Attributes:
        pieces: probability that what is sent arrives in pieces.
        blocked: (place, place) -> how many faults let nothing flow from the one to the other.
        lag_ns: place -> delay of all that it sends and receives (a slow machine).
        ends: those of wires that are not cut, by number.
        watch: is shown what arrives.
    """
    cdef readonly Timeline world
    cdef readonly int64_t latency_ns
    cdef readonly int64_t jitter_ns
    cdef public double pieces
    cdef readonly dict blocked
    cdef public dict lag_ns
    cdef readonly dict ends
    cdef public object watch
    cdef readonly object rng
    cdef object draw                # rng.random

    def __cinit__(self):
        self.blocked = {}
        self.lag_ns = {}
        self.ends = {}

    def __init__(self, Timeline world not None, rng, *, int64_t latency_ns, int64_t jitter_ns, double pieces):
        self.world = world
        self.rng = rng
        self.draw = rng.random
        self.latency_ns = latency_ns
        self.jitter_ns = jitter_ns
        self.pieces = pieces

    def send(self, End end, bytes data not None):
        """Send bytes towards the other end."""
        cdef Py_ssize_t size = len(data), cut
        if not end.open or end.number not in self.ends:
            return
        if end.held or end.clogged or self.stopped(end):
            end.held.append(data)
            end.troubled_ns = self.world.now
            return
        if self.pieces and size > 1 and <double>self.draw() < self.pieces:
            cut = self.rng.randrange(1, size)
            self.carry(end, data[:cut])
            data = data[cut:]
        self.carry(end, data)

    def is_blocked(self, End end):
        """Whether a partition lets nothing flow from here to the other end."""
        return self.stopped(end)

    cdef bint stopped(self, End end) except -1:
        return len(self.blocked) != 0 and (end.owner.place, end.far.owner.place) in self.blocked

    def delay(self, str place, str far):
        """Draw how long something takes from one place to another."""
        return self.latency() + self.lag(place, far)

    cdef int64_t latency(self) except? -1:
        return self.latency_ns + <int64_t>(<double>self.draw() * <double>self.jitter_ns)

    cdef int64_t lag(self, place, far) except? -1:
        return <int64_t>self.lag_ns.get(place, 0) + <int64_t>self.lag_ns.get(far, 0)

    cpdef carry(self, End end, bytes data):
        """Let bytes, or the end of the stream (None), flow from here, whatever holds others up."""
        cdef int64_t due = self.world.now + self.latency() + end.extra_ns
        cdef _Delivery delivery = _Delivery.__new__(_Delivery)
        if self.lag_ns:
            due += self.lag(end.owner.place, end.far.owner.place)
        end.due_ns = max(due, end.due_ns + 1)  # in order
        delivery.wires, delivery.end, delivery.data = self, end.far, data
        self.world.push(end.due_ns, delivery)

    cdef int deliver(self, End end, bytes data) except -1:
        cdef Py_ssize_t size
        cdef uint32_t check
        if not end.open or end.number not in self.ends:
            return 0
        if data is None:
            self.ends.pop(end.number, None)
            self.ends.pop(end.far.number, None)
            self.finish(end)
            return 0
        size = len(data)
        check = crc32(data)
        self.world.add(f"{self.world.now} recv {end.number} {size} {check:08x}\n")
        if self.watch is not None:
            self.watch(end, data)
        end.owner.received(end, data)
        return 0

    cpdef finish(self, End end):
        """Tell the owner of an open end that the wire is gone."""
        if end.open:
            end.open = False
            self.world.add(f"{self.world.now} end {end.number}\n")
            end.owner.ended(end)
