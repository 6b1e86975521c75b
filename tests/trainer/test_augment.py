from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.config import Cutout, Mixup, PaddingMode, Zoom
from trainer.loop.augment import cutout_of, draw, mixup_of, shift_of, zoom_of
from trainer.recipes.runs import grow

CPU = torch.device("cpu")


def drawn_images(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (count, channels, height, width), generator=random, dtype=torch.uint8)


def augmented(
    images: Tensor, mirror: bool, max_shift: int, seed: int, padding_mode: PaddingMode = "constant"
) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    drawn = draw(len(images), mirror, max_shift, random, CPU, padding_mode=padding_mode)
    return drawn.of(images, slice(0, len(images)))


def shifted(image: Tensor, down: int, right: int, padding_mode: PaddingMode = "constant") -> Tensor:
    """One image moved, by NumPy."""
    _, height, width = image.shape
    by = max(abs(down), abs(right))
    padded = np.pad(image.numpy(), ((0, 0), (by, by), (by, by)), mode=padding_mode)
    return torch.from_numpy(padded[:, by - down :, by - right :][:, :height, :width].copy())


@settings(max_examples=15)
@given(
    st.integers(1, 3),
    st.integers(3, 6),
    st.integers(3, 6),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from(get_args(PaddingMode)),
    st.integers(0, 999),
)
def test_each_image_becomes_one_of_its_own_flips_and_shifts(
    channels: int, height: int, width: int, max_shift: int, flip: bool, padding_mode: PaddingMode, seed: int
) -> None:
    images = drawn_images(5, channels, height, width, seed)
    before = images.clone()
    found = augmented(images, flip, max_shift, seed, padding_mode)
    assert torch.equal(images, before)
    assert found.dtype == torch.uint8
    shifts = range(-max_shift, max_shift + 1)
    for image, result in zip(images, found, strict=True):
        starts = [image, image.flip(2)] if flip else [image]
        possible = [shifted(one, down, right, padding_mode) for one in starts for down in shifts for right in shifts]
        assert any(torch.equal(result, one) for one in possible)


def test_every_flip_and_shift_comes_up_equally_often() -> None:
    image = drawn_images(1, 1, 4, 4)[0]
    count = 3600
    found = augmented(image.expand(count, -1, -1, -1), True, 1, seed=0)
    for one in (image, image.flip(2)):
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                times = (found == shifted(one, down, right)).flatten(1).all(1).sum().item()
                assert times == pytest.approx(count / 18, abs=60)  # 4 standard deviations


@settings(max_examples=15)
@given(st.integers(1, 3), st.integers(4, 9), st.integers(4, 9), st.integers(0, 999))
def test_a_rectangle_is_blacked_out_anywhere(channels: int, height: int, width: int, seed: int) -> None:
    """Half of the sides, less what would lie outside; every pixel is covered now and then."""
    images = drawn_images(400, channels, height, width, seed)
    drawn = draw(len(images), False, 0, torch.Generator().manual_seed(seed), CPU, cutout=0.5)
    found = drawn.of(images, slice(0, len(images)))
    black = (found == 0).all(1)
    assert torch.equal(found, images * ~black[:, None])
    rows, columns = black.any(2), black.any(1)
    assert torch.equal(black, rows[:, :, None] & columns[:, None, :])
    for lines, size in ((rows, height), (columns, width)):
        counts = lines.sum(1)
        assert set(counts.tolist()) == set(range(1, round(size / 2) + 1))
        for line, count in zip(lines.tolist(), counts.tolist(), strict=True):
            first = line.index(True)
            assert line[first : first + count] == [True] * count
            assert count == round(size / 2) or first == 0 or first + count == size
    assert black.any(0).all()
    assert not black.all(0).any()


@settings(max_examples=15)
@given(st.integers(1, 6), st.sampled_from([0.2, 0.5, 1.0, 3.0]), st.integers(0, 999))
def test_each_image_is_mixed_with_the_one_before_it(count: int, alpha: float, seed: int) -> None:
    """In pixels and classes alike, image by image; what was given is left alone."""
    images, labels = drawn_images(count, 2, 3, 4, seed), torch.arange(count) % 4
    before = images.clone()
    drawn = draw(count + 2, False, 0, torch.Generator().manual_seed(seed), CPU, mixup=alpha)
    found, classes = drawn.mixed(images, labels, slice(2, count + 2), num_classes=4)
    assert torch.equal(images, before)
    assert found.dtype == torch.uint8
    assert drawn.kept is not None
    for index, kept in enumerate(drawn.kept[2:].tolist()):
        assert 0.5 <= kept <= 1
        pixels = kept * before[index].double() + (1 - kept) * before[index - 1].double()
        assert (found[index] - pixels).abs().max() <= 0.5 + 1e-4
        wanted = torch.zeros(4)
        wanted[labels[index]] += kept
        wanted[labels[index - 1]] += 1 - kept
        torch.testing.assert_close(classes[index], wanted)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0])
