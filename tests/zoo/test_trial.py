"""What is published is run once, in a process whose limits are the server's and not the publisher's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from zoo.checkpoint.file import Checkpoint
from zoo.errors import CheckpointError
from zoo.library.publishing import trial
from zoo.library.publishing.trial import Limits
from zoo.network.families.blueprint import BlueprintArchitecture, Stage
from zoo.runtime.predictor import Predictor

Make = Callable[..., Checkpoint]
ANYTHING = Limits(max_model_macs=10**15, max_model_activation_bytes=2**40)


def network(side: int, channels: int = 1, num_layers: int = 1, num_classes: int = 2) -> BlueprintArchitecture:
    return BlueprintArchitecture(
        input_channels=1,
        input_height=side,
        input_width=side,
        num_classes=num_classes,
        stem_pools=0,
        stages=(Stage(channels=channels, num_layers=num_layers),),
    )


def test_time_and_memory_are_measured_and_answers_are_those_of_a_server(make_checkpoint: Make) -> None:
    checkpoint = make_checkpoint()
    images = np.random.default_rng(0).integers(0, 256, (250, 8, 8, 1), dtype=np.uint8)
    found = trial.run(checkpoint, Limits(), [images[:100], images[100:]], len(images))
    assert 0 < found.seconds < 2
    assert 0 < found.memory_bytes < Limits().max_model_memory_bytes
    assert found.predicted == tuple(Predictor(checkpoint).logits(images).argmax(1).tolist())


@pytest.mark.parametrize(
    ("architecture", "limits", "message"),
    [
        (network(4096), {}, r"layers' outputs for an image, at most 536,870,912 .*ZOO_MAX_MODEL_ACTIVATION_BYTES"),
        (network(1024, 2, 1024), {}, r"23,.* multiply-accumulates for an image, at most .*ZOO_MAX_MODEL_MACS"),
        (network(8, num_classes=5000), {}, r"5,000 classes, at most 4,096 .*ZOO_MAX_MODEL_CLASSES"),
        (network(8), {"max_model_label_bytes": 10}, r"14 bytes of class names, at most 10 .*ZOO_MAX_MODEL_LABEL_BYTES"),
        (network(8), {"max_model_header_bytes": 100}, r"2,000 bytes of header, at most 100 .*MAX_MODEL_HEADER_BYTES"),
    ],
)
def test_limits_that_are_computed(
    make_checkpoint: Make, architecture: BlueprintArchitecture, limits: dict[str, int], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        trial.check_bounds(make_checkpoint(architecture), 2000, Limits(**limits))
    trial.check_bounds(make_checkpoint(network(8)), 2000, Limits())


def test_many_small_outputs_are_summed(make_checkpoint: Make) -> None:
    """Not only the largest counts: that of each layer here is a four hundredth of what all take."""
    checkpoint = make_checkpoint(network(64, 4, 100))
    with pytest.raises(CheckpointError, match="bytes of layers' outputs for an image, at most 20,000,000 are taken"):
        trial.check_bounds(checkpoint, 2000, Limits(max_model_activation_bytes=20_000_000))
    trial.check_bounds(checkpoint, 2000, Limits(max_model_activation_bytes=40_000_000))


def test_scores_that_are_not_finite_are_refused(make_checkpoint: Make) -> None:
    """Finite weights do not make finite scores: here a negative variance."""
    checkpoint = make_checkpoint()
    next(tensor for name, tensor in checkpoint.tensors.items() if name.endswith("running_var"))[:] = -1
    with pytest.raises(CheckpointError, match="the network was run, and its scores are not finite"):
        trial.run(checkpoint, Limits())


def test_constant_scores_are_fine(make_checkpoint: Make) -> None:
    checkpoint = make_checkpoint()
    for name, tensor in checkpoint.tensors.items():
        if not name.endswith("running_var"):
            tensor[:] = 0
    assert trial.run(checkpoint, Limits()).predicted == ()


def test_more_memory_than_allowed_ends_the_trial_and_nothing_else(make_checkpoint: Make) -> None:
    checkpoint = make_checkpoint(network(1536))
    with pytest.raises(CheckpointError, match=r"bytes of memory.* \(ZOO_MAX_MODEL_MEMORY_BYTES\)"):
        trial.run(checkpoint, ANYTHING.model_copy(update={"max_model_memory_bytes": 64 * 1024 * 1024}))


@pytest.mark.parametrize("num_layers", [40, 600])
def test_more_time_than_allowed_ends_the_trial(make_checkpoint: Make, num_layers: int) -> None:
    """Whether it was measured, or ended by the system after a whole second."""
    checkpoint = make_checkpoint(network(256, 32, num_layers))
    with pytest.raises(CheckpointError, match=r"more than 0\.01 s \(ZOO_MAX_MODEL_SECONDS\)"):
        trial.run(checkpoint, ANYTHING.model_copy(update={"max_model_seconds": 0.01}))


def test_a_test_split_that_would_take_too_long_is_not_begun(make_checkpoint: Make) -> None:
    images = np.zeros((100, 8, 8, 1), dtype=np.uint8)
    limits = Limits(max_model_seconds=0.1, max_eval_seconds=0.001)
    with pytest.raises(CheckpointError, match=r"its accuracy on 100,000,000 test images .*\(ZOO_MAX_EVAL_SECONDS\)"):
        trial.run(make_checkpoint(), limits, [images], 100_000_000)
