"""Mathematics: the prompts of each protocol, the rows of each benchmark, and their references."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness import registry
from harness.errors import DataError, UsageError
from harness.plan import adjusted, write_plan
from harness.questions import questions
from harness.scorers import grade
from harness.task_check import check_gold
from harness.types import Completion, Message, Request, Sample, SamplingParams

BOTH = ("math", "hendrycks_math")
QWEN_DEFAULT = ("minerva_ocw", "olympiadbench", "aime24", "aime25", "amc23")
ASFT_STOPS = (
    *("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>"),
    "<｜end▁of▁sentence｜>",
)
STEP_BY_STEP = "Please reason step by step, and put your final answer within \\boxed{}."
SIZES = {
    "math": 500,
    "hendrycks_math": 5_000,
    "minerva_math": 5_000,
    "minerva_ocw": 272,
    "olympiadbench": 675,
    "aime24": 30,
    "aime25": 30,
    "amc23": 40,
}

MATH_ROW = {
    "problem": "What is $1+1$? ",
    "solution": "It is $\\boxed{2}.$",
    "level": "Level 1",
    "type": "Prealgebra",
    "subject": "Prealgebra",
    "unique_id": "own/1.json",
}


def asked(name: str, row: dict[str, Any]) -> Sample:
    return registry.task(name).to_sample(row, 7)


def first(name: str, *, chat: bool = False) -> Request:
    return next(questions(registry.task(name), offline=True, chat=chat).requests())


def chat_turns(problem: str) -> tuple[Message, ...]:
    return (Message(role="system", content=STEP_BY_STEP), Message(role="user", content=problem))


@pytest.mark.parametrize("name", BOTH)
def test_math_has_the_five_protocols(name: str) -> None:
    variants = [task.variant for task in registry.all_tasks() if task.name == name]
    assert sorted(variants) == ["", "alpaca", "minerva", "qwen", "r1_zero"]


@pytest.mark.parametrize("name", BOTH)
def test_prompts_of_math_are_the_published_ones(name: str) -> None:
    assert asked(name, MATH_ROW).input == "Problem: What is $1+1$? \nAnswer:"
    assert asked(f"{name}:qwen", MATH_ROW).input == chat_turns("What is $1+1$?")
    assert asked(f"{name}:alpaca", MATH_ROW).input == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nWhat is $1+1$?\n\n### Response:\n"
    )
    assert asked(f"{name}:r1_zero", MATH_ROW).input == (
        "A conversation between User and Assistant. The User asks a question, and the Assistant "
        "solves it. The Assistant first thinks about the reasoning process in the mind and then "
        "provides the User with the answer. The reasoning process is enclosed within <think> "
        "</think> and answer is enclosed within <answer> </answer> tags, respectively, i.e., "
        "<think> reasoning process here </think> <answer> answer here </answer>.\n"
        "User: What is $1+1$? \nAssistant: <think>"
    )
    assert asked(f"{name}:minerva", MATH_ROW).input == "Problem:\nWhat is $1+1$? \n\nSolution:"


def test_rows_of_math_keep_their_subject_and_their_box() -> None:
    sample = asked("hendrycks_math:r1_zero", MATH_ROW)
    assert (sample.id, sample.target, sample.group) == ("hendrycks_math-7", "2", "Prealgebra")
    with pytest.raises(DataError, match="no \\\\boxed answer"):
        asked("hendrycks_math:alpaca", {**MATH_ROW, "solution": "It is 2."})


@pytest.mark.parametrize("name", BOTH)
def test_sampling_of_math_is_the_published_one(name: str) -> None:
    lm_eval = SamplingParams(max_tokens=256, stop=("Problem:",))
    step_by_step = SamplingParams(max_tokens=4096, stop=ASFT_STOPS)
    assert {v: registry.task(f"{name}{v}").sampling for v in ("", ":qwen", ":alpaca")} == {
        "": lm_eval,
        ":qwen": step_by_step,
        ":alpaca": step_by_step,
    }
    assert registry.task(f"{name}:minerva").sampling == lm_eval
    assert registry.task(f"{name}:r1_zero").sampling == SamplingParams(
        temperature=1.0, max_tokens=1024, stop=("</answer>",), include_stop=True
    )


def test_minerva_math_is_the_minerva_variant_under_lm_evals_name() -> None:
    one, other = first("minerva_math"), first("hendrycks_math:minerva")
    assert one == other
    assert isinstance(one.prompt, str)
    assert one.prompt.count("Problem:\n") == one.prompt.count("\n\nSolution:") == 5
    assert one.prompt.count("I hope it is correct.\n\nProblem:") == 4


def test_fewer_minerva_examples_can_be_shown_but_not_more() -> None:
    task = registry.task("minerva_math")
    two = next(questions(task, offline=True, shots=2).requests())
    assert isinstance(two.prompt, str)
    assert two.prompt.count("Problem:\n") == 3
    with pytest.raises(UsageError, match="has 4 example"):
        questions(task, offline=True, shots=5)


@pytest.mark.parametrize("name", [*(f"{name}:qwen" for name in BOTH), *QWEN_DEFAULT])
def test_step_by_step_is_asked_in_the_chat_template_always(name: str, tmp_path: Path) -> None:
    task = registry.task(name)
    plain, chat = first(name), first(name, chat=True)
    assert plain == chat
    assert isinstance(plain.prompt, tuple)
    assert plain.prompt[0] == Message(role="system", content=STEP_BY_STEP)
    assert [message.role for message in plain.prompt] == ["system", "user"]
    assert plain.sampling == SamplingParams(max_tokens=4096, stop=ASFT_STOPS)
    plans = [
        write_plan(questions(task, offline=True, chat=chat), tmp_path / f"{chat}.jsonl")
        for chat in (False, True)
    ]
    assert plans[0].parts["chat"] is True
    assert plans[0].protocol == plans[1].protocol


def test_several_samples_are_drawn_when_asked_for() -> None:
    many = adjusted(registry.task("aime24"), samples=16, temperature=1.0)
    assert (many.sampling.n, many.sampling.temperature, many.sampling.max_tokens) == (16, 1.0, 4096)


def test_minerva_ocw_is_asked_as_it_is() -> None:
    sample = asked("minerva_ocw", {"question": " How long?\n", "answer": "4.5e33"})
    assert sample == Sample(id="minerva_ocw-7", input=chat_turns("How long?"), target="4.5e33")


@pytest.mark.parametrize(
    ("answer", "target"),
    [("2", "2"), ("$\\frac{1}{2}$", "\\frac{1}{2}"), ("$69$,$84$", "69$,$84"), ("1,3,5", "1,3,5")],
)
def test_olympiadbench_reference_loses_the_outer_dollar_signs(answer: str, target: str) -> None:
    sample = asked("olympiadbench", {"id": 1606, "question": "How many?", "answer": answer})
    assert sample == Sample(id="olympiadbench-1606", input=chat_turns("How many?"), target=target)


def test_amc23_reference_is_a_whole_number() -> None:
    row = {"id": 0, "question": "How many?", "url": "-", "answer": 27.0}
    assert asked("amc23", row).target == "27"
    assert asked("amc23", {**row, "answer": -1.0}).target == "-1"
    for odd in (27.5, "27", None, True):
        with pytest.raises(DataError, match="should be a whole number"):
            asked("amc23", {**row, "answer": odd})


BROKEN = "If $\\\frac{1}{2}$ of \triangle{}, \frac{m}{n}\nrad"
REPAIRED = "If $\\frac{1}{2}$ of \\triangle{}, \\frac{m}{n}\nrad"


@pytest.mark.parametrize(
    ("name", "row", "sample_id", "target"),
    [
        ("aime24", {"ID": "2024-I-1", "Problem": BROKEN, "Answer": 33}, "2024-I-1", "33"),
        ("aime25", {"problem": BROKEN, "answer": "336", "id": "0"}, "aime25-7", "336"),
    ],
)
def test_aime_repairs_latex_commands_but_not_for_lm_eval(
    name: str, row: dict[str, Any], sample_id: str, target: str
) -> None:
    expected = Sample(id=sample_id, input=chat_turns(REPAIRED), target=target)
    assert asked(name, row) == expected
    as_it_is = f"Question: {BROKEN}\nAnswer:"
    assert asked(f"{name}:lm_eval", row) == Sample(id=sample_id, input=as_it_is, target=target)
    gold = "Answer" if name == "aime24" else "answer"
    with pytest.raises(DataError, match="should be a whole number, but is '33\\^"):
        asked(name, {**row, gold: "33^\\circ"})


@pytest.mark.parametrize("name", ["aime24:lm_eval", "aime25:lm_eval"])
def test_lm_eval_lets_aime_think_for_32768_tokens(name: str) -> None:
    assert registry.task(name).sampling == SamplingParams(
        max_tokens=32_768, stop=("Question:", "</s>", "<|im_end|>", "<|eot_id|>")
    )


PIECES = (
    *("$", "\\boxed{", "\\boxed ", "\\fbox{", "}", "{", "7", "33", "033", "x=", "\\frac12", "1/2"),
    *(" ", ".", "so ", "\\boxed", "\\text{ cm}", "^\\circ", ","),
)


def test_aime_is_graded_as_lm_eval_grades_it() -> None:
    utils = pytest.importorskip("lm_eval.tasks.aime.utils")
    draw = random.Random(0)
    verdicts: Counter[float] = Counter()
    for _ in range(20_000):
        output = "".join(draw.choices(PIECES, k=draw.randint(0, 7)))
        target = draw.choice(("7", "33", "1/2"))
        expected = utils.process_results({"Answer": target}, [output])["exact_match"]
        assert grade("aime", output, target).value == expected, output
        verdicts[expected] += 1
    assert min(verdicts[0], verdicts[1]) > 100


@pytest.mark.data
def test_hendrycks_math_holds_seven_subjects(data_root: Path) -> None:
    found = questions(registry.task("hendrycks_math"), data_root=data_root)
    assert len({sample.id for sample in found.samples}) == 5_000
    assert len(found.files) == 7
    assert Counter(sample.group for sample in found.samples) == {
        "Algebra": 1_187,
        "Intermediate Algebra": 903,
        "Prealgebra": 871,
        "Precalculus": 546,
        "Number Theory": 540,
        "Geometry": 479,
        "Counting & Probability": 474,
    }


@pytest.mark.data
@pytest.mark.parametrize("name", ["aime24", "aime25"])
def test_no_control_character_is_left_in_aime(name: str, data_root: Path) -> None:
    repaired, raw = (
        questions(registry.task(variant), data_root=data_root)
        for variant in (name, f"{name}:lm_eval")
    )
    assert sum(map(has_control_character, raw.requests())) == 3
    assert not any(map(has_control_character, repaired.requests()))


def has_control_character(request: Request) -> bool:
    prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[-1].content
    return any(ord(character) < 32 and character != "\n" for character in prompt)


# Qwen's last rule asks sympy, up to its time limit, about formulas that are no numbers.
TAKES_LONG = {"minerva_ocw", "olympiadbench"}


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in TAKES_LONG else n for n in SIZES],
)
def test_every_real_reference_answer_gets_full_marks(name: str, data_root: Path) -> None:
    # Of the 5,000 of MATH one in ten: math-verify takes minutes for all.
    asked = questions(registry.task(name), data_root=data_root, limit=min(SIZES[name], 500))
    found = check_gold(asked)
    assert (found.wrong, found.refused) == ((), asked.task.refused)


@pytest.mark.data
@pytest.mark.parametrize("name", SIZES)
def test_real_benchmarks_are_whole(name: str, data_root: Path) -> None:
    asked = questions(registry.task(name), data_root=data_root)
    assert len(asked.samples) == SIZES[name]


@pytest.mark.parametrize(
    ("variant", "metrics"),
    [
        ("", ["exact_match", "acc_strict"]),
        (":qwen", ["acc", "acc_strict"]),
        (":alpaca", ["acc", "acc_strict"]),
        (":r1_zero", ["reward", "format_accuracy", "acc_strict"]),
        (":minerva", ["exact_match", "math_verify", "acc_strict"]),
    ],
)
def test_the_published_grader_comes_first_and_a_strict_one_beside_it(
    variant: str, metrics: list[str]
) -> None:
    for name in BOTH:
        assert [scorer.metric for scorer in registry.task(name + variant).scorers] == metrics


def graded(name: str, sample: Sample, output: str) -> dict[str, float]:
    completion = Completion(
        request_id=sample.id, text=output, finish_reason="stop", prompt_tokens=1
    )
    scorers = registry.task(name).scorers
    return {scorer.metric: scorer(sample, completion).value for scorer in scorers}


def test_minerva_grades_against_the_whole_solution() -> None:
    solution = "So the answers are $\\boxed{-2}$ and $\\boxed{1}$."
    sample = asked("minerva_math", {**MATH_ROW, "solution": solution})
    assert sample.target == solution
    stated = "Final Answer: The final answer is ${}$. I hope it is correct."
    assert graded("minerva_math", sample, stated.format("1")) == {
        "exact_match": 1.0,
        "math_verify": 0.0,
        "acc_strict": 1.0,
    }


def test_qwen_reads_its_reference_out_of_the_solution() -> None:
    sample = asked("math:qwen", {**MATH_ROW, "solution": "It is $\\boxed{x \\in [-2,7]}$."})
    assert sample.target == "It is $\\boxed{x \\in [-2,7]}$."
    assert graded("math:qwen", sample, "so $\\boxed{[-2,7]}$") == {"acc": 1.0, "acc_strict": 1.0}
    near = asked("math:qwen", {**MATH_ROW, "solution": "It is $\\boxed{73}$."})
    assert graded("math:qwen", near, "so $\\boxed{7300}$") == {"acc": 1.0, "acc_strict": 0.0}


@pytest.mark.parametrize(
    ("output", "reward", "form", "strict"),
    [
        ("1+1 = 2 </think> <answer>2</answer>", 1, 1, 1),
        ("1+1 = 2 </think> <answer> \\boxed{2} </answer>", 1, 1, 1),
        ("1+1 = 3 </think> <answer>3</answer>", 0, 1, 0),
        ("1+1 = 2 </think>\n<answer>2</answer>", 0, 0, 1),
        ("1+1 = 2 </think> <answer>2", 0, 0, 1),
        ("1+1 = 2 </think> <answer>2</answer> That is all.", 0, 1, 1),
        ("It is $\\boxed{2}$.", 0, 0, 1),
        ("I do not know.", 0, 0, 0),
    ],
)
def test_r1_zero_wants_the_form_and_the_strict_grader_does_not(
    output: str, reward: float, form: float, strict: float
) -> None:
    sample = asked("math:r1_zero", MATH_ROW)
    assert graded("math:r1_zero", sample, output) == {
        "reward": reward,
        "format_accuracy": form,
        "acc_strict": strict,
    }
