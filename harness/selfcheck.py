"""`bench selfcheck`: the same questions to two engines, and how far their answers are apart."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import runs, store
from harness.engine_choice import has_vllm
from harness.engines.base import SETTINGS
from harness.errors import UsageError, WorkerError
from harness.evaluate import Options, evaluate
from harness.registry import tasks as find_tasks
from harness.session import Listener
from harness.types import JSON, Completion, Run

REFERENCE = "hf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Two engines on one task. n: answers compared. largest_difference: of log-probabilities of
    choices, in nats, None where nothing was scored. disagreements: answers that differ: another
    choice is the most probable, or the text is another. example: the first request of these."""

    model: str
    task: str
    reference: str
    engine: str
    reference_run: str
    run: str
    n: int
    largest_difference: float | None
    disagreements: int
    example: str

    def to_json(self) -> JSON:
        return dataclasses.asdict(self)


def selfcheck(
    model: str,
    tasks: str,
    options: Options,
    *,
    engine: str = "vllm",
    listener: Listener,
) -> list[Parity]:
    """One comparison for each task. A setting among the options goes to each engine that has it.

    Both evaluations are runs in the history, and the comparison is kept with the second one.
    Raises UsageError where an engine is not installed and for a task that samples, WorkerError
    where a run fails.
    """
    settings = {name: _settings(name, options) for name in (REFERENCE, engine)}
    if engine == "vllm" and not has_vllm(settings[engine].get("python", "")):
        raise UsageError(
            "vLLM is not installed: there is nothing to compare with engine `hf`",
            "`bench doctor` says how to get it",
        )
    _require_greedy(tasks)
    ends = {
        name: evaluate(
            model,
            tasks,
            dataclasses.replace(options, engine=name, settings=settings[name]),
            listener=listener,
        )
        for name in (REFERENCE, engine)
    }
    pairs = list(zip(ends[REFERENCE], ends[engine], strict=True))
    home = runs.home_folder(options.home)
    for run in itertools.chain.from_iterable(pairs):
        if run.status != "done":
            raise WorkerError(
                f"engine `{run.engine}` did not finish `{run.task}`: {run.error}",
                "there is nothing to compare; `bench doctor` may know why",
                cause=run.cause or "worker_error",
            )
    found = [_compared(home, reference, run) for reference, run in pairs]
    for parity in found:
        _keep(home, parity)
    store.sync(home, say=listener.note)
    return found


def _settings(engine: str, options: Options) -> dict[str, str]:
    """Those that the engine has; one that neither has goes to both, and is refused there."""
    known = {f.name for each in SETTINGS.values() for f in dataclasses.fields(each)}
    own = {field.name for field in dataclasses.fields(SETTINGS[engine])}
    return {
        key: value
        for key, value in options.settings.items()
        if (name := key.partition(".")[0]) in own or name not in known
    }


def _require_greedy(tasks: str) -> None:
    for task in find_tasks(tasks):
        if task.kind == "generate" and task.sampling.temperature > 0:
            raise UsageError(
                f"`{task.id}` samples its answers: two engines never draw the same ones",
                "name tasks that decode greedily or choose, such as `mmlu` and `gsm8k`",
            )


def _compared(home: Path, reference: Run, run: Run) -> Parity:
    wanted, given = _answers(home, reference), _answers(home, run)
    differences = [
        abs(a - b)
        for key in wanted
        for a, b in zip(wanted[key].choice_logprobs, given[key].choice_logprobs, strict=True)
    ]
    differing = [key for key in wanted if _said(wanted[key]) != _said(given[key])]
    return Parity(
        model=run.model,
        task=run.task_id,
        reference=reference.engine,
        engine=run.engine,
        reference_run=reference.run_id,
        run=run.run_id,
        n=len(wanted),
        largest_difference=max(differences, default=None),
        disagreements=len(differing),
        example=differing[0][0] if differing else "",
    )


def _answers(home: Path, run: Run) -> dict[tuple[str, int], Completion]:
    completions = runs.read_completions(runs.folder_of(home, run.run_id))
    return {(one.request_id, one.index): one for one in completions}


def _said(completion: Completion) -> str | int:
    if completion.choice_logprobs:
        return completion.choice_logprobs.index(max(completion.choice_logprobs))
    return completion.text


def _keep(home: Path, parity: Parity) -> None:
    """With the run of the engine that was checked: in its manifest, and so in the history."""
    run = runs.read_manifest(runs.folder_of(home, parity.run))
    differs = f"{parity.disagreements} of {parity.n} answers differ from {parity.reference}"
    largest = parity.largest_difference
    note = differs if largest is None else f"{differs}, log-probabilities by up to {largest:.2g}"
    stats = {**run.engine_stats, "selfcheck": parity.to_json()}
    runs.write_manifest(home, dataclasses.replace(run, engine_stats=stats, notes=note))


def lines(found: Sequence[Parity]) -> Iterator[str]:
    """What a person wants to read."""
    for parity in found:
        largest = parity.largest_difference
        apart = "" if largest is None else f", log-probabilities at most {largest:.2g} nats apart"
        first = f" (first: {parity.example})" if parity.example else ""
        yield (
            f"{parity.task}: {parity.n} answers of {parity.engine} and {parity.reference}: "
            f"{parity.disagreements} differ{first}{apart}"
        )
