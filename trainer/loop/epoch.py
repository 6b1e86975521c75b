"""One epoch of training, one evaluation: numbers out, nothing printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import repeat
from math import isfinite

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from trainer.data.datasets import Split
from trainer.loop import optim
from trainer.loop.augment import Augmentation, augmentation_of
from trainer.loop.step import TrainingStep
from zoo.checkpoint.descriptor import MAX_CONFUSION_CLASSES, Accuracy, Metrics, Preprocessing
from zoo.errors import RunError
from zoo.network.cost import activation_bytes
from zoo.runtime.module import GraphModule, evaluating, normalize

# Bytes of pixels that are picked and augmented at once: on a GPU the kernels of a small batch take longer to launch
# than to run.
_BYTES_AT_ONCE = 2**24
# Images that are predicted at once, and bytes of what the network makes of them: wide layers on large images took 7 GB.
_IMAGES_AT_ONCE, _ACTIVATIONS_AT_ONCE = 1000, 2**30


@dataclass(frozen=True)
class EpochResult:
    """Mean cross-entropy (without the L1 term) and accuracy over the epoch's augmented training batches.

    Where images are mixed, an answer is right that names the class of the larger part.
    """

    loss: float
    accuracy: float
    num_images: int


@dataclass(frozen=True)
class Lesson:
    """A teacher's answers to the images of a split, each augmented; in the order of the split, in half precision.

    `num_answered` images went through the teacher for it; 0: the answers were there already.
    """

    augmentation: Augmentation
    answers: Float[Tensor, "n classes"]
    num_answered: int


def require_finite(loss: float, what: str, epoch: int, learning_rate: float) -> None:
    """Raises RunError where the training of `what` diverged, before anything of it is kept."""
    if not isfinite(loss):
        raise RunError(
            f"{what} diverged: the loss of epoch {epoch} is {loss} at a learning rate of {learning_rate:g}; "
            "a lower one may help (--learning-rate)"
        )


def train_epoch(
    step: TrainingStep,
    split: Split,
    generator: torch.Generator,
    *,
    learning_rates: Sequence[float] | None = None,
    average: WeightAverage | None = None,
    lesson: Lesson | None = None,
) -> EpochResult:
    """One pass over the split in the order, with the augmentation, that `generator` (on the CPU) gives.

    With a `lesson`, the images are augmented as the teacher has seen them, and its answers are learned.

    `learning_rates` has one for each of `step.num_steps`; without it the optimiser's stays. `average` takes part after
    each step. Dropout draws from torch's global generator, which the caller seeds: `trainer.loop.seeds.seed_epoch`.
    """
    config, module = step.config, step.module
    module.train()
    order = torch.randperm(len(split), generator=generator).to(split.labels.device)
    total_loss = torch.zeros((), device=order.device)
    total_correct = torch.zeros((), dtype=torch.long, device=order.device)
    num_images = 0
    steps = step.num_steps(len(split))
    augmentation = _augmentation(step, split, generator) if lesson is None else lesson.augmentation.at(order)
    shown = order[: steps * config.batch_size]
    answers = None if lesson is None else lesson.answers[shown]
    batches = _batches(split, shown, augmentation, answers, step)
    for index, (images, targets, answered) in enumerate(batches):
        if learning_rates is not None:
            optim.set_learning_rate(step.optimizer, learning_rates[index])
        loss, correct = step(images, targets, answered)
        if average is not None:
            average.update()
        total_loss += loss * len(targets[step.group.rank :: step.group.size])
        total_correct += correct
        num_images += len(targets)
    loss_sum, num_correct = step.group.summed(total_loss).item(), step.group.summed(total_correct).item()
    return EpochResult(loss_sum / num_images, num_correct / num_images, num_images)


def _augmentation(step: TrainingStep, split: Split, generator: torch.Generator) -> Augmentation:
    params = sum(parameter.numel() for parameter in step.module.parameters())
    return augmentation_of(step.config, params, split.images.shape[2:], len(split), generator, split.labels.device)


def _batches(
    split: Split,
    order: Int64[Tensor, " n"],
    augmentation: Augmentation,
    answers: Float[Tensor, "n classes"] | None,
    step: TrainingStep,
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Images, augmented, targets and a teacher's answers as a step takes them; the last batch may be smaller.

    `augmentation` and `answers` are in the order of `order`.
    """
    batch_size = step.config.batch_size
    several = batch_size * max(1, _BYTES_AT_ONCE // (batch_size * split.images[0].numel()))
    for index, indices in enumerate(order.split(several)):
        place = slice(index * several, index * several + len(indices))
        images, targets = step.shown(split.images[indices], split.labels[indices], augmentation, place)
        wanted = repeat(None) if answers is None else answers[place].float().split(batch_size)
        yield from zip(images.split(batch_size), targets.split(batch_size), wanted, strict=answers is not None)


class WeightAverage:
    """The exponential moving average of a network's weights and running statistics, which begins where they are.

    After n updates it reaches back over about the last (n + 10) / 9 steps, at most over 1 / (1 - `decay`): where it
    began, it has soon forgotten. `num_updates` are those that it has had already.

    As torch's AveragedModel, which at each step waits for the device to tell how many it has averaged, and averages
    the counters of batch norms one by one.
    """

    def __init__(self, step: TrainingStep, decay: float, num_updates: int = 0) -> None:
        """Of the step's network: the step has laid its weights out in memory by now, where they stay."""
        module = step.module
        self.module = deepcopy(module)
        self.decay = decay
        self.num_updates = num_updates
        # Counters of batches stay as they are.
        mine, theirs = (
            [tensor for tensor in one.state_dict().values() if tensor.is_floating_point()]
            for one in (self.module, module)
        )
        self._mine, self._theirs = mine, theirs

    def update(self) -> None:
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        get_ema_multi_avg_fn(decay)(self._mine, self._theirs, None)
        self.num_updates += 1


@torch.no_grad()
def predict(
    module: GraphModule, images: UInt8[Tensor, "n channels height width"], preprocessing: Preprocessing
) -> Int64[Tensor, " n"]:
    """The likeliest class of each image, in eval mode; the module's mode is left as it was."""
    parts = images.split(_num_at_once(module, images))
    # In full float32, as everything that runs a checkpoint has it: TF32 gives some images another class.
    with evaluating(module), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return torch.cat([module(normalize(part, preprocessing)).argmax(1) for part in parts])


def _num_at_once(module: nn.Module, images: UInt8[Tensor, "n channels height width"]) -> int:
    most = min(_IMAGES_AT_ONCE, _BYTES_AT_ONCE // images[0].numel())
    if isinstance(module, GraphModule):  # others do not say what they take
        most = min(most, _ACTIVATIONS_AT_ONCE // activation_bytes(module.graph))
    return max(1, most)


@torch.no_grad()
def mean_loss(module: GraphModule, split: Split, preprocessing: Preprocessing) -> float:
    """Cross-entropy over the split, in eval mode."""
    at_once = _num_at_once(module, split.images)
    with evaluating(module):
        losses = [
            F.cross_entropy(module(normalize(images, preprocessing)), labels, reduction="sum")
            for images, labels in zip(split.images.split(at_once), split.labels.split(at_once), strict=True)
        ]
    return torch.stack(losses).sum().item() / len(split)


def evaluate(module: GraphModule, split: Split, preprocessing: Preprocessing, num_classes: int) -> Accuracy:
    """Top-1 accuracy over the split, overall and by class; no test-time augmentation."""
    return _accuracy(split, predict(module, split.images, preprocessing), num_classes)


def metrics_of(
    module: GraphModule, split: Split, preprocessing: Preprocessing, num_classes: int, validation: Accuracy
) -> Metrics:
    """As `evaluate`, with the confusion matrix where there are few enough classes to store it."""
    predicted = predict(module, split.images, preprocessing)
    confusion = None
    if num_classes <= MAX_CONFUSION_CLASSES:
        counts = (split.labels * num_classes + predicted).bincount(minlength=num_classes**2)
        confusion = tuple(map(tuple, counts.reshape(num_classes, num_classes).tolist()))
    return Metrics(validation=validation, test=_accuracy(split, predicted, num_classes), confusion=confusion)


def _accuracy(split: Split, predicted: Int64[Tensor, " n"], num_classes: int) -> Accuracy:
    correct = predicted == split.labels
    totals = split.labels.bincount(minlength=num_classes).tolist()
    hits = split.labels[correct].bincount(minlength=num_classes).tolist()
    return Accuracy(
        accuracy=sum(hits) / len(split),
        n=len(split),
        per_class=tuple(round(hit / total, 6) if total else None for hit, total in zip(hits, totals, strict=True)),
    )


def chance_of(labels: Int64[Tensor, " n"]) -> float:
    """The accuracy of the majority-class baseline."""
    return labels.bincount().max().item() / len(labels)


def is_at_chance(measured: Accuracy, chance: float, standard_errors: float) -> bool:
    """Whether the accuracy is not above chance by so many standard errors of a guesser's. All right is not chance, of
    however few images."""
    return (
        measured.accuracy < 1
        and measured.accuracy <= chance + standard_errors * (chance * (1 - chance) / measured.n) ** 0.5
    )
