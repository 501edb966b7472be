"""Every error that dynafast raises on purpose. Any other exception that leaves the package is a bug.

An error says whose fault it is and carries its numbers. "Refused", "outcome unknown" and "nobody answered" are
different outcomes and stay different types. This module may import nothing of the package.
"""

from collections.abc import Mapping, Sequence


class DynafastError(Exception):
    """Base of every error raised on purpose."""


class ConfigError(DynafastError, ValueError):
    """A setting is out of range or contradicts another; the message names it, its range and its value."""


class InvariantViolation(DynafastError):
    """A bug of ours, found before it could damage data: the node stops and keeps what it has."""


class PeerProtocolError(DynafastError):
    """Bytes that no correct program sends: the connection cannot be kept."""


class WorkerFailedError(DynafastError):
    """A worker of ``serve --workers`` ended again and again, or did not stop when it was told to."""


class StoreError(DynafastError):
    """The store could not do what it was asked; nothing of the refused batch was kept."""


class StoreBusyError(StoreError):
    """The store asks for a pause (compaction debt): try again after a moment."""


class HintsFullError(StoreError):
    """No more can be kept for another node; nothing was written, and nothing that is kept is dropped."""


class StoreFormatError(StoreError):
    """The folder is not one this version can open, or another process has it open."""


class CorruptRecordError(StoreError):
    """Bytes read back fail their checksum: this is *no answer*, never "not found"."""


class RequestError(DynafastError):
    """A node answered a request with an error.

    Attributes:
        code: the wire code, as ``docs/protocol.md`` lists them.
        details: the numbers behind the message.
    """

    code: str = "error"

    def __init__(self, message: str, details: Mapping[str, object] | None = None, *, code: str | None = None):
        super().__init__(message)
        self.details: dict[str, object] = dict(details or {})
        if code is not None:
            self.code = code


class BadRequestError(RequestError):
    """The request is malformed; sending it again cannot help."""

    code = "bad-request"


class BadContextError(RequestError):
    """The context is damaged or belongs to another key. Nothing was written."""

    code = "bad-context"


class TooLargeError(RequestError):
    """A key, a value, a frame, or the versions of one key together, exceed a limit. Nothing was written."""

    code = "too-large"


class UnavailableError(RequestError):
    """Too few replicas can be reached for the quorum asked for. Nothing was written."""

    code = "unavailable"


class OverloadedError(RequestError):
    """The node has no room for the request. Nothing was written; ``details["retry_after_ms"]`` says when to retry."""

    code = "overloaded"


class RefusedError(RequestError):
    """A node refused to take part: wrong cluster, taken name, cluster not empty, and the like."""

    code = "refused"


class RequestTimeoutError(RequestError):
    """A read was not answered within its time."""

    code = "timeout"


class WriteUncertainError(RequestError):
    """Some replica may hold the write. Read before you write again; never assume that it is absent."""

    code = "uncertain"


class NotReachedError(DynafastError):
    """No node could be reached, so nothing was asked of any."""


class ConflictError(DynafastError):
    """Several versions survive and no resolver was given.

    Attributes:
        values: the surviving values, oldest dot first.
    """

    def __init__(self, values: Sequence[bytes]) -> None:
        super().__init__(f"{len(values)} versions survive: give a resolver, or resolve .values yourself")
        self.values = list(values)


Conflict = ConflictError  # the short name


_BY_CODE: dict[str, type[RequestError]] = {
    cls.code: cls
    for cls in (
        BadRequestError,
        BadContextError,
        TooLargeError,
        UnavailableError,
        OverloadedError,
        RequestTimeoutError,
        WriteUncertainError,
    )
}


def error_for(code: str, message: str, details: Mapping[str, object]) -> RequestError:
    """Return the exception for an error answer; codes without a class of their own give `RefusedError`."""
    return _BY_CODE.get(code, RefusedError)(message, details, code=code)
