"""What huggingface_hub asks of a server: `hf_hub_download("zoo/cifar10", "model.safetensors", endpoint=…)` works.

A data set is a repository of the one namespace `zoo`, and a checkpoint a commit of it. A commit's name is the first
40 digits of the digest: clients take that for Git's, and so never ask again for what they have of it. A revision is

    main                            the most accurate checkpoint
    a digest, its prefix, a name, an alias
    min_acc=0.8&max_params=20000    the checkpoint that a budget chooses; bytes are those of the file asked for
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from app.http.downloads import Download
from app.http.openapi import reading
from app.http.problems import ProblemError, explain, repeated
from app.routes.files import RESPONSES, because
from app.service import Service, ServiceDep
from zoo.catalog.rows import CheckpointRow
from zoo.choosing.budget import ALL_DATASETS, Budget, FileFormat, Filters
from zoo.errors import NoModelMeetsConstraintsError, NotFoundError

router = APIRouter(tags=["files"])

NAMESPACE = "zoo"
FORMATS = {"model.safetensors": "safetensors", "model.onnx": "onnx", "config.json": "json", "README.md": "card"}
_MEDIA_TYPES = {"config.json": "application/json", "README.md": "text/markdown; charset=utf-8"}
_COMMIT_DIGITS = 40
_FILES = {**RESPONSES[200]["content"], "application/json": {"schema": {"type": "object"}}, "text/markdown": {}}
_RESPONSES = {**RESPONSES, 200: {**RESPONSES[200], "content": _FILES}}
# What huggingface_hub raises, by the header X-Error-Code; its message is X-Error-Message.
_NO_REPOSITORY, _NO_REVISION, _NO_FILE = "RepoNotFound", "RevisionNotFound", "EntryNotFound"


@reading(
    router, "/{namespace}/{name}/resolve/{revision}/{filename:path}", responses=_RESPONSES, response_class=Response
)
def resolve(namespace: str, name: str, revision: str, filename: str, request: Request, service: ServiceDep) -> Response:
    """A file as huggingface_hub asks for it: of `zoo/<data set>`, at a checkpoint or a budget."""
    file_format = FORMATS.get(filename, "safetensors")
    row, why = _checkpoint(service, namespace, name, revision, "onnx" if file_format == "onnx" else "safetensors")
    commit = row.digest[:_COMMIT_DIGITS]
    if filename not in FORMATS:
        raise _not_found(_NO_FILE, f"no file {filename!r}: there are {', '.join(FORMATS)}", {"X-Repo-Commit": commit})
    file = service.downloads.file(row.digest, file_format)
    headers = {
        "Cache-Control": service.cache_control(immutable=revision == row.digest and filename == "model.safetensors"),
        "Content-Disposition": f'inline; filename="{filename}"',
        "X-Checkpoint-Id": row.digest,
        "X-Repo-Commit": commit,
        "X-Linked-Etag": file.etag,
        "X-Linked-Size": str(file.size_bytes),
        "Content-Type": _MEDIA_TYPES.get(filename, "application/octet-stream"),
        **why,
    }
    return service.downloads.send(request, Download(row.digest, file_format, headers))


@reading(router, "/api/models/{namespace}/{name}", include_in_schema=False)
@reading(router, "/api/models/{namespace}/{name}/revision/{revision}", include_in_schema=False)
def model_info(
    namespace: str, name: str, service: ServiceDep, revision: str = "main", blobs: bool = False
) -> dict[str, Any]:
    """For `HfApi.model_info`."""
    row, _ = _checkpoint(service, namespace, name, revision)
    siblings = [
        {"rfilename": entry["path"], **({"size": entry["size"]} if blobs else {})} for entry in _files(service, row)
    ]
    created_at = row.created.strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # the one form that the library reads
    return {
        "id": f"{namespace}/{name}",
        "author": namespace,
        "sha": row.digest[:_COMMIT_DIGITS],
        "createdAt": created_at,
        "lastModified": created_at,
        "private": service.settings.token is not None,
        "pipeline_tag": "image-classification",
        "library_name": "checkpoint-zoo",
        "tags": ["image-classification", f"dataset:{row.dataset}", row.family],
        "safetensors": {"parameters": {"F32": row.params}, "total": row.params},
        "siblings": siblings,
    }


@reading(router, "/api/models/{namespace}/{name}/tree/{revision}", include_in_schema=False)
def tree(namespace: str, name: str, revision: str, service: ServiceDep) -> list[dict[str, Any]]:
    """For `snapshot_download`."""
    row, _ = _checkpoint(service, namespace, name, revision)
    return _files(service, row)


@reading(router, "/{name}/resolve/{revision}/{filename:path}", include_in_schema=False)
@reading(router, "/api/models/{name}", include_in_schema=False)
@reading(router, "/api/models/{name}/revision/{revision}", include_in_schema=False)
@reading(router, "/api/models/{name}/tree/{revision}", include_in_schema=False)
def without_namespace(name: str) -> None:
    """As older repositories of the public hub are named."""
    raise _not_found(_NO_REPOSITORY, f"no repository {name}: they are named {NAMESPACE}/<data set>")


def _files(service: Service, row: CheckpointRow) -> list[dict[str, Any]]:
    files = {name: service.downloads.file(row.digest, file_format) for name, file_format in FORMATS.items()}
    return [
        {"type": "file", "path": name, "size": file.size_bytes, "oid": file.sha256[:_COMMIT_DIGITS]}
        for name, file in files.items()
    ]


def _checkpoint(
    service: Service, namespace: str, name: str, revision: str, file_format: FileFormat = "safetensors"
) -> tuple[CheckpointRow, dict[str, str]]:
    """And the header that says why, where it was chosen."""
    zoo = service.zoo
    if namespace != NAMESPACE or name == ALL_DATASETS or not zoo.catalog.count(Filters(dataset=name)):
        raise _not_found(_NO_REPOSITORY, f"no repository {namespace}/{name}: they are named {NAMESPACE}/<data set>")
    try:
        if "=" not in revision and revision != "main":
            return zoo.chooser.find(revision, name), {}
        budget = _budget(name, "prefer=accuracy" if revision == "main" else revision, file_format)
        return zoo.chooser.choose(budget), because(budget)
    except NoModelMeetsConstraintsError as error:
        raise _not_found(_NO_REVISION, str(error)) from error
    except NotFoundError as error:
        raise _not_found(_NO_REVISION, f"{error}; main and budgets like min_acc=0.8 are revisions too") from error


def _budget(dataset: str, text: str, file_format: FileFormat) -> Budget:
    given = parse_qsl(text, keep_blank_values=True)
    # The repository and the file's name say these two.
    known = {"dataset": dataset, "format": file_format}
    errors = [{"type": "extra_forbidden", "loc": (name,), "msg": ""} for name, _ in given if name in known]
    try:
        if errors := [*errors, *repeated(given)]:
            raise _no_budget(text, errors)
        return Budget.model_validate(dict(given) | known)
    except ValidationError as error:
        raise _no_budget(text, error.errors()) from error


def _no_budget(text: str, errors: Iterable[Any]) -> ProblemError:
    """With any other code than this one, huggingface_hub takes an error for one of the connection."""
    detail = f"revision {text!r}: {explain(errors)}"
    return ProblemError(422, "invalid-parameter", detail, _told(_NO_REVISION, detail))


def _not_found(code: str, detail: str, headers: dict[str, str] | None = None) -> ProblemError:
    return ProblemError(404, "not-found", detail, {**_told(code, detail), **(headers or {})})


def _told(code: str, detail: str) -> dict[str, str]:
    """The library asks with HEAD first: what it shows must be in headers."""
    return {"X-Error-Code": code, "X-Error-Message": re.sub("[^ -~]", "?", detail)}
