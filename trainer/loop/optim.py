"""The optimiser, and its state (moments) carried over to an expanded network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import RunConfig
from trainer.growth.expand import grid
from trainer.growth.scores.fisher import GradientMoments
from trainer.loop.muon import MuonAdamW
from zoo.network.placement import placements
from zoo.runtime.module import GraphModule


def make(module: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """The run's optimiser.

    For a CUDA graph, which replays the numbers it was captured with, the learning rate is a tensor on the device.
    """
    device = next(module.parameters()).device
    captured = config.compile and device.type == "cuda"
    rate = torch.tensor(config.learning_rate, device=device) if captured else config.learning_rate
    options: dict[str, Any] = {"lr": rate, "betas": (0.9, config.beta2), "fused": True, "capturable": captured}
    if config.optimizer == "adam":
        return torch.optim.Adam(module.parameters(), **options)
    kernels = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in module.parameters() if parameter.ndim == 1]
    plain = {"params": vectors, "weight_decay": 0.0}
    decayed = {"params": kernels, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        return torch.optim.AdamW([decayed, plain], **options)
    matrices = [kernel for kernel in kernels if _is_pointwise(kernel)]
    others = [kernel for kernel in kernels if not _is_pointwise(kernel)]
    return MuonAdamW(
        matrices,
        [{"params": others, "weight_decay": config.weight_decay}, plain],
        scale=config.muon_scale,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        **options,
    )


def _is_pointwise(kernel: Tensor) -> bool:
    return kernel.ndim == 4 and kernel.shape[2:] == (1, 1)


def learning_rate(optimizer: torch.optim.Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def load_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Puts saved state into an optimiser of `make`, whose options for its device stay (torch replaces them too)."""
    of_device = ("lr", "fused", "capturable")
    own = [{name: group[name] for name in of_device if name in group} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    rate = learning_rate(optimizer)
    for group, options in zip(optimizer.param_groups, own, strict=True):
        group.update(options)
    set_learning_rate(optimizer, rate)


def carried(
    old: torch.optim.Optimizer,
    old_module: GraphModule,
    new_module: GraphModule,
    moments: GradientMoments,
    config: RunConfig,
    *,
    all_new: bool = False,
) -> torch.optim.Optimizer:
    """The optimiser of the expanded network, with the old moments in the old places, unless weights are `all_new`.

    New entries begin with a first moment (or a momentum) of 0 and the second moment that the run's batches of B
    images would show: ḡ² + (E[g²] − ḡ²)/B, from `moments`, the score's own statistics of the new network. (A second
    moment of 0 beside a large step count would give first updates of up to 6.6 times the learning rate.)
    """
    new = make(new_module, config)
    set_learning_rate(new, learning_rate(old))
    places = {} if all_new else placements(old_module.graph, new_module.graph)
    old_state = {name: old.state[parameter] for name, parameter in old_module.named_parameters()}
    if not any(old_state.values()):
        return new
    steps = max((state["step"] for state in old_state.values() if "step" in state), default=torch.zeros(()))
    of_muon = {id(parameter) for group in new.param_groups if group.get("orthogonal") for parameter in group["params"]}
    for name, parameter in new_module.named_parameters():
        nothing = torch.zeros_like(parameter)
        if id(parameter) in of_muon:
            state = {"step": torch.zeros(()), "momentum": nothing}
        else:
            tensor = moments.by_name[name]
            mean_squared = tensor.mean.square()
            second = mean_squared + (tensor.mean_square - mean_squared) / config.batch_size
            state = {"step": steps.clone(), "exp_avg": nothing, "exp_avg_sq": second}
        if name in places:
            for moment in state.keys() - {"step"}:
                state[moment][grid(places[name])] = old_state[name][moment]
        new.state[parameter] = state
    return new
