"""How fast the other side of a connection is: sending a body, reading an answer."""

from __future__ import annotations


class BodyPace:
    """Of one body after another; only the time counts in which it was listened to."""

    def __init__(self, min_rate: int, grace_seconds: float) -> None:
        self._min_rate = min_rate
        self._grace_seconds = grace_seconds
        self.begin()

    def begin(self) -> None:
        self._window_seconds, self._window_bytes = 0.0, 0
        self._silent_seconds, self._has_come = 0.0, True

    def came(self, num_bytes: int) -> None:
        self._window_bytes += num_bytes
        self._has_come = True

    def is_slow(self) -> bool:
        """Nothing came for two seconds, or little for longer: less than ten times the rate that ends it."""
        slow_bytes = 10 * self._min_rate * self._window_seconds
        return self._silent_seconds >= 2 or (self._window_seconds >= 2 and self._window_bytes < slow_bytes)

    def check(self, seconds: float) -> str | None:
        """After each so many seconds. The reason to end it, if it came too slowly."""
        self._silent_seconds = 0.0 if self._has_come else self._silent_seconds + seconds
        self._has_come = False
        self._window_seconds += seconds
        if self._window_seconds < self._grace_seconds:
            return None
        is_too_slow = self._window_bytes < self._min_rate * self._window_seconds
        self._window_seconds, self._window_bytes = 0.0, 0
        rate = f"{self._min_rate} bytes a second"
        return f"its body came slower than {rate} for {self._grace_seconds:g} s" if is_too_slow else None


class ReaderPace:
    def __init__(self) -> None:
        self._unsent_bytes = 0
        self._still_seconds = 0.0

    def still_seconds(self, unsent_bytes: int, seconds: float) -> float:
        """How long nothing of an answer has been read; told after each so many seconds what is not yet sent."""
        is_still = unsent_bytes and unsent_bytes == self._unsent_bytes
        self._still_seconds = self._still_seconds + seconds if is_still else 0.0
        self._unsent_bytes = unsent_bytes
        return self._still_seconds
