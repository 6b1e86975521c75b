"""Each operation by itself, in both of the ways in which it is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Literal

import numpy as np
import onnxruntime
import pytest
import torch

from zoo.checkpoint.file import Checkpoint
from zoo.errors import DescriptorError
from zoo.network import ops
from zoo.network.families.family import Architecture
from zoo.network.graph import INPUT, Graph, GraphBuilder, output_shapes, parameter_shapes
from zoo.network.ops import (
    Add,
    AveragePool2d,
    BatchNorm,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAveragePool,
    LeakyReLU,
    Linear,
    MaxPool2d,
    Op,
    PadChannels,
    ReLU,
    SiLU,
)
from zoo.runtime import onnx_model
from zoo.runtime.module import GraphModule, module_of, normalize
from zoo.runtime.torch_ops import LAYERS

# Of images of 3×11×8, or of vectors of 7; and the shape that comes out.
CASES: list[tuple[Op, tuple[int, ...]]] = [
    (Conv2d(3, 5, kernel_size=3, bias=True), (5, 11, 8)),
    (Conv2d(3, 5, kernel_size=3, bias=False, stride=2), (5, 6, 4)),
    (Conv2d(3, 5, kernel_size=5, bias=True, stride=3, padding=1), (5, 3, 2)),
    (Conv2d(3, 5, kernel_size=2, bias=True, padding=0), (5, 10, 7)),
    (Conv2d(3, 3, kernel_size=3, bias=False, groups=3, stride=2), (3, 6, 4)),
    (Conv2d(3, 6, kernel_size=1, bias=False, groups=3), (6, 11, 8)),
    (BatchNorm(3), (3, 11, 8)),
    (BatchNorm(7), (7,)),
    (ReLU(), (3, 11, 8)),
    (LeakyReLU(0.3), (3, 11, 8)),
    (SiLU(), (3, 11, 8)),
    (Dropout(0.5), (3, 11, 8)),
    (MaxPool2d(2), (3, 5, 4)),
    (MaxPool2d(3, stride=2), (3, 5, 3)),
    (AveragePool2d(2), (3, 5, 4)),
    (AveragePool2d(3, stride=2), (3, 5, 3)),
    (GlobalAveragePool(), (3,)),
    (PadChannels(2), (5, 11, 8)),
    (Flatten(), (3 * 11 * 8,)),
    (Linear(7, 4), (4,)),
    (Concat(), (6, 11, 8)),
    (Add(), (3, 11, 8)),
]


class OneOperation(Architecture):
    """The operation of one case, and what makes logits of its output."""

    family: Literal["one-operation"] = "one-operation"
    case: int

    def graph(self) -> Graph:
        op, shape = CASES[self.case]
        builder = GraphBuilder((self.input_channels, self.input_height, self.input_width))
        inputs = [INPUT] * (2 if isinstance(op, Concat | Add) else 1)
        if isinstance(op, Linear) or op == BatchNorm(7):
            builder.add("average", GlobalAveragePool(), INPUT)
            inputs = [builder.add("vector", Linear(self.input_channels, 7), "average")]
        value = builder.add("operation", op, *inputs)
        if len(shape) == 3:
            value = builder.add("flat", Flatten(), value)
        builder.add("logits", Linear(int(np.prod(shape)), self.num_classes), value)
        return builder.build()


def architecture_of(case: int) -> OneOperation:
    return OneOperation(input_channels=3, input_height=11, input_width=8, num_classes=4, case=case)


everyone = pytest.mark.parametrize("case", range(len(CASES)), ids=[str(op) for op, _ in CASES])


def test_the_cases_and_the_layers_of_torch_are_of_all_operations() -> None:
    classes = {value for value in vars(ops).values() if inspect.isclass(value) and issubclass(value, Op)}
    concrete = {one for one in classes if not inspect.isabstract(one)}
    assert concrete == {type(op) for op, _ in CASES} == set(LAYERS)


@everyone
def test_shapes_and_tensors_are_those_of_torch(case: int) -> None:
    graph = architecture_of(case).graph()
    assert output_shapes(graph)["operation"] == CASES[case][1]
    module = GraphModule(graph)
    assert {name: tuple(tensor.shape) for name, tensor in module.named_parameters()} == parameter_shapes(graph)
    found: list[torch.Size] = []
    module.get_submodule("operation").register_forward_hook(lambda _, __, output: found.append(output.shape))
    module.eval()(torch.zeros(2, *graph.input_shape))
    assert found == [(2, *CASES[case][1])]


@everyone
def test_logits_are_equal_in_torch_and_onnx(make_checkpoint: Callable[..., Checkpoint], case: int) -> None:
    checkpoint = make_checkpoint(architecture_of(case), seed=case)
    pixels = np.random.default_rng(case).integers(0, 256, (3, 11, 8, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(onnx_model.build(checkpoint), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": pixels})
    with torch.no_grad():
        images = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), checkpoint.descriptor.preprocessing)
        wanted = module_of(checkpoint)(images)
    assert wanted.std() > 1e-3
    np.testing.assert_allclose(logits, wanted.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("op", "shape", "message"),
    [
        (Conv2d(3, 4, 5, bias=True, padding=0), (3, 8, 4), r"expects at least 5×5 pixels, gets \(3, 8, 4\)"),
        (AveragePool2d(3, stride=1), (3, 2, 9), r"expects at least 3×3 pixels, gets \(3, 2, 9\)"),
        (MaxPool2d(2), (5,), r"expects at least 2×2 pixels, gets \(5,\)"),
        (PadChannels(2), (5,), r"expects \(C, H, W\), gets \(5,\)"),
    ],
)
def test_what_does_not_fit_is_refused(op: Op, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(DescriptorError, match=message):
        op.output_shape(shape)


def test_channels_cannot_be_followed_through_groups_of_several() -> None:
    with pytest.raises(DescriptorError, match=r"one group, or one for each channel.*gets \(4, 4, 2\)"):
        Conv2d(4, 4, 3, bias=False, groups=2).channels([(0, 1, 2, 3)], [(4, 8, 8)])
