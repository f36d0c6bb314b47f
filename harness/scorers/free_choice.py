r"""The letter of a multiple-choice answer, read from free text.

What is said outright comes first: `\boxed{B}`, "the answer is (B)", "C is correct", "I choose D";
of several such statements the last one counts, and one that names two letters cannot be read.
Then an answer that begins with its letter (`B. Mitosis`), ends with it on a line of its own, calls
one option of a list right, or holds one letter in brackets. An A counts only where it cannot be the
article. Where a model writes on with a question of its own, what it answered before counts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from harness.scorers.thinking import before_next_question, visible_answer
from harness.types import Completion, Sample, Score

_LETTERS = "ABCD"
# Statements stand at the end; the rest of a longer text is not read.
_READ = 20_000

_DECORATION = re.compile(
    r"\\(?:text|mathrm|mathbf|textbf|rm)\s*\{([^{}]{0,80})\}|[*_`$]+|\\[(\[)\]]|<[/a-z]{1,8}>"
)
_NOUN = r"(?:answer|ans|correct|option|choice|alternative|letter|response|solution|conclusion)"
# What may stand between "the answer" and its letter.
_LINK = (
    r"(?:\s+(?:here\s+)?(?:is|are|(?:would|must|should|will|might|may|could|has\s+to|seems\s+to"
    r"|appears\s+to)\s+(?:(?:likely|probably)\s+)?be|(?:to|for|of|in|among|that|from)"
    r"\s+[^.\n]{1,60}?\s+is)\b[\s:]*|[\"']?\s*(?:[:=：–—→>-]+)\s*"
    r"|(?<=ans)\s*\.\s*(?:is\b\s*)?"
    r"|(?:(?<=ans)|(?<=answer))[\s.:]{1,3}(?=[(\[]?[a-z][.):\]]))"
)
_FILLER = (
    r"(?:(?:therefore|thus|hence|clearly|indeed|most\s+likely|probably|actually|simply|the"
    r"|correct|best|option|choice|letter|answer|number)[\s,:]+){0,4}"
)
_OPEN, _CLOSE = r"[(\[{<\"'“‘]{0,3}", r"[)\]}>\"'”’]{0,3}"
_VERB = (
    r"(?:(?:is|would\s+be|must\s+be|(?:seems|appears|looks)(?:\s+to\s+be)?)\s+(?:(?:the|most|clearly"
    r"|therefore|also)\s+)*(?:correct|right|true|best|answer|appropriate|(?:option|choice|one)\s+that"
    r"|(?:better|likeliest|only|most\s+\w+)\s+(?:answer|option|choice|one|statement)"
    r"|just\s+right)|(?:seems|appears|looks)\s+(?:the\s+)?(?:more|most)\s+(?:plausible|likely"
    r"|appropriate|suitable|accurate|reasonable)|(?:best\s+)?(?:fits|matches)\b|best\s+[a-z]+s\b|[a-z]+s\s+(?:\w+\s+){1,5}best\b)"
)
_CHINESE = r"(?:答案|选项|选择|[故应]选)(?:是|为|选|[:：\s])*"
# "it" and "so" conclude: "it's B.", "leaving D as", "So (B)."
_CONCLUDED = (
    r"(?:\b(?:it|this|that)(?:['’]s|\s+(?:is|must\s+be|should\s+be|would\s+be|has\s+to\s+be))"
    r"|\b(?:leaving|leaves)(?:\s+(?:only|us\s+with))?|(?:^|[.!?,\n])\s*(?:so|thus|hence|therefore)\b,?)"
)
_CHOOSE = r"\b(?:choose|chose|select|selected|pick|picked|go\s+(?:with|for)|opt\s+for|mark)\b"
# In "vitamin D" and "hepatitis B" the letter is a name.
_NAMED = (
    r"(?:vitamin|hepatitis|type|group|class|grade|stage|factor|protein|influenza|complex"
    r"|coenzyme|cyclosporin|penicillin|phase|plan|part|figure|table|point|person|patient|case)"
)
_NO_ANSWER = re.compile(
    rf"(?i:\b{_NAMED}|\b(?:not|never|neither|nor|than)|n['’]t(?:\s+be)?|\bnot\s+be)\s+\Z"
    r"|(?<![\w'’])[A-J](?:\s*[,/&]|\s+(?:and|or|nor)\b)+\s*\Z"
)
_RIGHT = re.compile(r"(?i)\b(?:correct|right|true)\b")
_NOT_RIGHT = re.compile(r"(?i)\b(?:not|incorrect|wrong|false|untrue|neither)\b|n['’]t\b")


@dataclass(frozen=True, slots=True)
class _Patterns:
    boxed: re.Pattern[str]
    stated: re.Pattern[str]
    described: re.Pattern[str]
    alone: re.Pattern[str]
    begins: re.Pattern[str]
    opens: re.Pattern[str]
    follows: re.Pattern[str]
    listed: re.Pattern[str]
    option: re.Pattern[str]
    bracketed: re.Pattern[str]
    final: re.Pattern[str]
    letters: re.Pattern[str]


@functools.lru_cache(maxsize=16)
def _patterns(letters: str) -> _Patterns:
    some = f"[{letters}{letters.lower()}]"
    upper = f"[{letters}]"
    # Not the start of a word, nor the article: "A patient", "a rise"; "A because" is a letter.
    ends = r"(?!\w|['’]\w|-\S|\.(?-i:[a-z0-9]))"
    reason = r"(?:because|since|i\.e|as|for|which|due|given|with)\b"
    word_after = rf"(?![ \t]+(?!{reason}|(?:is|was|or|and|but)\b)(?-i:[a-z]))"
    letter = rf"(?:(?![Aa]){some}{ends}|[Aa]{ends}{word_after})"

    def said(one: str, two: str) -> str:
        """A letter as group `one`; group `two` where another one follows it."""
        second = rf"\s*(?:,|/|&|or|and)+\s*(?:option\s+)?{_OPEN}(?-i:{upper})(?![\w'’]|\s+is\b)"
        return rf"{_OPEN}(?P<{one}>{letter}){_CLOSE}(?P<{two}>{second})?"

    after_noun = rf"\b{_NOUN}s?{_LINK}{_FILLER}{said('one', 'two')}"
    subject = rf"(?<![\w'’]){_OPEN}(?P<three>{upper}){_CLOSE}"
    chinese = rf"{_CHINESE}{_OPEN}(?P<six>{upper})(?![A-Za-z])"
    # Not the first of several, and nothing but a reason behind it.
    ended = (
        rf"(?!\s*(?:,|/|&|or|and)+\s*{_OPEN}(?-i:{upper})(?!\w))"
        r"(?=\s*(?:[.,;!:)\n]|\Z|(?:as|because|since|which|for)\b))"
    )
    concluded = (
        rf"(?m:{_CONCLUDED})\s+{_FILLER}{_OPEN}(?P<seven>(?-i:{upper})(?!['’])){_CLOSE}{ended}"
    )
    chosen = rf"{_CHOOSE}\s+{_FILLER}{said('four', 'five')}"
    return _Patterns(
        boxed=re.compile(rf"(?i:\\boxed\s*\{{\s*{_OPEN}({letter}))"),
        stated=re.compile(
            rf"(?i:{after_noun})|{subject}\s+{_VERB}|(?i:{chosen})|{chinese}|(?i:{concluded})"
        ),
        described=re.compile(rf"{subject}\s*[.:][^.\n]{{1,80}}?\s+{_VERB}"),
        alone=re.compile(rf"\W*(?:(?i:option|choice)\s+)?({some})(?:\W+only)?\W*"),
        begins=re.compile(
            rf"[\s(\[\"']*({some})(?:(?:[)\]]+[.:,]?|\.)|(?<=[A-Z])(?::|\s+[-–—]))(?=\s|$)"
        ),
        opens=re.compile(
            rf"\W*(?:({upper})(?:[)\].:,;]+(?!\s*[A-Z]\b)|\s+{reason})"
            rf"|((?![AI]){upper})\s+[A-Z\d](?!\b))"
        ),
        follows=re.compile(
            rf"(?<!not )(?<!n't )\b(?:is|be)\b:?\s+{_OPEN}({upper})(?:[.:)](?=\s)|\)|[.:)]?\Z)"
        ),
        listed=re.compile(rf"(?<![\w'’.-])({upper})(?:[).:]|\s+[-–—])\s"),
        option=re.compile(rf"\b(?:[Oo]ption|[Cc]hoice)\s+{_OPEN}({upper})(?![\w'’])"),
        bracketed=re.compile(rf"\(({some})\)"),
        letters=re.compile(rf"(?<![\w'’.-])(?!A){upper}(?![\w'’-])"),
        final=re.compile(rf"(?<![\w'’.-])({upper})[\s.)\]\"'!]{{0,8}}\Z"),
    )


def letter_in(text: str, letters: str = _LETTERS) -> str | None:
    r"""The letter that a text answers with, None where it says none or more than one.

    >>> [letter_in(t) for t in ("The answer is (B).", "**C** is right.", r"\boxed{D}", "B. Liver")]
    ['B', 'C', 'D', 'B']
    >>> [letter_in(t) for t in ("A patient comes in.", "The answer is A or B.", "It is vitamin D")]
    [None, None, None]
    """
    pattern = _patterns(letters)
    text = text[-_READ:].strip()
    before = before_next_question(text)
    return (_read(pattern, before) if before != text else None) or _read(pattern, text)


def _read(pattern: _Patterns, text: str) -> str | None:
    text = _DECORATION.sub(_undecorated, text).strip()
    if boxed := pattern.boxed.findall(text):
        return str(boxed[-1]).upper()
    if alone := pattern.alone.fullmatch(text):
        return alone[1].upper()
    if stated := list(_statements(pattern.stated, text)):
        return stated[-1]
    if described := pattern.described.findall(text):
        return str(described[-1])
    return _unstated(pattern, text)


def _undecorated(match: re.Match[str]) -> str:
    return match[1] or ""


def _statements(stated: re.Pattern[str], text: str) -> Iterator[str | None]:
    for match in stated.finditer(text):
        both = match["two"] or match["five"]
        letter = match["one"] or match["three"] or match["four"] or match["six"] or match["seven"]
        yield None if both else letter.upper()


def _unstated(pattern: _Patterns, text: str) -> str | None:
    """The letter of an answer that does not introduce it."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    begun = {match[1].upper(): line for line in lines if (match := pattern.begins.match(line))}
    if letter := _first(pattern, lines[0], begun):
        return letter
    for line in (lines[-1], lines[0]):
        if alone := pattern.alone.fullmatch(line):
            return alone[1].upper()
    if len(begun) > 1 and (right := [one for one, line in begun.items() if _is_right(line)]):
        return right[0] if len(right) == 1 else None
    return _named(pattern, text, begun)


