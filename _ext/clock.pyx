"""Dotted version sets: the versions of one key with their causal context.

Source: Dynamo (SOSP 2007), section 4.4, with dotted version vectors (Preguica et al., 2010), so that writes of clients
that interleave with stale contexts never pile up siblings. A record is immutable: every change gives a new one.

Does: merge, compare, put, encode, decode, seal and open client contexts. May not: choose actors or counters (that is
the actor rule, in the coordinator), drop context entries, or read a clock.
"""

from dynafast.errors import BadContextError, CorruptRecordError, InvariantViolation

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.ref cimport Py_XDECREF, Py_XINCREF
from libc.string cimport memcmp, memcpy, memset

cimport cython

from dynafast._ext.codec cimport (
    ARRAY,
    BYTES,
    CBOR_NULL,
    HEAD_MAX,
    UINT,
    decode_item,
    encode_item,
    head_at,
    load_be,
    read_bytes,
    read_expect,
    read_null,
    read_uint,
    reserve,
    store_be,
)
from dynafast._ext.xxh3 cimport hash_bytes, hash_raw, hash_under

EQUAL = 0
BEFORE = -1
AFTER = 1
CONCURRENT = 2

cdef enum:
    ID_SIZE = 16
    LOCAL_SIZE = 25                 # actor, boot, counter, number of hints; 8 bytes for each hint follow
    ENTRY_SIZE = 24                 # of a sealed context: actor, counter, time
    SEAL_SIZE = 8
    PACKED_USUAL = 8                # entries and dots that are hashed without an object for them
    CONTEXT_FORMAT = 2

_PURPOSE = b"dynafast-context"      # a checksum of something else is none of a context


cdef inline int order(uint64_t actor, uint64_t counter, uint64_t other_actor, uint64_t other_counter) noexcept nogil:
    if actor != other_actor:
        return -1 if actor < other_actor else 1
    if counter != other_counter:
        return -1 if counter < other_counter else 1
    return 0


