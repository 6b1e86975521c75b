"""How good a zoo of one's own photos becomes: adapted, from random weights, grown, and beside a network with ImageNet
weights.

    python benchmarks/photos.py --data waste128.tar.gz --out /tmp/waste --per-class 90 --epochs 25 --sizes 10000 40000
    python benchmarks/photos.py --data waste128.tar.gz --out /tmp/all --minutes 10 --splits 3

adapted             every size of the shipped zoo, as `zoo-train adapt` does it
random              the same networks from random weights, the largest again teaching the rest
grown               sizes as large, grown from nothing as `zoo-train grow --distil` does it; the best teaches the rest
adapted, taught     with the fine-tuned EfficientNet-Lite0 as teacher besides (`--teacher`)
random, taught      the same from random weights
efficientnet-lite0  that network itself, fine-tuned on larger images

Each split draws other photos to train on, --per-class of each kind or four fifths of it, near duplicates on one side;
the rest is tested on, once for each file. --epochs is the same for all sizes and says most on a machine that does other
things too; growth has as many in all, half of them for distillation. --minutes gives each way that much time, its
teacher's included. What is done is kept in --out, and not done again; grown, also what is half done.

A network that was grown stands beside the size that it was grown to, of which it has 92 % or more of the parameters.
Prints mean and standard deviation over the splits, and the mean gain of one way over another at the same sizes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from machine import chosen_device, describe, spread
from torch.nn import functional as F

from trainer.config import RunConfig
from trainer.data import datasets
from trainer.data.datasets import Data, Split
from trainer.distil import plan, pretrained
from trainer.distil.adapt import RATE_OF_OTHER_CLASSES, Sources, adapt, begun_with, sources
from trainer.distil.distil import distil
from trainer.distil.growth_plan import compiled_if_long
from trainer.distil.pretrained import PretrainedAnswers
from trainer.distil.timed_run import TimedRun
from trainer.grow import grow
from trainer.journal.origin import Member
from trainer.journal.records import Record
from trainer.loop.batches import fitted
from trainer.loop.epoch import evaluate
from trainer.loop.step import prepare
from trainer.recipes import runs
from trainer.recipes.ladder import Ladder
from zoo.checkpoint.file import Checkpoint, digest_of, encode, read_header
from zoo.images import duplicates
from zoo.images.splits import validation
from zoo.network.cost import num_params
from zoo.runtime.module import GraphModule, module_of
from zoo.store.directory import Directory, write_atomically

ZOO = Path(__file__).parents[1] / "zoo" / "pretrained" / "cifar10"
WAYS = ("adapted", "random", "grown", "adapted, taught", "random, taught", "efficientnet-lite0")
# Of which the gains are told.
PAIRS = (("adapted", "random"), ("adapted", "grown"), ("adapted, taught", "adapted"), ("random, taught", "random"))
# As `zoo-train adapt` has them.
BATCH_SIZE, TEACHER_EPOCHS = 128, 6

# Of a way in a split: by parameters, accuracies on validation and test images, and seconds in all.
Result = dict[str, list[float]]


@dataclass(frozen=True)
class Photos:
    """All that there are, as students and as teachers see them, in one order."""

    data: Data
    small: Split
    large: Split
    # Places of near duplicates.
    groups: list[list[int]]

    @classmethod
    def read(cls, source: str, image_size: int) -> Photos:
        data = datasets.load(source, image_size=image_size)
        factor = pretrained.enlargement(data.image_shape[1:])
        small, large = _pooled(data), _pooled(datasets.load(source, image_size=factor * image_size))
        gray = small.images.float().mean(1, keepdim=True)
        thumbnails = F.interpolate(gray, duplicates.THUMBNAIL, mode="bilinear", antialias=True).round().byte()
        contents = [row.numpy().tobytes() for row in small.images]
        return cls(data, small, large, duplicates.near(thumbnails[:, 0].numpy(), contents))

    def split(self, seed: int, per_class: int | None) -> tuple[Data, Split, Split]:
        """Data to train, validate and test on; the training and the test images as large as teachers see them."""
        labels = self.small.labels.numpy()
        counts = np.bincount(labels)
        wanted = np.full(len(counts), per_class) if per_class else (0.8 * counts).astype(int)
        together = {place: group for group in self.groups for place in group}
        train: list[int] = []
        for place in np.random.default_rng(seed).permutation(len(labels)).tolist():
            group = together.get(place, [place])
            found = np.bincount(labels[group], minlength=len(counts))
            if place == min(group) and (found <= wanted).all():
                wanted -= found
                train += group
        chosen = np.sort(np.array(train))
        others = np.setdiff1d(np.arange(len(labels)), chosen)
        held_out, rest = validation(labels[chosen])
        data = replace(
            self.data,
            train=self.small.take(chosen[rest]),
            validation=self.small.take(chosen[held_out]),
            test=self.small.take(others),
            validation_indices=held_out,
        )
        return data, self.large.take(chosen[rest]), self.large.take(others)


def _pooled(data: Data) -> Split:
    parts = (data.train, data.validation, data.test)
    return Split(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def fresh(found: Sources, data: Data, seed: int) -> Sources:
    """The same networks with random weights."""
    torch.manual_seed(seed)

    def reset(member: Member) -> Member:
        tensors = GraphModule(member.descriptor.architecture.graph()).tensors()
        checkpoint = Checkpoint(member.descriptor, tensors)
        accuracy = evaluate(module_of(checkpoint), data.validation, data.preprocessing, len(data.classes))
        metrics = member.descriptor.metrics.model_copy(update={"validation": accuracy})
        checkpoint = Checkpoint(member.descriptor.model_copy(update={"metrics": metrics}), tensors)
        return Member(digest_of(encode(checkpoint)), checkpoint)

    return Sources(tuple(map(reset, found.members)), knows_classes=False)


def chosen_sizes(found: Sources, wanted: Sequence[int] | None) -> Sources:
    """Those nearest to as many parameters; without, all."""
    if wanted is None:
        return found
    params = [member.params for member in found.members]
    nearest = {min(params, key=lambda one: abs(one - size)) for size in wanted}
    return replace(found, members=tuple(member for member in found.members if member.params in nearest))


def trained(
    words: argparse.Namespace,
    config: RunConfig,
    data: Data,
    found: Sources,
    zoo: Path,
    device: torch.device,
    outside: PretrainedAnswers | None,
    seconds: float | None,
) -> Result:
    """`seconds`: what is left of the time, planned as `zoo-train adapt --minutes` does; else `--epochs`."""
    if seconds is not None:
        config = compiled_if_long(config, seconds, device)
        fits = plan.planned(found.members, data, fitted(config, len(data.train)), device, seconds)
        config = replace(config, distil_epochs=fits.epochs)
        found = replace(found, members=tuple(found.members[place] for place in fits.sizes))
    digests = adapt(config, data, found, zoo, device, observed(words), outside)
    return dict(measured(Directory(zoo), digests))


def grown(
    words: argparse.Namespace, seed: int, data: Data, sizes: Sequence[int], zoo: Path, device: torch.device
) -> Result:
    """From nothing, as `zoo-train grow` has it with these sizes."""
    config, observe = runs.grow(), observed(words)
    assert isinstance(config.recipe, Ladder)
    ladder = replace(config.recipe, sizes=tuple(sizes))
    config = replace(config, seed=seed, recipe=ladder, cpu_threads=words.threads)
    timed = None
    if words.minutes is None:
        # Half of all epochs, branches included, but one at each size; the other half is for distillation, also into the
        # network that growth begins with.
        trunk = words.epochs * len(sizes) / 2 / (1 + config.anneal_share)
        config = replace(config, epochs=max(len(sizes) + 1, round(trunk)), distil_epochs=max(1, words.epochs // 2))
    else:
        timed = TimedRun(data, zoo, device, time.monotonic(), 60 * words.minutes, observe)
        config = timed.growth(config)
    digests = grow(config, data, zoo, device, resume=True, observe=observe)
    config = config if timed is None else timed.distillation(config, digests)
    if config.distil_epochs:
        digests += tuple(distil(config, data, zoo, digests, device, observe))
    best: Result = {}
    for params, accuracies in measured(Directory(zoo), digests):
        size = next((one for one in sizes if 0.9 * one < int(params) <= one), params)
        best[str(size)] = max(best.get(str(size), accuracies), accuracies)
    return best


def measured(directory: Directory, digests: Iterator[str] | Sequence[str]) -> Iterator[tuple[str, list[float]]]:
    for digest in digests:
        descriptor = read_header(directory.path(digest)).descriptor
        metrics = descriptor.metrics
        assert metrics.test is not None
        yield str(num_params(descriptor.architecture.graph())), [metrics.validation.accuracy, metrics.test.accuracy]


def observed(words: argparse.Namespace) -> Callable[[Record], None]:
    return print if words.verbose else lambda _: None


def teacher_of(
    data: Data, large: tuple[Split, Split], seed: int, folder: Path, device: torch.device
) -> tuple[PretrainedAnswers, Result]:
    """Its answers to the training images, and how good it is itself; kept in the folder."""
    path, (shown, test) = folder / "teacher.pt", large
    network = pretrained.load(pretrained.LITE, len(data.classes))
    if not path.exists():
        pretrained.fine_tune(network, shown, TEACHER_EPOCHS, seed, device, lambda *_: None, mirror=True)
        logits = pretrained.answers(network, shown, device, mirror=True).cpu()
        right = pretrained.answers(network, test, device, mirror=False).cpu().argmax(1) == test.labels
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"logits": logits, "accuracy": right.float().mean().item()}, path)
    kept = torch.load(path, weights_only=True)
    size = sum(parameter.numel() for parameter in network.module.parameters())
    return PretrainedAnswers(network.record, kept["logits"]), {str(size): [float("nan"), kept["accuracy"]]}


def all_results(words: argparse.Namespace, device: torch.device) -> dict[str, dict[str, Result]]:
    """By way, then by split."""
    photos = Photos.read(words.data, words.image_size)
    path = words.out / "results.json"
    results: dict[str, dict[str, Result]] = json.loads(path.read_text()) if path.exists() else {}
    config = replace(runs.grow(), learning_rate=words.learning_rate, batch_size=BATCH_SIZE, distil_epochs=words.epochs)
    for seed in range(words.splits):
        data, *large = photos.split(seed, words.per_class)
        adapted = chosen_sizes(sources(begun_with(words.zoo, words.zoo), data), words.sizes)
        for way in words.ways:
            if str(seed) in results.get(way, {}):
                continue
            started, folder = time.monotonic(), words.out / f"{way.replace(', ', '-')}-{seed}"
            teacher: PretrainedAnswers | None = None
            itself: Result = {}
            if way in ("efficientnet-lite0", "adapted, taught", "random, taught"):
                teacher, itself = teacher_of(data, (large[0], large[1]), seed, words.out / f"t{seed}", device)
            if way == "efficientnet-lite0":
                found = itself
            elif way == "grown":
                found = grown(words, seed, data, [member.params for member in adapted.members], folder, device)
            else:
                members = fresh(adapted, data, seed) if way.startswith("random") else adapted
                seconds = None if words.minutes is None else 60 * words.minutes - (time.monotonic() - started)
                seeded = replace(config, seed=seed)
                found = trained(words, seeded, data, members, folder, device, teacher, seconds)
            found["seconds"] = [time.monotonic() - started]
            results.setdefault(way, {})[str(seed)] = found
            words.out.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(results, indent=1).encode())
            print_table(results)
    return results


def print_table(results: dict[str, dict[str, Result]]) -> None:
    """Test accuracy, and gains over the ways that the same splits and sizes have."""
    sizes = sorted(
        {int(size) for splits in results.values() for one in splits.values() for size in one if size != "seconds"}
    )
    ways = [way for way in results if way in WAYS]
    print(f"\n{'parameters':>12}  " + "  ".join(f"{way:>18}" for way in ways))
    for size in sizes:
        cells = [[100 * one[str(size)][1] for one in results[way].values() if str(size) in one] for way in ways]
        print(f"{size:>12,}  " + "  ".join(f"{spread(cell, 1) if cell else '–':>18}" for cell in cells))
    seconds = ([one["seconds"][0] for one in results[way].values()] for way in ways)
    print(f"{'seconds':>12}  " + "  ".join(f"{spread(cell, 0):>18}" for cell in seconds))
    for one, other in (
        ("adapted", "random"),
        ("adapted", "grown"),
        ("adapted, taught", "adapted"),
        ("random, taught", "random"),
    ):
        pairs = [
            100 * (results[one][split][size][1] - results[other][split][size][1])
            for split in results.get(one, {}).keys() & results.get(other, {}).keys()
            for size in results[one][split].keys() & results[other][split].keys() - {"seconds"}
        ]
        if pairs:
            print(f"{one} over {other}: {mean(pairs):+.1f} points over {len(pairs)} pairs, worst {min(pairs):+.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a directory or an archive of class folders")
    parser.add_argument("--out", type=Path, required=True, help="a folder for what comes of it")
    parser.add_argument("--zoo", type=Path, default=ZOO, help="what to adapt")
    parser.add_argument("--image-size", type=int, default=48)
    parser.add_argument("--per-class", type=int, help="photos of each kind to train on; without it four fifths")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", help="about so many parameters; without it all of the zoo")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--minutes", type=float, help="for each way, in place of --epochs")
    parser.add_argument("--learning-rate", type=float, default=RATE_OF_OTHER_CLASSES)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--verbose", action="store_true", help="each record")
    words = parser.parse_args()
    device = chosen_device(words.device)
    prepare(device, replace(runs.grow(), cpu_threads=words.threads))
    print(describe(device))
    print_table(all_results(words, device))


if __name__ == "__main__":
    main()
