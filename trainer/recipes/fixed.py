"""No growth: a network of one size, trained and annealed."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.growth.recipe import Growth, Look, Recipe


@dataclass(frozen=True)
class Fixed(Recipe):
    """The run's one checkpoint is its last."""

    def is_due(self, look: Look) -> bool:  # noqa: ARG002
        return False

    def propose(self, look: Look) -> Growth | None:  # noqa: ARG002
        return None
