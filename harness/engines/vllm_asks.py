"""What vLLM is asked for each request, and how its outputs become completions.

A choice of one token costs nothing beyond its question: one request generates one token and tells
the log-probabilities of given token ids. Longer continuations are scored in one of three ways:

    replay   the engine is made to follow the continuation (Model Runner V2)
    tokens   one request for each token of the continuation; they meet in the prefix cache
    rows     log-probabilities of the prompt itself, which cannot use the prefix cache
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vllm import SamplingParams as Params
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind

from harness.engines.sampling import Stream
from harness.engines.scoring import Question
from harness.engines.stopping import Stops, Vocabulary
from harness.engines.tokenizing import Prepared
from harness.engines.trie import TOKEN_BYTES, SortedPaths, size, unpack
from harness.errors import WorkerError
from harness.types import Completion, SamplingParams

Way = Literal["replay", "tokens", "rows"]

MOST_IDS = 128  # that one request may ask about; vLLM's MAX_LOGPROB_TOKEN_IDS
_REQUEST_COST = 8  # tokens that could be read in the time that one more request takes


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to vLLM. take: the completion, if this output is the last that it waited for."""

    prompt: bytes
    params: Params
    take: Callable[[Any], Completion | None]


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer token of a question, whose log-probability is wanted."""

    choice: int
    place: int
    token: int


class Writer:
    """Asks for texts. eos: tokens that end one."""

    def __init__(self, vocabulary: Vocabulary, eos: Collection[int]) -> None:
        self._vocabulary = vocabulary
        self._eos = eos
        self._stops: dict[tuple[str, ...], Stops] = {}

    def asks(self, prepared: Prepared, indices: Sequence[int]) -> Iterator[Ask]:
        """One for each sample: they share the prompt through the prefix cache, and each has a
        seed that depends on nothing but the task, the question and the sample's number."""
        given = prepared.request.sampling or SamplingParams()
        if given.stop not in self._stops:
            self._stops[given.stop] = Stops(self._vocabulary, given.stop)
        stops = self._stops[given.stop]
        for index in indices:
            stream = Stream(
                prepared, index, given, stops, self._eos, self._vocabulary, time.monotonic()
            )
            params = _sampling(given, stops, self._eos, _seed(prepared.request.id, index, given))
            yield Ask(prepared.prompt, params, _Text(stream).take)


@dataclass(frozen=True, slots=True)
class _Text:
    """The tokens go through the same code as those of engine `hf`: stop strings and end tokens
    mean the same, whatever vLLM's own detokenizer makes of them."""

    stream: Stream

    def take(self, output: Any) -> Completion | None:
        stream, written = self.stream, output.outputs[0]
        for token in written.token_ids:
            if (completion := stream.push(token)) is not None:
                return completion
        return stream.end(stopped=written.finish_reason == "stop")


def _sampling(given: SamplingParams, stops: Stops, eos: Collection[int], seed: int) -> Params:
    params = _params(
        temperature=given.temperature,
        top_p=given.top_p,
        max_tokens=given.max_tokens,
        seed=seed if given.temperature > 0 else None,
        stop=[string for string in given.stop if string] or None,
        stop_token_ids=sorted({*eos, *stops.ids}),
        ignore_eos=True,  # all of them are among the stop tokens
        include_stop_str_in_output=given.include_stop,
        output_kind=RequestOutputKind.FINAL_ONLY,
        detokenize=any(given.stop),
    )
    if params.temperature != given.temperature:
        raise WorkerError(
            f"vLLM does not sample at temperature {given.temperature}, only from "
            f"{params.temperature} on",
            "use another `--temperature`, or `--engine hf`",
            cause="unsupported",
        )
    return params


