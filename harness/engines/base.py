"""What an engine is, and the settings that each one understands (standard library only)."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.engines.steer_settings import checked_steering
from harness.errors import UsageError, WorkerError, did_you_mean
from harness.types import JSON, Completion, ModelSpec, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicated:
    """Of engines that can run several times side by side, as actors of Ray.

    replicas: how many, 0 = as many as the cluster has room for. ray_address: of the cluster; ''
    for RAY_ADDRESS or, without it, a cluster of this run's own.
    """

    replicas: int = 1
    ray_address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HFSettings(Replicated):
    """Engine `hf`.

    dtype: auto (the registry's, else float32 on a CPU and the checkpoint's own on a GPU),
    float32, bfloat16 or float16. device: auto, cpu, cuda, cuda:1. batch_size: sequences decoded
    together, 0 lets the engine choose. chunk_tokens: tokens of one scoring forward, 0 = choose.
    max_model_len: context limit in tokens, 0 = the model's own. python: interpreter of the worker.
    steer: file of a steering vector (`bench steer` makes them), added with the factor steer_lambda
    behind steer_layers ('' = all that the file has). steer_norm: keep (each token's norm stays what
    it was) or free. steer_sha256: of the file; filled in.
    """

    dtype: str = "auto"
    device: str = "auto"
    batch_size: int = 0
    chunk_tokens: int = 0
    max_model_len: int = 0
    python: str = ""
    steer: str = ""
    steer_lambda: float = 0.0
    steer_layers: str = ""
    steer_norm: str = "keep"
    steer_sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MockSettings(Replicated):
    """Engine `mock`. answers: a JSON file {request id: text, or list of choice log-probabilities},
    or `module:function` taking a Request and a sample index and returning a text or such a list;
    '' gives fixed pseudo-random answers. delay_s: seconds per request."""

    answers: str = ""
    delay_s: float = 0.0
    python: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VLLMSettings(Replicated):
    """Engine `vllm`.

    dtype, max_model_len, python: as for `hf`. gpu_memory_utilization: share of the memory of each
    GPU, 0 = vLLM's own; kv_cache_gib: GiB for keys and values instead, 0 = choose.
    tensor_parallel_size, pipeline_parallel_size, data_parallel_size: 0 = the registry's.
    enforce_eager: auto (true on a CPU), true, false. engine_args: any other engine argument by
    vLLM's name, over those of the registry.
    """

    dtype: str = "auto"
    max_model_len: int = 0
    gpu_memory_utilization: float = 0.0
    kv_cache_gib: float = 0.0
    tensor_parallel_size: int = 0
    pipeline_parallel_size: int = 0
    data_parallel_size: int = 0
    enforce_eager: str = "auto"
    python: str = ""
    engine_args: JSON = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAISettings:
    """Engine `openai`: a server with OpenAI's HTTP interface.

    base_url: where its endpoints begin (`http://localhost:8000/v1`). served_model: its name there,
    '' for the model's own path. api: auto (conversations to chat, texts to completions), chat or
    completions. concurrency: most requests under way. timeout_s: of one attempt. retries: further
    attempts. api_key_env: name of the environment variable with the key, '' sends none.
    tokenizer: folder or hub id, '' for the model's own where it is on this machine. max_model_len:
    context limit in tokens, 0 = as the server says.
    """

    base_url: str = ""
    served_model: str = ""
    api: str = "auto"
    concurrency: int = 64
    timeout_s: float = 600.0
    retries: int = 10
    api_key_env: str = ""
    tokenizer: str = ""
    max_model_len: int = 0
    python: str = ""


Settings = HFSettings | MockSettings | OpenAISettings | VLLMSettings

SETTINGS: dict[str, type[Settings]] = {
    "hf": HFSettings,
    "vllm": VLLMSettings,
    "openai": OpenAISettings,
    "mock": MockSettings,
}


APIS = ("auto", "chat", "completions")
DTYPES = ("auto", "float32", "bfloat16", "float16")
_KINDS = {int: "whole number", float: "number", str: "text"}
_WORDS = {"dtype": DTYPES, "api": APIS, "enforce_eager": ("auto", "true", "false")}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What a started engine really is; goes into the manifest."""

    engine_version: str
    dtype: str = ""
    device: str = ""
    gpus: int = 0
    packages: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenized:
    """What the tokenizer makes of a set of requests, without loading weights.

    prompt_tokens: summed over requests, prefixes counted anew for each. distinct_tokens: nodes of
    the trie of all sequences to be forwarded, the least number that must be computed.
    longest: (request id, prompt tokens, tokens it may add). first_ids: token ids of the first
    prompt. bos_count: leading BOS tokens of the first prompt. prompts_sha256: over all token ids.
    """

    n_requests: int
    prompt_tokens: int
    distinct_tokens: int
    longest: tuple[str, int, int]
    context: int
    first_prompt: str
    first_ids: tuple[int, ...]
    bos_count: int
    prompts_sha256: str


