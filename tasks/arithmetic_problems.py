"""Word problems of one or two steps in GSM8K's format, made from templates.

Rows look like {"question": "Mia has 12 apples. She buys 7 more. …", "answer": "…\n#### 19"}.
Every question belongs for good to one of two sides, by a checksum of its text: `problems` writes
training rows, `held_out_problems` test rows, and no seed can make the two meet.
"""

from __future__ import annotations

import operator
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

Row = dict[str, str]

HELD_OUT_SHARE = 8  # one question in eight is for testing only

_list = str.split
_PEOPLE = {
    "She": _list(
        "Mia Anna Lena Rosa Emma Nora Ruth Clara Ella Alice Grace Lucy Maya Zoe Eva Ines "
        "Olga Julia Sara Vera"
    ),
    "He": _list(
        "Ben Tom Omar Paul Hugo Leo Max Sam Jack Adam Noah Ivan Luis Karl Finn Eric Dan "
        "Peter Ravi Otto"
    ),
}
_WORDS = {
    "things": _list(
        "apples pears cookies books pencils marbles stickers coins cards shells stamps beads "
        "buttons flowers eggs balls cups stones toys lemons candles keys ribbons plums"
    ),
    "holders": _list("boxes bags baskets jars bowls"),
    "places": _list("table shelf floor desk bench"),
    "gains": _list("buys finds gets wins collects picks"),
    "loses": _list("loses sells uses breaks drops"),
    "times": _list("day week month hour"),
}


@dataclass(frozen=True, slots=True)
class Story:
    """A template.

    question: the text. steps: one expression per line of the answer, in which `a`, `b` and `c`
    are the numbers of the question and `r` is the result of the step before. lines: the sentence
    around each step, where `{step}` stands for the calculation.
    """

    question: str
    steps: tuple[str, ...]
    lines: tuple[str, ...]


_ONE_STEP = (
    Story(
        "{name} has {a} {things}. {pronoun} {gains} {b} more. How many {things} does {name} have?",
        ("a+b",),
        ("{name} has {step} {things}.",),
    ),
    Story(
        "{name} has {a} {things} and {other} has {b} {things}. "
        "How many {things} do they have together?",
        ("a+b",),
        ("Together they have {step} {things}.",),
    ),
    Story(
        "{name} {gains} {a} {things} in the morning and {b} {things} in the evening. "
        "How many {things} is that in all?",
        ("a+b",),
        ("That is {step} {things} in all.",),
    ),
    Story(
        "{name} is {a} years old. {other} is {b} years older. How old is {other}?",
        ("a+b",),
        ("{other} is {step} years old.",),
    ),
    Story(
        "{name} has {a} {things}. {pronoun} {loses} {b} of them. "
        "How many {things} does {name} have left?",
        ("a-b",),
        ("{name} has {step} {things} left.",),
    ),
    Story(
        "There are {a} {things} on the {places}. {name} takes {b} of them. "
        "How many {things} are left on the {places}?",
        ("a-b",),
        ("There are {step} {things} left.",),
    ),
    Story(
        "{name} wants {a} {things} and has {b} so far. How many more {things} does {name} need?",
        ("a-b",),
        ("{name} needs {step} more {things}.",),
    ),
    Story(
        "{name} has {a} {holders}. Each of the {holders} holds {b} {things}. "
        "How many {things} does {name} have?",
        ("a*b",),
        ("{name} has {step} {things}.",),
    ),
    Story(
        "{name} {gains} {a} {things} every {times}. How many {things} is that after {b} {times}s?",
        ("a*b",),
        ("That is {step} {things}.",),
    ),
    Story(
        "{name} buys {a} {things} for {b} dollars each. How many dollars does {name} pay?",
        ("a*b",),
        ("{name} pays {step} dollars.",),
    ),
)

