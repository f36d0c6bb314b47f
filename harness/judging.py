"""The step between infer and score for judged tasks: a judge reads every answer.

Replies are kept by content under `judgements/` of the home, so that no judge is asked the same
thing twice, whichever run asks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.alpaca_eval import estimated_difficulties, instruction_key
from harness.errors import BenchError, UsageError, WorkerError, did_you_mean
from harness.hosting import ENGINE, find
from harness.infer import ONLY_SPEED, Job, infer, inspect_requests
from harness.judgements import FOLDER, Appointed, read_appointed, request_id
from harness.judges import Judge, check_fields, judge_file, shipped_judge
from harness.models import addresses, entries, resolve
from harness.runs import (
    COMPLETIONS,
    REQUESTS,
    WORKER_LOG,
    mend_tail,
    read_completions,
    read_requests,
    writing,
)
from harness.score import answers
from harness.scorers.judged import Preference, Verdict, shown_answer
from harness.task import Task
from harness.types import (
    JSON,
    Completion,
    ModelSpec,
    Request,
    completion_from_json,
    to_json,
)

CACHE = "judgements"
_ATTEMPTS = 3

Tell = Callable[[str, JSON], object]


def judge_for(task: Task, wanted: str | None, home: Path) -> tuple[Judge, ModelSpec]:
    """The judge of a task as `--judge` names it: a model, or a YAML file.

    Raises UsageError where none is named, the model is unknown, or the file does not fit the task.
    """
    base = shipped_judge(task.judge)
    if wanted is None:
        raise UsageError(
            f"`{task.id}` is graded by a judge, and none was named",
            "give `--judge MODEL` (a registry name, folder or hub id) or `--judge FILE.yaml`",
        )
    is_file = Path(wanted).suffix in (".yaml", ".yml") or Path(wanted).is_file()
    if is_file:
        judge = judge_file(Path(wanted), base)
    else:
        judge = dataclasses.replace(base, name=wanted, model=wanted)
    _check(task, judge, f"`{wanted}`")
    return judge, _model(judge, home)


def _check(task: Task, judge: Judge, where: str) -> None:
    scorer = judged_scorer(task)
    if judge.parser != scorer.name:
        raise UsageError(
            f"`parser` of the judge {where} is `{judge.parser}`, but `{task.id}` reads replies"
            f" with `{scorer.name}`",
            f"leave `parser` out, or write `{scorer.name}`",
        )
    if not judge.model:
        raise UsageError(
            f"the judge {where} names no model", "add `model: NAME` to the file of the judge"
        )
    check_fields(judge, scorer.fields, where)


def _model(judge: Judge, home: Path) -> ModelSpec:
    try:
        return find(judge.model, home, judge.engine)
    except UsageError as error:
        if not error.message.startswith("unknown model"):
            raise
        book = entries(home)
        raise UsageError(
            f"unknown judge `{judge.model}`",
            did_you_mean(
                judge.model,
                [*book, *addresses(book)],
                "`--judge` takes a registry name, a folder, a hub id or a YAML file",
            ),
        ) from None


def check_server(task: Task, appointed: Appointed) -> None:
    """Whether a judge behind a server can be asked, before the model is.

    Raises WorkerError where it never could (another model, no log-probabilities). A server that is
    down now may be up when its turn comes.
    """
    if appointed.engine != ENGINE:
        return
    scorer, judge = judged_scorer(task), appointed.judge
    trial = Request(
        id=judge.name,
        kind=scorer.asks,
        prompt=judge.prompt({}),
        choices=scorer.choices,
        sampling=judge.sampling if scorer.asks == "generate" else None,
    )
    try:
        inspect_requests(appointed.spec, [trial], appointed.engine, appointed.settings)
    except WorkerError as error:
        if not error.cause.startswith("server_"):
            raise WorkerError(
                f"the judge of `{task.id}` cannot be asked: {error.message}",
                error.hint,
                cause=f"judge_{error.cause}",
            ) from None


def judged_scorer(task: Task) -> Verdict | Preference:
    """The grader that says how a judge of the task must be asked."""
    scorer = task.scorers[0]
    if not isinstance(scorer, Verdict | Preference):
        raise TypeError(f"the first scorer of the judged task `{task.id}` reads no judge")
    return scorer


def difficulties(task: Task, data_root: Path | None) -> dict[str, float]:
    """Difficulties by `instruction_key`; empty where the data root has none."""
    if not isinstance(task.scorers[0], Preference) or data_root is None:
        return {}
    known = estimated_difficulties(data_root) or {}
    return {instruction_key(text): value for text, value in known.items()}


def write_requests(folder: Path, task: Task, appointed: Appointed) -> None:
    """What the judge is to be asked, for every answer of a run that is complete."""
    scorer, judge = judged_scorer(task), appointed.judge
    draft = folder / FOLDER / f".{REQUESTS}"
    with writing(draft), draft.open("w", encoding="ascii") as file:
        for _, sample, completion in answers(folder):
            shown = scorer.shown(sample, shown_answer(sample, completion))
            if shown is None:
                continue
            request = Request(
                id=request_id(sample, completion.index),
                kind=scorer.asks,
                prompt=judge.prompt(shown),
                choices=scorer.choices,
                sampling=judge.sampling if scorer.asks == "generate" else None,
            )
            file.write(json.dumps(to_json(request)) + "\n")
    draft.replace(folder / FOLDER / REQUESTS)


def missing(folder: Path) -> list[str]:
    """Ids of what the judge of a run was asked and has not answered."""
    done = {reply.request_id for reply in read_completions(folder / FOLDER)}
    return [
        request["id"] for request in read_requests(folder / FOLDER) if request["id"] not in done
    ]


def ask_judge(
    home: Path, runs: Mapping[Path, Task], *, hold: Sequence[int], tell: Tell
) -> dict[Path, BenchError | None]:
    """Let the judges of these runs answer what is still open; why a run is not finished, or None.

    Runs with the same judge share one engine start. A worker that ended early is started again as
    long as the one before got on.
    """
    ends: dict[Path, BenchError | None] = {}
    parties: dict[str, list[Path]] = {}
    appointed: dict[Path, Appointed] = {}
    for folder, task in runs.items():
        try:
            judge = appointed[folder] = read_appointed(folder)
            _require_same_weights(judge)
            write_requests(folder, task, judge)
            _take_known(home, folder, judge)
        except BenchError as error:
            ends[folder] = error
        else:
            engine = [to_json(judge.spec), judge.engine, judge.settings]
            parties.setdefault(json.dumps(engine, sort_keys=True), []).append(folder)
    for folders in parties.values():
        some = {folder: runs[folder] for folder in folders}
        try:
            ends |= _ask(appointed[folders[0]], some, hold, tell)
        finally:
            for folder in folders:
                _keep(home, folder, appointed[folder])
    return ends


def _require_same_weights(judge: Appointed) -> None:
    if resolve(judge.spec).fingerprint != judge.spec.fingerprint:
        raise WorkerError(
            f"the weights of the judge `{judge.spec.name}` have changed since the run began",
            "evaluate the model anew with `bench eval --fresh`",
            cause="judge_changed",
        )


def _ask(
    judge: Appointed, runs: Mapping[Path, Task], hold: Sequence[int], tell: Tell
) -> dict[Path, BenchError | None]:
    ends: dict[Path, BenchError | None] = dict.fromkeys(runs)
    for _ in range(_ATTEMPTS):
        left = {folder: len(missing(folder)) for folder in runs}
        waiting = [folder for folder, count in left.items() if count]
        if not waiting:
            break
        for folder, error in _one_attempt(judge, runs, waiting, hold, tell).items():
            ends[folder] = error
        if sum(len(missing(folder)) for folder in waiting) == sum(left.values()):
            break
    return {folder: _end(folder, ends[folder]) for folder in runs}


def _end(folder: Path, error: BenchError | None) -> BenchError | None:
    """What became of a run, told as the judge's fault."""
    left = missing(folder)
    if not left:
        return None
    asked = sum(1 for _ in read_requests(folder / FOLDER))
    said = f"the judge answered {asked - len(left)} of {asked}"
    cause = error.cause if isinstance(error, WorkerError) else "incomplete"
    why = f": {error.message}" if error else f"; `{left[0]}` is the first it did not"
    hint = (error.hint if error else "") or "the same command goes on where it stopped"
    return WorkerError(said + why, hint, cause=f"judge_{cause}")


