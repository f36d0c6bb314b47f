r"""GSM8K: grade-school word problems with a worked answer (Cobbe et al. 2021, arXiv 2110.14168).

- The default is `gsm8k` 3.0 of lm-evaluation-harness 0.4.13: five examples drawn anew for each
  question, greedy decoding, and two readings of the answer.
- `cot`: `gsm8k_cot` 3.0 of the same: the eight examples of Wei et al. (arXiv 2201.11903).
- `zeroshot`: `gsm8k_cot_zeroshot` 3.0 of the same. Its strict reading asks for the sentence "The
  answer is N.", which the prompt never shows.
- `cs336`: the CS336 course, a question in a prompt that is a conversation. `cs336_gsm8k` reads the
  last run of digits of both sides, so that 1,000 and 3,000 are one number; beside it `number`.
- `boxed`: the question and the request for a `\boxed` answer as Qwen2.5-Math words it, in one user
  turn with `--chat` (which chat models want) and as plain text without. `number` reads the box and
  else the last number, as that lineage does; `boxed_number` reads the box alone.

One row:

    {"question": "A robe takes 2 bolts of blue fiber and half that much white fiber.  How many \
bolts in total does it take?",
     "answer": "It takes 2/2=<<2/2=1>>1 bolt of white fiber\\nSo the total amount of fabric is \
2+1=<<2+1=3>>3 bolts of fabric\\n#### 3"}
"""

from __future__ import annotations

from dataclasses import replace

from harness.datasets import text
from harness.scorers import (
    BOXED_NUMBER,
    CS336_GSM8K,
    GSM8K_COT_STRICT,
    GSM8K_FLEXIBLE,
    GSM8K_STRICT,
    NUMBER,
)
from harness.task import FewShot, Row, Task
from harness.types import Dataset, Prompt, Sample, SamplingParams
from tasks.cs336_prompt import STOP, cs336_prompt

_STEP_BY_STEP = "Please reason step by step, and put your final answer within \\boxed{}."


def to_sample(row: Row, index: int) -> Sample:
    # The whole worked answer, since the examples show it; the scorers read what follows ####.
    return _sample(index, f"Question: {text(row, 'question')}\nAnswer:", text(row, "answer"))


def cot_sample(row: Row, index: int) -> Sample:
    return _sample(index, _cot_prompt(text(row, "question")), _final_number(row))


def zeroshot_sample(row: Row, index: int) -> Sample:
    prompt = f"{_cot_prompt(text(row, 'question'))} Let's think step by step."
    return _sample(index, prompt, _final_number(row))


def cs336_sample(row: Row, index: int) -> Sample:
    return _sample(index, cs336_prompt(text(row, "question")), _final_number(row))


def boxed_sample(row: Row, index: int) -> Sample:
    return _sample(index, f"{text(row, 'question')}\n{_STEP_BY_STEP}", _final_number(row))


def _sample(index: int, prompt: Prompt, target: str) -> Sample:
    return Sample(id=f"gsm8k-{index}", input=prompt, target=target)


def _cot_prompt(question: str) -> str:
    return f"Q: {question}\nA:"


def _final_number(row: Row) -> str:
    return text(row, "answer").rpartition("####")[2].strip()