@cython.final
@cython.freelist(256)               # a put ends one record for each that it makes
cdef class Record:
    """The versions of one key and the context that says which dots have been seen.

    Args:
        context: entries ``(actor, counter, time)``, one per actor, in any order.
        versions: ``(actor, counter, time, write_id, value)``, distinct dots, each covered by the context; a value of
            None is a tombstone.

    Raises:
        ValueError: an entry or a version is malformed, doubled, or not covered.
    """

    def __init__(self, context=(), versions=()):
        cdef list entries = sorted(context, key=_actor)
        cdef list dots = sorted(versions, key=_dot)
        cdef Version version
        if self.entries != NULL:
            raise InvariantViolation("a record is immutable")
        self.allocate_entries(len(entries))
        self.allocate_dots(len(dots))
        for actor, counter, time in entries:
            _check_numbers(actor, counter, time)
            self.entries[self.entry_count].actor = actor
            self.entries[self.entry_count].counter = counter
            self.entries[self.entry_count].time = time
            self.entry_count += 1
        for actor, counter, time, write_id, value in dots:
            _check_numbers(actor, counter, time)
            _fill_version(&version, actor, counter, time, write_id, value)
            self.keep(&version)
        _check(self)

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.dot_count):
            Py_XDECREF(self.dots[i].owner)
        if self.entries != self.usual_entries:
            PyMem_Free(self.entries)
        if self.dots != self.usual_dots:
            PyMem_Free(self.dots)

    cdef int allocate_entries(self, Py_ssize_t count) except -1:
        """Make room, once; the count stays what it is, so that a half-filled record can be freed."""
        self.entries = self.usual_entries
        if count > ENTRIES_USUAL:
            self.entries = <Entry *>PyMem_Calloc(count, sizeof(Entry))
            if self.entries == NULL:
                raise MemoryError
        return 0

    cdef int allocate_dots(self, Py_ssize_t count) except -1:
        """As `allocate_entries`."""
        self.dots = self.usual_dots
        if count > DOTS_USUAL:
            self.dots = <Version *>PyMem_Calloc(count, sizeof(Version))
            if self.dots == NULL:
                raise MemoryError
        return 0

    cdef void keep(self, const Version *version) noexcept:
        """Append a version with a reference of our own to its value."""
        self.dots[self.dot_count] = version[0]
        Py_XINCREF(version.owner)
        self.dot_count += 1

    cdef uint64_t counter_of(self, uint64_t actor) noexcept:
        cdef Py_ssize_t low = 0, high = self.entry_count, middle
        while low < high:
            middle = low + (high - low) // 2
            if self.entries[middle].actor < actor:
                low = middle + 1
            else:
                high = middle
        if low < self.entry_count and self.entries[low].actor == actor:
            return self.entries[low].counter
        return 0

    cdef bint covers(self, uint64_t actor, uint64_t counter) noexcept:
        return self.counter_of(actor) >= counter

    cdef const Version *find(self, uint64_t actor, uint64_t counter) noexcept:
        cdef Py_ssize_t low = 0, high = self.dot_count, middle
        cdef Version *dot
        while low < high:
            middle = low + (high - low) // 2
            dot = &self.dots[middle]
            if order(dot.actor, dot.counter, actor, counter) < 0:
                low = middle + 1
            else:
                high = middle
        if low < self.dot_count and order(self.dots[low].actor, self.dots[low].counter, actor, counter) == 0:
            return &self.dots[low]
        return NULL

    cdef const Version *find_write(self, const uint8_t *id) noexcept:
        """Return the version of a write id, or NULL."""
        cdef Py_ssize_t i
        for i in range(self.dot_count):
            if memcmp(self.dots[i].id, id, ID_SIZE) == 0:
                return &self.dots[i]
        return NULL

    cdef Record merged(self, Record other):
        cdef Record result = Record.__new__(Record)
        result.allocate_entries(self.entry_count + other.entry_count)
        result.allocate_dots(self.dot_count + other.dot_count)
        _join_entries(result, self, other)
        _join_dots(result, self, other)
        return result

    cdef Record with_put(self, const Version *version, Record seen):
        """Add a version that replaces what *seen* (a context; its versions do not matter) covers."""
        cdef Record result = Record.__new__(Record)
        cdef Record joined = self
        cdef Version *dot
        cdef Py_ssize_t i, left = 0
        cdef bint placed = False
        if self.covers(version.actor, version.counter) or seen.covers(version.actor, version.counter):
            raise InvariantViolation(f"dot ({version.actor:016x}, {version.counter}) exists already")
        if seen is not self and seen.entry_count:
            joined = Record.__new__(Record)
            joined.allocate_entries(self.entry_count + seen.entry_count)
            _join_entries(joined, self, seen)
        for i in range(self.dot_count):
            left += not seen.covers(self.dots[i].actor, self.dots[i].counter)
        result.allocate_entries(joined.entry_count + (joined.counter_of(version.actor) == 0))
        result.allocate_dots(left + 1)
        _add_entry(result, joined, version)
        for i in range(self.dot_count):
            dot = &self.dots[i]
            if seen.covers(dot.actor, dot.counter):
                continue
            if not placed and order(version.actor, version.counter, dot.actor, dot.counter) < 0:
                result.keep(version)
                placed = True
            result.keep(dot)
        if not placed:
            result.keep(version)
        return result

    cdef int relation(self, Record other) except -1:
        """Return 2 bits: 1 when self has seen all of other, 2 when other has seen all of self."""
        return (1 if _dominates(self, other) else 0) | (2 if _dominates(other, self) else 0)

    cdef uint64_t hash(self) except? 0:
        if self.hashed == 0:
            self.hashed = self.compute_hash()
        return self.hashed

    cdef uint64_t compute_hash(self) except? 0:
        cdef uint8_t[8 + 16 * PACKED_USUAL] usual
        cdef Py_ssize_t i, size = 8 + 16 * (self.entry_count + self.dot_count)
        cdef bytes larger = None
        cdef uint8_t *to = usual
        cdef const uint8_t *packed
        if size > <Py_ssize_t>sizeof(usual):
            larger = PyBytes_FromStringAndSize(NULL, size)
            to = <uint8_t *>PyBytes_AS_STRING(larger)
        packed = to
        store_be(to, <uint64_t>self.entry_count, 8)
        to += 8
        for i in range(self.entry_count):
            store_be(to, self.entries[i].actor, 8)
            store_be(to + 8, self.entries[i].counter, 8)
            to += 16
        for i in range(self.dot_count):
            store_be(to, self.dots[i].actor, 8)
            store_be(to + 8, self.dots[i].counter, 8)
            to += 16
        return hash_raw(packed, size, 0)

    cdef bint first_of_write(self, Py_ssize_t index) noexcept:
        """Whether no earlier live version has the same write id: versions of one id are shown as one."""
        cdef Py_ssize_t i
        for i in range(index):
            if self.dots[i].size >= 0 and memcmp(self.dots[i].id, self.dots[index].id, ID_SIZE) == 0:
                return False
        return True

    cdef Py_ssize_t live_count(self) except -1:
        cdef Py_ssize_t i, count = 0
        for i in range(self.dot_count):
            if self.dots[i].size >= 0 and self.first_of_write(i):
                count += 1
        return count

    cdef Py_ssize_t value_bytes(self) noexcept:
        """Bytes of all live values together."""
        cdef Py_ssize_t i, total = 0
        for i in range(self.dot_count):
            if self.dots[i].size > 0:
                total += self.dots[i].size
        return total

    cdef uint64_t newest(self) noexcept:
        """The largest time of any version; 0 without versions."""
        cdef Py_ssize_t i
        cdef uint64_t time = 0
        for i in range(self.dot_count):
            if self.dots[i].time > time:
                time = self.dots[i].time
        return time

    cdef int write(self, Buffer out) except -1:
        """Append the canonical encoding."""
        cdef Py_ssize_t i
        cdef Version *dot
        cdef uint8_t *to
        # Room for all of it at once: heads of their full size.
        reserve(
            out,
            HEAD_MAX * (3 + 4 * self.entry_count) + (6 * HEAD_MAX + ID_SIZE) * self.dot_count + self.value_bytes(),
        )
        to = head_at(out.data + out.size, ARRAY, 2)
        to = head_at(to, ARRAY, <uint64_t>self.entry_count)
        for i in range(self.entry_count):
            to = head_at(to, ARRAY, 3)
            to = head_at(to, UINT, self.entries[i].actor)
            to = head_at(to, UINT, self.entries[i].counter)
            to = head_at(to, UINT, self.entries[i].time)
        to = head_at(to, ARRAY, <uint64_t>self.dot_count)
        for i in range(self.dot_count):
            dot = &self.dots[i]
            to = head_at(to, ARRAY, 5)
            to = head_at(to, UINT, dot.actor)
            to = head_at(to, UINT, dot.counter)
            to = head_at(to, UINT, dot.time)
            to = head_at(to, BYTES, ID_SIZE)
            memcpy(to, dot.id, ID_SIZE)
            to += ID_SIZE
            if dot.size < 0:
                to[0] = CBOR_NULL
                to += 1
            else:
                to = head_at(to, BYTES, <uint64_t>dot.size)
                memcpy(to, dot.value, dot.size)
                to += dot.size
        out.size = to - out.data
        return 0

    cdef int write_stored(self, Buffer out, const Local *local) except -1:
        """Append the bytes for the store: the local part, then the encoding."""
        cdef uint8_t *to
        cdef int i
        reserve(out, LOCAL_SIZE + 8 * local.hint_count)
        to = out.data + out.size
        store_be(to, local.actor, 8)
        store_be(to + 8, local.boot, 8)
        store_be(to + 16, local.counter, 8)
        to[24] = <uint8_t>local.hint_count
        for i in range(local.hint_count):
            store_be(to + LOCAL_SIZE + 8 * i, local.hints[i], 8)
        out.size += LOCAL_SIZE + 8 * local.hint_count
        return self.write(out)

    cdef bytes stored(self, const Local *local):
        """Return the bytes for the store."""
        cdef Buffer out = Buffer()
        self.write_stored(out, local)
        return out.take()

    # ---- for Python

    @staticmethod
    def decode(bytes data not None):
        """Return the record that *data*, any valid CBOR encoding of one, holds. Raises ValueError."""
        return decode_record(data)

    def encode(self):
        """Return the canonical encoding."""
        cdef Buffer out = Buffer()
        self.write(out)
        return out.take()

    @property
    def context(self):
        """The entries ``(actor, counter, time)``, sorted by actor."""
        cdef Py_ssize_t i
        return tuple([
            (self.entries[i].actor, self.entries[i].counter, self.entries[i].time) for i in range(self.entry_count)
        ])

    @property
    def versions(self):
        """The versions ``(actor, counter, time, write_id, value)``, sorted by dot."""
        cdef Py_ssize_t i
        return tuple([_version_tuple(&self.dots[i]) for i in range(self.dot_count)])

    def merge(self, Record other not None):
        """Return the union: a version survives if both have it, or the other's context does not cover its dot.

        Commutative, associative, idempotent; never truncates. O(versions + entries).
        """
        return self.merged(other)

    def put(self, *, actor, counter, time, bytes write_id not None, value, context=None):
        """Return the record with one version more, without those that *context* (entries) covers.

        Raises:
            InvariantViolation: the dot was issued before. ValueError: malformed arguments.
        """
        cdef Version version
        _check_numbers(actor, counter, time)
        _fill_version(&version, actor, counter, time, write_id, value)
        return self.with_put(&version, Record(context or ()))

    def compare(self, Record other not None):
        """Return EQUAL, BEFORE (other has seen all of self), AFTER (the reverse) or CONCURRENT."""
        cdef int relation = self.relation(other)
        if relation == 3:
            return EQUAL
        if relation == 1:
            return AFTER
        return BEFORE if relation == 2 else CONCURRENT

    def digest(self):
        """Return the 64-bit hash of context and dots; neither values nor times are in it."""
        return self.hash()

    def dead(self):
        """Return the context's entries ``(actor, counter, time)`` whose actor has no surviving version, by actor."""
        cdef Py_ssize_t i, at = 0
        cdef list found = []
        for i in range(self.entry_count):
            while at < self.dot_count and self.dots[at].actor < self.entries[i].actor:
                at += 1
            if at == self.dot_count or self.dots[at].actor != self.entries[i].actor:
                found.append((self.entries[i].actor, self.entries[i].counter, self.entries[i].time))
        return found

    def without(self, actors):
        """Return the record without these actors' entries of the context; those that it does not have do not matter.

        Only what an agreed round allows may call this: what nothing covers any more can come back by a merge.

        Raises:
            ValueError: a version of one of them survives.
        """
        gone = frozenset(actors)
        return Record([entry for entry in self.context if entry[0] not in gone], self.versions)

    def live(self):
        """Return how many values a reader sees: tombstones not counted, versions of one write id once."""
        return self.live_count()


