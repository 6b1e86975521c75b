"""Small networks with realistic weights, and small image folders that a network can learn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from trainer.config import BlueprintStart, RunConfig, StartNet
from trainer.data.datasets import Data, load
from trainer.growth.expand import Exact
from trainer.journal.records import Record
from trainer.recipes.ladder import Ladder
from trainer.recipes.one_by_one import OneByOne
from trainer.recipes.rules import GainRule
from zoo.network.families.family import Architecture
from zoo.runtime.module import GraphModule


@pytest.fixture(autouse=True)
def _one_thread_one_seed() -> Iterator[None]:
    """Networks this small gain nothing from threads, and lose much where cores are shared."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="session")
def random_module() -> Callable[[Architecture, int], GraphModule]:
    """Random in every tensor, as a network in the middle of its training might be; in eval mode.

    Batch norms roughly normalise what reaches them. With statistics from nowhere the logits of deep networks would
    run into the hundreds; with variances near 0 each batch norm would multiply rounding errors by up to 300.
    """

    def make(architecture: Architecture, seed: int) -> GraphModule:
        random = torch.Generator().manual_seed(seed)
        module = GraphModule(architecture.graph())
        hooks = []

        def normalize_roughly(layer: nn.Module, args: tuple[torch.Tensor]) -> None:
            variance, mean = torch.var_mean(args[0].transpose(0, 1).flatten(1), dim=1)
            noise = torch.randn(mean.shape, generator=random)
            layer.running_var.copy_((variance * (0.3 * noise).exp()).clamp_min(0.3))
            layer.running_mean.copy_(mean + 0.3 * layer.running_var.sqrt() * noise.flip(0))

        with torch.no_grad():
            for layer in module.modules():
                match layer:
                    case nn.Conv2d() | nn.Linear():
                        std = (2 / layer.weight[0].numel()) ** 0.5
                        layer.weight.normal_(0, std, generator=random)
                        if layer.bias is not None:
                            layer.bias.normal_(0, 0.1, generator=random)
                    case nn.BatchNorm1d() | nn.BatchNorm2d():
                        layer.weight.uniform_(0.5, 1.5, generator=random)
                        layer.bias.normal_(0, 0.3, generator=random)
                        hooks.append(layer.register_forward_pre_hook(normalize_roughly))
            module.eval()(torch.randn((64, *module.graph.input_shape), generator=random))
        for hook in hooks:
            hook.remove()
        return module

    return make


@pytest.fixture(scope="session")
def write_images() -> Callable[..., Path]:
    """Writes {train,test}/<class>/<number>.png below a directory: one bright bar per class, in noise."""

    def write(
        root: Path,
        counts: Mapping[str, int],
        *,
        classes: tuple[str, ...] = ("left", "middle", "right"),
        size: tuple[int, int] = (8, 8),
        mode: str = "L",
        seed: int = 0,
    ) -> Path:
        random = np.random.default_rng(seed)
        height, width = size
        channels = len(Image.new(mode, (1, 1)).getbands())
        for split, count in counts.items():
            for place, label in enumerate(classes):
                folder = root / split / label
                folder.mkdir(parents=True)
                for number in range(count):
                    pixels = random.integers(0, 160, (height, width, channels))
                    start = place * width // len(classes)
                    pixels[:, start : start + 2] += 90
                    image = Image.fromarray(pixels.astype(np.uint8).squeeze())
                    image.convert(mode).save(folder / f"{number:04}.png")
        return root

    return write


@pytest.fixture
def images(tmp_path: Path, write_images: Callable[..., Path]) -> Path:
    """A directory of 90 training and 24 test images of 8×8 in 3 classes."""
    return write_images(tmp_path / "bars", {"train": 30, "test": 8})


@pytest.fixture
def data(images: Path) -> Data:
    return load(str(images))


@pytest.fixture(scope="session")
def tiny_run() -> RunConfig:
    """Grows after epochs 2 and 4 of 6, whatever it knows by then."""
    return RunConfig(
        name="tiny",
        start=StartNet(channels=3, num_blocks=2, head="average", bottleneck_channels=4, hidden_features=4),
        recipe=OneByOne(
            GainRule(threshold=0.0, standard_errors=0.0),
            Exact(),
            layer_kind="residual",
            cooldown_epochs=2,
            max_layers_per_block=2,
            score_samples=64,
        ),
        epochs=6,
        batch_size=16,
        batch_share=None,
        chance_errors=-100.0,
        lr_patience=1,
        max_shift=1,
    )


@pytest.fixture(scope="session")
def interrupted_at() -> Callable[[int], Callable[[Record], None]]:
    """An observer that stops the run at the n-th record."""

    def make(number: int) -> Callable[[Record], None]:
        seen = itertools.count(1)

        def observe(_: Record) -> None:
            if next(seen) == number:
                raise KeyboardInterrupt

        return observe

    return make


@pytest.fixture
def ladder_run(tiny_run: RunConfig) -> RunConfig:
    """Climbs after epochs 2 and 4 of 6, when the time at a size is up; each checkpoint ends a branch of two epochs."""
    return replace(
        tiny_run,
        name="ladder",
        start=BlueprintStart(channels=(4, 4), num_layers=(1, 1)),
        recipe=Ladder(
            sizes=(500, 1000),
            threshold=1e9,
            standard_errors=0.0,
            pace=0.0,
            width_step=1,
            score_samples=81,
        ),
        learning_rate=1e-2,
        optimizer="muon",
        weight_decay=0.01,
        warmup_steps=7,
        warmup_share=1.0,
        plateau=False,
        l1=0.0,
        anneal_share=1.0,
        average_decay=0.8,
    )
