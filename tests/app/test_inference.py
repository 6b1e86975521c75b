from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from app.admission.work import QueueFullError, Work
from app.monitoring.metrics import Metrics
from app.predict.inference import Inference
from zoo.checkpoint.file import Checkpoint
from zoo.errors import CheckpointError, ImageError
from zoo.network.families import secnn
from zoo.runtime.predictor import Predictor

from .conftest import png

MakeCheckpoint = Callable[..., Checkpoint]


class Zoo:
    """Checkpoints by name; counts how often each is loaded."""

    def __init__(self, **checkpoints: Checkpoint) -> None:
        self.checkpoints = checkpoints
        self.loads: Counter[str] = Counter()

    def load(self, name: str) -> Checkpoint:
        self.loads[name] += 1
        if name not in self.checkpoints:
            raise CheckpointError(f"{name}: damaged")
        return self.checkpoints[name]


@asynccontextmanager
async def inference_of(
    zoo: Zoo, metrics: Metrics, max_loaded_bytes: int = 10**9, max_queue: int = 256
) -> AsyncIterator[Inference]:
    work = Work(10**9, max_queue, metrics)
    try:
        yield Inference(zoo.load, work, max_loaded_bytes, max_queue, metrics)
    finally:
        work.close()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture(scope="module")
def small(make_checkpoint: MakeCheckpoint) -> Checkpoint:
    return make_checkpoint(secnn.start(input_shape=(3, 16, 16), num_classes=5, channels=4))


@pytest.fixture(scope="module")
def slow(make_checkpoint: MakeCheckpoint) -> Checkpoint:
    """470 million multiply-accumulates an image: always run on a thread."""
    return make_checkpoint(secnn.start(input_shape=(3, 128, 128), num_classes=5, channels=96))


def pixels_of(checkpoint: Checkpoint, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *Predictor(checkpoint).image_shape), dtype=np.uint8)


async def until_it_runs(metrics: Metrics) -> None:
    async with asyncio.timeout(10):
        while not sample(metrics, "zoo_predictions_under_way") or sample(metrics, "zoo_predictions_waiting"):
            await asyncio.sleep(0)


def sample(metrics: Metrics, name: str) -> float:
    lines = metrics.exposition().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split()[0] == name)


def test_batches_of_one_and_of_32_give_the_same_scores(small: Checkpoint, metrics: Metrics) -> None:
    pixels = pixels_of(small, 32)

    async def run() -> tuple[list[np.ndarray], list[np.ndarray]]:
        async with inference_of(Zoo(small=small), metrics) as inference:
            alone = [(await inference.probabilities("small", image[None]))[0] for image in pixels]
            batches = sample(metrics, "zoo_batch_images_count")
            asked = (inference.probabilities("small", image[None]) for image in pixels)
            together = [scores for scores, _ in await asyncio.gather(*asked)]
            assert sample(metrics, "zoo_batch_images_count") == batches + 1, "they ran together"
            return alone, together

    alone, together = asyncio.run(run())
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    assert sample(metrics, "zoo_batch_images_sum") == 64


def test_a_large_request_is_run_in_parts(small: Checkpoint, metrics: Metrics) -> None:
    pixels = pixels_of(small, 100)

    async def run() -> np.ndarray:
        async with inference_of(Zoo(small=small), metrics) as inference:
            return (await inference.probabilities("small", pixels))[0]

    np.testing.assert_allclose(asyncio.run(run()), Predictor(small).probabilities(pixels), atol=1e-5)


def test_bytes_and_pixels_are_answered_alike(small: Checkpoint, metrics: Metrics) -> None:
    pixels = pixels_of(small, 3)

    async def run() -> None:
        async with inference_of(Zoo(small=small), metrics) as inference:
            answer = await inference.classify("small", [png(image) for image in pixels], 2)
            scores, timing = await inference.probabilities("small", pixels)
            np.testing.assert_allclose(answer.scores, scores, atol=1e-6)
            assert [[item.index for item in row] for row in answer.predictions] == (
                np.argsort(-scores, axis=1)[:, :2].tolist()
            )
            assert answer.ranked() == [[item.model_dump() for item in row] for row in answer.predictions]
            assert timing.decode == 0
            assert answer.timing.decode > 0
            assert timing.forward > 0

    asyncio.run(run())


