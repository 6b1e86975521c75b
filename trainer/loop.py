"""One epoch of training, one evaluation: numbers out, nothing printed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from trainer.config import RunConfig
from trainer.data import Split
from zoo.descriptor import Accuracy, Preprocessing
from zoo.module import GraphModule, normalize


@dataclass(frozen=True)
class EpochResult:
    """Mean cross-entropy (without the L1 term) and accuracy over the epoch's augmented training batches."""

    loss: float
    accuracy: float
    num_images: int


def train_epoch(
    module: GraphModule,
    optimizer: torch.optim.Optimizer,
    split: Split,
    preprocessing: Preprocessing,
    config: RunConfig,
    generator: torch.Generator,
) -> EpochResult:
    """One pass over the split in the order, with the augmentation, that `generator` (on the CPU) gives.

    Dropout draws from torch's global generator, which the caller seeds.
    """
    module.train()
    order = torch.randperm(len(split), generator=generator).to(split.labels.device)
    total_loss = torch.zeros((), device=order.device)
    total_correct = torch.zeros((), dtype=torch.long, device=order.device)
    num_images = 0
    for indices in order.split(config.batch_size):
        if len(indices) == 1:
            continue  # batch norm needs two images
        images = augment(split.images[indices], config, generator)
        labels = split.labels[indices]
        logits = module(normalize(images, preprocessing))
        loss = F.cross_entropy(logits, labels)
        penalty = sum(parameter.abs().sum() for parameter in module.parameters())
        optimizer.zero_grad(set_to_none=True)
        (loss + config.l1 * penalty).backward()
        optimizer.step()
        total_loss += loss.detach() * len(indices)
        total_correct += (logits.detach().argmax(1) == labels).sum()
        num_images += len(indices)
    return EpochResult(total_loss.item() / num_images, total_correct.item() / num_images, num_images)


def augment(
    images: UInt8[Tensor, "batch channels height width"], config: RunConfig, generator: torch.Generator
) -> UInt8[Tensor, "batch channels height width"]:
    """Each image by itself: mirrored half of the time, shifted by up to `max_shift` pixels over black."""
    batch, _, height, width = images.shape
    if config.horizontal_flip:
        flip = torch.rand(batch, generator=generator) < 0.5
        images = torch.where(flip.view(-1, 1, 1, 1).to(images.device), images.flip(3), images)
    if config.max_shift:
        shift = config.max_shift
        padded = F.pad(images, (shift,) * 4)
        offsets = torch.randint(0, 2 * shift + 1, (2, batch), generator=generator)
        rows = (offsets[0][:, None] + torch.arange(height)).to(images.device)
        columns = (offsets[1][:, None] + torch.arange(width)).to(images.device)
        sample = torch.arange(batch, device=images.device)[:, None, None]
        images = padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return images


@torch.no_grad()
def predict(
    module: GraphModule, images: UInt8[Tensor, "n channels height width"], preprocessing: Preprocessing
) -> Int64[Tensor, " n"]:
    """The likeliest class of each image, in eval mode; the module's mode is left as it was."""
    was_training = module.training
    module.eval()
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
