"""Engine `vllm`: vLLM's offline engine, for all tasks of a model and for several models at once.

Models of one start are served one after another: adapters of one base by name, checkpoints of one
shape by reading their weights into place.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers

from harness.engines import vllm_start
from harness.engines.adapters import adapter_rank, check_adapter
from harness.engines.base import EngineInfo, StartAnewError, Tokenized, VLLMSettings
from harness.engines.loading import pick_dtype
from harness.engines.prompts import Key, Prompts, count_distinct, end_tokens, missing, most_tokens
from harness.engines.stopping import Vocabulary
from harness.engines.tokenizing import Prepared
from harness.engines.trie import size
from harness.errors import WorkerError
from harness.types import JSON, Completion, ModelSpec, Request


class VLLMEngine:
    """companions: the models that this start is to serve after `model`."""

    def __init__(
        self, model: ModelSpec, settings: VLLMSettings, companions: Sequence[ModelSpec] = ()
    ) -> None:
        self._settings = settings
        self._adapters = [one.adapter for one in (model, *companions) if one.adapter]
        self._engine: Any = None
        self._loaded_path = ""
        self.switch(model)

    def switch(self, model: ModelSpec) -> None:
        """Requests and `load` are about this model from now on."""
        self._model = model
        self._distinct_tokens = 0
        self._ways: Mapping[str, int] = {}
        self._reload_difference: float | None = None
        self._prompts = Prompts(model, "vllm", self._settings.max_model_len)

    def tokenize(self, requests: Sequence[Request]) -> Tokenized:
        """Raises WorkerError if a prompt with what is to follow it exceeds the context."""
        return self._prompts.take(requests)

    def prepared(self, requests: Sequence[Request]) -> list[Prepared]:
        return self._prompts.of(requests)

    def load(self) -> EngineInfo:
        """Raises WorkerError, StartAnewError where a running engine cannot take over."""
        vllm = vllm_start.import_vllm()
        from vllm.platforms import current_platform

        self._cpu = bool(current_platform.is_cpu())
        self._dtype = self._pick_dtype()
        if self._engine is None:
            self._start()
        else:
            self._take_over()
        self._queue.forget_counts()
        self._choose_adapter()
        self._vocabulary = Vocabulary(self._prompts.encoder.tokenizer)
        self._eos = end_tokens(self._generation_config(), self._prompts.encoder.tokenizer)
        parallel = self._engine.vllm_config.parallel_config
        versions = {m.__name__: m.__version__ for m in (torch, transformers, vllm)}
        return EngineInfo(
            engine_version=f"vllm {vllm.__version__}",
            dtype=self._dtype,
            device="CPU" if self._cpu else current_platform.get_device_name(),
            gpus=0 if self._cpu else parallel.world_size,
            packages=versions,
        )

    def _pick_dtype(self) -> str:
        device = torch.device("cpu" if self._cpu else "cuda")
        picked = pick_dtype(self._model, self._settings.dtype, device)
        own = picked or getattr(self._prompts.config.get_text_config(), "dtype", None)
        if own is None:
            own = getattr(self._prompts.config, "dtype", None) or torch.bfloat16
        return str(own).removeprefix("torch.")

    def _needed(self) -> int:
        asked = self._prompts.all()
        scored = [most_tokens(one) for one in asked if one.request.kind != "generate"]
        longest = self._prompts.longest()
        return vllm_start.needed_tokens(longest, max(scored, default=0), self._prompts.context)

    def _start(self) -> None:
        made = vllm_start.arguments(
            self._model,
            self._settings,
            dtype=self._dtype,
            tokens=self._needed(),
            cpu=self._cpu,
            adapters=self._adapters,
        )
        if self._cpu and made["enforce_eager"]:
            vllm_start.forget_compilers()
        long = any(size(a) > 1 for one in self._prompts.all() for _, a in one.choices)
        self._engine = vllm_start.start(self._model, self._settings, made, scores_texts=long)
        self._loaded_path = self._model.path
        from harness.engines.vllm_queue import Queue

        self._queue = Queue(self._engine)

    def _take_over(self) -> None:
        from harness.engines.vllm_reload import probes, reload

        if self._needed() > self._engine.model_config.max_model_len:
            raise StartAnewError(f"`{self._model.name}` is asked longer prompts than those before")
        if self._model.path == self._loaded_path:
            return
        self._queue.lora = None
        self._loaded_path = ""  # if this fails, nobody knows what the weights are
        prompts = [one.prompt for one in self._prompts.all()]
        vocabulary = self._engine.model_config.get_vocab_size()
        self._reload_difference = reload(
            self._queue,
            self._engine,
            self._model,
            self._prompts.config,
            self._dtype,
            probes(prompts, vocabulary),
        )
        self._loaded_path = self._model.path

    def _choose_adapter(self) -> None:
        from vllm.lora.request import LoRARequest

        self._queue.lora = None
        if self._model.adapter is None:
            return
        check_adapter(self._model)
        number = self._number(self._model.adapter)
        lora = LoRARequest(self._model.name, number, self._model.adapter)
        failures: tuple[type[Exception], ...] = (*vllm_start.refusals(), RuntimeError, OSError)
        try:
            self._engine.add_lora(lora)
        except failures as error:
            raise WorkerError(
                f"vLLM cannot use the adapter of `{self._model.name}`: "
                f"{vllm_start.sentence(error)}",
                "use `--engine hf`, or merge the adapter into its base",
                cause="adapter_mismatch",
            ) from error
        self._queue.lora = lora

    def _number(self, adapter: str) -> int:
        """Of the adapter in this engine, from 1. Raises StartAnewError for one that the engine was
        not made for."""
        if adapter not in self._adapters:
            lora = self._engine.vllm_config.lora_config
            if lora is None:
                raise StartAnewError("the running engine was started without adapters")
            if adapter_rank(adapter) > lora.max_lora_rank:
                raise StartAnewError(f"the running engine takes ranks up to {lora.max_lora_rank}")
            self._adapters.append(adapter)
        return self._adapters.index(adapter) + 1

    def _generation_config(self) -> Any:
        try:
            return transformers.GenerationConfig.from_pretrained(
                self._model.path, revision=self._model.revision
            )
        except OSError:
            return self._prompts.config.get_text_config()

    def run(
        self, requests: Sequence[Request], skip: Container[Key] = frozenset()
    ) -> Iterator[Completion]:
        from harness.engines.vllm_asks import Judge, Writer

        pending = [one for one in self._prompts.of(requests) if missing(one, skip)]
        self._distinct_tokens += count_distinct(pending)
        scored = [one for one in pending if one.request.kind != "generate"]
        written = [one for one in pending if one.request.kind == "generate"]
        if not pending:
            return
        writer = Writer(self._vocabulary, self._eos)
        judge = Judge(
            self._engine.vllm_config.cache_config.block_size,
            replays=self._engine.model_config.enable_trace_replay,
            rows=not self._adapters,
            text=self._vocabulary.text,
        )
        texts = [ask for one in written for ask in writer.asks(one, missing(one, skip))]
        # Texts first: they take longest, and what is scored fills the room that they leave.
        asks = sorted(texts, key=lambda ask: ask.prompt)
        self._ways = judge.ways
        asks += sorted(judge.asks(scored), key=lambda ask: ask.prompt)
        # vLLM 0.32 tells nothing but given tokens in a step where any request names some.
        listing = [ask for ask in asks if ask.params.logprobs]
        yield from self._queue.run(listing)
        yield from self._queue.run([ask for ask in asks if not ask.params.logprobs])

    def stats(self) -> JSON:
        """forwarded_tokens: of prompts, computed and not taken from the prefix cache.
        distinct_tokens: the least number. block_tokens: what a prefix is rounded down to.
        scored: how many questions were scored in which way. reload_difference: mean
        difference from transformers, in nats, where weights were read into place."""
        queue = self._queue
        return {
            "forwarded_tokens": queue.prompt_tokens - queue.cached_tokens,
            "distinct_tokens": self._distinct_tokens,
            "decoded_tokens": queue.decoded_tokens,
            "requests": queue.requests,
            "block_tokens": self._engine.vllm_config.cache_config.block_size,
            "scored": dict(self._ways),
            "reload_difference": self._reload_difference,
        }
