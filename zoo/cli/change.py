"""zoo publish, alias, deprecate, stage, promote, delete: what changes a zoo."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer

from zoo.catalog.views import CheckpointView
from zoo.choosing.budget import ALL_DATASETS
from zoo.cli.calibrate import find_cascades
from zoo.cli.options import (
    DatasetOption,
    JsonOption,
    PublishTokenOption,
    UrlOption,
    ZooOption,
    followed,
    opened,
    with_changing_zoo,
)
from zoo.cli.output import fail, print_json
from zoo.errors import NotFoundError
from zoo.protocol import Zoo

app = typer.Typer()


Named = Annotated[str, typer.Argument(help="Digest, digest prefix, name or alias.", metavar="ID")]


Whole = Annotated[
    str, typer.Argument(help="The whole digest: a name may be another's the next time.", metavar="DIGEST")
]


@app.command(name="publish", epilog="Example: zoo publish mine.safetensors --url http://127.0.0.1:8000")
def publish_(
    files: Annotated[list[Path], typer.Argument(help="Checkpoint files.", metavar="FILE…")],
    zoo: ZooOption = None,
    url: UrlOption = None,
    token: PublishTokenOption = None,
    stage: Annotated[bool, typer.Option("--stage", help="Found by digest alone, until `zoo promote`.")] = False,
    data: Annotated[
        str | None,
        typer.Option(help="Then find cascades with these images, as calibrate --data does.", metavar="PATH|NAME"),
    ] = None,
    eval_data: Annotated[
        list[str] | None,
        typer.Option(help="Test images to measure accuracies on, else ZOO_EVAL_DATA; a server has its own."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Add checkpoints to a zoo, once they are found to be whole and valid.

    One whose accuracy was not measured (--eval-data) is chosen where no
    other meets a budget; ZOO_TRUST_CLAIMS=1 says otherwise.
    """
    if eval_data and not zoo:
        fail("--eval-data measures what is put into directories: give --zoo DIR; a server measures with its own")
    library = opened(zoo, url, token, tuple(eval_data or ()))
    if data is not None and not zoo:
        fail("--data finds cascades in directories: give --zoo DIR, or run calibrate beside the server")
    views = [view for file in files for view in _published(library, _checkpoint_file(file), stage=stage)]
    if data is not None and zoo:
        for dataset in sorted({view.dataset for view in views}):
            find_cascades(followed(zoo), data, dataset)
    if as_json:
        print_json(views)
    else:
        for view in views:
            typer.echo(f"{view.id}  {view.name}")


def _published(library: Zoo, data: bytes, *, stage: bool) -> list[CheckpointView]:
    """The checkpoint, or each level of an elastic file, smallest first."""
    view = library.publish(data, stage=stage)
    if view.elastic is None:
        return [view]
    from zoo.checkpoint.elastic import ElasticFile, is_elastic

    if not is_elastic(BytesIO(data)):
        return [view]
    return [library.show(level.digest) for level in ElasticFile(BytesIO(data)).levels]


def _checkpoint_file(path: Path) -> bytes:
    """Its bytes, which are checked where they are published; what is something else altogether is named here."""
    if path.is_dir():
        fail(f"{path} is a folder: give the checkpoints in it, {path}/checkpoints/*.safetensors")
    data = path.read_bytes()
    if data[8:9] != b"{":
        kind = "an ONNX file, which is made from a checkpoint" if path.suffix == ".onnx" else f"{len(data):,} bytes"
        fail(f"{path}: a checkpoint is a safetensors file, not {kind}")
    return data


@app.command(epilog="Examples: zoo alias stable 7d2431d99a4e --zoo my-zoo; zoo alias stable --remove --zoo my-zoo")
@with_changing_zoo
def alias(
    zoo: Zoo,
    name: Annotated[str, typer.Argument(help="The alias.", metavar="ALIAS")],
    reference: Annotated[str | None, typer.Argument(help="Digest, digest prefix, name or alias.", metavar="ID")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the alias away.")] = False,
    dataset: DatasetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name a checkpoint; in the same step no other of its data set has the alias any longer."""
    if remove == (reference is not None):
        fail("give the ID of the checkpoint to name, or --remove")
    if reference is None:
        zoo.unalias(name, dataset=dataset)
    else:
        _show_changed(zoo.alias(name, reference, dataset=dataset), as_json=as_json)


@app.command(epilog="Example: zoo deprecate 7d2431d99a4e --zoo my-zoo")
@with_changing_zoo
def deprecate(zoo: Zoo, reference: Named, dataset: DatasetOption = None, as_json: JsonOption = False) -> None:
    """Have a checkpoint found by name, but chosen by no budget and no computed alias."""
    _show_changed(zoo.deprecate(reference, dataset=dataset), as_json=as_json)


@app.command(epilog="Example: zoo undeprecate 7d2431d99a4e --zoo my-zoo")
@with_changing_zoo
def undeprecate(zoo: Zoo, reference: Named, dataset: DatasetOption = None, as_json: JsonOption = False) -> None:
    """Have a deprecated checkpoint chosen again."""
    _show_changed(zoo.undeprecate(reference, dataset=dataset), as_json=as_json)


@app.command(epilog="Example: zoo stage 7d2431d99a4e --zoo my-zoo")
@with_changing_zoo
def stage(zoo: Zoo, reference: Named, dataset: DatasetOption = None, as_json: JsonOption = False) -> None:
    """Have a checkpoint found by its digest alone, until it is promoted; `zoo publish --stage` begins so."""
    _show_changed(zoo.stage(reference, dataset=dataset), as_json=as_json)


@app.command(epilog="Example: zoo promote 7d2431d99a4e --zoo my-zoo")
@with_changing_zoo
def promote(zoo: Zoo, reference: Named, dataset: DatasetOption = None, as_json: JsonOption = False) -> None:
    """Have a staged checkpoint chosen by budgets and found by name."""
    _show_changed(zoo.promote(reference, dataset=dataset), as_json=as_json)


@app.command(epilog="Example: zoo delete <digest> --zoo my-zoo")
@with_changing_zoo
def delete(zoo: Zoo, digest: Whole) -> None:
    """Take a checkpoint out of the zoo; its file stays until `zoo gc`, `zoo undelete` brings it back until then.

    An elastic file stays until all of its levels are deleted.
    """
    place = None
    with suppress(NotFoundError):  # what is deleted already may be deleted again
        place = zoo.show(digest).elastic
    zoo.delete(digest)
    if place is None:
        return
    if any(view.elastic and view.elastic.file == place.file for view in zoo.models(dataset=ALL_DATASETS)):
        typer.echo(f"hidden: its bytes stay in elastic file {place.file} until its other levels go, too", err=True)


@app.command(epilog="Example: zoo undelete <digest> --zoo my-zoo")
@with_changing_zoo
def undelete(zoo: Zoo, digest: Whole, as_json: JsonOption = False) -> None:
    """Bring a deleted checkpoint back, as long as `zoo gc` has not deleted its file."""
    _show_changed(zoo.undelete(digest), as_json=as_json)


def _show_changed(view: CheckpointView, *, as_json: bool) -> None:
    if as_json:
        print_json(view)
    else:
        typer.echo(f"{view.id}  {view.name}")
