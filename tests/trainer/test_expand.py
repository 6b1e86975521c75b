from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from trainer.growth.expand import Exact, Initialization, Noise, expand, new_entries, shrink_and_perturb
from trainer.recipes.runs import paper
from zoo.network.cost import num_params
from zoo.network.families import blueprint
from zoo.network.families.blueprint import BlueprintArchitecture, Stage
from zoo.network.families.family import Architecture, Change
from zoo.network.families.secnn import Block, Layer, SecnnArchitecture, start
from zoo.runtime.module import GraphModule

EXACT = Exact()
PAPER = Noise()
TOLERANCE = 1e-5
CPU = torch.device("cpu")

Grown = tuple[Architecture, GraphModule]
RandomModule = Callable[[Architecture, int], GraphModule]

slopes = st.sampled_from([0.0, 0.01, 0.2, 0.5, 1.0])


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    kinds = draw(st.lists(st.sampled_from(["conv", "residual"]), max_size=3))
    layers = tuple(Layer(kind=kind, negative_slope=draw(slopes)) for kind in ["conv", *kinds])
    return Block(channels=draw(st.integers(2, 6)), layers=layers)


@st.composite
def architectures(draw: st.DrawFn, dropout: float = 0.1) -> SecnnArchitecture:
    rows = tuple(draw(st.lists(blocks(), min_size=2, max_size=4)))
    sizes = st.integers(max(8, 2 ** len(rows)), 16)
    return SecnnArchitecture(
        input_channels=draw(st.integers(1, 3)),
        input_height=draw(sizes),
        input_width=draw(sizes),
        num_classes=draw(st.integers(2, 5)),
        blocks=rows,
        head=draw(st.sampled_from(["flatten", "average"])),
        bottleneck_channels=draw(st.integers(2, 6)),
        hidden_features=draw(st.integers(2, 8)),
        head_negative_slope=draw(slopes),
        conv_dropout=dropout,
        linear_dropout=dropout,
    )


@st.composite
def blueprints(draw: st.DrawFn) -> BlueprintArchitecture:
    """Also of stages without a layer, and of one channel."""
    stages = st.builds(Stage, channels=st.integers(1, 6), num_layers=st.integers(0, 2))
    rows = tuple(draw(st.lists(stages, min_size=1, max_size=4)))
    sizes = st.integers(8, 14)
    return BlueprintArchitecture(
        input_channels=draw(st.integers(1, 3)),
        input_height=draw(sizes),
        input_width=draw(sizes),
        num_classes=draw(st.integers(2, 5)),
        stem_pools=0 if len(rows) > 3 else draw(st.integers(0, 1)),
        stages=rows,
    )


def all_changes(architecture: Architecture, channels_added: int) -> list[Change]:
    if isinstance(architecture, BlueprintArchitecture):
        return [
            change
            for stage in range(len(architecture.stages))
            for change in (
                Change("deepen", stage, layer_kind="residual"),
                Change("widen", stage, channels_added=channels_added),
            )
        ]
    return [
        change
        for block in range(len(architecture.blocks))
        for change in (
            Change("deepen", block, layer_kind="conv"),
            Change("deepen", block, layer_kind="residual"),
            Change("widen", block, channels_added=channels_added),
        )
    ]


def leaves_training_alone(change: Change) -> bool:
    """An inserted conv layer normalises by the batch in train mode; the others change nothing in any mode."""
    return change.layer_kind != "conv"


def grow(grown: Grown, change: Change, initialization: Initialization, images: Tensor) -> Grown:
    architecture, module = grown
    larger = architecture.grown(change, exact=isinstance(initialization, Exact))
    return larger, expand(module, larger.graph(), initialization, images, torch.Generator().manual_seed(7))


