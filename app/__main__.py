"""zoo-serve: the zoo over HTTP."""

from __future__ import annotations

import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

EPILOG = """
[bold]Examples[/bold]

zoo-serve --zoo my-zoo

zoo-serve --zoo my-zoo --zoo zoo/pretrained --port 8080

ZOO_TOKEN=a-long-secret-token zoo-serve --zoo my-zoo --host 0.0.0.0

curl 'http://127.0.0.1:8000/models?min_acc=0.8'

curl -F file=@frog.png 'http://127.0.0.1:8000/predict?min_acc=0.8'
"""


class LogLevel(StrEnum):
    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


command = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@command.command(epilog=EPILOG)
def serve(
    zoo: Annotated[
        list[Path],
        typer.Option(help="Zoo directory; give it again to serve several as one.", metavar="DIR", envvar="ZOO_ZOO"),
    ],
    host: Annotated[str, typer.Option(help="Other than loopback needs ZOO_TOKEN.", envvar="ZOO_HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, envvar="ZOO_PORT")] = 8000,
    log_level: Annotated[LogLevel, typer.Option()] = LogLevel.info,
) -> None:
    """Serve the checkpoints of a zoo: choose by budget, predict, download.

    Further settings are environment variables, ZOO_TOKEN and ZOO_DEFAULT_DATASET among them; see the README.
    """
    import uvicorn

    from app.main import create_app
    from app.settings import Settings

    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    for root in zoo:
        if not root.is_dir():
            _fail(f"--zoo {root}: no such directory")
    try:
        settings = Settings(zoo=tuple(zoo), host=host, port=port)
    except ValidationError as error:
        _fail("; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors()))
    uvicorn.run(create_app(settings), host=host, port=port, log_level=log_level, access_log=False)


def _fail(message: str) -> None:
    typer.echo(f"zoo-serve: {message}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    command()
