"""Engine `hf`: transformers, on a CPU or on one GPU."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import tokenizers
import torch
import transformers

from harness.engines.base import EngineInfo, HFSettings, Tokenized
from harness.engines.decoding import Decoder, TreeDecoder
from harness.engines.embedding import embedded, steer
from harness.engines.forwarding import TreeModel, agrees_with_plain
from harness.engines.kv_cache import is_out_of_memory
from harness.engines.loading import pick_device, pick_dtype, too_little_memory
from harness.engines.plain_decoding import PlainDecoder
from harness.engines.prompts import Prompts, count_distinct, end_tokens, missing, most_tokens
from harness.engines.resident import Resident
from harness.engines.sampling import Stream
from harness.engines.scoring import RowScorer, Scorer, TreeScorer
from harness.engines.steering import Steered
from harness.engines.stopping import Stops, Vocabulary
from harness.engines.tokenizing import Prepared
from harness.errors import WorkerError
from harness.types import JSON, Completion, ModelSpec, Request, SamplingParams

# Enough tokens to fill the processor; more only add attention between unrelated branches, which
# weighs most in narrow models: hence no more than twice the width of a token on a CPU.
_CHUNK_TOKENS = {"cpu": 512, "cuda": 4096}
_NARROW_CHUNK = 256
_LEAST_CHUNK = 32
_LOGITS_BYTES = 2**30  # a scoring forward that reads every position has logits of this size
_MOST_ROWS = {"cpu": 32, "cuda": 256}
_CACHE_SHARE = 0.5  # of free memory, for the cache of a batch: a rebuild holds it twice


class HFEngine:
    """Answers requests with a causal model of transformers.

    Scoring forwards each distinct token of all prompts once; generation reads shared prompts once
    and refills its batch. Models that cannot do either get padded batches: see `stats`.
    """

    def __init__(self, model: ModelSpec, settings: HFSettings) -> None:
        self._settings = settings
        self._resident = Resident()
        self._steered: Steered | None = None
        self.switch(model)

    def switch(self, model: ModelSpec) -> None:
        """Requests and `load` are about this model from now on."""
        self._model = model
        self._prompts = Prompts(model, "hf", self._settings.max_model_len, embeds=True)
        self._distinct_tokens = 0
        self._chunk_tokens = self._settings.chunk_tokens
        self._batch_size = self._settings.batch_size

    def tokenize(self, requests: Sequence[Request]) -> Tokenized:
        """Raises WorkerError if a prompt with what is to follow it exceeds the context."""
        return self._prompts.take(requests)

    @torch.inference_mode()
    def load(self) -> EngineInfo:
        if self._model.tensor_parallel_size > 1:
            raise WorkerError(
                f"`{self._model.name}` asks for {self._model.tensor_parallel_size} GPUs, and "
                "engine `hf` uses one",
                "use `--engine vllm`, or set `tensor_parallel_size` to 1",
                cause="unsupported",
            )
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        device = pick_device(self._model, self._settings.device)
        dtype = pick_dtype(self._model, self._settings.dtype, device)
        self._prompts.encoder  # noqa: B018 (a folder without a tokenizer is refused before its weights)
        if self._steered is not None:
            self._steered.remove()  # the next model may be read into the same layers
        loaded = self._resident.take(self._model, self._prompts.config, dtype, device)
        self._steered = steer(loaded, self._model, self._settings)
        self._start(loaded)
        packages = {m.__name__: m.__version__ for m in (torch, transformers, tokenizers)}
        gpu = device.type == "cuda"
        return EngineInfo(
            engine_version=f"transformers {transformers.__version__}",
            dtype=str(self._tree.dtype).removeprefix("torch."),
            device=torch.cuda.get_device_name(device) if gpu else _cpu_name(),
            gpus=int(gpu),
            packages=packages,
        )

    def _start(self, model: Any) -> None:
        tokenizer = self._prompts.encoder.tokenizer
        self._stops.cache_clear()  # of another vocabulary
        self._eos = end_tokens(model.generation_config, tokenizer)
        # Only a request's own SamplingParams decide how its text is sampled.
        model.generation_config = transformers.GenerationConfig()
        self._vocabulary = Vocabulary(tokenizer)
        self._tree = TreeModel(model)
        self._choose_way(self._prompts.longest())

    def _choose_way(self, longest: int) -> None:
        """Tries whether the model computes a trie of rows this long; else it gets padded rows."""
        model = self._tree.model
        self._verified = longest
        self._scorer: Scorer
        self._decoder: Decoder
        if agrees_with_plain(self._tree, longest):
            self._scorer = TreeScorer(self._tree, self._vocabulary.text)
            self._decoder = TreeDecoder(self._tree, self._streams)
        else:
            self._scorer = RowScorer(model, self._settings.batch_size, self._vocabulary.text)
            self._decoder = PlainDecoder(model, self._streams)

    @torch.inference_mode()
    def run(
        self, requests: Sequence[Request], skip: Container[tuple[str, int]] = frozenset()
    ) -> Iterator[Completion]:
        """Raises WorkerError `out_of_memory` if even the least sizes do not fit."""
        self._skip = skip
        pending = [one for one in self._prompts.of(requests) if self._missing(one)]
        longest = max(map(most_tokens, pending), default=0)
        if longest > self._verified and self._scorer.name == TreeScorer.name:
            self._choose_way(longest)
        self._choose_sizes(longest)
        self._distinct_tokens += count_distinct(pending)
        asked = [one for one in pending if one.request.kind == "embed"]
        yield from embedded(self._tree, self._model, asked, self._prompts.context)
        scored = [one for one in pending if one.request.kind not in ("generate", "embed")]
        generated = [one for one in pending if one.request.kind == "generate"]
        yield from self._backing_off(
            scored, lambda left: self._scorer.score(left, self._chunk_tokens)
        )
        yield from self._backing_off(
            generated,
            lambda left: self._decoder.generate(left, self._batch_size, self._chunk_tokens),
        )

    def _backing_off(
        self,
        prepared: Sequence[Prepared],
        answer: Callable[[Sequence[Prepared]], Iterator[Completion]],
    ) -> Iterator[Completion]:
        """Answers what an allocation failure lost again, with half the tokens and rows."""
        given = self._skip
        done: set[tuple[str, int]] = set()
        self._skip = _Either(given, done)
        while left := [one for one in prepared if self._missing(one)]:
            try:
                for completion in answer(left):
                    done.add((completion.request_id, completion.index))
                    yield completion
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._halve()
        self._skip = given

    def _halve(self) -> None:
        if self._chunk_tokens <= _LEAST_CHUNK and self._batch_size == 1:
            raise too_little_memory(self._model) from None
        self._chunk_tokens = max(_LEAST_CHUNK, self._chunk_tokens // 2)
        self._batch_size = max(1, self._batch_size // 2)
        self._tree.forget()
        if self._tree.device.type == "cuda":
            torch.cuda.empty_cache()

    def _missing(self, prepared: Prepared) -> list[int]:
        return missing(prepared, self._skip)

    def _streams(self, prepared: Prepared, started: float) -> list[Stream]:
        params = prepared.request.sampling or SamplingParams()
        stops = self._stops(params.stop)
        return [
            Stream(prepared, index, params, stops, self._eos, self._vocabulary, started)
            for index in self._missing(prepared)
        ]

    @functools.cache  # noqa: B019 (one engine lives as long as its process)
    def _stops(self, strings: tuple[str, ...]) -> Stops:
        return Stops(self._vocabulary, strings)

    def _choose_sizes(self, longest: int) -> None:
        """First guesses for what the settings leave open; see `_halve` for what follows."""
        kind = "cuda" if self._tree.device.type == "cuda" else "cpu"
        text = self._prompts.config.get_text_config()
        if not self._chunk_tokens:
            bounds = [_CHUNK_TOKENS[kind], _LOGITS_BYTES // (4 * text.vocab_size)]
            if kind == "cpu":
                bounds.append(max(_NARROW_CHUNK, 2 * text.hidden_size))
            self._chunk_tokens = max(_LEAST_CHUNK, min(bounds))
        if not self._batch_size:
            # At most: fewer where queries share keys.
            width = 2 * text.num_hidden_layers * text.hidden_size * self._tree.dtype.itemsize
            per_row = (self._tree.token_bytes or width) * max(longest, 1)
            fitting = int(_CACHE_SHARE * _free_bytes(self._tree.device)) // per_row
            self._batch_size = max(1, min(_MOST_ROWS[kind], fitting))

    def stats(self) -> JSON:
        """forwarded_tokens: positions computed for prompts and choices, padding included.
        distinct_tokens: the least number. decoded_tokens: positions computed one by one after a
        prompt. scoring: tree or rows."""
        rows = self._scorer if isinstance(self._scorer, RowScorer) else None
        plain = self._decoder if isinstance(self._decoder, PlainDecoder) else None
        return {
            "forwarded_tokens": self._tree.tokens
            + (rows.tokens if rows else 0)
            + (plain.tokens if plain else 0),
            "distinct_tokens": self._distinct_tokens,
            "decoded_tokens": self._decoder.decoded,
            "forwards": self._tree.forwards + (rows.forwards if rows else 0),
            "scoring": self._scorer.name,
            "batch_size": self._batch_size,
            "chunk_tokens": self._chunk_tokens,
        }


class _Either:
    """What is in one of two containers."""

    def __init__(self, *parts: Container[tuple[str, int]]) -> None:
        self._parts = parts

    def __contains__(self, key: object) -> bool:
        return any(key in part for part in self._parts)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cpu_name() -> str:
    return f"CPU ({torch.get_num_threads()} threads)"
