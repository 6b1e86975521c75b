"""One training step, as fast as the machine allows: mixed precision, compiled kernels, a CUDA graph."""

from __future__ import annotations

import logging
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from trainer.config import RunConfig
from trainer.loop.augment import Augmentation
from trainer.loop.parallel import ALONE, Group, synchronize_batch_norms
from zoo.checkpoint.descriptor import Preprocessing
from zoo.network.families import secnn
from zoo.network.graph import output_shapes
from zoo.runtime import glibc
from zoo.runtime.module import GraphModule

# Of each image its class, or how much of it, of each view of it, belongs to each class.
Targets = Int64[Tensor, " batch"] | Float[Tensor, "batch *views classes"]

# By the id of the tensor that each is a copy of.
Snapshot = dict[int, Tensor]

logger = logging.getLogger(__name__)

# Side-stream steps that settle the allocator and the libraries' choice of kernels before a capture.
_WARMUP_STEPS = 3


class TrainingStep:
    """Forward, backward and update of one network on batches of raw pixels.

    A step belongs to one module and one optimiser: an expansion, which makes new ones, makes a new step. A compiled
    step takes batches of one size, and its first ones take seconds; see `pays_to_compile`.
    """

    def __init__(
        self,
        module: GraphModule,
        optimizer: torch.optim.Optimizer,
        config: RunConfig,
        preprocessing: Preprocessing,
        group: Group = ALONE,
        *,
        compiled: bool = False,
    ) -> None:
        if config.channel_dropout:
            _drop_channels(module, config.channel_dropout)
        self.module = module.to(memory_format=torch.channels_last)
        self.optimizer = optimizer
        _lay_out_alike(optimizer)
        self.config = config
        self.group = group
        self.device = next(module.parameters()).device
        self._mean = torch.tensor(preprocessing.mean, device=self.device).view(1, -1, 1, 1) * 255
        self._scale = 1 / (torch.tensor(preprocessing.std, device=self.device).view(1, -1, 1, 1) * 255)
        self._dtype = low_precision(self.device, config)
        self._has_one_shape = compiled
        self._has_begun = False
        self._compiled = None
        self._network: nn.Module = module
        if group.size > 1:
            synchronize_batch_norms(module)
            self._network = DistributedDataParallel(module, broadcast_buffers=False)
        alone = compiled and group.size == 1
        if alone and self.device.type == "cpu" and _has_compiler():
            torch._dynamo.reset()  # each network is a program of its own; their number is not limited
            self._compiled = torch.compile(self._loss, dynamic=False)
        self._graph = _CapturedStep(self) if alone and self.device.type == "cuda" else None

    def __call__(
        self,
        images: UInt8[Tensor, "batch *views channels height width"],
        targets: Targets,
        answers: Float[Tensor, "batch classes"] | None = None,
    ) -> tuple[Float[Tensor, ""], Int64[Tensor, ""]]:
        """Updates the weights with a batch of the whole group, of which this process trains on its share.

        `answers` are a teacher's logits for these images: softened, they are most of what the network is then to
        learn (`RunConfig.distil_weight`).

        Returns the mean loss without the L1 term, and the number of right answers, of that share.
        """
        self._has_begun = True
        if self.group.size > 1:
            mine = slice(self.group.rank, None, self.group.size)
            share = len(targets[mine]) * self.group.size / len(targets)
            return self.run(images[mine], targets[mine], answers if answers is None else answers[mine], share)
        if self._graph is not None:
            return self._graph(images, targets, answers)
        return self.run(images, targets, answers)

    @property
    def activity(self) -> str:
        """What its next steps are, for people."""
        return "compiling, then training" if self._has_one_shape and not self._has_begun else "training"

    def num_steps(self, num_images: int) -> int:
        """Batches of an epoch. A last one that is not full is left out of compiled steps, which have one shape, and
        everywhere if it has less than two images for each process: batch norm needs two."""
        full, rest = divmod(num_images, self.config.batch_size)
        return full + (rest >= 2 * self.group.size and not (full and self._has_one_shape))

    def num_trained(self, num_images: int) -> int:
        """Images of these batches."""
        return min(num_images, self.num_steps(num_images) * self.config.batch_size)

    def shown(
        self,
        images: UInt8[Tensor, "batch channels height width"],
        labels: Int64[Tensor, " batch"],
        augmentation: Augmentation,
        place: slice,
    ) -> tuple[UInt8[Tensor, "batch *views channels height width"], Targets]:
        """What it takes of these images, which are at that place among those of the augmentation, and their targets."""
        images = augmentation.of(images, place)
        if augmentation.kept is None:
            return images, labels
        return augmentation.mixed(images, labels, place, self.num_classes)

    @property
    def num_classes(self) -> int:
        graph = self.module.graph
        return output_shapes(graph)[graph.output][0]

    def snapshot(self) -> Snapshot:
        """A copy of weights, running statistics and the optimiser's state."""
        return {id(tensor): tensor.detach().clone() for tensor in self._tensors()}

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Puts a copy back in place: a captured graph keeps working. What did not exist then becomes 0."""
        for tensor in self._tensors():
            before = snapshot.get(id(tensor))
            if before is None:
                tensor.zero_()
            else:
                tensor.copy_(before)

    def _tensors(self) -> Iterator[Tensor]:
        yield from self.module.parameters()
        yield from self.module.buffers()
        for state in self.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))

    def run(
        self, images: Tensor, targets: Tensor, answers: Tensor | None = None, share: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """`share` weighs this process's loss in the group's average: 1 where all have equally many images."""
        self.optimizer.zero_grad(set_to_none=True)
        loss, correct = self._forward(images, targets, answers)
        (loss * share).backward()
        if self.config.l1:
            self._add_l1_gradient()
        self.update()
        return loss.detach(), correct

    def update(self) -> None:
        """Moves the weights by their gradients."""
        self.optimizer.step()

    @torch.no_grad()
    def _add_l1_gradient(self) -> None:
        # Two operations for all: as a term of the loss, autograd needs six for each tensor.
        pairs = [(weight, weight.grad) for weight in self.module.parameters() if weight.grad is not None]
        signs = torch._foreach_sign([weight for weight, _ in pairs])
        torch._foreach_add_([gradient for _, gradient in pairs], signs, alpha=self.config.l1)

    def _forward(self, images: Tensor, targets: Tensor, answers: Tensor | None) -> tuple[Tensor, Tensor]:
        if self._compiled is None:
            return self._loss(images, targets, answers)
        try:
            return self._compiled(images, targets, answers)
        except torch._dynamo.exc.TorchDynamoException as error:
            logger.warning("this step is not compiled: %s", str(error).partition("\n")[0])
            self._compiled = None
            return self._loss(images, targets, answers)

    def _loss(self, images: Tensor, targets: Tensor, answers: Tensor | None) -> tuple[Tensor, Tensor]:
        inputs = self.normalized(images)
        # Each weight is cast once a step: a cache would only outlive a captured graph.
        dtype = self._dtype or torch.bfloat16
        with torch.autocast(self.device.type, dtype, enabled=self._dtype is not None, cache_enabled=False):
            logits = self._network(inputs)
        return self.objective(logits.float(), targets, answers)

    def normalized(self, images: Tensor) -> Any:
        """As the network takes them."""
        return ((images.float() - self._mean) * self._scale).contiguous(memory_format=torch.channels_last)

    def objective(self, logits: Tensor, targets: Tensor, answers: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss of what the network answers, and how many of its answers are right."""
        loss = self.loss_of(logits, targets, answers)
        labels = targets.argmax(1) if targets.is_floating_point() else targets
        return loss, (logits.detach().argmax(1) == labels).sum()

    def loss_of(self, logits: Tensor, targets: Tensor, wanted: Tensor | None) -> Tensor:
        """Cross-entropy, and of a teacher's answers the divergence from them."""
        loss = F.cross_entropy(logits, targets)
        if wanted is None:
            return loss
        # The square keeps the gradient's size as the temperature softens it (arXiv 1503.02531, section 2).
        temperature, weight = self.config.distil_temperature, self.config.distil_weight
        divergence = F.kl_div(
            F.log_softmax(logits / temperature, 1),
            F.log_softmax(wanted / temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - weight) * loss + weight * temperature**2 * divergence


class _CapturedStep:
    """A step recorded once as a CUDA graph and replayed: no kernel waits for Python.

    A batch of another size than the first runs without the graph.
    """

    def __init__(self, step: TrainingStep) -> None:
        self._step = step
        self._graph: torch.cuda.CUDAGraph | None = None
        self._images = self._targets = torch.empty(0)
        self._answers: Tensor | None = None
        self._results = (torch.empty(0), torch.empty(0))

    def __call__(self, images: Tensor, targets: Tensor, answers: Tensor | None) -> tuple[Tensor, Tensor]:
        if self._graph is None:
            self._capture(images, targets, answers)
        if images.shape != self._images.shape:
            return self._step.run(images, targets, answers)
        assert self._graph is not None
        self._images.copy_(images)
        self._targets.copy_(targets)
        if answers is not None:
            assert self._answers is not None
            self._answers.copy_(answers)
        self._graph.replay()
        loss, correct = self._results
        return loss.clone(), correct.clone()

    def _capture(self, images: Tensor, targets: Tensor, answers: Tensor | None) -> None:
        """Warm-up steps would train: weights, running statistics and the optimiser are put back afterwards."""
        self._images, self._targets = images.clone(), targets.clone()
        self._answers = None if answers is None else answers.clone()
        before = self._step.snapshot()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARMUP_STEPS):
                self._step.run(self._images, self._targets, self._answers)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._results = self._step.run(self._images, self._targets, self._answers)
        self._step.restore(before)


