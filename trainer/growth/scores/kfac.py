"""The natural expansion score with a Kronecker-factored Fisher (K-FAC), which the paper leaves to future work.

For the weight of a dense layer F ≈ A ⊗ G: A has the second moments of the layer's inputs, G those of the gradients
of its outputs, each summed over positions (Martens and Grosse, arXiv 1503.05671; convolutions: arXiv 1602.01407).
Unlike the diagonal it sees that inputs are correlated, and that two parameters may promise the same gain. Three
things are approximated beyond that:

- New entries that form no rectangle of rows and columns (a wider layer adds an L) are split into rectangles, and the
  curvature between these is left out. The block of A ⊗ G that belongs to one rectangle is itself A' ⊗ G'.
- Each block is scaled to the trace of the empirical Fisher there, which is known exactly. K-FAC takes the gradients
  at different positions as independent, and is off by a factor that differs from layer to layer.
- Batch norms and grouped convolutions keep the diagonal: they have no second factor to speak of, and new depthwise
  filters of an exact expansion have a gradient of 0, because they are read or followed by zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.growth.scores.expansion_score import Gain
from trainer.growth.scores.fisher import GradientMoments, gradient_moments, group_bounds, statistics_of
from zoo.runtime.module import GraphModule

# Added to the Fisher's eigenvalues, as a fraction of their mean over a block.
DAMPING = 0.01
# Keeps blocks without any gradient out of the sum.
_EPSILON = 1e-12


@dataclass(frozen=True)
class Factors:
    """Of one layer's weight, flattened to (outputs, inputs · kernel²): F ≈ `inputs` ⊗ `outputs`."""

    inputs: Float[Tensor, "columns columns"]
    outputs: Float[Tensor, "rows rows"]


@dataclass(frozen=True)
class KroneckerMoments(GradientMoments):
    """With the factors of dense layers' weights and biases, by name; a bias has one column."""

    factors: Mapping[str, Factors]


