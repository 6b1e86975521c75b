"""Elastic networks by each way of training them, side by side, with as many epochs.

    python benchmarks/elastic.py --data digits --from digits --epochs 10 --zoo results      # small
    python benchmarks/elastic.py --data cifar10.tar.gz --from grow --epochs 60 --zoo results
    python benchmarks/elastic.py --data cifar10.tar.gz --from resnet20 --levels 20k,70k,150k,270k --epochs 40 …
    python benchmarks/elastic.py --data imagenette96.tar.gz --from resnet20 --epochs 10 --zoo r --out r/resnet20.json

    for run in grow resnet20 resnet56 vgg16 alexnet; do
        python benchmarks/elastic.py --data cifar10.tar.gz --from $run --limit-train 2000 --epochs 4 \\
            --zoo results/$run --out results/$run.json
    done

separate          each level alone, from random weights: what the others are measured by
joint             all levels in each step, from random weights, by the labels alone
distilled         … each also by the answers of the next larger
warm              … from the weights of the largest separate one, whose channels stay as they are
ranked            … with its most important channels first
freeze            from the same, ranked; smallest first, each larger level trains what it adds (arXiv 2505.11569)
freeze unranked   … its channels as they are

The same command again goes on where it was stopped; --out has every row that is done. Prints test accuracies, gaps to
`separate` in points (of all levels in the mean; of the largest), seconds of training, bytes of the levels' files, and
multiply-accumulates of a step's forward pass as a multiple of the largest level's. `warm` to `freeze unranked` have the
largest separate one's training behind them, which is not in their seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from machine import chosen_device, describe

from trainer.config import RunConfig
from trainer.data import datasets
from trainer.data.datasets import Data
from trainer.elastic.elastic import train_elastic
from trainer.elastic.levels import Levels, budgets_of, levels_of
from trainer.elastic.run import Elastic, ElasticRun
from trainer.elastic.stage import Frozen
from trainer.elastic.start import named
from trainer.elastic.state import ElasticState
from trainer.journal.origin import Origin, origin_of
from trainer.journal.records import EpochRecord, Record
from trainer.recipes.names import run_named
from trainer.recipes.overrides import Overrides
from zoo.checkpoint.elastic import extract
from zoo.checkpoint.file import decode
from zoo.errors import ZooError
from zoo.network.cost import num_macs, num_params
from zoo.store.directory import write_atomically

VARIANTS = ("separate", "joint", "distilled", "warm", "ranked", "freeze", "freeze unranked")


class Separate(ElasticRun):
    """As a frozen run, one level after the other; but none has anything of another, and each is a file."""

    def frozen(self, state: ElasticState) -> Frozen | None:
        del state

    def end(self, state: ElasticState) -> Elastic:
        digests = tuple(self.log.zoo.put(data) for data in state.files)
        return Elastic(digests[-1], digests)


def variant(
    name: str, config: RunConfig, levels: Levels, data: Data, zoo: Path, device: torch.device, largest: Origin | None
) -> Elastic:
    """Trained, or as far as it was and then on."""

    def observe(record: Record) -> None:
        if isinstance(record, EpochRecord):
            accuracies = " ".join(f"{100 * level.val_accuracy:.1f}" for level in record.levels)
            print(
                f"{name}: epoch {record.epoch} of {record.epochs}, {record.seconds:.0f} s, validation {accuracies}",
                file=sys.stderr,
                flush=True,
            )

    if name == "joint":
        config = replace(config, distil_weight=0.0)
    if name in ("warm", "ranked", "freeze", "freeze unranked"):
        levels = replace(levels, origin=largest)
    return train_elastic(
        named(config, freeze="freeze" in name),
        levels,
        data,
        zoo / name.replace(" ", "-"),
        device,
        resume=True,
        observe=observe,
        freeze=name in ("separate", "freeze", "freeze unranked"),
        rank=name in ("ranked", "freeze"),
        run_of=Separate if name == "separate" else ElasticRun,
    )


def files_of(made: Elastic, zoo: Path) -> tuple[list[bytes], int]:
    """Of its levels, and how many bytes all take."""
    content = (zoo / "checkpoints" / f"{made.file}.safetensors").read_bytes()
    if made.file in made.levels:
        apart = [(zoo / "checkpoints" / f"{level}.safetensors").read_bytes() for level in made.levels]
        return apart, sum(map(len, apart))
    return [extract(content, level) for level in range(len(made.levels))], len(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--from", dest="run", default="digits", help="a named run: its networks and how it trains")
    parser.add_argument("--levels", help="as of zoo-train elastic")
    parser.add_argument("--first", type=int, help="of the run's own levels only so many, the smallest")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--temperature", type=float, help="of the answers of the next larger level")
    parser.add_argument("--weight", type=float, help="of these answers in a level's loss")
    parser.add_argument("--limit-train", type=int)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="on a CPU")
    parser.add_argument("--eager", action="store_true", help="compile nothing: short runs are over sooner")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--zoo", type=Path, required=True, help="keeps what came of each, and goes on with it")
    parser.add_argument("--out", type=Path, help="a JSON file for the rows, written anew after each")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    try:
        benchmark(arguments)
    except (ZooError, OSError) as error:
        sys.exit(f"elastic: {error}")


def benchmark(arguments: argparse.Namespace) -> None:
    data = datasets.load(arguments.data, limit_train=arguments.limit_train, image_size=arguments.image_size)
    wishes = Overrides(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    run = run_named(arguments.run, wishes)
    config = replace(
        run,
        distil_temperature=arguments.temperature or run.distil_temperature,
        distil_weight=run.distil_weight if arguments.weight is None else arguments.weight,
        cpu_threads=arguments.threads or run.cpu_threads,
        compile=run.compile and not arguments.eager,
    )
    budgets = None if arguments.levels is None else budgets_of(arguments.levels)
    levels = levels_of(run, data.image_shape, len(data.classes), budgets)
    levels = Levels(levels.architectures[: arguments.first])
    device = chosen_device(arguments.device)
    print(describe(device))
    print(
        f"{data.name}, {len(data.train):,} training images, {arguments.epochs} epochs, seed {arguments.seed}, "
        f"temperature {config.distil_temperature:g}, weight {config.distil_weight:g}"
    )
    macs = [num_macs(one.graph()) for one in levels.architectures]
    print(f"a step of all levels takes {sum(macs) / macs[-1]:.2f} times the multiply-accumulates of the largest's\n")
    sizes = "".join(f"{num_params(one.graph()):>10,}" for one in levels.architectures)
    print(f"{'parameters':18}{sizes}{'mean gap':>10}{'top gap':>9}{'seconds':>9}{'bytes':>11}")
    separate: list[float] = []
    rows: dict[str, dict[str, Any]] = {}
    largest: Origin | None = None
    for name in dict.fromkeys(["separate", *arguments.variants]):
        made = variant(name, config, levels, data, arguments.zoo, device, largest)
        files, num_bytes = files_of(made, arguments.zoo / name.replace(" ", "-"))
        if name == "separate":
            largest = origin_of(files[-1], "the largest")
        cost = decode(files[-1]).descriptor.cost.device_seconds
        begun = decode(files[-1]).descriptor.lineage.parent
        if begun is not None and largest is not None:
            cost -= largest.descriptor.cost.device_seconds
        metrics = [decode(file).descriptor.metrics.test for file in files]
        tests = [100 * test.accuracy for test in metrics if test is not None]
        separate = separate or tests
        gaps = [mine - theirs for mine, theirs in zip(tests, separate, strict=True)]
        accuracies = "".join(f"{test:>10.2f}" for test in tests)
        rows[name] = {
            "test": tests,
            "validation": [100 * decode(file).descriptor.metrics.validation.accuracy for file in files],
            "seconds": cost,
            "bytes": num_bytes,
        }
        if arguments.out is not None:
            about = {"command": sys.argv[1:], "machine": describe(device), "data": data.name, "images": len(data.train)}
            about |= {"epochs": arguments.epochs, "seed": arguments.seed, "macs": macs}
            about["parameters"] = [num_params(one.graph()) for one in levels.architectures]
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(arguments.out, json.dumps(about | {"rows": rows}, indent=1).encode())
        row = f"{sum(gaps) / len(gaps):>+10.2f}{gaps[-1]:>+9.2f}{cost:>9.0f}{num_bytes:>11,}"
        print(f"{name:18}{accuracies}{row}", flush=True)


if __name__ == "__main__":
    main()
