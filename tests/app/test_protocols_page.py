"""What docs/protocols.md shows is run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from zoo.checkpoint.file import Checkpoint, digest_of, encode

PAGE = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text()
TOKEN = "a-token-for-publishing"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("program", blocks("python"))
def test_the_programs_run(
    program: str,
    client: httpx.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    program = program.replace("127.0.0.1:8000", client.base_url.netloc.decode()).replace("min_acc=0.8", "min_acc=0.01")
    names: dict[str, object] = {}
    exec(program, names)
    assert Path(str(names["path"])).is_file() if "path" in names else "(2, 10)" in capsys.readouterr().out


def test_the_commands_run(
    client_of: Callable[..., httpx.Client],
    tmp_path: Path,
    make_checkpoint: Callable[..., Checkpoint],
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl here")
    (tmp_path / "zoo").mkdir()
    (tmp_path / "mine.safetensors").write_bytes(encode(make_checkpoint()))
    url = str(client_of(tmp_path / "zoo", publish_token=TOKEN).base_url).rstrip("/")
    [lines] = blocks("sh")
    lines = lines.replace("$DIGEST", digest_of(encode(make_checkpoint())))
    for line in lines.replace("http://127.0.0.1:8000", url).replace("$ZOO_PUBLISH_TOKEN", TOKEN).splitlines():
        words = shlex.split(line.replace("mine.safetensors", str(tmp_path / "mine.safetensors")))
        if words[0] == "curl":
            done = subprocess.run([curl, "--fail", "--silent", "--show-error", *words[1:]], capture_output=True)
        else:
            done = command(*words, environment={"ZOO_PUBLISH_TOKEN": TOKEN})
        assert done.returncode == 0, done.stderr
    assert httpx.get(f"{url}/models").json()["count"] == 0
