"""A run as people watch it: one live line on a terminal, plain lines elsewhere. Goes to stderr."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.records import CheckpointRecord, DecisionRecord, EpochRecord, FinishedRecord, Record

# Elsewhere than on a terminal, epochs are reported no more often than this.
_PLAIN_SECONDS = 5.0


class Display:
    """An observer of a run; a context manager, because the live line must be taken down."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._last_plain = 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("reading images", total=None)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, record: Record) -> None:
        match record:
            case EpochRecord():
                self._epoch(record)
            case DecisionRecord() if record.chosen is not None:
                best = next(score for score in record.candidates if score.change == record.chosen)
                self._print(
                    f"  epoch {record.epoch}: expands {record.chosen} (+{best.params_added:,} parameters), "
                    f"score {best.score:.4g} over {record.threshold:.4g}"
                )
            case CheckpointRecord():
                self._print(
                    f"  epoch {record.epoch}: saved {record.name}  {record.params:,} parameters, validation "
                    f"{record.val_accuracy:.4f}, test {record.test_accuracy:.4f}"
                )
            case FinishedRecord():
                self._print(
                    f"  done: {len(record.checkpoints)} checkpoints, {record.num_expansions} expansions, "
                    f"{record.device_seconds:.0f} device-seconds"
                )

    def _epoch(self, record: EpochRecord) -> None:
        text = (
            f"{record.params:,} parameters  loss {record.loss:.3f}  "
            f"train {record.accuracy:.3f}  validation {record.val_accuracy:.3f}"
        )
        self._progress.update(self._task, total=record.epochs, completed=record.epoch, description=text)
        due = time.monotonic() - self._last_plain > _PLAIN_SECONDS or record.epoch == record.epochs
        if self._progress.disable and due:
            self._last_plain = time.monotonic()
            self._print(f"  epoch {record.epoch}/{record.epochs}  {text}  {record.seconds:.1f} s")

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)
