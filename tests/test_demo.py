"""What `make demo` promises: a real fine-tune is better, its control is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.evaluate import Options as Evaluation
from harness.pipeline import Options, Outcome, train_then_eval

pytestmark = pytest.mark.slow


def outcome(home: Path, recipe: str, questions: int | None = None) -> Outcome:
    asked = Evaluation(home=home, limit=questions)
    return train_then_eval(recipe, Options(checkpoints=False, evaluation=asked))


def test_sft_of_the_embedded_model_is_better_beyond_doubt(tmp_path: Path) -> None:
    (found,) = outcome(tmp_path, "tiny_sft").comparison
    assert (found.name, found.verdict, found.p < 1e-6) == ("arithmetic", "better", True)


def test_training_on_the_answers_of_other_questions_is_never_better(tmp_path: Path) -> None:
    (found,) = outcome(tmp_path, "tiny_shuffled", 200).comparison
    assert found.verdict in ("worse", "no evidence", "too few questions")
    assert found.delta < 0