def _params(**fields: Any) -> Params:
    try:
        return Params(**fields, skip_clone=True)  # each request has its own
    except (ValueError, VLLMValidationError) as error:
        raise WorkerError(
            f"vLLM refuses the sampling: {error}",
            "change it with `--temperature`, `--samples` or `--max-tokens`, or use `--engine hf`",
            cause="unsupported",
        ) from None


def _seed(request_id: str, index: int, given: SamplingParams) -> int:
    """The same name as that of the stream in engine `hf`, as the number that vLLM wants."""
    name = f"{given.seed}\n{request_id}\n{index}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")


class Judge:
    """Asks for log-probabilities. block_tokens: of the prefix cache. replays: see `can_replay`.
    rows: whether the engine can score prompts; one with adapters mixes up their rows. text: of a
    token, for questions that ask for the likeliest ones."""

    def __init__(
        self, block_tokens: int, *, replays: bool, rows: bool, text: Callable[[int], str]
    ) -> None:
        self._text = text
        self._block_tokens = block_tokens
        self._replays = replays
        self._rows = rows
        self.ways: dict[str, int] = {}

    def asks(self, prepared: Sequence[Prepared]) -> Iterator[Ask]:
        contexts = SortedPaths.of(one.choices[0][0] for one in prepared)
        shared = dict(zip(contexts.paths, contexts.shared, strict=True))
        for one in prepared:
            yield from self._question(one, shared[one.choices[0][0]])

    def _question(self, prepared: Prepared, shared: int) -> Iterator[Ask]:
        question = Question.of(prepared)
        question.started = time.monotonic()
        if all(size(answer) == 1 for _, answer in prepared.choices):
            self._count("one_token")
            made = list(_by_tokens(question))
        else:
            way = self._way(prepared, shared)
            self._count(way)
            made = list(_WAYS[way](question))
        if (wanted := prepared.request.top_tokens) is not None:
            # One request tells either of given tokens or of the likeliest; the prompt is cached.
            params = _one_token(logprobs=wanted)
            made.append(Ask(prepared.choices[0][0], params, _Top(question, self._text).take))
        question.missing = len(made)
        yield from made

    def _count(self, way: str) -> None:
        self.ways[way] = self.ways.get(way, 0) + 1

    def _way(self, prepared: Prepared, shared: int) -> Way:
        """What makes the engine compute fewest tokens. shared: those at the start of the context
        that another question has too."""
        if self._replays and prepared.request.kind != "rolling":
            return "replay"
        if not self._rows:
            return "tokens"
        nodes = {path for path, _ in _nodes(prepared)}
        first = size(prepared.choices[0][0]) - shared // self._block_tokens * self._block_tokens
        partial = sum((size(path) - 1) % self._block_tokens + 1 for path in nodes)
        by_tokens = first + partial + _REQUEST_COST * len(nodes)
        by_rows = sum(size(path) + _REQUEST_COST for path in prepared.paths())
        return "tokens" if by_tokens < by_rows else "rows"


def _nodes(prepared: Prepared) -> Iterator[tuple[bytes, Reading]]:
    """Each answer token, and all that stands before it."""
    for choice, (context, answer) in enumerate(prepared.choices):
        for place, token in enumerate(unpack(answer)):
            yield context + answer[: place * TOKEN_BYTES], Reading(choice, place, token)


def _by_tokens(question: Question) -> Iterator[Ask]:
    groups: dict[bytes, list[Reading]] = {}
    for path, reading in _nodes(question.prepared):
        groups.setdefault(path, []).append(reading)
    for path, readings in groups.items():
        for start in range(0, len(readings), MOST_IDS):
            some = readings[start : start + MOST_IDS]
            ids = list(dict.fromkeys(reading.token for reading in some))
            yield Ask(path, _one_token(logprob_token_ids=ids), _Next(question, some).take)


@dataclass(frozen=True, slots=True)
class _Next:
    """Several answer tokens that may follow one prompt."""

    question: Question
    readings: Sequence[Reading]

    def take(self, output: Any) -> Completion | None:
        written = output.outputs[0]
        for reading in self.readings:
            found = written.logprobs[0][reading.token].logprob
            _note(self.question, reading, found, written.token_ids[0] == reading.token)
        return _settled(self.question)


