"""How many bytes of request bodies the process holds at a time."""

from __future__ import annotations

from collections.abc import Callable


class BodyBudget:
    """One for the process. A body larger than all of it is let in while nothing else is held."""

    def __init__(self, max_bytes: int, evict_slow_body: Callable[[], bool]) -> None:
        """`evict_slow_body` ends the slowest upload there is, if one is slow; its bytes are given back a turn later."""
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._evict_slow_body = evict_slow_body

    def has_room(self, num_bytes: int) -> bool:
        return not self.held_bytes or self.held_bytes + num_bytes <= self.max_bytes or self._evict_slow_body()


class Held:
    """What one request holds of the budget; `with Held(budget) as held:` gives it back."""

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.num_bytes = 0

    def add(self, num_bytes: int) -> bool:
        """False where the budget has no room for it."""
        alone = self.num_bytes == self._budget.held_bytes
        if not alone and not self._budget.has_room(num_bytes):
            return False
        self.num_bytes += num_bytes
        self._budget.held_bytes += num_bytes
        return True

    def give_back(self) -> None:
        self._budget.held_bytes -= self.num_bytes
        self.num_bytes = 0

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()
