from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from zoo.checkpoint.descriptor import parse
from zoo.checkpoint.file import Checkpoint, decode, encode
from zoo.network.families.family import Architecture
from zoo.runtime import onnx_model
from zoo.runtime.module import module_of, normalize

MakeCheckpoint = Callable[..., Checkpoint]


def run(model: bytes, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(logits, probabilities)"""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"images": pixels})
    return logits, probabilities


def random_pixels(checkpoint: Checkpoint, batch: int, seed: int) -> np.ndarray:
    """uint8 (batch, height, width, channels)"""
    channels, height, width = checkpoint.descriptor.architecture.graph().input_shape
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, channels), dtype=np.uint8)


@settings(max_examples=50)
@given(data=st.data(), seed=st.integers(0, 1000), batch=st.integers(1, 4))
def test_torch_and_onnx_agree(
    architectures: SearchStrategy[Architecture],
    make_checkpoint: MakeCheckpoint,
    data: st.DataObject,
    seed: int,
    batch: int,
) -> None:
    checkpoint = make_checkpoint(data.draw(architectures), seed=seed)
    pixels = random_pixels(checkpoint, batch, seed)
    logits, probabilities = run(onnx_model.build(checkpoint), pixels)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted = module_of(checkpoint)(normalize(images, checkpoint.descriptor.preprocessing))
    assert logits.shape == wanted.shape
    np.testing.assert_allclose(logits, wanted.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(probabilities, wanted.softmax(dim=1).numpy(), rtol=1e-5, atol=1e-5)


def test_equal_checkpoints_give_equal_bytes(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    assert onnx_model.build(checkpoint) == onnx_model.build(decode(encode(checkpoint)))


@settings(max_examples=50)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_the_package_onnx_reads_it_and_writes_the_same_bytes(
    architectures: SearchStrategy[Architecture], make_checkpoint: MakeCheckpoint, data: st.DataObject, seed: int
) -> None:
    written = onnx_model.build(make_checkpoint(data.draw(architectures), seed=seed))
    model = onnx.load_from_string(written)
    onnx.checker.check_model(model, full_check=True)
    assert model.SerializeToString(deterministic=True) == written


def test_the_file_says_what_it_is(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    model = onnx.load_from_string(onnx_model.build(checkpoint))
    assert {entry.key: parse(entry.value) for entry in model.metadata_props} == {"descriptor": checkpoint.descriptor}
    assert model.graph.name == checkpoint.descriptor.name
    assert model.opset_import[0].version == 17


def test_inputs_and_outputs_are_named_and_shaped(make_checkpoint: MakeCheckpoint) -> None:
    model = onnx_model.build(make_checkpoint())
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    [images] = session.get_inputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", 8, 8, 1])
    assert {output.name: output.shape for output in session.get_outputs()} == {
        "logits": ["batch", 3],
        "probabilities": ["batch", 3],
    }


def test_weights_are_inside_the_file(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    initializers = onnx.load_from_string(onnx_model.build(checkpoint)).graph.initializer
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in initializers}
    assert checkpoint.tensors.keys() <= stored.keys()
    for name, tensor in checkpoint.tensors.items():
        assert np.array_equal(stored[name], tensor)


@pytest.mark.parametrize("module", ["zoo.runtime.onnx_model", "zoo.runtime.predictor", "zoo.library.local"])
def test_neither_torch_nor_onnx_is_involved(module: str) -> None:
    program = f"import sys, {module}; sys.exit(not sys.modules.keys().isdisjoint({{'torch', 'onnx'}}))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
