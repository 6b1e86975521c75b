"""The story of a run: train an epoch, score the ways to grow, save a checkpoint, expand, go on.

    <zoo>/checkpoints/<sha256>.safetensors     one at each expansion, one at the end
    <zoo>/runs/<data set>-<run>-s<seed>/       state.pt, and log.jsonl with every epoch, score and decision

The state is saved once an epoch, before the decision that follows it. Everything after that point depends on
the state alone (random numbers are seeded by run and epoch), so a run that is killed anywhere takes the same
decision again, and writes the same file, when it is resumed.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from trainer import optim
from trainer.candidates import Candidate, decide
from trainer.config import GainRule, RunConfig
from trainer.data import Data, Split
from trainer.loop import evaluate, train_epoch
from trainer.records import CheckpointRecord, DecisionRecord, EpochRecord, FinishedRecord, Record, to_dict
from trainer.state import RunState, load, plateau, save
from zoo.checkpoint import Checkpoint, encode
from zoo.cost import num_macs, num_params, training_flops
from zoo.descriptor import Cost, Descriptor, ExpansionStep, Lineage, Metrics
from zoo.errors import RunError
from zoo.families import secnn
from zoo.module import GraphModule, normalize
from zoo.storage import Directory

Observer = Callable[[Record], None]


def run_directory(zoo: Path, config: RunConfig, data_name: str) -> Path:
    return zoo / "runs" / f"{data_name}-{config.name}-s{config.seed}"


def grow(
    config: RunConfig, data: Data, zoo: Path, device: torch.device, *, resume: bool, observe: Observer
) -> tuple[str, ...]:
    """Runs to the end and returns the digests of the run's checkpoints, first to last.

    With `resume`, goes on where the run stopped, or starts it. Raises RunError where a run stands in the way.
    """
    directory = run_directory(zoo, config, data.name)
    state_path = directory / "state.pt"
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(config.cpu_threads or torch.get_num_threads())
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "log.jsonl").open("ab") as log:
        _lock(log, directory)
        if state_path.exists() and not resume:
            raise RunError(f"{directory} holds this run already: --resume goes on with it")
        for leftover in directory.glob(".*.tmp"):
            leftover.unlink()
        run = _Run(config, data, Directory(zoo), device, state_path, log, observe)
        state = load(state_path, config, run.data_record, device) if state_path.exists() else _start(run)
        # What was logged after the state was saved happens again now.
        log.truncate(min(state.log_bytes, log.tell()))
        if state.epoch:
            run.after_epoch(state)
        while state.epoch < config.epochs:
            run.epoch(state)
            run.after_epoch(state)
    return state.checkpoints


def _lock(log: BinaryIO, directory: Path) -> None:
    """Until the log is closed or the process ends, however it ends."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(f"{directory}: another process is at work on this run") from None


def _start(run: _Run) -> RunState:
    config, data = run.config, run.data
    _, height, width = data.image_shape
    smallest = 2**config.start.num_blocks
    if min(height, width) < smallest:
        raise RunError(
            f"{data.name} has images of {height}×{width}; the {config.start.num_blocks} blocks of run {config.name} "
            f"halve them each and need {smallest}×{smallest}"
        )
    architecture = secnn.start(input_shape=data.image_shape, num_classes=len(data.classes), **vars(config.start))
    torch.manual_seed(_seed(config, 0, "start"))
    module = GraphModule(architecture.graph()).to(run.device)
    optimizer = optim.adam(module, config.learning_rate)
    return RunState(architecture, module, optimizer, plateau(optimizer, config))


def _seed(config: RunConfig, epoch: int, purpose: str) -> int:
    """A seed of its own for each run seed, epoch and purpose."""
    words = [config.seed, epoch, *purpose.encode()]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


