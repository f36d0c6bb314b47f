"""The prompt of the ASFT project's medical evaluation: raw text, zero-shot, one token asked for."""

from __future__ import annotations

from collections.abc import Sequence

TOP_TOKENS = 10
LETTERS = ("A", "B", "C", "D")
# What may be read as a letter: see `harness.scorers.asft`.
SPELLINGS = (*LETTERS, *(letter.lower() for letter in LETTERS))


def asft_prompt(question: str, options: Sequence[str]) -> str:
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return "\n".join([f"Question: {question}", "", "Options:", *lines, "", "Answer:"])
