"""What an engine is, and the settings that each one understands (standard library only)."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.engines.steer_settings import checked_steering
from harness.errors import UsageError, did_you_mean
from harness.types import JSON, Completion, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class HFSettings:
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
class MockSettings:
    """Engine `mock`. answers: a JSON file {request id: text, or list of choice log-probabilities},
    or `module:function` taking a Request and a sample index and returning a text or such a list;
    '' gives fixed pseudo-random answers. delay_s: seconds per request."""

    answers: str = ""
    delay_s: float = 0.0
    python: str = ""


SETTINGS: dict[str, type[HFSettings] | type[MockSettings]] = {
    "hf": HFSettings,
    "mock": MockSettings,
}


DTYPES = ("auto", "float32", "bfloat16", "float16")
_KINDS = {int: "whole number", float: "number", str: "text"}


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


def parse_settings(engine: str, given: dict[str, str]) -> JSON:
    """`--set key=value` pairs as typed values, checked against what the engine understands.

    Raises UsageError for an unknown key or a value of the wrong type.
    """
    known = [f.name for f in dataclasses.fields(SETTINGS[engine])]
    parsed: dict[str, Any] = {}
    for key, text in given.items():
        if key not in known:
            raise UsageError(
                f"unknown setting `{key}` for engine `{engine}`",
                did_you_mean(key, known, f"it has: {', '.join(known)}"),
            )
        default = getattr(SETTINGS[engine](), key)
        try:
            parsed[key] = type(default)(text)
        except ValueError:
            raise UsageError(
                f"`{key}={text}` is not a {_KINDS[type(default)]}",
                f"for example `--set {key}={default}`",
            ) from None
        if key == "dtype" and text not in DTYPES:
            choices = ", ".join(DTYPES)
            raise UsageError(f"unknown dtype `{text}`", did_you_mean(text, DTYPES, choices))
    return checked_steering(parsed)
