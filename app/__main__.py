"""zoo-serve: the zoo over HTTP."""

from __future__ import annotations

import os
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from app.logs import LogFormat

if TYPE_CHECKING:  # the process that only watches over workers needs none of it
    from fastapi import FastAPI

EPILOG = """
[bold]Examples[/bold]

zoo-serve --zoo my-zoo

zoo-serve --zoo my-zoo --zoo zoo/pretrained --port 8080

zoo-serve --zoo my-zoo --workers 4 --log-format json --access-log

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
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that answer; one for each core is the most of use.", envvar="ZOO_WORKERS")
    ] = 1,
    log_level: Annotated[LogLevel, typer.Option(envvar="ZOO_LOG_LEVEL")] = LogLevel.info,
    log_format: Annotated[LogFormat, typer.Option(help="json: one object a line.", envvar="ZOO_LOG_FORMAT")] = (
        LogFormat.text
    ),
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Log each request.", envvar="ZOO_ACCESS_LOG")
    ] = False,
) -> None:
    """Serve the checkpoints of a zoo: choose by budget, predict, download.

    Further settings are environment variables, ZOO_TOKEN and ZOO_DEFAULT_DATASET among them; see the README.
    """
    import uvicorn

    for root in zoo:
        if not root.is_dir():
            _fail(f"--zoo {root}: no such directory")
    # The environment is what workers inherit.
    os.environ |= {
        "ZOO_ZOO": os.pathsep.join(map(str, zoo)),
        "ZOO_HOST": host,
        "ZOO_PORT": str(port),
        "ZOO_LOG_LEVEL": log_level,
        "ZOO_LOG_FORMAT": log_format,
        "ZOO_ACCESS_LOG": str(int(access_log)),
    }
    _check_settings()
    with tempfile.TemporaryDirectory(prefix="zoo-metrics-") as metrics:
        if workers > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics
        uvicorn.run(
            "app.__main__:worker_app",
            factory=True,
            host=host,
            port=port,
            workers=workers,
            log_config=None,
            log_level=log_level,
            access_log=False,
            ws="none",
            http="app.one_write:OneWriteProtocol",
            # A twentieth of a prediction's time, for the client's address and scheme, which nothing here depends on.
            proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
        )


def worker_app() -> FastAPI:
    """The service of one process, as the environment says."""
    from app import logs
    from app.main import create_app
    from app.settings import Settings

    access = os.environ["ZOO_ACCESS_LOG"] == "1"
    logs.configure(os.environ["ZOO_LOG_LEVEL"], LogFormat(os.environ["ZOO_LOG_FORMAT"]), access=access)
    return create_app(Settings())


def _check_settings() -> None:
    from pydantic import ValidationError

    from app.settings import Settings

    try:
        Settings()
    except ValidationError as error:
        _fail("; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors()))


def _fail(message: str) -> NoReturn:
    typer.echo(f"zoo-serve: {message}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    command()
