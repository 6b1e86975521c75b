"""Widening and deepening a trained network.

An exact expansion leaves the logits as they are: what is new is read through zeros (widening, residual layer)
or passes its input on (identity layer). The paper's expansion draws new weights from a narrow Gaussian and
starts batch norms afresh, which changes the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zoo.network.families import secnn
from zoo.network.graph import Graph, Node, parameter_shapes
from zoo.network.ops import BatchNorm, Conv2d, Linear
from zoo.network.placement import Placement, placements
from zoo.runtime.module import GraphModule, evaluating


@dataclass(frozen=True)
class Exact:
    """New parameters are initialised so that the logits do not change (a function-preserving expansion, Net2Net)."""

    # Images that give new batch norms their running statistics.
    calibration_samples: int = 256


@dataclass(frozen=True)
class Noise:
    """New weights are drawn, as the paper has it, and new batch norms begin afresh: the logits change."""

    # Of the Gaussian, around the identity for new layers; None: as the weights of a fresh network.
    std: float | None = 1e-4
    # An identity layer is the identity (and noise) at each of its kernel's nine places, a sum over 3×3 pixels, in place
    # of the middle one alone.
    box_identity: bool = False
    # Where a block is widened, new weights of its inserted layers and of the 1×1 convolution behind it are 0, the batch
    # norms of its inserted layers begin afresh, and that of its first one keeps its statistics, but not its weight and
    # bias.
    resets_widened: bool = False


Initialization = Exact | Noise


def expand(
    module: GraphModule,
    new_graph: Graph,
    initialization: Initialization,
    calibration_images: Float[Tensor, "batch channels height width"],
    generator: torch.Generator,
) -> GraphModule:
    """A new module of `new_graph` that holds the old one's weights; the old one is left alone.

    With an exact initialisation its logits in eval mode are those of `module`, to float32 rounding.
    """
    # On the CPU: a GPU takes longer to be asked for each of many small things than to do them.
    new = GraphModule(new_graph)
    places = placements(module.graph, new_graph)
    resets = isinstance(initialization, Noise) and initialization.resets_widened
    old_state, new_state = module.state_dict(), new.state_dict()
    for node in new_graph.nodes:
        _initialize(node, new, places, initialization, generator)
    with torch.no_grad():
        if isinstance(initialization, Exact):
            _silence_new_inputs(new, places)
        begun_afresh = _reset_by_widening(module.graph, new_graph) if resets else set()
        for name, place in places.items():
            if name in new_state and name not in begun_afresh:
                new_state[name][grid(place)] = old_state[name].cpu()
    new.to(next(module.parameters()).device).train(module.training)
    if isinstance(initialization, Exact):
        _calibrate(new, _batch_norm_masks(new, places), calibration_images[: initialization.calibration_samples])
    return new


@torch.no_grad()
def shrink_and_perturb(module: GraphModule, shrink: float, generator: torch.Generator) -> None:
    """Multiplies kernels by `shrink` and adds a fresh network's, times the rest: θ ← λ θ + (1 − λ) θ₀.

    Biases, batch norms and their statistics stay. (Ash and Adams 2020, arXiv 1910.08475.)
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = GraphModule(module.graph)
    for parameter, other in zip(module.parameters(), fresh.parameters(), strict=True):
        if parameter.ndim > 1:
            parameter.lerp_(other.to(parameter.device), 1 - shrink)


def grid(place: Placement) -> tuple[Tensor, ...]:
    """Index of a new tensor, on whatever device, that selects what came from the old one."""
    axes = [torch.tensor(axis, dtype=torch.long) for axis in place]
    return tuple(torch.meshgrid(*axes, indexing="ij"))


def new_entries(old: Graph, new: Graph) -> dict[str, Bool[Tensor, "..."]]:
    """For each parameter tensor of `new` that holds anything new, which of its entries are; on the CPU."""
    places = placements(old, new)
    masks = {}
    for name, shape in parameter_shapes(new).items():
        mask = torch.ones(shape, dtype=torch.bool)
        if name in places:
            mask[grid(places[name])] = False
        if mask.any():
            masks[name] = mask
    return masks


@torch.no_grad()
def _initialize(
    node: Node,
    new: GraphModule,
    places: dict[str, Placement],
    initialization: Initialization,
    generator: torch.Generator,
) -> None:
    """New weights of one node. Old entries are overwritten afterwards; batch norms start as torch makes them."""
    if not isinstance(node.op, Conv2d | Linear):
        return
    layer = new.get_submodule(node.name)
    weight = layer.get_parameter("weight")
    place = places.get(f"{node.name}.weight")
    if layer.bias is not None:
        nn.init.zeros_(layer.get_parameter("bias"))
    if place is None and not _is_within_branch(node, new.graph):
        _initialize_inserted(node, new.graph, weight, initialization, generator)
        return
    if isinstance(initialization, Noise):
        weight.copy_(_gaussian(weight, initialization.std, generator))
        is_pointwise = isinstance(node.op, Conv2d) and node.op.kernel_size == 1
        if initialization.resets_widened and (secnn.is_inserted(node.name) or is_pointwise):
            weight.zero_()
        return
    weight.copy_(_gaussian(weight, None, generator))


