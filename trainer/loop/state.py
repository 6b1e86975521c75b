"""The mutable state of a run; trainer/journal/state.py saves it to disk."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import torch
from pydantic import ValidationError
from torch import Tensor

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.growth.recipe import FROM_NOTHING, Beginning, Growth
from trainer.loop import optim
from trainer.loop.seeds import seed_of
from zoo.checkpoint.descriptor import Accuracy, ExpansionStep
from zoo.errors import DescriptorError, RunError
from zoo.network.cost import num_macs, num_params
from zoo.network.families.family import Architecture
from zoo.runtime.module import GraphModule


@dataclass(frozen=True)
class Branch:
    """An annealing in progress. The state's network and optimiser are the branch's; the run goes on from its end."""

    epochs_done: int
    # The trunk's, to which the run returns.
    learning_rate: float
    # Of the network's weights and running statistics.
    average: dict[str, Tensor]


@dataclass
class RunState:
    architecture: Architecture
    module: GraphModule
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.ReduceLROnPlateau
    # Of the trunk; `num_epochs` counts those of branches too.
    epoch: int = 0
    num_epochs: int = 0
    validation: Accuracy | None = None
    expansions: tuple[ExpansionStep, ...] = ()
    checkpoints: tuple[str, ...] = ()
    # The trunk's epoch at the last checkpoint.
    checkpoint_epoch: int = 0
    # The content of a checkpoint of this epoch: there before its file is, see `trainer.grow`.
    finished_branch: bytes | None = None
    # What to become once this size's checkpoint is written.
    growth: Growth | None = None
    branch: Branch | None = None
    device_seconds: float = 0.0
    training_flops: int = 0
    saved_at: datetime | None = None
    # What the last epoch ran on, for people.
    device: str = ""
    begun: Beginning = FROM_NOTHING
    log_bytes: int = 0
    # What the run came to on these data, see `trainer.loop.batches`; a longer run keeps it.
    batch_size: int = 0
    warmup_steps: int = 0

    @property
    def last_growth_epoch(self) -> int:
        return self.expansions[-1].epoch if self.expansions else 0

    @property
    def is_between_checkpoints(self) -> bool:
        """Whether an epoch of the trunk is over that no checkpoint has."""
        return self.epoch > self.checkpoint_epoch


def first_network(config: RunConfig, data: Data) -> Architecture:
    """The network that a run starts with. Raises RunError where none fits these images, or it is over the limits."""
    _, height, width = data.image_shape
    try:
        architecture = config.start.network(data.image_shape, len(data.classes))
        graph = architecture.graph()
    except (ValidationError, DescriptorError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise RunError(
            f"run {config.name} has no network for {len(data.classes)} classes and images of {height}×{width}: "
            f"{reason}; --image-size resizes images"
        ) from error
    params, macs = num_params(graph), num_macs(graph)
    if not config.limits.allow(params, macs):
        raise RunError(
            f"run {config.name} starts with {params:,} parameters and {macs:,} multiply-accumulates an image: "
            "allow as many, or begin with smaller images"
        )
    return architecture


def fresh(config: RunConfig, architecture: Architecture, device: torch.device) -> RunState:
    """The state before the first epoch, with random weights."""
    torch.manual_seed(seed_of(config, 0, "start"))
    module = GraphModule(architecture.graph()).to(device)
    optimizer = optim.make(module, config)
    return RunState(architecture, module, optimizer, plateau(optimizer, config))


def plateau(optimizer: torch.optim.Optimizer, config: RunConfig) -> torch.optim.lr_scheduler.ReduceLROnPlateau:
    """Multiplies the learning rate by `lr_factor` after `lr_patience` epochs without a better validation."""
    # Torch reduces once *more* than `patience` epochs were bad.
    return torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode="max" if config.plateau_on == "accuracy" else "min",
        factor=config.lr_factor,
        patience=config.lr_patience - 1,
        threshold=0,
    )
