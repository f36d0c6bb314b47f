"""GSM8K: grade-school word problems with a worked answer (Cobbe et al. 2021, arXiv 2110.14168).

The default is `gsm8k` 3.0 of lm-evaluation-harness 0.4.13: five examples drawn anew for each
question, greedy decoding, and two readings of the answer.

One row:

    {"question": "A robe takes 2 bolts of blue fiber and half that much white fiber.  How many \
bolts in total does it take?",
     "answer": "It takes 2/2=<<2/2=1>>1 bolt of white fiber\\nSo the total amount of fabric is \
2+1=<<2+1=3>>3 bolts of fabric\\n#### 3"}
"""

from __future__ import annotations

from harness.datasets import text
from harness.scorers import GSM8K_FLEXIBLE, GSM8K_STRICT
from harness.task import FewShot, Row, Task
from harness.types import Dataset, Sample, SamplingParams


def to_sample(row: Row, index: int) -> Sample:
    return Sample(
        id=f"gsm8k-{index}",
        input=f"Question: {text(row, 'question')}\nAnswer:",
        # The whole worked answer, since the examples show it; the scorers read what follows ####.
        target=text(row, "answer"),
    )


TASKS = (
    Task(
        name="gsm8k",
        version=1,
        title="GSM8K, 5-shot",
        source="lm-evaluation-harness 0.4.13, gsm8k 3.0",
        dataset=Dataset(path="openai/gsm8k", config="main", split="test"),
        columns=("question", "answer"),
        to_sample=to_sample,
        kind="generate",
        scorers=(GSM8K_STRICT, GSM8K_FLEXIBLE),
        offline="gsm8k.jsonl",
        sampling=SamplingParams(max_tokens=256, stop=("Question:", "</s>", "<|im_end|>")),
        fewshot=FewShot(dataset=Dataset(path="openai/gsm8k", config="main", split="train"), n=5),
    ),
)
