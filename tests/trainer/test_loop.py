from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from math import isfinite
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.config import Mixup, PaddingMode, RunConfig
from trainer.data.datasets import Split
from trainer.loop import optim
from trainer.loop.augment import draw
from trainer.loop.epoch import WeightAverage, evaluate, metrics_of, predict, train_epoch
from trainer.loop.step import TrainingStep
from trainer.recipes.runs import digits, paper
from zoo.checkpoint.descriptor import Preprocessing
from zoo.network.cost import activation_bytes
from zoo.network.families.blueprint import BlueprintArchitecture, Stage
from zoo.network.families.secnn import SecnnArchitecture, start
from zoo.runtime.module import GraphModule, normalize

RandomModule = Callable[[SecnnArchitecture, int], GraphModule]

GRAY = Preprocessing(color="gray", mean=(0.4,), std=(0.3,))
PLAIN = replace(paper(), horizontal_flip=False, max_shift=0, batch_size=8, l1=0.0, mixed_precision=False, compile=False)


def drawn_images(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (count, channels, height, width), generator=random, dtype=torch.uint8)


@pytest.fixture
def architecture() -> SecnnArchitecture:
    return start(input_shape=(1, 8, 8), num_classes=4, channels=3, conv_dropout=0.1, linear_dropout=0.1)


def drawn_split(count: int, classes: int = 4) -> Split:
    return Split(drawn_images(count, 1, 8, 8), torch.arange(count) % classes)


def test_accuracy_is_a_count_of_hits(architecture: SecnnArchitecture, random_module: RandomModule) -> None:
    module, split = random_module(architecture, 0), drawn_split(1203, classes=3)
    hits, totals = [0] * 4, [0] * 4
    with torch.no_grad():
        for image, label in zip(split.images, split.labels.tolist(), strict=True):
            logits = module((image[None].float() / 255 - 0.4) / 0.3)[0]
            hits[label] += int(max(range(4), key=lambda index: logits[index].item()) == label)
            totals[label] += 1
    found = evaluate(module, split, GRAY, 4)
    assert found.n == 1203
    assert found.accuracy == sum(hits) / 1203
    assert found.per_class[:3] == pytest.approx([hit / 401 for hit in hits[:3]], abs=1e-6)
    assert found.per_class[3] is None  # the split has no image of it
    assert len(set(hits[:3])) > 1


def test_a_short_average_forgets_where_it_began(architecture: SecnnArchitecture, random_module: RandomModule) -> None:
    """A long one reaches back over 100 steps, as its decay of 0.99 says."""
    module = random_module(architecture, 0)
    step = TrainingStep(module, optim.make(module, PLAIN), PLAIN, GRAY)
    for num_updates, share_of_start in ((0, 0.0), (1000, 0.99**30)):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(1.0)
        average = WeightAverage(step, 0.99, num_updates)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.fill_(0.0)
        for _ in range(30):
            average.update()
        for parameter in average.module.parameters():
            torch.testing.assert_close(parameter, torch.full_like(parameter, share_of_start), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("compiled", "num_images"), [(False, 21), (True, 16)])
def test_images_that_fill_no_batch_are_left_out_where_steps_are_compiled(
    architecture: SecnnArchitecture, random_module: RandomModule, compiled: bool, num_images: int
) -> None:
    config = replace(PLAIN, compile=True)
    module = random_module(architecture, 0)
    step = TrainingStep(module, optim.make(module, config), config, GRAY, compiled=compiled)
    assert step.num_trained(21) == num_images
    assert step.num_trained(5) == 5
    if not compiled:
        assert train_epoch(step, drawn_split(21), torch.Generator().manual_seed(0)).num_images == num_images


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_changes_nothing(
    architecture: SecnnArchitecture, random_module: RandomModule, training: bool
) -> None:
    module = random_module(architecture, 0).train(training)
    before = deepcopy(module.state_dict())
    first, second = (predict(module, drawn_split(30).images, GRAY) for _ in range(2))
    assert torch.equal(first, second)
    assert module.training is training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def step_of(module: GraphModule, config: RunConfig) -> TrainingStep:
    config = replace(config, learning_rate=1e-2)
    return TrainingStep(module, optim.make(module, config), config, GRAY)


def train_once(module: GraphModule, split: Split, config: RunConfig, seed: int = 3) -> tuple[GraphModule, float, float]:
    module = deepcopy(module)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    result = train_epoch(step_of(module, config), split, generator)
    return module, result.loss, result.accuracy


def weights(module: GraphModule) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_large_images_are_predicted_few_at_once() -> None:
    """By what the network makes of them: a thousand photos in layers as wide took 7 GB."""
    shape = {"input_channels": 1, "input_height": 256, "input_width": 256, "num_classes": 4, "stem_pools": 0}
    wide = GraphModule(BlueprintArchitecture(**shape, stages=(Stage(channels=64, num_layers=0),)).graph())
    sizes: list[int] = []
    wide.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    assert len(predict(wide, drawn_images(70, 1, 256, 256), GRAY)) == sum(sizes) == 70
    assert max(sizes) * activation_bytes(wide.graph) <= 2**30


