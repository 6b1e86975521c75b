"""The story of a run: train an epoch, score the ways to grow, anneal a branch, save it, expand, go on.

    <zoo>/checkpoints/<sha256>.safetensors     one at each expansion, one at the end
    <zoo>/runs/<data set>-<run>-s<seed>/       state.pt, and log.jsonl with every epoch, score and decision

The state is saved once an epoch, before the decision that follows it, and again with a checkpoint's content before
its file is written. (Epochs of a branch that is to be thrown away are not saved: such a branch begins again.)
Everything after these points depends on the state alone (random numbers are seeded by run and epoch), so a run that is
killed anywhere takes the same decision again, and writes the same file, when it is resumed.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import BinaryIO

import torch
from pydantic import ValidationError

from trainer.config import Expansion, RunConfig
from trainer.data.datasets import Data, Split
from trainer.journal.origin import Origin, check, last_saved
from trainer.journal.records import (
    BatchesRecord,
    ChanceRecord,
    CheckpointRecord,
    DataRecord,
    DecisionRecord,
    EpochRecord,
    FinishedRecord,
    Record,
    write,
)
from trainer.journal.state import Branch, Decided, RunState, load, plateau, save
from trainer.loop import optim
from trainer.loop.batches import fitted
from trainer.loop.chance import chance_of, is_at_chance
from trainer.loop.epoch import EpochResult, WeightAverage, evaluate, mean_loss, tested, train_epoch
from trainer.loop.parallel import ALONE, Group
from trainer.loop.seeds import seed_epoch, seed_of
from trainer.loop.statistics import measure_on, num_for_checkpoint, num_for_epoch
from trainer.loop.step import TrainingStep, pays_to_compile, prepared
from trainer.recipes.proposal import Proposal, applied, can_grow, may_grow, propose, shrinks
from zoo.checkpoint.descriptor import Accuracy, Cost, Descriptor, Lineage, join_devices
from zoo.checkpoint.file import Checkpoint, decode, digest_of, encode, read_header
from zoo.errors import CheckpointError, DescriptorError, NotFoundError, RunError
from zoo.network.cost import forward_flops, num_macs, num_params, training_flops
from zoo.runtime.module import GraphModule, module_of, normalize
from zoo.store import locks
from zoo.store.directory import Directory

Observer = Callable[[Record], None]

# Training images for the second moments that new parameters begin with.
_MOMENT_SAMPLES = 512


def run_directory(zoo: Path, config: RunConfig, data_name: str) -> Path:
    return zoo / "runs" / f"{data_name}-{config.name}-s{config.seed}"


def grow(
    config: RunConfig,
    data: Data,
    zoo: Path,
    device: torch.device,
    *,
    resume: bool,
    observe: Observer,
    group: Group = ALONE,
    origin: Origin | None = None,
) -> tuple[str, ...]:
    """Runs to the end and returns the digests of the run's checkpoints, first to last.

    All processes of a group call it alike; the first writes and observes. With `resume`, goes on where the run
    stopped, or starts it: with the checkpoint `origin`, if there is one, which is looked at for a way to grow at once,
    and whose epochs, cost and lineage count on. Raises RunError where a run stands in the way, and for an origin that
    this run cannot go on from.
    """
    directory = run_directory(zoo, config, data.name)
    state_path = directory / "state.pt"
    if origin is not None and not state_path.exists():
        check(origin, config, data)
    directory.mkdir(parents=True, exist_ok=True)
    # Processes that do not write have a log that nobody reads.
    with prepared(device, config), (directory / "log.jsonl").open("ab") if group.writes else io.BytesIO() as log:
        if group.writes:
            lock(log, directory)
        if state_path.exists() and not resume:
            raise RunError(f"{directory} holds this run already: --resume goes on with it")
        run = _Run(config, data, Directory(zoo), device, group, state_path, log, observe)
        is_begun = state_path.exists()
        state = load(state_path, config, run.data_record, device) if is_begun else _start(run, origin)
        run.fit_batches(state)
        if origin is not None and origin.digest != next(iter(state.checkpoints), None):
            raise RunError(f"{directory} did not begin with {origin.name}: --resume goes on with it, without --from")
        # What was logged after the state was saved happens again now.
        if group.writes:
            for leftover in directory.glob(".*.tmp"):
                leftover.unlink()
            log.truncate(min(state.log_bytes, log.tell()))
            log.seek(0, os.SEEK_END)
            if data.findings and not is_begun:
                write(DataRecord(data.findings), log)
        if not is_begun:
            run.tell_of_batches()
        if run.is_ending(state):
            run.save_last_checkpoint(state)
        if origin is not None and not is_begun:
            run.begin_with(origin, state)
        elif state.decided is not None or (state.epoch and not run.is_over(state)):
            run.consider_growth(state)
        while not run.is_over(state):
            run.epoch(state)
            if not run.is_over(state):
                run.consider_growth(state)
        run.finish(state)
    return state.checkpoints


def lock(log: BinaryIO, directory: Path) -> None:
    """Until the log is closed or the process ends, however it ends. Raises RunError where another process has it."""
    try:
        locks.lock(log, directory)
    except BlockingIOError:
        raise RunError(f"{directory}: another process is at work on this run") from None


def _start(run: _Run, origin: Origin | None) -> RunState:
    """Raises RunError where a log tells of checkpoints that would be forgotten."""
    digest, log_bytes = last_saved(run.log_path) if run.group.writes else (None, 0)
    if digest not in (None, None if origin is None else origin.digest):
        raise RunError(
            f"{run.log_path.parent} has no state.pt any more: --from its last checkpoint, {digest}, goes on with it; "
            "another --zoo or --seed is another run"
        )
    return _start_anew(run) if origin is None else _start_from(run, origin, log_bytes)


def _start_from(run: _Run, origin: Origin, log_bytes: int) -> RunState:
    """As the run was when it wrote the checkpoint, but for the optimiser, which begins anew."""
    descriptor = origin.descriptor
    lineage, cost = descriptor.lineage, descriptor.cost
    module = module_of(origin.checkpoint).to(run.device)
    optimizer = optim.make(module, run.config)
    return RunState(
        descriptor.architecture,
        module,
        optimizer,
        plateau(optimizer, run.config),
        epoch=lineage.epoch,
        num_epochs=cost.epochs,
        validation=descriptor.metrics.validation,
        expansions=lineage.expansions,
        checkpoints=(origin.digest,),
        checkpoint_epoch=lineage.epoch,
        device_seconds=cost.device_seconds,
        training_flops=cost.training_flops,
        begun=origin.beginning(),
        log_bytes=log_bytes,
    )


def _start_anew(run: _Run) -> RunState:
    config, data = run.config, run.data
    _, height, width = data.image_shape
    try:
        architecture = config.start.network(data.image_shape, len(data.classes))
        graph = architecture.graph()
    except (ValidationError, DescriptorError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise RunError(
            f"run {config.name} has no network for {len(data.classes)} classes and images of {height}×{width}: "
            f"{reason}; --image-size resizes images"
        ) from error
    params, macs = num_params(graph), num_macs(graph)
    if not config.limits.allow(params, macs):
        raise RunError(
            f"run {config.name} starts with {params:,} parameters and {macs:,} multiply-accumulates an image: "
            "allow as many, or begin with smaller images"
        )
    torch.manual_seed(seed_of(config, 0, "start"))
    module = GraphModule(graph).to(run.device)
    optimizer = optim.make(module, config)
    return RunState(architecture, module, optimizer, plateau(optimizer, config))


class _Run:
    """What stays the same while the state moves on."""

    def __init__(
        self,
        config: RunConfig,
        data: Data,
        directory: Directory,
        device: torch.device,
        group: Group,
        state_path: Path,
        log: BinaryIO,
        observe: Observer,
    ) -> None:
        # `config` has batches that fit the data, once the state is known (`fit_batches`).
        self.asked = self.config = config
        self.data = data
        self.directory = directory
        self.device = device
        self.group = group
        self.state_path = state_path
        self.log = log
        self.observe = observe
        self.log_path = state_path.with_name("log.jsonl")
        self._step: TrainingStep | None = None
        self._goes_on_annealed = config.anneal_share > 0 and config.continue_from == "branch"
        self.train = data.train.to(device)
        self.validation = data.validation.to(device)
        self.chance = chance_of(data.validation.labels)
        self.data_record = {
            **data.record().model_dump(exclude={"content"}),  # the checksum below says as much
            "image shape": data.image_shape,
            "classes": data.classes,
            "checksum of the images": data.checksum(),
        }

    def fit_batches(self, state: RunState) -> None:
        """A run that goes on keeps those it has."""
        if state.batch_size == 0:
            fit = fitted(self.asked, len(self.train))
            state.batch_size, state.warmup_steps = fit.batch_size, fit.warmup_steps
        self.config = replace(self.asked, batch_size=state.batch_size, warmup_steps=state.warmup_steps)

    def tell_of_batches(self) -> None:
        if self.config == self.asked:
            return
        self.record(
            BatchesRecord(
                self.config.batch_size,
                self.asked.batch_size,
                self.config.warmup_steps,
                self.asked.warmup_steps,
                len(self.train),
            )
        )

    def is_over(self, state: RunState) -> bool:
        limit = self.config.limits.max_seconds
        if state.epoch >= self.config.epochs or limit is None or state.epoch == state.begun.epoch:
            return state.epoch >= self.config.epochs
        # Another epoch, and the branch of the last checkpoint after it; time goes with multiply-accumulates.
        ahead = (1 + self._branch_epochs(state, state.epoch + 1)) * self._epoch_flops(state)
        seconds = state.device_seconds - state.begun.device_seconds
        flops = state.training_flops - state.begun.training_flops
        devices = self.group.size
        return self.group.shared(seconds * (1 + ahead / flops) > limit * devices)

    def _epoch_flops(self, state: RunState) -> int:
        macs, num_images = num_macs(state.module.graph), self.step_of(state).num_trained(len(self.train))
        return training_flops(macs, num_images) + forward_flops(macs, self._images_to_measure)

    @property
    def _images_to_measure(self) -> int:
        """Of an epoch, for batch-norm statistics."""
        return num_for_epoch(len(self.train))

    def _validated(self, state: RunState, module: GraphModule, of: str, num_images: int) -> Accuracy:
        """Of the module, whose batch norms get the statistics of its weights first, of so many images."""
        generator = torch.Generator().manual_seed(seed_of(self.config, state.epoch, f"statistics of {of}"))
        measure_on(module, self.train, self.config, self.data.preprocessing, generator, num_images)
        state.training_flops += forward_flops(num_macs(module.graph), num_images)
        validation = evaluate(module, self.validation, self.data.preprocessing, len(self.data.classes))
        # An image that rounds differently on another GPU must not give it another learning rate.
        return self.group.shared(validation)

    def step_of(self, state: RunState) -> TrainingStep:
        step = self._step
        if step is None or step.module is not state.module or step.optimizer is not state.optimizer:
            step = TrainingStep(
                state.module,
                state.optimizer,
                self.config,
                self.data.preprocessing,
                self.group,
                compiled=pays_to_compile(self.config, num_macs(state.module.graph), len(self.train)),
            )
            self._step = step
        return step

    def epoch(self, state: RunState) -> None:
        """Trains and evaluates one epoch, then saves the state."""
        started = time.perf_counter()
        state.finished_branch = None
        config = self.config
        learning_rate = optim.learning_rate(state.optimizer)
        generator = seed_epoch(config, state.epoch, "batches", self.group)
        result = train_epoch(self.step_of(state), self.train, generator, learning_rates=self._warmup(state))
        self._check(result, state.epoch + 1, learning_rate)
        measured = deepcopy(state.module)
        state.validation = self._validated(state, measured, "the trunk", self._images_to_measure)
        if config.plateau and config.plateau_on == "accuracy":
            state.scheduler.step(state.validation.accuracy)
        elif config.plateau:
            loss = mean_loss(measured, self.validation, self.data.preprocessing)
            state.scheduler.step(self.group.shared(loss))
        state.epoch += 1
        state.num_epochs += 1
        self._spent(state, result, state.validation, learning_rate, started)
        self.save(state)

    def save(self, state: RunState) -> None:
        state.saved_at, state.device = datetime.now(UTC), device_name(self.device)
        if self.group.writes:
            # The state counts on this much of the log, after a power cut too.
            os.fsync(self.log.fileno())
            state.log_bytes = self.log.tell()
            save(self.state_path, state, self.asked, self.data_record)

    def _warmup(self, state: RunState) -> list[float] | None:
        """The learning rate of each step, while it still rises."""
        config, epoch = self.config, state.epoch
        steps = self.step_of(state).num_steps(len(self.train))
        if epoch * steps >= config.warmup_steps:
            return None
        numbers = range(epoch * steps + 1, (epoch + 1) * steps + 1)
        return [config.learning_rate * min(1.0, number / config.warmup_steps) for number in numbers]

    def _check(self, result: EpochResult, epoch: int, learning_rate: float) -> None:
        if not isfinite(result.loss):
            raise RunError(
                f"run {self.config.name} diverged: the loss of epoch {epoch} is {result.loss} at a learning rate "
                f"of {learning_rate}"
            )

    def _spent(
        self,
        state: RunState,
        result: EpochResult,
        validation: Accuracy,
        learning_rate: float,
        started: float,
        branch_epoch: int = 0,
        branch_epochs: int = 0,
    ) -> None:
        """Books an epoch's cost and reports it."""
        graph = state.module.graph
        state.training_flops += training_flops(num_macs(graph), result.num_images)
        seconds = time.perf_counter() - started
        state.device_seconds += seconds * self.group.size
        self.record(
            EpochRecord(
                epoch=state.epoch,
                epochs=self.config.epochs,
                num_epochs=state.num_epochs,
                branch_epoch=branch_epoch,
                branch_epochs=branch_epochs,
                loss=result.loss,
                accuracy=result.accuracy,
                val_accuracy=validation.accuracy,
                params=num_params(graph),
                learning_rate=learning_rate,
                seconds=seconds,
            )
        )

    def _branch_epochs(self, state: RunState, epoch: int) -> int:
        """Of a branch that leaves the trunk after its given epoch."""
        if not self.config.anneal_share:
            return 0
        return max(1, round(self.config.anneal_share * (epoch - state.checkpoint_epoch)))

    def anneal(self, state: RunState) -> tuple[GraphModule, Accuracy]:
        """A branch off the trunk: the learning rate ends at 0, the weights are averaged.

        The trunk goes on as the run's `continue_from` says.
        """
        config, step = self.config, self.step_of(state)
        trunk = None if self._goes_on_annealed else step.snapshot()
        learning_rate = optim.learning_rate(step.optimizer) if state.branch is None else state.branch.learning_rate
        steps = step.num_steps(len(self.train))
        epochs_done = 0 if state.branch is None else state.branch.epochs_done
        average = WeightAverage(step, config.average_decay, epochs_done * steps)
        if state.branch is not None:
            average.module.load_state_dict(state.branch.average)
        epochs = self._branch_epochs(state, state.epoch)
        rates = [learning_rate * (1 - number / (epochs * steps)) for number in range(epochs * steps)]
        for index in range(epochs_done, epochs):
            started = time.perf_counter()
            generator = seed_epoch(config, state.epoch, f"branch epoch {index}", self.group)
            of_epoch = rates[index * steps : (index + 1) * steps]
            result = train_epoch(step, self.train, generator, learning_rates=of_epoch, average=average)
            self._check(result, state.epoch, max(of_epoch))
            # A checkpoint keeps the last ones.
            num_images = num_for_checkpoint(len(self.train)) if index + 1 == epochs else self._images_to_measure
            validation = self._validated(state, average.module, f"branch epoch {index}", num_images)
            state.num_epochs += 1
            self._spent(state, result, validation, of_epoch[-1], started, index + 1, epochs)
            if trunk is None and index + 1 < epochs:
                state.branch = Branch(index + 1, learning_rate, average.module.state_dict())
                self.save(state)
        state.branch = None
        if trunk is None:
            state.module.load_state_dict(average.module.state_dict())
        else:
            step.restore(trunk)
        optim.set_learning_rate(step.optimizer, learning_rate)
        return average.module, validation

    def is_ending(self, state: RunState) -> bool:
        """Whether the branch of a last checkpoint, on which nothing is to be grown, was begun or is to be written."""
        begun = state.branch is not None or state.finished_branch is not None
        return self._goes_on_annealed and begun and state.decided is None and state.epoch > state.checkpoint_epoch

    def save_last_checkpoint(self, state: RunState) -> None:
        """A run that goes on from its branches counts it in its state, and goes on from it if it is made longer.

        Another run's state does not: if made longer, it is as if it had been longer from the start.
        """
        self.save_checkpoint(state)
        if self._goes_on_annealed:
            self.save(state)

    def finish(self, state: RunState) -> None:
        """The last checkpoint, unless an expansion took the last of the time: then it is the one before that."""
        if state.epoch > state.checkpoint_epoch:
            self.save_last_checkpoint(state)
        if not self.group.writes:
            return
        self.record(
            FinishedRecord(
                epoch=state.epoch,
                num_expansions=len(state.expansions),
                device_seconds=state.device_seconds,
                training_flops=state.training_flops,
                checkpoints=state.checkpoints,
                at_chance=tuple(digest for digest in state.checkpoints if self._is_saved_at_chance(digest)),
            )
        )

    def _is_at_chance(self, validation: Accuracy | None) -> bool:
        return validation is not None and is_at_chance(validation, self.chance, self.config.chance_errors)

    def _is_saved_at_chance(self, digest: str) -> bool:
        """Of a file that is still there, and only on the process that writes: others may be ahead of it."""
        try:
            descriptor = read_header(self.directory.path(digest)).descriptor
        except (CheckpointError, NotFoundError, FileNotFoundError):
            return False
        return self._is_at_chance(descriptor.metrics.validation)

    def consider_growth(self, state: RunState) -> None:
        """A checkpoint and an expansion, if the time for one has come and a candidate clears its threshold."""
        self.step_of(state)  # gives the network the memory format it trains in: a resumed run's scores round alike
        # At the end of a branch gradients are near 0, and scores are noise: the trunk's decide.
        is_annealed = self._goes_on_annealed and state.epoch == state.checkpoint_epoch
        if state.decided is None and (is_annealed or not may_grow(state, self.config) or self._waits(state)):
            return
        if not self._goes_on_annealed:
            proposal, seconds = self._propose(state)
            if proposal.decided is not None:
                self.save_checkpoint(state)
            self._book(state, proposal, seconds)
            if proposal.decided is not None:
                self._expand(state, proposal.decided)
            return
        if state.decided is None:
            proposal, seconds = self._propose(state)
            self._book(state, proposal, seconds)
            state.decided = proposal.decided
        if state.decided is not None:
            self.save_checkpoint(state)
            self._expand(state, state.decided)

    def _waits(self, state: RunState) -> bool:
        """Where validation is at chance, there is nothing yet that a larger network could do better; and says so."""
        waits = self._is_at_chance(state.validation)
        if waits:
            assert state.validation is not None
            self.record(ChanceRecord(state.epoch, state.validation.accuracy, self.chance))
        return waits

    def begin_with(self, origin: Origin, state: RunState) -> None:
        """Takes the checkpoint into the zoo and, unless it is there, the log; grows, if a candidate clears its
        threshold: there need not be a second one of this size."""
        if self.group.writes:
            self.directory.put(origin.content, scratch=self.state_path.parent)
            if state.log_bytes == 0:
                write(_checkpoint_record(origin.digest, origin.descriptor), self.log)
        self.step_of(state)
        if not can_grow(state, self.config) or self._waits(state):
            return
        proposal, seconds = self._propose(state, at_once=True)
        self._book(state, proposal, seconds)
        if proposal.decided is not None:
            self._expand(state, proposal.decided)

    def _propose(self, state: RunState, *, at_once: bool = False) -> tuple[Proposal, float]:
        """What to add, and the seconds that scoring took."""
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(seed_of(self.config, state.epoch, "growth"))
        sample = self._score_sample(generator, self.config.expansion.score_samples)
        images = normalize(sample.images, self.data.preprocessing)
        proposal = propose(state, self.config, images, sample.labels, generator, at_once=at_once)
        return self.group.shared(proposal), time.perf_counter() - started

    def _book(self, state: RunState, proposal: Proposal, seconds: float) -> None:
        """Books a decision's cost and reports it."""
        state.training_flops += proposal.flops
        state.device_seconds += seconds * self.group.size
        self.record(
            DecisionRecord(
                epoch=state.epoch,
                threshold=proposal.threshold,
                candidates=proposal.scores,
                chosen=tuple(map(str, proposal.changes)),
                seconds=seconds,
            )
        )

    def _expand(self, state: RunState, decided: Decided) -> None:
        """Expands the network, and saves the state."""
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(seed_of(self.config, state.epoch, "growth as decided"))
        sample = self._score_sample(generator, _MOMENT_SAMPLES)
        images = normalize(sample.images, self.data.preprocessing)
        expansion = self.config.expansion
        module, moments = applied(decided, state.module, expansion, images, sample.labels, generator)
        all_new = shrinks(expansion)
        optimizer = optim.carried(state.optimizer, state.module, module, moments, self.config, all_new=all_new)
        # Sums of gradients may round differently on each GPU.
        self.group.unify(module.state_dict().values())
        self.group.unify(values["exp_avg_sq"] for values in optimizer.state.values() if "exp_avg_sq" in values)
        scheduler = plateau(optimizer, self.config)
        scheduler.load_state_dict(state.scheduler.state_dict())
        state.architecture, state.module = decided.architecture, module
        state.optimizer, state.scheduler = optimizer, scheduler
        state.expansions = (*state.expansions, *decided.steps)
        state.decided = None
        state.training_flops += training_flops(num_macs(module.graph), len(sample))
        state.device_seconds += (time.perf_counter() - started) * self.group.size
        self.save(state)

    def _score_sample(self, generator: torch.Generator, count: int) -> Split:
        """Training images, not augmented, drawn anew for each decision or once for all."""
        expansion = self.config.expansion
        if isinstance(expansion, Expansion) and expansion.scores_same:
            generator = torch.Generator().manual_seed(seed_of(self.config, 0, "images to score"))
        indices = torch.randperm(len(self.train), generator=generator)[:count].to(self.device)
        return Split(self.train.images[indices], self.train.labels[indices])

    def finish_branch(self, state: RunState) -> bytes:
        """The content of this epoch's checkpoint: the network as it is, or the end of a branch off it."""
        if state.finished_branch is None:
            state.finished_branch = self.group.shared(encode(self._checkpoint(state)))
            self.save(state)
        return state.finished_branch

    def save_checkpoint(self, state: RunState) -> None:
        """Writes this epoch's checkpoint.

        The state has the file's content before the file is there, so that a run that is killed in between neither
        runs the branch again nor writes a second file.
        """
        content = self.finish_branch(state)
        if self.group.writes:
            self.directory.put(content, scratch=self.state_path.parent)
        state.checkpoints = (*state.checkpoints, digest_of(content))
        state.checkpoint_epoch = state.epoch
        self.record(_checkpoint_record(state.checkpoints[-1], decode(content).descriptor))

    def _checkpoint(self, state: RunState) -> Checkpoint:
        """Reads the test split, this once for this checkpoint."""
        data, config = self.data, self.config
        assert state.saved_at is not None
        module, validation = self.anneal(state) if config.anneal_share else self._measured(state)
        metrics = tested(module, data.test.to(self.device), data.preprocessing, len(data.classes), validation)
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
                anneal_epochs=self._branch_epochs(state, state.epoch),
                code_version=_code_version(),
            ),
            metrics=metrics,
            cost=Cost(
                epochs=state.num_epochs,
                device=join_devices(state.begun.device, state.device),
                device_seconds=round(state.device_seconds, 3),
                training_flops=state.training_flops,
            ),
            created_at=state.saved_at,
        )
        return Checkpoint(descriptor, module.tensors())

    def _measured(self, state: RunState) -> tuple[GraphModule, Accuracy]:
        """A copy of the trunk, which goes on as it is."""
        started = time.perf_counter()
        module = deepcopy(state.module)
        validation = self._validated(state, module, "the checkpoint", num_for_checkpoint(len(self.train)))
        state.device_seconds += (time.perf_counter() - started) * self.group.size
        return module, validation

    def record(self, record: Record) -> None:
        if not self.group.writes:
            return
        write(record, self.log)
        self.observe(record)


def _checkpoint_record(digest: str, descriptor: Descriptor) -> CheckpointRecord:
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


def _code_version() -> str:
    try:
        return version("checkpoint-zoo")
    except PackageNotFoundError:  # a checkout on a machine where nothing is installed
        return "unknown"


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"
