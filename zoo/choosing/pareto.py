"""The Pareto front: what no other item beats in both cost and value."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def front(items: Iterable[T], *, cost: Callable[[T], float], value: Callable[[T], float]) -> list[T]:
    """Items for which no other has at most their cost and at least their value, with one of the two better.

    Ascending in both. Of items equal in both, the first given is kept.
    """
    best: list[T] = []
    for item in sorted(items, key=lambda item: (cost(item), -value(item))):
        if not best or value(item) > value(best[-1]):
            best.append(item)
    return best
