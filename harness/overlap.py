"""Overlap of training texts with the questions of a benchmark: whole questions, and 13-grams.

Texts are compared as lower-case words. A question of fewer than 13 words counts where all its words
stand in the text in a row. What many questions share (an instruction, "Answer:") is a template and
counts as nothing.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

N = 13
"""Words in a row that are no chance (GPT-3, Brown et al. 2020, appendix C)."""
FEWEST_WORDS = 6
"""A shorter question ("What is 2 + 2?") is found anywhere."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlaps:
    """Ids of the questions that stand in a text whole, and of those that share 13 words."""

    exact: tuple[str, ...]
    ngram: tuple[str, ...]


class Questions:
    """The questions of a benchmark, ready to be looked for in many texts."""

    def __init__(self, questions: Mapping[str, str], n: int = N) -> None:
        self.n = n
        self.windows: dict[int, dict[tuple[str, ...], list[str]]] = {}
        words = _without_frame({name: _words(text) for name, text in questions.items()})
        shared = _templates(words.values(), n)
        self.whole = {
            name: tuple(word for word, own in zip(text, _own(text, shared, n), strict=True) if own)
            for name, text in words.items()
        }
        for name, text in words.items():
            for window in _windows(text, n):
                if window not in shared and len(window) >= FEWEST_WORDS:
                    self.windows.setdefault(len(window), {}).setdefault(window, []).append(name)

    def within(self, text: str) -> Overlaps:
        """The questions that the text holds."""
        words = _words(text)
        found: dict[str, None] = {}
        for length, known in self.windows.items():
            for start in range(len(words) - length + 1):
                for name in known.get(tuple(words[start : start + length]), ()):
                    found[name] = None
        exact = [name for name in found if _holds(words, self.whole[name])]
        return Overlaps(exact=tuple(exact), ngram=tuple(found))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _windows(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    """All windows of n words; of a shorter text all of it."""
    size = min(n, len(words))
    return (tuple(words[start : start + size]) for start in range(len(words) - size + 1))


def _without_frame(texts: dict[str, list[str]]) -> dict[str, list[str]]:
    """The texts without the words with which all of them begin, and with which all end."""
    if len(texts) < 2:
        return texts
    head = _in_common(list(texts.values()))
    tail = _in_common([words[head:][::-1] for words in texts.values()])
    return {name: words[head : len(words) - tail] for name, words in texts.items()}


def _in_common(texts: list[list[str]]) -> int:
    """With how many equal words all texts begin: as many as the first and the last in order."""
    pairs = zip(min(texts), max(texts), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _templates(texts: Iterable[list[str]], n: int) -> set[tuple[str, ...]]:
    """Windows that more than ten questions share, and more than one in a hundred."""
    counts: Counter[tuple[str, ...]] = Counter()
    total = 0
    for words in texts:
        counts.update(set(_windows(words, n)))
        total += 1
    return {window for window, count in counts.items() if count > max(10, total / 100)}


def _own(words: list[str], shared: set[tuple[str, ...]], n: int) -> list[bool]:
    """Which words belong to the question itself, not to its template."""
    own = [True] * len(words)
    for start, window in enumerate(_windows(words, n)):
        if window in shared:
            own[start : start + len(window)] = [False] * len(window)
    return own


def _holds(words: list[str], wanted: tuple[str, ...]) -> bool:
    size = len(wanted)
    starts = (i for i, word in enumerate(words) if size and word == wanted[0])
    return any(tuple(words[i : i + size]) == wanted for i in starts)
