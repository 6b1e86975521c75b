"""Builders that many tests share: small architectures, and checkpoints with made-up weights."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from zoo.checkpoint.descriptor import (
    Accuracy,
    Cost,
    Dataset,
    Descriptor,
    ExpansionStep,
    Lineage,
    Metrics,
    Preprocessing,
)
from zoo.checkpoint.elastic import pack
from zoo.checkpoint.file import Checkpoint, Tensors, encode
from zoo.network.families import registry, secnn
from zoo.network.families.blueprint import BlueprintArchitecture, Stage
from zoo.network.families.family import Architecture
from zoo.network.families.secnn import SecnnArchitecture
from zoo.network.graph import tensor_shapes
from zoo.network.placement import placements
from zoo.runtime import onnx_runtime
from zoo.store.directory import Directory

# How long an example takes says as much about the machine's other work as about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Tests that import ONNX Runtime themselves find it silenced; huggingface_hub counts its users too.
assert onnx_runtime.InferenceSession
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

BIN = Path(sys.executable).parent
# Two threads on networks this small stall each other where a core is busy.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

MakeCheckpoint = Callable[..., Checkpoint]


def _random_tensors(architecture: Architecture, seed: int) -> Tensors:
    """Weights of a plausible size; variances are positive, as running statistics are."""
    rng = np.random.default_rng(seed)

    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("running_var"):
            return rng.uniform(0.5, 2, shape).astype(np.float32)
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 4
        return rng.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)

    return {name: tensor(name, shape) for name, shape in tensor_shapes(architecture.graph()).items()}


def _descriptor(
    architecture: Architecture,
    *,
    dataset: str,
    accuracy: float | None,
    val_accuracy: float,
    n: int,
    run: str,
    seed: int,
    parent: str | None,
    created_at: datetime,
) -> Descriptor:
    channels, num_classes = architecture.input_channels, architecture.num_classes
    unknown = (None,) * num_classes
    return Descriptor(
        dataset=Dataset(name=dataset, num_train=80, num_validation=20, num_test=n),
        architecture=architecture,
        preprocessing=Preprocessing(
            color="rgb" if channels == 3 else "gray", mean=(0.5, 0.4, 0.3)[:channels], std=(0.25, 0.2, 0.3)[:channels]
        ),
        classes=tuple(f"class {i}" for i in range(num_classes)),
        lineage=Lineage(
            run=run, seed=seed, parent=parent, num_expansions=0, expansions=(), epoch=3, code_version="0.1.0"
        ),
        metrics=Metrics(
            validation=Accuracy(accuracy=val_accuracy, n=20, per_class=unknown),
            test=None if accuracy is None else Accuracy(accuracy=accuracy, n=n, per_class=unknown),
        ),
        cost=Cost(epochs=3, device="cpu, 1 threads", device_seconds=1.5, training_flops=123_456),
        created_at=created_at,
    )


@pytest.fixture(scope="session")
def tiny() -> SecnnArchitecture:
    """Two blocks of 2 channels on 1×8×8 images, 3 classes: 164 parameters."""
    return secnn.start(
        input_shape=(1, 8, 8), num_classes=3, channels=2, num_blocks=2, bottleneck_channels=3, hidden_features=4
    )


@pytest.fixture(scope="session")
def make_checkpoint(tiny: SecnnArchitecture) -> MakeCheckpoint:
    """`make_checkpoint(architecture, seed=…, accuracy=…, dataset=…, …)`, all optional; weights follow the seed."""

    def make(
        architecture: Architecture = tiny,
        *,
        seed: int = 0,
        dataset: str = "shapes",
        accuracy: float | None = 0.75,
        val_accuracy: float = 0.8,
        n: int = 100,
        run: str = "test",
        parent: str | None = None,
        created_at: datetime = datetime(2026, 11, 21, 2, tzinfo=UTC),
    ) -> Checkpoint:
        descriptor = _descriptor(
            architecture,
            dataset=dataset,
            accuracy=accuracy,
            val_accuracy=val_accuracy,
            n=n,
            run=run,
            seed=seed,
            parent=parent,
            created_at=created_at,
        )
        return Checkpoint(descriptor, _random_tensors(architecture, seed))

    return make


@pytest.fixture(scope="session")
def nested(make_checkpoint: MakeCheckpoint) -> Callable[..., list[bytes]]:
    """`nested(architectures, seed=…, …)`, smallest first: the files of networks that lie within each other.

    Each has batch norms of its own. Accuracies rise, unless `accuracies` says otherwise; other options are those of
    `make_checkpoint`.
    """

    def make(
        architectures: Sequence[Architecture], *, accuracies: Sequence[float] | None = None, **options: Any
    ) -> list[bytes]:
        accuracies = accuracies or [0.6 + 0.05 * level for level in range(len(architectures))]
        found: list[Checkpoint] = []
        for architecture, accuracy in list(zip(architectures, accuracies, strict=True))[::-1]:
            checkpoint = make_checkpoint(architecture, accuracy=accuracy, **options)
            tensors = dict(checkpoint.tensors)
            if found:
                larger = found[0].descriptor.architecture.graph()
                for name, place in placements(architecture.graph(), larger).items():
                    if "norm" not in name:
                        tensors[name] = found[0].tensors[name][np.ix_(*place)]
            found.insert(0, Checkpoint(checkpoint.descriptor, tensors))
            options["seed"] = options.get("seed", 0) + 1
        return [encode(checkpoint) for checkpoint in found]

    return make


@pytest.fixture(scope="session")
def levels(nested: Callable[..., list[bytes]]) -> list[bytes]:
    """The files of four levels of one small network on 3×8×8 images, smallest first; wider, deeper, both."""
    shapes = [[(2, 1), (3, 1)], [(4, 1), (4, 2)], [(4, 2), (8, 3)], [(6, 3), (12, 4)]]
    return nested(
        [
            BlueprintArchitecture(
                input_channels=3,
                input_height=8,
                input_width=8,
                num_classes=4,
                stem_pools=0,
                stages=tuple(Stage(channels=channels, num_layers=num_layers) for channels, num_layers in stages),
            )
            for stages in shapes
        ]
    )


@pytest.fixture(scope="session")
def example(make_checkpoint: MakeCheckpoint, tiny: SecnnArchitecture) -> Checkpoint:
    """The worked example of docs/descriptor-format.md: block 0 was widened from 1 to 2 channels; weights count up."""
    step = ExpansionStep(
        epoch=2,
        kind="widen",
        block=0,
        channels_added=1,
        params_before=131,
        params_after=164,
        score=0.25,
        threshold=0.125,
        exact=True,
    )
    descriptor = make_checkpoint(parent="0123456789abcdef" * 4).descriptor
    lineage = descriptor.lineage.model_copy(update={"num_expansions": 1, "expansions": (step,)})
    metrics = Metrics(
        validation=Accuracy(accuracy=0.8, n=20, per_class=(1.0, 0.6, None)),
        test=Accuracy(accuracy=0.75, n=100, per_class=(0.9, 0.6, 0.75)),
    )
    shapes = tensor_shapes(tiny.graph())
    tensors = {name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 64 for name, shape in shapes.items()}
    return Checkpoint(descriptor.model_copy(update={"lineage": lineage, "metrics": metrics}), tensors)


@pytest.fixture(scope="session")
def elastic_example(example: Checkpoint) -> bytes:
    """The elastic file of docs/elastic.md: `example`, and the network that it was before it was widened."""
    architecture = example.descriptor.architecture
    assert isinstance(architecture, SecnnArchitecture)
    narrow = architecture.model_copy(
        update={"blocks": (architecture.blocks[0].model_copy(update={"channels": 1}), architecture.blocks[1])}
    )
    lineage = example.descriptor.lineage.model_copy(update={"num_expansions": 0, "expansions": ()})
    descriptor = example.descriptor.model_copy(update={"architecture": narrow, "lineage": lineage})
    places = placements(narrow.graph(), architecture.graph())
    tensors = {name: example.tensors[name][np.ix_(*place)] for name, place in places.items()}
    return pack([encode(Checkpoint(descriptor, tensors)), encode(example)])


@pytest.fixture(scope="session")
def put(make_checkpoint: MakeCheckpoint) -> Callable[..., str]:
    """`put(directory, …)` stores a checkpoint made by `make_checkpoint(…)` and returns its digest."""

    def put(directory: Path, *args: Any, **options: Any) -> str:
        return Directory(directory).put(encode(make_checkpoint(*args, **options)))

    return put


@st.composite
def _secnn_architectures(draw: st.DrawFn) -> SecnnArchitecture:
    """Every option: channels, sizes (also not square), blocks, both heads, and some growth."""
    num_blocks = draw(st.integers(2, 3))
    size = st.integers(2**num_blocks, 2**num_blocks + 5)
    architecture = secnn.start(
        input_shape=(draw(st.sampled_from([1, 3])), draw(size), draw(size)),
        num_classes=draw(st.integers(2, 5)),
        channels=draw(st.integers(1, 4)),
        num_blocks=num_blocks,
        head=draw(st.sampled_from(["flatten", "average"])),
        bottleneck_channels=draw(st.integers(1, 4)),
        hidden_features=draw(st.integers(1, 5)),
        negative_slope=draw(st.sampled_from([0.0, 0.01, 0.2, 1.0])),
    )
    for block in draw(st.lists(st.integers(0, num_blocks - 1), max_size=4)):
        if draw(st.booleans()):
            architecture = architecture.widened(block, draw(st.integers(1, 3)))
        else:
            kind = draw(st.sampled_from(["conv", "residual"]))
            architecture = architecture.deepened(block, kind, split_slope=draw(st.booleans()))
    return architecture


@st.composite
def _blueprint_architectures(draw: st.DrawFn) -> BlueprintArchitecture:
    """Stages with and without layers, of one channel too, on images down to one pixel in the last stage."""
    stages = draw(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2)), min_size=1, max_size=3))
    stem_stride, stem_pools = draw(st.sampled_from((1, 2))), draw(st.integers(0, 1))
    smallest = stem_stride * 2 ** (stem_pools + len(stages) - 1)
    size = st.integers(smallest, smallest + 5)
    return BlueprintArchitecture(
        input_channels=draw(st.sampled_from([1, 3])),
        input_height=draw(size),
        input_width=draw(size),
        num_classes=draw(st.integers(2, 5)),
        stem_stride=stem_stride,
        stem_pools=stem_pools,
        stages=tuple(Stage(channels=channels, num_layers=num_layers) for channels, num_layers in stages),
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads on networks this small stall each other where a core is busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@st.composite
def _fixed_architectures(draw: st.DrawFn) -> Architecture:
    """Of families that do not grow; on images of one pixel too."""
    size, family = st.integers(1, 9), draw(st.sampled_from(["alexnet", "resnet20", "resnet56", "vgg16"]))
    numbers = {
        "input_channels": draw(st.sampled_from([1, 3])),
        "input_height": draw(size),
        "input_width": draw(size),
        "num_classes": draw(st.integers(2, 5)),
    }

    def widths(count: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(1, 3), min_size=count, max_size=count)))

    if family in ("alexnet", "vgg16"):
        return registry.FAMILIES[family].model_validate(
            {**numbers, "channels": widths(5 if family == "alexnet" else 13)}
        )
    stages = [
        {"channels": channels, "hidden_channels": widths(3 if family == "resnet20" else 9)}
        for channels in accumulate(widths(3))
    ]
    return registry.FAMILIES[family].model_validate({**numbers, "stages": stages})


@pytest.fixture(scope="session")
def architectures() -> SearchStrategy[Architecture]:
    """Small networks of every family."""
    return st.one_of(_secnn_architectures(), _blueprint_architectures(), _fixed_architectures())


@pytest.fixture(scope="session", autouse=True)
def signals_as_in_the_foreground() -> None:
    """A shell's background jobs ignore SIGINT, nohup's SIGHUP, and so would the processes that tests start."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def audit_level() -> Iterator[None]:
    """What a command sets for its whole process, and no other test should see."""
    audit = logging.getLogger("zoo.audit")
    before = audit.level
    yield
    audit.setLevel(before)


