"""Answers for the mock engine, by name: `--set answers=mock_answers:teacher`."""

from __future__ import annotations

from harness.types import Request

RIGHT = {"arithmetic-0": "8", "arithmetic-1": "16", "arithmetic-2": "36"}


def teacher(request: Request, index: int) -> str:
    """Right three times to the first question (twice in the same words), once to the second."""
    problem = request.id.rpartition("/")[2]
    right = RIGHT[problem]
    texts = {
        "arithmetic-0": [right, right, f"So it is {right}.\n#### {right}", "7"],
        "arithmetic-1": ["1", "2", "3", right],
    }.get(problem, ["0"] * 4)
    text = texts[index]
    return text if "####" in text else f"#### {text}"
