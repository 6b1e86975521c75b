"""VGG-16, AlexNet, ResNet-20 and ResNet-56: counted as they are known, and run as they are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from trainer.config import FixedStart
from trainer.recipes.runs import RUNS
from zoo.checkpoint.file import Checkpoint
from zoo.network.cost import num_macs, num_params
from zoo.network.families import registry, resnet
from zoo.network.families.family import Architecture
from zoo.network.graph import output_shapes
from zoo.runtime import onnx_model
from zoo.runtime.module import module_of, normalize

pytestmark = pytest.mark.usefixtures("one_thread")


def network(family: str, side: int = 32) -> Architecture:
    start = RUNS[family]().start
    assert isinstance(start, FixedStart)
    return start.network((3, side, side), 10)


@pytest.mark.parametrize(
    ("family", "params", "macs"),
    [
        ("resnet20", 269_722, 40_551_040),  # 0.27M and 40.6M
        ("resnet56", 853_018, 125_485_696),  # 0.85M and 125.5M
        ("vgg16", 14_724_042, 313_201_664),  # 14.7M and 313M
        ("alexnet", 2_454_986, 220_400_128),
    ],
)
def test_parameters_and_multiply_accumulates(family: str, params: int, macs: int) -> None:
    graph = network(family).graph()
    assert (num_params(graph), num_macs(graph)) == (params, macs)


@pytest.mark.parametrize("family", ["alexnet", "resnet20", "resnet56", "vgg16"])
def test_logits_are_equal_in_torch_and_onnx(make_checkpoint: Callable[..., Checkpoint], family: str) -> None:
    whole = network(family)
    checkpoint = make_checkpoint(whole.narrowed([width // 2 for width in whole.widths()]))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(onnx_model.build(checkpoint), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": pixels})
    with torch.inference_mode():
        images = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), checkpoint.descriptor.preprocessing)
        wanted = module_of(checkpoint)(images).numpy()
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(logits / scale, wanted / scale, atol=1e-4)


def test_resnet_is_that_of_its_paper(make_checkpoint: Callable[..., Checkpoint]) -> None:
    """Written down once more: shortcuts take every second pixel, and zeros behind the channels there are."""
    architecture = resnet.start(input_shape=(3, 9, 12), num_classes=4, channels=(3, 5, 7))
    checkpoint = make_checkpoint(architecture)
    weights = {name: torch.from_numpy(np.array(tensor)) for name, tensor in checkpoint.tensors.items()}

    def convolved(name: str, number: str, value: Tensor, stride: int = 1) -> Tensor:
        value = F.conv2d(value, weights[f"{name}.conv{number}.weight"], stride=stride, padding=1)
        norm = [weights[f"{name}.norm{number}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(value, *norm)

    images = torch.randn(2, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    value = convolved("stem", "", images).relu()
    for stage in range(3):
        for layer in range(3):
            name, stride = f"stages.{stage}.layers.{layer}", 2 if stage and not layer else 1
            branch = convolved(name, "2", convolved(name, "1", value, stride).relu())
            shortcut = value[:, :, ::stride, ::stride]
            zeros = torch.zeros(2, branch.shape[1] - value.shape[1], *branch.shape[2:])
            value = (torch.cat([shortcut, zeros], dim=1) + branch).relu()
    wanted = F.linear(value.mean(dim=(2, 3)), weights["head.output.weight"], weights["head.output.bias"])
    with torch.inference_mode():
        torch.testing.assert_close(module_of(checkpoint)(images), wanted)


@pytest.mark.parametrize("family", ["alexnet", "vgg16"])
@pytest.mark.parametrize("side", [1, 7, 28])
def test_images_too_small_for_all_pools_are_halved_less_often(family: str, side: int) -> None:
    graph = network(family, side).graph()
    last = output_shapes(graph)[graph.nodes[-3].name]
    assert last[1] == last[2] == max(1, side // 2 ** (3 if family == "alexnet" else 5))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("stages", 1, "channels"), 16, "each stage must have more channels than the one before it"),
        (("stages", 1, "hidden_channels"), [32] * 4, "each stage of resnet20 has 3 layers, a hidden width each"),
        (("stages", 0, "channels"), 5000, "less than or equal to 4096"),
        (("stages", 0, "hidden_channels"), [16, 0, 16], "greater than or equal to 1"),
    ],
)
def test_other_settings_of_resnet_are_refused(path: tuple[str | int, ...], value: object, message: str) -> None:
    settings = network("resnet20").model_dump()
    part = settings
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(ValidationError, match=message):
        registry.FAMILIES["resnet20"].model_validate(settings)
