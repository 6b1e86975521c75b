"""How much a JSON text may hold, counted before anything is made of it: 1 MiB of JSON can be 140 MiB of objects."""

from __future__ import annotations

from app.http.problems import ProblemError

# Of requests that hold no image: a digest, or a few aliases.
MAX_SMALL_JSON_BYTES = 1024 * 1024
_MAX_SMALL_VALUES = 1024
_OPENING = (b",", b"[", b"{", b":")


def count_values(text: bytes) -> int:
    """At least as many values, keys and containers as there are in a JSON text. Within strings it counts too many."""
    return sum(text.count(character) for character in _OPENING)


def check_small_json(text: bytes) -> None:
    """Raises ProblemError."""
    if (count := count_values(text)) > _MAX_SMALL_VALUES:
        raise too_many_values(count, _MAX_SMALL_VALUES)


def too_many_values(count: int, most: int) -> ProblemError:
    detail = f"the JSON of this request may hold at most {most} values, it has about {count}"
    return ProblemError(422, "invalid-parameter", detail)
