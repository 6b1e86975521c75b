"""Reproducible seeds: they depend on run, epoch and purpose alone, so that a resumed run draws the same numbers."""

from __future__ import annotations

import numpy as np
import torch

from trainer.config import RunConfig
from trainer.loop.parallel import ALONE, Group


def seed_of(config: RunConfig, epoch: int, purpose: str) -> int:
    """A seed of its own for each run seed, epoch and purpose."""
    words = [config.seed, epoch, *purpose.encode()]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def seed_epoch(config: RunConfig, epoch: int, purpose: str, group: Group = ALONE) -> torch.Generator:
    """Seeds torch's global generator, from which dropout draws, by itself on each process of a group.

    Returns one for batches and augmentation, which is the same on all.
    """
    torch.manual_seed(seed_of(config, epoch, f"dropout of {purpose}") + group.rank)
    return torch.Generator().manual_seed(seed_of(config, epoch, purpose))
