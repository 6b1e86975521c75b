"""Running estimates of latency and load, by which `policy=adaptive` decides. Pure arithmetic: no clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

# Of one batch. Larger ones are no faster for each image (benchmarks of ONNX Runtime on one core) and take memory.
MAX_BATCH_IMAGES = 32
_MEMORY_SECONDS = 1.0


class ForwardTimes:
    """A network's seconds for an image, by the number of images that run together, where nothing disturbs it.

    Kept for 1, 2 to 3, 4 to 7 … 32 images. Down at once, up slowly: a busy machine makes a batch look longer than it
    is, nothing makes it look shorter. How much longer batches take at the moment is `Slowness`.
    """

    def __init__(self, seconds_of_one: float) -> None:
        self._per_image: list[float | None] = [seconds_of_one, *[None] * (MAX_BATCH_IMAGES.bit_length() - 1)]

    @property
    def seconds_per_image(self) -> float:
        """In batches of whichever size is the fastest."""
        return min(value for value in self._per_image if value is not None)

    def seconds(self, num_images: int) -> float:
        """Of a size that never ran: at the pace of the next smaller one that did."""
        known = [value for value in self._per_image[: _place(num_images) + 1] if value is not None]
        return num_images * known[-1]

    def observe(self, num_images: int, seconds: float) -> None:
        place, measured = _place(num_images), seconds / num_images
        known = self.seconds(num_images) / num_images
        self._per_image[place] = min(measured, known + (measured - known) / 32)


def _place(num_images: int) -> int:
    return min(num_images, MAX_BATCH_IMAGES).bit_length() - 1


@dataclass(slots=True)
class Slowness:
    """By what factor batches, of whichever network, take longer than where nothing disturbs them: at the moment, and
    over the last hundred or so."""

    factor: float = 1.0
    usual: float = 1.0

    def observe(self, expected_seconds: float, seconds: float) -> None:
        ratio = min(max(seconds / max(expected_seconds, 1e-6), 1.0), 8.0)
        self.factor += (ratio - self.factor) / 8
        self.usual += (ratio - self.usual) / 64


@dataclass(slots=True)
class Lateness:
    """By how much answers come later than expected, with a margin: mean error and mean deviation, as TCP estimates
    round trips (RFC 6298).

    One answer moves it by little, however late it was: a machine that stood still for a moment is not slow. Forgotten
    in a second or two, so that what comes after a storm is not answered as if it still raged.
    """

    _mean_ms: float = 0.0
    _deviation_ms: float = 0.5
    _since: float = 0.0

    def margin_ms(self, now: float) -> float:
        self._forget(now)
        return max(0.0, self._mean_ms + self._deviation_ms)

    def observe(self, expected_ms: float, took_ms: float, now: float) -> None:
        """`expected_ms` is without the margin."""
        self._forget(now)
        most = 4 * self._deviation_ms + 1.0
        error = min(max(took_ms - expected_ms - self._mean_ms, -most), most)
        self._mean_ms += error / 8
        self._deviation_ms += (abs(error) - self._deviation_ms) / 16

    def _forget(self, now: float) -> None:
        kept = exp((self._since - now) / _MEMORY_SECONDS)
        self._mean_ms *= kept
        self._deviation_ms *= kept
        self._since = now


@dataclass(slots=True)
class Demand:
    """The arrival rate in images a second, decaying exponentially over about a second."""

    _images: float = 0.0
    _since: float = 0.0

    def add(self, num_images: int, now: float) -> None:
        self._images = self.rate(now) * _MEMORY_SECONDS + num_images
        self._since = max(self._since, now)

    def rate(self, now: float) -> float:
        return self._images * exp(min(0.0, self._since - now) / _MEMORY_SECONDS) / _MEMORY_SECONDS
