"""Settings of a named run that the command line or a sweep may override."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trainer.config import NO_LIMITS, FixedStart, Limits, RunConfig, Start
from trainer.growth.recipe import Recipe
from trainer.recipes.fixed import Fixed
from trainer.recipes.ladder import GrowFor, Ladder
from trainer.recipes.one_by_one import OneByOne
from trainer.recipes.rules import RatioRule, Rule
from zoo.errors import RunError

_REPLACED = ("epochs", "batch_size", "learning_rate", "distil_epochs", "cpu_threads")


@dataclass(frozen=True)
class Overrides:
    """None keeps the run's own value."""

    epochs: int | None = None
    # As it is, however few the data are.
    batch_size: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    tau: float | None = None
    threshold: float | None = None
    grow_for: GrowFor | None = None
    limits: Limits = NO_LIMITS
    distil_epochs: int | None = None
    license: str | None = None
    cpu_threads: int | None = None
    # Of a network that does not grow: channels of each stage, of alexnet of each convolution.
    widths: tuple[int, ...] | None = None

    def of(self, config: RunConfig) -> RunConfig:
        """The run with these wishes. Raises RunError for one that its rule does not have."""
        start = self._start(config)
        return replace(
            config,
            name=config.name if start == config.start else "-".join(map(str, [config.name, *(self.widths or [])])),
            start=start,
            batch_share=config.batch_share if self.batch_size is None else None,
            seed=self.seed,
            limits=self.limits,
            license=self.license,
            recipe=self._recipe(config.name, config.recipe),
            **{name: wish for name in _REPLACED if (wish := getattr(self, name)) is not None},
        )

    def _start(self, config: RunConfig) -> Start:
        if self.widths is None:
            return config.start
        if not isinstance(config.start, FixedStart):
            raise RunError(f"run {config.name} grows, so no --widths")
        expected = len(config.start.channels)
        if len(self.widths) != expected or min(self.widths) < 1:
            raise RunError(f"run {config.name} has {expected} widths of 1 or more, not {self.widths}")
        return replace(config.start, channels=self.widths)

    def _recipe(self, name: str, recipe: Recipe) -> Recipe:
        if isinstance(recipe, Fixed):
            asked = (self.tau, self.threshold, self.grow_for, self.limits.max_params, self.limits.max_macs)
            if any(wish is not None for wish in asked):
                options = "--tau, --threshold, --grow-for, --max-params or --max-macs"
                raise RunError(f"run {name} does not grow, so no {options}")
            return recipe
        if isinstance(recipe, Ladder):
            self._refuse_tau(name)
            return self._ladder(recipe)
        if self.grow_for is not None:
            raise RunError(f"run {name} ranks by its score, so no --grow-for; run grow has it")
        return replace(recipe, rule=self._rule(name, recipe.rule)) if isinstance(recipe, OneByOne) else recipe

    def _ladder(self, ladder: Ladder) -> Ladder:
        max_params = self.limits.max_params
        return replace(
            ladder,
            threshold=ladder.threshold if self.threshold is None else self.threshold,
            grow_for=self.grow_for or ladder.grow_for,
            sizes=ladder.sizes if max_params is None else _sizes_up_to(ladder, max_params),
        )

    def _rule(self, name: str, rule: Rule) -> Rule:
        if isinstance(rule, RatioRule):
            if self.threshold is not None:
                raise RunError(f"run {name} has no gain rule, so no --threshold; it has --tau")
            return rule if self.tau is None else replace(rule, tau=self.tau)
        self._refuse_tau(name)
        return rule if self.threshold is None else replace(rule, threshold=self.threshold)

    def _refuse_tau(self, name: str) -> None:
        if self.tau is not None:
            raise RunError(f"run {name} has no ratio rule, so no --tau; it has --threshold")


def _sizes_up_to(ladder: Ladder, max_params: int) -> tuple[int, ...]:
    """As many sizes as the ladder has, evenly over log-parameters."""
    first, steps = min(ladder.sizes[0], max_params), max(1, len(ladder.sizes) - 1)
    sizes = (round(first * (max_params / first) ** (step / steps)) for step in range(len(ladder.sizes) - 1))
    return (*dict.fromkeys(size for size in sizes if size < max_params), max_params)
