"""What is sent to an OpenAI-compatible server for one answer, and how its reply is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.engines.server import BadAnswerError
from harness.engines.tokenizing import Prepared
from harness.engines.trie import size, unpack
from harness.types import (
    JSON,
    UNLISTED,
    Completion,
    FinishReason,
    Message,
    Request,
    SamplingParams,
)

COMPLETIONS = "completions"
CHAT = "chat/completions"

MOST_STOPS = 4  # what the interface promises; vLLM and SGLang take more
BYTES_PER_TOKEN = 4

# Servers that take sampling from the model's generation_config.json or from defaults of their own,
# and the fields that switch this off. Others refuse fields that they do not know.
_NEUTRAL: Mapping[str, JSON] = {
    "vllm": {
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    },
    "sglang": {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "llamacpp": {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
}
_KEEPS_STOP: Mapping[str, JSON] = {
    "vllm": {"include_stop_str_in_output": True},
    "sglang": {"no_stop_trim": True},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One POST. read: makes the completion, without its latency; raises BadAnswerError, or what a
    missing field raises, for a reply that holds none."""

    request_id: str
    index: int
    path: str
    body: JSON
    read: Callable[[JSON], Completion]


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Writes asks for one model. model: its name at the server. kind: of the server, as its list
    of models says (`vllm`, `sglang`, `llamacpp`, …). newest: whether it wants
    `max_completion_tokens` in conversations."""

    model: str
    kind: str
    newest: bool = False

    def chat(self, request: Request, index: int, messages: Sequence[Message]) -> Ask:
        """The server renders the conversation: its exact prompt is not known here."""
        params = request.sampling or SamplingParams()
        body = {"messages": _turns(messages), **self._sampling(request, index)}
        if self.newest:
            body["max_completion_tokens"] = body.pop("max_tokens")
        estimate = about_tokens("".join(message.content for message in messages))

        def read(reply: JSON) -> Completion:
            choice = _only(reply["choices"])
            text = _message_text(choice["message"])
            return _generated(request, index, params, reply, choice, text, estimate)

        return self._ask(request, index, CHAT, body, read)

    def text(self, request: Request, index: int, prompt: str) -> Ask:
        """The server tokenizes, and adds its BOS."""
        return self._completion(request, index, prompt, None, about_tokens(prompt))

    def tokens(self, prepared: Prepared, index: int) -> Ask:
        prompt = unpack(prepared.prompt)
        return self._completion(prepared.request, index, prompt, prepared.text, len(prompt))

    def _completion(
        self, request: Request, index: int, prompt: Any, shown: str | None, n_tokens: int
    ) -> Ask:
        params = request.sampling or SamplingParams()

        def read(reply: JSON) -> Completion:
            choice = _only(reply["choices"])
            text = _text(choice["text"])
            made = _generated(request, index, params, reply, choice, text, n_tokens)
            return replace(made, prompt=shown)

        body = {"prompt": prompt, **self._sampling(request, index)}
        return self._ask(request, index, COMPLETIONS, body, read)

    def _sampling(self, request: Request, index: int) -> JSON:
        params = request.sampling or SamplingParams()
        body: JSON = {
            "temperature": params.temperature,
            "top_p": params.top_p,
            "max_tokens": params.max_tokens,
            **_NEUTRAL.get(self.kind, {}),
        }
        if params.temperature > 0:
            body["seed"] = sample_seed(params.seed, request.id, index)
        if params.stop and params.include_stop:
            # Where the stop string cannot be kept, the text is cut here, and more is generated.
            if self.kind in _KEEPS_STOP:
                body |= {"stop": list(params.stop), **_KEEPS_STOP[self.kind]}
        elif params.stop:
            body["stop"] = list(params.stop if self.kind in _NEUTRAL else params.stop[:MOST_STOPS])
        return body

    def listed(self, request: Request, top: int, prepared: Prepared | None = None) -> Ask:
        """Choices of one token each, looked up among the `top` likeliest first tokens."""
        if isinstance(request.prompt, str):
            return self._listed_after_text(request, request.prompt, top, prepared)
        body = {
            "messages": _turns(request.prompt),
            "logprobs": True,
            "top_logprobs": top,
            "temperature": 0.0,
            ("max_completion_tokens" if self.newest else "max_tokens"): 1,
        }
        estimate = about_tokens("".join(message.content for message in request.prompt))

        def read(reply: JSON) -> Completion:
            first = _only(reply["choices"])["logprobs"]["content"][0]
            likely = {one["token"]: float(one["logprob"]) for one in first["top_logprobs"]}
            # A turn of the assistant begins without the space that separates a choice in a text.
            spelled = [c if c in likely else c.lstrip() for c in request.choices]
            return _looked_up(request, spelled, likely, prompt_tokens(reply, estimate))

        return self._ask(request, 0, CHAT, body, read)

    def _listed_after_text(
        self, request: Request, text: str, top: int, prepared: Prepared | None
    ) -> Ask:
        # Trailing spaces belong to the continuation, as when prompts are tokenized here.
        context = text.rstrip()
        choices = [text[len(context) :] + choice for choice in request.choices]
        prompt = unpack(prepared.choices[0][0]) if prepared else context
        body = {"prompt": prompt, "max_tokens": 1, "temperature": 0.0, "logprobs": top}

        def read(reply: JSON) -> Completion:
            likely = _only(reply["choices"])["logprobs"]["top_logprobs"][0]
            return _looked_up(request, choices, likely, prompt_tokens(reply, about_tokens(text)))

        return self._ask(request, 0, COMPLETIONS, body, read)

    def one_token(self, prepared: Prepared) -> Ask:
        """Choices of one token each after the same context: one position of vLLM's output."""
        wanted = [f"token_id:{unpack(answer)[0]}" for _, answer in prepared.choices]
        body = {
            "prompt": unpack(prepared.choices[0][0]),
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": 1,
            "logprob_token_ids": sorted({unpack(answer)[0] for _, answer in prepared.choices}),
            "return_tokens_as_token_ids": True,
        }

        def read(reply: JSON) -> Completion:
            told = _only(reply["choices"])["logprobs"]
            values, written = told["top_logprobs"][0], told["tokens"][0]
            logprobs = [_number(values[token]) for token in wanted]
            return _scored(prepared, logprobs, [token == written for token in wanted])

        return self._ask(prepared.request, 0, COMPLETIONS, body, read)

    def prompt_logprobs(self, prepared: Prepared) -> Ask:
        """Continuations of any length, as prompts that vLLM scores."""
        pairs = [(unpack(context), unpack(answer)) for context, answer in prepared.choices]
        body = {
            "prompt": [context + answer for context, answer in pairs],
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
        }

        def read(reply: JSON) -> Completion:
            rows = [choice["prompt_logprobs"] for choice in _in_order(reply, len(pairs))]
            told = [
                [row[len(context) + n][str(token)] for n, token in enumerate(answer)]
                for row, (context, answer) in zip(rows, pairs, strict=True)
            ]
            logprobs = [[_number(token["logprob"]) for token in row] for row in told]
            return _scored_parts(prepared, logprobs, [[t["rank"] == 1 for t in r] for r in told])

        return self._ask(prepared.request, 0, COMPLETIONS, body, read)

    def echo(self, prepared: Prepared) -> Ask:
        """Continuations of any length, as prompts that the server writes back with their scores."""
        pairs = [(unpack(context), unpack(answer)) for context, answer in prepared.choices]
        body = {
            "prompt": [context + answer for context, answer in pairs],
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": 1,
            "echo": True,
        }

        def read(reply: JSON) -> Completion:
            told = [choice["logprobs"] for choice in _in_order(reply, len(pairs))]
            logprobs, greedy = [], []
            for row, (context, answer) in zip(told, pairs, strict=True):
                if len(row["token_logprobs"]) < len(context) + len(answer):
                    raise BadAnswerError("fewer log-probabilities than tokens of the prompt")
                places = range(len(context), len(context) + len(answer))
                own = [_number(row["token_logprobs"][i]) for i in places]
                best = [max(map(_number, row["top_logprobs"][i].values())) for i in places]
                logprobs.append(own)
                greedy.append([a >= b for a, b in zip(own, best, strict=True)])
            return _scored_parts(prepared, logprobs, greedy)

        return self._ask(prepared.request, 0, COMPLETIONS, body, read)

    def _ask(
        self,
        request: Request,
        index: int,
        path: str,
        body: JSON,
        read: Callable[[JSON], Completion],
    ) -> Ask:
        named = {"model": self.model, **body}
        return Ask(request_id=request.id, index=index, path=path, body=named, read=read)


