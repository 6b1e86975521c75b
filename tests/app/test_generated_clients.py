"""Clients that others generate from /openapi.json: they are generated, type-checked where types are, and used.

Their generators are fetched in the versions of `generated/`; without Node, or without a network, there is no test.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

HERE = Path(__file__).parent / "generated"

_CALL = """
import json, sys
from zoo_api import Client
from zoo_api.api.models import list_models, show_model
from zoo_api.api.predict import predict
from zoo_api.models import NoModelProblem, PredictBody, PredictParameters

client = Client(base_url=sys.argv[1])
selected = list_models.sync(client=client, min_acc=0.01, limit=2).selected
body = PredictBody(inputs=sys.argv[2])
few = PredictBody(inputs=sys.argv[2], parameters=PredictParameters(top_k=2))  # its query says top_k=5, the default
answer = predict.sync(client=client, model=selected.id, body=few)
missing = list_models.sync_detailed(client=client, min_acc=1.0, max_params=1)
unknown = predict.sync(client=client, model="nobody", body=body)
assert isinstance(missing.parsed, NoModelProblem) and isinstance(unknown, NoModelProblem)
assert unknown.type_ == "not-found" and not unknown.best_available
assert show_model.sync(client=client, reference="nobody").status == 404
print(json.dumps({
    "id": selected.id,
    "labels": [item.label for item in answer.predictions[0]],
    "missing": [missing.status_code, missing.parsed.type_, missing.parsed.best_available.name],
}))
"""


@pytest.fixture
def document(client: httpx.Client, tmp_path: Path) -> Path:
    path = tmp_path / "openapi.json"
    path.write_bytes(client.get("/openapi.json").content)
    return path


@pytest.fixture
def expected(client: httpx.Client, digit_files: list[bytes]) -> dict[str, object]:
    selected = client.get("/models?min_acc=0.01").json()["selected"]
    answer = client.post(f"/predict?model={selected['id']}&top_k=2", files={"file": digit_files[0]}).json()
    nearest = client.get("/models?min_acc=1&max_params=1").json()["best_available"]
    labels = [item["label"] for item in answer["predictions"][0]]
    return {
        "id": selected["id"],
        "labels": labels,
        "missing": [404, "no-model-meets-constraints", nearest["name"]],
    }


Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """What a program prints; `needs`: what is missing where it cannot run."""

    def run_(*words: object, needs: str | None = None, **environment: str) -> str:
        done = subprocess.run(
            list(map(str, words)), cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True
        )
        if done.returncode and needs:
            pytest.skip(f"{needs} cannot be had here: {done.stderr.strip()[-300:]}")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run_


def test_python(
    document: Path, client: httpx.Client, expected: dict[str, object], run: Run, digit_files: list[bytes]
) -> None:
    packages, image = document.parent / "packages", base64.b64encode(digit_files[0]).decode()
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", packages)
    run(*pip, "--requirement", HERE / "requirements.txt", needs="openapi-python-client")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it formats what it writes with ruff
    generate = ("generate", "--path", document, "--output-path", "zoo_api", "--meta", "none")
    said = run(sys.executable, "-m", "openapi_python_client", *generate, PYTHONPATH=str(packages), PATH=path)
    # Image types as whole bodies are the only thing that this generator does not know.
    warnings = [line for line in said.splitlines() if line.startswith(("Unsupported", "ERROR", "Failed", "Skipping"))]
    assert all(
        line.startswith(("Unsupported content type image/", "Unsupported content type */*")) for line in warnings
    )
    assert json.loads(run(sys.executable, "-c", _CALL, client.base_url, image)) == expected


def test_typescript(
    document: Path, client: httpx.Client, expected: dict[str, object], run: Run, digit_files: list[bytes]
) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("there is no Node here: install nodejs and npm")
    shutil.copytree(HERE, document.parent, dirs_exist_ok=True)
    run(npm, "ci", "--silent", "--prefer-offline", "--no-audit", "--no-fund", needs="openapi-typescript")
    modules = document.parent / "node_modules"
    run(node, modules / "openapi-typescript" / "bin" / "cli.js", document, "--output", "schema.ts")
    run(node, modules / "typescript" / "bin" / "tsc", "--project", ".")
    image = base64.b64encode(digit_files[0]).decode()
    assert json.loads(run(node, "call.js", client.base_url, image)) == expected
