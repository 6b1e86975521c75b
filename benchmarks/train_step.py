"""How long is an epoch, against a plain eager loop with a DataLoader?

    python benchmarks/train_step.py > benchmarks/results/train_step-$(date +%F).txt
    python benchmarks/train_step.py --data cifar10.tar.gz --images 10240 --device cuda

`plain`: a float32 eager loop, torch's own Adam or AdamW, PIL images through RandomCrop(32, padding=4),
RandomHorizontalFlip, ToTensor and Normalize in a DataLoader, with 0 (torch's default), with 2 and, where there are so
many cores, with 8 workers; the fastest of these is the baseline. `ours`: trainer.loop.epoch.train_epoch with
trainer.loop.step.TrainingStep: pixels on the device, mixed precision, channels last, compiled; a captured graph on a
GPU.
Both shift by up to 4 pixels, mirror, and update the same network with the same batch size. Epochs take turns, after one
of each that is not counted (it compiles, and starts workers); each way has a process of its own, since `ours` sets the
C library's allocator as the trainer does on a CPU.

On a GPU, `of bandwidth` is what the step moves at least, over what a copy within the GPU's memory moves in that time:
each operation with i input and o output elements an image moves 3 i + 2 o of them (forward it reads i and writes o;
backward it reads the gradient of o and the saved i, and writes the gradient of i), of 2 bytes in mixed precision and
else 4; a parameter moves 36 bytes (Adam reads it, its gradient and two moments and writes three of these, in float32,
and backward writes the gradient and forward reads the weight once). Fusion can move less, so it may exceed 1.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import mean

import torch
from machine import chosen_device, describe, spread, synchronize
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from trainer.config import BlueprintStart, PaddingMode, RunConfig, StartNet
from trainer.data import datasets
from trainer.data.datasets import Split
from trainer.loop import optim
from trainer.loop.epoch import train_epoch
from trainer.loop.step import TrainingStep, has_bfloat16, prepare
from trainer.recipes.runs import grow, paper
from zoo.checkpoint.descriptor import Preprocessing
from zoo.network.cost import num_macs, num_params, training_flops
from zoo.network.families import blueprint, secnn
from zoo.network.graph import INPUT, Graph, output_shapes
from zoo.runtime.module import GraphModule

IMAGE = (3, 32, 32)
SEED = 0
# The largest batch; epochs of whole batches only, since a compiled step has one shape.
BATCH = 512
PAPER_EPOCHS, PAPER_IMAGES = 300, 45_000

Epoch = Callable[[], object]


@dataclass(frozen=True)
class Subject:
    name: str
    config: RunConfig
    graph: Graph


def subjects() -> list[Subject]:
    start = secnn.start(input_shape=IMAGE, num_classes=10, **vars(StartNet())).graph()
    small, larger = (
        blueprint.start(input_shape=IMAGE, num_classes=10, **vars(net)).graph()
        for net in (BlueprintStart(), BlueprintStart(channels=(16, 32, 64), num_layers=(2, 3, 4)))
    )
    return [
        Subject("paper's start", replace(paper(), mixed_precision=True, compile=True, max_shift=4), start),
        Subject("grow's start", replace(grow(), max_shift=4, full_shift_params=1, cutout=None, mixup=None), small),
        Subject("grow, larger", replace(grow(), max_shift=4, full_shift_params=1, cutout=None, mixup=None), larger),
    ]


class _Images(Dataset):
    """As torchvision's CIFAR10 keeps and gives them."""

    def __init__(self, split: Split, preprocessing: Preprocessing, padding_mode: PaddingMode) -> None:
        self.pixels = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = split.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(),
                transforms.RandomCrop(IMAGE[1], padding=4, padding_mode=padding_mode),
                transforms.ToTensor(),
                transforms.Normalize(preprocessing.mean, preprocessing.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def plain(subject: Subject, split: Split, preprocessing: Preprocessing, device: torch.device, workers: int) -> Epoch:
    torch.manual_seed(SEED)
    config, module = subject.config, GraphModule(subject.graph).to(device)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    optimizer = kind(
        module.parameters(),
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        weight_decay=config.weight_decay,
    )
    loader = DataLoader(
        _Images(split, preprocessing, config.padding_mode),
        config.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )

    def epoch() -> None:
        module.train()
        # Summed on the device: an .item() a step would make the baseline wait.
        total = torch.zeros((), device=device)
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            optimizer.zero_grad()
            loss = F.cross_entropy(module(images), labels)
            total += loss.detach()
            if config.l1:
                loss = loss + config.l1 * sum(parameter.abs().sum() for parameter in module.parameters())
            loss.backward()
            optimizer.step()
        total.item()

    return epoch


def ours(subject: Subject, split: Split, preprocessing: Preprocessing, device: torch.device) -> Epoch:
    torch.manual_seed(SEED)
    module = GraphModule(subject.graph).to(device)
    step = TrainingStep(
        module, optim.make(module, subject.config), subject.config, preprocessing, compiled=subject.config.compile
    )
    resident = split.to(device)
    prepare(device, subject.config)
    generator = torch.Generator().manual_seed(SEED)

    def epoch() -> None:
        train_epoch(step, resident, generator)

    return epoch


class Way:
    """A way of training, in a process of its own."""

    def __init__(self, make: Callable[..., Epoch], *arguments: object) -> None:
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_train, args=(theirs, make, arguments))
        self._process.start()
        # The child holds its end alone: it ends when ours is closed, and we see when it dies.
        theirs.close()

    def epoch(self) -> float:
        """Trains one; its seconds."""
        self._connection.send(None)
        taken: float = self._connection.recv()
        return taken

    def close(self) -> None:
        self._connection.close()
        self._process.join()


