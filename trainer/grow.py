"""The training loop of a run: train an epoch, look for a way to grow, anneal and save a checkpoint, expand, go on.

The state is saved after each epoch, before the decision that follows it, with a checkpoint's content before its file
is written, and after each expansion. What comes after these points depends on the state alone (random numbers are
seeded by run and epoch), so a run that is killed anywhere takes the same decision again, and writes the same file, when
it is resumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.growth.recipe import Growth
from trainer.journal.journal import Journal, Observer, content_of, opened, run_directory
from trainer.journal.origin import Origin, check
from trainer.loop import optim
from trainer.loop.batches import fitted
from trainer.loop.epoch import metrics_of
from trainer.loop.parallel import ALONE, Group
from trainer.loop.state import RunState, first_network, fresh, plateau
from trainer.loop.step import prepared
from trainer.loop.trainer import Trainer
from zoo.errors import RunError
from zoo.runtime.module import module_of


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
    trainer_of: type[Trainer] = Trainer,
    at: Callable[[str], None] = lambda _: None,
) -> tuple[str, ...]:
    """Runs to the end and returns the digests of the run's checkpoints, first to last.

    All processes of a group call it alike; the first writes and observes. With `resume`, goes on where the run
    stopped, or starts it: with the checkpoint `origin`, if there is one, which is looked at for a way to grow at once,
    and whose epochs, cost and lineage count on. Raises RunError where a run stands in the way, and for an origin that
    this run cannot go on from. `at` is told what takes time now.

    >>> grow(runs.digits(), load("digits"), Path("zoo"), torch.device("cpu"), resume=False, observe=print)
    """
    is_begun = (run_directory(zoo, config, data.name) / "state.pt").exists()
    if origin is not None and not is_begun:
        check(origin, config, data)
    with prepared(device, config), opened(Journal, config, data, zoo, device, group, observe) as journal:
        if is_begun and not resume:
            raise RunError(f"{journal.directory} holds this run already: --resume goes on with it")
        state = journal.load() if is_begun else _start(journal, origin)
        if origin is not None and origin.digest != next(iter(state.checkpoints), None):
            raise RunError(
                f"{journal.directory} did not begin with {origin.name}: --resume goes on with it, without --from"
            )
        trainer = trainer_of(_fitted(config, state, len(data.train)), data, device, group, at)
        journal.rewind(state.log_bytes)
        if not is_begun:
            journal.begun(trainer.config)
            if origin is not None:
                journal.take(origin, state)
                if growth := _look(trainer, journal, state, at_once=True):
                    trainer.expand(state, growth)
                    journal.save(state)
        if _is_ending(trainer, state):
            _end(trainer, journal, state)
        while True:
            if state.growth is None and state.is_between_checkpoints and not trainer.is_over(state):
                state.growth = _look(trainer, journal, state)
            if state.growth is not None:
                _checkpoint(trainer, journal, state)
                trainer.expand(state, state.growth)
                journal.save(state)
            if trainer.is_over(state):
                break
            journal.epoch(state, trainer.epoch(state))
        # Unless an expansion took the last of the time: then the checkpoint before it is the last one.
        if state.is_between_checkpoints:
            _end(trainer, journal, state)
        journal.finished(state, trainer)
    return state.checkpoints


def _look(trainer: Trainer, journal: Journal, state: RunState, *, at_once: bool = False) -> Growth | None:
    """The growth that the recipe proposes, if it is due and worth it."""
    look = trainer.look(state, at_once=at_once)
    if not trainer.config.recipe.is_due(look):
        return None
    if trainer.is_at_chance(state.validation):
        journal.waits(state, trainer.chance)
        return None
    growth, seconds = trainer.propose(state, look)
    if growth is None:
        return None
    journal.decision(state, growth, seconds)
    return growth if growth.steps else None


def _checkpoint(trainer: Trainer, journal: Journal, state: RunState) -> None:
    """Anneals what there is, and writes it; the test split is read, this once for this checkpoint."""
    content = state.finished_branch
    if content is None:
        anneal_epochs = trainer.branch_epochs(state, state.epoch)
        module, validation = trainer.anneal(state, journal.epoch)
        data = trainer.data
        trainer.at("testing")
        metrics = metrics_of(module, data.test.to(trainer.device), data.preprocessing, len(data.classes), validation)
        content = trainer.group.shared(content_of(state, module, metrics, anneal_epochs, trainer.config, data))
    journal.checkpoint(state, content)


def _is_ending(trainer: Trainer, state: RunState) -> bool:
    """Whether the branch of a last checkpoint, after which nothing is to be grown, was begun or is to be written."""
    was_begun = state.branch is not None or state.finished_branch is not None
    return trainer.config.anneal_share > 0 and was_begun and state.growth is None and state.is_between_checkpoints


def _end(trainer: Trainer, journal: Journal, state: RunState) -> None:
    """The last checkpoint. A run that goes on from its branches counts it in its state, and goes on from it if it is
    made longer; another, if made longer, is as if it had been longer from the start."""
    _checkpoint(trainer, journal, state)
    if trainer.config.anneal_share:
        journal.save(state)


def _fitted(config: RunConfig, state: RunState, num_train: int) -> RunConfig:
    """With batches that fit the data; a run that goes on keeps those it has."""
    if state.batch_size == 0:
        fit = fitted(config, num_train)
        state.batch_size, state.warmup_steps = fit.batch_size, fit.warmup_steps
    return replace(config, batch_size=state.batch_size, warmup_steps=state.warmup_steps)


def _start(journal: Journal, origin: Origin | None) -> RunState:
    """Raises RunError where a log tells of checkpoints that would be forgotten."""
    log_bytes = journal.forgotten(origin)
    if origin is None:
        config = journal.config
        return fresh(config, first_network(config, journal.data), journal.device)
    descriptor = origin.descriptor
    lineage, cost = descriptor.lineage, descriptor.cost
    module = module_of(origin.checkpoint).to(journal.device)
    # As the run was when it wrote the checkpoint, but for the optimiser, which begins anew.
    optimizer = optim.make(module, journal.config)
    return RunState(
        descriptor.architecture,
        module,
        optimizer,
        plateau(optimizer, journal.config),
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
