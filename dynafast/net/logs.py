"""How a process of ``serve`` logs: one line per event on stderr. It may not stop a node that cannot say something."""

import logging
import os
import sys
from typing import TextIO, cast

import structlog


class LogFile:
    """Writes lines to *fd*. One that cannot be written is left out, and the next that can says how many were."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lost = 0
        self._is_torn = False  # what is there last is a part of a line

    def write(self, text: str) -> None:
        """Write *text*, whole lines, or leave it out: a full disk, a reader that is gone."""
        if self._lost:
            text = f"event=log.lost lines={self._lost}\n{text}"
        rest = ("\n" * self._is_torn + text).encode(errors="backslashreplace")
        try:
            while rest:
                written = os.write(self._fd, rest)
                self._is_torn = written < len(rest)
                rest = rest[written:]
        except OSError:
            self._lost += 1
        else:
            self._lost = 0

    def flush(self) -> None:
        """Nothing waits."""


def configure_logging() -> None:
    """Render for a reader on a terminal, as key=value elsewhere."""
    renderer = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.LogfmtRenderer(
            key_order=["timestamp", "level", "worker", "event"], drop_missing=True, bool_as_flag=False
        )
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,  # which worker, if there are several
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, LogFile(sys.stderr.fileno()))),
        cache_logger_on_first_use=True,
    )
