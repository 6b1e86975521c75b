"""What each part of the `grow` recipe is worth: the run with the part taken out, next to the run.

    python benchmarks/ablations.py --data cifar10.tar.gz --seeds 3
    python benchmarks/ablations.py --data cifar10.tar.gz --limit-train 6000 --epochs 24 --sizes 6000 12000 \
        --batch-size 128 --learning-rate 0.02
    python benchmarks/ablations.py --data cifar10.tar.gz --results ablations.json    # goes on where it was stopped

exact        no shrinking and perturbing: the network goes on with its logits unchanged
inexact      the same, but what is added begins as in a fresh network, so that the logits change; compare with exact
random       what to add is drawn by chance, of what would gain more than the noise, and by cost as ever
gradient     what to add is ranked by the squared norm of its gradient (GradMax's criterion)
uniform      every stage grows in turn
kfac         scored with a Kronecker-factored Fisher, at half the threshold (its gains are about half as large)
trunk        the trunk goes on from where it was before a branch, whose epochs serve its checkpoint alone
no branches  checkpoints are the trunk itself, at its constant rate, for as many epochs as trunk and branches had
distilled    a last pass of as many epochs as the trunk had; "trained on" is the same pass without a teacher

Prints accuracy by size, its mean over the sizes after the start, and the difference to the run as it is, over seeds: on
the validation images, or with --limit-train on up to 10,000 of the training images that are left out, which tell
smaller differences.
Each run climbs to the same sizes; a column is the checkpoint that the run has in that place.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from machine import chosen_device, describe, spread
from other_ladders import FromTrunk, Gradient, Inexact, Kfac, Random, Uniform

from trainer.config import RunConfig
from trainer.data import datasets
from trainer.data.datasets import Data, Split
from trainer.distil.distil import distil
from trainer.grow import grow
from trainer.journal.records import DistilledRecord, Record
from trainer.loop.epoch import evaluate
from trainer.loop.trainer import Trainer
from trainer.recipes.ladder import Ladder
from trainer.recipes.runs import RUNS
from zoo.checkpoint.file import load
from zoo.errors import ZooError
from zoo.images.splits import stratified
from zoo.runtime.module import module_of
from zoo.store.directory import Directory, write_atomically

MAX_HELD_OUT = 10_000

Change = Callable[[RunConfig], RunConfig]


def ladder(**changes: object) -> Change:
    def change(config: RunConfig) -> RunConfig:
        assert isinstance(config.recipe, Ladder)
        return replace(config, recipe=replace(config.recipe, **changes))

    return change


def other(kind: type[Ladder], **changes: object) -> Change:
    def change(config: RunConfig) -> RunConfig:
        return replace(config, recipe=kind(**vars(config.recipe) | changes))

    return change


def kfac(config: RunConfig) -> RunConfig:
    assert isinstance(config.recipe, Ladder)
    return other(Kfac, threshold=config.recipe.threshold / 2)(config)


def no_branches(config: RunConfig) -> RunConfig:
    return replace(config, epochs=round(config.epochs * (1 + config.anneal_share)), anneal_share=0.0)


VARIANTS: dict[str, Change] = {
    "as it is": lambda config: config,
    "exact": ladder(shrink=1.0),
    "inexact": other(Inexact, shrink=1.0),
    "random": other(Random),
    "gradient": other(Gradient),
    "uniform": other(Uniform),
    "kfac": kfac,
    "trunk": lambda config: config,
    "no branches": no_branches,
    "distilled": lambda config: replace(config, distil_epochs=config.epochs),
    "trained on": lambda config: replace(config, distil_epochs=config.epochs, distil_weight=0.0),
}


# How the run trains, where that is another way.
TRAINERS = {"trunk": FromTrunk}


def accuracies(
    config: RunConfig, data: Data, held_out: Split, device: torch.device, trainer: type[Trainer] = Trainer
) -> list[float]:
    """On `held_out`, of each checkpoint of a run, by size; of the distilled one where there is one."""
    with tempfile.TemporaryDirectory() as folder:
        zoo = Path(folder)
        digests = grow(config, data, zoo, device, resume=False, observe=[].append, trainer_of=trainer)
        if config.distil_epochs:
            records: list[Record] = []
            list(distil(config, data, zoo, digests, device, records.append))
            better = {record.student: record.digest for record in records if isinstance(record, DistilledRecord)}
            digests = tuple(better.get(digest) or digest for digest in digests)
        modules = [module_of(load(Directory(zoo).path(digest))).to(device) for digest in digests]
        images = held_out.to(device)
        return [evaluate(module, images, data.preprocessing, len(data.classes)).accuracy for module in modules]


def limited(data: Data, num_train: int | None) -> tuple[Data, Split]:
    """The data with fewer training images, and as many fewer for validation, and what to compare on."""
    if num_train is None:
        return data, data.validation
    order = np.random.default_rng(0).permutation(len(data.train))
    train, rest = (data.train.take(part) for part in (order[:num_train], order[num_train:][:MAX_HELD_OUT]))
    few, _ = stratified(data.validation.labels.numpy(), round(len(data.validation) * num_train / len(data.train)))
    return replace(data, train=train, validation=data.validation.take(few)), rest


class Results:
    """Accuracies by variant and seed, in a file that is written anew after each run, or in memory alone."""

    def __init__(self, path: Path | None, recipe: str) -> None:
        self.path = path
        self.recipe = recipe
        self.runs: dict[str, dict[str, list[float]]] = {}
        if path is not None and path.exists():
            kept = json.loads(path.read_text())
            if kept["recipe"] != recipe:
                sys.exit(f"ablations: {path} is of another recipe, {kept['recipe']}, not {recipe}")
            self.runs = kept["runs"]

    def of(self, variant: str, seed: int, measure: Callable[[], list[float]]) -> list[float]:
        runs = self.runs.setdefault(variant, {})
        if str(seed) not in runs:
            runs[str(seed)] = measure()
            if self.path is not None:
                kept = json.dumps({"recipe": self.recipe, "runs": self.runs}, indent=1)
                write_atomically(self.path, f"{kept}\n".encode())
        return runs[str(seed)]


def report(found: dict[str, list[list[float]]], sizes: tuple[int, ...]) -> None:
    columns = ["start", *(f"≤ {size:,}" for size in sizes)]
    width = max(map(len, VARIANTS))
    print(f"\n{'accuracy, %':{width + 12}}" + "".join(f"{column:>15}" for column in columns) + "           mean")
    base = [mean(run[1:] or run) for run in found["as it is"]] if "as it is" in found else []
    for name, runs in found.items():
        places = range(min(map(len, runs)))
        cells = [spread([100 * run[place] for run in runs], 2) for place in places]
        means = [mean(run[1:] or run) for run in runs]
        gap = f"  {100 * (mean(means) - mean(base)):+.2f}" if base and name != "as it is" else ""
        print(
            f"{name:{width + 12}}"
            + "".join(f"{cell:>15}" for cell in cells)
            + f"{spread([100 * m for m in means], 2):>15}{gap}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of the trunk; without it the run's own")
    parser.add_argument("--sizes", type=int, nargs="+", help="parameters at most; without it the run's own ladder")
    parser.add_argument("--limit-train", type=int)
    parser.add_argument("--batch-size", type=int, help="without it the run's own, which is made for many images")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--results", type=Path, help="keeps each run's accuracies; runs that it has are not run again")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    arguments = parser.parse_args()
    device = chosen_device(arguments.device)
    try:
        data, held_out = limited(datasets.load(arguments.data), arguments.limit_train)
    except ZooError as error:
        sys.exit(f"ablations: {error}")
    if len(held_out) == 0:
        sys.exit(f"ablations: --limit-train {arguments.limit_train} leaves no training image to compare on")
    config = RUNS["grow"]()
    config = replace(
        config,
        epochs=arguments.epochs or config.epochs,
        batch_size=arguments.batch_size or config.batch_size,
        learning_rate=arguments.learning_rate or config.learning_rate,
    )
    if arguments.sizes:
        config = ladder(sizes=tuple(arguments.sizes))(config)
    assert isinstance(config.recipe, Ladder)
    print(describe(device))
    print(
        f"{data.name}: {len(data.train):,} training images, {config.epochs} epochs of the trunk, "
        f"seeds 0 to {arguments.seeds - 1}; compared on {len(held_out):,} images"
    )
    results = Results(arguments.results, f"{config}, {len(data.train)} images of {data.name}, {data.checksum()}")
    found: dict[str, list[list[float]]] = {}
    for seed in range(arguments.seeds):
        for name in arguments.variants:
            variant = VARIANTS[name](replace(config, seed=seed))
            trainer = TRAINERS.get(name, Trainer)
            run = results.of(name, seed, partial(accuracies, variant, data, held_out, device, trainer))
            found.setdefault(name, []).append(run)
            print(f"seed {seed}  {name}: " + " ".join(f"{100 * accuracy:.2f}" for accuracy in run), flush=True)
    report(found, config.recipe.sizes)


if __name__ == "__main__":
    main()
