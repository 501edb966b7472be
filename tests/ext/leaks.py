"""One assertion: an operation, done a million times, leaves nothing behind."""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

OPERATIONS = 1_000_000
WARM_UP = 60_000
GROWTH_MAX_BYTES = 3 * 1024 * 1024  # the smallest leak, 16 bytes in a quarter of the operations, is more
GROWTH_MAX_BLOCKS = 500  # caches of the interpreter itself


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM now: its peak would hide a leak below it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def assert_no_leak(turn: Callable[[int], object], *, per_turn: int) -> None:
    """Call *turn* with 0, 1, 2, ... until 10**6 operations are done, *per_turn* each; memory must not grow.

    Blocks of the interpreter's allocator and resident memory are both looked at: a leak of C memory shows
    only in the second. With the allocator switched off (a sanitizer run) there are no blocks to count, and
    resident memory says nothing, since the sanitizer keeps what was freed for a while.
    """
    for i in range(WARM_UP // per_turn):
        turn(i)
    gc.collect()
    blocks, resident = sys.getallocatedblocks(), resident_bytes()
    for i in range(OPERATIONS // per_turn):
        turn(i)
    gc.collect()
    assert sys.getallocatedblocks() - blocks < GROWTH_MAX_BLOCKS
    if blocks:
        assert resident_bytes() - resident < GROWTH_MAX_BYTES
