"""Many runs into one zoo, on Ray: this machine's cores and GPUs, or a cluster's.

Each run is the one that `zoo-train` would make of the same config, resumed where it was begun. A worker that dies is
started again by Ray and goes on from its last whole epoch; a run that fails leaves the others alone. On a cluster the
zoo must lie on a file system that all machines share; the images are read once and sent along.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import RunConfig
from trainer.recipes.names import swept
from trainer.recipes.overrides import Overrides
from zoo.errors import RunError, ZooError

if TYPE_CHECKING:
    from trainer.data.datasets import Data

# An address of Ray's own: a cluster of this machine alone, for as long as the sweep takes.
LOCAL = "local"
# A cluster has room for so many; a slip of the finger has not.
_MAX_SEEDS = 10_000


@dataclass(frozen=True)
class Share:
    """Of a machine, for one run. `gpus` may be a fraction; None: a whole one where there are any."""

    cpus: float = 1.0
    gpus: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.cpus < inf or not (self.gpus is None or 0 <= self.gpus < inf):
            raise RunError(f"a run should have more than 0 CPUs and 0 or more GPUs, not {self.cpus} and {self.gpus}")


@dataclass(frozen=True)
class Outcome:
    """Of one run: the digests of its checkpoints, or what went wrong."""

    config: RunConfig
    digests: tuple[str, ...]
    error: str | None

    def __str__(self) -> str:
        return f"{self.config.name} seed {self.config.seed}: {self.error or f'{len(self.digests)} checkpoints'}"


def plan(
    make: Callable[[Overrides], RunConfig],
    overrides: Overrides,
    seeds: tuple[int, ...],
    *,
    taus: tuple[float, ...] = (),
    thresholds: tuple[float, ...] = (),
) -> list[RunConfig]:
    """The grid of runs: every seed with every threshold, which is part of the run's name: "paper-tau1.5".

    The name keeps them apart in the zoo, and in its report. Raises RunError for what the run's rule does not have.
    """
    configs = []
    for tau in taus or (None,):
        for threshold in thresholds or (None,):
            for seed in seeds:
                config = make(replace(overrides, seed=seed, tau=tau, threshold=threshold))
                configs.append(replace(config, name=swept(config.name, tau, threshold)))
    return configs


def seeds_of(text: str) -> tuple[int, ...]:
    """ "0-2,7" -> (0, 1, 2, 7)"""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise RunError(f"--seeds should be like 0-4 or 0,2,5-7, is {text!r}")
        if last - first >= _MAX_SEEDS:
            raise RunError(f"--seeds should be at most {_MAX_SEEDS:,}, is {text!r}")
        seeds += range(first, last + 1)
    return tuple(dict.fromkeys(seeds))


def numbers_of(option: str, text: str | None) -> tuple[float, ...]:
    """ "1,1.5,2" -> (1.0, 1.5, 2.0); None -> ()"""
    if text is None:
        return ()
    try:
        numbers = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        numbers = (-1.0,)
    if not all(isfinite(number) and number >= 0 for number in numbers):
        raise RunError(f"{option} should be numbers from 0 on, like 1,1.5,2; is {text!r}")
    return numbers


def sweep(configs: list[RunConfig], data: Data, zoo: Path, share: Share, address: str = LOCAL) -> Iterator[Outcome]:
    """Yields what came of each run as it ends. Raises RunError where Ray or a machine for a run is missing."""
    with _cluster(address) as ray, _noted_interrupts() as interrupted:
        gpus = _gpus(ray, share)
        images = ray.put(data)
        # Ray tries a task again whose worker died, not one that raised.
        run = ray.remote(_grow_one).options(num_cpus=share.cpus, num_gpus=gpus)
        pending = {run.remote(config, images, zoo.absolute(), share.cpus, gpus > 0): config for config in configs}
        while pending:
            finished, _ = ray.wait(list(pending), num_returns=1, timeout=0.5)
            if interrupted.is_set():
                raise KeyboardInterrupt
            for done in finished:
                config = pending.pop(done)
                try:
                    yield Outcome(config, ray.get(done), None)
                except ray.exceptions.RayError as error:
                    yield Outcome(config, (), _explained(error))


@contextmanager
def _noted_interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, in place of KeyboardInterrupt, which is lost if raised in one of Ray's callbacks."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    # Ray sends usage statistics home unless told otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise RunError(f"sweeps run on Ray: pip install 'checkpoint-zoo[ray]' ({error})") from None
    own: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    try:
        _knock(address)
        with chdir("/"):  # Ray's workers import from where it was started, before they look anywhere else
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except OSError as error:
        raise RunError(
            f"no Ray cluster at {address!r} (`ray start --head` starts one; without --address, this machine is used): "
            f"{error}"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Checks that HOST:PORT accepts connections. Raises OSError at once, where Ray itself would retry for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _gpus(ray: Any, share: Share) -> float:
    """GPUs for each run. Raises RunError where no machine has the share: Ray would wait for one."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = share.gpus
    if gpus is None:
        gpus = 1.0 if any(machine.get("GPU", 0) >= 1 for machine in machines) else 0.0
    if not any(machine.get("CPU", 0) >= share.cpus and machine.get("GPU", 0) >= gpus for machine in machines):
        there = ", ".join(f"{machine.get('CPU', 0):g} and {machine.get('GPU', 0):g}" for machine in machines)
        raise RunError(f"a run is to have {share.cpus:g} CPUs and {gpus:g} GPUs; the machines have {there}")
    return gpus


def _explained(error: Exception) -> str:
    """Bad input in a line, anything else with its traceback."""
    cause = getattr(error, "cause", None)
    return str(cause if isinstance(cause, ZooError | OSError) else error).strip()


def _grow_one(config: RunConfig, data: Data, zoo: Path, cpus: float, cuda: bool) -> tuple[str, ...]:
    """One run, on a Ray worker."""
    import torch

    from trainer.distil.distil import distil
    from trainer.grow import grow

    torch.set_num_threads(max(1, int(cpus)))
    device = torch.device("cuda" if cuda else "cpu")
    digests = grow(config, data, zoo, device, resume=True, observe=_nobody)
    if config.distil_epochs:
        digests += tuple(distil(config, data, zoo, digests, device, _nobody))
    return digests


def _nobody(record: object) -> None:
    """An observer that does nothing: each run has its log."""
