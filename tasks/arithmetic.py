"""Arithmetic: generated word problems of one or two steps, for models too small for GSM8K.

The prompt, the form of the answer and the scorers are those of `gsm8k`, so that every command
can be tried with the embedded pair `Tiny` and without a hub. No examples are shown by default.

One row:

    {"question": "Otto has 17 balls. Clara has 4 more than Otto. How many balls do they have \
together?",
     "answer": "Clara has 17+4=<<17+4=21>>21 balls.\\nTogether they have 17+21=<<17+21=38>>38 \
balls.\\n#### 38"}
"""

from __future__ import annotations

from harness.datasets import text
from harness.scorers import GSM8K_FLEXIBLE, GSM8K_STRICT
from harness.task import FewShot, Row, Task
from harness.types import Dataset, Sample, SamplingParams

# What tasks.arithmetic_problems makes with these seeds: held_out_problems and problems.
TEST_SEED, TEST_ITEMS = 500, 500
TRAIN_SEED, TRAIN_ITEMS = 200, 200


def to_sample(row: Row, index: int) -> Sample:
    return Sample(
        id=f"arithmetic-{index}",
        input=f"Question: {text(row, 'question')}\nAnswer:",
        # The whole worked answer, since examples show it; the scorers read what follows ####.
        target=text(row, "answer"),
    )


TASKS: tuple[Task, ...] = (
    Task(
        name="arithmetic",
        version=1,
        title="Arithmetic word problems, 0-shot",
        source="this project",
        dataset=Dataset(path="tunebench:arithmetic.jsonl", split="test"),
        columns=("question", "answer"),
        to_sample=to_sample,
        kind="generate",
        scorers=(GSM8K_STRICT, GSM8K_FLEXIBLE),
        offline="arithmetic.jsonl",
        sampling=SamplingParams(max_tokens=128, stop=("Question:", "</s>", "<|im_end|>")),
        fewshot=FewShot(
            dataset=Dataset(path="tunebench:arithmetic_train.jsonl", split="train"), n=0
        ),
    ),
)