def _first(pattern: _Patterns, line: str, begun: Collection[str]) -> str | None:
    """The letter that the first line begins with, unless that begins a list of the options."""
    listed = {*pattern.listed.findall(line), *pattern.bracketed.findall(line.upper())}
    begins, opens = pattern.begins.match(line), pattern.opens.match(line)
    if begins:
        letter = begins[1].upper()
        alone = len(listed | {letter}) == 1 and (len(begun) == 1 or letter > min(begun))
        # "B) 5 is right. A) is less" is no list of the options, which would begin with A.
        return letter if alone or (len(begun) == 1 and letter > min(listed, default="")) else None
    if opens and listed | {*begun} <= {*opens.groups()}:
        return str(opens[1] or opens[2])
    return None


def _is_right(line: str) -> bool:
    return _RIGHT.search(line) is not None and _NOT_RIGHT.search(line) is None


def _named(pattern: _Patterns, text: str, begun: Iterable[str]) -> str | None:
    """The one letter that a text names in some way; the ways are tried in order."""
    follows = set(pattern.follows.findall(text))
    if len(follows) == 1:
        return str(follows.pop())
    listed = [*begun, *pattern.listed.findall(text)] if begun else []
    ways = (pattern.option, pattern.bracketed)
    for found in (*(way.findall(text) for way in ways), listed, follows):
        if found:
            named = {letter.upper() for letter in found}
            return named.pop() if len(named) == 1 else None
    final = pattern.final.search(text)
    if final is None or _NO_ANSWER.search(text[: final.start()][-40:]):
        return None
    # Several letters are names in the text: "A reacts with B to C."
    return final[1] if {*pattern.letters.findall(text)} <= {final[1]} else None