def _one_attempt(
    judge: Appointed,
    runs: Mapping[Path, Task],
    waiting: Sequence[Path],
    hold: Sequence[int],
    tell: Tell,
) -> dict[Path, BenchError]:
    """One engine start; the errors of runs that it could not finish."""
    job = Job(
        model=judge.spec,
        engine=judge.engine,
        settings=judge.settings,
        runs=tuple((folder / FOLDER, runs[folder].id) for folder in waiting),
    )
    errors: dict[Path, BenchError] = {}
    try:
        for event in infer(job, log=waiting[0] / FOLDER / WORKER_LOG, hold=hold):
            if event["event"] == "refused":
                refused = WorkerError(event["message"], event["hint"], cause=event["cause"])
                errors[Path(event["run"]).parent] = refused
            elif event["event"] == "progress":
                tell(f"judge {judge.spec.name}", event)
    except BenchError as error:
        errors |= {folder: error for folder in waiting if folder not in errors}
    return errors


def _cache_file(home: Path, judge: Appointed) -> Path:
    """One file for each set of weights and way to compute with them."""
    spec = judge.spec
    settings = {key: item for key, item in judge.settings.items() if key not in ONLY_SPEED}
    parts = [spec.fingerprint, spec.adapter, spec.chat_template, spec.dtype, spec.max_model_len]
    text = json.dumps([*parts, judge.engine, settings], sort_keys=True)
    return home / CACHE / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl"


