"""Fine-tuning a grown zoo on other images: every size of it, the largest first, which then teaches the rest.

A checkpoint of other classes gets a new head; its other weights stay. The largest learns the labels, and, where the
classes are those it knows, its own answers from before. Each smaller one learns the largest one's answers. What comes
of it goes into another zoo; parents are named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.distil.distil import checkpoint_of, descriptors_of, logged, record_of
from trainer.distil.distilled import DISTILLED, Memory
from trainer.distil.lessons import Lessons, save
from trainer.distil.pretrained import PretrainedAnswers
from trainer.journal import data_file
from trainer.journal.journal import run_directory
from trainer.journal.origin import Member, Origin, read_from
from trainer.journal.records import AdaptedRecord, Record
from trainer.loop.augment import cutout_of
from trainer.loop.batches import fitted
from trainer.loop.epoch import chance_of, evaluate, is_at_chance
from zoo.checkpoint.descriptor import PretrainedTeacher
from zoo.checkpoint.file import Checkpoint, Tensors
from zoo.errors import DescriptorError, RunError
from zoo.network.cost import num_params
from zoo.network.families.family import Architecture
from zoo.runtime.module import GraphModule, module_of
from zoo.store.directory import Directory

# The highest learning rate. To other classes all layers have further to go (waste128, docs/log.md, 2026-11-30).
RATE_OF_KNOWN_CLASSES, RATE_OF_OTHER_CLASSES = 0.02, 0.04


@dataclass(frozen=True)
class Sources:
    """What is fine-tuned, smallest first; `knows_classes`: the largest one's classes are those of the images."""

    members: tuple[Member, ...]
    knows_classes: bool


def begun_with(source: Path, zoo: Path, dataset: str | None = None) -> list[Origin]:
    """The best checkpoint of each size in the directory `source`, by validation accuracy, smallest first; or the one
    file that it is, or the one checkpoint of `zoo` whose digest begins so.

    Raises RunError where there is none, or where there are several data sets and none is named.
    """
    if not source.is_dir():
        try:
            return [checkpoint_of(str(source), zoo)]
        except RunError as error:
            raise RunError(f"{source} is no directory and no file; {error}") from None
    directory = Directory(source)
    found = descriptors_of(directory)
    names = sorted({descriptor.dataset.name for descriptor in found.values()})
    if dataset is None and len(names) > 1:
        raise RunError(f"{source} holds checkpoints of several data sets: name one of {', '.join(names)} by --dataset")
    wanted = dataset or (names[0] if names else None)
    best: dict[int, str] = {}
    for digest, descriptor in sorted(found.items(), key=lambda item: item[1].metrics.validation.accuracy):
        if descriptor.dataset.name == wanted:
            best[num_params(descriptor.architecture.graph())] = digest
    if not best:
        raise RunError(f"{source} holds no checkpoint" + (f" of data set {wanted}" if wanted else ""))
    return [read_from(directory, best[params]) for params in sorted(best)]


def as_they_take(origins: Sequence[Origin], data: Data) -> Data:
    """The images; gray ones as colour, where that is what the checkpoints take."""
    takes_colour = all(origin.descriptor.architecture.input_channels == 3 for origin in origins)
    return data.in_colour() if takes_colour and data.image_shape[0] == 1 else data


def sources(origins: Sequence[Origin], data: Data, at: Callable[[str], None] = lambda _: None) -> Sources:
    """The checkpoints, made ready for the images' classes and shape. Their validation accuracy is measured on these
    images; `at` is told of which. Raises RunError where one does not fit."""
    members = []
    for origin in origins:
        at(f"evaluating {origin.descriptor.name}")
        members.append(_adapted(origin.digest, origin.checkpoint, data))
    return Sources(tuple(members), origins[-1].descriptor.classes == data.classes)


def _adapted(digest: str, checkpoint: Checkpoint, data: Data) -> Member:
    """The same network for these images: another input size, and a new head where the classes are others."""
    descriptor = checkpoint.descriptor
    channels, height, width = data.image_shape
    if descriptor.architecture.input_channels != channels:
        kinds = {1: "gray", 3: "colour"}
        kind = kinds[descriptor.architecture.input_channels]
        raise RunError(f"{digest[:12]} takes {kind} images, and these are {kinds[channels]} ones")
    architecture = descriptor.architecture.fitted(height=height, width=width, num_classes=len(data.classes))
    tensors = _tensors(digest, architecture, checkpoint, data)
    lineage = descriptor.lineage
    if num_params(architecture.graph()) != num_params(descriptor.architecture.graph()):
        # Steps count the parameters of a network with the old head: they are the parent's, whose file has them.
        lineage = lineage.model_copy(update={"num_expansions": 0, "expansions": ()})
    update = {
        "lineage": lineage,
        "architecture": architecture,
        "classes": data.classes,
        "dataset": data.record(),
        "preprocessing": data.preprocessing,
    }
    adapted = Checkpoint(descriptor.model_copy(update=update), tensors)
    validation = evaluate(module_of(adapted), data.validation, data.preprocessing, len(data.classes))
    metrics = descriptor.metrics.model_copy(update={"validation": validation, "test": None, "confusion": None})
    return Member(digest, Checkpoint(adapted.descriptor.model_copy(update={"metrics": metrics}), tensors))


