"""Prompts as token ids, exactly as lm-eval 0.4.13 makes them, at a fraction of its cost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jinja2

from harness.engines.trie import TOKEN_BYTES, pack, size
from harness.errors import WorkerError
from harness.types import Message, Request, SamplingParams

# Pre-tokenizers whose pieces never hold a newline followed by an ASCII letter, and whose choice of
# pieces before such a place depends on nothing after that letter: every alternative is a run of
# one class of characters, letters take no newline in front, and no pattern looks behind.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINE_SAFE_PATTERNS = {
    # GPT-2, as a Split step
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # Llama 3
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # Qwen 2 to 3
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
# These only set numbers apart, wherever they stand.
_NUMBER_PATTERNS = {class_ + count for class_ in (r"\d", r"\p{N}") for count in ("", "+", "{1,3}")}
_LINE_START = re.compile(r"\n(?=[A-Za-z])")
_LETTER = "a"  # stands for any
_FOLLOWED = "\n" + _LETTER
_BLOCK = 2048

T = TypeVar("T")
Key = tuple[str, bool]  # a text, and whether special tokens are added to it


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as token ids (packed, see `trie.pack`).

    text: the prompt after the chat template, None where it is the request's own. prompt: its
    tokens. choices: context and continuation of each choice, or of each window of a text that is
    scored whole; the model reads the context and the continuation without its last token.
    """

    request: Request
    text: str | None
    prompt: bytes
    choices: tuple[tuple[bytes, bytes], ...] = ()

    def paths(self) -> list[bytes]:
        """What the model has to read."""
        if self.request.kind in ("generate", "embed"):
            return [self.prompt]
        return [(context + answer)[:-TOKEN_BYTES] for context, answer in self.choices]

    def added_tokens(self) -> int:
        if self.request.kind == "generate":
            return (self.request.sampling or SamplingParams()).max_tokens
        return max((size(answer) for _, answer in self.choices), default=0)


class LineCache:
    """Token ids of lines, each encoded once.

    A text is cut before every line that starts with an ASCII letter; its tokens are those of its
    pieces in a row. This is exact only for the tokenizers that `cuts_at_lines` accepts.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._letter = size(self._pack([_LETTER])[0])
        self._tokens: dict[str, bytes] = {}

    def learn(self, texts: Iterable[str]) -> None:
        pieces = dict.fromkeys(piece for text in texts for piece in _pieces(text))
        new = [piece for piece in pieces if piece not in self._tokens]
        for block in _blocks(new):
            for piece, ids in zip(block, self._pack(block), strict=True):
                followed = piece.endswith(_FOLLOWED)
                self._tokens[piece] = ids[: -TOKEN_BYTES * self._letter] if followed else ids

    def encode(self, text: str) -> bytes:
        return b"".join([self._tokens[piece] for piece in _pieces(text)])

    def _pack(self, texts: Sequence[str]) -> list[bytes]:
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [pack(encoding.ids) for encoding in encodings]


def _pieces(text: str) -> list[str]:
    """Each with the letter that follows it, which is not its own: `\\s+(?!\\S)` looks that far."""
    cuts = [match.end() for match in _LINE_START.finditer(text)]
    inner = [text[a:b] + _LETTER for a, b in zip([0, *cuts], cuts, strict=False)]
    return [*inner, text[cuts[-1] :] if cuts else text]


def _blocks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _BLOCK):
        yield items[start : start + _BLOCK]


def cuts_at_lines(backend: Any) -> bool:
    """Whether a text may be cut before a line that starts with an ASCII letter.

    True only where every step is known to work on both sides of such a place independently.
    """
    normalizer, splitter = _state(backend.normalizer), _state(backend.pre_tokenizer)
    added = backend.get_added_tokens_decoder().values()
    return (
        # NFC never joins an ASCII letter to what stands before it.
        (normalizer is None or normalizer["type"] == "NFC")
        and splitter is not None
        and _splits_lines(splitter)
        and not any(t.lstrip or t.single_word or _LINE_START.search(t.content) for t in added)
    )


def _state(step: Any) -> Any:
    return None if step is None else json.loads(step.__getstate__())


def _splits_lines(step: dict[str, Any]) -> bool:
    steps = step["pretokenizers"] if step["type"] == "Sequence" else [step]
    return all(map(_is_local, steps)) and any(map(_cuts_before_letters, steps))


def _is_local(step: dict[str, Any]) -> bool:
    """Whether a step treats both sides of a line's start independently."""
    if step["type"] == "ByteLevel":
        return not step["add_prefix_space"]
    return step["type"] == "Digits" or _pattern(step) in _LINE_SAFE_PATTERNS | _NUMBER_PATTERNS


