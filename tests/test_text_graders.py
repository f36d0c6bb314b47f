from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.datasets import load
from harness.scorers import (
    ASFT,
    ASFT_LOGSUMEXP,
    CHOICE_TEXT,
    CS336_GSM8K,
    GRADERS,
    NUMBER,
    grade,
    number,
)
from harness.scorers.free_choice import letter_in
from harness.scorers.number import number_in, plain_number
from harness.scorers.tags import FormReward, question_only, r1_zero
from harness.types import Completion, Dataset, Message, Sample

CASES = [
    json.loads(line)
    for name in ("number", "choice", "tags")
    for line in (Path(__file__).parent / "cases" / f"{name}.jsonl").read_text("utf-8").splitlines()
]
SPELLINGS = ("A", "B", "C", "D", "a", "b", "c", "d")
UNLIKELY = -20.0


@pytest.mark.parametrize("case", CASES, ids=[f"{c['grader']}: {c['rule']}" for c in CASES])
def test_case_is_graded_as_written_down(case: dict[str, Any]) -> None:
    score = grade(case["grader"], case["output"], case["target"])
    assert (score.value, score.answer) == (case["value"], case["answer"])
    assert (score.grader, score.version) == (case["grader"], 1)


def test_each_rule_of_a_grader_is_written_down_once() -> None:
    rules = [(case["grader"], case["rule"]) for case in CASES]
    assert len(set(rules)) == len(rules)


def completion(text: str, prompt: str | None = None) -> Completion:
    return Completion(
        request_id="q", text=text, finish_reason="stop", prompt_tokens=1, prompt=prompt
    )


def test_block_opened_by_the_chat_template_must_be_closed() -> None:
    asked = Sample(id="q", input=(Message(role="user", content="6 * 3?"),), target="18")
    opened = "<|user|>6 * 3?<|assistant|><think>\n"
    assert NUMBER(asked, completion("It is 18", opened)).answer is None
    assert NUMBER(asked, completion("17?</think>It is 18", opened)).answer == "18"
    assert NUMBER(asked, completion("It is 18", "<|assistant|>")).answer == "18"


def test_block_opened_by_a_text_prompt_must_be_closed() -> None:
    asked = Sample(id="q", input="User: 6 * 3?\nAssistant: <think>", target="18")
    assert NUMBER(asked, completion("It is 18")).answer is None


def test_letters_are_those_of_the_choices() -> None:
    five = Sample(id="q", input="?", target="E", choices=("A", "B", "C", "D", "E"))
    assert CHOICE_TEXT(five, completion("The answer is (E).")).value == 1.0
    assert CHOICE_TEXT(Sample(id="q", input="?", target="E"), completion("(E)")).answer is None


def test_number_is_the_same_with_and_without_its_quick_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pieces = ["1", "20", "000", "1,000", ",", ".", "-", " - ", "$", " ", "/", "1/2", "5.50", "%"]
    pieces += ["\\frac{1}{2}", "a", " is ", "\n", "{", "}", "(", ")", "**", ":", "\\$", "−"]
    draw = random.Random(1)
    texts = [
        "x" * draw.choice((0, 0, 60, 100)) + "".join(draw.choices(pieces, k=draw.randint(1, 14)))
        for _ in range(20_000)
    ]
    quick = [number_in(text) for text in texts]
    monkeypatch.setattr(number, "_SIMPLE", number.re.compile("(?!)"))
    assert quick == [number_in(text) for text in texts]
    assert sum(found is not None for found in quick) > 15_000


def test_number_far_from_the_end_is_found_whole() -> None:
    assert number_in("It is 1,234,567.50" + " because" * 1_000) == "1234567.5"
    for offset in range(120):
        assert number_in("It is -1,234,567.50 dollars" + "." * offset) == "-1234567.5"


