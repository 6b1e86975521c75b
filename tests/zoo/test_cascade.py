from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.choosing.cascade import Calibration, Candidate, Cascade, Stage, answered_by, margins, search


@st.composite
def some_candidates(draw: st.DrawFn) -> list[Candidate]:
    """Larger ones tend to be right more often, and every one to be right where it is sure."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_images = draw(st.integers(2, 200))
    candidates = []
    for index in range(draw(st.integers(1, 4))):
        sure = rng.random(num_images, dtype=np.float32)
        correct = rng.random(num_images) < 0.5 * sure + 0.1 * index + 0.1
        candidates.append(Candidate(f"{index}", 10 ** (index + 1), float(rng.random()), sure, correct))
    return candidates


def promised(candidates: list[Candidate], by: np.ndarray) -> float:
    """The slow and readable way, image after image; `by`: which candidate answers it."""
    last = candidates[-1]
    if (by == len(candidates) - 1).all():
        return last.accuracy
    n = len(by) + 1
    gains = [int(candidates[who].correct[image]) - int(last.correct[image]) for image, who in enumerate(by)] + [-1]
    mean = sum(gains) / n
    variance = sum(gain**2 for gain in gains) / n - mean**2
    better = [one.correct.mean() - one.accuracy for one in candidates]  # on these images than on test images
    too_good = sum(max(0.0, better[who] - better[-1]) for who in by) / len(by)
    return last.accuracy + mean - 2 * (variance / n) ** 0.5 - too_good


def every_cascade(candidates: list[Candidate]) -> list[tuple[float, float]]:
    """(mean MACs, promised accuracy) of all cascades of up to three stages."""
    levels = {
        one.digest: np.unique(np.quantile(one.margins, np.arange(1, 20) / 20, method="higher")) for one in candidates
    }
    found = []
    for count in (1, 2, 3):
        for stages in combinations(candidates, count):
            for thresholds in product(*(levels[stage.digest] for stage in stages[:-1])):
                sure = [stage.margins >= level for stage, level in zip(stages, thresholds, strict=False)]
                by = np.argmax([*sure, np.ones(len(stages[0].margins), bool)], axis=0)
                spent = np.cumsum([stage.macs for stage in stages])[by].mean()
                found.append((float(spent), float(promised(list(stages), by))))
    return found


@settings(max_examples=30)
@given(some_candidates())
def test_no_cascade_beats_those_found(candidates: list[Candidate]) -> None:
    found = search(candidates)
    everything = every_cascade(candidates)
    for accuracy in {accuracy for _, accuracy in everything}:
        cheapest = min(macs for macs, reached in everything if reached >= accuracy - 1e-9)
        assert next(one.macs for one in found if one.accuracy >= accuracy - 1e-9) == pytest.approx(cheapest)


@settings(max_examples=30)
@given(some_candidates())
def test_cascades_ascend_and_cost_what_they_say(candidates: list[Candidate]) -> None:
    found = search(candidates)
    costs = {one.digest: one.macs for one in candidates}
    assert [one.accuracy for one in found] == sorted({one.accuracy for one in found})
    assert [one.macs for one in found] == sorted({one.macs for one in found})
    for one in found:
        by = answered_by(one, {candidate.digest: candidate.margins for candidate in candidates})
        spent = np.cumsum([costs[stage.digest] for stage in one.stages])[by].mean()
        assert one.macs == pytest.approx(spent, rel=1e-6)
        assert [stage.threshold is None for stage in one.stages] == [False] * (len(one.stages) - 1) + [True]


def test_a_checkpoint_alone_promises_its_test_accuracy() -> None:
    rng = np.random.default_rng(0)
    alone = Candidate("only", 1000, 0.8123, rng.random(50, dtype=np.float32), rng.random(50) < 0.9)
    [cascade] = search([alone])
    assert (cascade.accuracy, cascade.macs) == (0.8123, 1000)
    assert cascade.stages == (Stage(digest="only", threshold=None),)


def test_the_images_a_small_network_is_sure_of_are_left_to_it() -> None:
    """It is right for the half that it is sure of; the large one is always right."""
    sure = np.linspace(0, 1, 10_000, dtype=np.float32)
    small = Candidate("small", 1, 0.75, sure, (sure > 0.5) | (np.arange(10_000) % 2 == 0))
    large = Candidate("large", 100, 1.0, np.ones_like(sure), np.ones(10_000, bool))
    cheapest = next(one for one in search([small, large]) if one.accuracy >= 0.995)
    assert cheapest.macs == pytest.approx(1 + 0.5 * 100, rel=0.02)
    assert cheapest.stages[0].threshold == pytest.approx(0.5, abs=0.01)


def test_few_images_promise_little() -> None:
    """The small network was right each time that it was asked: ten times are no proof, ten thousand are."""

    def best_shared(num_images: int) -> float:
        sure = np.linspace(0, 1, num_images, dtype=np.float32)
        small = Candidate("small", 1, 0.5, sure, sure >= 0.5)
        found = search([small, Candidate("large", 100, 0.9, sure, np.ones(num_images, bool))])
        return max(one.accuracy for one in found if len(one.stages) == 2 or one.stages[0].digest == "small")

    assert best_shared(10) < 0.7
    assert 0.899 < best_shared(10_000) < 0.9


def test_what_a_stage_answers_counts_as_on_the_test_images() -> None:
    """The small network is right for all validation images, by which it was chosen, and for 60 % of the test images."""
    sure, right = np.linspace(0, 1, 10_000, dtype=np.float32), np.ones(10_000, bool)
    found = search([Candidate("small", 1, 0.6, sure, right), Candidate("large", 100, 0.9, sure, sure >= 0.1)])
    halved = next(
        one for one in found if len(one.stages) == 2 and abs(float(one.stages[0].threshold or 0) - 0.5) < 0.01
    )
    assert halved.accuracy < 0.9 - 0.5 * 0.4 + 0.01


def test_images_are_answered_by_the_first_stage_that_is_sure() -> None:
    cascade = Cascade(
        stages=(Stage(digest="a", threshold=0.5), Stage(digest="b", threshold=0.2), Stage(digest="c", threshold=None)),
        accuracy=0.8,
        macs=10,
    )
    of = {"a": np.array([0.5, 0.4, 0.4]), "b": np.array([0, 0.3, 0.1]), "c": np.array([0, 0, 0])}
    assert answered_by(cascade, {name: value.astype(np.float32) for name, value in of.items()}).tolist() == [0, 1, 2]


def test_an_image_whose_margin_is_the_threshold_is_answered() -> None:
    """The threshold goes through JSON; margins are float32, which often differ from the difference in float64."""
    probabilities = np.random.default_rng(0).dirichlet(np.ones(10), 2000).astype(np.float32)
    leads = margins(probabilities)
    for lead in leads[:200]:
        stage = Stage.model_validate_json(Stage(digest="a" * 64, threshold=float(lead)).model_dump_json())
        assert stage.is_sure(leads).tolist() == (leads >= lead).tolist()


def test_the_margin_is_between_the_two_likeliest_classes() -> None:
    probabilities = np.array([[0.1, 0.7, 0.2], [0.4, 0.4, 0.2], [0, 0, 1]], dtype=np.float32)
    assert margins(probabilities) == pytest.approx([0.5, 0.0, 1.0])


def test_a_calibration_goes_through_json() -> None:
    calibration = Calibration(
        dataset="digits",
        num_images=7,
        cascades=(
            Cascade(
                stages=(Stage(digest="a", threshold=0.1), Stage(digest="b", threshold=None)), accuracy=0.9, macs=1.5
            ),
        ),
    )
    assert Calibration.model_validate_json(calibration.model_dump_json()) == calibration