# --- the installed commands, and a zoo grown with them ---------------------------------------------------


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs an installed command to its end."""

    def run(
        name: object, *arguments: object, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        words = [BIN / str(name), *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, env={**ENVIRONMENT, **(environment or {})})

    return run


@pytest.fixture(scope="session")
def grown(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., subprocess.CompletedProcess[str]]) -> Path:
    """A zoo that zoo-train grew on digits."""
    root = tmp_path_factory.mktemp("zoo")
    options = ("--epochs", 17, "--limit-train", 300, "--threshold", 0)
    done = command("zoo-train", "digits", "--data", "digits", "--zoo", root, *options)
    assert done.returncode == 0, done.stderr
    digests = done.stdout.split()
    assert len(digests) >= 3
    assert {path.stem for path in root.rglob("*.safetensors")} == set(digests)
    return root


@contextmanager
def _serving(log: Path, zoos: Sequence[Path], settings: dict[str, str]) -> Iterator[str]:
    options = [word for zoo in zoos for word in ("--zoo", zoo)]
    with log.open("w") as stderr:
        words = [BIN / "zoo-serve", *options, "--port", "0"]
        process = subprocess.Popen(words, stderr=stderr, env={**ENVIRONMENT, **settings})
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield found.group()
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AbstractContextManager[str]]:
    """`with serving(zoo, …) as url`: zoo-serve in a process of its own, on a port that the system chose.

    Further settings as they are in the environment: ZOO_TOKEN="…".
    """
    return lambda *zoos, **settings: _serving(tmp_path_factory.mktemp("log") / "stderr", zoos, settings)


@pytest.fixture(scope="session")
def url(grown: Path, serving: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    """Where that zoo is served."""
    with serving(grown) as served:
        yield served


@pytest.fixture(scope="session")
def lockless(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, int], dict[str, str]]:
    """`lockless(directory, errno)`: the environment of a process for which no lock can be had below the directory."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler, on Linux")
    library = tmp_path_factory.mktemp("lockless") / "lockless.so"
    source = Path(__file__).parent / "lockless.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return lambda directory, errno: {
        **ENVIRONMENT,
        "LD_PRELOAD": str(library),
        "LOCKLESS": str(directory),
        "LOCKLESS_ERRNO": str(errno),
    }
