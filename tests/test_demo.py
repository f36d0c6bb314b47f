"""What `make demo` promises: a real fine-tune is better, its control is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.evaluate import Options as Evaluation
from harness.pipeline import Options, Outcome, train_then_eval


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def outcome(home: Path, recipe: str, steps: int, questions: int) -> Outcome:
    """A part of the demo's training, on a part of its questions."""
    asked = Evaluation(home=home, limit=questions)
    given = Options(settings={"max_steps": str(steps)}, checkpoints=False, evaluation=asked)
    return train_then_eval(recipe, given)


@pytest.mark.long
def test_sft_of_the_embedded_model_is_better_beyond_doubt(home: Path) -> None:
    (found,) = outcome(home, "tiny_sft", 60, 250).comparison
    assert (found.name, found.verdict, found.p < 1e-6) == ("arithmetic", "better", True)


@pytest.mark.slow
def test_training_on_the_answers_of_other_questions_is_never_better(home: Path) -> None:
    (found,) = outcome(home, "tiny_shuffled", 30, 120).comparison
    assert (found.verdict == "better", found.delta < 0) == (False, True)
