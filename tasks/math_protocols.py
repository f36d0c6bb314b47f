r"""Protocols of competition mathematics that several benchmarks share, and their prompts.

A benchmark gives its problems bare (a `Task` with the problem as the input of each sample);
`asked_as` puts the prompt, the graders and the sampling of a protocol around them.

- `LM_EVAL`: `hendrycks_math` 1.0 of lm-evaluation-harness 0.4.13. No examples; the answer is what
  stands between the first and the last dollar sign.
- `QWEN`: prompt type `qwen25-math-cot` of the Qwen2.5-Math evaluation, in the model's own chat
  template, which for Qwen2.5 gives the published text. 4,096 tokens, as ASFT and its paper
  evaluate; the Qwen2.5-Math scripts default to 2,048.
- `ALPACA`: what ASFT evaluates with, raw text. Its prompt ends with `### Response:` and a newline,
  while ASFT trains with the response directly behind the colon, so a model tuned by it is asked in
  a form that it has not seen.
- `R1_ZERO`: CS336 assignment 5. The prompt ends inside the think block; one sample at temperature
  1, at most 1,024 tokens; the closing tag stays in the output, since the reward asks for it.
- `MINERVA`: `minerva_math` 3.1 of lm-evaluation-harness 0.4.13: the four examples of Minerva
  (Lewkowycz et al. 2022, arXiv 2206.14858, appendix D).

Each of them is graded as published, and beside that strictly: `acc_strict` is the verdict of
`math`, this project's own grader, on the same output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from harness import scorers
from harness.datasets import text
from harness.errors import DataError
from harness.scorers.strict import STRICT
from harness.task import FewShot, Row, Scorer, Task
from harness.templates import ALPACA as ALPACA_TEMPLATE
from harness.templates import R1_ZERO as R1_ZERO_TEMPLATE
from harness.types import Message, Prompt, Sample, SamplingParams

ASFT_STOPS = (
    *("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>"),
    "<｜end▁of▁sentence｜>",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How to ask and grade, whatever the problem. prompt: of a bare problem."""

    variant: str
    title: str
    source: str
    prompt: Callable[[str], Prompt]
    scorers: tuple[Scorer, ...]
    sampling: SamplingParams
    fewshot: FewShot | None = None


def asked_as(protocol: Protocol, bare: Task, variant: str | None = None) -> Task:
    """The task `bare`, asked and graded as the protocol does; `variant` is its name there."""

    def to_sample(row: Row, index: int) -> Sample:
        sample = bare.to_sample(row, index)
        assert isinstance(sample.input, str)
        return replace(sample, input=protocol.prompt(sample.input))

    return replace(
        bare,
        variant=protocol.variant if variant is None else variant,
        title=f"{bare.title}, {protocol.title}",
        source=protocol.source,
        to_sample=to_sample,
        scorers=protocol.scorers,
        sampling=protocol.sampling,
        fewshot=protocol.fewshot,
    )


def with_solutions(bare: Task) -> Task:
    """The task with whole solutions (column `solution`) as references.

    Qwen2.5-Math reads its reference out of them, and math-verify sees more there than the last box
    (two boxes joined by "and", an equation before a percentage): for 33 of the 5,000 test problems
    of MATH its reference is another one.
    """

    def to_sample(row: Row, index: int) -> Sample:
        return replace(bare.to_sample(row, index), target=text(row, "solution"))

    return replace(bare, to_sample=to_sample)


def boxed_answer(solution: str) -> str:
    r"""The reference answer of a solution of MATH. Raises DataError where nothing is boxed."""
    answer = scorers.last_boxed(solution)
    if answer is None:
        raise DataError("the solution has no \\boxed answer", "correct the row, or leave it out")
    return answer


def lm_eval_prompt(problem: str) -> str:
    return f"Problem: {problem}\nAnswer:"


def qwen_prompt(problem: str) -> tuple[Message, ...]:
    step_by_step = "Please reason step by step, and put your final answer within \\boxed{}."
    return (
        Message(role="system", content=step_by_step),
        Message(role="user", content=problem.strip()),
    )


def alpaca_prompt(problem: str) -> str:
    return ALPACA_TEMPLATE.prompt(problem) + "\n"


def minerva_prompt(problem: str) -> str:
    return f"Problem:\n{problem}\n\nSolution:"


