"""Both clients against a real server: what they find, how they fail, when they ask again."""

from __future__ import annotations

import asyncio
import inspect
import io
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from zoo.catalog.views import CheckpointView
from zoo.checkpoint.file import load
from zoo.choosing.budget import Bounds, Budget
from zoo.client import AsyncZooClient, ZooClient
from zoo.client.download import sha256_of_onnx
from zoo.client.transport import Send, Server, wait_s
from zoo.errors import ImageError, NoModelMeetsConstraintsError, NotFoundError, RemoteError, ZooError

Ask = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Ask:
    """`ask(url, "smallest", min_acc=0.8)` asks one client or the other; what is iterated comes as a list."""

    def ask_sync(url: str, method: str, *args: Any, token: str | None = None, **options: Any) -> Any:
        with ZooClient(url, token, cache=tmp_path / "cache") as zoo:
            answer = getattr(zoo, method)(*args, **options)
            return list(answer) if isinstance(answer, Iterator) else answer

    def ask_async(url: str, method: str, *args: Any, token: str | None = None, **options: Any) -> Any:
        async def main() -> Any:
            async with AsyncZooClient(url, token, cache=tmp_path / "cache") as zoo:
                answer = getattr(zoo, method)(*args, **options)
                return [item async for item in answer] if isinstance(answer, AsyncIterator) else await answer

        return asyncio.run(main())

    return ask_sync if request.param == "sync" else ask_async


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)


# --- choosing ------------------------------------------------------------------------------------------------


def test_the_smallest_that_is_good_enough(ask: Ask, server: Any, small_zoo: Path) -> None:
    url = server.url
    assert [view.accuracy for view in ask(url, "models")] == [0.85, 0.82, 0.8, 0.7]
    models = ask(url, "models", prefer="params")
    assert [view.accuracy for view in models] == [0.7, 0.8, 0.85, 0.82]
    assert [view.params for view in models] == sorted(view.params for view in models)
    assert ask(url, "smallest", min_acc=0.8) == ask(url, "choose", min_acc=0.8) == models[1]
    assert ask(url, "smallest", max_params=models[2].params) == models[0]
    assert ask(url, "best", max_params=models[1].params) == ask(url, "choose", max_params=models[1].params) == models[1]
    assert ask(url, "best", min_acc=0.7) == ask(url, "choose") == models[2]
    assert ask(url, "choose", max_bytes=models[1].onnx_bytes, format="onnx") == models[1]
    onnx = ask(url, "download", file_format="onnx", max_bytes=models[1].onnx_bytes)
    assert onnx.stat().st_size == models[1].onnx_bytes
    with pytest.raises(ValueError, match="prefer=macs was given where params decides"):
        ask(url, "smallest", prefer="macs")
    with pytest.raises(ValidationError, match="prefer"):
        ask(url, "pareto", prefer="macs")
    assert ask(url, "models", min_acc=0.82, max_params=models[2].params) == [models[2]]
    assert ask(url, "pareto") == models[:3]
    assert ask(url, "pareto", "bytes", min_acc=0.75) == models[1:3]
    detail = ask(url, "show", models[1].id[:8])
    assert detail == ask(url, "show", models[1].name)
    assert detail.descriptor == load(next(small_zoo.rglob(f"{models[1].id}.safetensors"))).descriptor


def test_data_sets_are_listed(ask: Ask, serve: Ask, put: Callable[..., str], tmp_path: Path) -> None:
    put(tmp_path / "zoo", accuracy=0.7)
    put(tmp_path / "zoo", seed=1, accuracy=1 / 3)
    put(tmp_path / "zoo", seed=2, dataset="digits", accuracy=0.4)
    url = serve(tmp_path / "zoo", default_dataset="shapes").url
    found = [
        (view.name, view.checkpoints, view.classes, view.best_accuracy, view.default) for view in ask(url, "datasets")
    ]
    assert found == [("digits", 1, 3, 0.4, False), ("shapes", 2, 3, 0.7, True)]


def test_a_name_beside_a_data_set(ask: Ask, serve: Ask, put: Callable[..., str], tmp_path: Path) -> None:
    shape, digit = put(tmp_path / "zoo"), put(tmp_path / "zoo", seed=1, dataset="digits")
    url = serve(tmp_path / "zoo", default_dataset="shapes").url
    image = png(np.arange(64, dtype=np.uint8).reshape(8, 8))
    view = ask(url, "show", shape)
    assert ask(url, "show", "best").id == shape
    assert ask(url, "show", "best", dataset="digits").id == digit
    assert ask(url, "download", "best", dataset="digits").stem == digit
    assert ask(url, "predict", image, "best", dataset="digits") == ask(url, "predict", image, digit)
    assert ask(url, "predict", image, "best") == ask(url, "predict", image, shape, dataset="shapes")
    for checkpoint in (shape, view):
        for method, *first in (("download",), ("load",), ("predict", image)):
            with pytest.raises(NotFoundError, match="is of data set shapes, not of digits"):
                ask(url, method, *first, checkpoint, dataset="digits")