cdef int _check_numbers(object actor, object counter, object time) except -1:
    for number in (actor, counter, time):
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**64:
            raise ValueError(f"actor, counter and time are integers in 0..2**64-1, got {number!r}")
    return 0


def _actor(entry):
    return entry[0]


def _dot(version):
    return (version[0], version[1])


cdef object _version_tuple(const Version *dot):
    value = None
    if dot.size >= 0:
        value = PyBytes_FromStringAndSize(<const char *>dot.value, dot.size)
    return (dot.actor, dot.counter, dot.time, PyBytes_FromStringAndSize(<const char *>dot.id, ID_SIZE), value)


cdef int _fill_version(Version *to, uint64_t actor, uint64_t counter, uint64_t time, bytes write_id, value) except -1:
    """Point *to* at the caller's objects, which must outlive it."""
    if len(write_id) != ID_SIZE:
        raise ValueError(f"a write id has {ID_SIZE} bytes, got {len(write_id)}")
    to.actor = actor
    to.counter = counter
    to.time = time
    memcpy(to.id, PyBytes_AS_STRING(write_id), ID_SIZE)
    if value is None:
        to.value = NULL
        to.size = -1
        to.owner = NULL
        return 0
    if not isinstance(value, bytes):
        raise ValueError(f"a value is bytes or None, got {type(value).__name__}")
    to.value = <const uint8_t *>PyBytes_AS_STRING(value)
    to.size = PyBytes_GET_SIZE(value)
    to.owner = <PyObject *>value
    return 0