def _tensors(digest: str, architecture: Architecture, checkpoint: Checkpoint, data: Data) -> Tensors:
    """The checkpoint's, but for those of another shape and, with other classes, of the last layer: these are fresh."""
    try:
        graph = architecture.graph()
    except DescriptorError as error:
        raise RunError(f"{digest[:12]} cannot take images of {data.image_shape}: {error}") from error
    torch.manual_seed(num_params(graph))  # the same head whenever this is done again
    fresh = GraphModule(graph).tensors()
    same_classes = checkpoint.descriptor.classes == data.classes
    kept = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if tensor.shape == fresh[name].shape and (same_classes or not name.startswith("head.output."))
    }
    return {name: np.asarray(kept.get(name, tensor)) for name, tensor in fresh.items()}


def adapt(
    config: RunConfig,
    data: Data,
    found: Sources,
    zoo: Path,
    device: torch.device,
    observe: Callable[[Record], None],
    outside: PretrainedAnswers | None = None,
    at: Callable[[str], None] = lambda _: None,
) -> Iterator[str]:
    """Fine-tunes what `sources` found into the zoo, and yields the digest of each new file.

    `config.distil_epochs` each. The same call again goes on after the last whole epoch; members of which the zoo holds
    what became of them with these settings are not trained again. One that does not get better is written as it is,
    with its accuracy on these images. `outside`: a network from elsewhere teaches all of them too. Raises RunError
    where another process is at work on the run, or the loss diverges. `at` is told what takes time now.
    """
    config = fitted(config, len(data.train))
    directory, run = Directory(zoo), run_directory(zoo, config, data.name)
    *smaller, largest = (member.licensed(config.license) for member in found.members)
    with logged(run, observe) as tell:
        data_file.write(run, data)
        answers = outside.digest if outside else None
        done = _Done(directory, config, Memory(run / DISTILLED, config, answers=answers), run.parent)
        myself = largest if found.knows_classes else None
        cutout = cutout_of(config, largest.params)
        teachers = [myself] if myself else []
        lessons = Lessons(config, data, teachers, device, run, 0.0 if outside else cutout, pretrained=outside, at=at)
        teacher = _adapt(data, directory, largest, myself, lessons, done, tell, at)
        made = [teacher]
        yield teacher.digest
        lessons.remove_answers()
        lessons = Lessons(config, data, [teacher], device, run, pretrained=outside, at=at)
        for member in smaller:
            made.append(_adapt(data, directory, member, teacher, lessons, done, tell, at))
            yield made[-1].digest
        lessons.remove()
        chance = chance_of(data.validation.labels)
        poor = [
            one.digest for one in made if is_at_chance(one.descriptor.metrics.validation, chance, config.chance_errors)
        ]
        tell(AdaptedRecord(tuple(one.digest for one in made), config.distil_epochs, tuple(poor)))


@dataclass(frozen=True)
class _Done:
    """What earlier calls left in a zoo."""

    directory: Directory
    config: RunConfig
    memory: Memory
    runs: Path

    def find(
        self, member: Member, teacher: Member | None, data: Data, pretrained: PretrainedTeacher | None
    ) -> str | None:
        """What became of the member with these settings, the best of several.

        Files that no run of this zoo remembers, as of a zoo that came without its runs, need only have as many epochs.
        """
        taught_by, content = teacher.digest if teacher else None, data.content
        found = {
            digest: descriptor
            for digest, descriptor in descriptors_of(self.directory).items()
            if (descriptor.lineage.parent, descriptor.lineage.distilled_from) == (member.digest, taught_by)
            and descriptor.lineage.pretrained_teacher == pretrained
            and descriptor.dataset.content == content
            and self._is_same(digest, descriptor.cost.epochs - member.descriptor.cost.epochs)
        }
        return max(found, key=lambda each: found[each].metrics.validation.accuracy, default=None)

    def _is_same(self, digest: str, epochs: int) -> bool:
        if any(record.digest == digest for record in self.memory.same()):
            return True
        return epochs == self.config.distil_epochs and not any(
            Memory(log, self.config).knows(digest) for log in self.runs.glob(f"*/{DISTILLED}")
        )


def _adapt(
    data: Data,
    directory: Directory,
    member: Member,
    teacher: Member | None,
    lessons: Lessons,
    done: _Done,
    tell: Callable[[Record], None],
    at: Callable[[str], None],
) -> Member:
    """The member, fine-tuned; that of an earlier call, if there is one (idempotent)."""
    pretrained = lessons.pretrained.record if lessons.pretrained else None
    digest = before = done.find(member, teacher, data, pretrained)
    if digest is None:
        module, epochs = lessons.teach(member, tell)
        at("evaluating and testing")
        validation = evaluate(module, data.validation.to(lessons.device), data.preprocessing, len(data.classes))
        if validation.accuracy < member.val_accuracy:
            module, validation = member.module(lessons.device), member.descriptor.metrics.validation
        digest = save(directory, module, validation, member, teacher, data, epochs, lessons.device, pretrained)
    after = read_from(directory, digest)
    record = record_of(member.descriptor, digest, after.descriptor)
    if before is None:
        done.memory.add(record)
    tell(record)
    return after