_COT = (
    (
        "There are 15 trees in the grove. Grove workers will plant trees in the grove today. After "
        "they are done, there will be 21 trees. How many trees did the grove workers plant today?",
        "There are 15 trees originally. Then there were 21 trees after some more were planted. So "
        "there must have been 21 - 15 = 6. The answer is 6.",
    ),
    (
        "If there are 3 cars in the parking lot and 2 more cars arrive, how many cars are in the "
        "parking lot?",
        "There are originally 3 cars. 2 more cars arrive. 3 + 2 = 5. The answer is 5.",
    ),
    (
        "Leah had 32 chocolates and her sister had 42. If they ate 35, how many pieces do they "
        "have left in total?",
        "Originally, Leah had 32 chocolates. Her sister had 42. So in total they had 32 + 42 = 74. "
        "After eating 35, they had 74 - 35 = 39. The answer is 39.",
    ),
    (
        "Jason had 20 lollipops. He gave Denny some lollipops. Now Jason has 12 lollipops. How "
        "many lollipops did Jason give to Denny?",
        "Jason started with 20 lollipops. Then he had 12 after giving some to Denny. So he gave "
        "Denny 20 - 12 = 8. The answer is 8.",
    ),
    (
        "Shawn has five toys. For Christmas, he got two toys each from his mom and dad. How many "
        "toys does he have now?",
        "Shawn started with 5 toys. If he got 2 toys each from his mom and dad, then that is 4 "
        "more toys. 5 + 4 = 9. The answer is 9.",
    ),
    (
        "There were nine computers in the server room. Five more computers were installed each "
        "day, from monday to thursday. How many computers are now in the server room?",
        "There were originally 9 computers. For each of 4 days, 5 more computers were added. So 5 "
        "* 4 = 20 computers were added. 9 + 20 is 29. The answer is 29.",
    ),
    (
        "Michael had 58 golf balls. On tuesday, he lost 23 golf balls. On wednesday, he lost 2 "
        "more. How many golf balls did he have at the end of wednesday?",
        "Michael started with 58 golf balls. After losing 23 on tuesday, he had 58 - 23 = 35. "
        "After losing 2 more, he had 35 - 2 = 33 golf balls. The answer is 33.",
    ),
    (
        "Olivia has $23. She bought five bagels for $3 each. How much money does she have left?",
        "Olivia had 23 dollars. 5 bagels for 3 dollars each will be 5 x 3 = 15 dollars. So she has "
        "23 - 15 dollars left. 23 - 15 is 8. The answer is 8.",
    ),
)
_COT_EXAMPLES = tuple(
    Sample(id=f"gsm8k-cot-{number}", input=_cot_prompt(question), target=answer)
    for number, (question, answer) in enumerate(_COT)
)
_COT_STOPS = ("Q:", "</s>", "<|im_end|>")

LM_EVAL = Task(
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
)
COT = replace(
    LM_EVAL,
    variant="cot",
    title="GSM8K, 8 fixed examples",
    source="lm-evaluation-harness 0.4.13, gsm8k_cot 3.0",
    to_sample=cot_sample,
    scorers=(GSM8K_COT_STRICT, GSM8K_FLEXIBLE),
    sampling=SamplingParams(max_tokens=256, stop=_COT_STOPS),
    fewshot=FewShot(n=len(_COT_EXAMPLES), examples=_COT_EXAMPLES, rule="fixed"),
)
ZEROSHOT = replace(
    LM_EVAL,
    variant="zeroshot",
    title="GSM8K, 0-shot step by step",
    source="lm-evaluation-harness 0.4.13, gsm8k_cot_zeroshot 3.0",
    to_sample=zeroshot_sample,
    scorers=(GSM8K_COT_STRICT, GSM8K_FLEXIBLE),
    sampling=SamplingParams(max_tokens=256, stop=_COT_STOPS),
    fewshot=None,
)
CS336 = replace(
    LM_EVAL,
    variant="cs336",
    title="GSM8K, 0-shot in a written-out conversation",
    source="CS336 assignment 5, supplement",
    to_sample=cs336_sample,
    scorers=(CS336_GSM8K, NUMBER),
    sampling=SamplingParams(max_tokens=512, stop=(STOP,)),
    fewshot=None,
)
BOXED = replace(
    LM_EVAL,
    variant="boxed",
    title="GSM8K, 0-shot step by step and boxed",
    source="Qwen2.5-Math evaluation, instruction of qwen25-math-cot",
    to_sample=boxed_sample,
    scorers=(NUMBER, BOXED_NUMBER),
    sampling=SamplingParams(
        max_tokens=2048,
        stop=("</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>"),
    ),
    fewshot=None,
)
TASKS = (LM_EVAL, COT, ZEROSHOT, CS336, BOXED)