def test_what_is_kept_follows_the_beta_distribution(alpha: float) -> None:
    """Its mean and variance about a half, of which the larger side says all."""
    drawn = draw(40_000, False, 0, torch.Generator().manual_seed(0), CPU, mixup=alpha)
    assert drawn.kept is not None
    assert (drawn.kept - 0.5).square().mean().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_no_augmentation_leaves_the_images() -> None:
    images = drawn_images(3, 2, 4, 5)
    assert torch.equal(augmented(images, False, 0, seed=0), images)


def slopes(count: int, height: int, width: int) -> Tensor:
    """Images whose first channel tells the row of each pixel, and whose second the column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((rows, columns)).to(torch.uint8).expand(count, -1, -1, -1).contiguous()


def test_a_part_of_the_image_fills_it() -> None:
    """Of its sides at least the half, and every area from there on as likely as another."""
    height, width, count = 80, 120, 400
    found = draw(count, False, 0, torch.Generator().manual_seed(1), CPU, zoom=0.5).of(
        slopes(count, height, width), slice(0, count)
    )
    rows, columns = found[:, 0, :, width // 2].int(), found[:, 1, height // 2].int()
    assert torch.equal(found[:, 0], rows[:, :, None].expand(-1, -1, width))
    sides = (rows[:, -1] - rows[:, 0] + 1) / height
    assert ((columns[:, -1] - columns[:, 0] + 1) / width - sides).abs().max() < 0.03
    assert 0.48 < sides.min() < 0.55
    assert 0.95 < sides.max() <= 1
    assert sides.square().mean().item() == pytest.approx((0.25 + 1) / 2, abs=0.04)
    # Anywhere in the image: the first row shown is between 0 and what the part leaves over.
    room = (1 - sides) * height
    wide = room > 10
    assert (rows[wide, 0] / room[wide]).mean().item() == pytest.approx(0.5, abs=0.06)
    assert torch.equal(rows, rows.sort(1).values)


def test_small_images_and_small_networks_are_shown_whole_images() -> None:
    config = replace(grow(), zoom=Zoom(part=0.6, from_side=64, from_params=10_000))
    sizes = ((32, 32), (63, 200), (64, 64), (96, 128))
    assert [zoom_of(config, 10_000, size) for size in sizes] == [1, 1, 0.6, 0.6]
    assert zoom_of(config, 9_999, (96, 96)) == 1
    assert zoom_of(replace(config, zoom=None), 150_000, (96, 96)) == 1


def test_the_mirror_image_of_a_part_is_of_the_same_part() -> None:
    images = drawn_images(10, 3, 64, 64)
    drawn = draw(10, True, 4, torch.Generator().manual_seed(4), CPU, padding_mode="reflect", zoom=0.6)
    everything = slice(0, 10)
    assert torch.equal(drawn.mirror().of(images, everything), drawn.of(images, everything).flip(3))


def test_a_batch_is_treated_as_in_the_whole_epoch() -> None:
    images = drawn_images(10, 3, 5, 5)
    drawn = draw(10, True, 2, torch.Generator().manual_seed(4), CPU, cutout=0.4, zoom=0.7)
    parts = [drawn.of(images[place], place) for place in (slice(0, 4), slice(4, 8), slice(8, 10))]
    assert torch.equal(torch.cat(parts), drawn.of(images, slice(0, 10)))


def test_smaller_networks_see_images_shifted_less() -> None:
    config = replace(grow(), max_shift=4, full_shift_params=40_000)
    assert [shift_of(config, params) for params in (3_000, 10_000, 20_000, 40_000, 150_000)] == [1, 2, 3, 4, 4]


def test_smaller_networks_see_whole_images() -> None:
    config = replace(grow(), cutout=Cutout(part=0.25, from_params=20_000))
    assert [cutout_of(config, params) for params in (3_000, 19_999, 20_000, 150_000)] == [0, 0, 0.25, 0.25]
    assert cutout_of(replace(config, cutout=None), 150_000) == 0


def test_images_of_smaller_networks_are_not_mixed() -> None:
    config = replace(grow(), mixup=Mixup(alpha=0.5, from_params=20_000))
    assert [mixup_of(config, params) for params in (3_000, 19_999, 20_000, 150_000)] == [0, 0, 0.5, 0.5]
    assert mixup_of(replace(config, mixup=None), 150_000) == 0