def inputs(architecture: Architecture, seed: int, count: int = 8) -> Tensor:
    shape = (count, architecture.input_channels, architecture.input_height, architecture.input_width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def remove_dropout(module: GraphModule) -> None:
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0


@torch.no_grad()
def logits(module: GraphModule, images: Tensor) -> Tensor:
    """In the module's mode; its running statistics stay as they are."""
    return (deepcopy(module) if module.training else module)(images)


def rounding_error(module: GraphModule, images: Tensor) -> float:
    """How well float32 determines the network's own logits: some networks multiply every rounding by a hundred."""
    return (logits(module, images) - logits(deepcopy(module).double(), images.double())).abs().max().item()


def assert_same_logits(old: Tensor, new: Tensor, what: object) -> None:
    difference = (old - new).abs().max().item()
    assert difference <= TOLERANCE, f"{what}: logits of up to {old.abs().max():.1f} moved by {difference:.2g}"


@settings(max_examples=20)
@given(architectures() | blueprints(), st.integers(1, 5), st.integers(0, 2**32))
def test_every_exact_expansion_keeps_the_logits(
    random_module: RandomModule, architecture: Architecture, channels_added: int, seed: int
) -> None:
    module = random_module(architecture, seed)
    images, calibration = inputs(architecture, seed + 1), inputs(architecture, seed + 2)
    before = logits(module, images)
    assume(rounding_error(module, images) < 0.2 * TOLERANCE)
    for change in all_changes(architecture, channels_added):
        _, new = grow((architecture, module), change, EXACT, calibration)
        assert num_params(new.graph) > num_params(module.graph)
        assert_same_logits(before, logits(new, images), change)


@settings(max_examples=15)
@given(architectures() | blueprints(), st.data(), st.integers(0, 2**32))
def test_exact_expansions_in_a_row_keep_the_logits(
    random_module: RandomModule, architecture: Architecture, data: st.DataObject, seed: int
) -> None:
    grown = architecture, random_module(architecture, seed)
    images, calibration = inputs(architecture, seed + 1), inputs(architecture, seed + 2)
    before = logits(grown[1], images)
    assume(rounding_error(grown[1], images) < 0.2 * TOLERANCE)
    row = data.draw(st.lists(st.sampled_from(all_changes(architecture, 2)), min_size=2, max_size=3))
    for change in row:
        grown = grow(grown, change, EXACT, calibration)
    assert_same_logits(before, logits(grown[1], images), row)


@settings(max_examples=15)
@given(architectures(dropout=0) | blueprints(), st.integers(1, 5), st.integers(0, 2**32))
def test_residual_layers_and_widening_keep_the_logits_while_training(
    random_module: RandomModule, architecture: Architecture, channels_added: int, seed: int
) -> None:
    """In float64: where a channel hardly varies, the batch's own statistics make much of float32 rounding."""
    module = random_module(architecture, seed).train()
    images, calibration = inputs(architecture, seed + 1), inputs(architecture, seed + 2)
    before = logits(deepcopy(module).double(), images.double())
    for change in filter(leaves_training_alone, all_changes(architecture, channels_added)):
        _, new = grow((architecture, module), change, EXACT, calibration)
        assert new.training
        assert_same_logits(before, logits(new.double(), images.double()), change)


@settings(max_examples=20)
@given(blueprints(), st.data(), st.integers(0, 2**32))
def test_many_changes_at_once_keep_the_logits(
    random_module: RandomModule, architecture: BlueprintArchitecture, data: st.DataObject, seed: int
) -> None:
    """In one `expand`, in eval mode and while training: a new layer in a wider stage, a stage twice as wide, …"""
    module = random_module(architecture, seed)
    images, calibration = inputs(architecture, seed + 1), inputs(architecture, seed + 2)
    assume(rounding_error(module, images) < 0.2 * TOLERANCE)
    row = data.draw(st.lists(st.sampled_from(all_changes(architecture, 3)), min_size=2, max_size=8))
    larger: Architecture = architecture
    for change in row:
        larger = larger.grown(change, exact=True)
    new = expand(module, larger.graph(), EXACT, calibration, torch.Generator().manual_seed(7))
    marked = sum(int(mask.sum()) for mask in new_entries(module.graph, new.graph).values())
    assert marked == num_params(new.graph) - num_params(module.graph) > 0
    assert_same_logits(logits(module, images), logits(new, images), row)
    training = [deepcopy(each).double().train() for each in (module, new)]
    before, after = (logits(each, images.double()) for each in training)
    assert_same_logits(before, after, row)


@pytest.fixture
def blueprint_net(random_module: RandomModule) -> Grown:
    architecture = blueprint.start(
        input_shape=(3, 32, 32), num_classes=10, channels=(16, 16, 16, 24), num_layers=(0, 1, 1, 1)
    )
    return architecture, random_module(architecture, 0)


def test_a_blueprint_network_keeps_its_logits_exactly(blueprint_net: Grown) -> None:
    """What is new is multiplied by 0 before it is added: no bit of the logits moves, with all changes at once too."""
    architecture, module = blueprint_net
    images, calibration = inputs(architecture, 1), inputs(architecture, 2)
    before = logits(module, images)
    changes = all_changes(architecture, 8)
    everything: Architecture = architecture
    for change in changes:
        everything = everything.grown(change, exact=True)
        _, new = grow(blueprint_net, change, EXACT, calibration)
        assert (logits(new, images) - before).abs().max() == 0, change
    new = expand(module, everything.graph(), EXACT, calibration, torch.Generator().manual_seed(7))
    assert (logits(new, images) - before).abs().max() == 0


def test_old_weights_stay_in_a_wider_depthwise_convolution(blueprint_net: Grown) -> None:
    """Channel i still filters channel i, and no old channel reads a new one."""
    _, module = blueprint_net
    _, new = grow(blueprint_net, Change("widen", 3, channels_added=8), EXACT, inputs(blueprint_net[0], 2))
    depthwise = new.get_parameter("stages.3.layers.0.depthwise.weight")
    assert depthwise.shape == (32, 1, 3, 3)
    assert torch.equal(depthwise[:24], module.get_parameter("stages.3.layers.0.depthwise.weight"))
    assert (depthwise[24:] != 0).all()
    pointwise = new.get_parameter("stages.3.layers.0.pointwise.weight")
    assert torch.equal(pointwise[:24, :24], module.get_parameter("stages.3.layers.0.pointwise.weight"))
    assert (pointwise[:24, 24:] == 0).all()
    assert (pointwise[24:] != 0).all()


def test_a_new_blueprint_layer_begins_as_zero_and_can_learn(blueprint_net: Grown) -> None:
    """Its pointwise kernel is 0 and has a gradient everywhere, read through a depthwise kernel that is not 0."""
    images, labels = inputs(blueprint_net[0], 1, 32), torch.arange(32) % 10
    for stage in range(4):
        architecture, new = grow(blueprint_net, Change("deepen", stage, layer_kind="residual"), EXACT, images)
        F.cross_entropy(new(images), labels).backward()
        layer = f"stages.{stage}.layers.{architecture.stages[stage].num_layers - 1}"
        pointwise = new.get_parameter(f"{layer}.pointwise.weight")
        assert (pointwise == 0).all()
        assert (pointwise.grad != 0).all()
        assert (new.get_parameter(f"{layer}.depthwise.weight") != 0).all()


@pytest.fixture
def paper_net(random_module: RandomModule) -> Grown:
    architecture = start(input_shape=(3, 32, 32), num_classes=10)
    return architecture, random_module(architecture, 0)


@pytest.mark.parametrize("kind", ["conv", "residual"])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_the_papers_net_keeps_its_logits_at_every_depth(paper_net: Grown, block: int, kind: str) -> None:
    images, calibration = inputs(paper_net[0], 1), inputs(paper_net[0], 2)
    before = logits(paper_net[1], images)
    grown = paper_net
    for depth in range(2, paper().recipe.max_layers_per_block + 1):
        _, wider = grow(grown, Change("widen", block, channels_added=2), EXACT, calibration)
        assert_same_logits(before, logits(wider, images), f"widening at {depth - 1} layers")
        grown = grow(grown, Change("deepen", block, layer_kind=kind), EXACT, calibration)
        assert len(grown[0].blocks[block].layers) == depth
        assert_same_logits(before, logits(grown[1], images), f"{depth} layers")


def test_the_papers_net_keeps_its_logits_while_training(paper_net: Grown) -> None:
    architecture, module = paper_net
    remove_dropout(module.train())
    images = inputs(architecture, 1, 32)
    before = logits(module, images)
    for change in filter(leaves_training_alone, all_changes(architecture, 2)):
        _, new = grow(paper_net, change, EXACT, images)
        remove_dropout(new)
        assert_same_logits(before, logits(new, images), change)


def test_the_papers_parameter_counts(paper_net: Grown) -> None:
    counts = [num_params(paper_net[1].graph)]
    grown = paper_net
    for _ in range(2):
        grown = grow(grown, Change("deepen", 1, layer_kind="conv"), PAPER, inputs(paper_net[0], 2))
        counts.append(num_params(grown[1].graph))
    assert counts == [9_024, 11_360, 13_696]


@pytest.mark.parametrize("initialization", [EXACT, PAPER])
@pytest.mark.parametrize("training", [True, False])
def test_the_old_module_is_left_alone(paper_net: Grown, initialization: Initialization, training: bool) -> None:
    architecture, module = paper_net
    module.train(training)
    before = deepcopy(module.state_dict())
    for change in all_changes(architecture, 2):
        _, new = grow(paper_net, change, initialization, inputs(architecture, 2))
        with torch.no_grad():
            for parameter in new.parameters():
                parameter.add_(1)
    assert module.training is training
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("head", ["flatten", "average"])
def test_what_begins_as_zero_has_a_gradient(random_module: RandomModule, head: str) -> None:
    """Otherwise it could neither be scored nor trained."""
    layers = tuple(Layer(kind=kind, negative_slope=0.2) for kind in ("conv", "conv", "residual"))
    architecture = start(input_shape=(3, 16, 16), num_classes=4, channels=5, head=head)
    architecture = architecture.model_copy(update={"blocks": (Block(channels=5, layers=layers),) * 3})
    module = random_module(architecture, 0)
    images, labels = inputs(architecture, 1, 32), torch.arange(32) % 4
    for change in filter(leaves_training_alone, all_changes(architecture, 2)):
        _, new = grow((architecture, module), change, EXACT, images)
        F.cross_entropy(new(images), labels).backward()
        found = 0
        for name, mask in new_entries(module.graph, new.graph).items():
            parameter = new.get_parameter(name)
            if parameter.ndim < 2:
                continue
            # A 3×3 kernel (or a single weight) that is read through zeros: each must have a gradient.
            zero = mask & (parameter == 0)
            kernels = zero.flatten(2).all(2) if zero.ndim == 4 else zero
            gradients = parameter.grad.flatten(2).abs().sum(2) if zero.ndim == 4 else parameter.grad.abs()
            found += int(kernels.sum())
            assert (gradients[kernels] > 0).all(), f"{change}: {name}"
        assert found >= 10, change


def test_new_entries_are_all_that_an_expansion_adds(paper_net: Grown) -> None:
    architecture, module = paper_net
    for change in all_changes(architecture, 3):
        _, new = grow(paper_net, change, EXACT, inputs(architecture, 2))
        marked = sum(int(mask.sum()) for mask in new_entries(module.graph, new.graph).values())
        assert marked == num_params(new.graph) - num_params(module.graph)


def test_the_papers_initialisation_changes_the_logits(paper_net: Grown) -> None:
    architecture, module = paper_net
    images = inputs(architecture, 1)
    before = logits(module, images)
    for change in architecture.changes(max_layers=10, layer_kind="conv", channels_added=2):
        _, new = grow(paper_net, change, PAPER, images)
        moved = (logits(new, images) - before).abs().max().item()
        assert moved > 0, change
        # A new layer normalises afresh; a new channel of 1e-4 goes on to weights of 1e-4.
        assert (moved > 0.1) is (change.kind == "deepen"), change


def test_the_papers_widening_changes_the_logits_while_training(paper_net: Grown) -> None:
    """Batch norm then blows the noise in the new channels up to unit variance."""
    architecture, module = paper_net
    remove_dropout(module.train())
    images = inputs(architecture, 1)
    before = logits(module, images)
    for block in range(3):
        _, new = grow(paper_net, Change("widen", block, channels_added=2), PAPER, images)
        remove_dropout(new)
        assert (logits(new, images) - before).abs().max() > 10 * TOLERANCE, block


def test_the_papers_initialisation_is_a_narrow_gaussian(paper_net: Grown) -> None:
    architecture, module = paper_net
    _, deeper = grow(paper_net, Change("deepen", 1, layer_kind="conv"), PAPER, inputs(architecture, 2))
    kernel = deeper.get_parameter("blocks.1.layers.1.conv.weight")
    drawn = [kernel - torch.nn.init.dirac_(torch.empty_like(kernel))]
    _, wider = grow(paper_net, Change("widen", 1, channels_added=16), PAPER, inputs(architecture, 2))
    masks = new_entries(module.graph, wider.graph)
    widened = ("blocks.1.layers.0.conv.weight", "blocks.2.layers.0.conv.weight")
    drawn += [wider.get_parameter(name)[masks[name]] for name in widened]
    for values in drawn:
        assert values.numel() >= 2304
        assert values.std().item() == pytest.approx(1e-4, rel=0.06)
        assert abs(values.mean().item()) < 1e-5


def test_the_papers_initialisation_starts_batch_norms_afresh(paper_net: Grown) -> None:
    architecture, _ = paper_net
    _, deeper = grow(paper_net, Change("deepen", 0, layer_kind="conv"), PAPER, inputs(architecture, 2))
    norm = deeper.get_submodule("blocks.0.layers.1.norm")
    ones, zeros = torch.ones(16), torch.zeros(16)
    assert torch.equal(norm.weight, ones)
    assert torch.equal(norm.running_var, ones)
    assert torch.equal(norm.bias, zeros)
    assert torch.equal(norm.running_mean, zeros)


def test_shrink_and_perturb_mixes_a_fresh_network_in(random_module: RandomModule) -> None:
    architecture = blueprint.start(input_shape=(3, 8, 8), num_classes=4, channels=(4, 6), num_layers=(1, 1))
    module, fresh, mixed, again = (random_module(architecture, 0) for _ in range(4))
    drawn = torch.random.get_rng_state()
    for network, shrink in ((fresh, 0.0), (mixed, 0.75), (again, 0.75)):
        shrink_and_perturb(network, shrink, torch.Generator().manual_seed(1))
    assert torch.equal(drawn, torch.random.get_rng_state())
    states = zip(*(network.state_dict().items() for network in (module, fresh, mixed, again)), strict=True)
    for (name, old), (_, new), (_, found), (_, repeated) in states:
        if old.ndim > 1:
            assert not torch.equal(old, new)
            torch.testing.assert_close(found, 0.75 * old + 0.25 * new)
        else:
            assert torch.equal(found, old), name
        assert torch.equal(found, repeated)
