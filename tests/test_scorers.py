from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import scorers
from harness.datasets import load
from harness.errors import UsageError
from harness.scorers import CHOICE, CHOICE_NORM, GRADERS, grade, last_boxed
from harness.scorers.hendrycks import same_latex
from harness.types import Completion, Dataset, Sample

CASES = [
    json.loads(line)
    for name in ("gsm8k", "hendrycks")
    for line in (Path(__file__).parent / "cases" / f"{name}.jsonl").read_text("utf-8").splitlines()
]
SUBJECTS = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)


@pytest.mark.parametrize("case", CASES, ids=[f"{c['grader']}: {c['rule']}" for c in CASES])
def test_case_is_graded_as_written_down(case: dict[str, Any]) -> None:
    score = grade(case["grader"], case["output"], case["target"])
    assert (score.value, score.answer) == (case["value"], case["answer"])
    assert (score.grader, score.version) == (case["grader"], 1)


def test_unknown_grader_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="`gsm8k_strikt`") as raised:
        grade("gsm8k_strikt", "", "")
    assert raised.value.hint == "did you mean `gsm8k_strict`?"


def test_every_grader_says_which_metric_its_mean_is() -> None:
    metrics = {name: grader.metric for name, grader in GRADERS.items()}
    assert all(metrics.values())
    assert {name: metrics[name] for name in ("gsm8k_strict", "gsm8k_flexible", "hendrycks")} == {
        "gsm8k_strict": "strict_match",
        "gsm8k_flexible": "flexible_extract",
        "hendrycks": "exact_match",
    }


def scored(*logprobs: float) -> Completion:
    return Completion(
        request_id="q", finish_reason="scored", prompt_tokens=9, choice_logprobs=logprobs
    )


def question(target: str, *choices: str) -> Sample:
    return Sample(id="q", input="?", target=target, choices=choices)


def test_likeliest_choice_is_the_answer() -> None:
    score = CHOICE(question("B", "A", "B", "C"), scored(-2.0, -0.5, -1.0))
    assert (score.value, score.answer) == (1.0, "B")
    assert score.explanation == "'B' at -0.500 nats, next 'C' at -1.000"


def test_first_of_equally_likely_choices_wins() -> None:
    assert CHOICE(question("A", "A", "B"), scored(-1.0, -1.0)).value == 1.0
    assert CHOICE(question("B", "A", "B"), scored(-1.0, -1.0)).value == 0.0
    assert CHOICE(question("C", "A", "B", "C"), scored(-3.0, -1.0, -1.0)).answer == "B"


def test_norm_divides_by_characters_of_the_choice() -> None:
    sample = question("a long one", "no", "a long one")
    assert CHOICE(sample, scored(-2.0, -5.0)).answer == "no"
    assert CHOICE_NORM(sample, scored(-2.0, -5.0)).answer == "a long one"


def test_completion_with_too_few_choices_is_no_wrong_answer() -> None:
    with pytest.raises(ValueError, match="1 log-probabilities for 2 choices"):
        CHOICE(question("A", "A", "B"), scored(-1.0))


def test_choices_are_graded_as_lm_eval_grades_them() -> None:
    numpy = pytest.importorskip("numpy")
    draw = random.Random(0)
    for _ in range(2000):
        choices = tuple("x" * draw.randint(1, 9) + str(i) for i in range(draw.randint(2, 6)))
        logprobs = [-draw.choice([0.5, 1.0, 2.0, draw.uniform(0, 9)]) for _ in choices]
        sample = question(draw.choice(choices), *choices)
        lengths = numpy.array([float(len(choice)) for choice in choices])
        best = choices[numpy.argmax(logprobs)]
        assert CHOICE(sample, scored(*logprobs)).answer == best
        best = choices[numpy.argmax(numpy.array(logprobs) / lengths)]
        assert CHOICE_NORM(sample, scored(*logprobs)).answer == best


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"so \boxed{7}", "7"),
        (r"\boxed{1} or \boxed{2}", "2"),
        (r"\boxed{\frac{a}{b}} }", r"\frac{a}{b}"),
        (r"$\boxed 7$, that is", "7"),
        (r"\boxed{1} and $\boxed 2$", "2"),
        (r"\boxed{1", None),
        (r"\fbox{1}", None),
        (r"\boxed7", None),
        ("7", None),
        (r"\boxed{}", ""),
    ],
)
def test_last_box_is_read(text: str, boxed: str | None) -> None:
    assert last_boxed(text) == boxed


LATEX = (
    *("\\frac", "\\sqrt", "\\text{ ", "{", "}", "/", "=", "1", "2", "0.5", ".", " ", "x", "$"),
    *("\\$", "\\%", "%", "\\left", "(", ",", "\\boxed", "\\boxed{", "\\boxed ", "\\fbox{", "d"),
    *("tfrac", "\\!", "\\\\", "\\", "\n", "^{\\circ}", "^\\circ", "_", "+", "-", "٣", "\t", "k="),
)
NUMBERS = (
    *("#### ", "####", "$", ",", ".", "1", "300", "-", " ", "\n", "x", "$18.00", "\r", "٣"),
    *("The answer is ", "#### -5", "1,000", "18."),
)


