from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.growth.expand import Exact, expand, grid, new_entries
from trainer.growth.scores.fisher import GradientMoments, gradient_moments
from trainer.loop import optim
from trainer.recipes.runs import paper
from zoo.network.families.blueprint import BlueprintArchitecture, Stage
from zoo.network.families.family import Architecture, Change
from zoo.network.families.secnn import SecnnArchitecture, start
from zoo.network.placement import placements
from zoo.runtime.module import GraphModule

EXACT = Exact()
BATCH = 8
CPU = torch.device("cpu")
CONFIG = replace(paper(), batch_size=BATCH, learning_rate=1e-3)
ADAMW = replace(CONFIG, optimizer="adamw", weight_decay=0.05, beta2=0.99)

RandomModule = Callable[[Architecture, int], GraphModule]


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


def train(module: GraphModule, optimizer: torch.optim.Optimizer, data: list[tuple[Tensor, Tensor]]) -> None:
    module.train()
    for images, labels in data:
        optimizer.zero_grad()
        F.cross_entropy(module(images), labels).backward()
        optimizer.step()


def grow(
    architecture: Architecture, module: GraphModule, change: Change, data: list[tuple[Tensor, Tensor]]
) -> tuple[GraphModule, GradientMoments]:
    return grow_by(architecture, module, [change], data)


def grow_by(
    architecture: Architecture, module: GraphModule, changes: list[Change], data: list[tuple[Tensor, Tensor]]
) -> tuple[GraphModule, GradientMoments]:
    """All changes in one expansion."""
    images, labels = (torch.cat(parts) for parts in zip(*data, strict=True))
    for change in changes:
        architecture = architecture.grown(change, exact=True)
    new = expand(module, architecture.graph(), EXACT, images, torch.Generator().manual_seed(2))
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
    optimizer = optim.make(module, replace(CONFIG, learning_rate=3e-3))
    train(module, optimizer, batches(2))
    mark(module, optimizer)
    new, moments = grow(architecture, module, change, batches(4))
    carried = optim.carried(optimizer, module, new, moments, CONFIG)
    assert_state_is_where_it_belongs(carried, module, new, moments)
    assert carried.param_groups[0]["lr"] == 3e-3


def mark(module: GraphModule, optimizer: torch.optim.Optimizer) -> None:
    for parameter in module.parameters():
        optimizer.state[parameter]["exp_avg"].copy_(parameter.detach())
        optimizer.state[parameter]["exp_avg_sq"].copy_(parameter.detach().square() + 1)


def assert_state_is_where_it_belongs(
    carried: torch.optim.Optimizer, module: GraphModule, new: GraphModule, moments: GradientMoments
) -> None:
    masks = new_entries(module.graph, new.graph)
    for name, parameter in new.named_parameters():
        state, tensor = carried.state[parameter], moments.by_name[name]
        fresh = masks.get(name, torch.zeros_like(parameter, dtype=torch.bool))
        assert torch.equal(state["exp_avg"][~fresh], parameter.detach()[~fresh]), name
        assert torch.equal(state["exp_avg_sq"][~fresh], parameter.detach().square()[~fresh] + 1), name
        assert (state["exp_avg"][fresh] == 0).all(), name
        of_a_batch = tensor.mean.square() + (tensor.mean_square - tensor.mean.square()) / BATCH
        torch.testing.assert_close(state["exp_avg_sq"][fresh], of_a_batch[fresh])
        assert state["step"] == 2


def test_block_0_and_the_last_block_keep_their_slots_in_the_concatenation(
    architecture: SecnnArchitecture, random_module: RandomModule
) -> None:
    module = random_module(architecture, 0)
    optimizer = optim.make(module, CONFIG)
    train(module, optimizer, batches(2))
    old = optimizer.state[module.get_parameter("head.conv.weight")]["exp_avg"]  # (10, 4 + 4, 1, 1)
    for change, slots in [
        (Change("widen", 0, channels_added=2), [0, 1, 2, 3, None, None, 4, 5, 6, 7]),
        (Change("widen", 2, channels_added=2), [0, 1, 2, 3, 4, 5, 6, 7, None, None]),
        (Change("widen", 1, channels_added=2), [0, 1, 2, 3, 4, 5, 6, 7]),
    ]:
        new, moments = grow(architecture, module, change, batches(4))
        carried = optim.carried(optimizer, module, new, moments, CONFIG)
        found = carried.state[new.get_parameter("head.conv.weight")]["exp_avg"]
        columns = [old[:, slot] if slot is not None else torch.zeros(10, 1, 1) for slot in slots]
        assert torch.equal(found, torch.stack(columns, dim=1))


def test_second_moments_of_new_entries_are_those_of_batches(
    architecture: SecnnArchitecture, random_module: RandomModule
) -> None:
    """As found by drawing many batches: it is what Adam will average."""
    module = random_module(architecture, 0)
    optimizer = optim.make(module, CONFIG)
    train(module, optimizer, batches(1))
    data = batches(8)
    new, moments = grow(architecture, module, Change("deepen", 1, layer_kind="residual"), data)
    kernel = new.get_parameter("blocks.1.layers.1.conv.weight")
    estimate = optim.carried(optimizer, module, new, moments, CONFIG).state[kernel]["exp_avg_sq"]

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
    optimizer = optim.make(module, replace(CONFIG, learning_rate=1e-2))
    data = batches(12)
    train(module, optimizer, data[:6])
    new, moments = grow(architecture, module, Change("deepen", block, layer_kind="residual"), data)
    carried = optim.carried(optimizer, module, new, moments, CONFIG)
    for name in new_entries(module.graph, new.graph):
        new.get_parameter(name).requires_grad_(False)
    fresh = deepcopy(new)

    train(module, optimizer, data[6:])
    train(new, carried, data[6:])
    wanted = dict(module.named_parameters())
    assert distance(wanted, new) < 1e-5
    # The same with an optimiser that begins anew ends elsewhere: the moments matter here.
    train(fresh, optim.make(fresh, replace(CONFIG, learning_rate=1e-2)), data[6:])
    assert distance(wanted, fresh) > 1e-2


