"""One run on several processes: `torchrun --nproc-per-node N -m trainer …`, one process for each device.

Every process holds the whole data set and the same network, draws the same batches and trains on its share of each.
Gradients are averaged (torch's DistributedDataParallel) and batch norms see the whole batch, so a step is that of one
process up to rounding, and up to dropout, which each process draws for itself. Every process scores alike; the first
one's decisions count, and it alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn
from torch.distributed.nn import functional as collective

Value = TypeVar("Value")


@dataclass(frozen=True)
class Group:
    """The processes of a run; one alone by default."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        return self.rank == 0

    def shared(self, value: Value) -> Value:
        """The first process's value, on all of them."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def unify(self, tensors: Iterable[Tensor]) -> None:
        """Gives them the first process's values, in place, on all of them."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The others go through it once the first process has."""
        if self.rank > 0:
            distributed.barrier()
        yield
        if self.rank == 0 and self.size > 1:
            distributed.barrier()

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor


ALONE = Group()


@contextmanager
def group_of(device: torch.device) -> Iterator[Group]:
    """The group that torchrun started this process in, by its environment; otherwise this process alone."""
    if "WORLD_SIZE" not in os.environ:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)  # by which NCCL sends objects
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def local_device(device: torch.device) -> torch.device:
    """The device of this process, one GPU each."""
    if device.type != "cuda":
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def synchronize_batch_norms(module: nn.Module) -> None:
    """Makes the module's batch norms normalise by the statistics of the whole batch, on all processes.

    Torch has this for GPUs only (SyncBatchNorm). Parameters, names and evaluation stay as they are.
    """
    for layer in module.modules():
        match layer:
            case nn.BatchNorm2d():
                layer.__class__ = _SynchronizedBatchNorm2d
            case nn.BatchNorm1d():
                layer.__class__ = _SynchronizedBatchNorm1d


class _Synchronized(nn.modules.batchnorm._BatchNorm):
    def forward(self, input: Float[Tensor, "batch features *space"]) -> Float[Tensor, "batch features *space"]:  # noqa: A002
        if not self.training:
            return super().forward(input)
        space = tuple(dim for dim in range(input.ndim) if dim != 1)
        values = input.float()
        ones = values.new_full((1,), values.numel() / values.shape[1])
        sums = collective.all_reduce(torch.cat([values.sum(space), values.square().sum(space), ones]))
        count = sums[-1]
        mean, mean_square = (sums[:-1] / count).chunk(2)
        variance = (mean_square - mean.square()).clamp_min(0)
        self._keep(mean.detach(), variance.detach() * count / (count - 1))
        shape = (1, -1, *(1,) * (input.ndim - 2))
        scale = self.weight * (variance + self.eps).rsqrt()
        return values * scale.view(shape) + (self.bias - mean * scale).view(shape)

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _SynchronizedBatchNorm2d(_Synchronized, nn.BatchNorm2d):
    pass


class _SynchronizedBatchNorm1d(_Synchronized, nn.BatchNorm1d):
    pass
