"""Where a text ends: stop strings and end tokens, found without decoding at every step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class Vocabulary:
    """Decodes ids as `tokenizer.decode(ids, skip_special_tokens=True)` does."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}
        # A token is decoded behind another one, since some tokenizers drop a leading space.
        anchor = tokenizer.encode("a", add_special_tokens=False)
        self._anchor: list[int] = list(anchor)
        self._anchor_text: str = self.decode(anchor)
        # Where spaces before punctuation vanish, a token changes the text of the one before it.
        self.rewrites = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def text(self, token: int) -> str:
        """What a token adds to a text; the replacement character where it is part of one."""
        known = self._texts.get(token)
        if known is None:
            whole = self.decode([*self._anchor, token])
            starts = whole.startswith(self._anchor_text)
            known = whole[len(self._anchor_text) :] if starts else _INCOMPLETE
            self._texts[token] = known
        return known

    def special_id(self, text: str) -> int | None:
        """The special token that is written like this: it ends a text but never shows in it."""
        token = self._tokenizer.convert_tokens_to_ids(text)
        return token if token in self._tokenizer.all_special_ids and text else None


class Stops:
    """The stop strings of one request. ids: the special tokens among them."""

    def __init__(self, vocabulary: Vocabulary, strings: Iterable[str]) -> None:
        self._vocabulary = vocabulary
        self._strings = tuple(s for s in strings if s)
        self._tails = tuple({s[i:] for s in self._strings for i in range(1, len(s))})
        self._known: dict[int, bool] = {}
        specials = ((vocabulary.special_id(string), string) for string in self._strings)
        self.ids = {token: string for token, string in specials if token is not None}

    def may_end_with(self, token: int) -> bool:
        """False if no text whose last token is this one has just completed a stop string.

        It has only if the token holds the whole string, or starts with an end of it.
        """
        known = self._known.get(token)
        if known is None:
            text = self._vocabulary.text(token)
            known = bool(self._strings) and (
                self._vocabulary.rewrites
                or _INCOMPLETE in text
                or text.startswith(self._tails)
                or any(string in text for string in self._strings)
            )
            self._known[token] = known
        return known

    def cut(self, text: str, *, include: bool = False) -> str | None:
        """The text before the first stop string, None where there is none.

        include: the text up to and with that string.
        """
        found = [(at, string) for string in self._strings if (at := text.find(string)) >= 0]
        if not found:
            return None
        at, string = min(found)
        return text[: at + len(string)] if include else text[:at]
