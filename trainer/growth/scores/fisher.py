"""Per-sample gradient moments: the diagonal of the empirical Fisher, and the mean gradient beside it.

In eval mode a sample's gradient depends on that sample alone. Hooks keep each layer's input and the gradient
of its output; a layer's per-sample parameter gradients are products of the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, prod

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional as F

from trainer.growth.batch_norms import batch_norms, measure
from zoo.network.graph import output_shapes
from zoo.runtime.module import GraphModule, evaluating

# Samples are summed in this many groups, from which a jackknife gives standard errors.
NUM_GROUPS = 16
# Samples of one chunk, and numbers of one layer's unfolded inputs (256 MiB, 2 GiB). A GPU takes longer to launch the
# kernels of a small chunk than to run them.
_MAX_CHUNK = {"cpu": 128, "cuda": 1024}
_MAX_UNFOLDED = {"cpu": 2**26, "cuda": 2**29}


@dataclass(frozen=True)
class Moments:
    """Moments of one parameter tensor's per-sample gradients over `num_samples` samples.

    `group_sums` has the gradient sums of consecutive groups of samples, stacked in front; `squares` is the sum of
    the squared per-sample gradients, `mean_square` (the diagonal of the empirical Fisher) its mean.
    """

    group_sums: Float[Tensor, "groups *shape"]
    squares: Float[Tensor, "*shape"]
    num_samples: int

    @property
    def mean(self) -> Float[Tensor, "*shape"]:
        return self.group_sums.sum(0) / self.num_samples

    @property
    def mean_square(self) -> Float[Tensor, "*shape"]:
        return self.squares / self.num_samples


@dataclass(frozen=True)
class GradientMoments:
    """Of all parameters of a network, by name, and the mean loss over the same samples."""

    by_name: Mapping[str, Moments]
    loss: float
    num_samples: int


def gradient_moments(
    module: GraphModule, images: Float[Tensor, "n channels height width"], labels: Int64[Tensor, " n"]
) -> GradientMoments:
    """Cross-entropy gradients of the module in eval mode, at the given labels; the module is left as it was."""
    num_samples = len(labels)
    images = images.contiguous(memory_format=torch.channels_last)
    sizes = torch.tensor(group_bounds(num_samples), device=labels.device).diff()
    groups = len(sizes)
    group_of = torch.arange(groups, device=labels.device).repeat_interleave(sizes)
    sums = {name: parameter.new_zeros((groups, *parameter.shape)) for name, parameter in module.named_parameters()}
    squares = {name: torch.zeros_like(parameter) for name, parameter in module.named_parameters()}
    loss = 0.0
    chunk = _chunk_size(module)
    with evaluating(module):
        for start in range(0, num_samples, chunk):
            part = slice(start, start + chunk)
            chunk_loss, gradients = _per_sample_gradients(module, images[part], labels[part])
            loss += chunk_loss
            for name, gradient in gradients:
                sums[name].index_add_(0, group_of[part], gradient)
                squares[name] += gradient.square_().sum(0)
    moments = {name: Moments(sums[name], squares[name].detach(), num_samples) for name in sums}
    return GradientMoments(moments, loss / num_samples, num_samples)


@contextmanager
def statistics_of(
    module: GraphModule, images: Float[Tensor, "n channels height width"], batch_size: int = 256
) -> Iterator[GraphModule]:
    """The module in eval mode, its batch norms with the statistics of these images, as a training step would use them.

    Afterwards it is as it was. (Running statistics lag behind the weights. Scored with them, a network pulls at that
    lag: its score was 3 to 12 times as high and changed as much from epoch to epoch, docs/log.md.)
    """
    norms = batch_norms(module)
    before = [[statistic.clone() for statistic in layer.buffers()] for layer in norms]
    # Pieces of one size, but for one image: each has the same weight.
    pieces = images.tensor_split(ceil(len(images) / batch_size))
    try:
        measure(module, (piece for piece in pieces if len(piece) > 1))
        with evaluating(module):
            yield module
    finally:
        with torch.no_grad():
            for layer, statistics in zip(norms, before, strict=True):
                for statistic, value in zip(layer.buffers(), statistics, strict=True):
                    statistic.copy_(value)


def group_bounds(num_samples: int) -> list[int]:
    """Where the groups of samples begin, and where the last one ends; their sizes differ by at most one."""
    groups = min(NUM_GROUPS, num_samples)
    return [num_samples * group // groups for group in range(groups + 1)]


def _chunk_size(module: GraphModule) -> int:
    kind = next(module.parameters()).device.type
    largest = max(prod(shape) for shape in output_shapes(module.graph).values())
    return max(1, min(_MAX_CHUNK[kind], _MAX_UNFOLDED[kind] // (9 * largest)))


def _per_sample_gradients(
    module: GraphModule, images: Tensor, labels: Tensor
) -> tuple[float, Iterator[tuple[str, Tensor]]]:
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    names = {layer: name for name, layer in module.named_modules() if list(layer.parameters(recurse=False))}

    def keep(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs[names[layer]], outputs[names[layer]] = args[0].detach(), output

    handles = [layer.register_forward_hook(keep) for layer in names]
    try:
        loss = F.cross_entropy(module(images), labels, reduction="sum")
    finally:
        for handle in handles:
            handle.remove()
    gradients = dict(zip(outputs, torch.autograd.grad(loss, list(outputs.values())), strict=True))

    def by_parameter() -> Iterator[tuple[str, Tensor]]:
        for layer, name in names.items():
            for parameter, gradient in _parameter_gradients(layer, inputs[name], gradients[name]):
                yield f"{name}.{parameter}", gradient

    return loss.item(), by_parameter()


@torch.no_grad()
def _parameter_gradients(layer: nn.Module, x: Tensor, g: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Gradients (batch, *parameter shape) from a layer's input `x` and the gradient `g` of its output."""
    match layer:
        case nn.Conv2d():
            yield "weight", _kernel_gradients(layer, x, g)
            if layer.bias is not None:
                yield "bias", g.sum((2, 3))
        case nn.Linear():
            yield "weight", g[:, :, None] * x[:, None, :]
            yield "bias", g
        case nn.BatchNorm2d() | nn.BatchNorm1d():
            assert layer.running_mean is not None
            assert layer.running_var is not None
            shape = (1, -1, *(1,) * (x.ndim - 2))
            scale = (layer.running_var + layer.eps).rsqrt().view(shape)
            normalized = (x - layer.running_mean.view(shape)) * scale
            space = tuple(range(2, x.ndim))
            yield "weight", (g * normalized).sum(space) if space else g * normalized
            yield "bias", g.sum(space) if space else g.clone()
        case _:
            yield from _gradients_by_torch(layer, x, g)


