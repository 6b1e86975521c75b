"""Networks with ImageNet weights as teachers; efficientnet-lite0 comes with its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision import models

from trainer.data.datasets import load
from trainer.distil import pretrained
from zoo.errors import RunError

CPU = torch.device("cpu")
WriteImages = Callable[..., Path]


def test_it_is_fine_tuned_once_and_answers_for_each_training_image(tmp_path: Path, write_images: WriteImages) -> None:
    photos = write_images(tmp_path / "photos", {"train": 40, "test": 4}, size=(48, 48), mode="RGB")
    images = load(str(photos)).train
    epochs: list[int] = []

    def answers() -> pretrained.PretrainedAnswers:
        teacher = pretrained.load("efficientnet-lite0", 3)
        return pretrained.fine_tuned_answers(
            teacher, images, 6, 0, CPU, lambda epoch, *_: epochs.append(epoch), tmp_path, mirror=False
        )

    first = answers()
    assert epochs == [1, 2, 3, 4, 5, 6]
    assert first.logits.shape == (len(images), 3)
    assert (first.logits.argmax(1) == images.labels).float().mean() > 0.5, "chance is a third"
    assert first.record.name == "efficientnet-lite0"
    again = answers()
    assert epochs == [1, 2, 3, 4, 5, 6], "what it answered is kept"
    assert torch.equal(again.logits, first.logits)


def test_weights_of_torchvision_are_those_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = models.get_model_weights("resnet18").DEFAULT.url.rpartition("/")[2]
    path = tmp_path / "hub" / "checkpoints" / name
    with pytest.raises(RunError, match=f"weights of resnet18 are not on this machine: expected {path}.*--download"):
        pretrained.load("torchvision:resnet18", 4)
    path.parent.mkdir(parents=True)
    network = models.resnet18()
    torch.save(network.state_dict(), path)
    teacher = pretrained.load("torchvision:resnet18", 4)
    assert teacher.head.out_features == 4
    loaded = teacher.module.state_dict()
    for key, tensor in network.state_dict().items():
        assert key.startswith("fc.") or torch.equal(loaded[key], tensor)
    torch.save(models.squeezenet1_0().state_dict(), path)
    with pytest.raises(RunError, match="does not hold the weights of torchvision:resnet18: 122 are missing"):
        pretrained.load("torchvision:resnet18", 4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18", "no teacher is called 'resnet18'; expected efficientnet-lite0 or torchvision:NETWORK"),
        ("torchvision:resnet19", "torchvision has no classifier 'resnet19'; it has alexnet, "),
    ],
)
def test_names_that_are_none(name: str, said: str) -> None:
    with pytest.raises(RunError, match=said):
        pretrained.load(name, 2)
