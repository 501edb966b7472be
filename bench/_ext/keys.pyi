from array import array
from typing import Literal, final

DISTRIBUTIONS: dict[str, int]

@final
class Keys:
    records: int
    size_min: int
    size_max: int
    def __new__(
        cls,
        distribution: Literal["uniform", "zipfian", "latest", "sequence"],
        records: int,
        *,
        size_min: int = 100,
        size_max: int = 100,
        theta: float = 0.99,
        seed: int = 0,
        stride: int = 1,
        offset: int = 0,
    ) -> Keys: ...
    def draw(self, count: int) -> array[int]: ...
    def draw_ranks(self, count: int) -> array[int]: ...
    def key(self, number: int) -> bytes: ...
    def value(self, number: int) -> bytes: ...
    def is_right(self, number: int, value: bytes) -> bool: ...
