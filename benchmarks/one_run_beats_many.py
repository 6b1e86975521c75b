"""Does one growth run replace training each of its networks by itself?

    python benchmarks/one_run_beats_many.py --data cifar10.tar.gz --zoo my-zoo --sizes 4 --seeds 5
    python benchmarks/one_run_beats_many.py --data cifar10.tar.gz --zoo my-zoo --sizes 2 --epochs-scale 0.05
    python benchmarks/one_run_beats_many.py --data cifar10.tar.gz --zoo my-zoo --controls score random uniform

A growth run costs what its last checkpoint's descriptor says (training, scoring, annealing on branches) and what
distilled checkpoints cost on top of their students. (Passes that made no student better are in no file, and not
counted.) Of checkpoints with one architecture the best by validation accuracy counts. Against the run stand, for N
checkpoints and on the same images, batches, augmentation, optimiser and precision:

(a) full schedule: the architecture from random weights for as many epochs as led to the checkpoint: all that the run
    had by then.
(b) shared budget: the same, for as many epochs as 1/N of the growth run's training FLOPs pay for.
(c), (d) --controls: the growth run again with random and with uniform choices of what to grow, up to the sizes of the
    zoo's checkpoints. `score` grows as the zoo's run did, which measures seconds and joules of growth on this machine.

(a) and (b) warm up as the run does, keep the learning rate of its trunk over the first half, let it fall linearly to
0 over the last half, and average the weights there as a branch does. The configuration is the named run's as it is
today, and a zoo whose branches have other lengths is refused; what its run was told on the command line is in no
checkpoint.

Of the N architectures, `--sizes` are trained, evenly chosen over log-parameters, the smallest and the largest among
them. FLOPs of all N are exact; their seconds follow from the seconds per multiply-accumulate measured for the chosen
ones, interpolated over parameters. FLOPs are those of forward, backward and scoring passes, without evaluation; the
growth run's seconds do include its evaluations.

With --limit-train or --epochs-scale below 1 the baselines are reduced: their accuracies show that the script works and
nothing else; costs are still those of the full schedule.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import log
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from from_scratch import Trained, late_decay, train
from machine import chosen_device, describe, joules_so_far, spread
from other_ladders import CHOICES

from trainer.config import RunConfig
from trainer.data import datasets
from trainer.data.datasets import Data
from trainer.grow import grow
from trainer.loop import optim
from trainer.loop.step import prepare
from trainer.recipes.ladder import Ladder
from trainer.recipes.runs import RUNS
from trainer.report.trials import Entry, Trial, hypervolume, read_trials
from zoo.checkpoint.descriptor import Cost
from zoo.errors import ZooError
from zoo.network.cost import training_flops
from zoo.runtime.module import GraphModule

# (a) and (b), and how the tables call them.
BASELINES = {"full": "(a) full schedule", "share": "(b) shared budget"}


@dataclass(frozen=True)
class Compared:
    """One checkpoint's architecture with the epochs, unreduced, that each baseline gives it, and what came of them."""

    entry: Entry
    epochs: dict[str, int]
    trained: dict[str, list[Trained]]

    @property
    def seconds_per_mac(self) -> float:
        per_image = mean(run.seconds_per_image for runs in self.trained.values() for run in runs)
        return per_image / self.entry.header.macs


@dataclass(frozen=True)
class Growth:
    """A run as it is compared: one entry for each architecture, and what all of them cost together."""

    trial: Trial
    cost: Cost

    @property
    def entries(self) -> tuple[Entry, ...]:
        return self.trial.entries


def check_branches(entries: Sequence[Entry], config: RunConfig) -> None:
    """Raises ZooError where branches are not as long as the run of that name has them today."""
    lineages = [entry.descriptor.lineage for entry in entries]
    grown = sorted((one for one in lineages if not one.distilled_from), key=lambda one: one.epoch)
    for before, lineage in zip([0, *(one.epoch for one in grown)], grown, strict=False):
        share = config.anneal_share * (lineage.epoch - before)
        expected = max(1, round(share)) if config.anneal_share else 0
        if lineage.anneal_epochs != expected:
            raise ZooError(
                f"run {lineage.run} annealed {lineage.anneal_epochs} epochs at epoch {lineage.epoch}, and would anneal "
                f"{expected} today: its cost and its baselines' schedules cannot be told from its files"
            )


