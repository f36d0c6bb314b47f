"""lm-eval's tasks for a job, and its evaluator run over them. Imported after `enter_data_root`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from harness.bridge.asking import Asked, asked
from harness.bridge.job import FEWSHOT_SEED, Job
from harness.bridge.model import BridgeLM
from harness.errors import UsageError, did_you_mean

# Enough for two digits of a standard error; lm-eval's own 100,000 take minutes. Only metrics that
# are no means are resampled.
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """tasks: the subtasks by name, or the task alone. groups: by name, the one asked for included;
    empty for a task."""

    job: Job
    manager: Any
    tasks: dict[str, Any]
    groups: dict[str, Any]

    @property
    def asked_for(self) -> Any:
        """The group or the task that the job names."""
        return self.groups.get(self.job.name) or next(iter(self.tasks.values()))

    @property
    def asked_for_name(self) -> str:
        return str(self.job.name if self.groups else self.asked_for.task_name)

    def folders(self) -> tuple[str, ...]:
        """Where the files of all its tasks and groups are; those of one's own win, so come last."""
        entries = [self.manager.task_index.get(name) for name in (*self.groups, *self.tasks)]
        found = {str(entry.yaml_path.parent) for entry in entries if entry and entry.yaml_path}
        return (*sorted(found.difference(self.job.include)), *self.job.include)

    def questions(self) -> list[Asked]:
        """What the subtasks ask; only after `evaluate` has come to its model."""
        instances = (instance for task in self.tasks.values() for instance in task.instances)
        return list(asked(instances, self.job.seed or 0))

    def primary(self) -> tuple[str, str]:
        """The metric that stands for the whole, and its filter, as lm-eval names them first."""
        task = next(iter(self.tasks.values()))
        metric: str = next(iter(task.aggregation()))
        # A group that names no filter takes those of its tasks.
        filters: str | list[str] = [f["name"] for f in task.config.filter_list or ()] or ["none"]
        if self.groups:
            first = self.asked_for.aggregate_metric_list[0]
            metric, filters = first.metric, first.filter_list or filters
        return metric, filters if isinstance(filters, str) else filters[0]


def task_manager(job: Job) -> Any:
    """lm-eval's index of task files: all of them, which takes seconds, only where it must."""
    if job.include:
        own = TaskManager(include_path=list(job.include), include_defaults=False)
        if not job.defaults or _is_complete(own.task_index, job.name):
            return own
    return TaskManager(include_path=list(job.include) or None)


def _is_complete(index: Any, name: str) -> bool:
    """Whether a task is there, or a group and all that it names."""
    entry = index.get(name)
    members = entry.cfg.get("task") if entry is not None and entry.cfg else None
    if isinstance(members, list):
        return all(isinstance(member, str) and _is_complete(index, member) for member in members)
    return members is not None


def build(job: Job, manager: Any) -> Built:
    """Raises UsageError for an unknown name, a mere list of tasks, and what must not be run."""
    if job.name not in manager.task_index:
        near = did_you_mean(job.name, manager.all_tasks, "`lm-eval ls tasks` lists them")
        raise UsageError(f"lm-eval has no task `{job.name}`", near.replace("`lm_eval/", "`"))
    loaded = manager.load([job.name])
    built = Built(job=job, manager=manager, tasks=loaded["tasks"], groups=loaded["groups"])
    _require_one_number(built)
    for name, task in built.tasks.items():
        _require_harmless(name, task)
    return built


def _require_one_number(built: Built) -> None:
    group = built.groups.get(built.job.name)
    if (group is not None and group.has_aggregation) or (group is None and len(built.tasks) == 1):
        return
    members = list(group.child_names if group is not None else built.tasks)
    raise UsageError(
        f"`lm_eval/{built.job.name}` is a list of {len(members)} tasks without a number of its own",
        f"--tasks {','.join(f'lm_eval/{name}' for name in members)}",
    )


def _require_harmless(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise UsageError(
            f"`{name}` runs code that the model wrote", "use lm-eval itself, in a sandbox"
        )
    if getattr(task, "MULTIMODAL", False):
        raise UsageError(f"`{name}` asks about images", "choose a task of text")


def evaluate(built: Built, model: BridgeLM) -> Any:
    """lm-eval's results with its samples.

    Raises UsageError for shots that lm-eval would leave as they are.
    """
    job = built.job
    generation: dict[str, Any] = {}
    if job.temperature is not None:
        generation |= {"temperature": job.temperature, "do_sample": job.temperature > 0}
    if job.max_tokens is not None:
        generation["max_gen_toks"] = job.max_tokens
    return simple_evaluate(
        model=model,
        tasks=[built.asked_for],
        num_fewshot=job.shots,
        limit=job.limit,
        bootstrap_iters=_RESAMPLES,
        apply_chat_template=job.chat,
        gen_kwargs=generation or None,
        task_manager=built.manager,
        fewshot_random_seed=FEWSHOT_SEED if job.seed is None else job.seed,
    )


def require_shots(job: Job, tasks: Sequence[Any]) -> None:
    for task in tasks:
        kept = task.config.num_fewshot
        if job.shots is not None and kept != job.shots:
            raise UsageError(
                f"`--shots {job.shots}`: lm-eval keeps `{task.task_name}` at {kept} example(s)",
                "leave --shots out",
            )