def _content(request: JSON) -> str:
    """What a reply depends on: everything but the name of the question."""
    asked = {key: item for key, item in request.items() if key != "id"}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def _known(path: Path) -> Iterator[tuple[str, Completion]]:
    """Kept replies by content; a line that a crash has torn is no loss."""
    with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8") as file:
        for line in file:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                kept = json.loads(line)
                yield kept["content"], completion_from_json(kept["completion"])


def _take_known(home: Path, folder: Path, judge: Appointed) -> None:
    """Answer from earlier runs what they have asked already."""
    place = folder / FOLDER
    mend_tail(place / COMPLETIONS)
    known = dict(_known(_cache_file(home, judge)))
    left = set(missing(folder)) if known else set()
    lines = [
        to_json(dataclasses.replace(known[content], request_id=request["id"]))
        for request in read_requests(place)
        if request["id"] in left and (content := _content(request)) in known
    ]
    _append(place / COMPLETIONS, lines)


def _keep(home: Path, folder: Path, judge: Appointed) -> None:
    """Keep the new replies of a run for later ones."""
    path = _cache_file(home, judge)
    known = {content for content, _ in _known(path)}
    contents = {request["id"]: _content(request) for request in read_requests(folder / FOLDER)}
    lines = [
        {"content": contents[reply.request_id], "completion": to_json(reply)}
        for reply in read_completions(folder / FOLDER)
        if contents.get(reply.request_id, "") not in {"", *known}
    ]
    _append(path, lines)


def _append(path: Path, lines: Iterable[JSON]) -> None:
    """All lines in one write, so that those of several processes do not mix."""
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    if not data:
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o666)
        try:
            # A line that a crash has torn must not swallow the first of these.
            os.write(descriptor, b"\n" + data if path.name != COMPLETIONS else data)
        finally:
            os.close(descriptor)