def test_plain_number_of_any_decimal_is_unique() -> None:
    draw = random.Random(2)
    for _ in range(2_000):
        value = draw.randint(-(10**6), 10**6)
        written = f"{value / 1000:.3f}"
        assert float(plain_number(written)) == value / 1000
        assert plain_number(written) == plain_number(written + "0")


def test_hostile_text_is_read_in_no_time() -> None:
    texts = ["1" * 10**6, "1," * 500_000, "#### " * 200_000, "####" + " " * 10**6, "-" * 10**6]
    texts += [
        "12,34," * 170_000 + "x" * 300,
        "(" * 10**6,
        "answer is " * 100_000,
        "A or " * 200_000,
    ]
    texts += ["\\text{" * 170_000, "a " * 500_000, "\\frac{" * 170_000, "<think>" * 150_000]
    for text in texts:
        for name in ("number", "boxed_number", "cs336_gsm8k", "choice", "r1_zero_format"):
            started = time.process_time()
            grade(name, text, "7")
            assert time.process_time() - started < 1


def test_numbers_are_read_fast_enough_for_the_sampler() -> None:
    text = "She sells 16 - 3 - 4 = 9 eggs a day.\n" * 8 + "So she makes {} dollars every day."
    samples = [Sample(id="q", input="?", target=f"... #### {n}") for n in range(5_000)]
    outputs = [completion(text.format(n)) for n in range(5_000)]
    seconds = []
    for _ in range(5):
        started = time.process_time()
        right = sum(NUMBER(*pair).value for pair in zip(samples, outputs, strict=True))
        seconds.append(time.process_time() - started)
        assert right == 5_000
    # The best of five, and a third of what an idle core does, since this one is shared.
    assert 5_000 / min(seconds) > 50_000


@pytest.mark.data
def test_solutions_of_gsm8k_are_read_with_and_without_their_marker(data_root: Path) -> None:
    rows = [
        row["answer"]
        for split in ("train", "test")
        for row in load(
            Dataset(path="openai/gsm8k", config="main", split=split), data_root=data_root
        ).rows
    ]
    forms: list[Callable[[str], str]] = [
        lambda text: text,
        lambda text: text.replace("#### ", "The answer is $") + ".00.",
        lambda text: text.replace("#### ", "So it is **") + "** dollars a day.",
        lambda text: f"<think>{text[:-1]}7</think>\\boxed{{{text.rpartition('#### ')[2]}}}",
    ]
    for form in forms:
        assert all(grade("number", form(text), text).value == 1.0 for text in rows)
    agree = [CS336_GSM8K(Sample(id="", input="", target=t), completion(t)).value for t in rows]
    assert len(agree) == 8_792 == sum(agree)


@pytest.mark.data
def test_letters_of_real_explanations_agree_with_the_gold(data_root: Path) -> None:
    dataset = Dataset(path="openlifescienceai/medmcqa", split="validation")
    rows = [row for row in load(dataset, data_root=data_root).rows if row["exp"]]
    read = [(letter_in(row["exp"]), "ABCD"[row["cop"]]) for row in rows]
    named = [(letter, gold) for letter, gold in read if letter is not None]
    assert len(named) > 1_000
    assert sum(letter == gold for letter, gold in named) >= 0.99 * len(named)


def same(answer: str, target: str) -> bool:
    return answer.strip() == target


@pytest.mark.parametrize(
    ("text", "value", "category"),
    [
        ("x </think> <answer> 7 </answer>", 1.0, "category 1"),
        ("x </think> <answer>8</answer>", 0.0, "category 2"),
        ("x <answer>7</answer>", 0.0, "category 3"),
    ],
)
def test_reward_names_its_category(text: str, value: float, category: str) -> None:
    score = r1_zero(same)(Sample(id="q", input="?", target="7"), completion(text))
    assert score.value == value
    assert score.explanation.startswith(category)


def test_question_only_reward_asks_for_a_box() -> None:
    reward: FormReward = question_only(same)
    asked = Sample(id="q", input="?", target="7")
    assert reward(asked, completion("so \\boxed{7}")).value == 1.0
    assert reward(asked, completion("so 7")).answer is None


