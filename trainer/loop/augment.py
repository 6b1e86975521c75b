"""Data augmentation: mirroring, shifts and cutout, which keep an image's class, and mixup of two images and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from trainer.config import PaddingMode, RunConfig


@dataclass(frozen=True)
class Augmentation:
    """What happens to each of n images: a part of it enlarged, mirrored or not, shifted by so many pixels, a part
    blacked out, and mixed with the one before it."""

    mirrored: Bool[Tensor, " n"] | None
    # Rows and columns into the image padded by `max_shift` on all sides.
    offsets: Int64[Tensor, "2 n"]
    max_shift: int
    padding_mode: PaddingMode
    # Where the black part lies, vertically and horizontally, from 0 for its last line in the image to 1 for its first.
    places: Float[Tensor, "2 n"]
    # Its sides, as a part of the image's; 0: none is black.
    cutout: float
    # How much of each image is left when it is mixed, at least a half; None: all.
    kept: Float[Tensor, " n"] | None
    # Places count from the right: what is then covered is the mirror image.
    from_right: bool = False
    # The part that is enlarged: its sides, and the first line and column of it, all as parts of the image's. None: all.
    shown: Float[Tensor, "3 n"] | None = None

    def of(
        self, images: UInt8[Tensor, "batch channels height width"], place: slice
    ) -> UInt8[Tensor, "batch channels height width"]:
        """The images at that place among the n, changed but not mixed."""
        if self.shown is not None:
            images = _enlarged(images, self.shown[:, place])
        if self.mirrored is not None:
            images = torch.where(self.mirrored[place].view(-1, 1, 1, 1), images.flip(3), images)
        if self.max_shift:
            batch, _, height, width = images.shape
            rows, columns = self.offsets[:, place]
            padded = F.pad(images, (self.max_shift,) * 4, mode=self.padding_mode)
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (batch, channels, row, column, height, width)
            images = windows[torch.arange(batch, device=rows.device), :, rows, columns]
        if self.cutout:
            rows, columns = (
                self._covered(size, where) for size, where in zip(images.shape[2:], self.places[:, place], strict=True)
            )
            if self.from_right:
                columns = columns.flip(1)
            images = images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)
        return images

    def at(self, order: Int64[Tensor, " m"]) -> Augmentation:
        """What happens to these of the n images, in that order."""
        return replace(
            self,
            mirrored=None if self.mirrored is None else self.mirrored[order],
            offsets=self.offsets[:, order],
            places=self.places[:, order],
            kept=None if self.kept is None else self.kept[order],
            shown=None if self.shown is None else self.shown[:, order],
        )

    def mirror(self) -> Augmentation:
        """Shows each image as the mirror image of what it is now. None may be mixed."""
        assert self.mirrored is not None
        assert self.kept is None
        rows, columns = self.offsets
        offsets = torch.stack((rows, 2 * self.max_shift - columns))
        return replace(self, mirrored=~self.mirrored, offsets=offsets, from_right=not self.from_right)

    def mixed(
        self,
        images: UInt8[Tensor, "batch channels height width"],
        labels: Int64[Tensor, " batch"],
        place: slice,
        num_classes: int,
    ) -> tuple[UInt8[Tensor, "batch channels height width"], Float[Tensor, "batch classes"]]:
        """Images as `of` returns them, each mixed with the one before it, the first with the last, and how much each
        class has of each: mixup (Zhang et al., arXiv 1710.09412), with a part drawn for each image."""
        assert self.kept is not None
        kept = self.kept[place]
        pixels = torch.lerp(images.roll(1, 0).float(), images.float(), kept.view(-1, 1, 1, 1))
        classes = F.one_hot(labels, num_classes).float()
        return pixels.round().to(torch.uint8), torch.lerp(classes.roll(1, 0), classes, kept.view(-1, 1))

    def _covered(self, size: int, places: Float[Tensor, " batch"]) -> Bool[Tensor, "batch size"]:
        """The lines, of so many, that the black part covers; at the border it is cut off."""
        side = round(self.cutout * size)
        first = (places * (size + side - 1)).long()[:, None] - (side - 1)
        lines = torch.arange(size, device=places.device)
        return (first <= lines) & (lines < first + side)


def _enlarged(
    images: UInt8[Tensor, "batch channels height width"], shown: Float[Tensor, "3 batch"]
) -> UInt8[Tensor, "batch channels height width"]:
    """Between pixels, in proportion to their distances."""
    height, width = images.shape[2:]
    side, *first = shown
    # The middles of the pixels to be, from -1 at an image's first edge to 1 at its last.
    rows, columns = (
        2 * (start[:, None] + side[:, None] * (torch.arange(size, device=side.device) + 0.5) / size) - 1
        for size, start in zip((height, width), first, strict=True)
    )
    grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), 3)
    found = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found.round().to(torch.uint8)


def draw(
    num_images: int,
    mirror: bool,
    max_shift: int,
    generator: torch.Generator,
    device: torch.device,
    *,
    padding_mode: PaddingMode = "constant",
    cutout: float = 0.0,
    mixup: float = 0.0,
    zoom: float = 1.0,
) -> Augmentation:
    """For a whole epoch at once, on the CPU, where `generator` is: every device sees the same images.

    What is kept of an image is drawn from Beta(mixup, mixup), or the rest is, whichever is more; 0: all is kept.
    `zoom`: sides of the smallest part that is enlarged; of larger ones each area is as likely as another. 1: none.
    """
    mirrored = torch.rand(num_images, generator=generator) < 0.5 if mirror else None
    offsets = torch.randint(0, 2 * max_shift + 1, (2, num_images), generator=generator)
    places = torch.rand(2, num_images, generator=generator)
    kept = _beta(mixup, num_images, generator) if mixup else None
    shown = _part(zoom, num_images, generator).to(device) if zoom < 1 else None
    return Augmentation(
        mirrored.to(device) if mirrored is not None else None,
        offsets.to(device),
        max_shift,
        padding_mode,
        places.to(device),
        cutout,
        torch.maximum(kept, 1 - kept).to(device) if kept is not None else None,
        shown=shown,
    )


def augmentation_of(
    config: RunConfig,
    num_params: int,
    size: Sequence[int],
    num_images: int,
    generator: torch.Generator,
    device: torch.device,
) -> Augmentation:
    """Drawn for so many images, of that height and width, as a network of this size has them changed."""
    return draw(
        num_images,
        config.horizontal_flip,
        min(shift_of(config, num_params), min(size) - 1),
        generator,
        device,
        padding_mode=config.padding_mode,
        cutout=cutout_of(config, num_params),
        mixup=mixup_of(config, num_params),
        zoom=zoom_of(config, num_params, size),
    )


def _beta(alpha: float, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
    """From Beta(alpha, alpha), by NumPy: torch's takes no generator."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, count).astype(np.float32))


