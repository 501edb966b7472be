"""An always-writeable, eventually consistent key-value store after Amazon's Dynamo: the public names.

`Client` blocks, `AsyncClient` runs on trio and asyncio; `dynafast.testing` starts a real cluster for tests.
Importing this loads neither trio nor anyio nor any part of the server.
"""

from typing import TYPE_CHECKING, Any

from dynafast.client.blocking import Client
from dynafast.client.results import GetResult, PutResult, Receipt, Version, lww
from dynafast.errors import (
    BadContextError,
    BadRequestError,
    ConfigError,
    Conflict,
    ConflictError,
    DynafastError,
    NotReachedError,
    OverloadedError,
    RefusedError,
    RequestError,
    RequestTimeoutError,
    TooLargeError,
    UnavailableError,
    WriteUncertainError,
)

if TYPE_CHECKING:
    from dynafast.client.aio import AsyncClient

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "BadContextError",
    "BadRequestError",
    "Client",
    "ConfigError",
    "Conflict",
    "ConflictError",
    "DynafastError",
    "GetResult",
    "NotReachedError",
    "OverloadedError",
    "PutResult",
    "Receipt",
    "RefusedError",
    "RequestError",
    "RequestTimeoutError",
    "TooLargeError",
    "UnavailableError",
    "Version",
    "WriteUncertainError",
    "lww",
]


def __getattr__(name: str) -> Any:
    """Load `AsyncClient` when it is first asked for: anyio costs more than the rest together."""
    if name == "AsyncClient":
        from dynafast.client.aio import AsyncClient

        globals()[name] = AsyncClient
        return AsyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