def sample_seed(seed: int, request_id: str, index: int) -> int:
    """Of one sample alone, so that neither order nor what was answered already changes it."""
    digest = hashlib.sha256(f"{seed}\n{request_id}\n{index}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def cut(text: str, stops: Sequence[str], *, include: bool) -> str | None:
    """The text up to the first stop string, with it if wanted; None where there is none.

    >>> cut("a\\n\\nb</s>", ("</s>", "\\n\\n"), include=False)
    'a'
    """
    found = [(place, stop) for stop in stops if stop and (place := text.find(stop)) >= 0]
    if not found:
        return None
    place, stop = min(found, key=lambda pair: (pair[0] + len(pair[1]), pair[0]))
    return text[: place + len(stop)] if include else text[:place]


def about_tokens(text: str) -> int:
    """An estimate where nobody counts: at least one for every text."""
    return 1 + len(text.encode("utf-8", errors="replace")) // BYTES_PER_TOKEN


def prompt_tokens(reply: JSON, estimate: int) -> int:
    return int((reply.get("usage") or {}).get("prompt_tokens") or estimate)


def _turns(messages: Sequence[Message]) -> list[JSON]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _only(choices: Any) -> Any:
    if not choices:
        raise BadAnswerError("no choices")
    return choices[0]


def _in_order(reply: JSON, count: int) -> list[Any]:
    choices = sorted(reply["choices"], key=lambda choice: int(choice["index"]))
    if len(choices) != count:
        raise BadAnswerError(f"{len(choices)} choices for {count} prompts")
    return choices


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadAnswerError(f"{type(value).__name__} in place of a text")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadAnswerError(f"{value!r} in place of a log-probability")
    return float(value)


def _message_text(message: JSON) -> str:
    """The answer; what a server has taken out of it as thinking stands before it again."""
    if "content" not in message:
        raise BadAnswerError("a message without content")
    thought = message.get("reasoning") or message.get("reasoning_content")
    content = message["content"]
    if content is None and not thought:
        return _text(message.get("refusal") or "")
    if not thought:
        return _text(content)
    ending = "" if content is None else f"</think>{_text(content)}"
    return f"<think>{_text(thought)}{ending}"


def _generated(
    request: Request,
    index: int,
    params: SamplingParams,
    reply: JSON,
    choice: JSON,
    text: str,
    estimate: int,
) -> Completion:
    ended = choice["finish_reason"]
    if ended in ("abort", "error"):
        raise BadAnswerError(f"the server gave up: finish_reason `{ended}`")
    short = cut(text, params.stop, include=params.include_stop)
    finish: FinishReason = "length" if ended == "length" and short is None else "stop"
    text = text if short is None else short
    counted = (reply.get("usage") or {}).get("completion_tokens")
    return Completion(
        request_id=request.id,
        index=index,
        text=text,
        finish_reason=finish,
        prompt_tokens=prompt_tokens(reply, estimate),
        completion_tokens=about_tokens(text) if counted is None else int(counted),
    )


def _looked_up(
    request: Request, spelled: Sequence[str], likely: Mapping[str, Any], n_tokens: int
) -> Completion:
    logprobs = tuple(_number(likely.get(choice, UNLISTED)) for choice in spelled)
    ranked = sorted(((text, _number(n)) for text, n in likely.items()), key=lambda one: -one[1])
    best = ranked[0][1] if ranked else UNLISTED
    told = ranked[: request.top_tokens or 0]
    return Completion(
        request_id=request.id,
        text=told[0][0] if told else "",
        finish_reason="scored",
        prompt_tokens=n_tokens,
        choice_logprobs=logprobs,
        choice_greedy=tuple(value == best != UNLISTED for value in logprobs),
        top_tokens=tuple(told),
    )


def _scored_parts(
    prepared: Prepared, logprobs: list[list[float]], greedy: list[list[bool]]
) -> Completion:
    sums, firsts = [sum(row) for row in logprobs], [all(row) for row in greedy]
    if prepared.request.kind == "rolling":  # the windows are parts of one text
        sums, firsts = [sum(sums)], [all(firsts)]
    return _scored(prepared, sums, firsts)


def _scored(prepared: Prepared, logprobs: Sequence[float], greedy: Sequence[bool]) -> Completion:
    return Completion(
        request_id=prepared.request.id,
        finish_reason="scored",
        prompt_tokens=size(prepared.prompt),
        choice_logprobs=tuple(logprobs),
        choice_greedy=tuple(greedy),
        prompt=prepared.text,
    )
