"""AlpacaEval 2: 805 instructions, each answer compared with GPT-4's by a judge.

Li et al. 2023 and Dubois et al. 2024 (arXiv 2404.04475). The reference answers are those of
gpt4_1106_preview. The judge sees both answers in an order drawn for each instruction; equal
answers are a draw and not sent. The published judge is no longer offered, so a score holds for the
judge that stands beside it, and for no other. `win_rate` is a share here, percent on the
leaderboard; harness/alpaca_eval.py computes that from annotation files.

The default reads the log-probabilities of `m` and `M`; `ranking` lets the judge write a list of
ranks; `cs336` is `ranking` with the models asked in the prompt of CS336.

One row (from the offline questions, which were written for this project):

    {"instruction": "Name three uses of baking soda besides baking.", "output": "1. It takes up \
smells in a fridge. …", "generator": "reference", "dataset": "selfinstruct"}
"""

from __future__ import annotations

from harness.datasets import text
from harness.scorers.judged import RANKING, RANKING_DISCRETE, WEIGHTED, WEIGHTED_DISCRETE
from harness.task import Row, Scorer, Task
from harness.types import Dataset, Message, Prompt, Sample, SamplingParams
from tasks.cs336_prompt import STOP, cs336_prompt


def to_sample(row: Row, index: int) -> Sample:
    instruction = text(row, "instruction")
    return _sample(row, index, (Message(role="user", content=instruction),))


def to_cs336_sample(row: Row, index: int) -> Sample:
    return _sample(row, index, cs336_prompt(text(row, "instruction")))


def _sample(row: Row, index: int, prompt: Prompt) -> Sample:
    return Sample(
        id=f"alpaca-{index}", input=prompt, target=text(row, "output"), group=text(row, "dataset")
    )


def _task(
    variant: str,
    title: str,
    scorers: tuple[Scorer, ...],
    judge: str,
    *,
    cs336: bool = False,
    max_tokens: int = 2048,
) -> Task:
    return Task(
        name="alpaca_eval",
        variant=variant,
        version=1,
        title=title,
        source="tatsu-lab/alpaca_eval, AlpacaEval 2",
        dataset=Dataset(
            path="tatsu-lab/alpaca_eval", config="alpaca_eval_gpt4_baseline", split="eval"
        ),
        columns=("instruction", "output", "dataset"),
        to_sample=to_cs336_sample if cs336 else to_sample,
        kind="generate",
        scorers=scorers,
        offline="alpaca_eval.jsonl",
        sampling=SamplingParams(max_tokens=max_tokens, stop=(STOP,) if cs336 else ()),
        judge=judge,
        has_gold=False,
    )


TASKS = (
    _task(
        "",
        "AlpacaEval 2, judge's log-probabilities",
        (WEIGHTED, WEIGHTED_DISCRETE),
        "alpaca_eval_weighted",
    ),
    _task(
        "ranking",
        "AlpacaEval 2, judge's ranking",
        (RANKING, RANKING_DISCRETE),
        "alpaca_eval_ranking",
    ),
    _task(
        "cs336",
        "AlpacaEval 2, prompt of CS336, judge's ranking",
        (RANKING, RANKING_DISCRETE),
        "alpaca_eval_ranking",
        cs336=True,
        max_tokens=1024,
    ),
)
