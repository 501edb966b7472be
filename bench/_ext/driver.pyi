from collections.abc import Sequence
from typing import Literal, final

from bench._ext.keys import Keys
from bench._ext.links import Links

KIND_NAMES: tuple[str, ...]

def clock_ns() -> int: ...

@final
class Driver(Links):
    done: int
    failed: int
    wrong: int
    unsent: int
    in_flight: int
    @property
    def version_counts(self) -> dict[int, int]: ...
    @property
    def errors(self) -> dict[str, int]: ...
    def __new__(
        cls,
        protocol: Literal["native", "resp", "etcd", "nats"],
        nodes: Sequence[tuple[str, int]],
        *,
        greeting: bytes,
        get_tail: bytes,
        put_tail: bytes,
        need: int,
        connections: int,
        slots: int,
        number: int,
        keys: Keys,
        mix: Sequence[int],
        owners: bytes,
        timeout_ns: int,
    ) -> Driver: ...
    def schedule(self, paces: Sequence[tuple[int, float]], start_ns: int) -> None: ...
    def limit(self, count: int) -> None: ...
    def connect(self, until_ns: int) -> None: ...
    def run(self, until_ns: int) -> bool: ...
    def drain(self, until_ns: int) -> None: ...
    def take(self) -> dict[str, list[tuple[int, int]]]: ...
    def reset(self) -> None: ...
