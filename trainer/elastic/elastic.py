"""The story of an elastic run: train the levels, together or one around the other; save each; pack them into one file.

The state is saved after each epoch, and with the files of levels before anything is written into the zoo. What comes
after these points depends on the state alone, so that a run which is killed anywhere comes to the same levels.
"""

from __future__ import annotations

from pathlib import Path

import torch

from trainer.config import RunConfig
from trainer.data.datasets import Data
from trainer.elastic.levels import Levels
from trainer.elastic.run import Elastic, ElasticRun
from trainer.elastic.state import ElasticState, Settings, load
from trainer.journal.journal import Observer, RunLog, opened, run_directory
from trainer.journal.origin import Member, check_images
from trainer.loop.batches import fitted
from trainer.loop.parallel import ALONE, Group
from trainer.loop.step import prepared
from zoo.errors import RunError


def train_elastic(
    config: RunConfig,
    levels: Levels,
    data: Data,
    zoo: Path,
    device: torch.device,
    *,
    resume: bool,
    observe: Observer,
    group: Group = ALONE,
    freeze: bool = False,
    rank: bool = True,
    teacher: Member | None = None,
    largest_weight: float = 1.0,
    run_of: type[ElasticRun] = ElasticRun,
) -> Elastic:
    """Trains the levels for `config.epochs` and puts one file with all of them into the zoo.

    `freeze`: the smallest first, then each around the one before, which keeps its weights bit for bit; as many epochs
    for each. Else all in each step, see `ElasticStep`, and with `resume` such a run may have more epochs than before,
    ended or not: its rate is then what a run of so many has there, and falls to 0 again. `rank`: a checkpoint that the
    levels begin with has its most important channels first. `largest_weight`: how many times as much as another level's
    the largest's loss counts, where several are trained in a step. All processes of a group call it alike; the first
    writes and observes. Raises RunError where a run stands in the way, and for a checkpoint of other images.

    >>> config = replace(runs.grow(), name="elastic-grow", epochs=150)
    >>> train_elastic(config, levels, load("cifar10"), Path("zoo"), torch.device("cuda"), resume=False, observe=print)
    """
    origin = levels.origin
    if origin is not None:
        check_images(origin.name, origin.descriptor, data)
    if teacher is not None:
        check_images(teacher.digest[:12], teacher.descriptor, data)
    settings = Settings(config, levels, freeze, rank, teacher.digest if teacher else None, largest_weight)
    is_begun = (run_directory(zoo, config, data.name) / "state.pt").exists()
    with prepared(device, config), opened(RunLog, config, data, zoo, device, group, observe) as log:
        if is_begun and not resume:
            raise RunError(f"{log.directory} holds this run already: --resume goes on with it")
        state = load(log, settings) if is_begun else ElasticState()
        log.rewind(state.log_bytes)
        run = run_of(log, settings, teacher)
        if not is_begun:
            log.begun(fitted(config, len(data.train)))
        while state.stage < len(run.stages):
            run.train(state)
        return run.end(state)
