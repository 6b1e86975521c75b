"""What the expansion score rewards: each way to grow of a run's checkpoints, scored by each reading of the paper.

    python benchmarks/score_rewards.py --data cifar10.tar.gz --zoo benchmarks/results/paper-code

For each checkpoint and each change it could make: its score over that of the network it would grow from (2 or more lets
it in), and the accuracy on 2,000 validation images right after the change, before any training, less that before it.

code            the published code's score of its own changes (the `paper-code` run)
code, exact     … of changes that leave the logits alone
text            the text's score, by the Fisher of each sample's gradient (the `paper` run), of the code's changes
text, exact     … of changes that leave the logits alone

Prints for each reading how many of the changes score 2 or more, the range of scores, and the rank correlation
(Spearman) of score and lost accuracy. The batch norms of a checkpoint have statistics that were measured again; those
that a run scores with trail behind its weights.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from machine import chosen_device, describe

from trainer.data import datasets
from trainer.growth.expand import Exact, expand
from trainer.loop.epoch import evaluate
from trainer.loop.step import prepare
from trainer.recipes.one_by_one import OneByOne
from trainer.recipes.rules import RatioRule
from trainer.recipes.runs import paper_code
from zoo.checkpoint.file import decode
from zoo.network.cost import num_params
from zoo.runtime.module import module_of, normalize
from zoo.store.directory import Directory

NUM_SCORED, NUM_VALIDATED = 512, 2000


def ranks(values: list[float]) -> npt.NDArray[np.float64]:
    return np.argsort(np.argsort(values)).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--most", type=int, default=6, help="checkpoints, spread over all sizes")
    parser.add_argument("--verbose", action="store_true", help="each change")
    words = parser.parse_args()
    device, config = chosen_device("cpu"), paper_code()
    prepare(device, config)
    print(describe(device))
    recipe = config.recipe
    assert isinstance(recipe, OneByOne)
    data = datasets.load(words.data)
    images = normalize(data.train.images[:NUM_SCORED], data.preprocessing)
    labels = data.train.labels[:NUM_SCORED]
    validation = data.validation.take(np.arange(NUM_VALIDATED))
    files = [decode(path.read_bytes()) for _, path in Directory(words.zoo).paths()]
    files.sort(key=lambda file: num_params(file.descriptor.architecture.graph()))
    chosen = sorted({round(place) for place in np.linspace(0, len(files) - 1, words.most)})
    text = RatioRule()
    readings = {
        "code": (recipe.rule, recipe.initialization),
        "code, exact": (recipe.rule, Exact()),
        "text": (text, recipe.initialization),
        "text, exact": (text, Exact()),
    }
    scores: dict[str, list[float]] = {name: [] for name in readings}
    losses: dict[str, list[float]] = {name: [] for name in readings}
    for file in (files[place] for place in chosen):
        architecture, module = file.descriptor.architecture, module_of(file)
        before = evaluate(module, validation, data.preprocessing, len(data.classes)).accuracy
        for name, (rule, initialization) in readings.items():
            one = replace(recipe, rule=rule, initialization=initialization)
            generator = torch.Generator().manual_seed(0)
            threshold, unit = rule.measure(module, images, labels, generator)
            for change in architecture.changes(
                max_layers=recipe.max_layers_per_block, layer_kind=recipe.layer_kind, channels_added=4
            ):
                graph = architecture.grown(change, exact=one.is_exact).graph()
                grown = expand(module, graph, initialization, images, generator)
                score, _ = rule.score(module.graph, grown, images, labels, unit, generator)
                after = evaluate(grown, validation, data.preprocessing, len(data.classes)).accuracy
                scores[name].append(2 * score / threshold)
                losses[name].append(before - after)
                if words.verbose:
                    print(
                        f"{num_params(module.graph):,} {name:12} {change}: {2 * score / threshold:.2f}, "
                        f"{100 * (after - before):+.1f}",
                        flush=True,
                    )
    print("reading, changes, of which score 2 or more, lowest to highest score, accuracy lost (mean), rank correlation")
    for name, found in scores.items():
        lost = losses[name]
        together = np.corrcoef(ranks(found), ranks(lost))[0, 1] if np.ptp(lost) > 0 else float("nan")
        print(
            f"{name:12} {len(found)} {sum(score >= 2 for score in found)} {min(found):.2f} to {max(found):.2f} "
            f"{100 * np.mean(lost):.1f} {together:.2f}"
        )


if __name__ == "__main__":
    main()