class _Run:
    """What stays the same while the state moves on."""

    def __init__(
        self,
        config: RunConfig,
        data: Data,
        directory: Directory,
        device: torch.device,
        state_path: Path,
        log: BinaryIO,
        observe: Observer,
    ) -> None:
        self.config = config
        self.data = data
        self.directory = directory
        self.device = device
        self.state_path = state_path
        self.log = log
        self.observe = observe
        self.train = data.train.to(device)
        self.validation = data.validation.to(device)
        self.data_record = {
            **data.record().model_dump(),
            "image shape": data.image_shape,
            "classes": data.classes,
            "checksum of the images": data.checksum(),
        }

    def epoch(self, state: RunState) -> None:
        """Trains and evaluates one epoch, then saves the state."""
        started = time.perf_counter()
        config, preprocessing = self.config, self.data.preprocessing
        learning_rate = state.optimizer.param_groups[0]["lr"]
        torch.manual_seed(_seed(config, state.epoch, "dropout"))
        generator = torch.Generator().manual_seed(_seed(config, state.epoch, "batches"))
        result = train_epoch(state.module, state.optimizer, self.train, preprocessing, config, generator)
        if not isfinite(result.loss):
            raise RunError(
                f"run {config.name} diverged: the loss of epoch {state.epoch + 1} is {result.loss} at a learning rate "
                f"of {learning_rate}"
            )
        state.validation = evaluate(state.module, self.validation, preprocessing, len(self.data.classes))
        state.scheduler.step(state.validation.accuracy)
        state.epoch += 1
        graph = state.module.graph
        state.training_flops += training_flops(num_macs(graph), result.num_images)
        seconds = time.perf_counter() - started
        state.device_seconds += seconds
        self.record(
            EpochRecord(
                epoch=state.epoch,
                epochs=config.epochs,
                loss=result.loss,
                accuracy=result.accuracy,
                val_accuracy=state.validation.accuracy,
                params=num_params(graph),
                learning_rate=learning_rate,
                seconds=seconds,
            )
        )
        state.saved_at, state.device = datetime.now(UTC), _device_name(self.device)
        # The state counts on this much of the log, after a power cut too.
        os.fsync(self.log.fileno())
        state.log_bytes = self.log.tell()
        save(self.state_path, state, config, self.data_record)

    def after_epoch(self, state: RunState) -> None:
        """A checkpoint if the run is over; otherwise one if the network now grows."""
        if state.epoch >= self.config.epochs:
            self.save_checkpoint(state)
            self.record(
                FinishedRecord(
                    epoch=state.epoch,
                    num_expansions=len(state.expansions),
                    device_seconds=state.device_seconds,
                    training_flops=state.training_flops,
                    checkpoints=state.checkpoints,
                )
            )
        elif state.epoch - state.last_growth_epoch >= self.config.expansion.cooldown_epochs:
            self.consider_growth(state)

    def consider_growth(self, state: RunState) -> None:
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(_seed(self.config, state.epoch, "growth"))
        sample = self._score_sample(generator)
        images = normalize(sample.images, self.data.preprocessing)
        decision = decide(state.architecture, state.module, self.config.expansion, images, sample.labels, generator)
        chosen = decision.chosen
        if chosen is not None:
            self.save_checkpoint(state)
            self._expand(state, chosen, decision.threshold)
        state.training_flops += decision.flops
        seconds = time.perf_counter() - started
        state.device_seconds += seconds
        self.record(
            DecisionRecord(
                epoch=state.epoch,
                threshold=decision.threshold,
                candidates=decision.scores,
                chosen=str(chosen.change) if chosen else None,
                seconds=seconds,
            )
        )

    def _score_sample(self, generator: torch.Generator) -> Split:
        """Training images, not augmented, drawn anew for each decision."""
        count = min(self.config.expansion.score_samples, len(self.train))
        indices = torch.randperm(len(self.train), generator=generator)[:count].to(self.device)
        return Split(self.train.images[indices], self.train.labels[indices])

    def _expand(self, state: RunState, chosen: Candidate, threshold: float) -> None:
        config = self.config
        step = ExpansionStep(
            epoch=state.epoch,
            kind=chosen.change.kind,
            block=chosen.change.block,
            layer_kind=chosen.change.layer_kind,
            channels_added=chosen.change.channels_added,
            params_before=num_params(state.module.graph),
            params_after=num_params(chosen.module.graph),
            score=chosen.score,
            threshold=threshold,
            exact=config.expansion.exact,
        )
        optimizer = optim.carried_adam(state.optimizer, state.module, chosen.module, chosen.moments, config.batch_size)
        scheduler = plateau(optimizer, config)
        scheduler.load_state_dict(state.scheduler.state_dict())
        state.architecture, state.module = chosen.architecture, chosen.module
        state.optimizer, state.scheduler = optimizer, scheduler
        state.expansions = (*state.expansions, step)

    def save_checkpoint(self, state: RunState) -> None:
        """Reads the test split, this once for this checkpoint, and stores the file."""
        data, config = self.data, self.config
        graph = state.module.graph
        assert state.validation is not None
        assert state.saved_at is not None
        test = evaluate(state.module, data.test.to(self.device), data.preprocessing, len(data.classes))
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
                code_version=_code_version(),
            ),
            metrics=Metrics(validation=state.validation, test=test),
            cost=Cost(
                epochs=state.epoch,
                device=state.device,
                device_seconds=round(state.device_seconds, 3),
                training_flops=state.training_flops,
            ),
            created_at=state.saved_at,
        )
        digest = self.directory.put(
            encode(Checkpoint(descriptor, state.module.tensors())), scratch=self.state_path.parent
        )
        state.checkpoints = (*state.checkpoints, digest)
        self.record(
            CheckpointRecord(
                epoch=state.epoch,
                digest=digest,
                name=descriptor.name,
                params=num_params(graph),
                macs=num_macs(graph),
                val_accuracy=state.validation.accuracy,
                test_accuracy=test.accuracy,
            )
        )

    def record(self, record: Record) -> None:
        self.log.write(json.dumps(to_dict(record)).encode() + b"\n")
        self.log.flush()
        self.observe(record)


def _code_version() -> str:
    try:
        return version("checkpoint-zoo")
    except PackageNotFoundError:  # a checkout on a machine where nothing is installed
        return "unknown"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def with_overrides(
    config: RunConfig, *, epochs: int | None, seed: int, tau: float | None, threshold: float | None
) -> RunConfig:
    """The named run with the command line's wishes. Raises RunError for one that its rule does not have."""
    rule = config.expansion.rule
    if tau is not None:
        if isinstance(rule, GainRule):
            raise RunError(f"run {config.name} has no ratio rule, so no --tau; it has --threshold")
        rule = replace(rule, tau=tau)
    if threshold is not None:
        if not isinstance(rule, GainRule):
            raise RunError(f"run {config.name} has no gain rule, so no --threshold; it has --tau")
        rule = replace(rule, threshold=threshold)
    expansion = replace(config.expansion, rule=rule)
    return replace(config, epochs=epochs or config.epochs, seed=seed, expansion=expansion)