def test_one_bad_image_fails_alone(small: Checkpoint, metrics: Metrics) -> None:
    images = [png(image) for image in pixels_of(small, 4)]
    images[2] = b"no image"

    async def run() -> list[object]:
        async with inference_of(Zoo(small=small), metrics) as inference:
            await inference.network("small")
            asked = (inference.classify("small", [image], 1) for image in images)
            return await asyncio.gather(*asked, return_exceptions=True)

    results = asyncio.run(run())
    assert [isinstance(result, ImageError) for result in results] == [False, False, True, False]


def test_pixels_of_another_shape_are_refused(small: Checkpoint, metrics: Metrics) -> None:
    async def run(pixels: np.ndarray) -> None:
        async with inference_of(Zoo(small=small), metrics) as inference:
            await inference.probabilities("small", pixels)

    for shape in ((1, 8, 8, 3), (16, 16, 3), (0, 16, 16, 3)):
        with pytest.raises(
            ImageError, match=r"takes uint8 images of shape \(n, 16, 16, 3\), the image came as uint8 \("
        ):
            asyncio.run(run(np.zeros(shape, np.uint8)))
    with pytest.raises(ImageError, match="came as float32"):
        asyncio.run(run(np.zeros((1, 16, 16, 3), np.float32)))


def test_another_checkpoint_waits_for_nobody(small: Checkpoint, slow: Checkpoint, metrics: Metrics) -> None:
    async def run() -> list[str]:
        done: list[str] = []

        async def ask(name: str, pixels: np.ndarray) -> None:
            await inference.probabilities(name, pixels)
            done.append(name)

        async with inference_of(Zoo(small=small, slow=slow), metrics) as inference:
            await inference.network("slow")
            await inference.network("small")
            await asyncio.gather(
                *(ask("slow", pixels_of(slow, 4)) for _ in range(3)),
                *(ask("small", pixels_of(small, 1)) for _ in range(3)),
            )
        return done

    assert asyncio.run(run()) == ["small"] * 3 + ["slow"] * 3


def test_what_waits_runs_together_once_the_batch_before_is_done(slow: Checkpoint, metrics: Metrics) -> None:
    pixels = pixels_of(slow, 1)

    async def run() -> None:
        async with inference_of(Zoo(slow=slow), metrics) as inference:
            await inference.network("slow")
            first = asyncio.create_task(inference.probabilities("slow", pixels))
            await until_it_runs(metrics)
            others = [asyncio.create_task(inference.probabilities("slow", pixels)) for _ in range(3)]
            await asyncio.gather(first, *others)

    asyncio.run(run())
    assert sample(metrics, "zoo_batch_images_count") == 2
    assert sample(metrics, "zoo_batch_images_sum") == 4


def test_what_waits_is_told_from_what_runs(slow: Checkpoint, metrics: Metrics) -> None:
    pixels = pixels_of(slow, 1)

    async def run() -> None:
        async with inference_of(Zoo(slow=slow), metrics) as inference:
            loading = asyncio.create_task(inference.probabilities("slow", pixels))
            await asyncio.sleep(0)
            assert sample(metrics, "zoo_predictions_waiting") == 1, "for its network"
            await until_it_runs(metrics)
            await loading
            first = asyncio.create_task(inference.probabilities("slow", pixels))
            await until_it_runs(metrics)
            assert sample(metrics, "zoo_predictions_waiting") == 0
            others = [asyncio.create_task(inference.probabilities("slow", pixels)) for _ in range(3)]
            others[0].cancel()
            await asyncio.sleep(0)
            assert sample(metrics, "zoo_predictions_waiting") == 2
            assert sample(metrics, "zoo_predictions_under_way") == 3
            await asyncio.gather(first, *others[1:])
            assert sample(metrics, "zoo_predictions_waiting") == 0

    asyncio.run(run())


