"""How best to distil: one student, taught anew by each recipe, side by side, on the validation images.

    python benchmarks/distil_recipes.py --data cifar10.tar.gz --student FILE --teacher FILE --epochs 8
    python benchmarks/distil_recipes.py … --also FILE --results recipes.json    # resumes

as it is     temperature 2, half of the loss; answers: the mean over an image and its mirror image; shifts of 4 pixels
plain        the answer to the image alone
hot, cool    temperature 4 and 1
most         0.9 of the loss
hot most     temperature 4 with 0.9 of the loss: as it was until November 2026
small shift  images shifted as `grow` has it for a network of this size
blacked out  a quarter of each side, as `grow` has it for larger networks
fast         twice the learning rate
two          the mean of this teacher and of the one that --also names
other        the one that --also names, alone

Prints accuracy, its difference to the first recipe with the standard error of that difference (of images that one gets
right and the other does not), and cross-entropy, which tells more from as many images.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import chosen_device, describe
from torch import Tensor
from torch.nn import functional as F

from trainer.config import RunConfig
from trainer.data import datasets
from trainer.data.datasets import Data
from trainer.distil.answers import Answers
from trainer.distil.lessons import Lessons
from trainer.journal.origin import Member
from trainer.loop.augment import Augmentation, shift_of
from trainer.loop.step import prepare
from trainer.recipes.runs import grow
from zoo.checkpoint.file import decode, digest_of, read
from zoo.errors import ZooError
from zoo.runtime.module import GraphModule, normalize
from zoo.store.directory import write_atomically


class PlainAnswers(Answers):
    """Each image is answered for itself."""

    def _answer(self, epochs: Sequence[Augmentation]) -> list[Tensor]:
        return [super(PlainAnswers, self)._answer([epoch, epoch])[0] for epoch in epochs]


Change = Callable[[RunConfig, int], RunConfig]

VARIANTS: dict[str, Change] = {
    "as it is": lambda config, _: config,
    "plain": lambda config, _: config,
    "hot": lambda config, _: replace(config, distil_temperature=4.0),
    "cool": lambda config, _: replace(config, distil_temperature=1.0),
    "most": lambda config, _: replace(config, distil_weight=0.9),
    "hot most": lambda config, _: replace(config, distil_temperature=4.0, distil_weight=0.9),
    "small shift": lambda config, params: replace(config, max_shift=shift_of(config, params)),
    "blacked out": lambda config, _: config,
    "fast": lambda config, _: replace(config, learning_rate=2 * config.learning_rate),
    "two": lambda config, _: config,
    "other": lambda config, _: config,
}


def member(path: Path, data: Data) -> Member:
    checkpoint = decode(content := read(path), path.name)
    if checkpoint.descriptor.classes != data.classes:
        sys.exit(f"distil_recipes: {path} is of other classes than {data.name}")
    return Member(digest_of(content), checkpoint)


@torch.no_grad()
def answers_to_validation(module: GraphModule, data: Data) -> tuple[list[bool], float]:
    """Which images it gets right, and its cross-entropy."""
    images, labels = data.validation.images, data.validation.labels
    logits = torch.cat([module.eval()(normalize(part, data.preprocessing)) for part in images.split(500)])
    return (logits.argmax(1) == labels).tolist(), F.cross_entropy(logits, labels).item()


def taught(
    name: str, student: Member, teachers: list[Member], config: RunConfig, data: Data, folder: Path
) -> dict[str, Any]:
    changed = VARIANTS[name](config, student.params)
    chosen = {"two": teachers, "other": teachers[1:]}.get(name, teachers[:1])
    kind = PlainAnswers if name == "plain" else Answers
    cutout = 0.25 if name == "blacked out" else 0.0
    course = Lessons(changed, data, chosen, torch.device("cpu"), folder / kind.__name__, cutout, kind)
    module, epochs = course.teach(student, [].append)
    right, entropy = answers_to_validation(module, data)
    return {"right": right, "cross_entropy": entropy, "seconds": round(sum(epoch.seconds for epoch in epochs), 1)}


def report(found: dict[str, dict[str, Any]]) -> None:
    base = np.array(next(iter(found.values()))["right"])
    print(f"\n{'':14}{'accuracy, %':>12}{'difference':>18}{'cross-entropy':>15}{'seconds':>9}")
    for name, result in found.items():
        right = np.array(result["right"])
        gap = right.astype(float) - base
        error = gap.std() / len(gap) ** 0.5
        print(
            f"{name:14}{100 * right.mean():>12.2f}{f'{100 * gap.mean():+.2f} ± {100 * error:.2f}':>18}"
            f"{result['cross_entropy']:>15.4f}{result['seconds']:>9.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--also", type=Path, help="a second teacher, for `two` and `other`")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--limit-train", type=int)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS)
    parser.add_argument("--results", type=Path, help="keeps what came of each; those that it has are not taught again")
    arguments = parser.parse_args()
    try:
        data = datasets.load(arguments.data, limit_train=arguments.limit_train)
        paths = [arguments.teacher, *([arguments.also] if arguments.also else [])]
        teachers, student = [member(path, data) for path in paths], member(arguments.student, data)
    except (ZooError, OSError) as error:
        sys.exit(f"distil_recipes: {error}")
    config = replace(
        grow(),
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        distil_epochs=arguments.epochs,
        cpu_threads=1,
    )
    prepare(torch.device("cpu"), config)
    print(describe(chosen_device("cpu")))
    print(f"{student.params:,} parameters, {arguments.epochs} epochs of {len(data.train):,} images of {data.name}")
    kept = arguments.results
    found: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept and kept.exists() else {}
    chosen = arguments.variants or [name for name in VARIANTS if arguments.also or name not in ("two", "other")]
    with tempfile.TemporaryDirectory() as temporary:
        folder = kept.with_suffix(".answers") if kept else Path(temporary)
        for name in chosen:
            if name not in found:
                found[name] = taught(name, student, teachers, config, data, folder)
                print(f"{name}: {found[name]['cross_entropy']:.4f}", flush=True)
                if kept:
                    write_atomically(kept, f"{json.dumps(found)}\n".encode())
    report({name: found[name] for name in chosen})


if __name__ == "__main__":
    main()
