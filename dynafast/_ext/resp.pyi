from typing import Any, Protocol, final

from dynafast._ext.connection import Connection, Handler

__all__ = ["RespConnection"]

class _Node(Protocol):
    def command(self, connection: RespConnection, words: list[bytes]) -> Any: ...
    def dropped(self, connection: Connection) -> None: ...

@final
class RespConnection(Connection):
    protocol: int
    name: bytes
    in_multi: bool
    def __init__(self, handler: Handler, node: _Node, number: int) -> None: ...
    @property
    def number(self) -> int: ...
