"""Reading the zoo: lists, the Pareto front, one checkpoint."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.http.links import placed
from app.http.openapi import declared, reading
from app.http.problems import NoModelProblem, ProblemError
from app.http.response_cache import CachedRoute
from app.http.schemas import ListQuery, NoQuery, Pareto, ParetoQuery, ReferenceQuery
from app.service import ServiceDep
from zoo.catalog.views import CheckpointDetail, Datasets, Selection

router = APIRouter(tags=["models"], route_class=CachedRoute)


@reading(router, "/models", responses=declared(404, model=NoModelProblem))
def list_models(
    query: Annotated[ListQuery, Query()], request: Request, response: Response, service: ServiceDep
) -> Selection:
    """Checkpoints within the budget, the preferred ones first; `selected` is the first of all, `because` says why.

    With `min_acc` the one with the fewest parameters is preferred, else the most accurate one; `prefer` says otherwise.
    """
    try:
        selection, next_cursor = service.zoo.chooser.select(query, query.limit, query.cursor)
    except ValueError as error:
        raise ProblemError(422, "invalid-parameter", str(error)) from error
    if next_cursor:
        following = request.url.include_query_params(cursor=next_cursor)
        response.headers["Link"] = f'<models?{following.query}>; rel="next"'
    return selection.model_copy(
        update={
            "selected": placed(selection.selected, request.scope) if selection.selected else None,
            "items": tuple(placed(view, request.scope) for view in selection.items),
        }
    )


@reading(router, "/datasets")
def list_datasets(query: Annotated[NoQuery, Query()], service: ServiceDep) -> Datasets:  # noqa: ARG001
    """The data sets of which there is a checkpoint to choose, by name."""
    items = service.zoo.catalog.dataset_views()
    return Datasets(items=tuple(items), count=len(items))


@reading(router, "/models/pareto", responses=declared(404, model=NoModelProblem))
def pareto(query: Annotated[ParetoQuery, Query()], request: Request, service: ServiceDep) -> Pareto:
    """The checkpoints that no other beats in both complexity and accuracy, ascending."""
    rows = service.zoo.catalog.pareto(query, query.x)
    if not rows and query.is_filtered():
        raise service.zoo.chooser.nothing_meets(query)
    return Pareto(
        dataset=service.zoo.catalog.dataset_of(query),
        x=query.x,
        items=tuple(placed(view, request.scope) for view in service.zoo.chooser.views(rows)),
        count=len(rows),
    )


@reading(router, "/models/{reference}", responses=declared(404, 410))
def show_model(
    reference: str, query: Annotated[ReferenceQuery, Query()], request: Request, response: Response, service: ServiceDep
) -> CheckpointDetail:
    """One checkpoint with its whole descriptor, by digest, digest prefix, name or alias. ETag: of its annotations."""
    detail = service.zoo.show(reference, dataset=query.dataset)
    response.headers["ETag"] = service.zoo.annotator.tag(detail.id)
    return placed(detail, request.scope)
