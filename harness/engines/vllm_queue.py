"""The loop around `LLMEngine`: requests go in as others come out, completions leave at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from vllm.exceptions import VLLMValidationError

from harness.engines.trie import size, unpack
from harness.engines.vllm_asks import Ask
from harness.errors import WorkerError
from harness.types import Completion

_WAITING = 512  # requests beyond those that can run at once: enough to choose from


class Queue:
    """One engine and what is asked of it. lora: the adapter of the requests, if any."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._most = engine.vllm_config.scheduler_config.max_num_seqs + _WAITING
        self._numbers = itertools.count()
        self.lora: Any = None
        self.forget_counts()

    def forget_counts(self) -> None:
        self.prompt_tokens = self.cached_tokens = self.decoded_tokens = self.requests = 0

    def run(self, asks: Sequence[Ask]) -> Iterator[Completion]:
        """In any order. Raises WorkerError for a request that the engine gives up."""
        waiting = iter(asks)
        live: dict[str, Ask] = {}
        while True:
            for ask in itertools.islice(waiting, self._most - len(live)):
                live[self._add(ask)] = ask
            if not live:
                return
            for output in self._engine.step():
                if output.finished:
                    self._count(output)
                    if (completion := live.pop(output.request_id).take(output)) is not None:
                        yield completion

    def _add(self, ask: Ask) -> str:
        name = str(next(self._numbers))
        prompt = {"prompt_token_ids": unpack(ask.prompt)}
        try:
            self._engine.add_request(name, prompt, ask.params, lora_request=self.lora)
        except (ValueError, VLLMValidationError) as error:
            raise WorkerError(
                f"vLLM refuses a request of {size(ask.prompt)} tokens: {error}",
                "change what it names, or use `--engine hf`",
                cause="unsupported",
            ) from error
        return name

    def _count(self, output: Any) -> None:
        written = output.outputs[0]
        if written.finish_reason not in ("stop", "length"):
            raise WorkerError(
                f"vLLM gave up a request of {len(output.prompt_token_ids)} tokens"
                f" ({written.finish_reason})",
                "look for the reason in the log; the same command goes on where it stopped",
            )
        self.requests += 1
        self.prompt_tokens += len(output.prompt_token_ids)
        self.cached_tokens += output.num_cached_tokens or 0
        self.decoded_tokens += len(written.token_ids) - 1
