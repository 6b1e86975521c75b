"""docs/adding.md as it stands: what it adds is trained, grown, saved, exported, catalogued and served, with no edit
elsewhere."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Literal

import httpx
import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional as F

from trainer.data.datasets import Data
from trainer.grow import grow
from trainer.growth.expand import Exact, expand
from trainer.growth.scores.fisher import gradient_moments
from trainer.journal.records import DecisionRecord, Record
from trainer.recipes import runs
from trainer.recipes.one_by_one import OneByOne
from trainer.recipes.rules import GainRule
from zoo.checkpoint.file import Checkpoint, decode
from zoo.network.families.family import FAMILIES, Architecture, Change
from zoo.network.graph import INPUT, Graph, GraphBuilder
from zoo.network.ops import Conv2d, GlobalAveragePool, Linear
from zoo.runtime import onnx_model
from zoo.runtime.module import GraphModule, module_of, normalize
from zoo.runtime.torch_ops import LAYERS
from zoo.store.directory import Directory

ADDING = (Path(__file__).parents[2] / "docs" / "adding.md").read_text()


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The family and the operation of the page, and nothing of them left afterwards."""
    blocks = re.findall(r"```python\n(.*?)```", ADDING, re.DOTALL)
    family, start, operation, recipe, _ = blocks  # the storage is in test_every_store.py
    assert family.count("\n") < 60
    path = tmp_path_factory.mktemp("added") / "added_by_the_docs.py"
    path.write_text(family + start + operation + recipe)
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        FAMILIES.pop("strided", None)
        LAYERS.pop(module.Scale, None)
        del sys.modules[path.stem]


