"""Engine `openai`: any server with OpenAI's HTTP interface (vLLM, SGLang, llama.cpp, hosted)."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import importlib.util
import os
from collections.abc import Callable, Container, Coroutine, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp

from harness.engines.abilities import Abilities
from harness.engines.ask import CHAT, COMPLETIONS, Ask, Writer, about_tokens
from harness.engines.ask_queue import AskQueue
from harness.engines.base import EngineInfo, OpenAISettings, Tokenized
from harness.engines.server import AttemptError, Server
from harness.engines.tokenizing import Prepared, PromptEncoder
from harness.engines.trie import SortedPaths, size, unpack
from harness.errors import WorkerError
from harness.types import JSON, Completion, ModelSpec, Request

T = TypeVar("T")
Asks = Callable[[int], Ask]  # of each sample of one request

_OPENING_RETRIES = 2
_TRIAL = "The quick brown fox:\n\n\t1 + 2 = 3; naïve café, 日本語."


class OpenAIEngine:
    """Asks a server, many requests at a time; every answer is handed on as it comes.

    A request that gets no answer in all its attempts does not stop the others, unless several in a
    row are lost. Then, or at the end, an error tells of the first: nothing is made up.
    """

    def __init__(self, model: ModelSpec, settings: OpenAISettings) -> None:
        self._model = model
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._asks: dict[str, Asks] = {}
        self._opened = False
        self._context = 0
        self._encoder: PromptEncoder | None = None

    def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            return self._loop.run_until_complete(coroutine)
        except AttemptError as trouble:
            raise self._server.explained(trouble) from None
        finally:
            self._loop.run_until_complete(self._server.close())

    def tokenize(self, requests: Sequence[Request]) -> Tokenized:
        """Raises WorkerError where the server does not have the model, is not there, or cannot
        tell what a request asks for."""
        self._open()
        self._check_kinds(requests)
        prepared = {one.request.id: one for one in self._prepare(requests)}
        self._await(self._route(requests, prepared))
        return self._described(requests, prepared)

    def _open(self) -> None:
        """Looks the server up, once."""
        if self._opened:
            return
        assert self._model.base_url, "a model without a server has another engine"
        self._server = Server(self._model.base_url, self._model.api_key_env, self._settings)
        card = self._await(self._find_model())
        limits = (
            self._settings.max_model_len,
            self._model.max_model_len,
            card.get("max_model_len"),
        )
        self._context = min((limit for limit in limits if limit), default=0)
        kind = str(card.get("owned_by") or "")
        host = urlsplit(self._model.base_url).hostname
        self._kind = kind or "unknown"
        self._writer = Writer(model=card["id"], kind=kind, newest=host == "api.openai.com")
        self._encoder = self._load_encoder()
        trial = self._trial_ids()
        self._await(self._check_tokenizer(trial))
        self._abilities = Abilities(self._server, card["id"], trial)
        self._opened = True

    async def _find_model(self) -> JSON:
        """The server's own words about the model; its name alone where there are none."""
        try:
            listed = await self._server.look_up("models", _OPENING_RETRIES)
        except AttemptError as trouble:
            if trouble.status in (404, 405, 501):
                return {"id": self._model.path}
            raise
        cards = [card for card in listed.get("data") or () if isinstance(card, dict)]
        for key in ("id", "root"):
            for card in cards:
                if _same_name(str(card.get(key) or ""), self._model.path):
                    return card
        raise self._wrong_model([str(card.get("id")) for card in cards])

    def _wrong_model(self, names: Sequence[str]) -> WorkerError:
        shown = ", ".join(f"`{name}`" for name in names[:5]) or "nothing"
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return WorkerError(
            f"the server at `{self._model.base_url}` has no model `{self._model.path}`:"
            f" it serves {shown}{more}",
            f"`--set served_model={names[0]}` if that is the same"
            if names
            else "start the server with the model",
            cause="wrong_model",
        )

    def _load_encoder(self) -> PromptEncoder | None:
        """With a tokenizer prompts are token ids, and choices of any length can be scored."""
        asked, own = self._settings.tokenizer, self._model.tokenizer
        path = asked or own
        packages = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
        if not path or self._settings.api == "chat" or not (packages or asked):
            return None
        from harness.engines.loading import load_tokenizer

        at_home = dataclasses.replace(self._model, path=path, revision=None)
        return PromptEncoder(load_tokenizer(at_home), self._model.name, self._model.chat_template)

    def _trial_ids(self) -> list[int]:
        if self._encoder is None:
            return []
        return list(self._encoder.tokenizer.encode(_TRIAL, add_special_tokens=False))

    async def _check_tokenizer(self, ids: Sequence[int]) -> None:
        """Ids of another tokenizer would be read as other words: vLLM tells which are its own."""
        if not ids or self._kind != "vllm":
            return
        body = {"model": self._writer.model, "prompt": _TRIAL, "add_special_tokens": False}
        try:
            told = await self._server.ask("/tokenize", body, lambda reply: reply["tokens"], 1)
        except AttemptError as trouble:
            if trouble.status in (404, 405):
                return
            raise
        if list(told) != list(ids):
            raise WorkerError(
                f"the tokenizer at hand is not that of `{self._writer.model}` at the server",
                "give the right one as `--set tokenizer=FOLDER_OR_HUB_ID`",
                cause="wrong_tokenizer",
            )

    def _check_kinds(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.kind == "embed":
                raise _unsupported(request, "asks a server for hidden states", "use `--engine hf`")
            if request.kind == "rolling" and not self._context:
                raise _unsupported(
                    request,
                    "is a text to be scored in windows, and the server does not say how long"
                    " its context is",
                    "for example `--set max_model_len=4096`",
                )

    def _prepare(self, requests: Sequence[Request]) -> list[Prepared]:
        """Token ids of the prompts that are sent as such."""
        if self._encoder is None or self._settings.api == "chat":
            return []
        if not self._await(self._abilities.takes_ids()):
            return []
        own = [request for request in requests if not self._goes_to_chat(request)]
        # vLLM always generates a token after the prompt that it scores.
        prepared = list(self._encoder.prepare(own, max(1, self._context - 2)))
        self._check_lengths(prepared)
        return prepared

    def _goes_to_chat(self, request: Request) -> bool:
        conversation = not isinstance(request.prompt, str)
        return conversation and request.kind == "generate" and not self._renders()

    def _renders(self) -> bool:
        """Whether conversations become texts here and not at the server."""
        return self._settings.api == "completions" or self._model.chat_template != "model"

    def _check_lengths(self, prepared: Sequence[Prepared]) -> None:
        if not self._context:
            return
        over = [one for one in prepared if _needed(one) > self._context]
        if over:
            longest = max(over, key=_needed)
            raise WorkerError(
                f"{len(over)} of {len(prepared)} requests exceed the context of "
                f"{self._context} tokens of `{self._model.name}` at the server: the longest, "
                f"`{longest.request.id}`, has {size(longest.prompt)} prompt tokens and may add "
                f"{longest.added_tokens()}",
                "use fewer `--shots`, fewer `--max-tokens`, or a model with a longer context",
                cause="context_length",
            )

    async def _route(self, requests: Sequence[Request], prepared: dict[str, Prepared]) -> None:
        for request in requests:
            one = prepared.get(request.id)
            if request.kind == "generate":
                self._asks[request.id] = await self._generating(request, one)
            else:
                self._asks[request.id] = await self._scoring(request, one)

    async def _generating(self, request: Request, prepared: Prepared | None) -> Asks:
        writer, prompt = self._writer, request.prompt
        if prepared is not None:
            return lambda index: writer.tokens(prepared, index)
        if not isinstance(prompt, str):
            if self._renders():
                raise _unsupported(
                    request,
                    "is a conversation to be rendered here, for which there is no tokenizer, or"
                    " the server takes no token ids",
                    "give `--set tokenizer=FOLDER_OR_HUB_ID`, or let the server render it with"
                    " `api=chat` and `chat_template` `model`",
                )
            return lambda index: writer.chat(request, index, prompt)
        if self._settings.api == "chat" or not await self._abilities.completions():
            raise _unsupported(
                request,
                "is a text to be continued, and the server only answers conversations",
                "add `--chat` to ask the task as a conversation, which is a protocol of its own",
            )
        return lambda index: writer.text(request, index, prompt)

    async def _scoring(self, request: Request, prepared: Prepared | None) -> Asks:
        writer = self._writer
        if request.top_tokens is not None:
            return await self._telling(request, request.top_tokens, prepared)
        exact = await self._abilities.exact() if prepared is not None else ""
        if prepared is not None and exact == "vllm":
            short = request.kind == "choose" and _one_token_each(prepared)
            return lambda _: (
                writer.one_token(prepared) if short else writer.prompt_logprobs(prepared)
            )
        if prepared is not None and exact == "echo":
            return lambda _: writer.echo(prepared)
        path = COMPLETIONS if isinstance(request.prompt, str) else CHAT
        top = await self._listed(path) if request.kind == "choose" else 0
        if top and (prepared is None or _one_token_each(prepared)):
            return lambda _: writer.listed(request, top)
        raise _unsupported(
            request,
            f"asks for log-probabilities of given continuations, which the server does not tell"
            f"{'' if self._encoder else ' without a tokenizer here'}",
            "serve the model with vLLM and give `--set tokenizer=FOLDER_OR_HUB_ID`, use"
            " `--engine hf`, or leave such tasks out",
        )

    async def _telling(self, request: Request, wanted: int, prepared: Prepared | None) -> Asks:
        """Choices that are graded by the likeliest first tokens: one list tells of both."""
        writer = self._writer
        path = COMPLETIONS if isinstance(request.prompt, str) else CHAT
        listed = await self._listed(path)
        if listed < wanted:
            raise _unsupported(
                request,
                f"asks for the {wanted} likeliest first tokens, and the server tells of"
                f" {listed or 'none'}",
                "serve the model with vLLM, or use `--engine hf`",
            )
        return lambda _: writer.listed(request, listed, prepared)

    async def _listed(self, path: str) -> int:
        if path == COMPLETIONS and not await self._abilities.completions():
            return 0
        return await self._abilities.listed(path)

    def _described(self, requests: Sequence[Request], prepared: dict[str, Prepared]) -> Tokenized:
        digest = hashlib.sha256()
        lengths = []
        for request in requests:
            one = prepared.get(request.id)
            tokens = one.prompt if one else _as_text(request).encode("utf-8", errors="replace")
            digest.update(len(tokens).to_bytes(8, "little") + tokens)
            lengths.append(size(one.prompt) if one else about_tokens(_as_text(request)))
        paths = [path for one in prepared.values() for path in one.paths()]
        rest = [n for r, n in zip(requests, lengths, strict=True) if r.id not in prepared]
        first = prepared.get(requests[0].id)
        ids = tuple(unpack(first.prompt)) if first else ()
        bos = self._encoder.tokenizer.bos_token_id if self._encoder else None
        longest = max(range(len(requests)), key=lengths.__getitem__)
        sampling = requests[longest].sampling
        return Tokenized(
            n_requests=len(requests),
            prompt_tokens=sum(lengths),
            distinct_tokens=SortedPaths.of(paths).count_nodes() + sum(rest),
            longest=(
                requests[longest].id,
                lengths[longest],
                sampling.max_tokens if sampling else 1,
            ),
            context=self._context,
            first_prompt=(first.text if first else None) or _as_text(requests[0]),
            first_ids=ids,
            bos_count=next((n for n, token in enumerate(ids) if token != bos), len(ids)),
            prompts_sha256=digest.hexdigest(),
        )

    def load(self) -> EngineInfo:
        return EngineInfo(
            engine_version=self._await(self._find_version()),
            device=self._server.base_url,
            packages={"aiohttp": aiohttp.__version__},
        )

    async def _find_version(self) -> str:
        if self._kind == "vllm":
            try:
                told = await self._server.look_up("/version", 0)
            except AttemptError:
                return self._kind
            return f"vllm {told.get('version', '')}".strip()
        return self._kind

    def run(
        self, requests: Sequence[Request], skip: Container[tuple[str, int]] = frozenset()
    ) -> Iterator[Completion]:
        """Raises WorkerError for the first request that was lost, when the others are answered."""
        if unknown := [request for request in requests if request.id not in self._asks]:
            self.tokenize(unknown)
        pending = (
            self._asks[request.id](index)
            for request in requests
            for index in range(request.sampling.n if request.sampling else 1)
            if (request.id, index) not in skip
        )
        queue = AskQueue(self._server, pending, self._settings.concurrency)
        try:
            while answered := self._loop.run_until_complete(queue.next_ones()):
                yield from answered
        finally:
            self._loop.run_until_complete(queue.stop())
            self._loop.run_until_complete(self._server.close())
        if queue.lost:
            raise self._explain_lost(queue.lost)

    def _explain_lost(self, lost: Sequence[tuple[str, AttemptError]]) -> WorkerError:
        request_id, trouble = lost[0]
        error = self._server.explained(trouble)
        which = f"`{request_id}`" + (f" and {len(lost) - 1} more" if len(lost) > 1 else "")
        return WorkerError(f"no answer to {which}: {error.message}", error.hint, cause=error.cause)

    def stats(self) -> JSON:
        """attempts: requests sent, those that failed and trials too. least_concurrency: where it
        went to while the server was overloaded."""
        return {
            "attempts": self._server.attempts,
            "least_concurrency": self._server.gate.least_limit,
            "prompts": "token ids" if self._encoder else "texts",
        }


def _same_name(served: str, wanted: str) -> bool:
    if served == wanted:
        return True
    is_path = os.path.isabs(wanted) and bool(served)
    return is_path and os.path.realpath(served) == os.path.realpath(wanted)


def _one_token_each(prepared: Prepared) -> bool:
    first = prepared.choices[0][0]
    return all(size(answer) == 1 and context == first for context, answer in prepared.choices)


def _needed(prepared: Prepared) -> int:
    """Tokens that the server must hold; it generates one after what it scores."""
    if prepared.request.kind == "generate":
        return size(prepared.prompt) + prepared.added_tokens()
    if prepared.request.kind == "choose" and _one_token_each(prepared):
        return size(prepared.prompt) + 1
    return max(size(context) + size(answer) + 1 for context, answer in prepared.choices)


def _unsupported(request: Request, why: str, hint: str) -> WorkerError:
    return WorkerError(f"request `{request.id}` {why}", hint, cause="unsupported")


def _as_text(request: Request) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    return "\n".join(f"{message.role}: {message.content}" for message in request.prompt)
