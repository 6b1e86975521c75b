"""Batches and warm-up that fit the data: schedules are in steps, and small data give few steps an epoch."""

from __future__ import annotations

from dataclasses import replace

from trainer.config import RunConfig

# Batch norm wants more than a few images, however few there are.
_MIN_BATCH = 8


def fitted(config: RunConfig, num_train: int) -> RunConfig:
    """The run with a batch of at most `batch_share` of so many training images and a warm-up that its steps allow.

    The power of two below the share, so that runs of nearly equal data agree. A batch size that a person chose
    (`batch_share` None) stays.
    """
    size = config.batch_size
    if config.batch_share is not None:
        most = max(_MIN_BATCH, int(config.batch_share * num_train))
        size = min(size, 2 ** (most.bit_length() - 1))
    steps = config.epochs * max(1, num_train // size)
    return replace(config, batch_size=size, warmup_steps=min(config.warmup_steps, int(config.warmup_share * steps)))
