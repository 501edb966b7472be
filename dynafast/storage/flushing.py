"""Syncs of a store beside the thread that owns it: what the shell wakes, and is told by when one has ended."""

import socket
import threading
from collections.abc import Callable
from typing import Protocol

from dynafast.errors import StoreError

JOIN_S = 60.0


class Flusher(Protocol):
    """A thread that syncs a store whenever it is asked, one sync at a time."""

    @property
    def done(self) -> int:
        """A descriptor that is readable once a sync has ended, until `end`."""

    def begin(self) -> None:
        """Let a sync of everything accepted by now begin. The one before must have ended."""

    def accepted(self) -> None:
        """Tell that more was accepted: a sync that has not really begun yet covers it too."""

    def end(self) -> int:
        """Return up to which sequence number the sync that has ended covers; raise what `Store.sync` would have."""

    def close(self) -> None:
        """End the thread, after the sync that is under way.

        Raises:
            StoreError: that one does not end.
        """


class ThreadFlusher:
    """Calls *sync*, any store's, in a Python thread: slow, since that needs the interpreter's lock at every step."""

    def __init__(self, sync: Callable[[], int]) -> None:
        self._near, self._far = socket.socketpair()  # every system can wait for one
        self._sync = sync
        self._result: int | Exception = 0
        self._wanted = threading.Semaphore(0)
        self._over = False
        self._thread = threading.Thread(target=self._run, name="flush", daemon=True)
        self._thread.start()

    @property
    def done(self) -> int:
        """See `Flusher`."""
        return self._near.fileno()

    def begin(self) -> None:
        """See `Flusher`."""
        self._wanted.release()

    def accepted(self) -> None:
        """See `Flusher`; *sync* looks for itself."""

    def end(self) -> int:
        """See `Flusher`."""
        self._near.recv(1)
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    def close(self) -> None:
        """See `Flusher`."""
        self._over = True
        self._wanted.release()
        self._thread.join(JOIN_S)
        if self._thread.is_alive():
            raise StoreError(f"a flush has not ended within {JOIN_S:.0f} s")
        self._near.close()
        self._far.close()

    def _run(self) -> None:
        while True:
            self._wanted.acquire()
            if self._over:
                return
            try:
                self._result = self._sync()
            except Exception as error:  # noqa: BLE001 - raised again where the core is
                self._result = error
            self._far.send(b"1")
