"""zoo-train: grows a zoo. Torch is imported by the commands themselves, so that --help answers at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from trainer.commands.adapt import adapt
from trainer.commands.check import check_folder
from trainer.commands.distil import distil
from trainer.commands.elastic import digits_elastic, elastic
from trainer.commands.options import RUN_NAMES
from trainer.commands.prune import prune
from trainer.commands.report import report
from trainer.commands.sweep import sweep
from trainer.commands.train import train
from zoo.cli import terminal
from zoo.errors import ZooError

EPILOG = """
[bold]Examples[/bold]

zoo-train digits --data digits --zoo my-zoo

zoo-train grow --data cifar10.tar.gz --zoo my-zoo --max-params 100000

zoo-train paper --data cifar10.tar.gz --zoo my-zoo --epochs 60 --limit-train 10000 --device cpu

zoo-train paper --data photos/ --zoo my-zoo --seed 1 --resume

zoo-train sweep paper --data cifar10 --zoo my-zoo --seeds 0-4 --taus 1,1.5,2

zoo-train distil 5d41402a 7d793037 --data cifar10 --zoo my-zoo --epochs 30

zoo-train elastic --from grow --data cifar10 --zoo my-zoo --epochs 150

zoo-train report my-zoo

DATA is a directory, .tar.gz or .zip of {train,test}/<class>/…/*.{png,jpg,webp,bmp,gif,tif,ppm} or of <class>/…/*
(zoo-train check DATA looks at it), or one of: digits, cifar10, cifar100, fashion_mnist (the last three are downloaded).
"""


class _TrainByDefault(terminal.Group):
    """`zoo-train digits …` is `zoo-train train digits …`: a first word that is no command is the training's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "--help", "--version"}:
            args = ["train", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_TrainByDefault,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Grow a zoo of checkpoints, and report on it. [bold]zoo-train RUN …[/bold] is short for "
    f"[bold]zoo-train train RUN …[/bold], where RUN is one of: {RUN_NAMES}. Its options: zoo-train RUN --help.",
    epilog=EPILOG,
)
_EXAMPLES: dict[Callable[..., None], str] = {
    distil: "zoo-train distil 5d41402a 7d793037 --data cifar10.tar.gz --zoo my-zoo --epochs 30",
    adapt: "zoo-train adapt --data photos/ --zoo my-zoo --minutes 10",
    elastic: "zoo-train elastic --from 5d41402a --levels 7k,16k,34k --data cifar10.tar.gz --zoo my-zoo --epochs 20",
    digits_elastic: "zoo-train digits-elastic --data digits --zoo my-zoo",
    prune: "zoo-train prune 7d793037 --max-params 30000 --data cifar10.tar.gz --zoo my-zoo --epochs 12",
    report: "zoo-train report my-zoo --out my-report",
    sweep: "zoo-train sweep paper --data cifar10 --zoo my-zoo --seeds 0-4 --taus 1,1.5,2",
}
app.command(epilog=EPILOG)(train)
for _command, _example in _EXAMPLES.items():
    app.command(epilog=f"Example: {_example}")(_command)


app.command(name="check", epilog="Example: zoo-train check photos/")(check_folder)


@app.callback()
def zoo_train(version: terminal.VersionOption = False) -> None:
    pass


# How often a thread of torch's looks for work again before it sleeps (libgomp's setting). By default 300,000 times,
# while others wait for the core: beside two trainings, two threads took twice as long as one. With this they take as
# long as one, and on a quiet machine no longer than by default (docs/log.md, 2026-11-30).
_SPINS = "10000"


def main() -> None:
    """As one runs it: also an error outside of training, as of a full disk, is one line on stderr."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)  # read when torch is imported
    try:
        app()
    except (ZooError, OSError) as error:
        typer.echo(f"zoo-train: {error}", err=True)
        sys.exit(1)
