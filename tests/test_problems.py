"""Problems: prompts as the model will see them, with room for a completion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import DataError, UsageError
from harness.trainer import TRAIN
from harness.types import JSON, to_json
from tests import rl_parts
from trainers.problems import encode, most_tokens, read_problems

PROMPTS = ["1", "1+1", "1+1+1+1+1"]  # a token for each sign, and one at the start


def written(folder: Path) -> Path:
    """Three prompts of known lengths."""
    samples = rl_parts.short_samples(3)
    lines = [
        json.dumps({"prompt": prompt, "sample": to_json(sample)})
        for sample, prompt in zip(samples, PROMPTS, strict=True)
    ]
    (folder / TRAIN).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_a_prompt_that_leaves_room_for_a_completion_is_kept(tmp_path: Path) -> None:
    recipe = rl_parts.recipe("ppo", max_length=40 + 10)
    problems = read_problems(written(tmp_path), recipe, rl_parts.tokenizer())
    assert [len(problem.prompt) for problem in problems] == [2, 4, 10]
    assert [problem.sample for problem in problems] == rl_parts.short_samples(3)


def test_a_prompt_without_room_is_an_error_that_says_how_long_it_is(tmp_path: Path) -> None:
    recipe = rl_parts.recipe("ppo", max_length=40 + 9)
    with pytest.raises(DataError, match=r"1 of 3 prompts leave no room for 40 tokens in .* 49, "):
        read_problems(written(tmp_path), recipe, rl_parts.tokenizer())


def test_a_prompt_without_room_can_be_left_out(tmp_path: Path) -> None:
    recipe = rl_parts.recipe("ppo", max_length=40 + 9, overlong="drop")
    problems = read_problems(written(tmp_path), recipe, rl_parts.tokenizer())
    assert [problem.example["prompt"] for problem in problems] == PROMPTS[:2]


def test_no_prompt_with_room_is_an_error(tmp_path: Path) -> None:
    recipe = rl_parts.recipe("ppo", max_length=40, overlong="drop")
    with pytest.raises(DataError, match="3 of 3 prompts"):
        read_problems(written(tmp_path), recipe, rl_parts.tokenizer())


def test_a_completion_may_be_as_long_as_the_recipe_or_else_the_task_says() -> None:
    assert most_tokens(rl_parts.recipe("ppo", params={"max_tokens": 7})) == 7
    assert most_tokens(rl_parts.recipe("ppo", params={"max_tokens": None})) == 128


def test_messages_without_a_chat_template_are_refused() -> None:
    tokenizer = rl_parts.tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UsageError, match="the prompts are messages"):
        encode(tokenizer, [{"role": "user", "content": "1+1?"}])


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Question: 1+1?\nAnswer:", "<s>Question: 1+1?\nAnswer:"),
        (
            [{"role": "user", "content": "1+1?"}],
            "<s><|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
)
def test_prompts_begin_with_one_start_token(prompt: str | list[JSON], text: str) -> None:
    tokenizer = rl_parts.tokenizer()
    assert tokenizer.decode(encode(tokenizer, prompt)) == text