def _train(connection: Connection, make: Callable[..., Epoch], arguments: tuple[object, ...]) -> None:
    device = next(argument for argument in arguments if isinstance(argument, torch.device))
    epoch = make(*arguments)
    with suppress(EOFError):
        while True:
            connection.recv()
            connection.send(seconds(epoch, device))


def seconds(epoch: Callable[[], object], device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    epoch()
    synchronize(device)
    return time.perf_counter() - started


def bytes_moved(graph: Graph, num_images: int, batch_size: int, element_bytes: int) -> int:
    """In an epoch, by the formula above."""
    shapes = output_shapes(graph)
    elements = sum(
        3 * sum(prod(IMAGE if name == INPUT else shapes[name]) for name in node.inputs) + 2 * prod(shapes[node.name])
        for node in graph.nodes
    )
    return elements * element_bytes * num_images + 36 * num_params(graph) * (num_images // batch_size)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second of the fastest of ten copies of 1 GiB, each byte read and written."""
    source = torch.zeros(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return max(2 * len(source) / seconds(lambda: target.copy_(source), device) for _ in range(10))


def measure(
    subject: Subject, split: Split, preprocessing: Preprocessing, device: torch.device, repeats: int
) -> dict[str, list[float]]:
    """Seconds of each epoch by its way of training."""
    same = (subject, split, preprocessing, device)
    num_workers = (0, 2, 8) if (os.cpu_count() or 1) >= 8 else (0, 2)
    ways = {f"plain, {workers} workers": Way(plain, *same, workers) for workers in num_workers}
    ways["ours"] = Way(ours, *same)
    first = {name: way.epoch() for name, way in ways.items()}
    print(f"    first epochs, not counted: {', '.join(f'{name} {took:.2f} s' for name, took in first.items())}")
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            taken[name].append(way.epoch())
    for way in ways.values():
        way.close()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="32×32 colour images, as zoo-train takes them; without it, random pixels")
    parser.add_argument("--images", type=int, help="an epoch of this many; default: 45,000 on a GPU, else 5,120")
    parser.add_argument("--repeats", type=int, default=5)
    by_name = {subject.name: subject for subject in subjects()}
    parser.add_argument("--network", choices=by_name, action="append", help="only this one; may be given again")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = chosen_device(options.device)
    wanted = options.images or (PAPER_IMAGES if device.type == "cuda" else 5_120)
    num_images = max(BATCH, wanted // BATCH * BATCH)
    if options.data:
        data = datasets.load(options.data)
        split, preprocessing, source = data.train, data.preprocessing, data.name
        if len(split) < num_images or data.image_shape != IMAGE:
            parser.error(f"{options.data} has {len(split)} training images {data.image_shape}")
        split = Split(split.images[:num_images], split.labels[:num_images])
    else:
        generator = torch.Generator().manual_seed(SEED)
        images = torch.randint(0, 256, (num_images, *IMAGE), dtype=torch.uint8, generator=generator)
        split = Split(images, torch.randint(0, 10, (num_images,), generator=generator))
        preprocessing, source = Preprocessing(color="rgb", mean=(0.5,) * 3, std=(0.25,) * 3), "random pixels"
    print(describe(device))
    precision = "bfloat16" if has_bfloat16(device) else "float32"
    print(f"{source}, {num_images:,} images an epoch, seed {SEED}, {options.repeats} epochs each, taking turns")
    print(f"ours computes in {precision}; mean ± standard deviation; faster: plain / ours of the same turn")
    peak = copy_bandwidth(device) if device.type == "cuda" else None
    if peak:
        print(f"copy within the GPU's memory: {peak / 1e9:,.0f} GB/s")
    for subject in (by_name[name] for name in options.network or by_name):
        macs, batch = num_macs(subject.graph), subject.config.batch_size
        print(f"\n{subject.name}: {num_params(subject.graph):,} parameters, {macs:,} MACs, batches of {batch}")
        taken = measure(subject, split, preprocessing, device, options.repeats)
        baseline = min((name for name in taken if name != "ours"), key=lambda name: mean(taken[name]))
        for name, epochs in taken.items():
            average = mean(epochs)
            line = f"    {name:<18}{spread(epochs, 3):>16} s   {1e6 * average / num_images:8.2f} µs/image"
            line += f"   {training_flops(macs, num_images) / average / 1e9:9.1f} GFLOP/s"
            if peak:
                element_bytes = 2 if name == "ours" and precision == "bfloat16" else 4
                moved = bytes_moved(subject.graph, num_images, batch, element_bytes)
                line += f"   {moved / average / peak:6.1%} of bandwidth"
            if subject.config.name == "paper":
                line += f"   {average / num_images * PAPER_IMAGES * PAPER_EPOCHS:8,.0f} s for 300 epochs"
            print(line)
        ratios = [slow / fast for slow, fast in zip(taken[baseline], taken["ours"], strict=True)]
        print(f"    ours is faster than {baseline}: {spread(ratios, 2)} ×", flush=True)
    print(f"\n300 epochs: of {PAPER_IMAGES:,} images at the start's size, without growth, scoring or evaluation")


if __name__ == "__main__":
    main()
