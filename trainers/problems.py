"""The problems of a training run: prompts as token ids, with the samples that answers are graded
against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DataError, UsageError
from harness.trainer import read_examples
from harness.types import JSON, Recipe, Sample
from trainers.rewards import reward_task, sample_from_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """example: as it stands in train.jsonl."""

    prompt: list[int]
    sample: Sample
    example: JSON


def read_problems(folder: Path, recipe: Recipe, tokenizer: Any) -> list[Problem]:
    """Those that leave room in `max_length` for a completion of as many tokens as it may have.

    Raises DataError where one leaves none and the recipe does not say `overlong: drop`: a question
    that is cut is another question.
    """
    problems = [_problem(example, tokenizer) for example in read_examples(folder)]
    most = most_tokens(recipe)
    kept = [one for one in problems if len(one.prompt) + most <= recipe.max_length]
    dropped = len(problems) - len(kept)
    if dropped and (recipe.overlong != "drop" or not kept):
        longest = max(len(one.prompt) for one in problems)
        raise DataError(
            f"{dropped} of {len(problems)} prompts leave no room for {most} tokens in "
            f"`max_length` {recipe.max_length}, the longest has {longest} tokens",
            f"`--set max_length={longest + most}`, or `--set overlong=drop`",
        )
    return kept


def most_tokens(recipe: Recipe) -> int:
    """Tokens that a completion may have: the recipe's, else the task's."""
    task = reward_task(recipe.params["reward"])
    return recipe.params.get("max_tokens") or task.sampling.max_tokens


def _problem(example: JSON, tokenizer: Any) -> Problem:
    return Problem(
        prompt=encode(tokenizer, example["prompt"]),
        sample=sample_from_json(example["sample"]),
        example=example,
    )


def encode(tokenizer: Any, prompt: str | list[JSON]) -> list[int]:
    """Text as it stands; messages through the chat template, up to where the answer begins."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if tokenizer.chat_template is None:
        raise UsageError(
            "the prompts are messages, and the tokenizer has no chat template",
            "`--set chat_template=FILE.jinja`, or a template of text such as `alpaca`",
        )
    rendered = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(rendered, add_special_tokens=False)["input_ids"])