def spelled(**logprobs: float) -> Completion:
    """Likely spellings after a space; all others are unlikely, and not among the first tokens."""
    listed = sorted(logprobs.items(), key=lambda pair: -pair[1])
    return Completion(
        request_id="q",
        finish_reason="scored",
        prompt_tokens=1,
        choice_logprobs=tuple(logprobs.get(text, UNLIKELY) for text in SPELLINGS),
        top_tokens=((" The", -0.3), *((f" {text}", logprob) for text, logprob in listed)),
    )


MEDICAL = Sample(id="q", input="?", target="B", choices=SPELLINGS)


def test_likeliest_letter_is_the_answer_of_both_rules() -> None:
    one = spelled(A=-2.0, B=-0.5, C=-3.0)
    assert (ASFT(MEDICAL, one).answer, ASFT_LOGSUMEXP(MEDICAL, one).answer) == ("B", "B")


def test_article_overwrites_the_letter_as_published_and_adds_to_it_repaired() -> None:
    one = spelled(A=-0.7, a=-4.0, B=-1.0)
    assert (ASFT(MEDICAL, one).answer, ASFT_LOGSUMEXP(MEDICAL, one).answer) == ("B", "A")
    assert ASFT(MEDICAL, one).explanation == "A -4.000, B -1.000"


def test_fallback_to_a_is_published_and_unread() -> None:
    for target, value in (("A", 1.0), ("B", 0.0)):
        score = ASFT(Sample(id="q", input="?", target=target, choices=SPELLINGS), spelled())
        assert (score.value, score.answer) == (value, None)
        assert score.explanation == "none of 1 tokens is a letter; ' The' falls back to A"


def test_impossible_letters_do_not_break_the_sum() -> None:
    none = Completion(
        request_id="q",
        finish_reason="scored",
        prompt_tokens=1,
        choice_logprobs=(-math.inf,) * 7 + (-1.0,),
    )
    assert ASFT_LOGSUMEXP(MEDICAL, none).answer == "D"


def test_graders_of_lm_eval_give_its_verdicts() -> None:
    extraction = pytest.importorskip("lm_eval.filters.extraction")
    metrics = pytest.importorskip("lm_eval.api.metrics")
    pieces = [
        "B",
        "b",
        "A",
        " ",
        ".",
        "(",
        ")",
        "\n",
        "**",
        "The answer is ",
        "18",
        "1,0",
        "$",
        ".",
    ]
    draw = random.Random(3)
    ignored = [",", "\\$", "(?s).*#### ", "\\.$"]
    number_filter = extraction.RegexFilter("The answer is (\\-?[0-9\\.\\,]+).")
    seen = 0.0
    for _ in range(3_000):
        text = "".join(draw.choices(pieces, k=draw.randint(0, 6)))
        line = extraction.RegexFilter("^(.*?)(?=\\n|$)").apply([[text]], [{}])[0]
        line = extraction.WhitespaceFilter().apply([line], [{}])[0]
        line = extraction.RegexFilter("^(.*?)\\s*$").apply([line], [{}])[0][0]
        expected = metrics.exact_match_hf_evaluate(
            [line], ["B"], ignore_case=True, ignore_punctuation=True
        )["exact_match"]
        assert grade("first_line", text, "B").value == expected, text
        read = number_filter.apply([[text]], [{}])[0][0]
        value = metrics.exact_match_hf_evaluate(
            [read], ["18"], regexes_to_ignore=ignored, ignore_case=True
        )["exact_match"]
        assert grade("gsm8k_cot_strict", text, "18").value == value, text
        seen += expected + value
    assert seen > 30


def test_every_text_grader_is_known_by_its_name() -> None:
    named = {case["grader"] for case in CASES}
    assert named <= set(GRADERS)
    assert all(grader.name == name and grader.metric for name, grader in GRADERS.items())
