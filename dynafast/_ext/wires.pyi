from collections.abc import Callable
from random import Random
from typing import Any, final

from typing_extensions import disjoint_base

from dynafast._ext.timeline import Timeline

@final
class End:
    number: int
    owner: Any
    far: End
    open: bool
    due_ns: int
    extra_ns: int
    clogged: bool
    held: list[bytes | None]
    troubled_ns: int
    tag: object
    def __new__(cls, number: int, owner: object) -> End: ...

@disjoint_base
class Wires:
    world: Timeline
    latency_ns: int
    jitter_ns: int
    pieces: float
    blocked: dict[tuple[str, str], int]
    lag_ns: dict[str, int]
    ends: dict[int, End]
    watch: Callable[[End, bytes], None] | None
    rng: Random
    def __init__(self, world: Timeline, rng: Random, *, latency_ns: int, jitter_ns: int, pieces: float) -> None: ...
    def send(self, end: End, data: bytes) -> None: ...
    def is_blocked(self, end: End) -> bool: ...
    def delay(self, place: str, far: str) -> int: ...
    def carry(self, end: End, data: bytes | None) -> None: ...
    def finish(self, end: End) -> None: ...
