"""The optimiser, and its state carried across an expansion."""

from __future__ import annotations

import torch

from trainer.expand import grid, placements
from trainer.scores.fisher import GradientMoments
from zoo.module import GraphModule


def adam(module: GraphModule, learning_rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=learning_rate)


def carried_adam(
    old: torch.optim.Adam,
    old_module: GraphModule,
    new_module: GraphModule,
    moments: GradientMoments,
    batch_size: int,
) -> torch.optim.Adam:
    """Adam for the expanded network, with the old moments in the old places.

    New entries begin with a first moment of 0 and the second moment that a batch of `batch_size` would show:
    ḡ² + (E[g²] − ḡ²)/B, from `moments`, the score's own statistics of the new network. (A second moment of 0
    beside a large step count would give first updates of up to 6.6 times the learning rate.)
    """
    new = adam(new_module, old.param_groups[0]["lr"])
    places = placements(old_module.graph, new_module.graph)
    old_state = {name: old.state[parameter] for name, parameter in old_module.named_parameters()}
    step = max((state["step"] for state in old_state.values() if state), default=None)
    if step is None:
        return new
    for name, parameter in new_module.named_parameters():
        tensor = moments.by_name[name]
        mean_squared = tensor.mean.square()
        first = torch.zeros_like(parameter)
        second = mean_squared + (tensor.mean_square - mean_squared) / batch_size
        if name in places:
            old_places = grid(places[name], parameter.device)
            first[old_places] = old_state[name]["exp_avg"]
            second[old_places] = old_state[name]["exp_avg_sq"]
        new.state[parameter] = {"step": step.clone(), "exp_avg": first, "exp_avg_sq": second}
    return new
