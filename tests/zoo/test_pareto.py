from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from zoo.choosing import pareto

Point = tuple[int, int, int]
POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=25)


def slow_front(points: list[Point]) -> list[Point]:
    def beats(other: Point, point: Point) -> bool:
        at_least_as_good = other[0] <= point[0] and other[1] >= point[1]
        return at_least_as_good and (other[:2] != point[:2] or other[2] < point[2])

    return sorted(point for point in points if not any(beats(other, point) for other in points))


@given(POINTS)
def test_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    numbered = [(cost, value, index) for index, (cost, value) in enumerate(points)]
    found = pareto.front(numbered, cost=lambda point: point[0], value=lambda point: point[1])
    assert found == slow_front(numbered)


@given(POINTS)
def test_front_ascends_in_both(points: list[tuple[int, int]]) -> None:
    found = pareto.front(points, cost=lambda point: point[0], value=lambda point: point[1])
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(found))