cdef int _check(Record record) except -1:
    """Raise ValueError unless entries and dots are sorted, distinct, positive, and every dot is covered."""
    cdef Py_ssize_t i
    cdef Version *dot
    for i in range(record.entry_count):
        if record.entries[i].counter == 0 or (i and record.entries[i - 1].actor >= record.entries[i].actor):
            raise ValueError("context entries must be distinct, sorted by actor, with counters of at least 1")
    for i in range(record.dot_count):
        dot = &record.dots[i]
        if dot.counter == 0 or not record.covers(dot.actor, dot.counter):
            raise ValueError("every version's dot must be covered by the context")
        if i and order(record.dots[i - 1].actor, record.dots[i - 1].counter, dot.actor, dot.counter) >= 0:
            raise ValueError("versions must be distinct and sorted by dot")
    return 0


# ---- merging

cdef void _join_entries(Record result, Record a, Record b) noexcept:
    """Per actor the larger counter, with its time: a merge of two sorted lists."""
    cdef Py_ssize_t i = 0, j = 0
    cdef Entry *chosen
    while i < a.entry_count or j < b.entry_count:
        if j == b.entry_count or (i < a.entry_count and a.entries[i].actor < b.entries[j].actor):
            chosen = &a.entries[i]
            i += 1
        elif i == a.entry_count or b.entries[j].actor < a.entries[i].actor:
            chosen = &b.entries[j]
            j += 1
        else:
            chosen = &a.entries[i]
            if order(chosen.counter, chosen.time, b.entries[j].counter, b.entries[j].time) < 0:
                chosen = &b.entries[j]
            i += 1
            j += 1
        result.entries[result.entry_count] = chosen[0]
        result.entry_count += 1


