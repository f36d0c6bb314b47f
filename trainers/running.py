"""The life of a trainer's process: started with a folder, watched by its parent, its failure told.

failure-<rank>.json   out: {"cause", "message", "hint"} of an error that ended this process
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import BenchError, DataError, UsageError, WorkerError
from harness.trainer import CHECKPOINT, FAILURE, OUTCOME, POINTS, WATCHED, read_recipe
from harness.types import Precision, Recipe


def run(main: Callable[[Path], None]) -> None:
    """Train in the folder that the command line names; what `python -m trainers.<method>` does."""
    folder = Path(sys.argv[1]).absolute()
    if os.environ.get(WATCHED):
        _end_with_parent()
    try:
        main(folder)
    except Exception as error:
        tell(folder, error)
        raise
    if not read_recipe(folder).report_to:  # trackers need an orderly end
        leave()


def leave() -> None:
    """End one of several processes at once. The destructors of a process group wait for its other
    processes, whichever of them are gone already: they were seen to do so for ever, or to abort."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _end_with_parent() -> None:
    """stdin is a pipe that nobody writes to: it closes when the command is gone."""

    def wait() -> None:
        # Not through sys.stdin, whose lock this thread would still hold when the interpreter ends.
        os.read(0, 1)
        os._exit(3)

    threading.Thread(target=wait, daemon=True).start()


def tell(folder: Path, error: Exception) -> None:
    """Errors whose kind says what happened get their label here; others are read from the log."""
    if isinstance(error, BenchError):
        told = {"cause": _cause(error), "message": error.message, "hint": error.hint}
        rank = os.environ.get("RANK", "0")
        (folder / FAILURE.format(rank=rank)).write_text(json.dumps(told), encoding="utf-8")


def _cause(error: BenchError) -> str:
    if isinstance(error, WorkerError):
        return error.cause
    return "bad_data" if isinstance(error, DataError) else "usage"


def train(trainer: Any, recipe: Recipe, folder: Path) -> None:
    """Train to the end, from the last checkpoint where there is one, and save `checkpoint/`; a
    training with points has saved what it leaves.

    trainer: a `transformers.Trainer`.
    """
    from trainers.checkpoints import last_checkpoint
    from trainers.watching import forget_steps_after

    check_launcher(trainer.accelerator, recipe)
    trainer.create_scheduler = functools.partial(_schedule, trainer, recipe)
    last = last_checkpoint(folder)
    step = 0 if last is None else int(last.name.rpartition("-")[2])
    if trainer.is_world_process_zero():
        forget_steps_after(folder, step)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    if (folder / POINTS).exists():
        trainer.accelerator.wait_for_everyone()
        return
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        save(model, trainer.processing_class, folder, recipe, state)
    trainer.accelerator.wait_for_everyone()


def _schedule(trainer: Any, recipe: Recipe, num_training_steps: int, optimizer: Any = None) -> Any:
    """In place of the trainer's own: the schedules of recipes, the same under every launcher."""
    from trainers.optimizing import schedule

    if trainer.lr_scheduler is None:
        held = trainer.optimizer if optimizer is None else optimizer
        trainer.lr_scheduler = schedule(held, recipe.optimizer, num_training_steps)
        trainer._created_lr_scheduler = True
    return trainer.lr_scheduler


def check_launcher(accelerator: Any, recipe: Recipe) -> None:
    """Raises UsageError where accelerate distributes in another way than the recipe says: it falls
    back to DDP without a word."""
    wanted = {
        "single": ("NO",),
        "ddp": ("MULTI_GPU", "MULTI_CPU"),
        "zero2": ("DEEPSPEED",),
        "zero3": ("DEEPSPEED",),
        "fsdp": ("FSDP",),
    }
    found = accelerator.distributed_type.name
    if found not in wanted[recipe.launcher]:
        raise UsageError(
            f"`launcher: {recipe.launcher}` is not what accelerate does here: {found}",
            "`--set launcher=ddp`, or use GPUs",
        )


def save(model: Any, tokenizer: Any, folder: Path, recipe: Recipe, state: Any = None) -> None:
    """Write `checkpoint/`, which is there whole or not at all, in the precision of the training.

    state: the weights, where the model holds only a part of them.
    """
    write_model(model, tokenizer, folder / CHECKPOINT, recipe, state)


def write_model(
    model: Any, tokenizer: Any, target: Path, recipe: Recipe, state: Any = None
) -> None:
    """The same under another name in the run folder, or a folder of it."""
    import shutil

    from trainers.loading import DTYPES
    from trainers.outcome import weights_changed

    folder = target.parent if target.name == CHECKPOINT else target.parent.parent
    draft = target.with_name(f".{target.name}")
    shutil.rmtree(draft, ignore_errors=True)
    dtype = DTYPES[recipe.precision]
    weights = _converted(model.state_dict() if state is None else state, dtype)
    model.save_pretrained(draft, state_dict=weights)
    tokenizer.save_pretrained(draft)
    _state_dtype(draft / "config.json", recipe.precision)
    changed = {"weights_changed": weights_changed(draft, recipe)}
    (folder / OUTCOME).write_text(json.dumps(changed) + "\n", encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)  # of a run that was killed right here
    draft.rename(target)


def _converted(state: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Tied weights stay one tensor, or they would be written twice."""
    seen: dict[int, Any] = {}
    converted = {}
    for name, tensor in state.items():
        if tensor.is_floating_point():
            key = tensor.data_ptr()
            seen.setdefault(key, tensor.to(dtype))
            converted[name] = seen[key]
        else:
            converted[name] = tensor
    return converted


def _state_dtype(config: Path, precision: Precision) -> None:
    """The configuration says what the weights are in; adapters have none."""
    names = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    if config.exists():
        values = json.loads(config.read_text(encoding="utf-8"))
        values["dtype"] = names[precision]
        values["use_cache"] = True
        config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