@pytest.fixture(scope="module")
def grown(added: ModuleType, digits: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo of the new family, after a run that grows."""
    root = tmp_path_factory.mktemp("strided")
    torch.set_num_threads(1)
    base = runs.digits()
    assert isinstance(base.recipe, OneByOne)
    rule = GainRule(threshold=0.0, standard_errors=0.0)
    recipe = replace(base.recipe, rule=rule, cooldown_epochs=1, channels_added=2)
    config = replace(base, name="strided", start=added.StridedStart(), epochs=4, recipe=recipe)
    grow(config, digits, root, torch.device("cpu"), resume=False, observe=lambda _: None)
    return root


def test_a_new_recipe_grows(added: ModuleType, digits: Data, tmp_path: Path) -> None:
    """Every second epoch, the blocks in turn; the log and the checkpoints tell of it."""
    torch.set_num_threads(1)
    records: list[Record] = []
    config = replace(runs.digits(), name="in-turn", recipe=added.InTurn(), epochs=5, chance_errors=-100.0)
    grow(config, digits, tmp_path, torch.device("cpu"), resume=False, observe=records.append)
    chosen = [record.chosen for record in records if isinstance(record, DecisionRecord)]
    assert chosen == [("block 1: 2 more channels",), ("block 2: 2 more channels",)]
    last = max(checkpoints_in(tmp_path).values(), key=lambda one: one.descriptor.lineage.epoch).descriptor
    assert [(step.epoch, step.block, step.exact) for step in last.lineage.expansions] == [(2, 1, True), (4, 2, True)]
    assert [block.channels for block in last.architecture.blocks] == [4, 6, 6]


def checkpoints_in(root: Path) -> dict[str, Checkpoint]:
    return {digest: decode(path.read_bytes()) for digest, path in Directory(root).paths()}


def test_a_new_family_is_trained_and_grows(added: ModuleType, grown: Path) -> None:
    found = sorted(checkpoints_in(grown).values(), key=lambda one: len(one.descriptor.lineage.expansions))
    assert len(found) >= 2
    for checkpoint in found:
        architecture, lineage = checkpoint.descriptor.architecture, checkpoint.descriptor.lineage
        assert isinstance(architecture, added.StridedArchitecture)
        widened = sum(step.channels_added for step in lineage.expansions)
        assert sum(architecture.channels) == 4 + 6 + widened
    last = found[-1].descriptor
    assert last.lineage.expansions
    assert last.metrics.test is not None
    assert last.metrics.test.accuracy > 0.3, "chance is 0.1"


def test_a_new_family_computes_the_same_in_torch_and_onnx(grown: Path) -> None:
    for checkpoint in checkpoints_in(grown).values():
        pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
        assert np.abs(onnx_logits(checkpoint, pixels) - torch_logits(checkpoint, pixels)).max() < 1e-4


def test_a_new_family_is_served(grown: Path, client_of: Callable[..., httpx.Client], digit_files: list[bytes]) -> None:
    client = client_of(grown)
    listed = client.get("/models", params={"family": "strided"}).json()
    assert {item["id"] for item in listed["items"]} == set(checkpoints_in(grown))
    largest = max(listed["items"], key=lambda item: item["params"])
    shown = client.get(f"/models/{largest['id']}").json()
    assert shown["descriptor"]["architecture"]["family"] == "strided"
    channels = shown["descriptor"]["architecture"]["channels"]
    assert [(stage["channels"], stage["height"], stage["layers"]) for stage in shown["stages"]] == [
        (channels[0], 4, ["3×3 convolution"]),
        (channels[1], 2, ["3×3 convolution"]),
    ]
    answer = client.post("/predict", params={"model": largest["id"]}, files={"file": digit_files[0]})
    assert answer.status_code == 200
    assert len(answer.json()["predictions"]) == 1
    onnx = client.get(f"/models/{largest['id']}/file", params={"format": "onnx"}).content
    assert onnx == onnx_model.build(checkpoints_in(grown)[largest["id"]])


def test_growth_of_a_new_family_leaves_the_logits_alone(
    added: ModuleType, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    architecture = added.StridedStart().network((1, 8, 8), 3)
    before = module_of(make_checkpoint(architecture))
    images = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    changes = architecture.changes(max_layers=9, layer_kind="conv", channels_added=2)
    assert changes == [Change("widen", block, channels_added=2) for block in (0, 1)]
    for change in changes:
        graph = architecture.grown(change, exact=True).graph()
        after = expand(before, graph, Exact(), images, torch.Generator())
        assert len(list(after.parameters())) == len(list(before.parameters()))
        torch.testing.assert_close(after.eval()(images), before(images), rtol=1e-4, atol=1e-5)


def test_a_new_operation_is_scored_and_exported(added: ModuleType, make_checkpoint: Callable[..., Checkpoint]) -> None:
    class Scaled(Architecture):
        family: Literal["scaled"] = "scaled"

        def graph(self) -> Graph:
            builder = GraphBuilder((self.input_channels, self.input_height, self.input_width))
            value = builder.add("conv", Conv2d(self.input_channels, 4, kernel_size=3, bias=True), INPUT)
            value = builder.add("scale", added.Scale(4), value)
            value = builder.add("average", GlobalAveragePool(), value)
            builder.add("output", Linear(4, self.num_classes), value)
            return builder.build()

    checkpoint = make_checkpoint(Scaled(input_channels=1, input_height=6, input_width=5, num_classes=3), seed=1)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 1), dtype=np.uint8)
    assert np.abs(onnx_logits(checkpoint, pixels) - torch_logits(checkpoint, pixels)).max() < 1e-4

    module: GraphModule = module_of(checkpoint)
    images = torch.randn(7, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    weight = module.get_parameter("scale.weight")
    one_by_one = [
        torch.autograd.grad(F.cross_entropy(module(image[None]), label[None]), weight)[0]
        for image, label in zip(images, labels, strict=True)
    ]
    found = gradient_moments(module, images, labels).by_name["scale.weight"]
    torch.testing.assert_close(found.mean, torch.stack(one_by_one).mean(0))
    torch.testing.assert_close(found.mean_square, torch.stack(one_by_one).square().mean(0))


def onnx_logits(checkpoint: Checkpoint, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(onnx_model.build(checkpoint), providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(["logits"], {"images": pixels})[0]
    return logits


@torch.no_grad()
def torch_logits(checkpoint: Checkpoint, pixels: np.ndarray) -> np.ndarray:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return module_of(checkpoint)(normalize(images, checkpoint.descriptor.preprocessing)).numpy()
