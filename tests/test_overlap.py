from __future__ import annotations

from harness.overlap import Overlaps, Questions

LONG = "A farmer sells twelve boxes with nine melons each to three shops in the same small town"
OTHER = "Seven trains leave at dawn and the last of them is late by twenty minutes every day"


def within(text: str, **questions: str) -> Overlaps:
    return Questions(questions).within(text)


def test_a_whole_question_is_found_whatever_its_punctuation() -> None:
    found = within(f"Solve this: {LONG.upper()}!! Thanks.", a=f"{LONG}?", b=OTHER)
    assert found == Overlaps(exact=("a",), ngram=("a",))


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not() -> None:
    words = LONG.split()
    assert within(" ".join(words[2:15]), a=LONG, b=OTHER) == Overlaps(exact=(), ngram=("a",))
    assert within(" ".join(words[2:14]), a=LONG, b=OTHER) == Overlaps(exact=(), ngram=())


def test_a_short_question_counts_where_all_of_it_stands_in_a_row() -> None:
    short = "How many legs have six ants?"
    assert within(f"Well: {short}", a=short, b=OTHER).exact == ("a",)
    assert within("How many legs have seven ants?", a=short, b=OTHER).exact == ()
    assert within("What is 2 + 2?", a="What is 2 + 2?", b=OTHER).ngram == ()


def test_the_frame_around_all_questions_is_not_looked_for() -> None:
    framed = {name: f"Question: {text}\nAnswer:" for name, text in (("a", LONG), ("b", OTHER))}
    assert within(LONG, **framed).exact == ("a",)
    step = "Please reason step by step, and put your final answer within boxed braces, thank you."
    closed = {"a": f"{LONG}\n{step}", "b": f"{OTHER}\n{step}"}
    assert within(f"Something else.\n{step}", **closed) == Overlaps(exact=(), ngram=())
    assert within(f"{OTHER} It is 4.", **closed).exact == ("b",)


def test_what_many_questions_share_is_a_template() -> None:
    rule = "use the table of atomic weights on the last page of this exam to answer"
    asked = {f"q{i}": f"Item {i} of part {i % 7}: {rule} number {i} as {i * i}" for i in range(30)}
    assert within(f"Now {rule} me.", **asked).ngram == ()


def test_one_question_alone_is_found_too() -> None:
    assert within(LONG, a=LONG).exact == ("a",)