def _cuts_before_letters(step: dict[str, Any]) -> bool:
    if step["type"] == "ByteLevel":
        return bool(step["use_regex"])
    return _pattern(step) in _LINE_SAFE_PATTERNS


def _pattern(step: dict[str, Any]) -> str | None:
    """The regular expression of a step that sets its matches apart, None for other steps."""
    if step["type"] != "Split" or step["behavior"] != "Isolated" or step["invert"]:
        return None
    expression: str | None = step["pattern"].get("Regex")
    return expression


def rolling_windows(prefix: bytes, tokens: bytes, context: int) -> Iterator[tuple[bytes, bytes]]:
    """Context and continuation of each window over a text, so that every token is scored once.

    prefix: the one token before the text. context: tokens that the model can read, at least 1.
    Each window reads as many as that: the last one starts earlier rather than being short, as in
    lm-eval 0.4.13 (utils.get_rolling_token_windows, with one token of context).

    >>> from harness.engines.trie import unpack
    >>> [(unpack(a), unpack(b)) for a, b in rolling_windows(pack([0]), pack(range(1, 6)), 3)]
    [([0], [1, 2, 3]), ([2, 3], [4, 5])]
    """
    read = context * TOKEN_BYTES
    whole = prefix + tokens
    for start in range(0, len(tokens), read):
        stop = min(start + read, len(tokens))
        first = max(0, stop - read)
        yield whole[first : start + TOKEN_BYTES], tokens[start:stop]


