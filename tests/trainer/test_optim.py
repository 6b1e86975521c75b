from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer import optim
from trainer.expand import Change, Initialization, expand, new_entries
from trainer.scores.fisher import GradientMoments, gradient_moments
from zoo.families.secnn import SecnnArchitecture, start
from zoo.module import GraphModule

EXACT = Initialization(exact=True, noise_std=1e-4)
BATCH = 8

RandomModule = Callable[[SecnnArchitecture, int], GraphModule]


@pytest.fixture(params=["flatten", "average"])
def architecture(request: pytest.FixtureRequest) -> SecnnArchitecture:
    return start(
        input_shape=(2, 8, 12), num_classes=3, channels=4, head=request.param, conv_dropout=0.0, linear_dropout=0.0
    )


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(1)
    return [
        (torch.randn((BATCH, 2, 8, 12), generator=random), torch.randint(0, 3, (BATCH,), generator=random))
        for _ in range(count)
    ]


def train(module: GraphModule, optimizer: torch.optim.Adam, data: list[tuple[Tensor, Tensor]]) -> None:
    module.train()
    for images, labels in data:
        optimizer.zero_grad()
        F.cross_entropy(module(images), labels).backward()
        optimizer.step()


def grow(
    architecture: SecnnArchitecture, module: GraphModule, change: Change, data: list[tuple[Tensor, Tensor]]
) -> tuple[GraphModule, GradientMoments]:
    images, labels = (torch.cat(parts) for parts in zip(*data, strict=True))
    graph = change.apply(architecture, exact=True).graph()
    new = expand(module, graph, EXACT, images, torch.Generator().manual_seed(2))
    return new, gradient_moments(new, images, labels)


CHANGES = [
    *(Change("deepen", block, layer_kind=kind) for block in range(3) for kind in ("conv", "residual")),
    *(Change("widen", block, channels_added=3) for block in range(3)),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change.kind}-{change.layer_kind}-{change.block}")
def test_moments_move_with_their_weights(
    architecture: SecnnArchitecture, random_module: RandomModule, change: Change
) -> None:
    """Every old entry is marked by the weight beside it: the logits show where the weights must be."""
    module = random_module(architecture, 0)
    optimizer = optim.adam(module, 3e-3)
    train(module, optimizer, batches(2))
    for parameter in module.parameters():
        optimizer.state[parameter]["exp_avg"].copy_(parameter.detach())
        optimizer.state[parameter]["exp_avg_sq"].copy_(parameter.detach().square() + 1)
    new, moments = grow(architecture, module, change, batches(4))
    carried = optim.carried_adam(optimizer, module, new, moments, BATCH)

    masks = new_entries(module.graph, new)
    for name, parameter in new.named_parameters():
        state, tensor = carried.state[parameter], moments.by_name[name]
        fresh = masks.get(name, torch.zeros_like(parameter, dtype=torch.bool))
        assert torch.equal(state["exp_avg"][~fresh], parameter.detach()[~fresh]), name
        assert torch.equal(state["exp_avg_sq"][~fresh], parameter.detach().square()[~fresh] + 1), name
        assert (state["exp_avg"][fresh] == 0).all(), name
        of_a_batch = tensor.mean.square() + (tensor.mean_square - tensor.mean.square()) / BATCH
        torch.testing.assert_close(state["exp_avg_sq"][fresh], of_a_batch[fresh])
        assert state["step"] == 2
    assert carried.param_groups[0]["lr"] == 3e-3


def test_block_0_and_the_last_block_keep_their_slots_in_the_concatenation(
    architecture: SecnnArchitecture, random_module: RandomModule
) -> None:
    module = random_module(architecture, 0)
    optimizer = optim.adam(module, 1e-3)
    train(module, optimizer, batches(2))
    old = optimizer.state[module.get_parameter("head.conv.weight")]["exp_avg"]  # (10, 4 + 4, 1, 1)
    for change, slots in [
        (Change("widen", 0, channels_added=2), [0, 1, 2, 3, None, None, 4, 5, 6, 7]),
        (Change("widen", 2, channels_added=2), [0, 1, 2, 3, 4, 5, 6, 7, None, None]),
        (Change("widen", 1, channels_added=2), [0, 1, 2, 3, 4, 5, 6, 7]),
    ]:
        new, moments = grow(architecture, module, change, batches(4))
        carried = optim.carried_adam(optimizer, module, new, moments, BATCH)
        found = carried.state[new.get_parameter("head.conv.weight")]["exp_avg"]
        columns = [old[:, slot] if slot is not None else torch.zeros(10, 1, 1) for slot in slots]
        assert torch.equal(found, torch.stack(columns, dim=1))


def test_second_moments_of_new_entries_are_those_of_batches(
    architecture: SecnnArchitecture, random_module: RandomModule
) -> None:
    """As found by drawing many batches: it is what Adam will average."""
    module = random_module(architecture, 0)
    optimizer = optim.adam(module, 1e-3)
    train(module, optimizer, batches(1))
    data = batches(8)
    new, moments = grow(architecture, module, Change("deepen", 1, layer_kind="residual"), data)
    kernel = new.get_parameter("blocks.1.layers.1.conv.weight")
    estimate = optim.carried_adam(optimizer, module, new, moments, BATCH).state[kernel]["exp_avg_sq"]

    images, labels = (torch.cat(parts) for parts in zip(*data, strict=True))
    random = torch.Generator().manual_seed(3)
    squares = torch.zeros_like(kernel)
    new.eval()
    for _ in range(300):
        chosen = torch.randint(0, len(labels), (BATCH,), generator=random)
        [gradient] = torch.autograd.grad(F.cross_entropy(new(images[chosen]), labels[chosen]), [kernel])
        squares += gradient.square() / 300
    assert (squares.sum() / estimate.sum()).item() == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_training_goes_on_as_if_a_frozen_residual_layer_were_not_there(
    architecture: SecnnArchitecture, random_module: RandomModule, block: int
) -> None:
    module = random_module(architecture, 0)
    optimizer = optim.adam(module, 1e-2)
    data = batches(12)
    train(module, optimizer, data[:6])
    new, moments = grow(architecture, module, Change("deepen", block, layer_kind="residual"), data)
    carried = optim.carried_adam(optimizer, module, new, moments, BATCH)
    for name in new_entries(module.graph, new):
        new.get_parameter(name).requires_grad_(False)
    fresh = deepcopy(new)

    train(module, optimizer, data[6:])
    train(new, carried, data[6:])
    wanted = dict(module.named_parameters())
    assert distance(wanted, new) < 1e-5
    # The same with an optimiser that begins anew ends elsewhere: the moments matter here.
    train(fresh, optim.adam(fresh, 1e-2), data[6:])
    assert distance(wanted, fresh) > 1e-2


def distance(wanted: dict[str, torch.nn.Parameter], module: GraphModule) -> float:
    return max((module.get_parameter(name) - parameter).abs().max().item() for name, parameter in wanted.items())


def test_an_optimiser_that_has_not_stepped_is_carried_as_such(
    architecture: SecnnArchitecture, random_module: RandomModule
) -> None:
    module = random_module(architecture, 0)
    new, moments = grow(architecture, module, Change("widen", 0, channels_added=2), batches(2))
    carried = optim.carried_adam(optim.adam(module, 5e-3), module, new, moments, BATCH)
    assert not carried.state
    assert carried.param_groups[0]["lr"] == 5e-3
