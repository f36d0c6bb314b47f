"""Engine `mock`: answers from a table or a function, for tests of everything around an engine.

An answer is a text, the log-probabilities of the choices, or a completion's own fields by name.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.engines.base import EngineInfo, MockSettings, Tokenized
from harness.errors import WorkerError
from harness.types import JSON, Completion, ModelSpec, Request, completion_from_json

Answer = str | Sequence[float] | Mapping[str, Any]
Answerer = Callable[[Request, int], Answer]


class MockEngine:
    """Counts bytes as tokens, so that counts and the context check work without a tokenizer."""

    def __init__(self, model: ModelSpec, settings: MockSettings) -> None:
        self._answer = _answerer(settings.answers)
        self._delay_s = settings.delay_s
        self._context = model.max_model_len or 1_000_000

    def tokenize(self, requests: Sequence[Request]) -> Tokenized:
        for request in requests:
            if request.kind == "embed":
                raise WorkerError(
                    f"request `{request.id}` asks engine `mock` for activations",
                    "use `--engine hf`",
                    cause="unsupported",
                )
        lengths = [len(_text(request).encode()) for request in requests]
        longest = max(range(len(requests)), key=lengths.__getitem__)
        first = _text(requests[0])
        digest = hashlib.sha256("\0".join(map(_text, requests)).encode()).hexdigest()
        sampling = requests[longest].sampling
        added = sampling.max_tokens if sampling else 1
        if lengths[longest] + added > self._context:
            raise WorkerError(
                f"request `{requests[longest].id}` needs {lengths[longest]} + {added} tokens,"
                f" the context holds {self._context}",
                "raise `max_model_len` or lower `--max-tokens` or `--shots`",
                cause="context_length",
            )
        return Tokenized(
            n_requests=len(requests),
            prompt_tokens=sum(lengths),
            distinct_tokens=sum(lengths),
            longest=(requests[longest].id, lengths[longest], added),
            context=self._context,
            first_prompt=first,
            first_ids=tuple(first.encode()[:100_000]),
            bos_count=0,
            prompts_sha256=digest,
        )

    def load(self) -> EngineInfo:
        return EngineInfo(engine_version="mock 1", dtype="float32", device="none")

    def run(
        self, requests: Sequence[Request], skip: Container[tuple[str, int]] = frozenset()
    ) -> Iterator[Completion]:
        for request in requests:
            for index in range(request.sampling.n if request.sampling else 1):
                if (request.id, index) not in skip:
                    time.sleep(self._delay_s)
                    yield _completion(request, index, self._answer(request, index))

    def stats(self) -> JSON:
        return {}


def _completion(request: Request, index: int, answer: Answer) -> Completion:
    prompt_tokens = len(_text(request).encode())
    if isinstance(answer, str):
        return Completion(
            request_id=request.id,
            index=index,
            text=answer,
            finish_reason="stop",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(answer.encode()),
        )
    if isinstance(answer, Mapping):
        given = {"request_id": request.id, "finish_reason": "scored", **answer}
        return completion_from_json({"prompt_tokens": prompt_tokens, "index": index, **given})
    best = max(answer)
    spelled = zip(request.choices, answer, strict=False)
    likely = sorted(spelled, key=lambda pair: -pair[1])[: request.top_tokens or 0]
    return Completion(
        request_id=request.id,
        index=index,
        text=likely[0][0] if likely else "",
        finish_reason="scored",
        prompt_tokens=prompt_tokens,
        choice_logprobs=tuple(answer),
        choice_greedy=tuple(value == best for value in answer),
        top_tokens=tuple(likely),
    )


def _text(request: Request) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    return "".join(f"<{message.role}>{message.content}" for message in request.prompt)


def _answerer(source: str) -> Answerer:
    if not source:
        return _pseudo_random
    module, colon, name = source.partition(":")
    if colon:
        function: Answerer = getattr(importlib.import_module(module), name)
        return function
    table: dict[str, Any] = json.loads(Path(source).read_text())

    def look_up(request: Request, index: int) -> Answer:
        answer: Answer = table[request.id]
        return answer

    return look_up


def _pseudo_random(request: Request, index: int) -> Answer:
    """The same answer whenever the same request is asked."""
    seed = request.sampling.seed if request.sampling else 0
    digest = hashlib.sha256(f"{request.id}/{index}/{seed}/{_text(request)}".encode()).digest()
    if request.kind == "generate":
        return f" The answer is {digest[0] % 20}.\n#### {digest[0] % 20}"
    return [-digest[i] / 16 - 0.1 for i in range(len(request.choices) or 1)]
