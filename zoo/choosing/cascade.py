"""Cascades: small checkpoints first, and a larger one only for the images that they are unsure of.

A stage is sure of an image if its margin, the likeliest class's probability less the next one's, reaches a threshold.
What makes a threshold right is not what the network says of itself but how often it is right there, so thresholds
are found on validation images: `search` tries them all, in every cascade of up to three stages, and keeps those that
no other beats in both mean multiply-accumulates and accuracy.

The best of many thousand cascades owes part of that to luck with these images. Four things keep `accuracy` a promise:

- It starts from the test accuracy of the last stage, which its checkpoint states, and adds what answering early won
  or lost on the validation images. Both are of the same images, which leaves the noise of those answers that differ.
- Networks are better on the validation images, by which they were chosen, than on the test images, small ones the most.
  Where a stage is so by more than the last, that much of what it answers is taken off.
- Two standard errors of that difference are taken off, and one image more is counted, as lost: where no answer
  differed, that is not yet proof that none would.
- Thresholds are the margin's 20-quantiles and nothing finer.

Margins do as well here as those of probabilities with a fitted temperature (Guo et al. 2017, arXiv 1706.04599), and
better than the probability of the likeliest class; docs/cascades.md has the figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from zoo.choosing import pareto

MAX_STAGES = 3
_NUM_QUANTILES = 20
_STANDARD_ERRORS = 2.0

Margins = npt.NDArray[np.float32]


class Stage(BaseModel):
    """`threshold`: the least margin that is sure enough; None in the last stage, which answers in any case."""

    model_config = ConfigDict(frozen=True)

    digest: str
    threshold: float | None

    def is_sure(self, margins: Margins) -> npt.NDArray[np.bool_]:
        """(n,) -> (n,): whether it answers each image.

        In float32, as thresholds were found: they are the margins of images, and such an image must be answered where
        it was answered then.
        """
        if self.threshold is None:
            return np.full(margins.shape, True)
        found: npt.NDArray[np.bool_] = margins.astype(np.float32) >= np.float32(self.threshold)
        return found


class Cascade(BaseModel):
    """Networks that are asked in turn: each answers where it is sure, the last one always.

    `accuracy` is what it should reach on the test split, `macs` the mean cost of an image.
    """

    model_config = ConfigDict(frozen=True)

    stages: tuple[Stage, ...]
    accuracy: float
    macs: float

    def described(self, params: Mapping[str, int]) -> str:
        """Parameters of the stages, by digest, and their thresholds: 13,242 (0.05) → 39,186"""
        return " → ".join(
            f"{params[stage.digest]:,}" + ("" if stage.threshold is None else f" ({stage.threshold:.2f})")
            for stage in self.stages
        )


class Calibration(BaseModel):
    """The cascades of a data set, ascending in accuracy and in MACs; `num_images` they were found on."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    num_images: int
    cascades: tuple[Cascade, ...]


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that may be a stage: what it costs, its test accuracy, and its answers to n validation images."""

    digest: str
    macs: int
    accuracy: float
    margins: Margins
    correct: npt.NDArray[np.bool_]


def margins(probabilities: npt.NDArray[np.float32]) -> Margins:
    """(n, classes) -> (n,): by how much the likeliest class leads the next one."""
    second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
    return first - second


def search(candidates: Sequence[Candidate]) -> tuple[Cascade, ...]:
    """The cascades, among them single checkpoints, that none beats in both mean MACs and accuracy; ascending."""
    best: list[_Found] = []
    by_cost = sorted(candidates, key=lambda candidate: candidate.macs)
    for found in _Search(by_cost).cascades():
        best = pareto.front([*best, *found], cost=lambda one: one.macs, value=lambda one: one.accuracy)
    return tuple(
        Cascade(
            stages=tuple(Stage(digest=by_cost[index].digest, threshold=threshold) for index, threshold in found.stages),
            accuracy=found.accuracy,
            macs=found.macs,
        )
        for found in best
    )


def answered_by(cascade: Cascade, margins_of: Mapping[str, Margins]) -> npt.NDArray[np.int64]:
    """For each image the index of the stage that answers it, given every stage's margins by digest."""
    return np.argmax([stage.is_sure(margins_of[stage.digest]) for stage in cascade.stages], axis=0)


