"""A run's state, log and checkpoint files. Saving only saves; it trains nothing.

<zoo>/checkpoints/<sha256>.safetensors     one at each expansion, one at the end
<zoo>/runs/<data set>-<run>-s<seed>/       state.pt; log.jsonl with every epoch, score and decision; data.json
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import BinaryIO, TypeVar

import torch

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.growth.recipe import Growth
from trainer.journal import data_file
from trainer.journal.origin import Origin, last_saved
from trainer.journal.records import (
    BatchesRecord,
    CandidateScore,
    ChanceRecord,
    CheckpointRecord,
    DataRecord,
    DecisionRecord,
    EpochRecord,
    FinishedRecord,
    Record,
    write,
)
from trainer.journal.state import load, save
from trainer.loop.parallel import Group
from trainer.loop.state import RunState
from trainer.loop.step import device_name
from trainer.loop.trainer import Epoch, Trainer
from zoo.checkpoint.descriptor import Accuracy, Cost, Descriptor, Lineage, Metrics, join_devices
from zoo.checkpoint.file import Checkpoint, decode, digest_of, encode, read_header
from zoo.errors import CheckpointError, NotFoundError, RunError
from zoo.network.cost import num_macs, num_params
from zoo.network.families.family import Change
from zoo.runtime.module import GraphModule
from zoo.store import locks
from zoo.store.directory import Directory

Observer = Callable[[Record], None]


def run_directory(zoo: Path, config: RunConfig, data_name: str) -> Path:
    return zoo / "runs" / f"{data_name}-{config.name}-s{config.seed}"


def lock(log: BinaryIO, directory: Path) -> None:
    """Locks the run until the log is closed or the process ends. Raises RunError where another process has it."""
    try:
        locks.lock(log, directory)
    except BlockingIOError:
        raise RunError(f"{directory}: another process is at work on this run") from None


class RunLog:
    """A run's directory and what is logged there; of a group's processes the first one writes.

    `config` is what was asked for, before batches were fitted to the data.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Data,
        zoo: Path,
        device: torch.device,
        group: Group,
        observe: Observer,
        log: BinaryIO,
    ) -> None:
        self.config = config
        self.data = data
        self.device = device
        self.group = group
        self.zoo = Directory(zoo)
        self.directory = run_directory(zoo, config, data.name)
        self.state_path = self.directory / "state.pt"
        self._observe = observe
        self._log = log
        self.data_record = {
            **data.record().model_dump(exclude={"content"}),  # the checksum below says as much
            "image shape": data.image_shape,
            "classes": data.classes,
            "checksum of the images": data.checksum(),
        }

    def record(self, record: Record) -> None:
        if self.group.writes:
            write(record, self._log)
            self._observe(record)

    def synced(self) -> int:
        """Flushes the log to disk (fsync) and returns its length in bytes, which the saved state refers to."""
        os.fsync(self._log.fileno())
        return self._log.tell()

    def rewind(self, log_bytes: int) -> None:
        """Cuts the log back to the saved state: what came after it is done and logged again."""
        if self.group.writes:
            for leftover in self.directory.glob(".*.tmp"):
                leftover.unlink()
            self._log.truncate(min(log_bytes, self._log.tell()))
            self._log.seek(0, os.SEEK_END)

    def begun(self, fitted: RunConfig) -> None:
        """A run that begins: its images, what is odd about them, and batches that fit them."""
        if self.group.writes:
            data_file.write(self.directory, self.data)
        if self.data.findings and self.group.writes:
            write(DataRecord(self.data.findings), self._log)
        asked = self.config
        if fitted != asked:
            sizes = fitted.batch_size, asked.batch_size, fitted.warmup_steps, asked.warmup_steps
            self.record(BatchesRecord(*sizes, len(self.data.train)))


AnyLog = TypeVar("AnyLog", bound=RunLog)


@contextmanager
def opened(
    kind: type[AnyLog], config: RunConfig, data: Data, zoo: Path, device: torch.device, group: Group, observe: Observer
) -> Iterator[AnyLog]:
    """The log of a run, which no other process has. Processes that do not write have one that nobody reads."""
    directory = run_directory(zoo, config, data.name)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "log.jsonl").open("ab") if group.writes else io.BytesIO() as log:
        if group.writes:
            lock(log, directory)
        yield kind(config, data, zoo, device, group, observe, log)


