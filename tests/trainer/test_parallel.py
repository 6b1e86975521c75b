"""A run on two processes, started by torchrun as a user starts it, next to the same run on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from zoo.checkpoint.file import read_header
from zoo.store.directory import Directory

# A run as zoo-train has it, but tiny: it is given on the command line of torchrun.
SCRIPT = """
import sys
from pathlib import Path
import torch
from trainer.config import Cutout, Mixup, RunConfig
from trainer.config import BlueprintStart
from trainer.recipes.ladder import Ladder
from trainer.data.datasets import load
from trainer.grow import grow
from trainer.journal.origin import read
from trainer.loop.parallel import group_of

config = RunConfig(
    name="tiny",
    start=BlueprintStart(channels=(4, 4), num_layers=(1, 0)),
    recipe=Ladder(
        sizes=(300, 500),
        threshold=0.0, standard_errors=0.0, score_samples=32, width_step=2,
    ),
    epochs=6, batch_size=16, learning_rate=1e-2, optimizer="adamw", plateau=False, l1=1e-5, anneal_share=0.5,
    cutout=Cutout(part=0.25, from_params=0), mixup=Mixup(alpha=0.5, from_params=0), cpu_threads=1,
)
device = torch.device("cpu")
origin = read(Path(sys.argv[3])) if len(sys.argv) > 3 else None
with group_of(device) as group:
    digests = grow(
        config,
        load(sys.argv[1]),
        Path(sys.argv[2]),
        device,
        resume=False,
        observe=lambda record: None,
        group=group,
        origin=origin,
    )
    Path(f"{sys.argv[2]}.{group.rank}").write_text(" ".join(digests))
"""


def run(processes: int, images: Path, zoo: Path, *origin: Path) -> None:
    script = images.parent / "run.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*([sys.executable] if processes == 1 else launcher), script, images, zoo, *origin],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, write_images: Callable[..., Path]) -> Path:
    return write_images(tmp_path_factory.mktemp("parallel") / "bars", {"train": 30, "test": 8}, size=(16, 16))


@pytest.fixture(scope="module")
def zoos(images: Path) -> tuple[Path, Path]:
    """The zoo of one process, and that of two; beside each, the digests that each process returned."""
    one, two = images.parent / "one", images.parent / "two"
    run(1, images, one)
    run(2, images, two)
    return one, two


def log(zoo: Path) -> list[dict[str, object]]:
    (path,) = zoo.glob("runs/*/log.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_process_names_the_same_checkpoints(zoos: tuple[Path, Path]) -> None:
    two = zoos[1]
    first, second = (Path(f"{two}.{rank}").read_text().split() for rank in range(2))
    assert first == second
    assert set(first) == {digest for digest, _ in Directory(two).paths()}


def test_the_run_is_logged_once(zoos: tuple[Path, Path]) -> None:
    one, two = zoos
    assert [record["event"] for record in log(two)] == [record["event"] for record in log(one)]


def test_two_processes_train_as_one(zoos: tuple[Path, Path]) -> None:
    """Same decisions; losses equal up to rounding, which training amplifies from epoch to epoch."""
    one, two = map(log, zoos)
    assert [record["chosen"] for record in two if record["event"] == "decision"] == [
        record["chosen"] for record in one if record["event"] == "decision"
    ]
    losses = [[record["loss"] for record in records if record["event"] == "epoch"] for records in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)


def test_the_checkpoints_have_the_same_architectures(zoos: tuple[Path, Path]) -> None:
    one, two = ({read_header(path).descriptor.architecture for _, path in Directory(zoo).paths()} for zoo in zoos)
    assert len(one) > 1
    assert one == two


def test_two_processes_begin_with_a_checkpoint(images: Path, zoos: tuple[Path, Path]) -> None:
    """The zoo has it once, and the log tells of it once."""
    first = Path(f"{zoos[0]}.0").read_text().split()[0]
    zoo = images.parent / "begun"
    run(2, images, zoo, Directory(zoos[0]).path(first))
    digests, others = (Path(f"{zoo}.{rank}").read_text().split() for rank in range(2))
    assert digests == others
    assert digests[0] == first
    assert {digest for digest, _ in Directory(zoo).paths()} == set(digests)
    saved = [record["digest"] for record in log(zoo) if record["event"] == "checkpoint"]
    assert saved == digests
    assert len(digests) > 1
