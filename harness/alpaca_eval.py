"""AlpacaEval 2: preferences, win rates and the length-controlled win rate.

Dubois et al. 2024 (arXiv 2404.04475) and tatsu-lab/alpaca_eval at cd543a1. A preference lies
between 1 (the reference answer is better) and 2 (the model's is); rates here are in percent, as
published.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import DataError
from harness.logistic import fit, probability
from harness.rows import read_rows
from harness.stats import mean_stderr

DATASET = "tatsu-lab/alpaca_eval"
JUDGE = "weighted_alpaca_eval_gpt4_turbo"
TIE = 1.5

LEAST_MASS = 0.01
"""A judge that gives `m` and `M` together less than this was about to say something else: no
verdict. The least in the published annotations is .49, so none of those is lost."""

_RANK = re.compile(
    r"""\{\s*["']model["']\s*:\s*["']model_([12])["']\s*,\s*["']rank["']\s*:\s*["']?([12])["']?\s*\}"""
)
_MOST_TEXT = 10_000


def is_switched(instruction: str) -> bool:
    """Whether the judge is shown the model's answer first: AlpacaEval's draw for annotator seed 0.

    >>> is_switched("Hello"), is_switched("What is a tide?")
    (False, True)
    """
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True], k=1)[0]


def unswitched(raw: float, instruction: str) -> float:
    """The preference between reference and model from the one between first and second answer."""
    return 3 - raw if is_switched(instruction) else raw


def weighted_preference(logprobs: Mapping[str, float]) -> float:
    """1 for the first answer shown to 2 for the second, by the log-probabilities of `m` and `M`.

    A token that is not there has no weight; NaN where neither has any, or next to none.

    >>> round(weighted_preference({"m": -0.2, "M": -1.8}), 6)
    1.167982
    >>> weighted_preference({"M": -0.1}), weighted_preference({"The": -0.1})
    (2.0, nan)
    """
    first, second = (math.exp(logprobs.get(token, -math.inf)) for token in ("m", "M"))
    mass = first + second
    return 2 - first / mass if mass >= LEAST_MASS else math.nan


def ranking_preference(reply: str) -> float:
    """1 where the reply ranks `model_1` first, 2 where `model_2`; NaN where it does neither.

    Reads Python and JSON quotes, and takes no notice of what stands around the list. Models of the
    same rank are no ranking.

    >>> ranking_preference("[{'model': 'model_2', 'rank': 1}, {'model': 'model_1', 'rank': 2}]")
    2.0
    >>> ranking_preference("model_2 is better")
    nan
    """
    ranks = {(model, rank) for model, rank in _RANK.findall(reply[:_MOST_TEXT])}
    if ranks in ({("1", "1")}, {("2", "2")}, {("1", "1"), ("2", "2")}):
        return 1.0
    if ranks in ({("1", "2")}, {("2", "1")}, {("1", "2"), ("2", "1")}):
        return 2.0
    return math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRates:
    """The columns of the published leaderboard; rates and their error in percent.

    avg_length: characters of the model's answers, None where the annotations do not hold them.
    """

    win_rate: float
    standard_error: float
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float
    avg_length: int | None


def win_rates(annotations: Iterable[Mapping[str, Any]]) -> WinRates:
    """Win rates from AlpacaEval annotations: rows with `preference` and, for lengths, `output_2`.

    A preference of 0 is a draw, one that is missing does not count.
    Raises DataError where none is left.

    >>> rates = win_rates({"preference": value} for value in (1, 2, 1.5, 1.2, 1.9, 0))
    >>> round(rates.win_rate, 6), round(rates.standard_error, 6), rates.n_draws
    (51.666667, 15.79381, 2)
    """
    rows = list(annotations)
    found = [_preference(row) for row in rows]
    wins = [value - 1 for value in found if not math.isnan(value)]
    if not wins:
        raise DataError(f"none of the {len(rows)} annotations has a preference")
    mean, stderr = mean_stderr(wins)
    lengths = [len(row["output_2"]) for row in rows if isinstance(row.get("output_2"), str)]
    n_wins, n_draws = sum(win > 0.5 for win in wins), sum(win == 0.5 for win in wins)
    return WinRates(
        win_rate=100 * mean,
        standard_error=100 * stderr,
        n_wins=n_wins,
        n_wins_base=len(wins) - n_wins - n_draws,
        n_draws=n_draws,
        n_total=len(wins),
        discrete_win_rate=100 * (n_wins + n_draws / 2) / len(wins),
        avg_length=int(sum(lengths) / len(lengths)) if len(lengths) == len(rows) else None,
    )


