from typing import final

__all__ = ["CommandReader"]

@final
class CommandReader: ...
