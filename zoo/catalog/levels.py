"""Levels of elastic files, for who fetches a file's beginning: what is written then is more than the level alone."""

from __future__ import annotations

from collections.abc import Iterable

from zoo.catalog.views import CheckpointView
from zoo.choosing.budget import Budget
from zoo.errors import NoModelMeetsConstraintsError


def first_level(views: Iterable[CheckpointView], budget: Budget) -> CheckpointView | None:
    """The first that is a level, up to which its file has no more bytes than the budget allows."""
    return next((view for view in views if _is_within(view, budget)), None)


def require_beginning(view: CheckpointView, budget: Budget) -> None:
    """Raises NoModelMeetsConstraintsError where it is a level, but the file has more bytes up to it."""
    if view.elastic is not None and not _is_within(view, budget):
        raise NoModelMeetsConstraintsError(
            f"no elastic file has a level within its first {budget.max_bytes:,} bytes and these bounds: "
            f"{view.name} takes {view.elastic.prefix_bytes:,}, or {view.bytes:,} as a file of its own",
            view.model_dump(mode="json"),
        )


def _is_within(view: CheckpointView, budget: Budget) -> bool:
    return view.elastic is not None and (budget.max_bytes is None or view.elastic.prefix_bytes <= budget.max_bytes)
