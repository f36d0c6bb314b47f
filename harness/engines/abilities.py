"""What an OpenAI-compatible server can do, found out by asking it and not by its name."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from harness.engines.ask import CHAT, COMPLETIONS
from harness.engines.server import AttemptError, Server
from harness.types import JSON

Exact = Literal["vllm", "echo", ""]

MOST_LISTED = 20
FEW_LISTED = 5  # more than this the completions interface does not promise

_RETRIES = 3
_CANNOT = {400, 404, 405, 422, 500, 501}  # how servers say that they do not know a field or path
_NO_MODEL = re.compile(r"model.*(does not exist|not found)", re.IGNORECASE)


class Abilities:
    """Each question is put to the server when it first matters, and once.

    model: its name there. ids: two or more tokens of any text, empty without a tokenizer.
    """

    def __init__(self, server: Server, model: str, ids: Sequence[int]) -> None:
        self._server = server
        self._model = model
        self._ids = list(ids)
        self._known: dict[str, Any] = {}

    async def completions(self) -> bool:
        """Whether texts can be continued."""
        return bool(await self._once("completions", self._find_completions))

    async def takes_ids(self) -> bool:
        """Whether prompts may be token ids."""
        return bool(await self._once("takes_ids", self._find_takes_ids))

    async def exact(self) -> Exact:
        """How log-probabilities of given tokens are told, '' for not at all."""
        found: Exact = await self._once("exact", self._find_exact)
        return found

    async def listed(self, path: str) -> int:
        """How many of the likeliest first tokens are told, 0 for none."""
        return int(await self._once(f"listed {path}", lambda: self._find_listed(path)))

    async def _once(self, name: str, find: Callable[[], Awaitable[Any]]) -> Any:
        if name not in self._known:
            self._known[name] = await find()
        return self._known[name]

    async def _find_completions(self) -> bool:
        return await self._reply(COMPLETIONS, {"prompt": "a", "max_tokens": 1}) is not None

    async def _find_takes_ids(self) -> bool:
        if not self._ids or not await self.completions():
            return False
        return await self._reply(COMPLETIONS, {"prompt": self._ids, "max_tokens": 1}) is not None

    async def _find_exact(self) -> Exact:
        if not await self.takes_ids():
            return ""
        body: JSON = {"prompt": [self._ids], "max_tokens": 1, "temperature": 0.0, "logprobs": 1}
        wanted = {"logprob_token_ids": self._ids[:1], "return_tokens_as_token_ids": True}
        if self._tells_both(
            await self._reply(COMPLETIONS, {**body, **wanted, "prompt_logprobs": 0})
        ):
            return "vllm"
        return (
            "echo" if self._echoes(await self._reply(COMPLETIONS, {**body, "echo": True})) else ""
        )

    def _tells_both(self, reply: JSON | None) -> bool:
        try:
            (choice,) = (reply or {})["choices"]
            rows = choice["prompt_logprobs"]
            named = f"token_id:{self._ids[0]}" in choice["logprobs"]["top_logprobs"][0]
            read = [str(n) in row for n, row in zip(self._ids[1:], rows[1:], strict=True)]
        except (KeyError, IndexError, TypeError, ValueError):
            return False
        return named and all(read)

    def _echoes(self, reply: JSON | None) -> bool:
        try:
            (choice,) = (reply or {})["choices"]
            told = choice["logprobs"]
            pairs = zip(told["token_logprobs"][1:], told["top_logprobs"][1:], strict=True)
            read = [isinstance(one, float) and bool(top) for one, top in pairs]
        except (KeyError, IndexError, TypeError, ValueError):
            return False
        # A server that writes back only what it generated tells of one token.
        return len(read) >= len(self._ids) - 1 and all(read)

    async def _find_listed(self, path: str) -> int:
        for count in (MOST_LISTED, FEW_LISTED):
            body: JSON = {"max_tokens": 1, "temperature": 0.0}
            if path == CHAT:
                turn = {"role": "user", "content": "a"}
                body |= {"messages": [turn], "logprobs": True, "top_logprobs": count}
            else:
                body |= {"prompt": "a", "logprobs": count}
            if _lists(await self._reply(path, body)):
                return count
        return 0

    async def _reply(self, path: str, body: JSON) -> JSON | None:
        """What the server says to a trial, None where it does not know what is meant."""
        try:
            named = {"model": self._model, **body}
            return await self._server.ask(path, named, lambda reply: reply, retries=_RETRIES)
        except AttemptError as trouble:
            if trouble.status not in _CANNOT or _NO_MODEL.search(trouble.message):
                raise
            return None


def _lists(reply: JSON | None) -> bool:
    try:
        told = (reply or {})["choices"][0]["logprobs"]
        first = told["content"][0] if "content" in told else told
        return len(first["top_logprobs"]) > 0
    except (KeyError, IndexError, TypeError):
        return False
