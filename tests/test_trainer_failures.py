"""What trainers refuse before a model is loaded, and how those that break say why."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from harness.errors import DataError, UsageError  # noqa: E402
from harness.trainer import CHECK, read_recipe  # noqa: E402
from harness.training_process import failure  # noqa: E402
from harness.types import JSON, Lora  # noqa: E402
from tests.training import (  # noqa: E402
    TINY,
    rightly_and_wrongly,
    tiny,
    tiny_tokenizer,
    training_folder,
    word_problems,
)
from trainers import checking, running, sft  # noqa: E402
from trainers.loading import with_lora  # noqa: E402
from trainers.outcome import weights_changed  # noqa: E402
from trainers.watching import (  # noqa: E402
    MOST_SKIPPED,
    LossScaleUnderflowError,
    NotFiniteLossError,
    Watcher,
)

CHAT = {"prompt": [{"role": "user", "content": "1+1?"}], "completion": "2"}


def checked(folder: Path, method: str, examples: list[JSON], **changes: Any) -> JSON:
    place = training_folder(folder / "run", method, examples, **changes)
    checking.main(place)
    found: JSON = json.loads((place / CHECK).read_text())
    return found


def without_pad_token(folder: Path) -> Path:
    shutil.copytree(TINY, folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("pad_token")
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("examples", "changes", "message", "hint"),
    [
        (word_problems(1), {"lora": Lora(targets=("q_prj",))},
         "`lora.targets`: no layer of the model is called `q_prj`", "it has: "),
        (word_problems(1), {"max_length": 20_000}, "`max_length` 20000 exceeds the 16384 pos",
         "`--set max_length=16384`"),
        (word_problems(1), {"pad_token": "<none>"}, "`pad_token: <none>` is not in the vocab", ""),
        ([CHAT], {"chat_template": "none"}, "the examples are messages, and the tokenizer has no",
         "`--set chat_template=FILE.jinja`"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_model_is_refused_without_its_weights(
    tmp_path: Path, examples: list[JSON], changes: JSON, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as error:
        checked(tmp_path, "sft", examples, **changes)
    assert error.value.message.startswith(message)
    assert error.value.hint is not None
    assert error.value.hint.startswith(hint)


def test_a_model_without_a_pad_token_is_refused_with_one_to_take(tmp_path: Path) -> None:
    bare = str(without_pad_token(tmp_path / "bare"))
    with pytest.raises(UsageError, match="has no pad token") as error:
        checked(tmp_path / "refused", "sft", word_problems(1), model_path=bare)
    assert "pad_token" in str(error.value.hint)
    found = checked(tmp_path, "sft", word_problems(1), model_path=bare, pad_token="<pad>")
    assert found["kept"] == 1


def test_pairs_are_counted_as_pairs_with_the_tokens_of_both_sides(tmp_path: Path) -> None:
    found = checked(tmp_path, "dpo", rightly_and_wrongly(3))
    assert (found["examples"], found["kept"], found["overlong"]) == (3, 3, 0)
    assert found["longest"] < found["tokens"] / 5


@pytest.mark.parametrize(("overlong", "kept"), [("drop", 1), ("truncate", 2)])
def test_what_is_too_long_is_counted_and_dropped_or_cut(
    tmp_path: Path, overlong: str, kept: int
) -> None:
    rows = [{"prompt": "1+1=", "completion": " 2"}, {"prompt": "1=", "completion": " 1" * 50}]
    found = checked(tmp_path, "sft", rows, max_length=20, overlong=overlong)
    assert (found["examples"], found["overlong"], found["kept"]) == (2, 1, kept)


def test_deepspeed_that_cannot_be_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(UsageError, match="DeepSpeed does not work here: import of deepspeed"):
        checked(tmp_path, "sft", word_problems(1), launcher="zero2", num_processes=2)


def test_a_loss_that_is_not_a_number_ends_the_training(tmp_path: Path) -> None:
    model = tiny()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    tiny_tokenizer().save_pretrained(tmp_path / "broken")
    folder = training_folder(
        tmp_path / "run", "sft", word_problems(8), max_steps=3, model_path=str(tmp_path / "broken")
    )
    with pytest.raises(NotFiniteLossError, match="the loss is nan at step 1"):
        sft.main(folder)


def test_steps_that_overflow_one_after_the_other_end_the_training(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path)
    state = SimpleNamespace(global_step=7)

    def step(*, skipped: bool) -> None:
        optimizer = SimpleNamespace(step_was_skipped=skipped)
        watcher.on_optimizer_step(None, state, None, optimizer=optimizer)

    for _ in range(2):
        for _ in range(MOST_SKIPPED - 1):
            step(skipped=True)
        step(skipped=False)
    assert watcher.skipped == 2 * (MOST_SKIPPED - 1)
    for _ in range(MOST_SKIPPED - 1):
        step(skipped=True)
    with pytest.raises(LossScaleUnderflowError, match="in a row overflowed in fp16"):
        step(skipped=True)


@pytest.mark.parametrize(
    ("error", "cause"),
    [(DataError("a bad row", "mend it"), "bad_data"), (UsageError("no", "yes"), "usage")],
)
def test_an_error_of_ours_tells_its_cause_itself(
    tmp_path: Path, error: DataError | UsageError, cause: str
) -> None:
    running.tell(tmp_path, error)
    log = tmp_path / "worker.log"
    log.write_text("ImportError: the log is not asked\n")
    told = failure(tmp_path, 1, "the training", log)
    assert (told.cause, told.message, told.hint) == (cause, error.message, error.hint)


@pytest.mark.parametrize("moved", [False, True])
def test_weights_that_are_as_before_are_told_from_those_that_moved(
    tmp_path: Path, moved: bool
) -> None:
    recipe = read_recipe(training_folder(tmp_path / "run", "sft", []))
    whole, adapted = tiny(), with_lora(tiny(), recipe, Lora(rank=4))
    if moved:
        with torch.no_grad():
            whole.model.layers[1].mlp.up_proj.weight[0, 0] += 0.1
            next(p for n, p in adapted.named_parameters() if "lora_B" in n).fill_(0.1)
    for model, name in ((whole, "whole"), (adapted, "adapter")):
        model.save_pretrained(tmp_path / name)
        assert weights_changed(tmp_path / name, recipe) is moved, name
