"""Adaptive answers: of several checkpoints the most accurate that meets a deadline under the present load.

Pure arithmetic: times come in as numbers, the clock too. The rule has two parts:

- `decide`: the most accurate option whose expected wait plus forward pass meets the deadline, else the cheapest one.
- `Hysteresis`: where waiting made the difference, options that are too dear for the present rate of images are left
  alone, the dearest in any case. They are taken up again after a second in which all would have fitted all the time.

Without the second part a choice would flip with each gap between two requests (SuperServe, arXiv 2312.16733, calls
the signal slack; it has no memory and switches for free).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, log2
from typing import Literal, TypeVar

from zoo.choosing.budget import Budget

# best: the most accurate of all; deadline: the others take too long even where nothing waits; pressure: they would wait
# too long; held: there was pressure within the last second; loading: they are not in memory yet; late: none meets the
# deadline.
Reason = Literal["best", "deadline", "pressure", "held", "loading", "late"]

_BECAUSE: dict[Reason, str] = {
    "best": "no eligible one is more accurate",
    "deadline": "more accurate ones take longer",
    "pressure": "more accurate ones would wait too long now",
    "held": "more accurate ones would have waited too long a moment ago",
    "loading": "more accurate ones are being loaded",
    "late": "none is expected within it",
}

MAX_DEADLINE_MS = 60_000.0
HOLD_SECONDS = 1.0
# Of one core's time. At more than this the queue of a gap's end grows past most deadlines.
SUSTAINABLE_LOAD = 0.8
# Twenty sizes more would differ by tenths of a point, and each takes memory.
MAX_LEVELS = 16

Level = TypeVar("Level")


def because(budget: Budget, deadline_ms: float | None, reason: Reason) -> str:
    preferred = budget.preferring("params" if reason == "late" else "accuracy").because()
    return f"{preferred}, for a deadline of {deadline_ms:g} ms: {_BECAUSE[reason]}"


@dataclass(frozen=True, slots=True)
class Option:
    """What answering with one checkpoint would take now.

    `wait_ms`: all but the forward pass, with what has passed since the request came; infinite where its queue is full.
    `next_ms`: the wait that those behind this one would have, were they answered alike.
    `load`: the share of a core's time that it would take to answer images at their present rate.
    """

    macs: int
    forward_ms: float
    wait_ms: float = 0.0
    next_ms: float = 0.0
    load: float = 0.0
    is_loaded: bool = True

    @property
    def expected_ms(self) -> float:
        return self.wait_ms + self.forward_ms

    def is_in_time(self, deadline_ms: float) -> bool:
        """For this request and those behind it."""
        return max(self.wait_ms, self.next_ms) + self.forward_ms <= deadline_ms


@dataclass(frozen=True, slots=True)
class Decision:
    """`is_pressed`: a more accurate option does not meet the deadline, and would if nothing waited."""

    index: int
    reason: Reason
    expected_ms: float
    is_pressed: bool = False


def decide(options: Sequence[Option], deadline_ms: float, most_macs: float = inf) -> Decision:
    """The most accurate of the options that meets the deadline; where none does, the first.

    Options ascend in accuracy and in cost. Those above `most_macs` are passed over, but for the first.

    >>> decide([Option(macs=1, forward_ms=2.0), Option(macs=9, forward_ms=18.0, wait_ms=5.0)], deadline_ms=20)
    Decision(index=0, reason='pressure', expected_ms=2.0, is_pressed=True)
    """
    # Nothing is left to do for those behind the first.
    alone = range(options[0].expected_ms <= deadline_ms)
    fitting = [*alone, *(index for index in range(1, len(options)) if options[index].is_in_time(deadline_ms))]
    allowed = [index for index in fitting if index == 0 or options[index].macs <= most_macs]
    chosen = allowed[-1] if allowed else 0
    better = [option for option in options[chosen + bool(allowed) :] if option.forward_ms <= deadline_ms]
    waiting = [option for option in better if not option.is_in_time(deadline_ms)]
    reason: Reason
    if not allowed:
        reason = "late"
    elif chosen == len(options) - 1:
        reason = "best"
    elif len(fitting) > len(allowed):
        reason = "held"
    elif not better:
        reason = "deadline"
    elif all(not option.is_loaded for option in waiting):
        reason = "loading"
    else:
        reason = "pressure"
    is_pressed = any(option.is_loaded for option in waiting)
    return Decision(chosen, reason, options[chosen].expected_ms, is_pressed)


@dataclass(frozen=True, slots=True)
class _Hold:
    most_macs: float
    since: float


class Hysteresis:
    """Down at once, up after a second without pressure: the memory of one worker.

    Pressure at a deadline says nothing about longer ones, and all about shorter ones: holds are kept by the power of
    two that a deadline is above.
    """

    def __init__(self) -> None:
        self._holds: dict[int, _Hold] = {}

    def choose(self, options: Sequence[Option], deadline_ms: float, now: float) -> Decision:
        """`decide`, below what is held; `now` in seconds of any clock that runs evenly."""
        place = int(log2(max(deadline_ms, 1.0)))
        for other in [other for other in self._holds if other >= place]:
            self._holds[other] = _lifted(self._holds[other], options, now)
        ceiling = min((hold.most_macs for other, hold in self._holds.items() if other >= place), default=inf)
        decision = decide(options, deadline_ms, ceiling)
        if decision.is_pressed:
            # This one takes what fits now; those that come next what the rate of images allows, the queue once gone.
            allowed = [options[decision.index].macs, *_sustainable(options[:-1])]
            self._holds[place] = _Hold(min(ceiling, max(allowed)), now)
        return decision


def _lifted(hold: _Hold, options: Sequence[Option], now: float) -> _Hold:
    """After a second without pressure: to the most accurate option that the present rate of images allows."""
    if now - hold.since <= HOLD_SECONDS or options[-1].macs <= hold.most_macs:
        return hold
    return replace(hold, most_macs=max([hold.most_macs, *_sustainable(options)]), since=now)


def _sustainable(options: Sequence[Option]) -> list[int]:
    return [option.macs for option in options if option.load <= SUSTAINABLE_LOAD]


def spread(levels: Sequence[Level]) -> list[Level]:
    """At most `MAX_LEVELS` of them: the first, the last, and those between at even distances."""
    if len(levels) <= MAX_LEVELS:
        return list(levels)
    return [levels[round(step * (len(levels) - 1) / (MAX_LEVELS - 1))] for step in range(MAX_LEVELS)]
