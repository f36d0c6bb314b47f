"""Models for lm-eval's evaluator whose answers come from us."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

from harness.bridge.asking import Asked, Instance, asked, marked
from harness.engines.base import SETTINGS, parse_settings
from harness.errors import UsageError, WorkerError
from harness.hosting import find, place
from harness.infer import Job, infer
from harness.runs import COMPLETIONS, REQUESTS, WORKER_LOG, home_folder, read_completions
from harness.types import Completion, to_json

Answers = Callable[[Sequence[Instance]], list[Any]]


class BridgeLM(LM):  # type: ignore[misc]  # lm-eval has no types
    """Gives every kind of request to one function; conversations pass through unrendered."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers

    def loglikelihood(self, requests: Sequence[Instance]) -> list[Any]:
        return self._answers(requests)

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[Any]:
        return self._answers(requests)

    def generate_until(self, requests: Sequence[Instance]) -> list[Any]:
        return self._answers(requests)

    @property
    def tokenizer_name(self) -> str:
        return "tunebench"

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        if not add_generation_prompt:
            raise UsageError(
                "the task begins the model's answer, which our chat requests cannot",
                "ask it without `--chat`",
            )
        return marked(chat_history)


class BenchLM(BridgeLM):
    """A model of the registry, a folder or a hub id on one of our engines, for use with lm-eval:

        lm_eval.simple_evaluate(model=BenchLM("Tiny/base"), tasks=["arc_easy"])

    Nothing is kept. settings: the engine's, as `--set` has them. Each kind of request starts a
    worker. Raises BenchError where the model, the engine or a request is refused.
    """

    def __init__(
        self,
        model: str,
        engine: str = "hf",
        settings: Mapping[str, str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(self._ask)
        if engine not in SETTINGS:
            raise UsageError(f"unknown engine `{engine}`", f"one of {', '.join(SETTINGS)}")
        self._engine = engine
        self._settings = parse_settings(engine, dict(settings or {}))
        self._spec = place(find(model, home_folder(), engine), engine, self._settings)
        self._seed = seed

    def _ask(self, requests: Sequence[Instance]) -> list[Any]:
        distinct = {id(instance): instance for instance in requests}
        questions = list(asked(distinct.values(), self._seed))
        with tempfile.TemporaryDirectory(prefix="tunebench-") as name:
            folder = Path(name)
            lines = (json.dumps(to_json(one.request)) + "\n" for one in questions)
            (folder / REQUESTS).write_text("".join(lines), encoding="ascii")
            self._infer(folder)
            return replies(questions, read_completions(folder), requests)

    def _infer(self, folder: Path) -> None:
        job = Job(
            model=self._spec,
            engine=self._engine,
            settings=self._settings,
            runs=((folder, "lm_eval"),),
        )
        for event in infer(job, log=folder / WORKER_LOG):
            if event["event"] == "refused":
                raise WorkerError(event["message"], event["hint"], cause=event["cause"])
        assert (folder / COMPLETIONS).exists(), "a worker that ends well has answered"


def replies(
    questions: Sequence[Asked], completions: Any, requests: Sequence[Instance]
) -> list[Any]:
    """The answer to each of `requests`, where an instance stands once for each repeat."""
    by_request: dict[str, list[Completion]] = {}
    for completion in sorted(completions, key=lambda one: one.index):
        by_request.setdefault(completion.request_id, []).append(completion)
    waiting = {
        id(instance): iter(answers)
        for one in questions
        for instance, answers in one.answers(by_request[one.request.id])
    }
    return [next(waiting[id(instance)]) for instance in requests]
