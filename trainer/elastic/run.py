"""What an elastic run does between two decisions: it trains a stage, writes the files of its levels, packs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch
from torch import Tensor

from trainer.config import RunConfig
from trainer.distil.answers import Answers, Teacher
from trainer.elastic.stage import Epoch, Frozen, Stage
from trainer.elastic.state import ElasticState, Settings, save
from trainer.growth.ranking import ranked
from trainer.journal.journal import RunLog, checkpoint_record, code_version
from trainer.journal.origin import Member
from trainer.journal.records import EpochRecord, FinishedRecord, LevelRecord
from trainer.loop.augment import shift_of
from trainer.loop.batches import fitted
from trainer.loop.epoch import chance_of, is_at_chance, metrics_of
from trainer.loop.seeds import seed_of
from trainer.loop.statistics import num_for_checkpoint
from trainer.loop.step import device_name
from zoo.checkpoint.descriptor import Accuracy, Cost, Descriptor, Lineage, join_devices
from zoo.checkpoint.elastic import pack
from zoo.checkpoint.file import Checkpoint, decode, digest_of, encode
from zoo.network.cost import forward_flops, num_macs, num_params
from zoo.network.families.family import Architecture
from zoo.network.placement import placements
from zoo.runtime.module import GraphModule, module_of


@dataclass(frozen=True)
class Elastic:
    """The digest of the file, and those of the ordinary files of its levels, smallest first."""

    file: str
    levels: tuple[str, ...]


class ElasticRun:
    """Moves a run's state on, and writes. All processes of a group call it alike."""

    def __init__(self, log: RunLog, settings: Settings, teacher: Member | None) -> None:
        self.log, self.settings = log, settings
        self.data, self.group = log.data, log.group
        architectures = settings.levels.architectures
        self.stages = [(one,) for one in architectures] if settings.freeze else [architectures]
        self.config = self._fitted(taught=teacher is not None)
        self.teacher = teacher
        self.answers = self._answers(teacher) if teacher is not None else None

    # --- training ---------------------------------------------------------------------------------------------

    def train(self, state: ElasticState) -> None:
        """A stage to its end, or from where it was stopped; then the files of its levels."""
        config, log, settings, architectures = self.config, self.log, self.settings, self.stages[state.stage]
        stage = Stage(
            state.stage,
            [one.graph() for one in architectures],
            self._start(architectures[-1]),
            config,
            self.data,
            log.device,
            self.group,
            frozen=self.frozen(state),
            answers=self.answers,
            before=state.training,
            largest_weight=settings.largest_weight,
        )
        while stage.epochs_done < config.epochs:
            epoch = stage.epoch()
            state.epoch = stage.epochs_done
            state.num_epochs += 1
            state.device_seconds += epoch.seconds * self.group.size
            state.training_flops += epoch.flops
            state.training = stage.state()
            self._record(state, architectures, epoch)
            save(log, settings, state)
        num_images = num_for_checkpoint(len(self.data.train))
        macs = sum(num_macs(one.graph()) for one in architectures)
        state.training_flops += forward_flops(macs, num_images)
        files = self._files(state, architectures, stage.finished())
        state.files = [*state.files, *files]
        state.stage, state.epoch = state.stage + 1, 0
        if len(self.stages) > 1:  # else it may be made longer
            state.training = None
        for data in files:
            log.record(checkpoint_record(digest_of(data), decode(data).descriptor))
        save(log, settings, state)

    def end(self, state: ElasticState) -> Elastic:
        """Puts the file in place; again where it was before."""
        packed, digests = pack(state.files), tuple(map(digest_of, state.files))
        if self.group.writes:
            self.log.zoo.put(packed, scratch=self.log.directory)
        if self.answers is not None and self.group.writes:
            self.answers.remove()
        validations = [decode(data).descriptor.metrics.validation for data in state.files]
        chance = chance_of(self.data.validation.labels)
        self.log.record(
            FinishedRecord(
                epoch=state.num_epochs,
                num_expansions=0,
                device_seconds=state.device_seconds,
                training_flops=state.training_flops,
                checkpoints=digests,
                at_chance=tuple(
                    digest
                    for digest, validation in zip(digests, validations, strict=True)
                    if is_at_chance(validation, chance, self.config.chance_errors)
                ),
            )
        )
        return Elastic(digest_of(packed), digests)

    def _record(self, state: ElasticState, architectures: tuple[Architecture, ...], epoch: Epoch) -> None:
        sizes = [num_params(one.graph()) for one in architectures]
        accuracies = [one.accuracy for one in epoch.validations]
        self.log.record(
            EpochRecord(
                epoch=state.num_epochs,
                epochs=self.config.epochs * len(self.stages),
                num_epochs=state.num_epochs,
                branch_epoch=0,
                branch_epochs=0,
                loss=epoch.result.loss,
                accuracy=epoch.result.accuracy,
                val_accuracy=accuracies[-1],
                params=sizes[-1],
                learning_rate=epoch.learning_rate,
                seconds=epoch.seconds,
                levels=tuple(LevelRecord(*level) for level in zip(sizes, accuracies, strict=True)),
            )
        )

    def _fitted(self, *, taught: bool) -> RunConfig:
        """With batches that fit the data. All levels see the same images, shifted as the largest network has them."""
        config = fitted(self.log.config, len(self.data.train))
        if taught:
            # Whole images, as `trainer.distil.lessons` shows them.
            config = replace(config, cutout=None, mixup=None)
        params = num_params(self.settings.levels.architectures[-1].graph())
        return replace(config, max_shift=shift_of(config, params), full_shift_params=1)

    def _answers(self, teacher: Member) -> Answers:
        device = self.log.device
        answering = Teacher(teacher.digest, teacher.module(device), teacher.descriptor.preprocessing)
        folder = self.log.directory / "answers"
        return Answers(folder, [answering], self.data.train.to(device), self.config)

    def _start(self, architecture: Architecture) -> Mapping[str, Tensor]:
        """What a level begins with: its part of the checkpoint, or of a largest network with random weights."""
        origin, largest = self.settings.levels.origin, self.settings.levels.architectures[-1]
        if origin is None:
            torch.manual_seed(seed_of(self.config, 0, "start"))
            graph = largest.graph()
            tensors = GraphModule(graph).tensors()
        else:
            graph, tensors = origin.descriptor.architecture.graph(), origin.checkpoint.tensors
            tensors = ranked(graph, tensors) if self.settings.ranked else tensors
        places = placements(architecture.graph(), graph)
        return {
            name: torch.from_numpy(tensors[name][np.ix_(*place)]).to(self.log.device) for name, place in places.items()
        }

    def frozen(self, state: ElasticState) -> Frozen | None:
        """The level before, of which a stage trains nothing."""
        if not state.files:
            return None
        before = decode(state.files[-1])
        state_dict = module_of(before).state_dict()
        return Frozen(before.descriptor.architecture.graph(), state_dict)

    # --- files ------------------------------------------------------------------------------------------------

    def _files(
        self,
        state: ElasticState,
        architectures: tuple[Architecture, ...],
        trained: list[tuple[GraphModule, Accuracy]],
    ) -> list[bytes]:
        """Of the levels of a stage, smallest first. The test split is read here, once for each level."""
        data, created = self.data, datetime.now(UTC)
        test = data.test.to(self.log.device)
        files: list[bytes] = []
        for architecture, (module, validation) in reversed(list(zip(architectures, trained, strict=True))):
            # The larger ones are there already: each level has learned from the next.
            learned_from = digest_of(files[0]) if files and self.config.distil_weight else None
            if not files and self.teacher is not None:
                learned_from = self.teacher.digest
            metrics = metrics_of(module, test, data.preprocessing, len(data.classes), validation)
            descriptor = Descriptor(
                dataset=data.record(),
                architecture=architecture,
                preprocessing=data.preprocessing,
                classes=data.classes,
                lineage=self._lineage(state, learned_from),
                metrics=metrics,
                cost=self._cost(state),
                created_at=created,
                license=self._license(),
            )
            files.insert(0, self.group.shared(encode(Checkpoint(descriptor, module.tensors()))))
        return files

    def _license(self) -> str | None:
        """As this run was told, else that of the checkpoint that it begins with."""
        origin = self.settings.levels.origin
        return self.config.license or (None if origin is None else origin.descriptor.license)

    def _lineage(self, state: ElasticState, learned_from: str | None) -> Lineage:
        origin, config = self.settings.levels.origin, self.config
        return Lineage(
            run=config.name,
            seed=config.seed,
            parent=None if origin is None else origin.digest,
            num_expansions=0,
            expansions=(),
            epoch=state.num_epochs,
            distilled_from=learned_from,
            code_version=code_version(),
        )

    def _cost(self, state: ElasticState) -> Cost:
        """Of the run so far, all its levels together, and of the checkpoint that it began with."""
        origin = self.settings.levels.origin
        before = origin.descriptor.cost if origin is not None else None
        return Cost(
            epochs=state.num_epochs + (before.epochs if before else 0),
            device=join_devices(before.device if before else "", device_name(self.log.device)),
            device_seconds=round(state.device_seconds + (before.device_seconds if before else 0), 3),
            training_flops=state.training_flops + (before.training_flops if before else 0),
        )