class Journal(RunLog):
    """A run's state, log and files."""

    # --- state ------------------------------------------------------------------------------------------------

    def load(self) -> RunState:
        """Raises RunError where it is of other settings or images."""
        return load(self.state_path, self.config, self.data_record, self.device)

    def save(self, state: RunState) -> None:
        state.saved_at, state.device = datetime.now(UTC), device_name(self.device)
        if self.group.writes:
            state.log_bytes = self.synced()
            save(self.state_path, state, self.config, self.data_record)

    def forgotten(self, origin: Origin | None) -> int:
        """Bytes of the log up to the checkpoint that a run without a state begins with.

        Raises RunError where the log tells of another one, which would be forgotten.
        """
        digest, log_bytes = last_saved(self.directory / "log.jsonl") if self.group.writes else (None, 0)
        if digest not in (None, None if origin is None else origin.digest):
            raise RunError(
                f"{self.directory} has no state.pt any more: --from its last checkpoint, {digest}, goes on with it; "
                "another --zoo or --seed is another run"
            )
        return 0 if origin is None else log_bytes

    # --- log --------------------------------------------------------------------------------------------------

    def epoch(self, state: RunState, epoch: Epoch) -> None:
        """An epoch of the trunk or of a branch."""
        self.record(
            EpochRecord(
                epoch=state.epoch,
                epochs=self.config.epochs,
                num_epochs=state.num_epochs,
                branch_epoch=epoch.branch_epoch,
                branch_epochs=epoch.branch_epochs,
                loss=epoch.result.loss,
                accuracy=epoch.result.accuracy,
                val_accuracy=epoch.validation.accuracy,
                params=num_params(state.module.graph),
                learning_rate=epoch.learning_rate,
                seconds=epoch.seconds,
            )
        )
        if epoch.branch_epoch == 0 or state.branch is not None:
            self.save(state)

    def waits(self, state: RunState, chance: float) -> None:
        """Logs that validation is at chance, so that ways to grow are not scored."""
        assert state.validation is not None
        self.record(ChanceRecord(state.epoch, state.validation.accuracy, chance))

    def decision(self, state: RunState, growth: Growth, seconds: float) -> None:
        scores = [
            CandidateScore(str(one.change), one.params_added, one.score, one.standard_error)
            for one in growth.candidates
        ]
        changes = [Change(step.kind, step.block, step.layer_kind, step.channels_added) for step in growth.steps]
        chosen = tuple(map(str, changes))
        self.record(DecisionRecord(state.epoch, growth.threshold, tuple(scores), chosen, seconds))

    def finished(self, state: RunState, trainer: Trainer) -> None:
        if not self.group.writes:  # other processes may be ahead of the one that writes
            return
        at_chance = [digest for digest in state.checkpoints if trainer.is_at_chance(self._validation_of(digest))]
        self.record(
            FinishedRecord(
                epoch=state.epoch,
                num_expansions=len(state.expansions),
                device_seconds=state.device_seconds,
                training_flops=state.training_flops,
                checkpoints=state.checkpoints,
                at_chance=tuple(at_chance),
            )
        )

    def _validation_of(self, digest: str) -> Accuracy | None:
        """Of a file that is still there."""
        try:
            return read_header(self.zoo.path(digest)).descriptor.metrics.validation
        except (CheckpointError, NotFoundError, FileNotFoundError):
            return None

    # --- files ------------------------------------------------------------------------------------------------

    def take(self, origin: Origin, state: RunState) -> None:
        """The checkpoint that the run begins with goes into the zoo and, unless it is there, the log."""
        if self.group.writes:
            self.zoo.put(origin.content, scratch=self.directory)
            if state.log_bytes == 0:
                write(checkpoint_record(origin.digest, origin.descriptor), self._log)

    def checkpoint(self, state: RunState, content: bytes) -> None:
        """Writes a checkpoint of this epoch.

        The state has its content before the file is there, so that a run that is killed in between neither anneals
        again nor writes a second file.
        """
        if state.finished_branch is None:
            state.finished_branch = content
            self.save(state)
        if self.group.writes:
            self.zoo.put(content, scratch=self.directory)
        state.checkpoints = (*state.checkpoints, digest_of(content))
        state.checkpoint_epoch = state.epoch
        self.record(checkpoint_record(state.checkpoints[-1], decode(content).descriptor))


def content_of(
    state: RunState, module: GraphModule, metrics: Metrics, anneal_epochs: int, config: RunConfig, data: Data
) -> bytes:
    """The file of a checkpoint: the module's weights, and how they came to be."""
    assert state.saved_at is not None
    descriptor = Descriptor(
        dataset=data.record(),
        architecture=state.architecture,
        preprocessing=data.preprocessing,
        classes=data.classes,
        lineage=Lineage(
            run=config.name,
            seed=config.seed,
            parent=state.checkpoints[-1] if state.checkpoints else None,
            num_expansions=len(state.expansions),
            expansions=state.expansions,
            epoch=state.epoch,
            anneal_epochs=anneal_epochs,
            code_version=code_version(),
        ),
        metrics=metrics,
        cost=Cost(
            epochs=state.num_epochs,
            device=join_devices(state.begun.device, state.device),
            device_seconds=round(state.device_seconds, 3),
            training_flops=state.training_flops,
        ),
        created_at=state.saved_at,
        license=config.license,
    )
    return encode(Checkpoint(descriptor, module.tensors()))


def checkpoint_record(digest: str, descriptor: Descriptor) -> CheckpointRecord:
    graph = descriptor.architecture.graph()
    assert descriptor.metrics.test is not None
    return CheckpointRecord(
        epoch=descriptor.lineage.epoch,
        digest=digest,
        name=descriptor.name,
        params=num_params(graph),
        macs=num_macs(graph),
        val_accuracy=descriptor.metrics.validation.accuracy,
        test_accuracy=descriptor.metrics.test.accuracy,
    )


def code_version() -> str:
    try:
        return version("checkpoint-zoo")
    except PackageNotFoundError:  # a checkout on a machine where nothing is installed
        return "unknown"
