"""zoo: what a person does with a zoo. Data goes to stdout, the rest to stderr."""

from __future__ import annotations

import logging
import sys
from http import HTTPStatus

import typer

from zoo.cli import calibrate, change, elastic, look, maintain, terminal, use, verify
from zoo.errors import RemoteError, ZooError
from zoo.library import audit

EPILOG = """
[bold]Examples[/bold]

zoo list --zoo my-zoo --min-acc 0.8

zoo datasets --zoo my-zoo

zoo show best --url http://127.0.0.1:8000

zoo get --zoo my-zoo --min-acc 0.8 -o small.safetensors

zoo get --zoo my-zoo --max-params 20000 --format onnx -o best-of-20000.onnx

zoo get --url http://127.0.0.1:8000 --min-acc 0.8 --upgradable -o net.safetensors

zoo upgrade net.safetensors --url http://127.0.0.1:8000 --min-acc 0.86

zoo predict frog.png cat.jpg --zoo my-zoo --min-acc 0.8

zoo predict frog.png --zoo my-zoo --min-acc 0.8 --policy cascade

zoo verify --zoo my-zoo --data cifar10.tar.gz

zoo calibrate --zoo my-zoo

zoo publish mine.safetensors --url http://127.0.0.1:8000
"""

app = typer.Typer(
    cls=terminal.Group,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    epilog=EPILOG,
)
for commands in (look, use, elastic, verify, calibrate, change, maintain):
    app.add_typer(commands.app)


@app.callback()
def zoo_(version: terminal.VersionOption = False) -> None:
    """What a person does with a zoo: a directory of checkpoints, or a server."""


def main() -> None:
    """The installed command: an error of the zoo is one line on stderr, as is each change of a zoo."""
    audit_log = logging.StreamHandler()
    audit_log.setFormatter(audit.Formatter())
    logging.getLogger("zoo.audit").addHandler(audit_log)
    logging.getLogger("zoo.audit").setLevel(logging.INFO)
    try:
        app()
    except ModuleNotFoundError as error:
        typer.echo(f"zoo: {terminal.missing(error)}", err=True)
        sys.exit(1)
    except (ZooError, OSError) as error:
        wanted = isinstance(error, RemoteError) and error.status == HTTPStatus.UNAUTHORIZED
        hint = "; give it with --token, or in ZOO_TOKEN (to publish: ZOO_PUBLISH_TOKEN)" if wanted else ""
        typer.echo(f"zoo: {error}{hint}", err=True)
        sys.exit(1)