def test_an_epoch_is_one_step_for_each_batch(architecture: SecnnArchitecture, random_module: RandomModule) -> None:
    """Against the same epoch written out, with the L1 term."""
    no_dropout = architecture.model_copy(update={"conv_dropout": 0.0, "linear_dropout": 0.0})
    module, split = random_module(no_dropout, 0), drawn_split(21)
    config = replace(PLAIN, l1=1e-3)
    found, loss, accuracy = train_once(module, split, config)

    expected = deepcopy(module).train()
    optimizer = torch.optim.Adam(expected.parameters(), lr=1e-2)
    order = torch.randperm(21, generator=torch.Generator().manual_seed(3))
    losses, hits = [], 0
    for indices in (order[:8], order[8:16], order[16:]):
        images, labels = normalize(split.images[indices], GRAY), split.labels[indices]
        logits = expected(images)
        cross_entropy = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        (cross_entropy + 1e-3 * sum(parameter.abs().sum() for parameter in expected.parameters())).backward()
        optimizer.step()
        losses += [cross_entropy.item()] * len(indices)
        hits += int((logits.argmax(1) == labels).sum())
    torch.testing.assert_close(weights(found), weights(expected), rtol=1e-4, atol=1e-6)
    assert loss == pytest.approx(sum(losses) / 21, rel=1e-5)
    assert accuracy == hits / 21


def test_a_mixed_image_has_both_classes(architecture: SecnnArchitecture, random_module: RandomModule) -> None:
    """The loss weighs the classes of both; the answer that counts as right is that of the larger part."""
    no_dropout = architecture.model_copy(update={"conv_dropout": 0.0, "linear_dropout": 0.0})
    module, split = random_module(no_dropout, 0), drawn_split(20)
    config = replace(PLAIN, batch_size=20, mixup=Mixup(alpha=1.0, from_params=0))
    _, loss, accuracy = train_once(module, split, config)

    generator = torch.Generator().manual_seed(3)
    order = torch.randperm(20, generator=generator)
    kept = draw(20, config.horizontal_flip, config.max_shift, generator, order.device, mixup=1.0).kept
    assert kept is not None
    images, labels = split.images[order].float(), split.labels[order]
    share = kept.view(-1, 1, 1, 1)
    mixture = (share * images + (1 - share) * images.roll(1, 0)).round().to(torch.uint8)
    logits = deepcopy(module).train()(normalize(mixture, GRAY))
    own, other = (F.cross_entropy(logits, classes, reduction="none") for classes in (labels, labels.roll(1)))
    assert loss == pytest.approx((kept * own + (1 - kept) * other).mean().item(), rel=1e-4)
    assert accuracy == int((logits.argmax(1) == labels).sum()) / 20


@pytest.mark.parametrize("padding_mode", get_args(PaddingMode))
def test_images_smaller_than_the_largest_shift_are_trained_on(
    architecture: SecnnArchitecture, random_module: RandomModule, padding_mode: PaddingMode
) -> None:
    config = replace(PLAIN, max_shift=20, padding_mode=padding_mode)
    _, loss, _ = train_once(random_module(architecture, 0), drawn_split(20), config)
    assert isfinite(loss)


def test_an_epoch_depends_on_its_seeds_alone(architecture: SecnnArchitecture, random_module: RandomModule) -> None:
    module, split = random_module(architecture, 0), drawn_split(20)
    config = replace(digits(), batch_size=8)
    one, two, other = (train_once(module, split, config, seed)[0] for seed in (3, 3, 4))
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(other))


def test_a_last_batch_of_one_image_is_left_out(architecture: SecnnArchitecture, random_module: RandomModule) -> None:
    module = random_module(architecture, 0)
    result = train_epoch(step_of(module, PLAIN), drawn_split(17), torch.Generator())
    assert result.num_images == 16


def test_l1_draws_weights_to_zero(architecture: SecnnArchitecture, random_module: RandomModule) -> None:
    module, split = random_module(architecture, 0), drawn_split(80)
    with_l1, without = (train_once(module, split, replace(PLAIN, l1=l1))[0] for l1 in (0.1, 0.0))
    assert weights(with_l1).abs().sum() < 0.95 * weights(without).abs().sum()


def test_the_confusion_matrix_counts_every_pair(architecture: SecnnArchitecture, random_module: RandomModule) -> None:
    module, split = random_module(architecture, 0), drawn_split(120, classes=3)
    validation = evaluate(module, split, GRAY, 4)
    metrics = metrics_of(module, split, GRAY, 4, validation)
    assert (metrics.validation, metrics.test) == (validation, validation)
    pairs = list(zip(split.labels.tolist(), predict(module, split.images, GRAY).tolist(), strict=True))
    counted = [[pairs.count((row, column)) for column in range(4)] for row in range(4)]
    assert metrics.confusion == tuple(map(tuple, counted))
    [(row, column, count)] = metrics.confused(1)
    assert row != column
    assert count == max(counted[r][c] for r in range(4) for c in range(4) if r != c)
    many = random_module(architecture.model_copy(update={"num_classes": 51}), 0)
    assert metrics_of(many, split, GRAY, 51, validation).confusion is None
