"""Progress of a run on stderr: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from trainer.journal.records import (
    AdaptedRecord,
    BatchesRecord,
    ChanceRecord,
    CheckpointRecord,
    DecisionRecord,
    DistilledRecord,
    EpochRecord,
    FinishedRecord,
    LessonRecord,
    PlanRecord,
    PrunedRecord,
    Record,
)

# Elsewhere than on a terminal, epochs are reported no more often than this.
_PLAIN_SECONDS = 5.0


class Display:
    """An observer of a run; a context manager, because the live panel must be taken down."""

    def __init__(self, console: Console, anneal_share: float = 0.0) -> None:
        """`anneal_share`: epochs of branches for each of the trunk's, as the run has them."""
        self.console = console
        self._anneal_share = anneal_share
        self._last_plain, self._last_line = 0.0, time.monotonic()
        self._activity: Spinner | None = None
        self._what, self._since = "", 0.0
        # Of `time.monotonic`, where the run was planned to end by then.
        self._ends: float | None = None
        self._epoch: EpochRecord | None = None
        self._lesson: LessonRecord | None = None
        self._growth = "none yet"
        self._waits = False
        self._live = Live(self, console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Display:
        self.at("reading images")
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, record: Record) -> None:
        self._activity = None
        match record:
            case PlanRecord():
                self._ends = time.monotonic() + record.seconds_left
                self._print(f"  plans {record.what}")
            case BatchesRecord():
                smaller = {
                    "batches of {}, not {}": (record.batch_size, record.batch_size_before),
                    "a warm-up of {} steps, not {}": (record.warmup_steps, record.warmup_steps_before),
                }
                told = " and ".join(text.format(*both) for text, both in smaller.items() if both[0] != both[1])
                self._print(f"  {record.num_train:,} training images: {told}; --batch-size sets another")
            case ChanceRecord():
                if not self._waits:
                    self._print(
                        f"  epoch {record.epoch}: validation {record.val_accuracy:.3f} is no better than chance "
                        f"({record.chance:.3f}): nothing grows yet"
                    )
                self._waits = True
            case EpochRecord():
                self._epoch = record
                if self._live is None and self._is_due(record.epoch == record.epochs):
                    self._print(f"  {_figures(record)}  {record.seconds:.1f} s")
            case DecisionRecord() if record.chosen:
                self._waits = False
                best = max(record.candidates, key=lambda candidate: candidate.score)
                why = f"best score {best.score:.4g} over {record.threshold:.4g}"
                changes = _counted(record.chosen)
                self._growth = f"epoch {record.epoch}: {changes} ({why})"
                self._print(f"  epoch {record.epoch}: expands {changes}; {why}")
            case CheckpointRecord():
                self._print(
                    f"  epoch {record.epoch}: saved {record.name}  {record.params:,} parameters, validation "
                    f"{record.val_accuracy:.4f}, test {record.test_accuracy:.4f}"
                )
            case LessonRecord():
                self._lesson = record
                if self._live is None and self._is_due(record.epoch == record.epochs):
                    self._print(f"  {_lesson_figures(record)}  {record.seconds:.1f} s")
            case PrunedRecord():
                self._print(
                    f"  cut {record.params_before:,} parameters to {record.params:,}, channels {record.widths}: "
                    f"validation {record.val_accuracy_before:.4f} to {record.val_accuracy:.4f}"
                )
            case DistilledRecord():
                kept = "saved" if record.digest else "not better, left as it is"
                self._print(
                    f"  distilled {record.params:,} parameters: validation {record.val_accuracy_before:.4f} to "
                    f"{record.val_accuracy:.4f}, {kept}"
                )
            case AdaptedRecord():
                self._print(f"  done: {len(record.checkpoints)} checkpoints")
                self._warn_of_chance(record)
            case FinishedRecord():
                self._print(
                    f"  done: {len(record.checkpoints)} checkpoints, {record.num_expansions} expansions, "
                    f"{record.device_seconds:.0f} device-seconds"
                )
                self._warn_of_chance(record)

    def _warn_of_chance(self, record: AdaptedRecord | FinishedRecord) -> None:
        if record.at_chance:
            self._print(
                f"  warning: {len(record.at_chance)} of {len(record.checkpoints)} checkpoints are no better than "
                "chance on validation images: give the run more epochs, or more images",
                style="yellow",
            )

    def at(self, what: str) -> None:
        """Shows the present activity until the next record: by a spinner; elsewhere by a line after a long silence."""
        self._activity, self._since = Spinner("dots", style="bar.complete"), time.monotonic()
        self._what = what
        if self._live is None and time.monotonic() - self._last_line > _PLAIN_SECONDS:
            self._print(f"  {what} …")

    def __rich__(self) -> RenderableType:
        return Group(*self._lines())

    def _lines(self) -> Iterator[RenderableType]:
        epoch, lesson = self._epoch, self._lesson
        if lesson is not None:
            yield self._bar(lesson.epoch, lesson.epochs, lesson.seconds, "this one:")
            yield Text(_lesson_figures(lesson))
        elif epoch is not None:
            # At the present size's speed: later epochs, of a larger network, take longer.
            yield self._bar(epoch.num_epochs, epoch.epochs * (1 + self._anneal_share), epoch.seconds, "at least")
            yield Text(_figures(epoch))
            if not epoch.levels:
                yield Text(f"last expansion: {self._growth}")
        if self._activity is not None:
            self._activity.update(text=f"{self._what}, for {time.monotonic() - self._since:.0f} s")
            yield self._activity

    def _bar(self, done: int, total: int | float, seconds: float, before: str) -> RenderableType:
        """`seconds` of an epoch, and a word on the time that is left: that of the plan where there is one."""
        left = max(0.0, total - done) * seconds
        if self._ends is not None:
            before, left = "about", max(0.0, self._ends - time.monotonic())
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(total=total, completed=done, width=40), f"{before} {timedelta(seconds=round(left))} left"
        )
        return bar

    def _is_due(self, is_last: bool) -> bool:
        due = is_last or time.monotonic() - self._last_plain > _PLAIN_SECONDS
        if due:
            self._last_plain = time.monotonic()
        return due

    def _print(self, line: str, style: str | None = None) -> None:
        self._last_line = time.monotonic()
        self.console.print(line, style=style, soft_wrap=True)


def _counted(changes: Sequence[str]) -> str:
    times = Counter(changes)
    return "; ".join(f"{change} ({number} times)" if number > 1 else change for change, number in times.items())


def _figures(epoch: EpochRecord) -> str:
    if epoch.levels:
        levels = ", ".join(f"{level.val_accuracy:.3f} at {level.params:,}" for level in epoch.levels)
        return (
            f"epoch {epoch.epoch}/{epoch.epochs}  loss {epoch.loss:.3f}  train {epoch.accuracy:.3f}  "
            f"validation {levels} parameters"
        )
    branch = f"  annealing {epoch.branch_epoch}/{epoch.branch_epochs}" if epoch.branch_epoch else ""
    return (
        f"epoch {epoch.epoch}/{epoch.epochs}  {epoch.params:,} parameters  loss {epoch.loss:.3f}  "
        f"train {epoch.accuracy:.3f}  validation {epoch.val_accuracy:.3f}{branch}"
    )


def _lesson_figures(lesson: LessonRecord) -> str:
    return (
        f"distilling {lesson.params:,} parameters  epoch {lesson.epoch}/{lesson.epochs}  loss {lesson.loss:.3f}  "
        f"train {lesson.accuracy:.3f}"
    )
