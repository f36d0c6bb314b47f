"""The embedded pair `Tiny`: two real checkpoints that the task `arithmetic` tells apart."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness import datasets, registry
from harness.task import render

TINY = Path(__file__).resolve().parent.parent / "harness" / "tiny"
PAIR = ("base", "instruct")
TEXTS = (
    "Plain words, and 1234 digits.",
    "Größe, naïve café, “quoted” — 日本語の問題：答え？ مرحبا 🧮👩‍👩‍👧",
    "  two  spaces\tand\r\nline ends\n\n ",
    "\x00\x01\x7f\u200b\ufeff",
    "He'll say: don't! x=<<3+4=7>>7",
)


@cache
def tokenizer(member: str) -> Any:
    return AutoTokenizer.from_pretrained(TINY / member, padding_side="left")


@cache
def model(member: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(TINY / member, dtype=torch.float32).eval()


@pytest.mark.parametrize("member", PAIR)
def test_a_checkpoint_is_a_small_llama_in_bfloat16(member: str) -> None:
    assert sum(file.stat().st_size for file in (TINY / member).iterdir()) < 2_000_000
    config = model(member).config
    assert config.model_type == "llama"
    assert config.max_position_embeddings == 16384
    assert config.tie_word_embeddings
    stored = AutoModelForCausalLM.from_pretrained(TINY / member)
    assert stored.dtype == torch.bfloat16


@pytest.mark.parametrize("member", PAIR)
@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_the_tokenizer(member: str, text: str) -> None:
    ids = tokenizer(member)(text, add_special_tokens=False)["input_ids"]
    assert tokenizer(member).decode(ids) == text


def test_both_members_share_one_tokenizer() -> None:
    first, second = ((TINY / member / "tokenizer.json").read_bytes() for member in PAIR)
    assert first == second


@pytest.mark.parametrize("member", PAIR)
def test_each_digit_is_one_token_and_a_text_starts_with_one_bos(member: str) -> None:
    ids = tokenizer(member)("907 5")["input_ids"]
    assert tokenizer(member).convert_ids_to_tokens(ids) == ["<s>", "9", "0", "7", "Ġ", "5"]


@pytest.mark.parametrize("member", PAIR)
def test_letters_of_choices_are_single_tokens(member: str) -> None:
    for letter in "ABCD":
        assert len(tokenizer(member)(f" {letter}", add_special_tokens=False)["input_ids"]) == 1


@pytest.mark.parametrize("member", PAIR)
def test_the_chat_template_is_chatml_after_one_bos(member: str) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tokenizer(member).apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = tokenizer(member)(text, add_special_tokens=False)["input_ids"]
    assert ids.count(tokenizer(member).bos_token_id) == 1


@pytest.mark.parametrize("member", PAIR)
def test_a_prompt_of_8192_tokens_gives_finite_logits(member: str) -> None:
    generator = torch.Generator().manual_seed(0)
    size = model(member).config.vocab_size
    ids = torch.randint(0, size, (1, 8192), generator=generator)
    with torch.no_grad():
        logits = model(member)(ids, logits_to_keep=16).logits
    assert torch.isfinite(logits).all()


def test_arithmetic_tells_the_two_apart() -> None:
    base, instruct = accuracy("base"), accuracy("instruct")
    assert base < 0.6
    assert instruct > 0.8
    assert instruct - base > 0.3


def accuracy(member: str) -> float:
    """Share of the first 100 test items answered right by greedy decoding."""
    task = registry.task("arithmetic")
    rows = datasets.load(task.dataset, task.columns).rows[:100]
    samples = [task.to_sample(row, index) for index, row in enumerate(rows)]
    prompts = [render(task, sample, (), chat=False).prompt for sample in samples]
    batch = tokenizer(member)(prompts, return_tensors="pt", padding=True)
    out = model(member).generate(**batch, max_new_tokens=72, do_sample=False)
    written = tokenizer(member).batch_decode(
        out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    right = 0
    for sample, text in zip(samples, written, strict=True):
        found = re.search(r"#### (\d+)", text.split("Question:")[0])
        right += found is not None and found[1] == sample.target.rsplit(" ", 1)[1]
    return right / len(samples)
