"""What several commands take: a zoo, a budget, a format."""

from __future__ import annotations

import atexit
import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, cast, get_type_hints

import typer
from pydantic import ValidationError

from zoo.catalog.views import CheckpointView
from zoo.choosing.budget import Bounds, Budget, FileFormat
from zoo.cli.output import fail
from zoo.cli.terminal import Options, directory, explained, made_of
from zoo.client import ZooClient
from zoo.errors import CheckpointError
from zoo.protocol import Zoo

if TYPE_CHECKING:  # of an extra
    from zoo.library.local import LocalZoo
    from zoo.store.store import Store

# Object storage with the checkpoints, instead of the directory: as a server is told.
STORE_VARIABLE = "ZOO_STORE"

ZooOption = Annotated[
    list[Path] | None,
    typer.Option(
        help=f"Zoo directory; give it again for several. See {STORE_VARIABLE} for buckets.",
        metavar="DIR",
        parser=directory,
    ),
]
UrlOption = Annotated[str | None, typer.Option(help="A zoo server, instead of a directory.", metavar="URL")]
FileOption = Annotated[
    Path | None, typer.Option(help="A checkpoint file, or an elastic file, instead of a zoo.", metavar="FILE")
]
TokenOption = Annotated[str | None, typer.Option(help="The server's token.", envvar="ZOO_TOKEN", show_envvar=True)]
PublishTokenOption = Annotated[
    str | None, typer.Option(help="The server's token for publishing.", envvar="ZOO_PUBLISH_TOKEN", show_envvar=True)
]
DatasetOption = Annotated[str | None, typer.Option(help="Whose alias or name is meant; the default one without it.")]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="With --data: leave out images that cannot be read, as zoo-train does.")
]
TestShareOption = Annotated[
    float | None,
    typer.Option(help="With --data, a folder without test images: as zoo-train had it.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reference = Annotated[
    str | None, typer.Argument(help="Digest, digest prefix, name or alias, instead of a budget.", metavar="ID")
]


def _of_budget(name: str) -> tuple[Any, Any]:
    """A field of a budget as an option, described as the service describes it."""
    option = typer.Option(help=str(Budget.model_fields[name].description).replace("min_acc", "--min-acc"))
    return cast(Any, Annotated)[get_type_hints(Bounds)[name], option], None


_FILTERS: Options = {
    name: _of_budget(name)
    for name in ("min_acc", "max_params", "max_macs", "max_bytes", "max_latency_ms", "dataset", "family", "confidence")
}
_PREFERENCE: Options = {
    "prefer": _of_budget("prefer"),
    "best": (
        Annotated[bool, typer.Option("--best", help="The most accurate within the budget: --prefer accuracy.")],
        False,
    ),
}
_FORMAT: Options = {
    "format": (Annotated[FileFormat, typer.Option(help="The file, also for --max-bytes.")], "safetensors")
}
_ZOO: Options = {"zoo": (ZooOption, None), "url": (UrlOption, None), "token": (TokenOption, None)}
_FILE: Options = {"file": (FileOption, None)}


def opened(zoo: list[Path] | None, url: str | None, token: str | None, eval_data: tuple[str, ...] = ()) -> Zoo:
    """A library here, looked through, or the client of a server."""
    if bool(zoo) == bool(url):
        fail("give either --zoo DIR or --url URL")
    return followed(zoo, eval_data) if zoo else ZooClient(str(url), token)


def _opened_or_file(zoo: list[Path] | None, url: str | None, token: str | None, file: Path | None) -> Zoo:
    if file is None:
        return opened(zoo, url, token)
    if zoo or url:
        fail("give either --zoo DIR, --url URL or --file FILE")
    return _of_file(file)


def _of_file(file: Path) -> LocalZoo:
    """A zoo of what the file holds, for as long as the command runs."""
    from zoo.checkpoint.elastic import ElasticFile, is_elastic
    from zoo.checkpoint.file import decode
    from zoo.store.directory import Directory

    folder = TemporaryDirectory()
    atexit.register(folder.cleanup)
    with file.open("rb") as opened_file:
        if is_elastic(opened_file):
            elastic = ElasticFile(opened_file, file.name)
            files = list(elastic.files(0, max(len(elastic.there) - 1, 0)))
        else:
            files = [file.read_bytes()]
            decode(files[0], file.name)
    for data in files:
        Directory(Path(folder.name)).put(data)
    from zoo.library.local import LocalZoo

    local = LocalZoo([Path(folder.name)])
    local.sync()
    return local


def followed(zoo: list[Path], eval_data: tuple[str, ...] = ()) -> LocalZoo:
    """A library over these directories, looked through."""
    local = library(zoo, eval_data)
    local.sync()
    return local


def library(zoo: list[Path], eval_data: tuple[str, ...] = ()) -> LocalZoo:
    from zoo.library.local import LocalZoo
    from zoo.library.publishing.publish import PublishSettings

    publishing = PublishSettings(eval_data=eval_data) if eval_data else None
    return LocalZoo(zoo, publishing=publishing, store=store(zoo))


def store(zoo: list[Path]) -> Store:
    from zoo.store.store import store_of

    return store_of(zoo, os.environ.get(STORE_VARIABLE) or None)


def budget_of(**options: Any) -> Budget:
    """Options that say what no budget can are named, and the command ends."""
    if options.pop("best", False):
        if options["prefer"] not in (None, "accuracy"):
            fail(f"--best is --prefer accuracy: give it or --prefer {options['prefer']}, not both")
        options["prefer"] = "accuracy"
    try:
        return Budget(**options)
    except ValidationError as error:
        fail(explained(error, lambda field: "--" + field.replace("_", "-")))


with_filters = made_of("budget", _FILTERS, budget_of)
with_budget = made_of("budget", _FILTERS | _PREFERENCE, budget_of)
with_budget_and_format = made_of("budget", _FORMAT | _FILTERS | _PREFERENCE, budget_of)
with_zoo = made_of("zoo", _ZOO | _FILE, _opened_or_file)
with_remote_or_local_zoo = made_of("zoo", _ZOO, opened)
# For changing it: the token is that for publishing.
with_changing_zoo = made_of("zoo", _ZOO | {"token": (PublishTokenOption, None)}, opened)


def chosen(zoo: Zoo, reference: str | None, budget: Budget) -> CheckpointView:
    if reference is None:
        return _choice(zoo, budget)
    if budget.is_bounded():
        fail(f"{reference} names one checkpoint: give it or a budget, not both")
    return zoo.show(reference, dataset=budget.dataset)


def _choice(zoo: Zoo, budget: Budget) -> CheckpointView:
    """In a directory, of files that are whole: one that is damaged leaves the catalog, and the next is chosen."""
    while True:
        view = zoo.choose(**budget.given())
        if isinstance(zoo, ZooClient):
            return view
        with suppress(CheckpointError):  # it has been told of
            cast("LocalZoo", zoo).files.load(view.id)
            return view