class Engine(Protocol):
    """Answers requests in any order. `tokenize` works before `load`, without weights.

    load: raises WorkerError with a cause (out_of_memory, bad_checkpoint, …).
    run: yields every completion as soon as it is there, n per request for n > 1, without those
    whose (request id, sample index) is in `skip`.
    """

    def tokenize(self, requests: Sequence[Request]) -> Tokenized: ...
    def load(self) -> EngineInfo: ...
    def run(
        self, requests: Sequence[Request], skip: Container[tuple[str, int]] = frozenset()
    ) -> Iterator[Completion]: ...
    def stats(self) -> JSON: ...


class SharedEngine(Engine, Protocol):
    """An engine whose one start serves several models, one after another.

    switch: requests and `load` are about that model from now on. `load` raises StartAnewError where
    the running engine cannot serve it.
    """

    def switch(self, model: ModelSpec) -> None: ...


class StartAnewError(WorkerError):
    """This engine start cannot serve the next model; a new worker can."""

    def __init__(self, message: str) -> None:
        super().__init__(message, cause="start_anew")


SHARED = ("vllm", "hf")  # the engines of which that is true


def replicated(settings: Mapping[str, Any]) -> bool:
    """Whether the engine runs as replicas on Ray."""
    return settings.get("replicas", 1) != 1 or bool(settings.get("ray_address"))


def parse_settings(engine: str, given: dict[str, str]) -> JSON:
    """`--set key=value` pairs as typed values, checked against what the engine understands.

    Raises UsageError for an unknown key or a value of the wrong type.
    """
    known = [f.name for f in dataclasses.fields(SETTINGS[engine])]
    parsed: dict[str, Any] = {}
    for key, text in given.items():
        name, _, inner = key.partition(".")
        if name not in known:
            raise UsageError(
                f"unknown setting `{key}` for engine `{engine}`",
                did_you_mean(key, known, f"it has: {', '.join(known)}"),
            )
        default = getattr(SETTINGS[engine](), name)
        if isinstance(default, dict):
            parsed[name] = parsed.get(name, {}) | named_values(name, inner, text)
        elif inner:
            example = f"for example `--set {name}={default}`"
            raise UsageError(f"`{name}` holds no `{inner}`", example)
        else:
            parsed[name] = _typed(name, text, default)
    if not parsed.get("replicas", 0) >= 0:
        raise UsageError(f"`replicas={parsed['replicas']}` is too little", "give 0 or more")
    if engine == "openai":
        _check_openai(parsed)
    return checked_steering(parsed)


def named_values(name: str, inner: str, text: str) -> JSON:
    """The values of `name={"a": 1}`, or of `name.a=1`; what is no JSON is a text.

    >>> named_values("engine_args", "quantization", "fp8"), named_values("engine_args", "", "{}")
    ({'quantization': 'fp8'}, {})
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if inner:
        return {inner: value}
    if not isinstance(value, dict):
        raise UsageError(
            f"`{name}={text}` is not a JSON object",
            f"for example `--set {name}.quantization=fp8`",
        )
    return value


def _typed(key: str, text: str, default: Any) -> Any:
    try:
        value = type(default)(text)
    except ValueError:
        raise UsageError(
            f"`{key}={text}` is not a {_KINDS[type(default)]}",
            f"for example `--set {key}={default}`",
        ) from None
    if text not in _WORDS.get(key, (text,)):
        choices = _WORDS[key]
        raise UsageError(f"unknown {key} `{text}`", did_you_mean(text, choices, ", ".join(choices)))
    return value


def _check_openai(given: Mapping[str, Any]) -> None:
    for key, least in (("concurrency", 1), ("timeout_s", 0.001), ("retries", 0)):
        if not given.get(key, least) >= least:
            raise UsageError(f"`{key}={given[key]}` is too little", f"give {least} or more")
    name = given.get("api_key_env", "")
    # Whoever gives the key in place of its variable must not find it in a message or a file.
    if name and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise UsageError(
            "`api_key_env` is not the name of an environment variable",
            "`export MY_KEY=…` and `--set api_key_env=MY_KEY`",
        )
    if name and not os.environ.get(name):
        raise UsageError(
            "the environment variable that `api_key_env` names is not set",
            "`export` it with the key of the server in it",
        )
