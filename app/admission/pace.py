"""How fast the other side of a connection is: sending a body, reading an answer, coming back after a refusal."""

from __future__ import annotations

import random

# How long a client that was turned away with 503 or 429 is not listened to, if it asks again on the same connection
# at once: answering it would take the time from those who are served.
_DEAF_SECONDS = 1.0
# Who had sent its next request before it was listened to again waits twice as long the next time.
_AT_ONCE_SECONDS = 0.3
_MAX_DEAF_SECONDS = 8.0


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


class ReturnPace:
    """Exponential backoff, with jitter, for who does not back off by itself."""

    def __init__(self) -> None:
        self._heard_at = -1.0
        self._seconds = _DEAF_SECONDS

    def deaf_seconds(self, now: float) -> float:
        """How long not to listen after a refusal; jitter, so that who was refused together does not come back so."""
        asked_at_once = now - self._heard_at < _AT_ONCE_SECONDS
        self._seconds = min(2 * self._seconds, _MAX_DEAF_SECONDS) if asked_at_once else _DEAF_SECONDS
        return self._seconds * random.uniform(0.5, 1)  # noqa: S311

    def listens(self, now: float) -> None:
        self._heard_at = now