class _Found(NamedTuple):
    macs: float
    accuracy: float
    stages: tuple[tuple[int, float | None], ...]


class _Early(NamedTuple):
    """The stages but the last: by image 1 or 0, whether one of them answers, and whether with the right class."""

    stages: tuple[tuple[int, float | None], ...]
    # By stage, the part of the images that it answers.
    shares: tuple[float, ...]
    macs: float
    answers: npt.NDArray[np.float32]
    correct: npt.NDArray[np.float32]


class _Search:
    """Candidates are indices here, in order of cost: each next stage costs more."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._macs = np.array([candidate.macs for candidate in candidates], dtype=np.float64)
        self._accuracy = np.array([candidate.accuracy for candidate in candidates])
        # float32 counts images exactly up to 2²⁴, and multiplies fastest.
        self._correct = np.array([candidate.correct for candidate in candidates], dtype=np.float32)
        # How much better each is on the validation images than on the test images.
        self._better = self._correct.mean(1, dtype=np.float64) - self._accuracy
        shares = np.arange(1, _NUM_QUANTILES) / _NUM_QUANTILES
        self._sure = [
            [
                (float(level), (candidate.margins >= level).astype(np.float32))
                for level in np.unique(np.quantile(candidate.margins, shares, method="higher"))
            ]
            for candidate in candidates
        ]

    def cascades(self) -> Iterator[list[_Found]]:
        """All of them, in portions."""
        nobody = np.zeros(self._correct.shape[1], dtype=np.float32)
        yield from self._continued(_Early((), (), 0.0, nobody, nobody))

    def _continued(self, early: _Early) -> Iterator[list[_Found]]:
        yield self._ended(early)
        if len(early.stages) == MAX_STAGES - 1:
            return
        unsure = 1 - early.answers
        for index in range(self._next(early), len(self._macs) - 1):
            macs = early.macs + float(unsure.mean(dtype=np.float64)) * self._macs[index]
            for threshold, sure in self._sure[index]:
                answers = unsure * sure
                yield from self._continued(
                    _Early(
                        (*early.stages, (index, threshold)),
                        (*early.shares, float(answers.mean(dtype=np.float64))),
                        macs,
                        early.answers + answers,
                        early.correct + answers * self._correct[index],
                    )
                )

    def _ended(self, early: _Early) -> list[_Found]:
        """With each costlier candidate as the last stage."""
        rest = slice(self._next(early), None)
        macs = early.macs + (1 - float(early.answers.mean(dtype=np.float64))) * self._macs[rest]
        accuracy = self._accuracy[rest]
        if early.stages:
            # Of the images answered early: those right now, right with the last stage alone, and right in both.
            now, alone = float(early.correct.sum()), (self._correct[rest] @ early.answers).astype(np.float64)
            both = (self._correct[rest] @ early.correct).astype(np.float64)
            n = len(early.answers) + 1
            gain = (now - alone - 1) / n
            variance = (now + alone - 2 * both + 1) / n - gain**2
            accuracy = accuracy + gain - _STANDARD_ERRORS * np.sqrt(variance / n)
            for (index, _), share in zip(early.stages, early.shares, strict=True):
                accuracy -= share * np.maximum(0, self._better[index] - self._better[rest])
        return [
            _Found(float(cost), float(value), (*early.stages, (index, None)))
            for index, (cost, value) in enumerate(zip(macs, accuracy, strict=True), start=self._next(early))
        ]

    def _next(self, early: _Early) -> int:
        return early.stages[-1][0] + 1 if early.stages else 0
