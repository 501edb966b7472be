"""Reads of a store's disk beside the thread that owns it: what the shell hands keys to, and is told by.

A thread hand-over costs more than a read that the system's page cache answers. So a thread takes all keys that wait
(up to `READ_MAX`), and what waits while all threads read shares the next hand-over.
"""

import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue

from dynafast.errors import StoreError

THREADS = 2  # with more, each takes fewer keys at a time, and they wait for the interpreter's lock
JOIN_S = 10.0

_Found = list[bytes | StoreError | None]


class Reader:
    """Threads that read for a node.

    Args:
        get_many: that of the store.

    Attributes:
        busy: how many hand-overs are under way or not taken back yet. No more than `THREADS` may be.
    """

    def __init__(self, get_many: Callable[[Sequence[bytes]], _Found]) -> None:
        self._near, self._far = socket.socketpair()  # every system can wait for one
        self._near.setblocking(False)
        self._get_many = get_many
        self._wanted: SimpleQueue[list[bytes] | None] = SimpleQueue()
        self._found: deque[tuple[list[bytes], _Found | Exception]] = deque()
        self.busy = 0
        self._threads = [threading.Thread(target=self._run, name="read", daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    @property
    def done(self) -> int:
        """A descriptor that is readable once something has been read, until `end`."""
        return self._near.fileno()

    @property
    def free(self) -> bool:
        """Whether a thread has nothing to do."""
        return self.busy < THREADS

    def begin(self, keys: list[bytes]) -> None:
        """Let a thread read *keys*, at least one."""
        self.busy += 1
        self._wanted.put(keys)

    def end(self) -> list[tuple[list[bytes], _Found]]:
        """Return ``(keys, what was found under them)`` of all that have been read; raise what a thread has raised."""
        result: list[tuple[list[bytes], _Found]] = []
        with suppress(BlockingIOError):
            self._near.recv(THREADS)
        while self._found:
            keys, found = self._found.popleft()
            self.busy -= 1
            if isinstance(found, Exception):
                raise found
            result.append((keys, found))
        return result

    def close(self) -> None:
        """End the threads, after the reads that are under way.

        Raises:
            StoreError: one does not end.
        """
        for _ in self._threads:
            self._wanted.put(None)
        for thread in self._threads:
            thread.join(JOIN_S)
        if any(thread.is_alive() for thread in self._threads):
            raise StoreError(f"a read has not ended within {JOIN_S:.0f} s")
        self._near.close()
        self._far.close()

    def _run(self) -> None:
        while (keys := self._wanted.get()) is not None:
            try:
                found: _Found | Exception = self._get_many(keys)
            except Exception as error:  # noqa: BLE001 - raised again where the core is
                found = error
            self._found.append((keys, found))
            self._far.send(b"1")