def _gradients_by_torch(layer: nn.Module, x: Tensor, g: Tensor) -> Iterator[tuple[str, Tensor]]:
    """For any layer, by differentiating it once for each sample: several times slower than a formula of its own."""
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def of_one(x: Tensor, g: Tensor) -> dict[str, Tensor]:
        pull_back = vjp(lambda values: functional_call(layer, values, (x[None],)), parameters)[1]
        gradients: dict[str, Tensor] = pull_back(g[None])[0]
        return gradients

    yield from vmap(of_one)(x, g).items()


def _kernel_gradients(layer: nn.Conv2d, x: Tensor, g: Tensor) -> Float[Tensor, "batch out in_per_group k k"]:
    """Of a convolution, dense or depthwise; fastest in channels_last."""
    size, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    assert isinstance(padding, int)
    height, width = g.shape[2:]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, *(padding,) * 4))  # (B, rows, columns, in)
    g = g.permute(0, 2, 3, 1)
    if layer.groups > 1:
        assert layer.groups == layer.in_channels == layer.out_channels
        rows, columns = (slice(None, (number - 1) * stride + 1, stride) for number in (height, width))
        shifted = [padded[:, i:, j:][:, rows, columns] for i in range(size) for j in range(size)]
        products = torch.stack([(one * g).sum((1, 2)) for one in shifted], 2)
        return products.view(len(x), -1, 1, size, size)
    windows = padded.unfold(1, size, stride).unfold(2, size, stride)  # (B, H, W, in, k, k)
    # What lies together is copied together: (B, H·W, k·k·in)
    unfolded = windows.permute(0, 1, 2, 4, 5, 3).reshape(len(x), height * width, -1)
    products = g.flatten(1, 2).transpose(1, 2) @ unfolded
    return products.view(len(x), -1, size, size, layer.in_channels).permute(0, 1, 4, 2, 3)
