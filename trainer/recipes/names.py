"""Runs by name: those of `trainer.recipes.runs`, those that a sweep made of them, such as paper-tau1.5, elastic ones,
such as elastic-grow, and networks of other widths that do not grow, such as resnet20-8-16-32."""

from __future__ import annotations

import re
from dataclasses import replace

from pydantic import TypeAdapter, ValidationError

from trainer.config import RunConfig
from trainer.recipes.overrides import Overrides
from trainer.recipes.runs import RUNS
from zoo.checkpoint.descriptor import Slug
from zoo.errors import RunError

_SLUG = TypeAdapter(Slug)
_ELASTIC = re.compile(r"elastic-(?:freeze-)?(?P<run>.+)")
_OF_WIDTHS = re.compile(r"(?P<run>[a-z]+\d*)(?P<widths>(-\d{1,4})+)")
_SWEPT = re.compile(r"(?P<run>.+?)(?:-tau(?P<tau>\d[\d.e-]*?))?(?:-threshold(?P<threshold>\d[\d.e-]*))?")


def swept(run: str, tau: float | None, threshold: float | None) -> str:
    """The run's name, and the thresholds that a sweep gives it: "paper-tau1.5". Raises RunError for one too long."""
    for option, value in (("tau", tau), ("threshold", threshold)):
        if value is not None:
            # As many digits as tell it from any other number.
            run += f"-{option}{value!r}".removesuffix(".0")
    try:
        return _SLUG.validate_python(run)
    except ValidationError:
        raise RunError(f"a run cannot be named {run!r}: names have up to 64 of a-z, 0-9, '.', '_' and '-'") from None


def elastic_name(run: str, *, freeze: bool = False) -> str:
    """Of the elastic run that trains as the named one does: "elastic-grow"."""
    before = _ELASTIC.fullmatch(run)
    return f"{'elastic-freeze' if freeze else 'elastic'}-{before['run'] if before else run}"


def run_named(name: str, overrides: Overrides) -> RunConfig:
    """The run with these wishes; a name of `swept` is one, too. Raises RunError where none has that name, and for a
    wish that contradicts the name or that the run does not know."""
    if name in RUNS:
        return overrides.of(RUNS[name]())
    if elastic := _ELASTIC.fullmatch(name):
        return replace(run_named(elastic["run"], overrides), name=name)
    if (other := _OF_WIDTHS.fullmatch(name)) and other["run"] in RUNS:
        return run_named(other["run"], replace(overrides, widths=tuple(map(int, other["widths"][1:].split("-")))))
    found = _SWEPT.fullmatch(name)
    base, wishes = (found["run"], _numbers(found)) if found else (name, None)
    if base not in RUNS or not wishes:
        raise RunError(f"no run is named {name!r}; there are: {', '.join(RUNS)}, and of sweeps RUN-tau1.5 and the like")
    for key, value in wishes.items():
        asked = getattr(overrides, key)
        if asked not in (None, value):
            raise RunError(f"run {name} has a {key} of {value:g}, so no --{key} {asked:g}")
    tau, threshold = (wishes.get(key, getattr(overrides, key)) for key in ("tau", "threshold"))
    return replace(replace(overrides, tau=tau, threshold=threshold).of(RUNS[base]()), name=name)


def _numbers(found: re.Match[str]) -> dict[str, float] | None:
    """None where one is no number, such as 1.5.2."""
    try:
        return {key: float(found[key]) for key in ("tau", "threshold") if found[key] is not None}
    except ValueError:
        return None
