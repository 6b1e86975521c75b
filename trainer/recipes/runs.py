"""Named runs: `zoo-train NAME`. Each function returns a config; a variant edits the base with `replace`.

What a recipe is: trainer/growth/recipe.py. A new name also goes into RUN_EPOCHS of trainer/commands/options.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from trainer.config import BlueprintStart, Cutout, FixedStart, Mixup, RunConfig, StartNet, Zoom
from trainer.growth.expand import Exact, Noise
from trainer.recipes.fixed import Fixed
from trainer.recipes.ladder import Ladder
from trainer.recipes.one_by_one import OneByOne
from trainer.recipes.rules import BatchRatioRule, GainRule, RatioRule


def paper() -> RunConfig:
    """The paper's run, by its text: 3 blocks of 16 channels, ratio rule with τ = 2, 300 epochs."""
    return RunConfig(
        name="paper", recipe=OneByOne(RatioRule(), Noise(), layer_kind="conv"), mixed_precision=True, compile=True
    )


def paper_code() -> RunConfig:
    """The paper's run by the choices of its authors' public code, where that differs from the text (docs/growth.md)."""
    return replace(
        paper(),
        name="paper-code",
        start=StartNet(conv_dropout=0.0),
        channel_dropout=0.1,
        recipe=OneByOne(
            BatchRatioRule(per_parameter=True),
            Noise(box_identity=True, resets_widened=True),
            layer_kind="conv",
            channels_added=4,
            cooldown_epochs=5,
            cools_down_at_start=False,
            max_layers_per_block=11,  # the first one, and ten that were inserted
            scores_same=True,
        ),
        plateau_on="loss",
    )


def digits() -> RunConfig:
    """A zoo in a minute on scikit-learn's digits: exact expansions of a network of 4 channels."""
    return RunConfig(
        name="digits",
        start=StartNet(channels=4, head="average", bottleneck_channels=16, conv_dropout=0.0, linear_dropout=0.0),
        recipe=OneByOne(
            GainRule(),
            Exact(),
            layer_kind="residual",
            channels_added=4,
            cooldown_epochs=8,
            max_layers_per_block=4,
            score_samples=1024,
        ),
        epochs=100,
        batch_size=64,
        learning_rate=1e-2,
        lr_patience=8,
        horizontal_flip=False,
        max_shift=1,
        cpu_threads=1,
    )


def grow() -> RunConfig:
    """The default run: separable residual networks of 3,000 to 150,000 parameters, an annealed branch at each size."""
    return RunConfig(
        name="grow",
        start=BlueprintStart(),
        recipe=Ladder(
            sizes=(5_000, 7_000, 10_000, 14_000, 20_000, 28_000, 40_000, 62_700, 79_000, 100_000, 150_000),
            # Gains are measured against a loss that is small where images are known by heart: with 3, networks from
            # 18,000 parameters on left their size after half of its epochs (docs/log.md).
            threshold=30.0,
            # Larger networks have more to learn: at 150,000 parameters over five times as many epochs as at the start.
            pace=-0.5,
            # By multiply-accumulates alone, or with more layers, all growth goes into one stage, and is worth less
            # (docs/log.md).
            grow_for="both",
            max_layers_per_stage=6,
            shrink=0.5,
        ),
        epochs=540,
        batch_size=512,
        learning_rate=5e-2,
        optimizer="muon",
        # Without as much, Muon's kernels grow to ten times a fresh network's, and its steps turn them little
        # (docs/log.md).
        weight_decay=0.03,
        beta2=0.99,
        warmup_steps=100,
        plateau=False,
        l1=0.0,
        max_shift=4,
        # Over black, an image's borders differ from those that are predicted (docs/log.md).
        padding_mode="reflect",
        full_shift_params=30_000,
        # Of 11,530 parameters, which soon know 92 % of 8,522 photos, it leaves 80 % (docs/log.md).
        zoom=Zoom(part=0.6, from_side=64, from_params=10_000),
        # Of 18,530 parameters, which know 89 % of the training images, both take more than they give (docs/log.md).
        cutout=Cutout(part=0.25, from_params=35_000),
        mixup=Mixup(alpha=0.5, from_params=50_000),
        anneal_share=0.5,
        mixed_precision=True,
        compile=True,
    )


def fixed(start: FixedStart) -> RunConfig:
    """A well-known network that does not grow: half of the time at a constant rate, half while it falls to 0."""
    return RunConfig(
        name=start.family,
        start=start,
        recipe=Fixed(),
        epochs=80,
        batch_size=128,
        learning_rate=2e-3,
        optimizer="adamw",
        weight_decay=0.05,
        beta2=0.99,
        warmup_steps=200,
        plateau=False,
        l1=0.0,
        max_shift=4,
        padding_mode="reflect",
        anneal_share=1.0,
        mixed_precision=True,
        compile=True,
    )


_FIXED = (
    FixedStart("alexnet", (64, 192, 384, 256, 256)),
    FixedStart("resnet20", (16, 32, 64)),
    FixedStart("resnet56", (16, 32, 64)),
    FixedStart("vgg16", (64, 128, 256, 512, 512)),
)
RUNS: dict[str, Callable[[], RunConfig]] = {run().name: run for run in (digits, grow, paper, paper_code)}
RUNS |= {start.family: partial(fixed, start) for start in _FIXED}
