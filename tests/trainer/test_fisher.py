from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.growth.scores.fisher import NUM_GROUPS, gradient_moments, group_bounds, statistics_of
from zoo.network.families.blueprint import BlueprintArchitecture, Stage
from zoo.network.families.family import Architecture
from zoo.network.families.secnn import Block, Layer, start
from zoo.network.graph import INPUT, Graph, GraphBuilder
from zoo.network.ops import BatchNorm, Conv2d, GlobalAveragePool, Linear, ReLU
from zoo.runtime.module import GraphModule

RandomModule = Callable[[Architecture, int], GraphModule]


def per_sample_gradients(module: GraphModule, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The slow reference: one backward pass for each image."""
    parameters = dict(module.named_parameters())
    rows = []
    for image, label in zip(images, labels, strict=True):
        loss = F.cross_entropy(module(image[None]), label[None])
        rows.append(torch.autograd.grad(loss, list(parameters.values())))
    return {name: torch.stack(column) for name, column in zip(parameters, zip(*rows, strict=True), strict=True)}


class StridedArchitecture(Architecture):
    """Convolutions that leave pixels out, without padding and depthwise too."""

    family: Literal["strided"] = "strided"

    def graph(self) -> Graph:
        builder = GraphBuilder((self.input_channels, self.input_height, self.input_width))
        value = builder.add("first", Conv2d(self.input_channels, 3, kernel_size=3, bias=True, stride=2), INPUT)
        value = builder.add("depthwise", Conv2d(3, 3, kernel_size=3, bias=False, groups=3, stride=2), value)
        value = builder.add("norm", BatchNorm(3), value)
        value = builder.add("act", ReLU(), value)
        value = builder.add("last", Conv2d(3, 5, kernel_size=2, bias=True, padding=0), value)
        value = builder.add("average", GlobalAveragePool(), value)
        builder.add("output", Linear(5, self.num_classes), value)
        return builder.build()


@pytest.fixture(params=["flatten", "average", "blueprint", "strided"])
def module(request: pytest.FixtureRequest, random_module: RandomModule) -> GraphModule:
    """Convolutions with and without bias, 3×3, 1×1 and depthwise, batch norms of images and vectors, linear layers."""
    if request.param == "blueprint":
        stages = (Stage(channels=3, num_layers=1), Stage(channels=5, num_layers=2))
        blueprint = BlueprintArchitecture(
            input_channels=2, input_height=8, input_width=11, num_classes=4, stem_pools=0, stages=stages
        )
        return random_module(blueprint, 3)
    if request.param == "strided":
        strided = StridedArchitecture(input_channels=2, input_height=8, input_width=11, num_classes=4)
        return random_module(strided, 3)
    rows = tuple(
        Block(channels=channels, layers=tuple(Layer(kind=kind, negative_slope=0.2) for kind in kinds))
        for channels, kinds in [(3, ["conv", "residual"]), (5, ["conv", "conv"])]
    )
    architecture = start(input_shape=(2, 8, 11), num_classes=4, head=request.param)
    return random_module(architecture.model_copy(update={"blocks": rows}), 3)


def sample(module: GraphModule, count: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(5)
    images = torch.randn((count, *module.graph.input_shape), generator=random)
    return images, torch.randint(0, 4, (count,), generator=random)


@pytest.mark.parametrize("count", [1, 7, 16, 45])
def test_moments_equal_one_backward_pass_for_each_image(module: GraphModule, count: int) -> None:
    images, labels = sample(module, count)
    found = gradient_moments(module, images, labels)
    expected = per_sample_gradients(module, images, labels)
    assert found.by_name.keys() == expected.keys()
    assert found.num_samples == count
    assert found.loss == pytest.approx(F.cross_entropy(module(images), labels).item(), rel=1e-5)
    bounds = group_bounds(count)
    for name, gradients in expected.items():
        moments = found.by_name[name]
        scale = gradients.abs().max()
        groups = [gradients[start:end].sum(0) for start, end in pairwise(bounds)]
        torch.testing.assert_close(moments.group_sums, torch.stack(groups), rtol=1e-4, atol=1e-5 * scale.item())
        torch.testing.assert_close(moments.mean, gradients.mean(0), rtol=1e-4, atol=1e-5 * scale.item())
        square = gradients.square().mean(0)
        torch.testing.assert_close(moments.mean_square, square, rtol=1e-4, atol=1e-5 * scale.item() ** 2)


def test_samples_beyond_one_chunk_all_count(module: GraphModule) -> None:
    images, labels = sample(module, 2100)
    whole = gradient_moments(module, images, labels)
    parts = [gradient_moments(module, images[part], labels[part]) for part in (slice(0, 900), slice(900, 2100))]
    for name, moments in whole.by_name.items():
        squares = sum(part.by_name[name].squares for part in parts)
        torch.testing.assert_close(moments.squares, squares, rtol=1e-4, atol=1e-6)
    loss = F.cross_entropy(module(images), labels)
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    for moments, gradient in zip(whole.by_name.values(), gradients, strict=True):
        torch.testing.assert_close(moments.mean, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_module_is_left_as_it_was(module: GraphModule, training: bool) -> None:
    module.train(training)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    gradient_moments(module, *sample(module, 5))
    assert module.training is training
    assert all(layer.training is training for layer in module.modules())
    assert all(torch.equal(parameter.grad, torch.full_like(parameter, 3.0)) for parameter in module.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert not any(layer._forward_hooks for layer in module.modules())


def test_moments_do_not_depend_on_the_mode(module: GraphModule) -> None:
    """Dropout and the batch's own statistics would make a sample's gradient depend on chance and on the others."""
    images, labels = sample(module, 20)
    in_eval = gradient_moments(module.eval(), images, labels)
    in_train = gradient_moments(module.train(), images, labels)
    assert all(torch.equal(in_eval.by_name[name].squares, in_train.by_name[name].squares) for name in in_eval.by_name)


@pytest.mark.parametrize("count", [60, 258])
def test_statistics_are_those_of_the_images(module: GraphModule, count: int) -> None:
    images, _ = sample(module, count)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    checked = 0

    def check(layer: nn.Module, args: tuple[Tensor]) -> None:
        nonlocal checked
        variance, mean = torch.var_mean(args[0].transpose(0, 1).flatten(1), dim=1)
        torch.testing.assert_close(layer.running_mean, mean, rtol=0.02, atol=0.02)
        torch.testing.assert_close(layer.running_var, variance, rtol=0.05, atol=0.02)
        checked += 1

    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    with statistics_of(module.train(), images) as measured:
        assert not any(layer.training for layer in measured.modules())
        handles = [layer.register_forward_pre_hook(check) for layer in norms]
        measured(images)
    for handle in handles:
        handle.remove()
    assert checked == len(norms) == sum(isinstance(node.op, BatchNorm) for node in module.graph.nodes) > 0
    assert {layer.momentum for layer in norms} == {0.1}
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 100, 512])
def test_groups_share_the_samples_out(count: int) -> None:
    sizes = [end - start for start, end in pairwise(group_bounds(count))]
    assert sum(sizes) == count
    assert len(sizes) == min(NUM_GROUPS, count)
    assert max(sizes) - min(sizes) <= 1