cdef void _join_dots(Record result, Record a, Record b) noexcept:
    cdef Py_ssize_t i = 0, j = 0
    cdef int side
    while i < a.dot_count or j < b.dot_count:
        if j == b.dot_count:
            side = -1
        elif i == a.dot_count:
            side = 1
        else:
            side = order(a.dots[i].actor, a.dots[i].counter, b.dots[j].actor, b.dots[j].counter)
        if side == 0:
            result.keep(&a.dots[i])
        elif side < 0 and not b.covers(a.dots[i].actor, a.dots[i].counter):
            result.keep(&a.dots[i])
        elif side > 0 and not a.covers(b.dots[j].actor, b.dots[j].counter):
            result.keep(&b.dots[j])
        if side <= 0:
            i += 1
        if side >= 0:
            j += 1


cdef void _add_entry(Record result, Record joined, const Version *version) noexcept:
    """Copy the entries of *joined* with the one of a new dot, which is above what they cover."""
    cdef Py_ssize_t i
    cdef bint placed = False
    cdef Entry entry
    entry.actor = version.actor
    entry.counter = version.counter
    entry.time = version.time
    for i in range(joined.entry_count):
        if not placed and joined.entries[i].actor >= entry.actor:
            result.entries[result.entry_count] = entry
            result.entry_count += 1
            placed = True
            if joined.entries[i].actor == entry.actor:
                continue
        result.entries[result.entry_count] = joined.entries[i]
        result.entry_count += 1
    if not placed:
        result.entries[result.entry_count] = entry
        result.entry_count += 1


cdef bint _dominates(Record a, Record b) noexcept:
    """Whether merging b into a would change nothing."""
    cdef Py_ssize_t i
    for i in range(b.entry_count):
        if not a.covers(b.entries[i].actor, b.entries[i].counter):
            return False
    for i in range(b.dot_count):
        if not a.covers(b.dots[i].actor, b.dots[i].counter):
            return False
    for i in range(a.dot_count):
        if b.covers(a.dots[i].actor, a.dots[i].counter) and b.find(a.dots[i].actor, a.dots[i].counter) == NULL:
            return False
    return True