def _part(zoom: float, count: int, generator: torch.Generator) -> Float[Tensor, "3 n"]:
    drawn = torch.rand(3, count, generator=generator)
    side = torch.lerp(torch.tensor(zoom**2), torch.tensor(1.0), drawn[0]).sqrt()
    return torch.stack((side, *((1 - side) * drawn[1:])))


def zoom_of(config: RunConfig, num_params: int, size: Sequence[int]) -> float:
    """Sides of the smallest part, of images of this height and width, that a network of this size is shown; 1: it is
    shown them whole."""
    zoom = config.zoom
    return zoom.part if zoom is not None and min(size) >= zoom.from_side and num_params >= zoom.from_params else 1.0


def shift_of(config: RunConfig, num_params: int) -> int:
    """Pixels by which a network of this size has its images shifted, see `RunConfig.full_shift_params`."""
    return round(config.max_shift * min(1.0, num_params / config.full_shift_params) ** 0.5)


def cutout_of(config: RunConfig, num_params: int) -> float:
    """Sides of the part that is black for a network of this size, as a part of the image's; 0: none is."""
    return config.cutout.part if config.cutout is not None and num_params >= config.cutout.from_params else 0.0


def mixup_of(config: RunConfig, num_params: int) -> float:
    """Of the Beta distribution by which images are mixed for a network of this size; 0: they are not."""
    return config.mixup.alpha if config.mixup is not None and num_params >= config.mixup.from_params else 0.0
