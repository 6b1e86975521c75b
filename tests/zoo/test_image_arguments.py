"""`zoo predict` over files, folders and standard input; answers in order, a bad file takes no other along."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import BIN
from zoo.catalog.views import Prediction
from zoo.cli import image_arguments
from zoo.client import ZooClient
from zoo.errors import ZooError
from zoo.library.local import LocalZoo
from zoo.protocol import Zoo

Command = Callable[..., subprocess.CompletedProcess[str]]

PRETRAINED = Path(__file__).parents[2] / "zoo" / "pretrained"


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, one of them deeper, a bad one, one hidden, and a text."""
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    (root / "a.png").write_bytes(picture(10))
    (root / "more" / "b.PNG").write_bytes(picture(200))
    (root / ".hidden.png").write_bytes(picture(0))
    (root / "notes.txt").write_text("seen at noon")
    (tmp_path / "bad.png").write_bytes(picture(10)[:40])
    return root


def test_good_ones_are_answered_and_bad_ones_named(folder: Path, small_zoo: Path, command: Command) -> None:
    good, bad, missing = folder / "a.png", folder.parent / "bad.png", folder / "missing.png"
    done = command("zoo", "predict", good, bad, missing, folder, "--zoo", small_zoo, "--top-k", 1)
    assert done.returncode == 1
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [
        str(good),
        str(good),
        str(folder / "more" / "b.PNG"),
    ]
    assert f"zoo: {bad}: the image is truncated" in done.stderr
    assert f"zoo: {missing}: cannot be read: No such file" in done.stderr
    assert f"{folder}: left out 1 hidden file (.hidden.png), 1 .txt (notes.txt)" in done.stderr


def test_json_names_the_files(folder: Path, small_zoo: Path, command: Command) -> None:
    bad = folder.parent / "bad.png"
    done = command("zoo", "predict", bad, folder, "--zoo", small_zoo, "--top-k", 2, "--json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["files"] == [str(folder / "a.png"), str(folder / "more" / "b.PNG")]
    assert [len(row) for row in answer["predictions"]] == [2, 2]
    assert [failed["file"] for failed in answer["failed"]] == [str(bad)]
    assert answer["model"]["params"] > 0


def test_standard_input(small_zoo: Path) -> None:
    words = [BIN / "zoo", "predict", "-", "--zoo", small_zoo]
    done = subprocess.run(words, input=picture(3), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"-  class ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png", "https://zoo.example/a.png"], "only files are read; fetch it first"),
        (["-", "-"], "can be read once"),
    ],
)
def test_what_is_no_file_is_refused_before_anything_is_read(arguments: list[str], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        image_arguments.paths(arguments, print)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ZooError, match="without images"):
        list(image_arguments.paths([str(tmp_path)], print))


@pytest.mark.parametrize("where", ["near", "far"])
def test_of_many_files_the_bad_ones_alone_go_unanswered(
    where: str, small_zoo: Path, server: object, tmp_path: Path
) -> None:
    """Whoever refuses them: this machine, or a server that is sent many at once."""
    bad = {3, 40, 41, 99}
    for index in range(100):
        data = picture(index * 2)
        (tmp_path / f"{index:03}.png").write_bytes(data[:40] if index in bad else data)
    zoo: Zoo = LocalZoo([small_zoo]) if where == "near" else ZooClient(server.url)  # type: ignore[attr-defined]
    if isinstance(zoo, LocalZoo):
        zoo.sync()
    digest = zoo.choose().id
    sizes = []

    def ask(files: list[bytes]) -> list[list[Prediction]]:
        sizes.append(len(files))
        return zoo.predict(files, digest, top_k=1)

    names = image_arguments.paths([str(tmp_path)], print)
    with closing(zoo):
        answers = list(image_arguments.answers(names, ask))
        alone = zoo.predict([picture(100)], digest, top_k=1)
    assert [Path(answer.name).name for answer in answers] == [f"{index:03}.png" for index in range(100)]
    assert {index for index, answer in enumerate(answers) if answer.error} == bad
    assert max(sizes) == 32
    assert answers[50].predictions == alone[0]


_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from zoo.checkpoint.file import load
from zoo.runtime.onnx_classifier import OnnxClassifier

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

path = max(Path(sys.argv[1]).rglob("*.safetensors"), key=lambda path: path.stat().st_size)
network = OnnxClassifier(load(path))
image = np.zeros((32, 32, 3), np.uint8)
network.predict([image] * 200)
before = peak()
assert len(network.predict([image] * 1000)) == 1000
assert network(np.zeros((1000, 32, 32, 3), np.uint8)).shape == (1000, 10)
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    """139,450 parameters: a thousand images at once take 144 MB more than in hundreds."""
    done = subprocess.run([sys.executable, "-c", _MEMORY, PRETRAINED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 40


@pytest.mark.parametrize(
    ("name", "message"), [("folder", "is a folder: give the checkpoints in it"), ("x.onnx", "not an ONNX file")]
)
def test_publishing_what_is_no_checkpoint_file_says_what_it_is(
    name: str, message: str, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "zoo").mkdir()
    (tmp_path / "x.onnx").write_bytes(b"\x08\x08\x12\x0eONNX")
    done = command("zoo", "publish", tmp_path / name, "--zoo", tmp_path / "zoo")
    assert done.returncode == 1
    assert message in done.stderr