def one_for_each_architecture(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    best: dict[str, Entry] = {}
    for entry in entries:
        architecture = entry.descriptor.architecture.model_dump_json()
        if architecture not in best or entry.val_accuracy > best[architecture].val_accuracy:
            best[architecture] = entry
    return tuple(best.values())


def chosen(entries: Sequence[Entry], count: int) -> list[Entry]:
    """`count` entries or fewer, nearest to even steps over log-parameters; a single one lies in the middle."""
    logs = [log(entry.params) for entry in entries]
    targets = np.linspace(logs[0], logs[-1], count) if count > 1 else [(logs[0] + logs[-1]) / 2]
    indices = {min(range(len(logs)), key=lambda index: abs(logs[index] - target)) for target in targets}
    return [entries[index] for index in sorted(indices)]


def full_epochs(entry: Entry) -> int:
    return entry.descriptor.cost.epochs


def shared_epochs(entry: Entry, growth: Growth) -> int:
    share = growth.cost.training_flops / len(growth.entries)
    return max(1, round(share / epoch_flops(entry)))


def epoch_flops(entry: Entry) -> int:
    """Of all training images that the zoo's run had."""
    return training_flops(entry.header.macs, entry.descriptor.dataset.num_train)


def baseline(entry: Entry, epochs: int, config: RunConfig, data: Data, device: torch.device) -> Trained:
    torch.manual_seed(config.seed)
    module = GraphModule(entry.descriptor.architecture.graph()).to(device)
    schedule = partial(late_decay, config.learning_rate, config.warmup_steps)
    optimizer = optim.make(module, config)
    return train(module, optimizer, config, data, entry.header.macs, epochs, schedule, average_from=0.5)


def compare(
    growth: Growth, config: RunConfig, data: Data, device: torch.device, sizes: int, seeds: int, epochs_scale: float
) -> list[Compared]:
    compared = []
    for entry in chosen(growth.entries, sizes):
        epochs = {"full": full_epochs(entry), "share": shared_epochs(entry, growth)}
        trained = {
            name: [
                baseline(entry, max(1, round(epochs_scale * count)), replace(config, seed=seed), data, device)
                for seed in range(seeds)
            ]
            for name, count in epochs.items()
        }
        compared.append(Compared(entry, epochs, trained))
        print(_line(compared[-1], growth.cost), flush=True)
    return compared


def _line(one: Compared, growth: Cost) -> str:
    entry = one.entry
    assert entry.test_accuracy is not None
    parts = [f"{entry.params:>9,}{entry.header.macs:>13,}{100 * entry.test_accuracy:>8.2f}"]
    for name, runs in one.trained.items():
        gap = 100 * (entry.test_accuracy - mean(run.test for run in runs))
        epochs = f"{runs[0].epochs}" if runs[0].epochs == one.epochs[name] else f"{runs[0].epochs}/{one.epochs[name]}"
        ratio = one.epochs[name] * epoch_flops(entry) / growth.training_flops
        parts.append(f"{epochs:>10}{spread([100 * run.test for run in runs], 2):>15}{gap:>+8.2f}{ratio:>8.1%}")
    return " |".join(parts)


def _header() -> str:
    groups = " |".join(f"{title:>41}" for title in BASELINES.values())
    columns = " |".join([f"{'epochs':>10}{'test, %':>15}{'gap':>8}{'cost':>8}"] * len(BASELINES))
    return f"{'':30} |{groups}\n{'params':>9}{'MACs':>13}{'zoo, %':>8} |{columns}"


def print_hypervolumes(compared: Sequence[Compared]) -> None:
    zoo = hypervolume((one.entry.params, one.entry.test_accuracy or 0.0) for one in compared)
    print(f"\nhypervolume over these {len(compared)} sizes: zoo {zoo:.4f}", end="")
    for name, title in BASELINES.items():
        by_seed = zip(*(one.trained[name] for one in compared), strict=True)
        volumes = [
            hypervolume((one.entry.params, run.test) for one, run in zip(compared, runs, strict=True))
            for runs in by_seed
        ]
        print(f"; {title} {spread(volumes, 4)}", end="")
    print()


def print_costs(growth: Growth, compared: Sequence[Compared], device: torch.device) -> None:
    cost = growth.cost
    params, per_mac = [one.entry.params for one in compared], [one.seconds_per_mac for one in compared]
    flops = seconds = 0.0
    for entry in growth.entries:
        flops += full_epochs(entry) * epoch_flops(entry)
        images = full_epochs(entry) * entry.descriptor.dataset.num_train
        seconds += images * entry.header.macs * float(np.interp(entry.params, params, per_mac))
    print(f"\nall {len(growth.entries)} architectures, (a) full schedule each, against the growth run:")
    print(f"    training FLOPs   {flops:.3g} / {cost.training_flops:.3g} = {flops / cost.training_flops:.2f}")
    print(
        f"    device-seconds   {seconds:,.0f} (estimated, here) / {cost.device_seconds:,.0f} ({cost.device}) "
        f"= {seconds / cost.device_seconds:.2f}"
    )
    print("    joules           growth: not in the descriptor, see --controls score; baselines trained here: ", end="")
    drawn = [run.joules for one in compared for runs in one.trained.values() for run in runs]
    measured = [joules for joules in drawn if joules is not None]
    why = "NVML does not say" if device.type == "cuda" else "no GPU"
    print(f"{sum(measured):,.0f} J" if len(measured) == len(drawn) else f"not measured ({why})")
    print("    (b) costs what the growth run costs, but for rounding to whole epochs")


def control(
    choose: str, trial: Trial, config: RunConfig, data: Data, device: torch.device, epochs: int, seeds: int
) -> None:
    """Grows again, choosing otherwise, and prints accuracy within the sizes of the zoo's checkpoints."""
    ladder = config.recipe
    if not isinstance(ladder, Ladder):
        print(f"\n{choose}: run {config.name} has no ladder, so nothing else to choose by")
        return
    sizes = tuple(sorted({entry.params for entry in trial.entries[1:]}))
    ladder = CHOICES[choose](**vars(ladder) | {"sizes": sizes or ladder.sizes})
    grown = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as zoo:
            started, joules = time.perf_counter(), joules_so_far(device)
            grow(
                replace(config, recipe=ladder, epochs=epochs, seed=seed),
                data,
                Path(zoo),
                device,
                resume=False,
                observe=lambda _: None,
            )
            seconds, drawn = time.perf_counter() - started, joules_so_far(device)
            grown += read_trials(Path(zoo))[0]
        energy = f"{drawn - joules:,.0f} J" if joules is not None and drawn is not None else "joules not measured"
        print(f"\ngrown by {choose}, seed {seed}: {seconds:,.0f} s, {energy}, {len(grown[-1].entries)} checkpoints")
    hypervolumes = spread([other.hypervolume() for other in grown], 4)
    print(f"hypervolume {hypervolumes}; the zoo's {trial.hypervolume():.4f}")
    print(f"{'≤ params':>9}{'zoo, %':>8}{choose + ', %':>18}{'gap':>8}{'its params':>12}{'its MACs':>12}")
    for entry in trial.entries:
        found = [other.within(entry.params) for other in grown]
        measured = [one for one in found if one is not None and one.test_accuracy is not None]
        tests = [100 * (one.test_accuracy or 0.0) for one in measured]
        if tests and entry.test_accuracy is not None:
            zoo_test = 100 * entry.test_accuracy
            params, macs = (mean(getattr(one.header, name) for one in measured) for name in ("params", "macs"))
            print(
                f"{entry.params:>9,}{zoo_test:>8.2f}{spread(tests, 2):>18}{zoo_test - mean(tests):>+8.2f}"
                f"{params:>12,.0f}{macs:>12,.0f}"
            )


def pick(zoo: Path, dataset: str, run: str | None, seed: int | None) -> Growth:
    """The trial with the most checkpoints among those asked for. Raises ZooError where there is none to compare."""
    trials = [
        trial
        for trial in read_trials(zoo)[0]
        if trial.dataset == dataset and run in (None, trial.run) and seed in (None, trial.seed)
    ]
    if not trials:
        raise ZooError(f"{zoo} holds no trial on {dataset} with the run and seed asked for")
    trial = max(trials, key=lambda trial: len(trial.entries))
    if trial.run not in RUNS:
        raise ZooError(f"{zoo}: run {trial.run} is not among the named runs ({', '.join(RUNS)})")
    entries = tuple(entry for entry in trial.entries if entry.test_accuracy is not None)
    if not entries:
        raise ZooError(f"{zoo}: no checkpoint of run {trial.run}, seed {trial.seed}, has a test accuracy")
    if number := trial.uncounted():
        raise ZooError(
            f"{zoo}: what {number} of its checkpoints cost cannot be told, as the files that they began with are not "
            "there: give the zoo in which they were distilled"
        )
    check_branches(trial.entries, RUNS[trial.run]())
    return Growth(replace(trial, entries=one_for_each_architecture(entries)), trial.cost())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="as zoo-train takes it")
    parser.add_argument("--zoo", type=Path, required=True, help="directory of the growth run")
    parser.add_argument("--run", help="of the zoo's runs; default: the trial with the most checkpoints")
    parser.add_argument("--zoo-seed", type=int, help="of that run; default: as above")
    parser.add_argument("--sizes", type=int, default=4, help="architectures to train")
    parser.add_argument("--seeds", type=int, default=1, help="this many of each, from 0 on")
    parser.add_argument("--epochs-scale", type=float, default=1.0, help="train for this part of the epochs")
    parser.add_argument("--limit-train", type=int)
    parser.add_argument("--controls", nargs="*", default=[], choices=CHOICES)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = chosen_device(options.device)
    try:
        data = datasets.load(options.data, limit_train=options.limit_train)
        growth = pick(options.zoo, data.name, options.run, options.zoo_seed)
    except ZooError as error:
        sys.exit(f"one_run_beats_many: {error}")
    trial, cost = growth.trial, growth.cost
    config = RUNS[trial.run]()
    prepare(device, config)
    num_train = trial.entries[0].descriptor.dataset.num_train
    print(describe(device))
    print(
        f"run {trial.run}, seed {trial.seed}, on {data.name}: {len(trial.entries)} checkpoints, "
        f"{trial.entries[0].params:,} to {trial.entries[-1].params:,} parameters; "
        f"{cost.epochs} epochs with branches, {cost.training_flops:.3g} FLOPs, "
        f"{cost.device_seconds:,.0f} s on {cost.device}"
    )
    print(f"baselines: {len(data.train):,} training images, seeds 0 to {options.seeds - 1}")
    if options.epochs_scale < 1 or len(data.train) != num_train:
        print(
            f"REDUCED: baselines have {len(data.train):,} of {num_train:,} images and {options.epochs_scale:g} of "
            "their epochs; their accuracies and the gaps say nothing about the claim"
        )
    print("gap: points that the zoo's checkpoint is better; cost: of the full baseline, in growth runs (FLOPs)\n")
    print(_header())
    compared = compare(growth, config, data, device, options.sizes, options.seeds, options.epochs_scale)
    print_hypervolumes(compared)
    print_costs(growth, compared, device)
    trunk = max(entry.descriptor.lineage.epoch for entry in trial.entries)
    for choose in options.controls:
        control(choose, trial, config, data, device, max(1, round(options.epochs_scale * trunk)), options.seeds)


if __name__ == "__main__":
    main()