# ---- bytes

cdef bint _read_version(Cursor *c, Version *to) noexcept:
    """Read one version whose value points into the input. False: not the usual encoding."""
    cdef uint64_t length
    cdef const uint8_t *id
    cdef Py_ssize_t size
    if not read_expect(c, ARRAY, &length) or length != 5:
        return False
    if not (read_uint(c, &to.actor) and read_uint(c, &to.counter) and read_uint(c, &to.time)):
        return False
    if not read_bytes(c, &id, &size) or size != ID_SIZE:
        return False
    memcpy(to.id, id, ID_SIZE)
    if read_null(c):
        to.value = NULL
        to.size = -1
        return True
    return read_bytes(c, &to.value, &to.size)


cdef bint _read_into(Record record, Cursor *c, bytes owner) except -1:
    """Fill a new record from the usual encoding; False when it is another one."""
    cdef uint64_t n, i, length
    cdef Version version
    cdef Entry *entry
    if not read_expect(c, ARRAY, &n) or n != 2 or not read_expect(c, ARRAY, &n):
        return False
    if n > <uint64_t>(c.end - c.at):
        return False
    record.allocate_entries(<Py_ssize_t>n)
    for i in range(n):
        entry = &record.entries[i]
        if not read_expect(c, ARRAY, &length) or length != 3:
            return False
        if not (read_uint(c, &entry.actor) and read_uint(c, &entry.counter) and read_uint(c, &entry.time)):
            return False
        record.entry_count += 1
    if not read_expect(c, ARRAY, &n) or n > <uint64_t>(c.end - c.at):
        return False
    record.allocate_dots(<Py_ssize_t>n)
    for i in range(n):
        memset(&version, 0, sizeof(Version))
        if not _read_version(c, &version):
            return False
        version.owner = NULL if version.size < 0 else <PyObject *>owner
        record.keep(&version)
    return True


cdef Record read_record(Cursor *c, bytes owner):
    """Read the record at the cursor, whose bytes lie inside *owner*; None when it is not in the usual encoding.

    Raises ValueError for the usual encoding of something that is no record.
    """
    cdef Record record = Record.__new__(Record)
    if not _read_into(record, c, owner):
        return None
    _check(record)
    return record


cdef Record decode_record(bytes data):
    cdef Cursor c
    cdef Record record
    c.at = <const uint8_t *>PyBytes_AS_STRING(data)
    c.end = c.at + PyBytes_GET_SIZE(data)
    record = read_record(&c, data)
    if record is not None:
        if c.at != c.end:
            raise ValueError(f"{c.end - c.at} bytes after the record")
        return record
    return _decode_unusual(data)


cdef Record _decode_unusual(bytes data):
    """Bring another valid encoding into the usual one, and read that."""
    cdef Buffer canonical = Buffer()
    cdef Cursor c
    cdef Record record
    try:
        encode_item(canonical, decode_item(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)), 0)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"not a record: {error}") from error
    data = canonical.take()
    c.at = <const uint8_t *>PyBytes_AS_STRING(data)
    c.end = c.at + PyBytes_GET_SIZE(data)
    record = read_record(&c, data)
    if record is None or c.at != c.end:
        raise ValueError("a record is [[[actor, counter, time], ...], [[actor, counter, time, write id, value], ...]]")
    return record


cdef Record load_stored(bytes data, Local *local):
    """Return the record of stored bytes and fill *local*.

    Raises:
        CorruptRecordError: not what `Record.stored` makes.
    """
    cdef Cursor c
    cdef Record record
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef int i
    if PyBytes_GET_SIZE(data) < LOCAL_SIZE or at[24] > HINTS_MAX or PyBytes_GET_SIZE(data) < LOCAL_SIZE + 8 * at[24]:
        raise CorruptRecordError(f"stored record of {PyBytes_GET_SIZE(data)} bytes")
    local.actor = load_be(at, 8)
    local.boot = load_be(at + 8, 8)
    local.counter = load_be(at + 16, 8)
    local.hint_count = at[24]
    for i in range(local.hint_count):
        local.hints[i] = load_be(at + LOCAL_SIZE + 8 * i, 8)
    c.at = at + LOCAL_SIZE + 8 * local.hint_count
    c.end = at + PyBytes_GET_SIZE(data)
    try:
        record = read_record(&c, data)
    except ValueError as error:
        raise CorruptRecordError(f"stored record: {error}") from error
    if record is None or c.at != c.end:
        raise CorruptRecordError("stored record in an unknown form")
    return record