_MINERVA_PROBLEMS = (
    (
        "Find the domain of the expression  $\\frac{\\sqrt{x-2}}{\\sqrt{5-x}}$.",
        "The expressions inside each square root must be non-negative. Therefore, $x-2 \\ge 0$, so "
        "$x\\ge2$, and $5 - x \\ge 0$, so $x \\le 5$. Also, the denominator cannot be equal to "
        "zero, so $5-x>0$, which gives $x<5$. Therefore, the domain of the expression is "
        "$\\boxed{[2,5)}$.",
        "[2,5)",
    ),
    (
        "If $\\det \\mathbf{A} = 2$ and $\\det \\mathbf{B} = 12,$ then find "
        "$\\det (\\mathbf{A} \\mathbf{B}).$",
        "We have that $\\det (\\mathbf{A} \\mathbf{B}) = (\\det \\mathbf{A})(\\det \\mathbf{B}) = "
        "(2)(12) = \\boxed{24}.$",
        "24",
    ),
    (
        "Terrell usually lifts two 20-pound weights 12 times. If he uses two 15-pound weights "
        "instead, how many times must Terrell lift them in order to lift the same total weight?",
        "If Terrell lifts two 20-pound weights 12 times, he lifts a total of "
        "$2\\cdot 12\\cdot20=480$ pounds of weight.  If he lifts two 15-pound weights instead for "
        "$n$ times, he will lift a total of $2\\cdot15\\cdot n=30n$ pounds of weight.  Equating "
        "this to 480 pounds, we can solve for $n$:\n\\begin{align*}\n30n&=480\\\\\n"
        "\\Rightarrow\\qquad n&=480/30=\\boxed{16}\n\\end{align*}",
        "16",
    ),
    (
        "If the system of equations\n\n\\begin{align*}\n6x-4y&=a,\\\\\n6y-9x &=b.\n\\end{align*}"
        "has a solution $(x, y)$ where $x$ and $y$ are both nonzero,\nfind $\\frac{a}{b},$ "
        "assuming $b$ is nonzero.",
        "If we multiply the first equation by $-\\frac{3}{2}$, we obtain\n\n"
        "$$6y-9x=-\\frac{3}{2}a.$$Since we also know that $6y-9x=b$, we have\n\n"
        "$$-\\frac{3}{2}a=b\\Rightarrow\\frac{a}{b}=\\boxed{-\\frac{2}{3}}.$$",
        "-\\frac{2}{3}",
    ),
)
MINERVA_EXAMPLES = tuple(
    Sample(
        id=f"minerva-shot-{number}",
        input=minerva_prompt(problem),
        target=f"{solution}\nFinal Answer: The final answer is ${answer}$. I hope it is correct.",
    )
    for number, (problem, solution, answer) in enumerate(_MINERVA_PROBLEMS)
)

LM_EVAL = Protocol(
    variant="",
    title="0-shot",
    source="lm-evaluation-harness 0.4.13, hendrycks_math 1.0",
    prompt=lm_eval_prompt,
    scorers=(scorers.HENDRYCKS, STRICT),
    sampling=SamplingParams(max_tokens=256, stop=("Problem:",)),
)
QWEN = Protocol(
    variant="qwen",
    title="step by step and boxed, chat",
    source="Qwen2.5-Math evaluation, qwen25-math-cot",
    prompt=qwen_prompt,
    scorers=(scorers.QWEN, STRICT),
    sampling=SamplingParams(max_tokens=4096, stop=ASFT_STOPS),
)
ALPACA = Protocol(
    variant="alpaca",
    title="Alpaca template",
    source="ASFT math_evaluation, prompt type alpaca",
    prompt=alpaca_prompt,
    scorers=(scorers.QWEN, STRICT),
    sampling=SamplingParams(max_tokens=4096, stop=ASFT_STOPS),
)
R1_ZERO = Protocol(
    variant="r1_zero",
    title="think and answer tags",
    source="CS336 assignment 5, r1_zero",
    prompt=R1_ZERO_TEMPLATE.prompt,
    scorers=(scorers.R1_ZERO, scorers.R1_ZERO_FORMAT, scorers.R1_ZERO_STRICT),
    sampling=SamplingParams(
        temperature=1.0, max_tokens=1024, stop=("</answer>",), include_stop=True
    ),
)
MINERVA = Protocol(
    variant="minerva",
    title="4-shot Minerva prompt",
    source="lm-evaluation-harness 0.4.13, minerva_math 3.1",
    prompt=minerva_prompt,
    scorers=(scorers.MINERVA, scorers.MATH_VERIFY, STRICT),
    sampling=SamplingParams(max_tokens=256, stop=("Problem:",)),
    fewshot=FewShot(n=len(MINERVA_EXAMPLES), examples=MINERVA_EXAMPLES, rule="fixed"),
)


def math_variants(bare: Task) -> tuple[Task, ...]:
    """The five protocols of a benchmark whose rows have a `solution` with a box."""
    solved = with_solutions(bare)
    return (
        *(asked_as(protocol, bare) for protocol in (LM_EVAL, R1_ZERO)),
        *(asked_as(protocol, solved) for protocol in (QWEN, ALPACA, MINERVA)),
    )
