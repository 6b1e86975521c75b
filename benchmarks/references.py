"""How accurate do small networks that others have published become with this project's data, split and epochs?

    python benchmarks/references.py --data cifar10.tar.gz --epochs 200 --seeds 5

Trains each network of reference_networks.py with this project's loop, step and augmentation (mirrored, shifted by up
to 4 pixels), batches of 128 and the usual schedule: SGD with Nesterov momentum 0.9, weight decay 1e-4 on kernels and
matrices, learning rate 0.1 down to 0 along a cosine. The last epoch's network counts, whatever its validation accuracy;
the test split is read once. The results go into a JSON file that frontier.py reads; beside it each training keeps its
last epoch until it is done. `--resume` goes on with both.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import mean

import torch
from from_scratch import Trained, cosine, train
from machine import chosen_device, describe, spread
from reference_networks import REFERENCES, num_macs, num_params
from torch import nn

from trainer.data import datasets
from trainer.loop.step import prepare
from trainer.recipes.runs import grow
from zoo.errors import RunError
from zoo.store.directory import write_atomically

RESULTS = Path(__file__).parent / "results"


def nesterov(module: nn.Module, learning_rate: float, *, captured: bool) -> torch.optim.SGD:
    """Momentum of 0.9; kernels and matrices decay. A captured step's rate is a tensor."""
    device = next(module.parameters()).device
    rate = torch.tensor(learning_rate, device=device) if captured and device.type == "cuda" else learning_rate
    kernels, vectors = ([one for one in module.parameters() if (one.ndim > 1) is many] for many in (True, False))
    groups = [{"params": kernels, "weight_decay": 1e-4}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True, fused=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="as zoo-train takes it")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1, help="this many, from 0 on")
    parser.add_argument("--network", choices=REFERENCES, action="append", help="only this one; may be given again")
    parser.add_argument("--learning-rate", type=float, default=0.1, help="at the start of the cosine")
    parser.add_argument("--limit-train", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS / f"references-{datetime.now(UTC):%Y-%m-%d}.json")
    parser.add_argument("--resume", action="store_true", help="what an interrupted call with the same --out has begun")
    options = parser.parse_args()
    device = chosen_device(options.device)
    data = datasets.load(options.data, limit_train=options.limit_train)
    config = replace(
        grow(),
        learning_rate=options.learning_rate,
        batch_size=128,
        max_shift=4,
        padding_mode="constant",
        full_shift_params=1,
        cutout=None,
        mixup=None,
        # As they were published. In bfloat16, on a GPU, the loss of the BSConv network was no number from its first
        # epoch on (docs/log.md).
        mixed_precision=False,
    )
    prepare(device, config)
    machine = describe(device)
    print(machine)
    print(
        f"{data.name}: {len(data.train):,} training, {len(data.validation):,} validation, {len(data.test):,} test "
        f"images; {options.epochs} epochs, seeds 0 to {options.seeds - 1}"
    )
    record = {"machine": machine, "epochs": options.epochs, "dataset": data.record().model_dump(), "networks": {}}
    if options.resume and options.out.exists():
        before = json.loads(options.out.read_text())
        if differing := [key for key in ("epochs", "dataset") if before[key] != record[key]]:
            parser.error(f"{options.out} has other {' and '.join(differing)}: --resume with the same, or another --out")
        record["networks"] = before["networks"]
    for name in options.network or REFERENCES:
        channels, num_classes = data.image_shape[0], len(data.classes)
        network = record["networks"].get(name, {"seeds": []})
        runs = [Trained(**run) for run in network["seeds"]]
        for seed in range(len(runs), options.seeds):
            torch.manual_seed(seed)
            module = REFERENCES[name].make(channels, num_classes)
            macs = num_macs(module, data.image_shape)
            optimizer = nesterov(module.to(device), options.learning_rate, captured=config.compile)
            kept = options.out.with_name(f"{options.out.stem}-{name}-s{seed}.pt")
            if not options.resume:
                kept.unlink(missing_ok=True)
            schedule = partial(cosine, options.learning_rate)
            seeded = replace(config, seed=seed)
            try:
                runs.append(train(module, optimizer, seeded, data, macs, options.epochs, schedule, kept=kept))
            except RunError as error:
                parser.error(f"{name}, seed {seed}: {error}")
            network = {
                "params": num_params(module),
                "macs": macs,
                "published": REFERENCES[name].published if data.name == "cifar10" else None,
                "seeds": [asdict(run) for run in runs],
            }
            # After each seed: hours lie between them.
            record["networks"][name] = network
            write_atomically(options.out, f"{json.dumps(record, indent=2)}\n".encode())
            kept.unlink()
        published = f", published {100 * network['published']:.1f}" if network["published"] else ""
        print(
            f"{name}: {network['params']:,} parameters, {network['macs']:,} MACs; "
            f"test {spread([100 * run.test for run in runs], 2)} %, "
            f"validation {spread([100 * run.validation for run in runs], 2)} %{published}; "
            f"{mean(run.seconds for run in runs):,.0f} s of training each, "
            f"{1e6 * runs[-1].seconds_per_image:.0f} µs/image"
        )
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
