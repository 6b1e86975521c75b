"""Publishing, aliases, deprecation, staging, deletion: the same verbs in programs and on the command line."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zoo.checkpoint.file import Checkpoint, digest_of, encode
from zoo.cli.main import app
from zoo.client import AsyncZooClient, ZooClient
from zoo.errors import GoneError, NotADigestError, NotFoundError, RemoteError
from zoo.library.local import LocalZoo

TOKEN = "a-token-for-publishing"
Do = Callable[..., Any]


def in_async_client(url: str) -> Do:
    def do(verb: str, *args: Any, **options: Any) -> Any:
        async def ask() -> Any:
            async with AsyncZooClient(url, TOKEN) as zoo:
                return await getattr(zoo, verb)(*args, **options)

        return asyncio.run(ask())

    return do


def in_client(url: str) -> Do:
    def do(verb: str, *args: Any, **options: Any) -> Any:
        with ZooClient(url, TOKEN) as zoo:
            return getattr(zoo, verb)(*args, **options)

    return do


def on_the_command_line(root: Path) -> Do:
    def do(verb: str, *args: Any, **options: Any) -> Any:
        words = [f"--{name.replace('_', '-')}" for name in options]
        if verb == "publish":
            (root.parent / "file").write_bytes(args[0])
            args = (str(root.parent / "file"),)
        if verb == "unalias":
            verb, words = "alias", ["--remove"]
        done = CliRunner(env={"ZOO_PUBLISH_TOKEN": TOKEN}).invoke(app, [verb, *args, *words, "--zoo", str(root)])
        if done.exception is not None:
            raise done.exception
        return done.output

    return do


@pytest.fixture(params=["library", "client", "async client", "command line"])
def do(request: pytest.FixtureRequest, tmp_path: Path, serve: Callable[..., Any]) -> Iterator[Do]:
    """`do("alias", "stable", digest)` in one of the ways, on the zoo in tmp_path/zoo."""
    root = tmp_path / "zoo"
    root.mkdir()
    if request.param == "library":
        with LocalZoo([root]) as library:
            library.sync()
            yield lambda verb, *args, **options: getattr(library, verb)(*args, **options)
    elif request.param == "command line":
        yield on_the_command_line(root)
    else:
        url = serve(root, publish_token=TOKEN, rescan_seconds=0).url
        ways = {"client": in_client(url), "async client": in_async_client(url)}
        yield ways[request.param]


def test_the_life_of_a_checkpoint(do: Do, tmp_path: Path, make_checkpoint: Callable[..., Checkpoint]) -> None:
    data, other = encode(make_checkpoint()), encode(make_checkpoint(seed=1))
    digest, second = digest_of(data), digest_of(other)

    def found(reference: str) -> Any:
        zoo = LocalZoo([tmp_path / "zoo"])
        zoo.sync()
        try:
            return zoo.chooser.view(zoo.chooser.find(reference))
        finally:
            zoo.close()

    do("publish", data, stage=True)
    assert found(digest).staged
    with pytest.raises(NotFoundError):
        found("best")
    do("promote", digest)
    assert found("best").id == digest
    do("publish", other)
    do("alias", "stable", second)
    do("alias", "stable", digest[:12])
    assert found("stable").id == digest, "moved"
    do("deprecate", "stable")
    assert found(digest).deprecated
    assert found("best").id == second
    do("undeprecate", "stable")
    assert not found(digest).deprecated
    do("unalias", "stable")
    with pytest.raises(NotFoundError):
        found("stable")
    do("stage", second)
    assert found("best").id == digest
    for reference in ("best", digest[:12], "shapes-test-s0-164"):
        with pytest.raises((NotADigestError, RemoteError), match=f"{reference} is {digest}"):
            do("delete", reference)
    do("delete", digest)
    with pytest.raises(GoneError):
        found(digest)
    with pytest.raises(GoneError):
        do("delete", digest)
    do("undelete", digest)
    assert found(digest).id == digest


def test_the_command_line_asks_a_server(
    tmp_path: Path,
    make_checkpoint: Callable[..., Checkpoint],
    serve: Callable[..., Any],
    put: Callable[..., str],
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    digest = put(tmp_path)
    url = serve(tmp_path, publish_token=TOKEN).url

    def zoo(*words: str) -> subprocess.CompletedProcess[str]:
        return command("zoo", *words, "--url", url, environment={"ZOO_PUBLISH_TOKEN": TOKEN})

    assert zoo("alias", "stable", "best").stdout.split() == [digest, "shapes-test-s0-164"]
    refused = zoo("delete", "stable")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"stable is {digest}" in refused.stderr
    assert zoo("delete", digest).returncode == 0
    undeleted = command("zoo", "undelete", digest, "--zoo", tmp_path)
    assert undeleted.stdout.split() == [digest, "shapes-test-s0-164"]
    assert f"zoo.audit undelete checkpoint={digest} who=user " in undeleted.stderr


@pytest.mark.parametrize("name", ["Bad Name", "deadbeef", "x" * 65])
def test_what_is_no_name_for_an_alias_is_said_in_one_line(
    tmp_path: Path,
    put: Callable[..., str],
    command: Callable[..., subprocess.CompletedProcess[str]],
    name: str,
) -> None:
    put(tmp_path)
    done = command("zoo", "alias", name, "best", "--zoo", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    [told] = done.stderr.splitlines()
    assert told.startswith("zoo: alias: ")
    assert told.endswith(f"(got {name!r})")
    assert not (tmp_path / "annotations.jsonl").exists()
