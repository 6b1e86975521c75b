"""Random changes to training images that leave their class alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from trainer.config import RunConfig


@dataclass(frozen=True)
class Augmentation:
    """What happens to each of n images: mirrored or not, shifted by so many pixels over black, a part blacked out."""

    mirrored: Bool[Tensor, " n"] | None
    # Rows and columns into the image padded by `max_shift` on all sides.
    offsets: Int64[Tensor, "2 n"]
    max_shift: int
    # Where the black part lies, vertically and horizontally, from 0 for its last line in the image to 1 for its first.
    places: Float[Tensor, "2 n"]
    # Its sides, as a part of the image's; 0: none is black.
    cutout: float

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
        if self.cutout:
            rows, columns = (
                self._covered(size, where) for size, where in zip(images.shape[2:], self.places[:, place], strict=True)
            )
            images = images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)
        return images

    def _covered(self, size: int, places: Float[Tensor, " batch"]) -> Bool[Tensor, "batch size"]:
        """The lines, of so many, that the black part covers; at the border it is cut off."""
        side = round(self.cutout * size)
        first = (places * (size + side - 1)).long()[:, None] - (side - 1)
        lines = torch.arange(size, device=places.device)
        return (first <= lines) & (lines < first + side)


def draw(
    num_images: int,
    mirror: bool,
    max_shift: int,
    generator: torch.Generator,
    device: torch.device,
    *,
    cutout: float = 0.0,
) -> Augmentation:
    """For a whole epoch at once, on the CPU, where `generator` is: every device sees the same images."""
    mirrored = torch.rand(num_images, generator=generator) < 0.5 if mirror else None
    offsets = torch.randint(0, 2 * max_shift + 1, (2, num_images), generator=generator)
    places = torch.rand(2, num_images, generator=generator)
    return Augmentation(
        mirrored.to(device) if mirrored is not None else None,
        offsets.to(device),
        max_shift,
        places.to(device),
        cutout,
    )


def shift_of(config: RunConfig, num_params: int) -> int:
    """Pixels by which a network of this size has its images shifted, see `RunConfig.full_shift_params`."""
    return round(config.max_shift * min(1.0, num_params / config.full_shift_params) ** 0.5)


def cutout_of(config: RunConfig, num_params: int) -> float:
    """Sides of the part that is black for a network of this size, as a part of the image's; 0: none is."""
    return config.cutout.part if config.cutout is not None and num_params >= config.cutout.from_params else 0.0
