"""The three commands on terminals that are not UTF-8, into pipes that close, and asked for their version."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.conftest import BIN, ENVIRONMENT
from zoo.checkpoint.file import Checkpoint, digest_of, encode

Command = Callable[..., subprocess.CompletedProcess[str]]

ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
PRETRAINED = Path(__file__).parent.parent / "zoo" / "pretrained"


@pytest.mark.parametrize("name", ["zoo", "zoo-train", "zoo-serve"])
def test_version(name: str, command: Command) -> None:
    done = command(name, "--version")
    assert (done.returncode, done.stdout) == (0, f"{name} {version('checkpoint-zoo')}\n")


@pytest.mark.parametrize("words", [["zoo-train", "--help"], ["zoo-serve", "--help"], ["zoo", "list"]])
def test_a_terminal_without_unicode_is_shown_the_nearest_that_it_has(
    words: list[str], command: Command, tmp_path: Path
) -> None:
    zoo = ["--zoo", PRETRAINED] if words == ["zoo", "list"] else []
    done = command(*words, *zoo, environment={**ASCII, "XDG_CACHE_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert not zoo or re.search(r"139,450 .* 0\.9140 +0\.908-0\.919", done.stdout)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"COLUMNS": "10"}])
def test_plain_and_narrow_terminals(environment: dict[str, str], command: Command) -> None:
    done = command("zoo", "list", "--zoo", PRETRAINED, environment=environment)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "139,450" in done.stdout


def test_class_names_do_not_speak_to_the_terminal(
    tmp_path: Path, make_checkpoint: Callable[..., Checkpoint], command: Command
) -> None:
    plain, classes = make_checkpoint(), ("\x1b[31mred", "a\nb", "\u202eevil")
    data = encode(Checkpoint(plain.descriptor.model_copy(update={"classes": classes}), plain.tensors))
    (tmp_path / f"{digest_of(data)}.safetensors").write_bytes(data)
    done = command("zoo", "show", "best", "--zoo", tmp_path)
    assert done.returncode == 0, done.stderr
    assert r"\x1b[31mred, a\nb, \u202eevil" in done.stdout
    assert all(line.isprintable() for line in done.stdout.splitlines())


def test_names_that_are_no_text_are_printed_as_they_are(tmp_path: Path) -> None:
    name = bytes(tmp_path) + b"/caf\xe9.png"
    Path(name.decode(errors="surrogateescape")).write_bytes((PRETRAINED.parents[1] / "docs/digit.png").read_bytes())
    words = [BIN / "zoo", "predict", name, "--zoo", PRETRAINED]
    done = subprocess.run(words, capture_output=True, env={**ENVIRONMENT, "PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(name)
    done = subprocess.run([*words, "--json"], capture_output=True, env={**ENVIRONMENT, **ASCII})
    assert json.loads(done.stdout)["files"] == [name.decode(errors="surrogateescape")]


def test_a_pipe_that_closes_ends_a_command_without_a_word() -> None:
    """As in `zoo list | head -1`: here nobody reads at all."""
    words = [BIN / "zoo", "list", "--zoo", PRETRAINED, "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
