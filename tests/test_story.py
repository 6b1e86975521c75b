"""The whole house, as a user walks through it: grow, serve, choose, predict, download, with the installed commands."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest
from PIL import Image
from sklearn.datasets import load_digits

Ask = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    pixels = np.round(load_digits().images[:5] * (255 / 16)).astype(np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


@pytest.fixture(params=["directory", "server"])
def zoo(request: pytest.FixtureRequest, command: Ask, grown: Path, url: str) -> Ask:
    """The zoo command against the directory, and against the server over it."""
    where = ("--zoo", grown) if request.param == "directory" else ("--url", url)
    return lambda *arguments: command("zoo", *arguments, *where)


def test_the_smallest_good_enough_from_end_to_end(url: str, grown: Path, images: list[Path]) -> None:
    models = httpx.get(f"{url}/models").json()["items"]
    wanted = sorted(model["accuracy"] for model in models)[1]
    selected = httpx.get(f"{url}/models", params={"min_acc": wanted}).json()["selected"]
    eligible = [model for model in models if model["accuracy"] >= wanted]
    assert selected["params"] == min(model["params"] for model in eligible)
    response = httpx.get(f"{url}/models/file", params={"min_acc": wanted})
    assert hashlib.sha256(response.content).hexdigest() == selected["id"]
    answer = httpx.post(
        f"{url}/predict",
        params={"min_acc": wanted},
        files=[("file", (image.name, image.read_bytes())) for image in images],
    ).json()
    assert answer["model"]["id"] == selected["id"]
    # A device that downloads the ONNX file gets the answers that the service gives.
    model = httpx.get(f"{url}/models/file", params={"min_acc": wanted, "format": "onnx"}).content
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(image.read_bytes()))) for image in images])[..., None]
    [scores] = onnxruntime.InferenceSession(model).run(["probabilities"], {"images": pixels})
    assert [row[0]["index"] for row in answer["predictions"]] == scores.argmax(1).tolist()


def test_list_show_and_get(zoo: Ask, grown: Path, tmp_path: Path) -> None:
    listed = json.loads(zoo("list", "--json").stdout)
    assert [item["accuracy"] for item in listed] == sorted((item["accuracy"] for item in listed), reverse=True)
    by_size = json.loads(zoo("list", "--json", "--prefer", "params").stdout)
    assert [item["params"] for item in by_size] == sorted(item["params"] for item in listed)
    assert {item["id"] for item in listed} == {path.stem for path in grown.rglob("*.safetensors")}
    table = zoo("list").stdout
    assert all(item["name"] in table for item in listed)
    best = max(listed, key=lambda item: item["accuracy"])
    shown = json.loads(zoo("show", best["id"][:10], "--json").stdout)
    assert shown["descriptor"]["metrics"]["test"]["accuracy"] == pytest.approx(best["accuracy"], abs=5e-5)
    out = tmp_path / "small.safetensors"
    done = zoo("get", "--min-acc", best["accuracy"], "-o", out)
    assert done.stdout.strip() == str(out)
    assert f"accuracy {best['accuracy']:.4f}, " in done.stderr
    assert done.stderr.endswith(f"chosen: smallest with accuracy of at least {best['accuracy']}\n")
    assert hashlib.sha256(out.read_bytes()).hexdigest() == best["id"]
    assert zoo("get", "best", "-o", tmp_path).stdout.strip() == str(tmp_path / f"{best['name']}.safetensors")
    again = zoo("get", "--best", "--max-params", by_size[0]["params"], "-o", out)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == f"zoo: {out} is there already, and another file: --force replaces it, -o names another\n"
    assert zoo("get", best["id"], "-o", out).returncode == 0, "the file that is there"
    forced = zoo("get", "--best", "--max-params", by_size[0]["params"], "-o", out, "--force")
    assert forced.stderr.endswith(f"chosen: most accurate with at most {by_size[0]['params']:,} parameters\n")
    assert hashlib.sha256(out.read_bytes()).hexdigest() == by_size[0]["id"]
    contradiction = zoo("get", "--best", "--prefer", "macs", "-o", out)
    assert contradiction.stderr == "zoo: --best is --prefer accuracy: give it or --prefer macs, not both\n"
    onnx = tmp_path / "small.onnx"
    assert zoo("get", best["id"], "--format", "onnx", "-o", onnx).returncode == 0
    assert onnxruntime.InferenceSession(onnx).get_inputs()[0].shape == ["batch", 8, 8, 1]


def test_data_sets_are_listed(zoo: Ask, grown: Path) -> None:
    [listed] = json.loads(zoo("datasets", "--json").stdout)
    best = json.loads(zoo("show", "best", "--json").stdout)
    count = len(list(grown.rglob("*.safetensors")))
    accuracy = best["accuracy"]
    assert listed == {"name": "digits", "checkpoints": count, "classes": 10, "best_accuracy": accuracy, "default": True}
    assert zoo("datasets").stdout.split()[-5:] == ["digits", str(count), "10", f"{accuracy:.4f}", "default"]


def test_show_says_what_matters_on_a_line_each(zoo: Ask) -> None:
    best = json.loads(zoo("show", "best", "--json").stdout)
    shown = {line[:13].strip(): line[15:] for line in zoo("show", "best").stdout.splitlines()}
    assert shown["id"] == best["id"]
    assert shown["params"] == f"{best['params']:,}"
    assert shown["accuracy"] == f"{best['accuracy']:.4f} of 359 test images"
    assert shown["classes"] == "10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    expansions = best["descriptor"]["lineage"]["expansions"]
    assert shown["expansions"].startswith(
        f"{len(expansions)}, from {expansions[0]['params_before']:,} params; the last"
    )
    assert max(map(len, shown.values())) < 100
    assert zoo("show", "best", "--dataset", "digits").stdout == zoo("show", "best").stdout


def test_a_list_of_nothing_names_the_nearest(zoo: Ask) -> None:
    best = json.loads(zoo("show", "best", "--json").stdout)
    for options, stdout in (((), ""), (("--json",), "[]\n")):
        done = zoo("list", "--min-acc", "0.999", *options)
        assert (done.returncode, done.stdout) == (1, stdout)
        assert done.stderr.startswith("zoo: no checkpoint of data set digits meets min_acc=0.999; the nearest has")
        assert best["name"] in done.stderr
        assert done.stderr.count("\n") == 1


def test_what_is_no_image_is_named(zoo: Ask, images: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    for good in ([], images):
        done = zoo("predict", bad, *good)
        assert (done.returncode, done.stdout.count("\n")) == (1, len(good))
        assert done.stderr.splitlines()[0] == f"zoo: {bad}: 8 bytes that are no PNG, JPEG or WebP image"


def test_predict_with_a_budget_or_a_name(zoo: Ask, images: list[Path]) -> None:
    answer = json.loads(zoo("predict", *images, "--model", "best", "--top-k", 1, "--json").stdout)
    plain = zoo("predict", *images, "--model", "best", "--top-k", 1).stdout.splitlines()
    assert len(answer["predictions"]) == len(plain) == len(images)
    for line, image, [first] in zip(plain, images, answer["predictions"], strict=True):
        assert line.startswith(f"{image}  {first['label']} ")
    best = json.loads(zoo("predict", images[0], "--max-params", 100_000, "--json").stdout)
    listed = json.loads(zoo("list", "--json").stdout)
    assert best["model"]["id"] == listed[0]["id"]
    assert best["because"] == "most accurate with at most 100,000 parameters"


def test_verify_reads_all_files(zoo: Ask, grown: Path) -> None:
    done = zoo("verify", "--json")
    results = json.loads(done.stdout)
    assert done.returncode == 0
    assert {result["id"] for result in results} == {path.stem for path in grown.rglob("*.safetensors")}
    assert all(result["ok"] for result in results)


def test_verify_measures_once_more(zoo: Ask, grown: Path) -> None:
    done = zoo("verify", "--data", "digits")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(" of 359), measured ") == len(list(grown.rglob("*.safetensors")))


def test_verify_finds_a_flipped_bit(command: Ask, grown: Path, tmp_path: Path) -> None:
    good, bad = sorted(grown.rglob("*.safetensors"))[:2]
    (tmp_path / good.name).write_bytes(good.read_bytes())
    data = bytearray(bad.read_bytes())
    data[-10] ^= 1
    (tmp_path / bad.name).write_bytes(data)
    done = command("zoo", "verify", "--zoo", tmp_path)
    assert done.returncode == 1
    assert f"ok      {good.stem[:12]}" in done.stdout
    assert f"FAILED  {bad.stem[:12]}" in done.stdout
    assert "changed or damaged" in done.stdout


def test_a_damaged_catalog_is_rebuilt(command: Ask, grown: Path, tmp_path: Path) -> None:
    for path in grown.rglob("*.safetensors"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    command("zoo", "list", "--zoo", tmp_path)
    catalog = tmp_path / "catalog.sqlite"
    catalog.write_text("no database at all " * 100)
    listed = command("zoo", "list", "--json", "--zoo", tmp_path)
    assert f"the catalog {catalog} is damaged (file is not a database): set aside" in listed.stderr
    assert listed.stdout == command("zoo", "list", "--json", "--zoo", grown).stdout


def test_a_budget_narrows_show_and_verify(zoo: Ask) -> None:
    listed = json.loads(zoo("list", "--json", "--prefer", "params").stdout)
    smallest = listed[0]
    shown = json.loads(zoo("show", "--max-params", smallest["params"], "--json").stdout)
    assert shown["id"] == smallest["id"]
    verified = json.loads(zoo("verify", "--max-params", smallest["params"], "--json").stdout)
    assert [result["id"] for result in verified] == [smallest["id"]]


def test_reindex_gives_the_same_list(command: Ask, grown: Path) -> None:
    before = command("zoo", "list", "--json", "--zoo", grown).stdout
    assert command("zoo", "reindex", "--zoo", grown).returncode == 0
    assert command("zoo", "list", "--json", "--zoo", grown).stdout == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "--min-acc", "80"), "zoo: --min-acc: accuracy is a fraction: 0.8, not 80"),
        (("get", "--min-acc", "1"), "zoo: no checkpoint of data set digits meets min_acc=1.0; the nearest has"),
        (("show", "nothing"), "zoo: no checkpoint 'nothing': expected a digest"),
        (("show", "../metrics"), "zoo: no "),
        (
            ("show", "best", "--dataset", "mnist"),
            "zoo: the zoo holds no checkpoint of data set mnist: there is digits",
        ),
        (("get", "best", "--min-acc", "0.1"), "zoo: best names one checkpoint: give it or a budget, not both"),
        (("predict", "/no/such.png"), "zoo: /no/such.png: cannot be read: No such file or directory"),
    ],
)
def test_mistakes_get_one_clear_line(zoo: Ask, arguments: tuple[str, ...], message: str) -> None:
    done = zoo(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_where_the_zoo_is_must_be_said_once(command: Ask, grown: Path) -> None:
    for where in ((), ("--zoo", str(grown), "--url", "http://127.0.0.1:1")):
        assert "give either --zoo DIR or --url URL" in command("zoo", "list", *where).stderr
    nobody = command("zoo", "list", "--url", "http://127.0.0.1:1")
    assert "cannot be reached" in nobody.stderr
    for url in ("foo", "localhost:8000", "ftp://127.0.0.1", "http://"):
        done = command("zoo", "list", "--url", url)
        assert done.stderr.startswith(f"zoo: {url} cannot be reached: it is no http:// or https:// URL, like http")
        assert done.returncode == 1
    assert "no such zoo directory" in command("zoo", "list", "--zoo", "/nowhere").stderr
    assert "no such zoo directory" in command("zoo-serve", "--zoo", "/nowhere").stderr


def test_a_container_is_told_by_its_environment(command: Ask, grown: Path) -> None:
    """As in the Dockerfile: no options, and no token forgotten."""
    refused = command("zoo-serve", environment={"ZOO_ZOO": str(grown), "ZOO_HOST": "0.0.0.0"})
    assert "host 0.0.0.0 can be reached from other machines: set ZOO_TOKEN" in refused.stderr


@pytest.mark.parametrize("name", ["zoo", "zoo-serve", "zoo-train", "zoo get"])
def test_help_shows_examples(command: Ask, name: str) -> None:
    done = command(*name.split(), "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
    assert f"{name} " in done.stdout
