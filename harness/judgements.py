"""What a judge said about the answers of a run, as grading reads it.

    judge/judge.json         which model was asked and how; price; difficulties of instructions
    judge/requests.jsonl     one request for each answer that there was something to ask about
    judge/completions.jsonl  its replies, in the format of the model's own

The folder has the form of a run, so that workers, resuming and torn lines are the same for both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.alpaca_eval import instruction_key, refit
from harness.errors import StoreError
from harness.judges import Judge, judge_from_json
from harness.metrics import rates, summarise
from harness.runs import read_completions, read_requests, write_atomically
from harness.scorers.judged import NOT_ASKED, Preference, question, shown_answer
from harness.task import Task
from harness.types import JSON, Completion, Measure, ModelSpec, Sample, Score, Scored, to_json

FOLDER = "judge"
CONFIG = "judge.json"
UNPARSEABLE_RATE = "judge_unparseable_rate"

FEWEST_FOR_LENGTH_CONTROL = 50
"""A fit of three weights to fewer preferences says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appointed:
    """A judge with the model that speaks for it.

    settings: the engine's, checked. difficulties: by `instruction_key`, for length control.
    """

    judge: Judge
    spec: ModelSpec
    engine: str
    settings: JSON
    difficulties: dict[str, float]

    def protocol(self) -> JSON:
        """What makes two judged scores comparable."""
        sampling = {k: v for k, v in to_json(self.judge.sampling).items() if v is not False}
        return {
            "model": self.spec.name,
            "fingerprint": self.spec.fingerprint,
            "engine": self.engine,
            "parser": self.judge.parser,
            "system": self.judge.system,
            "user": self.judge.user,
            "sampling": sampling,
        }

    def to_json(self) -> JSON:
        return {
            "judge": self.judge.to_json(),
            "spec": to_json(self.spec),
            "engine": self.engine,
            "settings": self.settings,
            "difficulties": self.difficulties,
        }


def write_appointed(folder: Path, appointed: Appointed) -> None:
    """Keep the judge with the run whose folder this is."""
    (folder / FOLDER).mkdir(exist_ok=True)
    text = json.dumps(appointed.to_json(), indent=1, ensure_ascii=False)
    write_atomically(folder / FOLDER / CONFIG, text + "\n")


def read_appointed(folder: Path) -> Appointed:
    """Raises StoreError where the run has no judge yet, or a torn one."""
    path = folder / FOLDER / CONFIG
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        judge, spec = judge_from_json(value.pop("judge")), ModelSpec(**value.pop("spec"))
        return Appointed(judge=judge, spec=spec, **value)
    except (OSError, ValueError, TypeError, KeyError) as error:
        hint = "repeat the eval command with its `--judge`"
        raise StoreError(
            f"the judge of the run in `{path}` cannot be read: {error}", hint
        ) from None


def request_id(sample: Sample, index: int) -> str:
    return f"{sample.id}@{index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """win: 1 where the model's answer is better. lengths: characters of reference and answer."""

    win: float
    lengths: tuple[int, int]
    difficulty: float | None