def _drop_channels(module: GraphModule, share: float) -> None:
    """Makes the dropout of each block's first layer one of whole channels, in training."""
    networks = [part for part in module.modules() if isinstance(part, GraphModule)]
    for name, layer in (found for network in networks for found in network.named_modules()):
        if isinstance(layer, nn.Dropout) and secnn.is_first_dropout(name):
            layer.__class__ = nn.Dropout2d  # type: ignore[assignment]
            layer.p = share


def _lay_out_alike(optimizer: torch.optim.Optimizer) -> None:
    """Gives the optimiser's tensors the memory format of their parameters: the fused kernel on a CPU reads both as
    they lie in memory, and would pair one weight with another's moments."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter).copy_(value)


def prepare(device: torch.device, config: RunConfig) -> None:
    """What a process does once before it trains: on a CPU, results that repeat exactly, threads, and kept memory."""
    if device.type != "cpu":
        return
    torch.use_deterministic_algorithms(True)
    # Else every new tensor is first filled with NaN, up to 14 % of a step (docs/log.md).
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(config.cpu_threads or torch.get_num_threads())
    glibc.keep_freed_memory()
    if config.compile and not _has_compiler():
        logger.warning("steps are not compiled, and slower for it: there is no C++ compiler (g++, or $CXX)")


@contextmanager
def prepared(device: torch.device, config: RunConfig) -> Iterator[None]:
    """Prepares for training, and puts torch's modes and threads back afterwards: they are the whole process's."""
    settings = torch.utils.deterministic
    threads, fills = torch.get_num_threads(), settings.fill_uninitialized_memory  # type: ignore[attr-defined]
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        prepare(device, config)
        yield
    finally:
        torch.set_num_threads(threads)
        settings.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        torch.use_deterministic_algorithms(is_deterministic, warn_only=only_warns)


def device_name(device: torch.device) -> str:
    """For people: what a run's cost was paid on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def _has_compiler() -> bool:
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def pays_to_compile(config: RunConfig, macs: int, num_images: int) -> bool:
    """Whether the run wants compiled steps, and epochs of so many images are long enough for it."""
    return config.compile and num_images * macs >= config.worth_compiling


def low_precision(device: torch.device, config: RunConfig) -> torch.dtype | None:
    """Of matrix products: bfloat16 where the run wants it and the device has units for it; None: as of the weights."""
    return torch.bfloat16 if config.mixed_precision and has_bfloat16(device) else None


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies matrices in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine() in ("x86_64", "AMD64"):
        # oneDNN has it for every AVX-512, and takes 1.6 to 2 times as long where there are no units (docs/log.md).
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
