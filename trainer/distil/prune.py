"""A smaller network cut from a checkpoint, which then teaches it: prune by channels, then distil.

The channels of each group are scored on training images and the best are kept, as many as the budget allows
(`zoo.network.levels`). What is left learns the answers of the whole network, which is not changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.distil.distil import logged
from trainer.distil.distilled import DISTILLED, Memory
from trainer.distil.lessons import Lessons, save
from trainer.growth.ranking import TAYLOR_IMAGES, Scores, l2_scores, ranked, taylor_scores
from trainer.journal.journal import run_directory
from trainer.journal.origin import Member, Origin, check_images
from trainer.journal.records import DistilledRecord, PrunedRecord, Record
from trainer.loop.batches import fitted
from trainer.loop.epoch import evaluate
from trainer.loop.seeds import seed_of
from trainer.loop.statistics import measure_on, num_for_epoch
from trainer.loop.step import prepared
from zoo.checkpoint.file import Checkpoint, digest_of, encode
from zoo.errors import DescriptorError, RunError
from zoo.network.cost import training_flops
from zoo.network.levels import NetworkBudget, levels_within
from zoo.network.placement import placements
from zoo.runtime.module import module_of, normalize
from zoo.store.directory import Directory

Ranking = Literal["taylor", "l2"]


@dataclass(frozen=True)
class _Cut:
    """`student.digest` is the digest that its file would have."""

    student: Member
    seconds: float
    flops: int


def prune(
    config: RunConfig,
    data: Data,
    zoo: Path,
    origin: Origin,
    budget: NetworkBudget,
    device: torch.device,
    observe: Callable[[Record], None],
    *,
    ranking: Ranking = "taylor",
) -> str:
    """The digest of a new checkpoint within the budget, cut from `origin` and distilled from it for the config's
    `distil_epochs`.

    The same call again goes on from the last whole epoch, and after the end gives the same digest. Raises RunError
    where `origin` is within the budget as it is, where nothing is, for other images, and where another process is at
    work on the run.
    """
    check_images(origin.name, origin.descriptor, data)
    if budget.allows(origin.descriptor.architecture):
        raise RunError(f"{origin.name} is within {budget} as it is: there is nothing to cut")
    directory, run = Directory(zoo), run_directory(zoo, config, data.name)
    config = fitted(config, len(data.train))
    with logged(run, observe) as tell, prepared(device, config):
        cut = _cut(config, data, origin, budget, ranking, device)
        memory = Memory(run / DISTILLED, config)
        there = {digest for digest, _ in directory.paths()}
        for record in memory.same():
            if record.student == cut.student.digest and record.digest in there:
                tell(record)
                return record.digest
        before = _accuracy_of(cut.student, config, data, device)
        tell(
            PrunedRecord(
                origin=origin.digest,
                student=cut.student.digest,
                params_before=origin.params,
                params=cut.student.params,
                widths_before=origin.descriptor.architecture.widths(),
                widths=cut.student.descriptor.architecture.widths(),
                val_accuracy_before=origin.val_accuracy,
                val_accuracy=before,
            )
        )
        lessons = Lessons(config, data, [origin], device, run)
        module, epochs = lessons.teach(cut.student, tell)
        validation = evaluate(module, data.validation.to(device), data.preprocessing, len(data.classes))
        digest = save(directory, module, validation, _costed(cut, origin), origin, data, epochs, device)
        record = DistilledRecord(
            student=cut.student.digest,
            teacher=origin.digest,
            params=cut.student.params,
            val_accuracy_before=before,
            val_accuracy=validation.accuracy,
            digest=digest,
            seconds=round(cut.seconds + sum(epoch.seconds for epoch in epochs), 3),
        )
        memory.add(record)
        tell(record)
        lessons.remove()
    return digest


def _cut(
    config: RunConfig, data: Data, origin: Origin, budget: NetworkBudget, ranking: Ranking, device: torch.device
) -> _Cut:
    """Raises RunError where no network of the family is within the budget."""
    started = time.perf_counter()
    graph, tensors = origin.descriptor.architecture.graph(), origin.checkpoint.tensors
    scores, flops = l2_scores(graph, tensors), 0
    if ranking == "taylor":
        scores, num_images = _taylor(config, data, origin, device)
        flops = training_flops(origin.macs, num_images)
    try:
        [architecture] = levels_within(origin.descriptor.architecture, [budget], [list(one) for one in scores])
    except DescriptorError as error:
        raise RunError(f"{origin.name}: {error}") from None
    best_first = ranked(graph, tensors, scores)
    places = placements(architecture.graph(), graph)
    kept = {name: best_first[name][np.ix_(*place)] for name, place in places.items()}
    lineage = origin.descriptor.lineage.model_copy(
        update={"pruned_from": origin.digest, "num_expansions": 0, "expansions": ()}
    )
    terms = config.license or origin.descriptor.license
    descriptor = origin.descriptor.model_copy(
        update={"architecture": architecture, "lineage": lineage, "license": terms}
    )
    checkpoint = Checkpoint(descriptor, kept)
    return _Cut(Member(digest_of(encode(checkpoint)), checkpoint), time.perf_counter() - started, flops)


def _taylor(config: RunConfig, data: Data, origin: Origin, device: torch.device) -> tuple[Scores, int]:
    """Scores on training images, and on how many."""
    generator = torch.Generator().manual_seed(seed_of(config, 0, "images to rank channels by"))
    indices = torch.randperm(len(data.train), generator=generator)[:TAYLOR_IMAGES]
    images = normalize(data.train.images[indices].to(device), data.preprocessing)
    module = module_of(origin.checkpoint).to(device)
    return taylor_scores(module, images, data.train.labels[indices].to(device)), len(indices)


def _accuracy_of(student: Member, config: RunConfig, data: Data, device: torch.device) -> float:
    """On validation images, of the network as it was cut, with batch-norm statistics of its own."""
    module = student.module(device)
    generator = torch.Generator().manual_seed(seed_of(config, 0, "statistics of what was cut"))
    train = data.train.to(device)
    measure_on(module, train, config, data.preprocessing, generator, num_for_epoch(len(train)))
    return evaluate(module, data.validation.to(device), data.preprocessing, len(data.classes)).accuracy


def _costed(cut: _Cut, origin: Origin) -> Member:
    """What was cut, as a child of the whole network, with the cost of ranking."""
    descriptor = cut.student.descriptor
    cost = descriptor.cost.model_copy(
        update={
            "device_seconds": descriptor.cost.device_seconds + cut.seconds,
            "training_flops": descriptor.cost.training_flops + cut.flops,
        }
    )
    checkpoint = replace(cut.student.checkpoint, descriptor=descriptor.model_copy(update={"cost": cost}))
    return Member(origin.digest, checkpoint)
