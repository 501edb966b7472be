from collections.abc import Sequence
from typing import final

@final
class Ranks:
    def __new__(cls, seed: int, rows: int) -> Ranks: ...
    @staticmethod
    def joined(parts: Sequence[Ranks], shares: Sequence[float], *, place: int) -> Ranks: ...

def spread(
    demand: bytes,
    *,
    ranks: Sequence[Ranks],
    shares: Sequence[float],
    least: Sequence[int],
    most: Sequence[int],
    allowed: bytes | None = None,
) -> bytes: ...
def arrange(
    first: bytes,
    chosen: bytes,
    *,
    ranks: Sequence[Ranks],
    shares: Sequence[float],
    hosts: Sequence[int],
    zones: Sequence[int],
) -> list[tuple[int, ...]]: ...
