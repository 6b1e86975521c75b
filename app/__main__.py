"""zoo-serve: the zoo over HTTP."""

from __future__ import annotations

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    sys.path.pop(0)  # `python -m` puts the current directory there, whose files are none of this program's

from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from app.monitoring.logs import LogFormat
from zoo.cli import terminal

EPILOG = """
[bold]Examples[/bold]

zoo-serve --zoo my-zoo

zoo-serve --zoo my-zoo --zoo zoo/pretrained --port 8080

zoo-serve --zoo my-zoo --workers 4 --log-format json --access-log

ZOO_TOKEN=a-long-secret-token zoo-serve --zoo my-zoo --host 0.0.0.0

systemd-socket-activate -l 127.0.0.1:8000 zoo-serve --zoo my-zoo

curl 'http://127.0.0.1:8000/models?min_acc=0.8'

curl -F file=@frog.png 'http://127.0.0.1:8000/predict?min_acc=0.8'
"""


command = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@command.command(cls=terminal.Command, epilog=EPILOG)
def main(
    zoo: Annotated[
        list[Path],
        typer.Option(help="Zoo directory; give it again to serve several as one.", metavar="DIR", envvar="ZOO_ZOO"),
    ],
    host: Annotated[str, typer.Option(help="Other than loopback needs ZOO_TOKEN.", envvar="ZOO_HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, envvar="ZOO_PORT")] = 8000,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Processes that answer; one for each core is the most of use.", envvar="ZOO_WORKERS"),
    ] = 1,
    fd: Annotated[
        int | None,
        typer.Option(min=0, help="Number of an open listening socket, instead of --host and --port.", metavar="N"),
    ] = None,
    eval_data: Annotated[
        list[str] | None,
        typer.Option(
            help="Test images that accuracies of what is published are measured on: a directory or archive of "
            "{train,test}/<class>/<image>, or digits; again for another data set.  [env var: ZOO_EVAL_DATA]",
            metavar="PATH|NAME",
        ),
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="Path below which a proxy serves this.", metavar="/PREFIX", envvar="ZOO_ROOT_PATH")
    ] = "",
    log_level: Annotated[Literal["debug", "info", "warning", "error"], typer.Option(envvar="ZOO_LOG_LEVEL")] = "info",
    log_format: Annotated[LogFormat, typer.Option(help="json: one object a line.", envvar="ZOO_LOG_FORMAT")] = "text",
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Log each request.", envvar="ZOO_ACCESS_LOG")
    ] = False,
    _: terminal.VersionOption = False,
) -> None:
    """Serve the checkpoints of a zoo: choose by budget, predict, download.

    Further settings are environment variables, ZOO_TOKEN and ZOO_DEFAULT_DATASET among them; see docs/serving.md.
    """
    from pydantic import ValidationError

    from zoo.errors import ZooError
    from zoo.store.directory import require_zoo

    try:
        from app.process import listen
        from app.process.workers import Worker, serve
        from app.settings import Settings
    except ModuleNotFoundError as error:
        _fail(terminal.missing(error))

    for root in zoo:
        try:
            require_zoo(root)
        except (ZooError, OSError) as error:
            _fail(f"--zoo {root}: {error}")
    try:
        measured: dict[str, Any] = {"eval_data": tuple(eval_data)} if eval_data else {}  # else as the variable says
        settings = Settings(zoo=tuple(zoo), host=host, port=port, root_path=root_path.rstrip("/"), **measured)
    except ValidationError as error:
        _fail(terminal.explained(error, lambda field: "ZOO_" + field.upper()))
    try:
        listener = listen.handed_over(fd)
    except OSError as error:
        _fail(f"the socket handed over: {error.strerror}")
    if listener is not None and settings.token is None and not listener.is_loopback():
        _fail(f"{', '.join(listener.addresses())} can be reached from other machines: set ZOO_TOKEN")
    try:
        listener = listener or listen.bind(host, port)
    except OSError as error:
        _fail(f"--host {host} --port {port}: {error}")
    raise typer.Exit(serve(Worker(settings, log_level, log_format, access_log), workers, listener))


def _fail(message: str) -> NoReturn:
    typer.echo(f"zoo-serve: {message}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    command()
