from __future__ import annotations

import io
import re
from dataclasses import replace

from rich.console import Console

from trainer.journal.display import Display
from trainer.journal.records import (
    BatchesRecord,
    CandidateScore,
    DecisionRecord,
    EpochRecord,
    LessonRecord,
    LevelRecord,
    PlanRecord,
)


def epoch(number: int, branch_epoch: int = 0) -> EpochRecord:
    """The first branch is off epoch 4, and half as long."""
    return EpochRecord(
        epoch=number,
        epochs=10,
        num_epochs=number + branch_epoch,
        branch_epoch=branch_epoch,
        branch_epochs=2 if branch_epoch else 0,
        loss=1.25,
        accuracy=0.5,
        val_accuracy=0.625,
        params=3426,
        learning_rate=0.01,
        seconds=30.0,
    )


DECISION = DecisionRecord(
    epoch=4,
    threshold=0.5,
    candidates=(
        CandidateScore("block 0: 8 more channels", 400, 0.2),
        CandidateScore("block 1: one more layer", 300, 0.75),
    ),
    chosen=("block 1: one more layer", "block 0: 8 more channels"),
    seconds=2.0,
)

LESSON = LessonRecord(
    student="0" * 64,
    teacher="1" * 64,
    params=3426,
    epoch=2,
    epochs=6,
    loss=0.75,
    accuracy=0.875,
    num_images=90,
    seconds=30.0,
)


def panel(display: Display) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(display)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_on_a_terminal_a_panel_says_where_the_run_is() -> None:
    """Six epochs of 30 s are left, with half an epoch of annealing for each of all ten; then the same without two."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Display(console, anneal_share=0.5) as display:
        assert "reading images" in panel(display)
        display(epoch(4))
        assert "last expansion: none yet" in panel(display)
        display(DECISION)
        shown = panel(display)
        assert "at least 0:05:30 left" in shown
        assert "epoch 4/10  3,426 parameters  loss 1.250  train 0.500  validation 0.625" in shown
        expansion = "block 1: one more layer; block 0: 8 more channels (best score 0.75 over 0.5)"
        assert f"last expansion: epoch 4: {expansion}" in shown
        display(epoch(4, branch_epoch=2))
        shown = panel(display)
        assert "annealing 2/2" in shown
        assert "at least 0:04:30 left" in shown


def test_on_a_terminal_a_panel_says_where_distillation_is() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Display(console) as display:
        display(epoch(10))
        display(LESSON)
        shown = panel(display)
        assert "this one: 0:02:00 left" in shown
        assert "distilling 3,426 parameters  epoch 2/6  loss 0.750  train 0.875" in shown
        assert "annealing" not in shown


def test_what_lasts_is_named_until_the_next_record() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Display(console) as display:
        display(epoch(4))
        display.at("scoring ways to grow")
        assert "scoring ways to grow, for 0 s" in panel(display)
        display.at("compiling, then training")
        assert "compiling, then training, for 0 s" in panel(display)
        assert "scoring" not in panel(display)
        display(epoch(5))
        assert "compiling" not in panel(display)


def test_the_time_left_is_that_of_the_plan() -> None:
    output = io.StringIO()
    with Display(Console(file=output, force_terminal=True, width=120, highlight=False), anneal_share=0.5) as display:
        display(PlanRecord("60 epochs, up to 5,000 parameters", seconds_left=300.0))
        display(epoch(4))
        assert re.search(r"about 0:0(5:00|4:5\d) left", panel(display))
        display(LESSON)
        assert re.search(r"about 0:0(5:00|4:5\d) left", panel(display))
    assert "plans 60 epochs, up to 5,000 parameters" in output.getvalue()


def test_elsewhere_there_are_plain_lines() -> None:
    output = io.StringIO()
    with Display(Console(file=output, width=80)) as display:
        display(epoch(4))
        display(DECISION)
        display(replace(LESSON, epoch=6))
    lines = output.getvalue().splitlines()
    assert lines == [
        "  epoch 4/10  3,426 parameters  loss 1.250  train 0.500  validation 0.625  30.0 s",
        "  epoch 4: expands block 1: one more layer; block 0: 8 more channels; best score 0.75 over 0.5",
        "  distilling 3,426 parameters  epoch 6/6  loss 0.750  train 0.875  30.0 s",
    ]


def test_what_was_taken_several_times_is_told_once() -> None:
    output = io.StringIO()
    deeper, wider = DECISION.chosen
    with Display(Console(file=output, width=80)) as display:
        display(replace(DECISION, chosen=(deeper, wider, deeper)))
    assert "expands block 1: one more layer (2 times); block 0: 8 more channels; best" in output.getvalue()


def test_the_panel_shows_every_level_of_an_elastic_run() -> None:
    display = Display(Console(file=io.StringIO()))
    levels = (LevelRecord(766, 0.5), LevelRecord(3426, 0.625))
    display(replace(epoch(3), levels=levels))
    shown = panel(display)
    assert "epoch 3/10  loss 1.250  train 0.500  validation 0.500 at 766, 0.625 at 3,426 parameters" in shown
    assert "last expansion" not in shown


def test_only_what_was_made_smaller_is_told() -> None:
    console = Console(file=io.StringIO(), width=200)
    with Display(console) as display:
        display(BatchesRecord(512, 512, 24, 100, 8_522))
    output = console.file
    assert isinstance(output, io.StringIO)
    assert output.getvalue() == "  8,522 training images: a warm-up of 24 steps, not 100; --batch-size sets another\n"