class Judgements:
    """The replies of a run's judge, and sums over those that were read."""

    def __init__(self, folder: Path, task: Task) -> None:
        self._appointed = read_appointed(folder)
        self._folder = folder / FOLDER
        self._asked = {request["id"]: request["prompt"] for request in read_requests(self._folder)}
        self._replies = {reply.request_id: reply for reply in read_completions(self._folder)}
        self._scorer = task.scorers[0]
        self._pairs: list[_Pair] = []

    def reply(self, sample: Sample, index: int) -> Completion:
        """What the judge said; NOT_ASKED where there was nothing to judge.

        Raises StoreError where it was asked and did not answer: never a verdict.
        """
        name = request_id(sample, index)
        if name not in self._asked:
            return NOT_ASKED
        if name not in self._replies:
            raise StoreError(
                f"the judge has not answered `{name}` in {self._folder}", "repeat the eval command"
            )
        return self._replies[name]

    def row(self, sample: Sample, completion: Completion, grade: Score) -> Iterator[JSON]:
        """A row of grades.parquet that keeps the judge's prompt and its raw reply as JSON."""
        self._note_pair(sample, completion, grade)
        reply = self.reply(sample, completion.index)
        if reply is NOT_ASKED:
            return
        prompt = reply.prompt or self._asked[request_id(sample, completion.index)]
        said: JSON = {
            "prompt": prompt,
            "reply": reply.text,
            "logprobs": list(reply.choice_logprobs),
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
        }
        if (cost := self._cost(reply.prompt_tokens, reply.completion_tokens)) is not None:
            said["cost"] = cost
        yield {
            "sample_id": sample.id,
            "sample_index": completion.index,
            "grader": f"judge:{self._appointed.spec.name}",
            "version": grade.version,
            "metric": self._scorer.metric,
            "score": None if math.isnan(grade.value) else grade.value,
            "answer": grade.answer,
            "parsed": grade.parsed,
            "explanation": json.dumps(said, ensure_ascii=False),
        }

    def _note_pair(self, sample: Sample, completion: Completion, grade: Score) -> None:
        if isinstance(self._scorer, Preference) and not math.isnan(grade.value):
            self._pairs.append(
                _Pair(
                    win=grade.value,
                    lengths=(len(sample.target), len(shown_answer(sample, completion))),
                    difficulty=self._appointed.difficulties.get(instruction_key(question(sample))),
                )
            )

    def measures(self, scored: Sequence[Scored]) -> list[Measure]:
        """Truncated answers, replies that could not be read, length control, tokens and price."""
        unread = [
            replace(item, score=replace(item.score, value=float(not item.score.parsed)))
            for item in scored
        ]
        return [
            # A judged answer is read where the judge's reply is: the second says so for each group.
            *rates(scored),
            *summarise(UNPARSEABLE_RATE, unread),
            *self._length_control(),
            *self._costs(),
        ]

    def _length_control(self) -> Iterator[Measure]:
        """`lc_noreg` with known difficulties of all instructions, else `lc_length_only`."""
        if len(self._pairs) < FEWEST_FOR_LENGTH_CONTROL:
            return
        known = [pair.difficulty for pair in self._pairs if pair.difficulty is not None]
        complete = len(known) == len(self._pairs)
        lengths = [pair.lengths for pair in self._pairs]
        found = refit([pair.win for pair in self._pairs], lengths, known if complete else None)
        if found is not None:
            name = "lc_noreg" if complete else "lc_length_only"
            yield _share(name, found[1].value / 100, found[1].stderr / 100, found[1].n)

    def _costs(self) -> Iterator[Measure]:
        """Totals over all replies, those taken from earlier runs too."""
        replies = [self._replies[name] for name in self._asked if name in self._replies]
        prompt = sum(reply.prompt_tokens for reply in replies)
        completion = sum(reply.completion_tokens for reply in replies)
        totals = {"judge_prompt_tokens": prompt, "judge_completion_tokens": completion}
        yield from (_total(name, value, len(replies)) for name, value in totals.items())
        if (cost := self._cost(prompt, completion)) is not None:
            yield _total("judge_cost", cost, len(replies))

    def _cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """None for a judge without a price."""
        price = self._appointed.judge.price
        if price is None:
            return None
        return (prompt_tokens * price[0] + completion_tokens * price[1]) / 1e6


def _share(metric: str, value: float, stderr: float, n: int) -> Measure:
    low, high = max(0.0, value - 1.959964 * stderr), min(1.0, value + 1.959964 * stderr)
    return Measure(metric=metric, value=value, stderr=stderr, ci_low=low, ci_high=high, n=n)


def _total(metric: str, value: float, n: int) -> Measure:
    return Measure(metric=metric, value=value, stderr=0.0, ci_low=value, ci_high=value, n=n)
