"""A teacher's answers, computed once: every student of a pass is shown the same augmented images.

    <folder>/<key>-<number>.npy     float16 (images, classes): logits for the images of one augmented epoch

Teacher passes used to be most of what teaching a small network costs; so each is made once and kept, 0.9 MB for an
epoch of CIFAR-10. Epochs come in pairs, the second of which shows the mirror images of the first. An image and its
mirror image have one answer, the mean of both, at no further cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.config import RunConfig
from trainer.data.datasets import Split
from trainer.journal import saved
from trainer.loop.augment import Augmentation, draw, zoom_of
from trainer.loop.epoch import Lesson
from trainer.loop.seeds import seed_of
from trainer.loop.step import low_precision, pays_to_compile
from zoo.checkpoint.descriptor import Preprocessing
from zoo.network.cost import num_macs, num_params
from zoo.runtime.module import GraphModule, normalize

# Augmented epochs that are answered; a longer pass shows them again, in another order.
NUM_EPOCHS = 40
_BATCH = 500


@dataclass(frozen=True)
class Teacher:
    """A network in eval mode, what it normalises images by, and the SHA-256 of its checkpoint."""

    digest: str
    module: GraphModule
    preprocessing: Preprocessing


class Answers:
    """Lessons for one split of images, with `cutout` of each side blacked out. Of several teachers, the mean logits.

    `given`: logits for the split's images of one more teacher, whichever way they are changed.
    """

    def __init__(
        self,
        folder: Path,
        teachers: Sequence[Teacher],
        split: Split,
        config: RunConfig,
        cutout: float = 0.0,
        given: Float[Tensor, "images classes"] | None = None,
    ) -> None:
        self._given = given
        self._folder = folder
        self._teachers = teachers
        self._split = split
        self._config = config
        self._max_shift = min(config.max_shift, min(split.images.shape[2:]) - 1)
        self._cutout = cutout
        params = [num_params(teacher.module.graph) for teacher in teachers]
        self._zoom = zoom_of(config, max(params, default=0), split.images.shape[2:])
        whose = [teacher.digest for teacher in teachers]
        shown = [config.seed, config.horizontal_flip, self._max_shift, config.padding_mode, cutout, _fingerprint(split)]
        if self._zoom < 1:  # others keep their name of before there was a choice
            shown.append(self._zoom)
        self._key = hashlib.sha256(repr([whose, shown]).encode()).hexdigest()[:16]

    def lesson(self, number: int) -> Lesson:
        """For epoch `number`, from 0; the answers are kept, and computed where they are not yet."""
        pair, is_second = divmod(number % NUM_EPOCHS, 2)
        epochs = self._pair(pair)
        if not self._teachers:
            assert self._given is not None
            return Lesson(epochs[is_second], self._given, 0)
        answers, num_answered = self._kept(pair), 0
        if answers is None:
            answers, num_answered = self._answer(epochs), len(epochs) * len(self._split)
            for index, logits in enumerate(answers):
                saved.write_array(self._path(2 * pair + index), logits)
        logits = answers[is_second]
        if self._given is not None:
            logits = logits + (self._given - logits) / (len(self._teachers) + 1)
        return Lesson(epochs[is_second], logits, num_answered)

    def remove(self) -> None:
        """Deletes these answers; those of other teachers, or to other images, stay."""
        for path in self._folder.glob(f"{self._key}-*.npy"):
            path.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._key}-{number:03}.npy"

    def _pair(self, pair: int) -> tuple[Augmentation, Augmentation]:
        """Two epochs' images: mirror images of each other where the run mirrors, else drawn apart."""
        config, device = self._config, self._split.labels.device

        def drawn(number: int) -> Augmentation:
            generator = torch.Generator().manual_seed(seed_of(config, number, "images of lessons"))
            mode, part = config.padding_mode, self._cutout
            mirror, shift = config.horizontal_flip, self._max_shift
            return draw(
                len(self._split), mirror, shift, generator, device, padding_mode=mode, cutout=part, zoom=self._zoom
            )

        first = drawn(2 * pair)
        return first, first.mirror() if config.horizontal_flip else drawn(2 * pair + 1)

    def _kept(self, pair: int) -> list[Tensor] | None:
        found = []
        for index in (0, 1):
            logits = saved.read_array(self._path(2 * pair + index))
            if logits is None:
                return None
            found.append(logits.to(self._split.labels.device))
        return found

    @torch.no_grad()
    def _answer(self, epochs: Sequence[Augmentation]) -> list[Float[Tensor, "images classes"]]:
        logits = [
            torch.stack([_logits(teacher, self._split, epoch, self._config) for teacher in self._teachers]).mean(0)
            for epoch in epochs
        ]
        if self._config.horizontal_flip:
            logits = [(logits[0] + logits[1]) / 2] * 2
        return [one.half() for one in logits]


def _logits(teacher: Teacher, split: Split, epoch: Augmentation, config: RunConfig) -> Float[Tensor, "images classes"]:
    module = teacher.module.eval().to(memory_format=torch.channels_last)
    answering: nn.Module | Callable[..., Tensor] = module
    if split.images.is_cpu and len(split) >= _BATCH and pays_to_compile(config, num_macs(module.graph), len(split)):
        torch._dynamo.reset()
        answering = torch.compile(module, dynamic=False)
    dtype = low_precision(split.images.device, config)
    with torch.autocast(split.images.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        return torch.cat(
            [
                (answering if len(images) == _BATCH else module)(images).float()
                for images in _normalized(teacher, split, epoch)
            ]
        )


def _normalized(teacher: Teacher, split: Split, epoch: Augmentation) -> Iterator[Tensor]:
    for start in range(0, len(split), _BATCH):
        place = slice(start, min(start + _BATCH, len(split)))
        images = normalize(epoch.of(split.images[place], place), teacher.preprocessing)
        yield images.contiguous(memory_format=torch.channels_last)


def _fingerprint(split: Split) -> str:
    return hashlib.sha256(split.images.cpu().contiguous().numpy().data).hexdigest()
