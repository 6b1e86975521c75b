"""Links relative to the address that was asked for, so that they lead right below any prefix of a proxy's."""

from __future__ import annotations

from typing import TypeVar

from starlette.types import Scope

from zoo.catalog.views import CheckpointView, Links

View = TypeVar("View", bound=CheckpointView)


def to_root(scope: Scope) -> str:
    """From `/models/pareto` that is `../`."""
    return "../" * (scope["path"].count("/") - 1)


def placed(view: View, scope: Scope) -> View:
    """Its links, which are relative to the service's root, as seen from the address of this request."""
    links = {name: to_root(scope) + link for name, link in view.links.model_dump().items()}
    return view.model_copy(update={"links": Links(**links)})
