"""Token ids and labels of training examples, compared whole, with TRL's own where it has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from harness.errors import DataError
from harness.types import JSON
from trainers.tokenizing import IGNORED, Counts, Tokenizing, Tokens

TINY = Path(__file__).resolve().parent.parent / "harness" / "tiny" / "base"
TEXT = {"prompt": "Question: 1+1?\nAnswer:", "completion": " 2\n#### 2"}
CHAT = {"prompt": [{"role": "user", "content": "1+1?"}], "completion": "2"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TINY)


def tokenizing(tokenizer: Any, **changes: Any) -> Tokenizing:
    return Tokenizing(**{"tokenizer": tokenizer, "max_length": 512, **changes})


def learnt(tokenizer: Any, tokens: Tokens) -> str:
    kept = [i for i, label in zip(tokens.ids, tokens.labels, strict=True) if label != IGNORED]
    return str(tokenizer.decode(kept))


def test_a_text_is_learnt_from_its_completion_to_the_end_token(tokenizer: Any) -> None:
    tokens = tokenizing(tokenizer).example(TEXT)
    assert tokenizer.decode(tokens.ids) == "<s>Question: 1+1?\nAnswer: 2\n#### 2</s>"
    assert learnt(tokenizer, tokens) == " 2\n#### 2</s>"


def test_without_eos_nothing_is_added(tokenizer: Any) -> None:
    tokens = tokenizing(tokenizer, eos=False).example(TEXT)
    assert learnt(tokenizer, tokens) == " 2\n#### 2"


def test_all_learns_the_prompt_too(tokenizer: Any) -> None:
    tokens = tokenizing(tokenizer, train_on="all").example(TEXT)
    assert tokens.labels == tokens.ids


def test_a_turn_is_learnt_from_its_content_to_what_the_template_puts_behind(tokenizer: Any) -> None:
    tokens = tokenizing(tokenizer).example(CHAT)
    assert tokenizer.decode(tokens.ids) == (
        "<s><|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
    )
    assert learnt(tokenizer, tokens) == "2<|im_end|>\n"


def test_every_turn_of_the_assistant_in_a_conversation_is_learnt(tokenizer: Any) -> None:
    turns = [("assistant", "2"), ("user", "2+2?"), ("assistant", "4")]
    completion = [{"role": role, "content": text} for role, text in turns]
    tokens = tokenizing(tokenizer).example({"prompt": CHAT["prompt"], "completion": completion})
    assert learnt(tokenizer, tokens) == "2<|im_end|>\n4<|im_end|>\n"


@pytest.mark.slow
@pytest.mark.parametrize("example", [TEXT, CHAT], ids=["text", "chat"])
def test_ids_and_labels_are_those_of_trl(tokenizer: Any, example: JSON, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    row = dict(example)
    if not isinstance(row["prompt"], str):
        row["completion"] = [{"role": "assistant", "content": row["completion"]}]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(TINY),
        args=SFTConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, report_to="none"),
        train_dataset=Dataset.from_list([row]),
        processing_class=tokenizer,
    )
    theirs = trainer.train_dataset[0]
    ours = tokenizing(tokenizer).example(example)
    assert (ours.ids, ours.labels) == (theirs["input_ids"], theirs["labels"])


@pytest.mark.parametrize(
    ("overlong", "lengths"), [("drop", [18]), ("truncate", [18, 20])], ids=["drop", "truncate"]
)
def test_what_is_too_long_is_dropped_or_cut_and_counted(
    tokenizer: Any, overlong: str, lengths: list[int]
) -> None:
    short = len(tokenizing(tokenizer).example(TEXT).ids)
    rows = [TEXT, {**TEXT, "completion": " 2" * 50}]
    counts = Counts()
    cutting = tokenizing(tokenizer, overlong=overlong, max_length=short + 2)
    found = [len(tokens.ids) for tokens in cutting.examples(rows, counts)]
    assert found == [short, short + 2][: len(lengths)]
    assert (counts.examples, counts.kept, counts.overlong) == (2, len(lengths), 1)


def test_what_is_too_long_is_an_error_unless_said_otherwise(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="1 of 1 examples are longer than `max_length` 5"):
        list(tokenizing(tokenizer, max_length=5).examples([TEXT], Counts()))


def test_an_empty_completion_teaches_nothing(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="the completion of example 1 is empty"):
        tokenizing(tokenizer).example({**TEXT, "completion": " "})
