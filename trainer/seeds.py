"""Random numbers that depend on the run, the epoch and their purpose alone, so that a resumed run draws them again."""

from __future__ import annotations

import numpy as np

from trainer.config import RunConfig


def seed_of(config: RunConfig, epoch: int, purpose: str) -> int:
    """A seed of its own for each run seed, epoch and purpose."""
    words = [config.seed, epoch, *purpose.encode()]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)