def _preference(row: Mapping[str, Any]) -> float:
    value = row["preference"]
    if value is None:
        return math.nan
    return float(value) or TIE


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A model's row of the generalised linear model: logit P(it wins) is the sum of

    length · tanh(z), z the difference in characters over its standard deviation,
    difficulty · the instruction's difficulty, and ability.
    """

    length: float
    difficulty: float
    ability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthControlled:
    """A win rate at equal length, in percent. stderr: of the mean over instructions, as published;
    it leaves out the error of the fit. `refit` gives one that has it in."""

    value: float
    stderr: float
    n: int


def length_controlled(weights: Weights, difficulties: Sequence[float]) -> LengthControlled:
    """The mean predicted chance to win over instructions of these difficulties at equal length."""
    chances = [probability(weights.difficulty * d + weights.ability) for d in difficulties]
    mean, stderr = mean_stderr(chances)
    return LengthControlled(value=100 * mean, stderr=100 * stderr, n=len(chances))


def instruction_key(instruction: str) -> str:
    """A short name by which difficulties are kept with a run."""
    return hashlib.sha256(instruction.encode()).hexdigest()[:16]


def aligned(
    instructions: Sequence[str],
    difficulties: Mapping[str, float],
    *,
    compat_row_index: bool = False,
) -> list[float]:
    """The difficulty of each of `instructions`.

    compat_row_index: by place instead, as the published numbers of models that did not answer every
    instruction were computed (text_davinci_001, phi-2).
    Raises DataError for an instruction that has none.
    """
    if compat_row_index:
        return list(difficulties.values())[: len(instructions)]
    missing = [text for text in instructions if text not in difficulties]
    if missing:
        raise DataError(f"the instruction `{missing[0][:60]}` has no difficulty")
    return [difficulties[text] for text in instructions]


def refit(
    wins: Sequence[float], lengths: Sequence[tuple[int, int]], difficulties: Sequence[float] | None
) -> tuple[Weights, LengthControlled] | None:
    """Weights and length-controlled win rate (`lc_noreg`) from a model's own preferences.

    wins: preference - 1. lengths: characters of reference and model. Plain maximum likelihood:
    the published fit also holds rows of a verbose and a concise baseline, which are not public, and
    a penalty; it comes out up to some points apart, so the two must not share a name.
    The standard error has the fit in it. None where the likelihood has no maximum.
    """
    terms = [tanh_length(lengths), difficulties or [0.0] * len(wins), [1.0] * len(wins)]
    used = [0, 1, 2] if difficulties else [0, 2]
    if not any(terms[0]):
        used.remove(0)
    rows = [[terms[column][i] for column in used] for i in range(len(wins))]
    fitted = fit(rows, wins)
    if fitted is None:
        return None
    at_equal_length = [
        [0.0 if column == 0 else row[k] for k, column in enumerate(used)] for row in rows
    ]
    mean, stderr = fitted.mean_prediction(at_equal_length)
    known = dict(zip(used, fitted.weights, strict=True))
    weights = Weights(length=known.get(0, 0.0), difficulty=known.get(1, 0.0), ability=known[2])
    return weights, LengthControlled(value=100 * mean, stderr=100 * stderr, n=len(wins))


def tanh_length(lengths: Sequence[tuple[int, int]]) -> list[float]:
    """tanh of the difference in length (reference less model) over its standard deviation."""
    differences = [ours - theirs for ours, theirs in lengths]
    _, stderr = mean_stderr([float(value) for value in differences])
    deviation = stderr * math.sqrt(len(differences))
    return [math.tanh(value / deviation) if deviation else 0.0 for value in differences]


def published_weights(data_root: Path) -> dict[str, Weights]:
    """The published weights of every model on the leaderboard of AlpacaEval 2."""
    path = data_root / DATASET / "weights" / "length_controlled_v1_baseline_gpt4_1106_preview.csv"
    return {
        row[""]: Weights(
            length=float(row["np.tanh(std_delta_len)"]),
            difficulty=float(row["instruction_difficulty"]),
            ability=float(row["not_gamed_baseline.astype(float)"]),
        )
        for row in read_rows(path)
    }


def estimated_difficulties(data_root: Path) -> dict[str, float] | None:
    """Instruction → difficulty, in the order of the benchmark; None where the root has no file.

    They were estimated from annotations and published weights, since the original is not public
    as a file beside the code.
    """
    folder = data_root / DATASET
    path = folder / "derived" / "instruction_difficulty_estimated.csv"
    if not path.is_file():
        return None
    rows = read_rows(folder / "alpaca_eval_gpt4_baseline" / "eval.parquet")
    values = [float(row["instruction_difficulty_estimated"]) for row in read_rows(path)]
    return {row["instruction"]: value for row, value in zip(rows, values, strict=True)}
