"""What can be asked together of each policy: of the service, of a library, and on the command line."""

from __future__ import annotations

from zoo.choosing.adaptive import MAX_DEADLINE_MS
from zoo.choosing.budget import ALL_DATASETS, Budget
from zoo.errors import ZooError

MAX_TOP_K = 1000
# smallest is what single was called before.
POLICIES = ("single", "cascade", "adaptive", "smallest")


def check_top_k(top_k: int) -> None:
    """Raises ZooError."""
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= MAX_TOP_K:
        raise ZooError(f"top_k is how many classes to name for each image, 1 to {MAX_TOP_K}, not {top_k!r}")


def check(policy: str, deadline_ms: float | None, budget: Budget, *, is_named: bool) -> None:
    """Raises ValueError for what cannot be asked together. `is_named`: a checkpoint is named, too."""
    if policy not in POLICIES:
        raise ValueError(f"policy is one of {', '.join(POLICIES[:3])}, not {policy!r}")
    if policy != "adaptive" and deadline_ms is not None:
        raise ValueError(f"deadline_ms is for policy=adaptive, the policy is {policy}: give both or neither")
    if policy == "cascade":
        _check_cascade(budget, is_named=is_named)
    if policy == "adaptive":
        _check_adaptive(deadline_ms, budget, is_named=is_named)


def _check_cascade(budget: Budget, *, is_named: bool) -> None:
    """Cascades were found for one question only: the fewest mean MACs that reach an accuracy."""
    named = (["model"] if is_named else []) + (["prefer"] if budget.prefer else [])
    refused = sorted(budget.bounds() - {"min_acc"}) + named
    if budget.min_acc is None or budget.dataset == ALL_DATASETS or refused:
        came = f"; it does not take {', '.join(refused)}" if refused else ""
        raise ValueError(f"policy=cascade takes min_acc, and the name of a data set if it is not the default one{came}")


def _check_adaptive(deadline_ms: float | None, budget: Budget, *, is_named: bool) -> None:
    if deadline_ms is None:
        raise ValueError("policy=adaptive takes deadline_ms, in how many milliseconds to answer: give it too")
    if not 0 < deadline_ms <= MAX_DEADLINE_MS:
        raise ValueError(f"deadline_ms is over 0 and up to {MAX_DEADLINE_MS:g}, not {deadline_ms:g}")
    if is_named:
        raise ValueError("policy=adaptive chooses, and model names one checkpoint: give one of them")
    if budget.prefer is not None:
        raise ValueError("policy=adaptive prefers accuracy within the deadline: leave prefer out")
    if budget.dataset == ALL_DATASETS:
        raise ValueError("policy=adaptive answers with the classes of one data set: name it, or leave it out")