@dataclass(frozen=True, slots=True)
class _Top:
    """The likeliest tokens that may follow a prompt."""

    question: Question
    text: Callable[[int], str]

    def take(self, output: Any) -> Completion | None:
        told = output.outputs[0].logprobs[0].items()
        likeliest = sorted(told, key=lambda pair: -pair[1].logprob)
        wanted = likeliest[: self.question.prepared.request.top_tokens]
        self.question.top = [(self.text(token), found.logprob) for token, found in wanted]
        return _settled(self.question)


def asks_for_tokens(prompt: bytes, found: dict[int, float]) -> Iterator[Ask]:
    """The log-probability of every token of a prompt but the first goes into `found`."""
    for place, token in enumerate(unpack(prompt)[1:]):

        def take(output: Any, place: int = place, token: int = token) -> Completion | None:
            found[place] = output.outputs[0].logprobs[0][token].logprob
            return None

        path = prompt[: (place + 1) * TOKEN_BYTES]
        yield Ask(path, _one_token(logprob_token_ids=[token]), take)


def _by_rows(question: Question) -> Iterator[Ask]:
    """The last token of a sequence is only looked up, so that a sequence may fill the context."""
    for choice, (context, answer) in enumerate(question.prepared.choices):
        tokens = unpack(answer)
        params = _one_token(prompt_logprobs=0, logprob_token_ids=[tokens[-1]])
        path = (context + answer)[:-TOKEN_BYTES]
        yield Ask(path, params, _Rows(question, choice, size(context), tokens).take)


@dataclass(frozen=True, slots=True)
class _Rows:
    """One choice, of which all tokens but the last are part of the prompt."""

    question: Question
    choice: int
    start: int
    tokens: Sequence[int]

    def take(self, output: Any) -> Completion | None:
        for place, token in enumerate(self.tokens[:-1]):
            found = output.prompt_logprobs[self.start + place][token]
            reading = Reading(self.choice, place, token)
            _note(self.question, reading, found.logprob, found.rank == 1)
        last = Reading(self.choice, len(self.tokens) - 1, self.tokens[-1])
        written = output.outputs[0]
        found = written.logprobs[0][last.token].logprob
        _note(self.question, last, found, written.token_ids[0] == last.token)
        return _settled(self.question)


def _by_replay(question: Question) -> Iterator[Ask]:
    for choice, (context, answer) in enumerate(question.prepared.choices):
        tokens = unpack(answer)
        params = _scored(trace_decode_token_ids=tokens, logprobs=0, max_tokens=len(tokens))
        yield Ask(context, params, _Replayed(question, choice, tokens).take)


@dataclass(frozen=True, slots=True)
class _Replayed:
    """One choice whose tokens the engine was made to write."""

    question: Question
    choice: int
    tokens: Sequence[int]

    def take(self, output: Any) -> Completion | None:
        for place, token in enumerate(self.tokens):
            found = output.outputs[0].logprobs[place][token]
            _note(self.question, Reading(self.choice, place, token), found.logprob, found.rank == 1)
        return _settled(self.question)


_WAYS = {"replay": _by_replay, "tokens": _by_tokens, "rows": _by_rows}


def _one_token(**fields: Any) -> Params:
    return _scored(max_tokens=1, **fields)


def _scored(**fields: Any) -> Params:
    return _params(
        temperature=0.0,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **fields,
    )


def _note(question: Question, reading: Reading, logprob: float, greedy: bool) -> None:
    question.logprobs[reading.choice][reading.place] = logprob
    question.greedy[reading.choice][reading.place] = greedy


def _settled(question: Question) -> Completion | None:
    question.missing -= 1
    return question.completion() if question.missing == 0 else None