def test_where_nothing_is_good_enough_lists_are_empty_and_choices_fail(ask: Ask, server: Any) -> None:
    url = server.url
    assert ask(url, "models", min_acc=0.99) == []
    assert ask(url, "pareto", min_acc=0.99) == []
    for method in ("smallest", "download"):
        with pytest.raises(NoModelMeetsConstraintsError, match=r"meets min_acc=0\.99; the nearest has") as caught:
            ask(url, method, min_acc=0.99)
        assert caught.value.best_available is not None
        assert caught.value.best_available["accuracy"] == 0.85


@pytest.fixture(scope="module")
def many(put: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One more than a page holds."""
    root = tmp_path_factory.mktemp("many")
    for seed in range(201):
        put(root, seed=seed)
    return root


def test_all_pages_are_read(ask: Ask, serve: Ask, many: Path) -> None:
    server = serve(many)
    assert len({view.id for view in ask(server.url, "models", min_acc=0.1)}) == 201
    assert len(server.requests) == 2


def test_an_empty_zoo(ask: Ask, serve: Ask, tmp_path: Path) -> None:
    url = serve(tmp_path).url
    assert ask(url, "models") == []
    with pytest.raises(NoModelMeetsConstraintsError, match="holds no checkpoint"):
        ask(url, "smallest")


def test_bounds_are_those_of_a_budget() -> None:
    hints = get_type_hints(Budget)
    assert get_type_hints(Bounds) == {name: hints[name] for name in Budget.model_fields}


def test_both_clients_have_the_same_methods() -> None:
    def parameters(client: type) -> dict[str, object]:
        methods = {name: getattr(client, name) for name in dir(client) if not name.startswith("_")}
        methods.pop("close", methods.pop("aclose", None))
        return {name: inspect.signature(method).parameters for name, method in methods.items()} | {
            "__init__": inspect.signature(client).parameters
        }

    assert parameters(ZooClient) == parameters(AsyncZooClient)


def test_it_needs_neither_numpy_nor_a_runtime_nor_sql() -> None:
    program = (
        "import sys, zoo.client\n"
        "heavy = {'numpy', 'PIL', 'torch', 'onnx', 'onnxruntime', 'safetensors', 'sqlmodel', 'sqlalchemy', 'fastapi'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# --- failing -------------------------------------------------------------------------------------------------


def test_mistakes_say_what_was_expected(ask: Ask, server: Any) -> None:
    url = server.url
    with pytest.raises(ValidationError, match=r"accuracy is a fraction: 0\.8, not 80"):
        ask(url, "models", min_acc=80)
    with pytest.raises(ValidationError, match="max_parms"):
        ask(url, "smallest", max_parms=80)
    with pytest.raises(NotFoundError, match="no checkpoint 'nothing': expected a digest"):
        ask(url, "show", "nothing")
    with pytest.raises(NotFoundError):
        ask(url, "show", "../metrics")
    for nothing in ("", ".", ".."):
        with pytest.raises(
            NotFoundError, match=f"no checkpoint '{nothing}': a digest, a name or an alias was expected"
        ):
            ask(url, "download", nothing)
    with pytest.raises(ZooError, match="file_format is one of safetensors, onnx, not 'pt'"):
        ask(url, "download", file_format="pt")
    with pytest.raises(ZooError, match="as_ is one of onnx, torch, not 'jax'"):
        ask(url, "load", as_="jax")
    for method in ("download", "load"):
        with pytest.raises(
            ZooError, match=r"best names one checkpoint: give it or a budget \(min_acc=0\.5\), not both"
        ):
            ask(url, method, "best", min_acc=0.5)


def test_a_token_is_sent(ask: Ask, serve: Ask, small_zoo: Path) -> None:
    url = serve(small_zoo, token="sixteen letters!").url
    assert ask(url, "smallest", token="sixteen letters!").accuracy == 0.7
    with pytest.raises(RemoteError, match="refused: ") as caught:
        ask(url, "smallest", token="sixteen letterz!")
    assert caught.value.status == 401


@pytest.fixture
def redirecting() -> Iterator[Callable[[str], str]]:
    """`redirecting(url)` is the address of a server that sends everybody there, by 302 as many proxies do."""
    with ExitStack() as stack:

        def start(url: str) -> str:
            class Redirect(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    self.rfile.read(int(self.headers.get("Content-Length", 0)))
                    self.send_response(302)
                    self.send_header("Location", url + self.path)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

                do_POST = do_GET  # noqa: N815

                def log_message(self, *_: object) -> None:
                    pass

            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Redirect))
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield start


def test_a_redirect_that_loses_the_question_is_told_of(
    ask: Ask, serve: Ask, server: Any, redirecting: Callable[[str], str], small_zoo: Path, pixels: np.ndarray
) -> None:
    assert ask(redirecting(server.url), "smallest").accuracy == 0.7
    with pytest.raises(RemoteError, match=f"redirects to {server.url}: give that address instead"):
        ask(redirecting(server.url), "predict", png(pixels[0]))
    guarded = serve(small_zoo, token="sixteen letters!").url
    with pytest.raises(RemoteError, match=f"redirects to {guarded}: give that address instead"):
        ask(redirecting(guarded), "smallest", token="sixteen letters!")


def test_a_proxy_may_call_the_tag_of_a_file_weak(server: Any) -> None:
    with httpx.Client(base_url=server.url) as client:
        exchange = sha256_of_onnx(Server(client.build_request, server.url, 0), "/models/best/file")
        sent = next(exchange)
        assert isinstance(sent, Send)
        assert sent.request.headers["accept-encoding"] == "identity"
        with pytest.raises(StopIteration) as ended:
            exchange.send(httpx.Response(200, headers={"ETag": f'W/"{"1" * 64}"'}, request=sent.request))
    assert ended.value.value == "1" * 64


def test_more_than_the_server_takes(ask: Ask, server: Any) -> None:
    with pytest.raises(RemoteError, match="the body of this request may have at most 33554432 bytes") as caught:
        ask(server.url, "predict", b"0" * 40_000_000)
    assert caught.value.status == 413


def test_nobody_there(ask: Ask) -> None:
    with pytest.raises(RemoteError, match=r"http://127\.0\.0\.1:1 cannot be reached: ") as caught:
        ask("http://127.0.0.1:1", "smallest")
    assert caught.value.status is None
    with pytest.raises(RemoteError, match="localhost:8000 cannot be reached: it is no http:// or https:// URL"):
        ask("localhost:8000", "smallest")


def test_another_server_answers(ask: Ask, server: Any) -> None:
    with pytest.raises(RemoteError, match="answered with something else than was expected"):
        ask(f"{server.url}/openapi.json?", "smallest")


@pytest.mark.parametrize(("key", "value"), [("name", "../../.bashrc"), ("name", "/etc/cron.d/x"), ("id", "../x")])
def test_files_are_not_named_as_a_server_likes(server: Any, key: str, value: str) -> None:
    with httpx.Client() as client:
        response = client.get(f"{server.url}/models/smallest")
        answer = httpx.Response(200, json={**response.json(), key: value}, request=response.request)
        with pytest.raises(RemoteError, match=f"something else than was expected .{key}: String should match pattern"):
            Server(client.build_request, server.url, 0).parsed(CheckpointView, answer)


def test_busy_servers_are_asked_again(ask: Ask, server: Any, fault: Ask) -> None:
    server.faults.extend([fault(status=503), fault(status=429), fault(status=503, retry_after="soon")])
    assert ask(server.url, "smallest").accuracy == 0.7
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("fault_options", "num_requests"),
    [({"status": 503}, 4), ({"status": 503, "retry_after": "31"}, 1), ({"status": 500}, 1)],
)
def test_patience_ends(ask: Ask, server: Any, fault: Ask, fault_options: dict[str, Any], num_requests: int) -> None:
    server.faults.extend([fault(**fault_options)] * 10)
    with pytest.raises(RemoteError, match=f"refused: {fault_options['status']}") as caught:
        ask(server.url, "smallest")
    assert caught.value.status == fault_options["status"]
    assert len(server.requests) == num_requests


def test_waits_double_unless_the_server_says() -> None:
    assert [wait_s(httpx.ConnectError("refused"), failures) for failures in (1, 2, 3)] == [
        0.1,
        0.2,
        0.4,
    ]
    assert wait_s(httpx.ReadTimeout("slow"), 1) is None
    assert wait_s(httpx.Response(429, headers={"retry-after": "7"}), 3) == 7
    assert wait_s(httpx.Response(503, headers={"retry-after": "Sat, 21 Nov 2026 07:28:00 GMT"}), 1) == 0.1
    assert wait_s(httpx.Response(400, headers={"retry-after": "1"}), 1) is None


# --- predicting ----------------------------------------------------------------------------------------------


def test_an_image_in_every_form_gets_the_same_answer(ask: Ask, server: Any, tmp_path: Path, pixels: np.ndarray) -> None:
    url = server.url
    path = tmp_path / "image.png"
    path.write_bytes(png(pixels[0]))
    answer = ask(url, "predict", path, min_acc=0.8)
    assert [item.index for item in answer] == sorted(
        range(3), key=lambda i: -answer[[p.index for p in answer].index(i)].score
    )
    assert sum(item.score for item in answer) == pytest.approx(1)
    forms = [str(path), path.read_bytes(), Image.open(path), pixels[0], pixels[0][..., None]]
    for form in forms:
        assert ask(url, "predict", form, min_acc=0.8) == answer
    several = ask(url, "predict", forms, min_acc=0.8)
    assert [[item.label for item in row] for row in several] == [[item.label for item in answer]] * len(forms)
    assert ask(url, "predict", path, ask(url, "smallest", min_acc=0.8), top_k=1)[0].label == answer[0].label
    assert ask(url, "predict", []) == []


def test_more_images_than_a_server_takes_at_once(ask: Ask, server: Any, pixels: np.ndarray) -> None:
    answers = ask(server.url, "predict", list(pixels) * 30, "best", top_k=1)
    assert len(server.requests) == 3
    assert [row[0].label for row in answers] == [row[0].label for row in answers[:5]] * 30
    with pytest.raises(ImageError, match="images 65 to 70 of 70: image 6 of 6: 2 bytes that are no PNG"):
        ask(server.url, "predict", [*pixels[:1]] * 69 + [b"no"], "best")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_pillow_images_of_every_mode_are_sent(server: Any, mode: str, pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels[0])
    image = image.convert("I").convert("I;16") if mode == "I;16" else image.convert("RGB").convert(mode)
    with ZooClient(server.url) as zoo:
        assert len(zoo.predict(image, top_k=1)) == 1


def test_a_photograph_is_sent_upright(server: Any, tmp_path: Path, pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[0]).save(tmp_path / "photo.png", exif=exif)
    with ZooClient(server.url) as zoo, Image.open(tmp_path / "photo.png") as image:
        answer = zoo.predict(image, "best")
        assert answer == zoo.predict(tmp_path / "photo.png", "best")
        assert answer != zoo.predict(pixels[0], "best")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"no image", "8 bytes that are no PNG, JPEG or WebP image"),
        (np.zeros((8, 8)), r"an image array is uint8 \(height, width\) or .*, not float64 \(8, 8\)"),
        (np.zeros((2, 8, 8, 1), np.uint8), "several images are a list of them"),
        (Image.new("F", (8, 8)), "a Pillow image of mode F: "),
        (7, "a path, bytes, a Pillow image or an array was expected, not int"),
    ],
)
def test_what_is_no_image(ask: Ask, server: Any, image: Any, message: str) -> None:
    url = server.url
    with pytest.raises(ImageError, match=message):
        ask(url, "predict", image)
    with pytest.raises(ImageError, match=message):
        ask(url, "load").predict(image)


# --- loading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_", ["onnx", "torch"])
def test_loaded_networks_answer_as_the_server_does(ask: Ask, server: Any, pixels: np.ndarray, as_: str) -> None:
    url = server.url
    larger = [np.kron(image, np.ones((3, 3), np.uint8)) for image in pixels]
    images = [png(pixels[0]), Image.fromarray(pixels[1]), pixels[2], *larger]
    model = ask(url, "load", "best", as_=as_)
    for mine, theirs in zip(model.predict(images), ask(url, "predict", images, "best"), strict=True):
        assert [item.label for item in mine] == [item.label for item in theirs]
        assert [item.score for item in mine] == pytest.approx([item.score for item in theirs], abs=1e-5)
    assert model.predict(pixels[2], top_k=1)[0].label == model.predict([pixels[2]])[0][0].label
    logits = np.asarray(model(images).tolist())
    batch = np.asarray(model(pixels[..., None]).tolist())
    assert logits.shape == (8, 3)
    np.testing.assert_allclose(logits[:3], batch[:3], atol=1e-5)
    with pytest.raises(ImageError, match=r"takes batches of uint8 \(batch, 8, 8, 1\), not uint8 \(5, 8, 8, 3\)"):
        model(np.zeros((5, 8, 8, 3), np.uint8))
    with pytest.raises(ImageError, match="image 2 of 2: 3 bytes that are no PNG"):
        model([pixels[0], b"not"])


def test_a_loaded_module_is_torch_as_usual(server: Any, tmp_path: Path, pixels: np.ndarray) -> None:
    with ZooClient(server.url, cache=tmp_path / "cache") as zoo:
        model = zoo.load(min_acc=0.8, as_="torch")
        params = zoo.smallest(min_acc=0.8).params
    assert not model.training
    assert sum(parameter.numel() for parameter in model.parameters()) == params
    batch = torch.from_numpy(pixels)[:, None]
    torch.testing.assert_close(model(batch), model(list(pixels)))
    model(batch).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(ImageError, match=r"takes tensors of uint8 \(batch, 1, 8, 8\), not torch.float32"):
        model(batch.float())