def _silence_new_inputs(new: GraphModule, places: dict[str, Placement]) -> None:
    """Zero weights from new channels to old outputs: that is what keeps the logits unchanged."""
    for node in new.graph.nodes:
        for name, tensor in node.op.tensors().items():
            place = places.get(f"{node.name}.{name}")
            if tensor.mixes and place is not None:
                new.get_parameter(f"{node.name}.{name}")[: len(place[0])] = 0


def _initialize_inserted(
    node: Node, graph: Graph, weight: Tensor, initialization: Initialization, generator: torch.Generator
) -> None:
    """A residual branch begins as zero, a layer in the trunk as the identity."""
    noise = initialization if isinstance(initialization, Noise) else None
    if noise is not None and noise.std is None:
        weight.copy_(_gaussian(weight, None, generator))
    elif _ends_in_addition(node, graph):
        weight.zero_()
    elif noise is not None and noise.box_identity:
        middle = torch.eye(*weight.shape[:2]) + _gaussian(weight[:, :, :1, :1], noise.std, generator)[..., 0, 0]
        weight.copy_(middle[:, :, None, None].expand_as(weight))
    else:
        nn.init.dirac_(weight)
        if noise is not None:
            weight += _gaussian(weight, noise.std, generator)


def _reset_by_widening(old: Graph, new: Graph) -> set[str]:
    """Tensors of widened batch norms that begin as torch makes them, see `Noise`."""
    before = {node.name: node.op for node in old.nodes}
    names = set()
    for node in new.nodes:
        if isinstance(node.op, BatchNorm) and before.get(node.name) not in (None, node.op):
            names |= {f"{node.name}.weight", f"{node.name}.bias"}
            if secnn.is_inserted(node.name):
                names |= {f"{node.name}.running_mean", f"{node.name}.running_var"}
    return names


def _gaussian(weight: Tensor, std: float | None, generator: torch.Generator) -> Tensor:
    """Of the weight's shape, drawn on the CPU; without a standard deviation, He's."""
    fan_in = weight[0].numel()
    draws = torch.randn(weight.shape, generator=generator).to(weight.device)
    return draws * ((2 / fan_in) ** 0.5 if std is None else std)


def _ends_in_addition(node: Node, graph: Graph) -> bool:
    layer = node.name.rpartition(".")[0]
    return any(other.name == f"{layer}.add" for other in graph.nodes)


def _is_within_branch(node: Node, graph: Graph) -> bool:
    """A residual branch's second convolution: the first one's zeros silence the branch, so this one can be random."""
    layer = node.name.rpartition(".")[0]
    convolutions = [
        other.name for other in graph.nodes if isinstance(other.op, Conv2d) and other.name.startswith(f"{layer}.")
    ]
    return _ends_in_addition(node, graph) and node.name != convolutions[0]


def _batch_norm_masks(new: GraphModule, places: dict[str, Placement]) -> dict[str, Tensor]:
    """By batch norm, its new channels; those without any are left out."""
    masks = {}
    for node in new.graph.nodes:
        if isinstance(node.op, BatchNorm):
            mask = torch.ones(node.op.num_features, dtype=torch.bool)
            place = places.get(f"{node.name}.weight")
            if place is not None:
                mask[list(place[0])] = False
            if mask.any():
                masks[node.name] = mask
    return masks


@torch.no_grad()
def _calibrate(new: GraphModule, masks: dict[str, Tensor], images: Tensor) -> None:
    """Gives new batch-norm channels the statistics of what reaches them, in one pass from front to back.

    A batch norm that is new altogether and stands behind an identity kernel also gets the weight and bias that
    undo its own normalisation, so that it passes its input on.
    """

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        mask = masks[name].to(images.device)
        passes_on = bool(mask.all()) and name.removesuffix(".norm") not in residual_layers

        def set_statistics(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, nn.BatchNorm2d)
            assert layer.running_mean is not None
            assert layer.running_var is not None
            variance, mean = torch.var_mean(args[0], dim=(0, 2, 3))
            layer.running_mean[mask] = mean[mask]
            layer.running_var[mask] = variance[mask]
            if passes_on:
                layer.weight.copy_((variance + layer.eps).sqrt())
                layer.bias.copy_(mean)

        return set_statistics

    residual_layers = {node.name.removesuffix(".add") for node in new.graph.nodes if node.name.endswith(".add")}
    handles = [new.get_submodule(name).register_forward_pre_hook(hook(name)) for name in masks]
    try:
        with evaluating(new):
            new(images)
    finally:
        for handle in handles:
            handle.remove()