def texts(pieces: tuple[str, ...], seeds: list[str], n: int, seed: int) -> Iterator[str]:
    """Random strings of the pieces, and the seeds with a piece or two put in or for another."""
    draw = random.Random(seed)
    for _ in range(n):
        if not seeds or draw.random() < 0.4:
            yield "".join(draw.choice(pieces) for _ in range(draw.randrange(9)))
            continue
        text = draw.choice(seeds)
        for _ in range(draw.randrange(3)):
            place = draw.randrange(len(text) + 1)
            text = text[:place] + draw.choice(pieces) + text[place + draw.randrange(2) :]
        yield text


def assert_hendrycks_as_lm_eval(answers: list[str], solutions: list[str], n: int) -> None:
    theirs = pytest.importorskip("lm_eval.tasks.hendrycks_math.utils")
    draw = random.Random(1)
    targets = answers or ["7", "\\frac{1}{2}", "2 - 3x", "\\text{Evelyn}", "(3,\\frac{\\pi}{2})"]
    equal = 0
    for text in texts(LATEX, targets, n, seed=2):
        mutated = next(texts(LATEX, [text], 1, draw.getrandbits(30)))
        target = draw.choice([text, mutated, draw.choice(targets)])
        expected = theirs.is_equiv(text, target)
        assert same_latex(text, target) == expected, (text, target)
        equal += expected
    assert equal > n / 20
    for text in texts(LATEX, solutions or targets, n // 4, seed=3):
        target = draw.choice(targets)
        doc = {"solution": "\\boxed{" + target + "}"}
        expected = theirs.process_results(doc, [text])["exact_match"]
        assert grade("hendrycks", text, last_boxed(doc["solution"]) or "").value == expected


def assert_boxes_as_lm_eval(solutions: list[str], n: int) -> None:
    theirs = pytest.importorskip("lm_eval.tasks.hendrycks_math.utils")
    for text in (*solutions, *texts(LATEX, solutions, n, seed=4)):
        boxed = theirs.last_boxed_only_string(text)
        try:
            expected = None if boxed is None else theirs.remove_boxed(boxed)
        except AssertionError:
            expected = None
        assert last_boxed(text) == expected, text


def assert_gsm8k_as_lm_eval(targets: list[str], n: int) -> None:
    extraction = pytest.importorskip("lm_eval.filters.extraction")
    metrics = pytest.importorskip("lm_eval.api.metrics")
    readers = {
        "gsm8k_strict": extraction.RegexFilter("#### (\\-?[0-9\\.\\,]+)"),
        "gsm8k_flexible": extraction.RegexFilter("(-?[$0-9.,]{2,})|(-?[0-9]+)", -1),
    }
    ignored = [",", "\\$", "(?s).*#### ", "\\.$"]
    draw = random.Random(5)
    seen = dict.fromkeys(readers, 0.0)
    for text in texts(NUMBERS, targets, n, seed=6):
        target = draw.choice([text, next(texts(NUMBERS, targets, 1, draw.getrandbits(30)))])
        for name, reader in readers.items():
            read = reader.apply([[text]], [{}])[0][0]
            expected = metrics.exact_match_hf_evaluate(
                [read], [target], regexes_to_ignore=ignored, ignore_case=True
            )["exact_match"]
            assert grade(name, text, target).value == expected, (name, text, target)
            seen[name] += expected
    assert min(seen.values()) > n / 20


def test_made_up_latex_is_graded_as_lm_eval_grades_it() -> None:
    assert_hendrycks_as_lm_eval([], [], n=20_000)
    assert_boxes_as_lm_eval([], n=10_000)


def test_made_up_numbers_are_graded_as_lm_eval_grades_them() -> None:
    assert_gsm8k_as_lm_eval(["6 * 3 = 18\n#### 18", "#### 1,050"], n=3_000)


@pytest.mark.data
def test_real_latex_is_graded_as_lm_eval_grades_it(data_root: Path) -> None:
    hub_id = "EleutherAI/hendrycks_math"
    solutions = [
        row["solution"]
        for subject in SUBJECTS
        for split in ("train", "test")
        for row in load(Dataset(path=hub_id, config=subject, split=split), data_root=data_root).rows
    ]
    assert len(solutions) == 12_500
    answers = [answer for text in solutions if (answer := last_boxed(text)) is not None]
    assert len(answers) == len(solutions)
    assert_boxes_as_lm_eval(solutions, n=20_000)
    assert_hendrycks_as_lm_eval(answers, solutions, n=20_000)


@pytest.mark.data
def test_real_numbers_are_graded_as_lm_eval_grades_them(data_root: Path) -> None:
    dataset = Dataset(path="openai/gsm8k", config="main", split="train")
    answers = [row["answer"] for row in load(dataset, data_root=data_root).rows]
    assert_gsm8k_as_lm_eval([*answers, *(answer[-14:] for answer in answers)], n=6_000)


def test_cases_are_what_lm_eval_says_of_them() -> None:
    theirs = pytest.importorskip("lm_eval.tasks.hendrycks_math.utils")
    cases = [case for case in CASES if case["grader"] == "hendrycks"]
    assert len(cases) > 40
    for case in cases:
        doc = {"solution": "\\boxed{" + case["target"] + "}"}
        assert theirs.process_results(doc, [case["output"]])["exact_match"] == case["value"]


def test_long_output_is_graded_in_no_time() -> None:
    text = "\\frac1" * 50_000 + "$" + "#### " * 50_000 + "7$" + "{" * 50_000
    for name in GRADERS:
        assert grade(name, text, "7").value in (0.0, 1.0)
    assert scorers.last_boxed("\\boxed{" * 20_000) is None
