from __future__ import annotations

from dataclasses import replace

import pytest

from trainer.loop.batches import fitted
from trainer.recipes.runs import grow, paper


def test_forty_five_thousand_images_have_the_runs_own() -> None:
    assert fitted(grow(), 45_000) == grow()
    assert fitted(paper(), 45_000) == paper()


@pytest.mark.parametrize(
    ("num_train", "batch_size"), [(5_000, 512), (4_096, 512), (4_095, 256), (450, 32), (405, 32), (90, 8), (3, 8)]
)
def test_an_epoch_of_few_images_is_eight_steps_or_more(num_train: int, batch_size: int) -> None:
    """As long as batch norm has eight images."""
    assert fitted(grow(), num_train).batch_size == batch_size
    assert num_train // batch_size >= 8 or batch_size == 8 or num_train > 8 * 512


def test_a_batch_size_that_a_person_chose_stays() -> None:
    assert fitted(replace(grow(), batch_size=300, batch_share=None), 400).batch_size == 300


@pytest.mark.parametrize(("epochs", "warmup_steps"), [(540, 100), (30, 18), (1, 0)])
def test_the_rate_rises_over_a_small_part_of_the_steps_at_most(epochs: int, warmup_steps: int) -> None:
    """Batches of 32 of 405 images are 12 an epoch."""
    assert fitted(replace(grow(), epochs=epochs), 405).warmup_steps == warmup_steps