def test_a_cancelled_request_leaves_its_batch(slow: Checkpoint, metrics: Metrics) -> None:
    pixels = pixels_of(slow, 1)

    async def run() -> None:
        async with inference_of(Zoo(slow=slow), metrics) as inference:
            await inference.network("slow")
            first = asyncio.create_task(inference.probabilities("slow", pixels))
            await until_it_runs(metrics)
            stays, leaves = (asyncio.create_task(inference.probabilities("slow", pixels)) for _ in range(2))
            await asyncio.sleep(0)
            assert leaves.cancel()
            await asyncio.gather(first, stays)

    asyncio.run(run())
    assert sample(metrics, "zoo_batch_images_sum") == 2
    assert sample(metrics, "zoo_predictions_under_way") == 0


def test_the_queue_of_a_checkpoint_is_bounded(small: Checkpoint, slow: Checkpoint, metrics: Metrics) -> None:
    async def run() -> None:
        async with inference_of(Zoo(small=small, slow=slow), metrics, max_queue=2) as inference:
            asked = [asyncio.create_task(inference.probabilities("slow", pixels_of(slow, 1))) for _ in range(5)]
            await asyncio.sleep(0)
            await inference.probabilities("small", pixels_of(small, 1))
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert [isinstance(result, QueueFullError) for result in results] == [False] * 3 + [True] * 2
            await inference.probabilities("slow", pixels_of(slow, 1))

    asyncio.run(run())


def test_a_network_is_loaded_once_however_many_ask(small: Checkpoint, metrics: Metrics) -> None:
    zoo = Zoo(small=small)

    async def run() -> None:
        async with inference_of(zoo, metrics) as inference:
            await asyncio.gather(*(inference.probabilities("small", pixels_of(small, 1)) for _ in range(20)))

    asyncio.run(run())
    assert zoo.loads == {"small": 1}
    assert sample(metrics, "zoo_loaded_predictors") == 1


def test_a_failure_to_load_is_told_to_all_and_forgotten(small: Checkpoint, metrics: Metrics) -> None:
    zoo = Zoo()

    async def run() -> None:
        async with inference_of(zoo, metrics) as inference:
            asked = (inference.probabilities("small", pixels_of(small, 1)) for _ in range(3))
            for result in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(result, CheckpointError)
            zoo.checkpoints["small"] = small
            await inference.probabilities("small", pixels_of(small, 1))

    asyncio.run(run())
    assert zoo.loads == {"small": 2}


def test_the_least_recently_used_network_goes_when_bytes_run_out(small: Checkpoint, metrics: Metrics) -> None:
    zoo = Zoo(a=small, b=small, c=small)
    size = Predictor(small).size_bytes

    async def run() -> None:
        async with inference_of(zoo, metrics, max_loaded_bytes=2 * size) as inference:
            for name in "abacba":
                await inference.network(name)
                assert sample(metrics, "zoo_loaded_bytes") <= 2 * size

    asyncio.run(run())
    assert zoo.loads == {"a": 2, "b": 2, "c": 1}, "a and b are kept; c drives b out; b drives a out; a comes again"


def test_a_network_larger_than_the_bound_still_answers(small: Checkpoint, metrics: Metrics) -> None:
    async def run() -> None:
        async with inference_of(Zoo(small=small), metrics, max_loaded_bytes=1) as inference:
            await inference.probabilities("small", pixels_of(small, 1))

    asyncio.run(run())


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_500_loads_and_evictions_leave_memory_flat(make_checkpoint: MakeCheckpoint, metrics: Metrics) -> None:
    architecture = secnn.start(input_shape=(3, 16, 16), num_classes=5, channels=16)
    zoo = Zoo(**{name: make_checkpoint(architecture, seed=seed) for seed, name in enumerate("abc")})
    pixels = pixels_of(zoo.checkpoints["a"], 8)

    def names() -> Iterator[str]:
        while True:
            yield from "abc"

    async def run() -> int:
        async with inference_of(zoo, metrics, max_loaded_bytes=1) as inference:
            before = 0
            for cycle, name in zip(range(600), names(), strict=False):
                if cycle == 100:
                    before = resident_bytes()
                await inference.probabilities(name, pixels)
            return resident_bytes() - before

    growth = asyncio.run(run())
    assert zoo.loads.total() == 600
    assert growth < 5_000_000, "500 networks would take some 200 MB"
