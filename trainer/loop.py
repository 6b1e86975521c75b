"""One epoch of training, one evaluation: numbers out, nothing printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainer import optim
from trainer.augment import draw, shift_of
from trainer.config import RunConfig
from trainer.data import Split
from trainer.parallel import ALONE, Group
from trainer.step import TrainingStep
from zoo.descriptor import Accuracy, Preprocessing
from zoo.module import GraphModule, normalize


@dataclass(frozen=True)
class EpochResult:
    """Mean cross-entropy (without the L1 term) and accuracy over the epoch's augmented training batches."""

    loss: float
    accuracy: float
    num_images: int


def train_epoch(
    step: TrainingStep,
    split: Split,
    generator: torch.Generator,
    *,
    learning_rates: Sequence[float] | None = None,
    average: AveragedModel | None = None,
) -> EpochResult:
    """One pass over the split in the order, with the augmentation, that `generator` (on the CPU) gives.

    `learning_rates` has one for each step, see `num_steps`; without it the optimiser's stays. `average` takes part
    after each step. Dropout draws from torch's global generator, which the caller seeds: `trainer.seeds.seed_epoch`.
    """
    config, module = step.config, step.module
    module.train()
    order = torch.randperm(len(split), generator=generator).to(split.labels.device)
    total_loss = torch.zeros((), device=order.device)
    total_correct = torch.zeros((), dtype=torch.long, device=order.device)
    num_images = 0
    steps = num_steps(len(split), config, step.group)
    shift = shift_of(config, sum(parameter.numel() for parameter in module.parameters()))
    augmentation = draw(len(split), config.horizontal_flip, shift, generator, order.device)
    for index, indices in enumerate(order.split(config.batch_size)[:steps]):
        if learning_rates is not None:
            optim.set_learning_rate(step.optimizer, learning_rates[index])
        place = slice(index * config.batch_size, index * config.batch_size + len(indices))
        images = augmentation.of(split.images[indices], place)
        loss, correct = step(images, split.labels[indices])
        if average is not None:
            average.update_parameters(module)
        total_loss += loss * len(indices[step.group.rank :: step.group.size])
        total_correct += correct
        num_images += len(indices)
    loss_sum, num_correct = step.group.summed(total_loss).item(), step.group.summed(total_correct).item()
    return EpochResult(loss_sum / num_images, num_correct / num_images, num_images)


def averaging(module: nn.Module, config: RunConfig) -> AveragedModel:
    """The exponential moving average of weights and running statistics, which begins where they are."""
    return AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(config.average_decay), use_buffers=True)


def num_steps(num_images: int, config: RunConfig, group: Group = ALONE) -> int:
    """Batches of an epoch. A last one that is not full is left out of a compiled run, which has one shape, and
    everywhere if it has less than two images for each process: batch norm needs two."""
    full, rest = divmod(num_images, config.batch_size)
    return full + (rest >= 2 * group.size and not (config.compile and full))


@torch.no_grad()
def predict(
    module: GraphModule, images: UInt8[Tensor, "n channels height width"], preprocessing: Preprocessing
) -> Int64[Tensor, " n"]:
    """The likeliest class of each image, in eval mode; the module's mode is left as it was."""
    was_training = module.training
    module.eval()
    # In full float32, as everything that runs a checkpoint has it: TF32 gives some images another class.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        predicted = torch.cat([module(normalize(part, preprocessing)).argmax(1) for part in images.split(1000)])
    module.train(was_training)
    return predicted


def evaluate(module: GraphModule, split: Split, preprocessing: Preprocessing, num_classes: int) -> Accuracy:
    """Top-1 accuracy over the split, overall and by class; no test-time augmentation."""
    correct = predict(module, split.images, preprocessing) == split.labels
    per_class = [correct[split.labels == label].float() for label in range(num_classes)]
    return Accuracy(
        accuracy=int(correct.sum()) / len(split),
        n=len(split),
        per_class=tuple(round(hits.mean().item(), 6) if len(hits) else None for hits in per_class),
    )
