"""From a model and an engine to what is loaded or asked: weights here, or a name at a server."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.errors import UsageError
from harness.models import model, resolve, resolve_local
from harness.types import ModelSpec

ENGINE = "openai"


def find(name: str, home: Path, engine: str) -> ModelSpec:
    """The model of that name. A server may have models of which nobody else knows."""
    try:
        return model(name, home)
    except UsageError as error:
        if engine != ENGINE or not error.message.startswith("unknown model"):
            raise
        return ModelSpec(name=name, path=name)


def place(spec: ModelSpec, engine: str, settings: Mapping[str, Any]) -> ModelSpec:
    """The model, identified, as the engine is to get it (see `models.resolve`).

    For engine `openai`: its name at the server, and a tokenizer where one is at hand.
    Raises UsageError where model and engine do not go together.
    """
    if engine != ENGINE:
        if spec.base_url is not None and engine != "mock":
            raise UsageError(
                f"`{spec.name}` is a model at the server `{spec.base_url}`, which engine"
                f" `{engine}` cannot load",
                "use `--engine openai`",
            )
        return resolve(spec)
    url = settings.get("base_url") or spec.base_url
    if not url:
        raise UsageError(
            f"engine `openai` needs the address of the server that has `{spec.name}`",
            "for example `--set base_url=http://localhost:8000/v1`",
        )
    return resolve(_at_server(spec, _checked_url(url), settings))


def _at_server(spec: ModelSpec, url: str, settings: Mapping[str, Any]) -> ModelSpec:
    served = settings.get("served_model")
    if spec.adapter is not None and not served:
        raise UsageError(
            f"`{spec.name}` is an adapter, and its server knows it by a name of its own",
            "for example `--set served_model=NAME`, as in `vllm serve --lora-modules NAME=FOLDER`",
        )
    key = settings.get("api_key_env") or spec.api_key_env
    _check_key(spec, key)
    return dataclasses.replace(
        spec,
        path=served or spec.path,
        adapter=None,
        base_url=url,
        api_key_env=key,
        tokenizer=settings.get("tokenizer") or spec.tokenizer or _own_tokenizer(spec),
    )


def _own_tokenizer(spec: ModelSpec) -> str | None:
    """The folder of the model, where it is on this machine."""
    if spec.base_url is not None or not (os.path.isabs(spec.path) or "/" in spec.path):
        return None
    local = resolve_local(dataclasses.replace(spec, adapter=None))
    return local.path if local is not None else None


def _check_key(spec: ModelSpec, name: str | None) -> None:
    # Not the name itself in the message: some write the key in its place.
    if name is not None and not os.environ.get(name):
        raise UsageError(
            f"the environment variable that `api_key_env` of `{spec.name}` names is not set",
            "`export` it with the key of the server in it",
        )


def _checked_url(url: str) -> str:
    """Raises UsageError for what is no address, or one with a secret in it."""
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if not named:
        raise UsageError(
            f"`base_url` is `{url}`, which is no address of a server",
            "for example `http://localhost:8000/v1`",
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            f"`base_url` for `{parts.hostname}` holds more than an address",
            "keys belong into an environment variable: `--set api_key_env=NAME`",
        )
    return re.sub(r"/+$", "", url)
