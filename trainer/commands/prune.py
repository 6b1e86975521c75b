"""zoo-train prune: a smaller checkpoint, cut from a larger one and taught by it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from trainer.commands.options import (
    DeviceOption,
    Images,
    Training,
    ZooOption,
    reported,
    torch_device,
    with_images,
    with_training,
)


@with_images
@with_training
def prune(
    checkpoint: Annotated[
        str, typer.Argument(help="What to cut: a file, or the first digits of a digest in the zoo.", metavar="ID|FILE")
    ],
    zoo: ZooOption,
    images: Images,
    training: Training,
    max_params: Annotated[
        int | None, typer.Option(help="Leave at most this many parameters.", min=1, show_default=False)
    ] = None,
    max_macs: Annotated[
        int | None, typer.Option(help="… multiply-accumulates of an image.", min=1, show_default=False)
    ] = None,
    max_memory_bytes: Annotated[
        int | None, typer.Option(help="… bytes of an image's activations, at their peak.", min=1, show_default=False)
    ] = None,
    epochs: Annotated[int, typer.Option(help="Of distillation.", min=1)] = 12,
    ranking: Annotated[
        Literal["taylor", "l2"],
        typer.Option(help="What channels are worth: the loss without them, to first order; the norm of their weights."),
    ] = "taylor",
    device: DeviceOption = "auto",
) -> None:
    """Cut a checkpoint to a budget, and teach what is left what the whole one knows.

    DATA are the images that it was trained on, limited and resized as its run had it. Writes one new checkpoint; the
    old file stays. The same command again goes on where it was stopped. Prints the SHA-256 digest.
    """
    with reported("goes on from the last whole epoch") as console:
        from trainer.distil.distil import checkpoint_of
        from trainer.distil.prune import prune as prune_one
        from trainer.journal.display import Display
        from trainer.recipes.names import run_named
        from zoo.errors import RunError
        from zoo.network.levels import NetworkBudget

        if max_params is None and max_macs is None and max_memory_bytes is None:
            raise RunError("zoo-train prune needs a budget: --max-params, --max-macs or --max-memory-bytes")
        origin = checkpoint_of(checkpoint, zoo)
        lineage = origin.descriptor.lineage
        config = run_named(lineage.run, training.overrides(distil_epochs=epochs, seed=lineage.seed))
        budget = NetworkBudget(max_params, max_macs, max_memory_bytes)
        chosen = torch_device(device)
        data = images.load(console)
        with Display(console) as display:
            digest = prune_one(config, data, zoo, origin, budget, chosen, display, ranking=ranking)
    typer.echo(digest)
