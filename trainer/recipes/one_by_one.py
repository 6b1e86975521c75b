"""Greedy growth, one change at a time: every candidate is built and scored, and a rule picks one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.growth.expand import Exact, Noise, expand
from trainer.growth.recipe import Candidate, Growth, Look, Recipe, costs
from trainer.recipes.rules import Rule
from zoo.network.cost import num_macs, num_params, training_flops
from zoo.network.families.family import Architecture, LayerKind
from zoo.runtime.module import GraphModule


@dataclass(frozen=True)
class OneByOne(Recipe):
    """A look every epoch once the last expansion has cooled down, at every block one layer deeper and every one wider.

    All that are within the run's limits are scored, and the one that the rule ranks highest is taken.
    """

    rule: Rule
    initialization: Exact | Noise
    layer_kind: LayerKind
    channels_added: int = 2
    cooldown_epochs: int = 10
    # Whether the first look waits for it too.
    cools_down_at_start: bool = True
    max_layers_per_block: int = 10
    score_samples: int = 512
    # The same training images each time; else they are drawn anew.
    scores_same: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether logits stay as they are."""
        return isinstance(self.initialization, Exact)

    def is_due(self, look: Look) -> bool:
        is_first = look.last_growth_epoch == 0 and not self.cools_down_at_start
        return look.at_once or is_first or look.epoch - look.last_growth_epoch >= self.cooldown_epochs

    def propose(self, look: Look) -> Growth:
        images, labels = look.sample(self.score_samples)
        old, rule = look.module.graph, self.rule
        threshold, unit = rule.measure(look.module, images, labels, look.generator)
        macs = num_macs(old)
        candidates = []
        for change in look.architecture.changes(
            max_layers=self.max_layers_per_block, layer_kind=self.layer_kind, channels_added=self.channels_added
        ):
            grown = look.architecture.grown(change, exact=self.is_exact)
            params_grown, macs_grown = costs(grown)
            if look.allows(params_grown, macs_grown):
                new = self.expand(look.module, grown, images, look.generator)
                score, error = rule.score(old, new, images, labels, unit, look.generator)
                added = params_grown - num_params(old), macs_grown - num_macs(old)
                candidates.append(Candidate(change, *added, score, error))
                macs += macs_grown
        flops = rule.num_passes * training_flops(macs, len(labels))
        best = max(candidates, key=lambda candidate: rule.rank(candidate, threshold), default=None)
        taken = [best] if best is not None and rule.rank(best, threshold) > 0 else []
        return look.growth(taken, exact=self.is_exact, threshold=threshold, candidates=tuple(candidates), flops=flops)

    def expand(
        self, module: GraphModule, architecture: Architecture, images: Tensor, generator: torch.Generator
    ) -> GraphModule:
        return expand(module, architecture.graph(), self.initialization, images, generator)
