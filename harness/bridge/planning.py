"""Plans of lm-eval tasks, for the process of the command line."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from harness.bridge.job import JOB, Job, ask, include_folders, require_lm_eval
from harness.errors import UsageError
from harness.lm_eval_task import GRADER, PREFIX, VERSION, LmEvalMetric
from harness.plan import Plan, fingerprint
from harness.task import Task
from harness.types import JSON, Dataset, sampling_from_json


def plan_lm_eval(
    task: Task,
    path: Path,
    *,
    data_root: Path | None = None,
    limit: int | None = None,
    shots: int | None = None,
    seed: int | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    chat: bool = False,
) -> Plan:
    """Let lm-eval write the requests of `task` to `path`, and beside it the job.

    limit: questions of each subtask. None is what the task says.
    Raises UsageError where lm-eval is missing, does not know the task or cannot honour an option,
    and WorkerError where it fails, such as for a dataset that is nowhere.
    """
    require_lm_eval()
    job = Job(
        name=task.name.removeprefix(PREFIX),
        data_root=_folder(data_root),
        include=include_folders(),
        shots=_not_negative(shots),
        seed=seed,
        limit=limit,
        chat=chat,
        temperature=temperature,
        max_tokens=max_tokens,
    )
    log = path.with_suffix(".log")
    (planned,) = ask(
        "harness.bridge.plan", [job.to_text(), str(path)], log=log, what=f"render `{task.name}`"
    )
    sidecar = path.with_name(f"{path.stem}.{JOB}")
    # Grading looks through no other task files than those that were used.
    found = replace(job, include=tuple(planned["folders"]), defaults=False)
    sidecar.write_text(found.to_text() + "\n", encoding="ascii")
    parts = _parts(task, job, planned)
    return Plan(
        task=_as_known(task, planned),
        path=path,
        sidecars={JOB: sidecar},
        n_samples=planned["n_samples"],
        limit_n=job.limit,
        offline=False,
        dataset_revision=planned["revision"],
        source=f"data root {job.data_root}" if job.data_root else "lm-eval",
        protocol=fingerprint(parts),
        parts=parts,
    )


def _folder(data_root: Path | None) -> str | None:
    if data_root is not None and not data_root.is_dir():
        raise UsageError(f"the data root `{data_root}` is not a folder", "give another --data-root")
    return None if data_root is None else str(data_root.absolute())


def _not_negative(shots: int | None) -> int | None:
    if shots is not None and shots < 0:
        raise UsageError(f"`--shots {shots}` is negative", "use 0 or more")
    return shots


def _as_known(task: Task, planned: JSON) -> Task:
    """The task with what lm-eval has said of it."""
    sampling = planned["sampling"]
    return replace(
        task,
        kind="generate" if sampling else "choose",
        dataset=Dataset(**planned["dataset"]),
        scorers=(LmEvalMetric(metric=planned["metric"]),),
        sampling=sampling_from_json(sampling) if sampling else task.sampling,
    )


def _parts(task: Task, job: Job, planned: JSON) -> JSON:
    """Sampling settings are hashed with the prompts: each subtask has its own."""
    return {
        "task": task.name,
        "variant": task.variant,
        "version": task.version,
        "lm_eval": version("lm_eval"),
        "lm_eval_task_version": planned["versions"],
        "shots": planned["shots"],
        "chat": job.chat,
        "limit": job.limit,
        "graders": [f"{GRADER}@{VERSION}"],
        "prompts": planned["prompts"],
        "answers": planned["answers"],
    }
