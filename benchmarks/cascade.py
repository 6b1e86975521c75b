"""What do cascades save at equal accuracy, and do they keep what they promise?

    python benchmarks/cascade.py --zoo zoo/pretrained --data cifar10.tar.gz > benchmarks/results/cascade-$(date +%F).txt

Cascades are found as by `zoo calibrate --data`, on the validation images. Then every checkpoint in one of them
classifies the test images once, and each cascade is followed through these answers. Nothing is timed here.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from math import ceil
from pathlib import Path
from statistics import geometric_mean, mean

import numpy as np
from machine import processor

from zoo.catalog.rows import CheckpointRow
from zoo.choosing.budget import Budget
from zoo.choosing.cascade import Cascade, Margins, answered_by, margins
from zoo.images.folder import name_of
from zoo.library.local import LocalZoo
from zoo.library.upkeep.calibrate import find_cascades
from zoo.runtime.measure import HeldOutImages, scores


@dataclass(frozen=True)
class Answers:
    """A checkpoint's, to all test images."""

    macs: int
    margins: Margins
    correct: np.ndarray


@dataclass(frozen=True)
class Tested:
    cascade: Cascade
    accuracy: float
    macs: float


def test(cascade: Cascade, answers: Mapping[str, Answers]) -> Tested:
    stages = [answers[stage.digest] for stage in cascade.stages]
    by = answered_by(cascade, {digest: each.margins for digest, each in answers.items()})
    correct = np.array([stage.correct for stage in stages])[by, np.arange(len(by))]
    spent = np.cumsum([stage.macs for stage in stages])[by]
    return Tested(cascade, float(correct.mean()), float(spent.mean()))


def print_comparison(rows: Sequence[CheckpointRow], tested: Sequence[Tested]) -> None:
    """At the accuracy of each checkpoint of the front, and at each half percent between."""
    reached = {row.accuracy for row in rows if row.accuracy is not None}
    steps = {step / 200 for step in range(ceil(200 * min(reached)), int(200 * max(reached)) + 1)}
    params = {row.digest: row.params for row in rows}
    ratios = []
    print("\nalone: the checkpoint of the fewest MACs that has this accuracy; cascade: the one that promises it")
    print("stages: parameters, and the margin that is sure enough")
    print(f"{'min_acc':>8}{'alone':>13}{'accuracy':>10}{'cascade':>13}{'accuracy':>10}{'saved':>7}  stages")
    for wanted in sorted(reached | steps):
        alone = min((row for row in rows if (row.accuracy or 0.0) >= wanted), key=lambda row: row.macs)
        chosen = next(one for one in tested if one.cascade.accuracy >= wanted)
        ratios.append(chosen.macs / alone.macs)
        print(
            f"{wanted:>8.4f}{alone.macs:>13,}{alone.accuracy:>10.4f}{chosen.macs:>13,.0f}{chosen.accuracy:>10.4f}"
            f"{1 - ratios[-1]:>7.0%}  {chosen.cascade.described(params)}"
        )
    print(f"\nmean MACs: {geometric_mean(ratios):.2f} of those alone (geometric mean of these {len(ratios)} lines)")


def print_promises(tested: Sequence[Tested]) -> None:
    gaps = [one.accuracy - one.cascade.accuracy for one in tested]
    costs = [one.macs / one.cascade.macs for one in tested]
    kept = sum(gap >= 0 for gap in gaps)
    print(
        f"{kept} of {len(gaps)} cascades of several stages are as accurate as they promise, "
        f"by {mean(gaps):+.4f} on average, by {min(gaps):+.4f} at worst; they cost {min(costs):.2f} to "
        f"{max(costs):.2f} of the MACs they say"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, action="append", required=True, help="again for several directories")
    parser.add_argument("--data", required=True, help="directory or .tar.gz of {train,test}/<class>/<image>, or digits")
    parser.add_argument("--dataset", help="of the checkpoints, if the path does not name it")
    options = parser.parse_args()
    name = options.dataset or name_of(Path(options.data))
    zoo = LocalZoo(options.zoo)
    zoo.sync()
    calibration = find_cascades(zoo, options.data, name, note)
    images = HeldOutImages(options.data)
    rows = zoo.chooser.rows(Budget(dataset=name, min_acc=0.0))
    used = {stage.digest for cascade in calibration.cascades for stage in cascade.stages}
    answers = {}
    for row in (row for row in rows if row.digest in used):
        note(f"{row.name}: {len(images):,} test images")
        probabilities = scores(zoo.files.load(row.digest), images, "probabilities")
        answers[row.digest] = Answers(row.macs, margins(probabilities), probabilities.argmax(1) == images.labels)
    zoo.close()
    tested = [test(cascade, answers) for cascade in calibration.cascades]

    packages = ", ".join(f"{package} {version(package)}" for package in ("onnxruntime", "numpy"))
    print(f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {platform.system()} {platform.release()}")
    print(f"Python {platform.python_version()}, {packages}")
    print(f"{name}: found on {calibration.num_images:,} validation images, tested on {len(images):,}")
    print_comparison(rows, tested)
    shared = [one for one in tested if len(one.cascade.stages) > 1]
    if shared:
        print_promises(shared)


def note(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
