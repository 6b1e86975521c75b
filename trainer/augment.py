"""Random changes to training images that leave their class alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from trainer.config import RunConfig


@dataclass(frozen=True)
class Augmentation:
    """What happens to each of n images: mirrored or not, shifted by so many pixels over black."""

    mirrored: Bool[Tensor, " n"] | None
    # Rows and columns into the image padded by `max_shift` on all sides.
    offsets: Int64[Tensor, "2 n"]
    max_shift: int

    def of(
        self, images: UInt8[Tensor, "batch channels height width"], place: slice
    ) -> UInt8[Tensor, "batch channels height width"]:
        """The images at that place among the n, changed."""
        if self.mirrored is not None:
            images = torch.where(self.mirrored[place].view(-1, 1, 1, 1), images.flip(3), images)
        if self.max_shift:
            batch, _, height, width = images.shape
            rows, columns = self.offsets[:, place]
            padded = F.pad(images, (self.max_shift,) * 4)
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (batch, channels, row, column, height, width)
            images = windows[torch.arange(batch, device=rows.device), :, rows, columns]
        return images


def draw(
    num_images: int, mirror: bool, max_shift: int, generator: torch.Generator, device: torch.device
) -> Augmentation:
    """For a whole epoch at once, on the CPU, where `generator` is: every device sees the same images."""
    mirrored = torch.rand(num_images, generator=generator) < 0.5 if mirror else None
    offsets = torch.randint(0, 2 * max_shift + 1, (2, num_images), generator=generator)
    return Augmentation(mirrored.to(device) if mirrored is not None else None, offsets.to(device), max_shift)


def shift_of(config: RunConfig, num_params: int) -> int:
    """Pixels by which a network of this size has its images shifted, see `RunConfig.full_shift_params`."""
    return round(config.max_shift * min(1.0, num_params / config.full_shift_params) ** 0.5)