def distance(wanted: dict[str, torch.nn.Parameter], module: GraphModule) -> float:
    return max((module.get_parameter(name) - parameter).abs().max().item() for name, parameter in wanted.items())


def test_an_optimiser_that_has_not_stepped_is_carried_as_such(
    architecture: SecnnArchitecture, random_module: RandomModule
) -> None:
    module = random_module(architecture, 0)
    new, moments = grow(architecture, module, Change("widen", 0, channels_added=2), batches(2))
    optimizer = optim.make(module, replace(CONFIG, learning_rate=5e-3))
    carried = optim.carried(optimizer, module, new, moments, CONFIG)
    assert not carried.state
    assert carried.param_groups[0]["lr"] == 5e-3


# --- blueprint networks with AdamW ------------------------------------------------------------------------


BLUEPRINT = BlueprintArchitecture(
    input_channels=2,
    input_height=8,
    input_width=12,
    num_classes=3,
    stem_pools=0,
    stages=(Stage(channels=4, num_layers=1), Stage(channels=3, num_layers=0), Stage(channels=5, num_layers=2)),
)
STAGE_CHANGES = [
    Change(kind, stage, layer_kind="residual") if kind == "deepen" else Change(kind, stage, channels_added=3)
    for stage in range(3)
    for kind in ("deepen", "widen")
]


@pytest.mark.parametrize(
    "changes",
    [*([change] for change in STAGE_CHANGES), STAGE_CHANGES, STAGE_CHANGES + STAGE_CHANGES[::-1]],
    ids=lambda changes: "+".join(f"{change.kind}-{change.block}" for change in changes),
)
def test_moments_of_adamw_move_with_their_weights(random_module: RandomModule, changes: list[Change]) -> None:
    """Through depthwise and pointwise kernels, and through many changes in one expansion."""
    module = random_module(BLUEPRINT, 0)
    optimizer = optim.make(module, replace(ADAMW, learning_rate=3e-3))
    train(module, optimizer, batches(2))
    mark(module, optimizer)
    new, moments = grow_by(BLUEPRINT, module, changes, batches(4))
    carried = optim.carried(optimizer, module, new, moments, ADAMW)
    assert isinstance(carried, torch.optim.AdamW)
    assert_state_is_where_it_belongs(carried, module, new, moments)
    assert [group["lr"] for group in carried.param_groups] == [3e-3, 3e-3]


def test_adamw_decays_kernels_and_matrices_alone(random_module: RandomModule) -> None:
    module = random_module(BLUEPRINT, 0)
    for config, pull in ((ADAMW, 1.0), (replace(ADAMW, optimizer="adam"), 0.0)):
        optimizer = optim.make(module, config)
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
        optimizer.step()
        for name, parameter in module.named_parameters():
            factor = 1 - 1e-3 * 0.05 * pull if parameter.ndim > 1 else 1
            torch.testing.assert_close(parameter.detach(), before[name] * factor, rtol=1e-6, atol=0)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_training_goes_on_as_if_frozen_growth_were_not_there(random_module: RandomModule, stage: int) -> None:
    """A layer, or channels whose readers stay 0."""
    config = replace(ADAMW, learning_rate=1e-2)
    data = batches(12)
    for change in (STAGE_CHANGES[2 * stage], STAGE_CHANGES[2 * stage + 1]):
        module = random_module(BLUEPRINT, 0)
        optimizer = optim.make(module, config)
        train(module, optimizer, data[:6])
        new, moments = grow(BLUEPRINT, module, change, data)
        carried = optim.carried(optimizer, module, new, moments, config)
        masks = new_entries(module.graph, new.graph)
        grown = {name: new.get_parameter(name).detach()[mask].clone() for name, mask in masks.items()}
        train(module, optimizer, data[6:])
        new.train()
        for images, labels in data[6:]:
            carried.zero_grad()
            F.cross_entropy(new(images), labels).backward()
            carried.step()
            with torch.no_grad():
                for name, mask in masks.items():
                    new.get_parameter(name)[mask] = grown[name]
        places = placements(module.graph, new.graph)
        for name, parameter in module.named_parameters():
            kept = new.get_parameter(name)[grid(places[name])]
            torch.testing.assert_close(kept, parameter, rtol=1e-4, atol=1e-4)


def test_moments_of_weights_that_are_all_new_begin_as_those_of_added_ones(
    architecture: SecnnArchitecture, random_module: RandomModule
) -> None:
    module, data = random_module(architecture, 0), batches(4)
    old = optim.make(module, ADAMW)
    train(module, old, data)
    new, moments = grow(architecture, module, Change("widen", 0, channels_added=3), data)
    carried = optim.carried(old, module, new, moments, ADAMW, all_new=True)
    for name, parameter in new.named_parameters():
        state, tensor = carried.state[parameter], moments.by_name[name]
        squared = tensor.mean.square()
        assert not state["exp_avg"].any()
        torch.testing.assert_close(state["exp_avg_sq"], squared + (tensor.mean_square - squared) / BATCH)
        assert state["step"] == 4
