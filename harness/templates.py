"""Templates of prompts that training and evaluation share, so that both write the same text.

A template has the two halves of its text around the question. What it is not called after: nothing
is added behind the completion but the end-of-text token.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """before, after: what stands around the question; between: what stands before the answer.

    strip: whether white space around the question is cut, as the published code does.
    """

    name: str
    before: str
    after: str
    between: str = ""
    strip: bool = False

    def prompt(self, question: str) -> str:
        return f"{self.before}{question.strip() if self.strip else question}{self.after}"

    def completion(self, answer: str) -> str:
        return self.between + answer


# Stanford Alpaca without an input. ASFT trains with the response right behind the colon.
ALPACA = Template(
    name="alpaca",
    before=(
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n"
    ),
    after="\n\n### Response:",
    strip=True,
)

# CS336 assignment 5, prompts/r1_zero.prompt: the completion begins inside the think block.
R1_ZERO = Template(
    name="r1_zero",
    before=(
        "A conversation between User and Assistant. The User asks a question, and the Assistant "
        "solves it. The Assistant first thinks about the reasoning process in the mind and then "
        "provides the User with the answer. The reasoning process is enclosed within <think> "
        "</think> and answer is enclosed within <answer> </answer> tags, respectively, i.e., "
        "<think> reasoning process here </think> <answer> answer here </answer>.\n"
        "User: "
    ),
    after="\nAssistant: <think>",
)

# CS336 assignment 5, prompts/question_only.prompt.
QUESTION_ONLY = Template(name="question_only", before="", after="")

CHAT = "chat"
"""The chat template of the model: messages, no text of ours."""

TEMPLATES = {template.name: template for template in (ALPACA, R1_ZERO, QUESTION_ONLY)}


def own(prompt: str, completion: str) -> Template:
    """A template written in a recipe: text with `{prompt}`, and text that ends in `{completion}`.

    >>> own("Q: {prompt}\\nA:", " {completion}").prompt("1+1?")
    'Q: 1+1?\\nA:'
    """
    before, _, after = prompt.partition("{prompt}")
    return Template(
        name="own", before=before, after=after, between=completion.removesuffix("{completion}")
    )
