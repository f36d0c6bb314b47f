"""`bench tasks`: which benchmarks there are, what exactly is asked, and if the gold is sound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import output
from harness.cli.options import AsJSON, DataRoot, Format, Home

if TYPE_CHECKING:
    from harness.engines.base import Tokenized
    from harness.questions import Questions
    from harness.task import Task
    from harness.task_check import GoldCheck
    from harness.types import JSON, Prompt

Offline = Annotated[
    bool, typer.Option("--offline-sample", help="Take the few questions that ship with the task.")
]

tasks_app = typer.Typer(
    help="List, show and check the benchmarks.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_MANY_IDS = 5


@tasks_app.command("list")
def list_tasks(format: Format = "table", as_json: AsJSON = False) -> None:
    """Every task and variant; groups stand for several tasks."""
    from harness import registry

    format = output.known_format("json" if as_json else format)
    columns = ["task", "variant", "kind", "metric", "shots", "source", "title"]
    rows = [
        [
            task.name,
            task.variant,
            task.kind,
            task.scorers[0].metric,
            task.fewshot.n if task.fewshot else 0,
            task.source,
            task.title,
        ]
        for task in registry.all_tasks()
    ]
    print(output.render(columns, rows, format))
    if format == "table":
        for name, members in registry.groups().items():
            output.say(f"group {name}: {', '.join(members)}")


@tasks_app.command()
def show(
    task: Annotated[str, typer.Argument(help="Task, or task:variant.", show_default=False)],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Tokenize the prompts as this model does.")
    ] = None,
    shots: Annotated[int | None, typer.Option(help="Solved examples before each question.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask in a chat template.")] = False,
    offline_sample: Offline = False,
    data_root: DataRoot = None,
    home: Home = None,
    as_json: AsJSON = False,
) -> None:
    """The protocol of a task, where its data is, its fingerprint, and the first prompt in full."""
    from harness import questions, registry
    from harness.types import to_json

    asked = questions.questions(
        registry.task(task), data_root=data_root, shots=shots, chat=chat, offline=offline_sample
    )
    first = next(asked.requests())
    about = _about(asked)
    counts = _tokenized(model, asked, home) if model else None
    if as_json:
        tokens = {"model": model, **to_json(counts)} if counts else None
        output.print_json({**about, "first_request": to_json(first), "tokens": tokens})
        return
    rows = [[name, _plain(value)] for name, value in about.items()]
    print(output.render(["field", "value"], rows))
    print(f"\nfirst prompt (`{first.id}`):\n{_as_text(first.prompt)}")
    if first.choices:
        print(f"\nchoices: {', '.join(map(repr, first.choices))}")
    print(f"reference answer: {asked.samples[0].target!r}")
    if counts:
        _print_tokens(counts)


@tasks_app.command()
def check(
    tasks: Annotated[
        str, typer.Argument(help="Tasks, variants, groups; all of them unless given.")
    ] = "",
    offline_sample: Offline = False,
    data_root: DataRoot = None,
    format: Format = "table",
    as_json: AsJSON = False,
) -> None:
    """Grade the reference answers: each task must give its own full marks (else exit status 1).

    A task whose dataset is not on this machine is checked on the questions that ship with it.
    """
    from harness import registry

    format = output.known_format("json" if as_json else format)
    chosen = registry.tasks(tasks) if tasks else registry.all_tasks()
    checked = [_check(task, data_root, offline_sample) for task in chosen]
    rows = [[one.task, one.n, one.value, _some(one.wrong), one.source] for one in checked]
    print(output.render(["task", "n", "gold", "wrong", "source"], rows, format))
    for one in checked:
        for sample_id, why in one.refused:
            output.say(
                f"{one.task}: the published rule refuses the reference of `{sample_id}`: {why}"
            )
    if any(one.wrong for one in checked):
        raise typer.Exit(1)


def _about(asked: Questions) -> JSON:
    from harness.types import to_json

    task = asked.task
    plan_parts, protocol = _fingerprint(asked)
    groups = {sample.group for sample in asked.samples} - {""}
    return {
        "task": task.id,
        "title": task.title,
        "version": task.version,
        "source": task.source,
        "kind": task.kind,
        "metrics": [scorer.metric for scorer in task.scorers],
        "dataset": to_json(task.dataset),
        "revision": asked.revision,
        "data": asked.source,
        "files": [str(path) for path in asked.files],
        "n": len(asked.samples),
        "groups": len(groups),
        "shots": asked.shots,
        "shot_rule": _shot_rule(asked),
        "sampling": to_json(task.sampling) if task.kind == "generate" else None,
        "protocol": protocol,
        "protocol_parts": plan_parts,
    }


def _shot_rule(asked: Questions) -> str:
    rule = asked.task.fewshot
    if rule is None:
        return "none"
    if rule.dataset is None:
        return "the first of those that belong to the protocol"
    how = "drawn anew for each question" if rule.rule == "random" else "the first"
    group = " of the question's group" if rule.by_group else ""
    seed = f", seed {rule.seed if asked.seed is None else asked.seed}"
    return f"{how}{group} from {rule.dataset.split}{seed if rule.rule == 'random' else ''}"


def _fingerprint(asked: Questions) -> tuple[JSON, str]:
    import tempfile

    from harness.plan import write_plan

    with tempfile.TemporaryDirectory(prefix="tunebench-") as folder:
        plan = write_plan(asked, Path(folder) / "requests.jsonl")
    return plan.parts, plan.protocol


def _tokenized(model: str, asked: Questions, home: Path | None) -> Tokenized:
    from harness import models
    from harness.infer import inspect_requests
    from harness.runs import home_folder

    spec = models.resolve(models.model(model, home_folder(home)))
    return inspect_requests(spec, asked.requests())


def _print_tokens(counts: Tokenized) -> None:
    longest, tokens, room = counts.longest
    print(
        f"\nprompts: {counts.n_requests:,} with {counts.prompt_tokens:,} tokens, of which "
        f"{counts.distinct_tokens:,} differ\n"
        f"longest: `{longest}` with {tokens:,} tokens and up to {room:,} more; "
        f"context {counts.context:,}\n"
        f"first prompt: {len(counts.first_ids)} tokens, {counts.bos_count} BOS\n"
        f"token ids: {' '.join(map(str, counts.first_ids))}"
    )


def _check(task: Task, data_root: Path | None, offline: bool) -> GoldCheck:
    from harness.datasets import DatasetNotFoundError
    from harness.questions import questions
    from harness.task_check import check_gold

    try:
        return check_gold(questions(task, data_root=data_root, offline=offline))
    except DatasetNotFoundError as error:
        output.say(f"{task.id}: {error.message}; the questions that ship with it are checked")
        return check_gold(questions(task, offline=True))


def _some(ids: tuple[str, ...]) -> str:
    more = len(ids) - _MANY_IDS
    return ", ".join(ids[:_MANY_IDS]) + (f" and {more} more" if more > 0 else "")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_plain(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value


def _as_text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"[{message.role}]\n{message.content}" for message in prompt)