def kronecker_moments(
    module: GraphModule, images: Float[Tensor, "n channels height width"], labels: Int64[Tensor, " n"]
) -> KroneckerMoments:
    """As `gradient_moments`, in the same pass."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    handles = []

    def observe(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            columns = _columns(layer, args[0].detach())
            _add(inputs, name, columns.T @ columns / len(images))
            positions = output[0, 0].numel()
            # Called with the gradient once it is known.
            output.register_hook(lambda gradient: _add(outputs, name, _covariance(gradient, positions) / len(images)))

        return keep

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            handles.append(layer.register_forward_hook(observe(name)))
    try:
        moments = gradient_moments(module, images, labels)
    finally:
        for handle in handles:
            handle.remove()
    factors = {f"{name}.weight": Factors(inputs[name], outputs[name]) for name in inputs}
    one = torch.ones((1, 1), device=images.device)
    factors |= {f"{name}.bias": Factors(one, outputs[name]) for name in inputs if f"{name}.bias" in moments.by_name}
    return KroneckerMoments(**vars(moments), factors=factors)


def kfac_gain_of_new_parameters(moments: KroneckerMoments, new: Mapping[str, Bool[Tensor, "..."]]) -> Gain:
    """Δη = gᵀ F⁻¹ g over the entries that `new` marks, by tensor name, without the noise's share.

    Only products of different groups' gradients count, whose noise is independent: with F held fixed, the estimate
    has no bias. The standard error comes from a jackknife over the groups. Takes three samples or more.
    """
    sizes = torch.tensor(group_bounds(moments.num_samples)).diff()
    assert len(sizes) > 2, f"{moments.num_samples} samples give no standard error"
    products = torch.zeros((len(sizes), len(sizes)), dtype=torch.float64)
    for name, mask in new.items():
        products += _products(moments, name, mask)
    pairs = sizes[:, None] * sizes
    products, pairs = (table - table.diag().diag() for table in (products, pairs))
    left_out = _without_each(products) / _without_each(pairs)
    variance = (len(sizes) - 1) / len(sizes) * (left_out - left_out.mean()).square().sum().item()
    return Gain((products.sum() / pairs.sum()).item(), variance**0.5)


def _without_each(table: Tensor) -> Tensor:
    """The sum of a symmetric table without row and column i, whose crossing is 0, for each i."""
    return table.sum() - 2 * table.sum(1)


def _products(moments: KroneckerMoments, name: str, mask: Bool[Tensor, "..."]) -> Float64[Tensor, "groups groups"]:
    """sᵢᵀ F⁻¹ sⱼ for the gradient sums of every two groups."""
    tensor = moments.by_name[name]
    if name not in moments.factors:
        sums = tensor.group_sums[:, mask].cpu().double()
        fisher = tensor.mean_square[mask].cpu().double()
        return sums / (fisher + _EPSILON) @ sums.T
    # (groups, rows, columns); a bias has one column
    sums = tensor.group_sums.flatten(2) if mask.ndim > 1 else tensor.group_sums[:, :, None]
    fisher = tensor.mean_square.reshape(sums.shape[1:])
    factors = moments.factors[name]
    products = sums.new_zeros((len(sums), len(sums)), dtype=torch.float64, device="cpu")
    for rows, columns in _rectangles(mask.reshape(sums.shape[1:])):
        products += _block_products(
            factors.inputs[columns][:, columns].cpu().double(),
            factors.outputs[rows][:, rows].cpu().double(),
            sums[:, rows][:, :, columns].cpu().double(),
            fisher[rows][:, columns].sum().item(),
        )
    return products


def _rectangles(mask: Bool[Tensor, "rows columns"]) -> Iterator[tuple[Bool[Tensor, " rows"], Bool[Tensor, " columns"]]]:
    """Rows that mark the same columns, together."""
    patterns, pattern_of = mask.unique(dim=0, return_inverse=True)
    for index, columns in enumerate(patterns):
        if columns.any():
            yield pattern_of == index, columns


def _block_products(
    inputs: Float64[Tensor, "columns columns"],
    outputs: Float64[Tensor, "rows rows"],
    sums: Float64[Tensor, "groups rows columns"],
    trace: float,
) -> Float64[Tensor, "groups groups"]:
    """With F = c · A ⊗ G + λ I, c such that the first term has the given trace, in the factors' eigenbases."""
    input_values, input_basis = torch.linalg.eigh(inputs)
    output_values, output_basis = torch.linalg.eigh(outputs)
    values = output_values.clamp_min(0)[:, None] * input_values.clamp_min(0)  # (rows, columns)
    total = values.sum().item()
    if not total:
        return sums.new_zeros((len(sums), len(sums)))
    damped = values * (trace / total) + DAMPING * trace / values.numel() + _EPSILON
    rotated = output_basis.T @ sums @ input_basis
    return (rotated / damped).flatten(1) @ rotated.flatten(1).T


def _columns(layer: nn.Module, x: Tensor) -> Float[Tensor, "positions columns"]:
    """What each output of a dense layer is a product with."""
    if isinstance(layer, nn.Linear):
        return x
    assert isinstance(layer, nn.Conv2d)
    assert not isinstance(layer.padding, str)
    return F.unfold(x, layer.kernel_size, padding=layer.padding, stride=layer.stride).transpose(1, 2).flatten(0, 1)


def _covariance(gradient: Tensor, positions: int) -> Float[Tensor, "rows rows"]:
    """Of the gradient (batch, rows, …), the mean over positions."""
    rows = gradient.transpose(0, 1).flatten(1)
    return rows @ rows.T / positions


def _add(totals: dict[str, Tensor], name: str, term: Tensor) -> None:
    totals[name] = totals[name] + term if name in totals else term


def kfac_gains(
    module: GraphModule,
    images: Float[Tensor, "n channels height width"],
    labels: Int64[Tensor, " n"],
    new: Sequence[Mapping[str, Bool[Tensor, "..."]]],
) -> tuple[float, list[Gain]]:
    """A `trainer.growth.scores.expansion_score.Score`. Gains are about half those of the diagonal: so should a
    threshold be."""
    with statistics_of(module, images):
        moments = kronecker_moments(module, images, labels)
    return moments.loss, [kfac_gain_of_new_parameters(moments, entries) for entries in new]