# ---- contexts for clients: opaque bytes, bound to their key

cdef uint64_t context_seal(bytes cluster) except? 0:
    """Return what is in the checksum of every context of a cluster; for `close_context` and `read_context`."""
    return hash_bytes(_PURPOSE + cluster, 0)


cdef uint64_t _checksum(const uint8_t *body, Py_ssize_t size, bytes key, uint64_t seal) except? 0:
    # Against mistakes and damage, not against attackers, who could send a false context anyway: a keyed hash of
    # cryptographic strength cost 5,000 instructions a put.
    return hash_under(key, body, size, seal)


cdef bytes close_context(Record record, bytes key, uint64_t seal):
    """Return the client's form of a record's context: format, count, entries, checksum over all that and the key.

    It is kept with the record: a record is immutable, and is one node's, so of one cluster.
    """
    cdef Py_ssize_t i, size = 5 + ENTRY_SIZE * record.entry_count
    cdef bytes body
    cdef uint8_t *to
    if record.sealed is not None and record.sealed_key == key:
        return record.sealed
    body = PyBytes_FromStringAndSize(NULL, size + SEAL_SIZE)
    to = <uint8_t *>PyBytes_AS_STRING(body)
    to[0] = CONTEXT_FORMAT
    store_be(to + 1, <uint64_t>record.entry_count, 4)
    for i in range(record.entry_count):
        store_be(to + 5 + ENTRY_SIZE * i, record.entries[i].actor, 8)
        store_be(to + 5 + ENTRY_SIZE * i + 8, record.entries[i].counter, 8)
        store_be(to + 5 + ENTRY_SIZE * i + 16, record.entries[i].time, 8)
    store_be(to + size, _checksum(to, size, key, seal), SEAL_SIZE)
    record.sealed = body
    record.sealed_key = key
    return record.sealed


cdef Record read_context(bytes sealed, bytes key, uint64_t seal):
    """Return a record without versions that has the sealed context.

    Raises:
        BadContextError: damaged, of another key, or of another cluster.
    """
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(sealed)
    cdef Py_ssize_t i, size = PyBytes_GET_SIZE(sealed) - SEAL_SIZE
    cdef Record record
    if size < 5 or at[0] != CONTEXT_FORMAT or size != 5 + ENTRY_SIZE * <Py_ssize_t>load_be(at + 1, 4):
        raise BadContextError("the context is damaged: pass on exactly the bytes that a get returned")
    if load_be(at + size, SEAL_SIZE) != _checksum(at, size, key, seal):
        raise BadContextError("the context is damaged, or belongs to another key or cluster")
    record = Record.__new__(Record)
    record.allocate_entries((size - 5) // ENTRY_SIZE)
    for i in range((size - 5) // ENTRY_SIZE):
        record.entries[i].actor = load_be(at + 5 + ENTRY_SIZE * i, 8)
        record.entries[i].counter = load_be(at + 5 + ENTRY_SIZE * i + 8, 8)
        record.entries[i].time = load_be(at + 5 + ENTRY_SIZE * i + 16, 8)
        record.entry_count += 1
    return record


def seal_context(entries, bytes key not None, bytes cluster not None):
    """Return the opaque context for a client, bound to *key* and the cluster's id by its checksum."""
    return close_context(Record(entries), key, context_seal(cluster))


def open_context(bytes sealed not None, bytes key not None, bytes cluster not None):
    """Return the entries of an opaque context. Raises BadContextError."""
    return read_context(sealed, key, context_seal(cluster)).context
