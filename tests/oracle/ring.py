"""The ring in plain Python, written from the definition: slow and obvious. Imports nothing of the package."""

from collections.abc import Hashable, Sequence


def find(tokens: Sequence[int], position: int) -> int:
    """Return the index of the token at or clockwise of *position*, by looking at every one of them."""
    for index, token in enumerate(tokens):
        if position <= token:
            return index
    return 0


def walk(
    owners: Sequence[int],
    start: int,
    *,
    hosts: Sequence[Hashable],
    zones: Sequence[Hashable],
    replicas: int,
) -> list[int]:
    """Return the preference list of token *start*: one full turn, then three passes over what was met."""
    met: list[int] = []
    for node in [*owners[start:], *owners[:start]]:
        if hosts[node] not in [hosts[other] for other in met]:
            met.append(node)
    chosen: list[int] = []
    for node in met:
        if len(chosen) < replicas and zones[node] not in [zones[other] for other in chosen]:
            chosen.append(node)
    return chosen + [node for node in met if node not in chosen]


def equal_partition(position: int, partitions: int) -> int:
    """Return which of *partitions* equal parts of the circle holds *position*."""
    return position * partitions // 2**64