@dataclass(frozen=True, slots=True)
class FreeChoice:
    """Compares the letter read from free text with the target; thinking text is not read."""

    name: str = "choice"
    metric: str = "choice_match"
    version: int = 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        text = visible_answer(sample, completion)
        letters = "".join(choice for choice in sample.choices if len(choice) == 1) or _LETTERS
        answer = None if text is None else letter_in(text, letters)
        return Score(
            value=float(answer is not None and answer == sample.target.strip().upper()),
            answer=answer,
            grader=self.name,
            version=self.version,
            explanation=f"read {answer}, expected {sample.target}",
        )


_CS336_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"^([ABCD])$",
        r"\b([ABCD])\b",
        r"ANSWER[:： ]*([ABCD])",
        r"OPTION[:： ]*([ABCD])",
        r"CHOICE[:： ]*([ABCD])",
        r"\(([ABCD])\)",
    )
)


@dataclass(frozen=True, slots=True)
class Cs336Choice:
    """The first of six patterns in the upper-cased text, as the CS336 lineage reads MMLU.

    The second one takes the article "a" of any sentence for the letter A.
    """

    name: str = "cs336_mmlu"
    metric: str = "exact_match"
    version: int = 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        text = completion.text.upper().strip()
        found = (match for pattern in _CS336_PATTERNS if (match := pattern.search(text)))
        match = next(found, None)
        answer = match[1] if match else None
        return Score(
            value=float(answer is not None and answer == sample.target),
            answer=answer,
            grader=self.name,
            version=self.version,
            explanation=f"read {answer}, expected {sample.target}",
        )


@dataclass(frozen=True, slots=True)
class FirstLine:
    """The first line against the letter, case and punctuation aside (lm-eval mmlu_generative 3)."""

    name: str = "first_line"
    metric: str = "exact_match"
    version: int = 1

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        answer = completion.text.split("\n", 1)[0].strip()
        return Score(
            value=float(_bare(answer) == _bare(sample.target)),
            answer=answer or None,
            grader=self.name,
            version=self.version,
            explanation=f"expected {sample.target}",
        )


_PUNCTUATION = str.maketrans("", "", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _bare(text: str) -> str:
    return text.lower().translate(_PUNCTUATION)


CHOICE_TEXT = FreeChoice()
CS336_MMLU = Cs336Choice()
FIRST_LINE = FirstLine()