_TWO_STEPS = (
    Story(
        "{name} has {a} {things}. {pronoun} {gains} {b} more and then {loses} {c}. "
        "How many {things} does {name} have now?",
        ("a+b", "r-c"),
        ("{name} has {step} {things}.", "Now {name} has {step} {things}."),
    ),
    Story(
        "{name} has {a} {things}. {pronoun} {loses} {b} and then {gains} {c}. "
        "How many {things} does {name} have now?",
        ("a-b", "r+c"),
        ("{name} has {step} {things} left.", "Now {name} has {step} {things}."),
    ),
    Story(
        "{name} has {a} {things}. {pronoun} gives {b} to {other} and {loses} {c}. "
        "How many {things} does {name} have left?",
        ("a-b", "r-c"),
        ("{name} has {step} {things}.", "{name} has {step} {things} left."),
    ),
    Story(
        "{name} has {a} {things}. {other} has {b} more than {name}. "
        "How many {things} do they have together?",
        ("a+b", "a+r"),
        ("{other} has {step} {things}.", "Together they have {step} {things}."),
    ),
    Story(
        "{name} has {a} {holders} with {b} {things} each. {pronoun} {gains} {c} more. "
        "How many {things} does {name} have now?",
        ("a*b", "r+c"),
        ("{name} has {step} {things}.", "Now {name} has {step} {things}."),
    ),
    Story(
        "{name} has {a} {holders} with {b} {things} each. {pronoun} {loses} {c} of them. "
        "How many {things} does {name} have left?",
        ("a*b", "r-c"),
        ("{name} has {step} {things}.", "{name} has {step} {things} left."),
    ),
)

_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def problems(seed: int, n: int) -> list[Row]:
    """n distinct problems of the training side, the same for the same seed."""
    return _distinct(seed, n, held_out=False)


def preferences(seed: int, n: int) -> list[Row]:
    """As `problems`, with a `wrong` answer beside the right one: its last result is off."""
    generator = random.Random(seed)
    return [
        {**row, "wrong": _wrong(row["answer"], generator.choice((-10, -2, -1, 1, 2, 10)))}
        for row in problems(seed, n)
    ]


def _wrong(answer: str, by: int) -> str:
    """The last calculation, and what is said of it, with another result."""
    *before, last, end = answer.split("\n")
    right = end.removeprefix("#### ")
    result = str(int(right) + (by if int(right) + by > 0 else -by))
    calculation, told = last.rsplit("=", 1)
    changed = f"{calculation}={told.replace(right, result)}"
    return "\n".join([*before, changed, f"#### {result}"])


def held_out_problems(seed: int, n: int) -> list[Row]:
    """n distinct problems of the test side, the same for the same seed."""
    return _distinct(seed, n, held_out=True)


def is_held_out(question: str) -> bool:
    return zlib.crc32(question.encode()) % HELD_OUT_SHARE == 0


def _distinct(seed: int, n: int, *, held_out: bool) -> list[Row]:
    generator = random.Random(seed)
    rows: dict[str, Row] = {}
    while len(rows) < n:
        row = _problem(generator)
        if is_held_out(row["question"]) is held_out:
            rows.setdefault(row["question"], row)
    return list(rows.values())


def _problem(generator: random.Random) -> Row:
    story = generator.choice(generator.choice((_ONE_STEP, _TWO_STEPS)))
    numbers = _numbers(generator, story)
    words = _words(generator)
    steps = list(_calculate(story, numbers))
    lines = [
        line.format(step=f"{expression}=<<{expression}={result}>>{result}", **words)
        for line, (expression, result) in zip(story.lines, steps, strict=True)
    ]
    return {
        "question": story.question.format(**words, **numbers),
        "answer": "\n".join((*lines, f"#### {steps[-1][1]}")),
    }


def _words(generator: random.Random) -> dict[str, str]:
    pronoun = generator.choice(list(_PEOPLE))
    name = generator.choice(_PEOPLE[pronoun])
    others = [person for people in _PEOPLE.values() for person in people if person != name]
    return {
        "name": name,
        "pronoun": pronoun,
        "other": generator.choice(others),
        **{slot: generator.choice(words) for slot, words in _WORDS.items()},
    }


def _numbers(generator: random.Random, story: Story) -> dict[str, int]:
    """Numbers with which every step gives 1 to 99."""
    largest = 9 if story.steps[0] == "a*b" else 20
    while True:
        numbers = {name: generator.randint(2, largest) for name in "ab"}
        numbers["c"] = generator.randint(2, 9)
        if all(0 < result < 100 for _, result in _calculate(story, numbers)):
            return numbers


def _calculate(story: Story, numbers: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Each step with its numbers filled in, and its result."""
    known = dict(numbers)
    for step in story.steps:
        left, sign, right = tuple(step)
        expression = f"{known[left]}{sign}{known[right]}"
        known["r"] = _OPERATIONS[sign](known[left], known[right])
        yield expression, known["r"]
