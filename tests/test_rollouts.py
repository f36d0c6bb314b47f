"""Rollouts end where an evaluation would end the text, and hold the tokens that were sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

import harness
from harness.types import SamplingParams
from trainers.rollouts import Ending, Rollout, eos_ids, generate, left_padded

GREEDY = SamplingParams(temperature=1e-4, max_tokens=24)
PAD = 0
TINY = Path(harness.__file__).parent / "tiny" / "base"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(TINY)


@pytest.fixture
def model() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)


def ending(tokenizer: Any, *stop: str, include: bool = False) -> Ending:
    sampling = SamplingParams(stop=stop, include_stop=include)
    return Ending(tokenizer, (tokenizer.eos_token_id,), sampling)


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def test_a_completion_ends_with_its_end_token(tokenizer: Any) -> None:
    text = ids(tokenizer, "It is 12.")
    row = [*text, tokenizer.eos_token_id, PAD, PAD]
    expected = Rollout(ids=[*text, tokenizer.eos_token_id], text="It is 12.", truncated=False)
    assert ending(tokenizer).rollout(row) == expected


def test_the_first_end_token_counts_also_where_it_serves_as_padding(tokenizer: Any) -> None:
    eos = tokenizer.eos_token_id
    assert ending(tokenizer).rollout([*ids(tokenizer, "12"), eos, eos, eos]).ids[-2:] != [eos, eos]


def test_a_completion_without_an_end_is_truncated(tokenizer: Any) -> None:
    row = ids(tokenizer, "It is 12.")
    expected = Rollout(ids=row, text="It is 12.", truncated=True)
    assert ending(tokenizer, "Question:").rollout(row) == expected


def test_a_stop_string_ends_the_text_before_it_and_the_tokens_behind_it(tokenizer: Any) -> None:
    kept = ids(tokenizer, "It is 12.\nQuestion:")
    expected = Rollout(ids=kept, text="It is 12.\n", truncated=False)
    assert ending(tokenizer, "Question:").rollout([*kept, PAD, PAD]) == expected


def test_a_stop_string_may_stay_in_the_text(tokenizer: Any) -> None:
    kept = ids(tokenizer, "7</answer>")
    rollout = ending(tokenizer, "</answer>", include=True).rollout([*kept, PAD])
    assert rollout == Rollout(ids=kept, text="7</answer>", truncated=False)


def test_a_special_token_among_the_stop_strings_ends_the_text(tokenizer: Any) -> None:
    special = tokenizer.convert_tokens_to_ids("<|im_end|>")
    kept = [*ids(tokenizer, "12"), special]
    row = [*kept, *ids(tokenizer, " and 13")]
    assert ending(tokenizer, "<|im_end|>").rollout(row) == Rollout(
        ids=kept, text="12", truncated=False
    )
    assert ending(tokenizer, "<|im_end|>", include=True).rollout(row).text == "12<|im_end|>"


def prompts(tokenizer: Any) -> list[list[int]]:
    texts = ["Question: 5+7?\nAnswer:", "Question: Mia has 9 eggs. She buys 7 more. How many?\nA"]
    return [list(tokenizer.encode(text)) for text in texts]


def plain(model: Any, tokenizer: Any, prompt: list[int]) -> list[int]:
    output = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=GREEDY.max_tokens,
    )
    return list(output[0, len(prompt) :].tolist())


def test_prompts_of_different_lengths_are_answered_as_if_alone(model: Any, tokenizer: Any) -> None:
    end = Ending(tokenizer, eos_ids(model, tokenizer), GREEDY)
    found = generate(model, prompts(tokenizer), end, GREEDY, PAD)
    assert [one.ids for one in found] == [
        end.rollout(plain(model, tokenizer, prompt)).ids for prompt in prompts(tokenizer)
    ]


def test_generation_stops_at_a_stop_string(model: Any, tokenizer: Any) -> None:
    first = tokenizer.decode(plain(model, tokenizer, prompts(tokenizer)[0]))
    sampling = SamplingParams(temperature=1e-4, max_tokens=24, stop=(first[3:6],))
    end = Ending(tokenizer, eos_ids(model, tokenizer), sampling)
    rollout = generate(model, prompts(tokenizer)[:1], end, sampling, PAD)[0]
    assert rollout.text == first[: first.index(first[3:6])]
    assert not rollout.truncated
    assert first[3:6] in tokenizer.decode(rollout.ids)
    assert first[3:6] not in tokenizer.decode(rollout.ids[:-1])


def test_sampling_settings_of_the_checkpoint_do_not_leak_in(model: Any, tokenizer: Any) -> None:
    end = Ending(tokenizer, eos_ids(model, tokenizer), GREEDY)
    expected = generate(model, prompts(tokenizer), end, GREEDY, PAD)
    model.generation_config.repetition_penalty = 5.0
    model.train()
    assert generate(model, prompts(tokenizer), end, GREEDY, PAD) == expected
    assert model.generation_config.repetition_penalty == 5.0
    assert model.training


def test_a_model_with_adapters_writes_with_them(model: Any, tokenizer: Any) -> None:
    end = Ending(tokenizer, eos_ids(model, tokenizer), GREEDY)
    bare = generate(model, prompts(tokenizer), end, GREEDY, PAD)
    model.generation_config.repetition_penalty = 5.0
    config = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    tuned = peft.get_peft_model(model, config)
    assert generate(tuned, prompts(tokenizer), end, GREEDY, PAD) != bare
    with tuned.disable_adapter():
        assert generate(tuned, prompts(tokenizer), end, GREEDY, PAD) == bare


def test_every_end_token_of_the_model_ends_a_text(model: Any, tokenizer: Any) -> None:
    assert eos_ids(model, tokenizer) == (2, 4)


def test_left_padding_ends_in_the_last_column() -> None:
    rows, mask = left_padded([[5], [6, 7, 8]], PAD, "cpu")
    assert rows.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]
