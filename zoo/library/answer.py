"""What networks say of images, here and now: one network, a cascade, or the most accurate that meets a deadline.

Nobody waits in a queue here, so that a deadline is about decoding and the forward pass alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np

from zoo.catalog.rows import CheckpointRow
from zoo.catalog.views import AnsweredBy, Prediction
from zoo.choosing.adaptive import Reason, because
from zoo.choosing.budget import Budget
from zoo.choosing.cascade import Stage, margins
from zoo.choosing.policy import check, check_top_k
from zoo.errors import ZooError
from zoo.library.choose import Chooser
from zoo.protocol import PredictOptions
from zoo.runtime.predictor import Predictor, Scores


def answer(
    chooser: Chooser,
    loaded: Callable[[str], Predictor],
    files: Sequence[bytes],
    reference: str | None,
    options: PredictOptions,
) -> list[list[Prediction]]:
    """Of each image file the likeliest classes, as `ZooClient.predict`; `loaded` gives the network of a digest.

    Raises ImageError, and ZooError for options that do not go together.
    """
    top_k, policy = options.pop("top_k", 5), options.pop("policy", "single")
    deadline_ms, told = options.pop("deadline_ms", None), options.pop("told", None)
    check_top_k(top_k)
    budget = Budget.model_validate(options)
    try:
        check(policy, deadline_ms, budget, is_named=reference is not None)
    except ValueError as error:
        raise ZooError(str(error)) from error
    if policy == "cascade":
        stages = chooser.cascade(budget.min_acc or 0.0, budget.dataset).cascade.stages
        return by_cascade([(stage, loaded(stage.digest)) for stage in stages], files, top_k)
    if deadline_ms is not None:
        predictor, scores, who = in_time(chooser.levels(budget), loaded, files, budget, deadline_ms)
        if told is not None:
            told(who)
        return predictor.top_k(scores, top_k)
    row = chooser.choose(budget) if reference is None else chooser.named(reference, budget)
    predictor = loaded(row.digest)
    return predictor.top_k(predictor.probabilities(predictor.decode(files)), top_k)


def by_cascade(stages: Sequence[tuple[Stage, Predictor]], files: Sequence[bytes], top_k: int) -> list[list[Prediction]]:
    """From the first stage that is sure of an image. Raises ImageError."""
    answered: dict[int, list[Prediction]] = {}
    for stage, predictor in stages:
        unsure = [index for index in range(len(files)) if index not in answered]
        if not unsure:
            break
        scores = predictor.probabilities(predictor.decode([files[index] for index in unsure]))
        ranked, sure = predictor.top_k(scores, top_k), stage.is_sure(margins(scores))
        answered |= {index: ranked[place] for place, index in enumerate(unsure) if sure[place]}
    return [answered[index] for index in range(len(files))]


def in_time(
    levels: Sequence[CheckpointRow],
    loaded: Callable[[str], Predictor],
    files: Sequence[bytes],
    budget: Budget,
    deadline_ms: float,
) -> tuple[Predictor, Scores, AnsweredBy]:
    """The most accurate of the levels that is measured to meet the deadline, else the first; its scores; and why.

    Levels are those within the budget, and ascend in accuracy and in cost. Raises ImageError.
    """
    for row in reversed(levels):
        predictor = loaded(row.digest)
        started = perf_counter()
        pixels = predictor.decode(files)
        decode_ms = 1000 * (perf_counter() - started)
        is_in_time = decode_ms + _forward_ms(predictor, len(files)) <= deadline_ms
        if is_in_time:
            break
    reason: Reason = "late" if not is_in_time else "best" if row is levels[-1] else "deadline"
    who = AnsweredBy(
        id=row.digest,
        name=row.name,
        params=row.params,
        accuracy=row.accuracy,
        because=because(budget, deadline_ms, reason),
    )
    return predictor, predictor.probabilities(pixels), who


def _forward_ms(predictor: Predictor, num_images: int) -> float:
    """Of so many images, by the second run of one: the first is not like the others."""
    image = np.zeros((1, *predictor.image_shape), np.uint8)
    predictor.probabilities(image)
    started = perf_counter()
    predictor.probabilities(image)
    return 1000 * (perf_counter() - started) * num_images
