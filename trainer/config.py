"""What a run is made of. Frozen; a named run in `trainer.runs` is a function that returns one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class StartNet:
    """The network before any growth; defaults from section 3 of the paper."""

    channels: int = 16
    num_blocks: int = 3
    head: Literal["flatten", "average"] = "flatten"
    bottleneck_channels: int = 10
    hidden_features: int = 20
    negative_slope: float = 0.2
    conv_dropout: float = 0.1
    linear_dropout: float = 0.05


@dataclass(frozen=True)
class RatioRule:
    """The paper's rule: the best candidate's score must exceed τ times the current network's.

    η = gᵀ F⁻¹ g · exp(−λ Δp²), over all parameters of a candidate.
    """

    tau: float = 2.0
    # The paper's text gives no value for λ; its authors' code uses 1e-7.
    lambda_: float = 1e-7


@dataclass(frozen=True)
class GainRule:
    """Score new parameters only, with the part that sampling noise adds removed; the best gain per parameter wins.

    A candidate must gain at least `threshold` (an estimate of the loss it can take away, in nats, relative to the
    present loss) and `standard_errors` times the standard error of that gain.
    """

    threshold: float = 0.02
    standard_errors: float = 2.0


@dataclass(frozen=True)
class Expansion:
    rule: RatioRule | GainRule
    # True: logits stay as they are. False: the paper's initialisation, which changes them a little.
    exact: bool
    layer_kind: Literal["conv", "residual"]
    channels_added: int = 2
    cooldown_epochs: int = 10
    max_layers_per_block: int = 10
    score_samples: int = 512
    # Standard deviation of the Gaussian that the paper's initialisation draws new weights from.
    noise_std: float = 1e-4
    # Images that give new batch norms their running statistics; exact expansion only.
    calibration_samples: int = 256


@dataclass(frozen=True)
class RunConfig:
    """Training defaults are those of section 3.3 of the paper."""

    name: str
    expansion: Expansion
    start: StartNet = StartNet()
    seed: int = 0
    epochs: int = 300
    batch_size: int = 512
    learning_rate: float = 2e-3
    lr_factor: float = 0.5
    lr_patience: int = 15
    l1: float = 1e-5
    horizontal_flip: bool = True
    # Pixels by which a training image may be shifted in each direction.
    max_shift: int = 0
    # Threads on a CPU; None: as many as torch takes. Networks of a few thousand parameters gain nothing from a second,
    # and lose a factor of ten where another process wants the core (docs/log.md).
    cpu_threads: int | None = None
