"""What an evaluation would cost, without starting it: requests, tokens, first prompt, time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import runs
from harness.engines.base import Tokenized
from harness.evaluate import Options, engine_settings, planned
from harness.infer import inspect_requests
from harness.plan import Plan
from harness.types import JSON, ModelSpec, Request, Run, request_from_json

# Only for a model that has no earlier run here: forward passes at this many operations a second.
_GUESSED_FLOPS = 3e10


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """One planned run. most_new_tokens: if every answer were as long as it may be.
    seconds: expected; basis: what that expectation rests on."""

    model: str
    task: str
    requests: int
    prompt_tokens: int
    distinct_tokens: int
    most_new_tokens: int
    bos_count: int
    first_prompt: str
    first_ids: tuple[int, ...]
    seconds: float
    basis: str

    def to_json(self) -> JSON:
        return dataclasses.asdict(self)


def dry_run(
    models: str | Sequence[str], tasks: str | Sequence[str], options: Options
) -> list[Preview]:
    """A preview of every run. Only tokenizers are loaded; nothing is written to the history.

    Raises BenchError for what would stop the evaluation, a prompt longer than the context too.
    """
    home = runs.home_folder(options.home)
    earlier = list(runs.read_all(home))
    with planned(models, tasks, options) as (specs, plans):
        return [_preview(spec, plan, options, earlier) for spec in specs for plan in plans]


def _preview(spec: ModelSpec, plan: Plan, options: Options, earlier: Sequence[Run]) -> Preview:
    engine, settings = engine_settings(spec, options)
    counts = inspect_requests(spec, _requests(plan.path), engine, settings)
    sampling = plan.task.sampling
    answers = sampling.n * plan.n_samples if plan.task.kind == "generate" else 0
    seconds, basis = _expected(spec, plan, counts, engine, answers, earlier)
    return Preview(
        model=spec.name,
        task=plan.task.id,
        requests=plan.n_samples,
        prompt_tokens=counts.prompt_tokens,
        distinct_tokens=counts.distinct_tokens,
        most_new_tokens=answers * sampling.max_tokens,
        bos_count=counts.bos_count,
        first_prompt=counts.first_prompt,
        first_ids=counts.first_ids,
        seconds=round(seconds, 1),
        basis=basis,
    )


def _requests(path: Path) -> Iterator[Request]:
    with path.open(encoding="ascii") as file:
        yield from (request_from_json(json.loads(line)) for line in file)


def _expected(
    spec: ModelSpec,
    plan: Plan,
    counts: Tokenized,
    engine: str,
    answers: int,
    earlier: Sequence[Run],
) -> tuple[float, str]:
    """Seconds, from this model's earlier runs with the same engine where there are any."""
    alike = [
        run
        for run in earlier
        if (run.model, run.engine, run.status) == (spec.name, engine, "done") and run.seconds
    ]
    same_task = [
        run for run in alike if (run.task, run.variant) == (plan.task.name, plan.task.variant)
    ]
    known = same_task or alike
    each = plan.task.sampling.max_tokens
    if same_task and answers:
        written = sum(run.completion_tokens for run in same_task)
        each = round(written / sum(run.n_samples * run.sampling["n"] for run in same_task))
    work = counts.distinct_tokens + answers * each
    if known:
        done = sum(_work(run) for run in known)
        seconds = work * sum(run.seconds for run in known) / max(1, done)
        return seconds, f"from {len(known)} earlier run(s) of this model"
    return work * 2 * _parameters(spec) / _GUESSED_FLOPS, "a guess from the size of the model"


def _work(run: Run) -> int:
    return int(run.engine_stats.get("distinct_tokens", run.prompt_tokens)) + run.completion_tokens


def _parameters(spec: ModelSpec) -> float:
    """About how many, from the files of a local folder at two bytes each; 1e9 where unknown."""
    sizes = [path.stat().st_size for path in Path(spec.path).glob("*.safetensors")]
    return sum(sizes) / 2 or 1e9
