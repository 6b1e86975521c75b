"""The short way through a form, against the parser."""

from __future__ import annotations

import asyncio
import io

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.predict.bodies import only_file

CONTENT_TYPE = b"multipart/form-data; boundary=XX"


def form(content: bytes, *, head: bytes = b'name="file"; filename="a.png"', end: bytes = b"\r\n--XX--\r\n") -> bytes:
    return b"--XX\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + content + end


def parsed(content_type: bytes, body: bytes) -> list[tuple[str, bytes | str]]:
    """Raises MultiPartException."""

    async def parse() -> list[tuple[str, bytes | str]]:
        async def stream():  # type: ignore[no-untyped-def]
            yield body

        found = await MultiPartParser(Headers(raw=[(b"content-type", content_type)]), stream()).parse()
        try:
            return [
                (name, await item.read() if isinstance(item, UploadFile) else item)
                for name, item in found.multi_items()
            ]
        finally:
            await found.close()

    return asyncio.run(parse())


@pytest.mark.parametrize("content", [b"", b"x", b"\r\n", b"-XX", b"\r\n--X", b"a\r\n\r\nb", bytes(range(256)) * 20])
def test_what_clients_send_takes_the_short_way(content: bytes) -> None:
    request = httpx.Request("POST", "http://x", files={"file": ("a b.png", io.BytesIO(content), "image/png")})
    assert only_file(request.headers["content-type"].encode(), request.read()) == content
    assert only_file(CONTENT_TYPE, form(content)) == content
    assert only_file(CONTENT_TYPE, form(content, end=b"\r\n--XX--")) == content


@pytest.mark.parametrize(
    "body",
    [
        form(b"x", head=b'name="picture"; filename="a.png"'),
        form(b"x", head=b'name="file"'),
        form(b"x", head=b'name="file"; filename="a\\".png"'),
        form(b"x", end=b"\r\n--XX\r\n"),
        form(b"x", end=b""),
        form(b"x") + b"epilogue",
        form(b"x", end=b"\r\n") + form(b"y"),
        b"preamble\r\n" + form(b"x"),
        form(b"x")[:-6],
        b"",
    ],
)
def test_every_other_form_is_left_to_the_parser(body: bytes) -> None:
    assert only_file(CONTENT_TYPE, body) is None


PIECES = [
    b"--XX", b"--", b"\r\n", b"\r", b"\n", b"XX", b'Content-Disposition: form-data; name="file"; filename="a"', b'"',
    b"Content-Type: image/png", b"content-disposition: form-data; name=file", b"x", b"\x00", b": ", b";", b"\xff",
]  # fmt: skip


@settings(max_examples=500)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=14), boundary=st.sampled_from([b"XX", b"X", b"-"]))
@example(pieces=[form(b"a\r\n--XXb")], boundary=b"XX")
@example(pieces=[form(b"a\r\n--XX--b")], boundary=b"XX")
def test_the_short_way_finds_what_the_parser_finds(pieces: list[bytes], boundary: bytes) -> None:
    content_type = b"multipart/form-data; boundary=" + boundary
    for body in (b"".join(pieces), form(b"".join(pieces)).replace(b"XX", boundary)):
        content = only_file(content_type, body)
        if content is not None:
            try:
                assert parsed(content_type, body) == [("file", content)]
            except MultiPartException as error:
                raise AssertionError("taken, though the parser refuses it") from error
