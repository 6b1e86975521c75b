"""What a service can be told, by the command line or by ZOO_* environment variables."""

from __future__ import annotations

import ipaddress
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from zoo.library.publishing.publish import PublishSettings


class Settings(PublishSettings):
    model_config = SettingsConfigDict(env_prefix="ZOO_", extra="forbid")

    zoo: Annotated[tuple[Path, ...], NoDecode, Field(min_length=1, description="The first holds the catalog.")]
    store: Annotated[
        str | None,
        Field(description="Object storage with the checkpoints, as s3://bucket/folder; --zoo is then for the catalog."),
    ] = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    default_dataset: Annotated[
        str | None, Field(description="Data set where a request names none; else cifar10, else the newest.")
    ] = None
    token: Annotated[
        str | None, Field(min_length=16, description="Bearer token that every request but a probe must carry.")
    ] = None
    publish_token: Annotated[
        str | None,
        Field(min_length=16, description="Bearer token that may also publish, change and delete; without it none may."),
    ] = None
    max_body_bytes: Annotated[int, Field(ge=1, description="Largest request body.")] = 32 * 1024 * 1024
    max_held_body_bytes: Annotated[int, Field(ge=1, description="Memory for request bodies, all together.")] = (
        128 * 1024 * 1024
    )
    max_work_bytes: Annotated[
        int, Field(ge=1, description="Memory for decoding, parsing and running networks, all together.")
    ] = 512 * 1024 * 1024
    max_connections: Annotated[int, Field(ge=1, description="Connections at a time.")] = 2048
    max_header_bytes: Annotated[int, Field(ge=1024, description="Largest head of a request.")] = 64 * 1024
    header_seconds: Annotated[float, Field(gt=0, description="How long a request's head may take.")] = 10.0
    min_body_rate: Annotated[int, Field(ge=0, description="Bytes a second that a body must come at.")] = 1024
    body_grace_seconds: Annotated[float, Field(gt=0, description="How long a body may come more slowly.")] = 10.0
    keep_alive_seconds: Annotated[int, Field(ge=0, description="How long an idle connection is kept.")] = 75
    max_images: Annotated[int, Field(ge=1, description="Most images in one prediction.")] = 128
    max_queue: Annotated[int, Field(ge=0, description="Predictions of one checkpoint that may wait.")] = 256
    max_loaded_bytes: Annotated[int, Field(ge=1, description="Memory for networks kept loaded.")] = 256 * 1024 * 1024
    max_file_cache_bytes: Annotated[
        int, Field(ge=0, description="Memory for files asked for of late; those over an eighth of it are streamed.")
    ] = 64 * 1024 * 1024
    allowed_hosts: Annotated[
        tuple[str, ...], NoDecode, Field(description="Names that requests may have in Host where no token is needed.")
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...], NoDecode, Field(description="Sites whose pages may use this service; * for all.")
    ] = ()
    root_path: Annotated[
        str, Field(pattern=r"^(/[A-Za-z0-9._~-]+)*$", description="Path below which a proxy serves this: /zoo.")
    ] = ""
    traces: Annotated[bool, Field(description="Send OpenTelemetry spans; needs the extra otel.")] = False
    rescan_seconds: Annotated[
        float, Field(ge=0, description="How often the directories are looked through for new files; 0: never.")
    ] = 1.0

    @field_validator("zoo", mode="before")
    @classmethod
    def _split_zoo(cls, value: object) -> object:
        """ZOO_ZOO=a:b, as in PATH."""
        return tuple(value.split(os.pathsep)) if isinstance(value, str) else value

    @field_validator("allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        return tuple(filter(None, re.split(r"[\s,]+", value.lower()))) if isinstance(value, str) else value

    @field_validator("allowed_hosts")
    @classmethod
    def _bare_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"\*|[a-z0-9._-]+|[0-9a-f:.]*:[0-9a-f:.]*:[0-9a-f:.]*", name):
                raise ValueError(f"names or addresses without port, or * for any, were expected, not {name!r}")
        return names

    @field_validator("cors_origins")
    @classmethod
    def _bare_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not re.fullmatch(r"\*|https?://[^/?#@\s]+", origin):
                raise ValueError(f"origins like https://example.org (no path), or * for any, were expected: {origin!r}")
        return origins

    @model_validator(mode="after")
    def _tokens_differ(self) -> Self:
        if self.token is not None and self.token == self.publish_token:
            raise ValueError("ZOO_TOKEN and ZOO_PUBLISH_TOKEN are the same: who may read could publish")
        return self

    @model_validator(mode="after")
    def _token_where_others_reach(self) -> Self:
        if self.token is None and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached from other machines: set ZOO_TOKEN (16 characters or more), or "
                "use 127.0.0.1"
            )
        return self


@lru_cache(maxsize=256)  # asked about each request's Host
def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
