from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor
from torch.nn import functional as F

from zoo.checkpoint.descriptor import Preprocessing
from zoo.checkpoint.file import Checkpoint
from zoo.network import ops
from zoo.network.families import blueprint
from zoo.network.families.family import Architecture
from zoo.network.families.secnn import SecnnArchitecture
from zoo.network.graph import INPUT, GraphBuilder, parameter_shapes, tensor_shapes
from zoo.runtime.module import GraphModule, module_of, normalize

MakeCheckpoint = Callable[..., Checkpoint]


def slow_logits(checkpoint: Checkpoint, image: Tensor) -> Tensor:
    """The graph's definition, node by node and for one image, from the tensors as they are stored."""
    graph = checkpoint.descriptor.architecture.graph()
    values = {INPUT: image}
    for node in graph.nodes:
        tensors = {
            name.rpartition(".")[2]: torch.tensor(tensor)
            for name, tensor in checkpoint.tensors.items()
            if name.rpartition(".")[0] == node.name
        }
        values[node.name] = slow_op(node.op, tensors, [values[name] for name in node.inputs])
    return values[graph.output]


def slow_op(op: ops.Op, tensors: dict[str, Tensor], inputs: list[Tensor]) -> Tensor:
    value = inputs[0]
    match op:
        case ops.Conv2d(kernel_size=size, groups=groups, stride=stride):
            padded = F.pad(value, [size // 2] * 4)
            windows = padded.unfold(1, size, stride).unfold(2, size, stride)  # (C, H, W, k, k)
            parts = zip(windows.chunk(groups), tensors["weight"].chunk(groups), strict=True)
            result = torch.cat([torch.einsum("chwij,ocij->ohw", *part) for part in parts])
            return result + tensors["bias"][:, None, None] if "bias" in tensors else result
        case ops.BatchNorm(eps=eps):
            shape = (-1, *[1] * (value.dim() - 1))
            mean, variance, weight, bias = (
                tensors[name].view(shape) for name in ("running_mean", "running_var", "weight", "bias")
            )
            return (value - mean) / (variance + eps).sqrt() * weight + bias
        case ops.SiLU():
            return value / (1 + torch.exp(-value))
        case ops.ReLU():
            return torch.where(value > 0, value, 0)
        case ops.LeakyReLU(negative_slope=slope):
            return torch.where(value > 0, value, slope * value)
        case ops.Dropout():
            return value
        case ops.MaxPool2d(kernel_size=size):
            return value.unfold(1, size, size).unfold(2, size, size).amax(dim=(3, 4))
        case ops.AveragePool2d(kernel_size=size, step=step):
            return value.unfold(1, size, step).unfold(2, size, step).mean(dim=(3, 4))
        case ops.PadChannels(num_channels=added):
            return torch.cat([value, torch.zeros(added, *value.shape[1:])])
        case ops.GlobalAveragePool():
            return value.mean(dim=(1, 2))
        case ops.Flatten():
            return value.reshape(-1)
        case ops.Linear():
            return tensors["weight"] @ value + tensors["bias"]
        case ops.Concat():
            return torch.cat(inputs)
        case ops.Add():
            return inputs[0] + inputs[1]


@settings(max_examples=15)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_the_module_computes_what_the_graph_says(
    architectures: SearchStrategy[Architecture], make_checkpoint: MakeCheckpoint, data: st.DataObject, seed: int
) -> None:
    checkpoint = make_checkpoint(data.draw(architectures), seed=seed)
    images = torch.randn(3, *checkpoint.descriptor.architecture.graph().input_shape)
    with torch.no_grad():
        logits = module_of(checkpoint)(images)
    wanted = torch.stack([slow_logits(checkpoint, image) for image in images])
    scale = max(1.0, float(wanted.abs().max()))  # of random weights they grow with the depth
    torch.testing.assert_close(logits / scale, wanted / scale, rtol=1e-4, atol=1e-4)


@settings(max_examples=25)
@given(data=st.data())
def test_tensors_go_in_and_come_out_the_same(
    architectures: SearchStrategy[Architecture], make_checkpoint: MakeCheckpoint, data: st.DataObject
) -> None:
    checkpoint = make_checkpoint(data.draw(architectures))
    found = module_of(checkpoint).tensors()
    assert list(found) == list(tensor_shapes(checkpoint.descriptor.architecture.graph()))
    for name, tensor in checkpoint.tensors.items():
        assert np.array_equal(found[name], tensor)


def test_parameters_are_named_as_in_the_graph(tiny: SecnnArchitecture) -> None:
    graph = tiny.graph()
    named = {name: tuple(parameter.shape) for name, parameter in GraphModule(graph).named_parameters()}
    assert named == parameter_shapes(graph)


def test_what_comes_out_is_a_copy(make_checkpoint: MakeCheckpoint) -> None:
    module = module_of(make_checkpoint())
    before = module.tensors()["head.output.bias"].copy()
    tensors = module.tensors()
    with torch.no_grad():
        module.get_parameter("head.output.bias").add_(1)
    assert np.array_equal(tensors["head.output.bias"], before)
    assert not np.array_equal(module.tensors()["head.output.bias"], before)


def test_a_loaded_module_is_in_eval_mode_and_leaves_its_checkpoint_alone(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    before = {name: tensor.copy() for name, tensor in checkpoint.tensors.items()}
    module = module_of(checkpoint)
    assert not module.training
    module.train()(torch.randn(4, 1, 8, 8))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert all(np.array_equal(before[name], tensor) for name, tensor in checkpoint.tensors.items())


def test_dropout_acts_in_training_only(make_checkpoint: MakeCheckpoint) -> None:
    module = module_of(make_checkpoint())
    images = torch.randn(8, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(module(images), module(images))
        module.train()
        assert not torch.equal(module(images), module(images))


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_a_compiled_step_drops_each_number_by_itself(p: float) -> None:
    """Where it draws in another way than torch does."""
    builder = GraphBuilder((8, 16, 16))
    builder.add("drop", ops.Dropout(p), INPUT)
    module = torch.compile(GraphModule(builder.build()).train(), backend="aot_eager")
    images = torch.ones(64, 8, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    torch.manual_seed(0)
    first, second = module(images), module(images)
    (gradient,) = torch.autograd.grad(second.sum(), images)
    assert torch.equal(gradient, second)
    assert {round(value, 6) for value in second.unique().tolist()} == {0.0, round(1 / (1 - p), 6)}

    kept = second > 0
    deviation = (p * (1 - p) / kept.numel()) ** 0.5
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=5 * deviation)
    # Of two that are independent both are kept, or neither is, this often.
    alike = p**2 + (1 - p) ** 2
    for other in [first > 0, *(kept.roll(1, dim) for dim in range(4)), kept.roll((1, 1), (2, 3)), kept.flip(0)]:
        assert (kept == other).float().mean().item() == pytest.approx(alike, abs=0.01)

    torch.manual_seed(0)
    assert torch.equal(module(images), first)


def test_tensors_of_another_network_are_refused(tiny: SecnnArchitecture, make_checkpoint: MakeCheckpoint) -> None:
    deeper = make_checkpoint(tiny.deepened(0, "conv", split_slope=True))
    with pytest.raises(AssertionError):
        GraphModule(tiny.graph()).load_tensors(deeper.tensors)
    with pytest.raises(RuntimeError, match=r"size mismatch for blocks\.0\.layers\.0\.conv\.weight"):
        GraphModule(tiny.graph()).load_tensors(make_checkpoint(tiny.widened(0, 1)).tensors)


@pytest.mark.parametrize("family", ["secnn", "blueprint"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
def test_a_compiled_step_has_the_gradients_of_an_eager_one(
    tiny: SecnnArchitecture, size: tuple[int, int], memory_format: torch.memory_format, family: str
) -> None:
    """Where it takes another way through max pooling and SiLU too; images with equal neighbours included."""
    height, width = size
    architecture: Architecture = tiny.model_copy(update={"input_height": height, "input_width": width})
    if family == "blueprint":
        shape = (tiny.input_channels, height, width)
        architecture = blueprint.start(input_shape=shape, num_classes=3, channels=(4, 6), num_layers=(1, 1))
    module = GraphModule(architecture.graph()).eval()
    module.to(memory_format=memory_format)
    images = torch.randn(5, tiny.input_channels, height, width, generator=torch.Generator().manual_seed(0))
    images = images.to(memory_format=memory_format)
    labels = torch.tensor([0, 1, 2, 0, 1])
    gradients = []
    for run in (module, torch.compile(module, backend="aot_eager")):
        inputs = images.clone().requires_grad_()
        loss = F.cross_entropy(run(inputs), labels)
        gradients.append(torch.autograd.grad(loss, [inputs, *module.parameters()]))
    for eager, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, eager)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="compiling needs a C++ compiler")
@pytest.mark.parametrize("family", ["secnn", "blueprint"])
def test_a_compiled_step_in_bfloat16_has_the_gradients_of_single_precision(
    tiny: SecnnArchitecture, family: str
) -> None:
    """Whatever the compiler rounds on the way, and whatever it does not."""
    architecture: Architecture = tiny
    if family == "blueprint":
        architecture = blueprint.start(input_shape=(1, 8, 8), num_classes=3, channels=(8, 8), num_layers=(1, 1))
    module = GraphModule(architecture.graph()).eval().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 1, 8, 8, generator=generator).to(memory_format=torch.channels_last)
    labels = torch.randint(3, (64,), generator=generator)

    def loss_of(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = module(images)
        return F.cross_entropy(logits.float(), labels)

    parameters = list(module.parameters())
    single = torch.autograd.grad(F.cross_entropy(module(images), labels), parameters)
    mixed = torch.autograd.grad(torch.compile(loss_of)(images), parameters)
    for (name, _), expected, gradient in zip(module.named_parameters(), single, mixed, strict=True):
        assert (gradient - expected).norm() < 0.2 * expected.norm(), name


def test_pixels_are_normalised_per_channel() -> None:
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    preprocessing = Preprocessing(color="rgb", mean=(0.5, 0.5, 0.2), std=(0.25, 0.5, 1.0))
    assert normalize(pixels, preprocessing).flatten().tolist() == pytest.approx([-2, 1, 0], abs=1e-6)
