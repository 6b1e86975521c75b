"""What the three commands have in common: any terminal can show what they say, --version, options taken together."""

from __future__ import annotations

import codecs
import inspect
import io
import os
import sys
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:  # which takes long to import
    from pydantic import ValidationError

# What our own texts have beyond ASCII, and has no plain form in Unicode's tables.
_PLAIN = {"–": "-", "—": "-", "×": "x", "→": "->", "≥": ">=", "·": ".", "±": "+-", "“": '"', "”": '"', "’": "'"}


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """The nearest that the terminal has. Names of files that are no text come out as the bytes that they are."""
    assert isinstance(error, UnicodeEncodeError)
    found = error.object[error.start : error.end]
    if all("\udc80" <= character <= "\udcff" for character in found):
        return bytes(ord(character) - 0xDC00 for character in found), error.end
    plain = "".join(_PLAIN.get(c) or unicodedata.normalize("NFKD", c) for c in found)
    return plain.encode(error.encoding, "replace").decode(error.encoding), error.end


codecs.register_error("zoo.plainly", _plainly)


def _prepare() -> None:
    """Before a command writes: on a terminal or pipe that is not UTF-8, Python would end at the first other letter."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as some daemons start their children
            setattr(sys, name, Path(os.devnull).open("r+"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="zoo.plainly")


class Group(TyperGroup):
    def main(self, *arguments: Any, **options: Any) -> Any:
        _prepare()
        return super().main(*arguments, **options)


class Command(TyperCommand):
    def main(self, *arguments: Any, **options: Any) -> Any:
        _prepare()
        return super().main(*arguments, **options)


def directory(text: str) -> Path:
    """Of an option; the value of a variable that is not set is not the working directory."""
    if not text:
        raise typer.BadParameter("a directory was expected, an empty word came")
    return Path(text)


def is_unicode() -> bool:
    """Whether stdout takes any character."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def _show_version(context: typer.Context, wanted: bool) -> bool:
    if wanted:
        try:
            number = version("checkpoint-zoo")
        except PackageNotFoundError:  # run from a checkout that is not installed
            number = "of a checkout"
        typer.echo(f"{context.find_root().info_name} {number}")
        raise typer.Exit
    return wanted  # or the option's value would be None


# By the extra that brings them: packages that a command may miss.
_EXTRAS = {
    "train": {"jaxtyping", "matplotlib", "sklearn", "torch", "torchvision"},
    "local": {"PIL", "numpy", "onnxruntime", "safetensors", "sqlalchemy", "sqlmodel"},
    "objects": {"obstore"},
    "serve": {"fastapi", "orjson", "prometheus_client", "pydantic_settings", "starlette", "uvicorn"},
}


def missing(error: ModuleNotFoundError) -> str:
    """Which extra to install. Raises the error where it is of no extra's package."""
    package = str(error.name).partition(".")[0]
    extra = next((extra for extra, packages in _EXTRAS.items() if package in packages), None)
    if extra is None:
        raise error
    return f"this needs {package}, of the extra `{extra}`: pip install 'checkpoint-zoo[{extra}]'"


def explained(error: ValidationError, option_of: Callable[[str], str]) -> str:
    """Pydantic's errors in one line, each with the option or variable that it is about: what its field is called."""
    lines = []
    for item in error.errors():
        message = item["msg"].removeprefix("Value error, ")
        lines.append(f"{option_of(str(item['loc'][0]))}: {message}" if item["loc"] else message)
    return "; ".join(lines)


VersionOption = Annotated[
    bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
]

# By name: what typer reads, and the default; inspect.Parameter.empty where there has to be a value.
Options = dict[str, tuple[Any, Any]]


def options_of(make: Any) -> Options:
    """The options that annotate a function's parameters, or a dataclass's fields."""
    parameters = inspect.signature(make, eval_str=True).parameters.items()
    return {name: (each.annotation, each.default) for name, each in parameters}


def made_of(parameter: str, options: Options, make: Callable[..., Any]) -> Callable[[Callable[..., None]], Any]:
    """A decorator: the command has these options instead of the parameter, which is made of what is given for them.

    Called by a program, it may be given only some: `make` has its own defaults for the others.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def wrapped(**given: Any) -> None:
            made = make(**{name: given.pop(name) for name in options if name in given})
            with made if isinstance(made, AbstractContextManager) else nullcontext():
                command(**{parameter: made}, **given)

        own = inspect.signature(command, eval_str=True)
        parameters = [each for name, each in own.parameters.items() if name != parameter]
        parameters += [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=option)
            for name, (option, default) in options.items()
        ]
        # Those with a default come last, as in any signature.
        parameters.sort(key=lambda each: each.default is not inspect.Parameter.empty)
        # What typer reads: the signature for names and defaults, the annotations for types.
        wrapped.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {each.name: each.annotation for each in parameters}
        return wrapped

    return decorate
