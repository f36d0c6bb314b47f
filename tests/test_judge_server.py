"""A judge behind an OpenAI-compatible server that is down, slow, busy, or answers in part."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from checkpoint_folder import write_checkpoint
from openai_server import OpenAIServer, Reply, Seen, error, is_trial, message, models

from harness import runs, store
from harness.errors import WorkerError
from harness.evaluate import evaluate, resume
from harness.types import Run

SAFETY = "simple_safety_tests"
SERVED = models("judge-1")


def safe(seen: Seen) -> Reply:
    return message("False")


class Chambers:
    """A model on the mock engine, judged by a model at a server."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.model = str(write_checkpoint(folder / "model", b"the model"))
        self.file = folder / "judge.yaml"

    def hold(self, server: OpenAIServer, task: str = SAFETY, **more: Any) -> Run:
        settings = {"base_url": server.base_url, "retries": 1, "timeout_s": 2}
        settings |= more.pop("settings", {})
        value = {"model": "judge-1", "engine": "openai", "settings": settings, **more}
        self.file.write_text(json.dumps(value))
        (run,) = evaluate(
            self.model,
            task,
            engine="mock",
            judge=str(self.file),
            offline_sample=True,
            home=self.home,
        )
        return run

    def measures(self, run: Run) -> dict[str, tuple[float, int]]:
        sql = "SELECT metric, value, n FROM measures WHERE group_name = '' AND run_id = ?"
        found = store.query(self.home, sql, [run.run_id])[1]
        return {metric: (value, n) for metric, value, n in found}

    def replies(self, run: Run) -> int:
        folder = runs.folder_of(self.home, run.run_id) / "judge"
        return len(list(runs.read_completions(folder)))


@pytest.fixture
def chambers(tmp_path: Path) -> Chambers:
    return Chambers(tmp_path)


def test_a_model_at_a_server_judges_and_its_tokens_and_price_are_kept(chambers: Chambers) -> None:
    with OpenAIServer(safe, models=SERVED) as server:
        run = chambers.hold(server, price={"prompt": 1_000_000, "completion": 2_000_000})
        body = server.asked()[0].body
    assert run.status == "done"
    assert (body["model"], body["temperature"]) == ("judge-1", 0.0)
    assert [turn["role"] for turn in body["messages"]] == ["system", "user"]
    measures = chambers.measures(run)
    assert measures["safe"] == (1.0, 6)
    assert measures["judge_prompt_tokens"] == (6 * 7, 6)
    assert measures["judge_completion_tokens"] == (6 * 3, 6)
    assert measures["judge_cost"] == (6 * (7 + 2 * 3), 6)
    sql = "SELECT DISTINCT grader, (explanation->>'$.cost')::DOUBLE FROM grades"
    assert ("judge:judge-1", 13.0) in store.query(chambers.home, sql)[1]


@pytest.mark.parametrize(
    ("reply", "cause"),
    [
        (error(503, "down for repair"), "judge_server_busy"),
        (error(429, "slow down"), "judge_server_busy"),
        (error(429, Retry_After="9999"), "judge_server_busy"),
        (Reply(delay_s=0.8), "judge_server_slow"),
        (Reply(body="<html>"), "judge_server_error"),
        (Reply(body={"choices": []}), "judge_server_error"),
        (error(401), "judge_bad_api_key"),
    ],
    ids=["down", "busy", "long pause", "slow", "no JSON", "no choices", "no key"],
)
def test_a_judge_that_cannot_be_heard_interrupts_the_run_and_gives_no_verdict(
    chambers: Chambers, reply: Reply, cause: str
) -> None:
    with OpenAIServer(lambda seen: reply, models=SERVED) as server:
        run = chambers.hold(server, settings={"timeout_s": 0.4})
        assert (run.status, run.cause) == ("interrupted", cause)
        assert "the judge answered 0 of 6" in (run.error or "")
        assert chambers.measures(run) == {}
        server.handler = safe
        again = resume(run.run_id, chambers.home)
    assert (again.run_id, again.status) == (run.run_id, "done")
    assert chambers.measures(again)["safe"] == (1.0, 6)


def test_a_judge_that_answers_half_of_the_prompts_is_asked_for_the_other_half_alone(
    chambers: Chambers,
) -> None:
    refused = {"n": 0}

    def half(seen: Seen) -> Reply:
        text = seen.body["messages"][-1]["content"]
        if sum(text.encode()) % 2:
            refused["n"] += 1
            return error(400, "this I do not read")
        return safe(seen)

    with OpenAIServer(half, models=SERVED) as server:
        run = chambers.hold(server)
        answered = chambers.replies(run)
        assert 0 < answered < 6
        assert (run.status, run.cause) == ("interrupted", "judge_bad_request")
        assert f"the judge answered {answered} of 6" in (run.error or "")
        assert "this I do not read" in (run.error or "")
        server.handler = safe
        server.seen.clear()
        assert resume(run.run_id, chambers.home).status == "done"
        assert len(server.asked()) == 6 - answered


def test_nonsense_is_neither_safe_nor_unsafe(chambers: Chambers) -> None:
    with OpenAIServer(lambda seen: message("As a judge, I"), models=SERVED) as server:
        run = chambers.hold(server)
    measures = chambers.measures(run)
    assert run.status == "done"
    assert "safe" not in measures
    assert measures["judge_unparseable_rate"] == (1.0, 6)


def test_a_judge_of_two_answers_is_heard_through_its_likeliest_tokens(chambers: Chambers) -> None:
    def likes_the_first(seen: Seen) -> Reply:
        pairs = (("m", math.log(0.75)), ("M", math.log(0.25)), ("The", -9.0))
        top = [{"token": token, "logprob": value} for token, value in pairs]
        reply = message("m").body
        reply["choices"][0]["logprobs"] = {"content": [{"token": "m", "top_logprobs": top}]}
        return Reply(body=reply)

    with OpenAIServer(likes_the_first, models=SERVED) as server:
        run = chambers.hold(server, "alpaca_eval")
        asked = [seen.body for seen in server.seen if seen.body and not is_trial(seen)]
    assert run.status == "done"
    assert {body["top_logprobs"] for body in asked} == {20}
    sql = "SELECT DISTINCT round(score, 6) FROM samples ORDER BY 1"
    assert store.query(chambers.home, sql)[1] == [(0.25,), (0.75,)]


def test_a_judge_of_two_answers_needs_log_probabilities(chambers: Chambers) -> None:
    with (
        OpenAIServer(lambda seen: message("m"), models=SERVED) as server,
        pytest.raises(WorkerError, match="log-probabilities") as caught,
    ):
        chambers.hold(server, "alpaca_eval")
    assert caught.value.cause == "judge_unsupported"
    assert runs.run_folders(chambers.home) == []


def test_a_judge_that_the_server_does_not_have_is_refused_before_the_model_is_asked(
    chambers: Chambers,
) -> None:
    with (
        OpenAIServer(safe, models=models("judge-2")) as server,
        pytest.raises(WorkerError, match="serves `judge-2`"),
    ):
        chambers.hold(server)
    assert runs.run_folders(chambers.home) == []


def test_a_judge_whose_server_is_down_is_asked_when_its_turn_comes(chambers: Chambers) -> None:
    with OpenAIServer(safe, models=SERVED) as server:
        pass
    run = chambers.hold(server)
    assert (run.status, run.cause) == ("interrupted", "judge_server_unreachable")