class PromptEncoder:
    """Turns requests into `Prepared`. name: the model, for messages."""

    def __init__(self, tokenizer: Any, name: str, chat_template: str = "model") -> None:
        self.tokenizer = tokenizer
        self._name = name
        self._template = chat_template
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._prefix_id: int | None = eos if bos is None else bos
        self._prefix_text = "" if self._prefix_id is None else tokenizer.decode(self._prefix_id)
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._specials: bytes = b""
        self._by_line = False
        if self._backend is not None:
            self._backend.no_padding()
            self._backend.no_truncation()
            self._by_line = self._adds_only_a_prefix() and cuts_at_lines(self._backend)

    def _adds_only_a_prefix(self) -> bool:
        """Whether special tokens are added in front alone; keeps them."""
        assert self._backend is not None
        with_them = self._backend.encode("a", add_special_tokens=True).ids
        plain = self._backend.encode("a", add_special_tokens=False).ids
        self._specials = pack(with_them[: len(with_them) - len(plain)])
        return bool(with_them[len(with_them) - len(plain) :] == plain)

    def prepare(
        self, requests: Sequence[Request], context: int | None = None
    ) -> Iterator[Prepared]:
        """In the order of `requests`, a block at a time to bound the memory for texts.

        context: tokens that the model can read; requests of kind `rolling` and `embed` need it.
        """
        lines = LineCache(self._backend) if self._by_line else None
        for block in _blocks(requests):
            texts = [self._render(request) for request in block]
            keys = [self._keys(r, t) for r, t in zip(block, texts, strict=True)]
            tokens = self._encode({key: None for own in keys for key in own}, lines)
            for request, text, own in zip(block, texts, keys, strict=True):
                yield self._prepare(request, text, [tokens[key] for key in own], context)

    def _keys(self, request: Request, text: str) -> list[Key]:
        """What has to be encoded: the prompt, or the context and then it with each choice."""
        if request.kind in ("generate", "embed"):
            return [self._key(request, text, self.tokenizer.bos_token)]
        if request.kind == "rolling":
            return [self._key(request, text, self._prefix_text)]
        # Trailing spaces belong to the continuation, whose first token often starts with one.
        context = text.rstrip()
        texts = [context, *(text + choice for choice in request.choices)]
        if not context:
            return [(t, False) for t in texts]
        return [self._key(request, t, self._prefix_text) for t in texts]

    def _key(self, request: Request, text: str, bos: str | None) -> Key:
        """Never twice a BOS: not where the text starts with one, nor after a chat template."""
        starts_with_bos = bool(bos) and text.startswith(bos or "")
        return text, isinstance(request.prompt, str) and not starts_with_bos

    def _prepare(
        self, request: Request, text: str, tokens: list[bytes], context: int | None
    ) -> Prepared:
        shown = None if isinstance(request.prompt, str) else text
        if request.kind == "generate":
            return Prepared(request, shown, tokens[0] or self._prefix(request))
        if request.kind == "embed":
            whole = tokens[0] or self._prefix(request)
            # What does not fit is cut off, and the completion says so.
            return Prepared(request, shown, whole[: (context or len(whole)) * TOKEN_BYTES])
        if request.kind == "rolling":
            return Prepared(request, shown, tokens[0], self._windows(request, tokens[0], context))
        choices = tuple(self._split(request, tokens[0], whole) for whole in tokens[1:])
        return Prepared(request, shown, choices[0][0], choices)

    def _windows(
        self, request: Request, tokens: bytes, context: int | None
    ) -> tuple[tuple[bytes, bytes], ...]:
        assert context is not None, "an engine that scores texts whole gives its context"
        if not tokens:
            raise WorkerError(
                f"the text of request `{request.id}` is empty: there is nothing to score",
                "leave such rows out of the data",
                cause="empty_prompt",
            )
        return tuple(rolling_windows(self._prefix(request), tokens, context))

    def _split(self, request: Request, context: bytes, whole: bytes) -> tuple[bytes, bytes]:
        if not context:
            prefix = self._prefix(request)
            # lm-eval: a continuation that itself starts with the prefix token is not given two.
            context, whole = prefix, whole if whole.startswith(prefix) else prefix + whole
        answer = whole[len(context) :]
        if not answer:
            raise WorkerError(
                f"a choice of request `{request.id}` adds no token to its prompt",
                "give each choice a text of its own, such as ` A`",
                cause="empty_choice",
            )
        return context, answer

    def _prefix(self, request: Request) -> bytes:
        if self._prefix_id is None:
            raise WorkerError(
                f"the prompt of request `{request.id}` is empty and the tokenizer of "
                f"`{self._name}` has neither a BOS nor an EOS token to start from",
                "give the request a prompt",
                cause="empty_prompt",
            )
        return pack([self._prefix_id])

    def _encode(self, keys: Iterable[Key], lines: LineCache | None) -> dict[Key, bytes]:
        if lines is not None:
            lines.learn(text for text, _ in keys)
            return {
                (text, special): (self._specials if special else b"") + lines.encode(text)
                for text, special in keys
            }
        tokens: dict[Key, bytes] = {}
        for special in (True, False):
            texts = [text for text, wanted in keys if wanted is special]
            ids = self._ids(texts, special)
            tokens.update(((t, special), own) for t, own in zip(texts, ids, strict=True))
        return tokens

    def _ids(self, texts: list[str], special: bool) -> list[bytes]:
        if self._backend is not None:
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=special)
            return [pack(encoding.ids) for encoding in encodings]
        return [pack(self.tokenizer.encode(t, add_special_tokens=special)) for t in texts]

    def _render(self, request: Request) -> str:
        if isinstance(request.prompt, str):
            return request.prompt
        return self._render_chat(request.id, request.prompt)

    def _render_chat(self, request_id: str, messages: Sequence[Message]) -> str:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                turns,
                chat_template=self._chat_template(),
                tokenize=False,
                add_generation_prompt=True,
            )
        except jinja2.TemplateError as error:
            roles = ", ".join(dict.fromkeys(m.role for m in messages))
            raise WorkerError(
                f"the chat template of `{self._name}` refuses request `{request_id}` "
                f"(roles: {roles}): {error}",
                "set `chat_template` of the model to a Jinja file that takes these roles",
                cause="chat_template",
            ) from None
        return str(text)

    def _chat_template(self) -> str | None:
        """A template in place of the tokenizer's own, or None for that one."""
        if self._template not in ("model", "none"):
            try:
                return Path(self._template).read_text(encoding="utf-8")
            except OSError as error:
                raise WorkerError(
                    f"chat template `{self._template}` cannot be read: {error.strerror}",
                    f"set `chat_template` of `{self._name}` to `model`, or to a Jinja file",
                    cause="no_chat_template",
                ) from None
        if self._template == "none" or not self.tokenizer.chat_template:
            raise WorkerError(
                f"the prompts are messages, and `{self._name}` has no chat template",
                "use a task variant with text prompts, or set `chat_template` to a Jinja file",
                cause="no_chat_template",
            )
        return None
