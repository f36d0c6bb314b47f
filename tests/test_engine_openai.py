"""Engine `openai` against a server that misbehaves in every way that we know of."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from openai_server import (
    Handler,
    OpenAIServer,
    Reply,
    Seen,
    completion,
    error,
    is_trial,
    message,
    models,
)

from harness import runs
from harness.errors import BenchError, UsageError, WorkerError
from harness.evaluate import evaluate, resume
from harness.infer import Job, infer
from harness.model_check import check
from harness.models import add, model
from harness.scorers.choice import CHOICE
from harness.types import (
    JSON,
    UNLISTED,
    Completion,
    Message,
    ModelSpec,
    Request,
    Run,
    Sample,
    SamplingParams,
    Score,
    to_json,
)

SERVED = models("m")


def say_prompt(seen: Seen) -> Reply:
    """An honest server: it says which prompt it was asked."""
    if seen.path.endswith("/chat/completions"):
        return message(f"to {seen.body['messages'][-1]['content']}")
    return completion(f"to {seen.body['prompt']}")


class Bench:
    """Requests for a worker, and what became of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stats: JSON = {}

    def ask(self, server: OpenAIServer, requests: Sequence[Request], **settings: Any) -> None:
        self.folder.mkdir(exist_ok=True)
        lines = (json.dumps(to_json(request)) + "\n" for request in requests)
        (self.folder / runs.REQUESTS).write_text("".join(lines))
        model = ModelSpec(name="m", path="m", base_url=server.base_url)
        job = Job(model=model, engine="openai", settings=settings, runs=((self.folder, ""),))
        for event in infer(job, log=self.folder / "log"):
            if event["event"] == "refused":
                raise WorkerError(event["message"], event["hint"], cause=event["cause"])
            if event["event"] == "stats":
                self.stats = event["stats"]

    def completions(self) -> list[Completion]:
        found = runs.read_completions(self.folder)
        return sorted(found, key=lambda one: (one.request_id, one.index))

    def texts(self) -> list[str]:
        return [one.text for one in self.completions()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "run")


def texts(count: int, **sampling: Any) -> list[Request]:
    params = SamplingParams(**sampling)
    return [
        Request(id=f"q{i:03}", kind="generate", prompt=f"p{i}", sampling=params)
        for i in range(count)
    ]


def talk(count: int, **sampling: Any) -> list[Request]:
    turns = [(Message(role="user", content=f"p{i}"),) for i in range(count)]
    return [
        Request(id=f"q{i:03}", kind="generate", prompt=turn, sampling=SamplingParams(**sampling))
        for i, turn in enumerate(turns)
    ]


def failing_first(failures: Sequence[Reply]) -> Handler:
    """Every prompt meets one of the failures, in turn, before it is answered."""
    turn = itertools.cycle(failures)
    met: set[str] = set()
    lock = threading.Lock()

    def handle(seen: Seen) -> Reply:
        prompt = json.dumps(seen.body.get("prompt") or seen.body.get("messages"))
        with lock:
            if is_trial(seen) or prompt in met:
                return say_prompt(seen)
            met.add(prompt)
            return next(turn)

    return handle


MISDEEDS = {
    "rate limit": error(429, "slow down", Retry_After="0.1"),
    "rate limit without a hint": error(429),
    "overloaded": error(503),
    "broken": error(500, "oops"),
    "proxy": Reply(status=502, body="<html><b>Bad Gateway</b></html>"),
    "cut": Reply(body={"choices": [{"text": "half an answer"}]}, cut=True),
    "not JSON": Reply(body="{'choices': ["),
    "a list": Reply(body=[]),
    "no choices": Reply(body={"choices": []}),
    "no choices at all": Reply(body={"object": "error"}),
    "no text": completion(None),
    "given up": completion("", finish="abort"),
    "slow": Reply(body={}, delay_s=1.5),
}


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_no_misdeed_of_the_server_costs_an_answer(bench: Bench, api: str) -> None:
    n = 2 * len(MISDEEDS)
    asked = texts(n) if api == "completions" else talk(n)
    with OpenAIServer(failing_first(list(MISDEEDS.values())), models=SERVED) as server:
        bench.ask(server, asked, timeout_s=1.0, concurrency=8)
    assert bench.texts() == [f"to p{i}" for i in range(n)]
    assert len(bench.completions()) == n
    assert bench.stats["least_concurrency"] < 8


def test_answers_carry_what_the_server_says_of_them(bench: Bench) -> None:
    replies = {
        "p0": completion("whole"),
        "p1": completion("too lo", finish="length"),
        "p2": completion("a\n\nb", finish="length"),
        "p3": Reply(body={"choices": [{"text": "uncounted", "finish_reason": "eos"}]}),
    }
    with OpenAIServer(
        lambda seen: replies.get(seen.body["prompt"], completion("")), models=SERVED
    ) as server:
        bench.ask(server, texts(4, stop=("\n\n",)))
    found = [
        (one.text, one.finish_reason, one.prompt_tokens, one.completion_tokens)
        for one in bench.completions()
    ]
    assert found == [
        ("whole", "stop", 7, 3),
        ("too lo", "length", 7, 3),
        ("a", "stop", 7, 3),
        ("uncounted", "stop", 1, 3),
    ]


def test_thinking_that_a_server_has_taken_out_is_kept_in_the_record(bench: Bench) -> None:
    replies = {
        "p0": message("4", reasoning_content="2 + 2"),
        "p1": message(None, finish="length", reasoning="2 +"),
        "p2": message(None, refusal="I will not."),
    }
    with OpenAIServer(
        lambda seen: replies.get(seen.body["messages"][0]["content"], message("")), models=SERVED
    ) as server:
        bench.ask(server, talk(3))
    assert bench.texts() == ["<think>2 + 2</think>4", "<think>2 +", "I will not."]


def test_samples_have_seeds_of_their_own_and_only_missing_ones_are_asked(bench: Bench) -> None:
    def say_seed(seen: Seen) -> Reply:
        return completion(str(seen.body.get("seed")))

    asked = texts(3, n=4, temperature=0.7, top_p=0.9, max_tokens=5, seed=3)
    with OpenAIServer(say_seed, models=SERVED) as server:
        bench.ask(server, asked)
        whole = bench.completions()
        body = server.asked()[0].body
    assert body | {"prompt": "p", "seed": 0} == {
        "model": "m",
        "prompt": "p",
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 5,
        "seed": 0,
    }
    assert len(set(bench.texts())) == 12
    path = bench.folder / runs.COMPLETIONS
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]) + b'{"torn')
    with OpenAIServer(say_seed, models=SERVED) as server:
        bench.ask(server, asked)
        assert len(server.asked()) == 7
    assert [one.text for one in bench.completions()] == [one.text for one in whole]


def test_greedy_requests_need_no_seed_and_only_known_servers_get_further_fields(
    bench: Bench,
) -> None:
    served = models("m", owned_by="vllm")
    stops = tuple("abcdef")
    with OpenAIServer(lambda seen: completion("x"), models=served) as server:
        bench.ask(server, texts(1, stop=stops))
        body = server.asked()[0].body
    assert "seed" not in body
    assert body["top_k"] == 0
    assert body["repetition_penalty"] == 1.0
    assert body["stop"] == list(stops)


def test_stops_that_a_server_cannot_honour_are_cut_here(bench: Bench) -> None:
    def handle(seen: Seen) -> Reply:
        return completion("1</answer> and more, f then")

    with OpenAIServer(handle, models=SERVED) as server:
        bench.ask(server, texts(1, stop=("</answer>",), include_stop=True))
        assert "stop" not in server.asked()[0].body
        assert bench.texts() == ["1</answer>"]
        (bench.folder / runs.COMPLETIONS).unlink()
        bench.ask(server, texts(1, stop=("u", "v", "z", "x", "f t")))
        assert server.asked()[1].body["stop"] == ["u", "v", "z", "x"]
        assert bench.texts() == ["1</answer> and more, "]


def test_a_pause_that_the_server_asks_for_is_kept_by_all(bench: Bench) -> None:
    handler = failing_first([error(429, Retry_After="1")])
    with OpenAIServer(handler, models=SERVED) as server:
        bench.ask(server, texts(1))
        first, second = (seen.at for seen in server.asked())
    assert second - first >= 1.0


def test_no_more_than_the_wanted_number_is_under_way(bench: Bench) -> None:
    def handle(seen: Seen) -> Reply:
        return Reply(body=say_prompt(seen).body, delay_s=0.02)

    with OpenAIServer(handle, models=SERVED) as server:
        bench.ask(server, texts(30), concurrency=5)
        assert server.most_at_once == 5


def test_one_lost_request_does_not_keep_the_others_from_their_answers(bench: Bench) -> None:
    def handle(seen: Seen) -> Reply:
        if seen.body["prompt"] == "p3":
            return error(400, "the prompt is odd")
        return say_prompt(seen)

    with (
        OpenAIServer(handle, models=SERVED) as server,
        pytest.raises(WorkerError, match="the prompt is odd") as e,
    ):
        bench.ask(server, texts(8))
    assert e.value.cause == "bad_request"
    assert "no answer to `q003`: " in e.value.message
    assert "HTTP 400" in e.value.message
    assert [one.request_id for one in bench.completions()] == [
        f"q{i:03}" for i in range(8) if i != 3
    ]


@pytest.mark.parametrize(
    ("reply", "cause", "message", "hint"),
    [
        (error(401, "wrong key"), "bad_api_key", "HTTP 401: wrong key", "api_key_env=NAME"),
        (error(307), "bad_request", "HTTP 307", "base_url"),
        (error(429, Retry_After="7200"), "server_busy", "asks for 7200 s of rest", "concurrency"),
        (error(500, "oops"), "server_error", "HTTP 500: oops", "goes on"),
        (Reply(delay_s=0.6), "server_slow", "no answer within 0.3 s", "timeout_s"),
    ],
)
def test_a_server_that_never_answers_is_left_alone_soon(
    bench: Bench, reply: Reply, cause: str, message: str, hint: str
) -> None:
    def handle(seen: Seen) -> Reply:
        return say_prompt(seen) if is_trial(seen) else reply

    with (
        OpenAIServer(handle, models=SERVED) as server,
        pytest.raises(WorkerError) as caught,
    ):
        bench.ask(server, texts(500), retries=1, timeout_s=0.3, concurrency=4)
    assert caught.value.cause == cause
    assert message in caught.value.message
    assert server.base_url in caught.value.message
    assert hint in caught.value.hint
    assert len(server.asked()) < 40
    assert bench.completions() == []


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def run_arithmetic(home: Path, server: OpenAIServer, **options: Any) -> Run:
    settings = {"base_url": server.base_url, "retries": "1", **options.pop("settings", {})}
    wanted = {"limit": 12, "engine": "openai", "settings": settings, "home": home, **options}
    (run,) = evaluate(wanted.pop("model", "m"), wanted.pop("task", "arithmetic"), **wanted)
    return run


def test_a_server_that_dies_interrupts_the_run_which_then_goes_on(home: Path) -> None:
    count = itertools.count()

    def handle(seen: Seen) -> Reply:
        if is_trial(seen) or next(count) < 5:
            return completion("The answer is 3.\n#### 3")
        return error(500, "dying")

    with OpenAIServer(handle, models=SERVED) as server:
        run = run_arithmetic(home, server, settings={"concurrency": "2"})
        assert (run.status, run.cause) == ("interrupted", "server_error")
        assert "dying" in (run.error or "")
        kept = (runs.folder_of(home, run.run_id) / runs.COMPLETIONS).read_bytes()
        assert len(kept.splitlines()) == 5
        server.handler = lambda seen: completion("#### 3")
        server.seen.clear()
        again = resume(run.run_id, home)
        assert (again.run_id, again.status) == (run.run_id, "done")
        assert len(server.asked()) == 7
        assert run_arithmetic(home, server).run_id == run.run_id
    assert (again.model, again.model_path, again.device) == ("m", "m", server.base_url)
    assert (runs.folder_of(home, run.run_id) / runs.COMPLETIONS).read_bytes().startswith(kept)


def test_a_server_that_is_not_there_is_said_to_be_so(home: Path) -> None:
    with OpenAIServer(say_prompt, models=SERVED) as server:
        pass
    run = run_arithmetic(home, server)
    assert (run.status, run.cause) == ("interrupted", "server_unreachable")
    assert f"the server at `{server.base_url}`: it cannot be reached" in (run.error or "")


def test_a_server_of_another_model_is_not_asked(home: Path) -> None:
    with OpenAIServer(say_prompt, models=models("other", "third")) as server:
        run = run_arithmetic(home, server)
        assert (run.status, run.cause) == ("failed", "wrong_model")
        assert "has no model `m`: it serves `other`, `third`" in (run.error or "")
        assert [seen.path for seen in server.seen] == ["/v1/models"]
        other = run_arithmetic(home, server, settings={"served_model": "third"})
        assert other.status == "done"
        assert {seen.body["model"] for seen in server.asked()} == {"third"}


def test_another_server_or_name_is_another_model(home: Path) -> None:
    with OpenAIServer(say_prompt, models=models("m", "n")) as server:
        one = run_arithmetic(home, server)
        with OpenAIServer(say_prompt, models=SERVED) as second:
            other = run_arithmetic(home, second)
        named = run_arithmetic(home, server, settings={"served_model": "n"})
        assert len({run.model_fingerprint for run in (one, other, named)}) == 3
        assert len({run.run_id for run in (one, other, named)}) == 3
        assert run_arithmetic(home, server, settings={"concurrency": "2"}).run_id == one.run_id


def test_the_key_is_sent_and_stands_nowhere(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    key = "sk-secret-1234"
    monkeypatch.setenv("MY_KEY", key)

    def handle(seen: Seen) -> Reply:
        return error(401, f"Incorrect API key provided: {key}")

    with OpenAIServer(handle, models=SERVED) as server:
        run = run_arithmetic(home, server, settings={"api_key_env": "MY_KEY"})
        assert run.cause == "bad_api_key"
        assert "Incorrect API key provided: …" in (run.error or "")
        server.handler = lambda seen: completion("#### 3")
        assert run_arithmetic(home, server, settings={"api_key_env": "MY_KEY"}).status == "done"
        assert {seen.headers["authorization"] for seen in server.seen} == {f"Bearer {key}"}
        assert run_arithmetic(home, server, fresh=True).status == "done"
        assert "authorization" not in server.seen[-1].headers
    for path in home.rglob("*"):
        assert path.is_dir() or key.encode() not in path.read_bytes()
    assert key not in "".join(capfd.readouterr())


def chat_only(seen: Seen) -> Reply:
    if seen.path.endswith("/chat/completions"):
        return message("#### 3")
    return error(404, "Not Found")


def test_texts_are_refused_where_there_is_only_chat_and_conversations_are_not(home: Path) -> None:
    with OpenAIServer(chat_only, models=SERVED) as server:
        run = run_arithmetic(home, server)
        assert (run.status, run.cause) == ("failed", "unsupported")
        assert "`arithmetic` cannot be asked" in (run.error or "")
        assert "only answers conversations" in (run.error or "")
        asked = run_arithmetic(home, server, chat=True)
        assert asked.status == "done"
        assert asked.protocol != run.protocol


def test_tasks_that_need_log_probabilities_are_named_and_the_others_run(home: Path) -> None:
    with OpenAIServer(say_prompt, models=SERVED) as server:
        choice, text = evaluate(
            "m",
            "mmlu,arithmetic",
            engine="openai",
            settings={"base_url": server.base_url},
            home=home,
            offline_sample=True,
        )
    assert (choice.status, choice.cause) == ("failed", "unsupported")
    assert "`mmlu` cannot be asked" in (choice.error or "")
    assert "log-probabilities" in (choice.error or "")
    assert text.status == "done"


def test_choices_are_looked_up_among_the_likeliest_tokens(bench: Bench) -> None:
    def handle(seen: Seen) -> Reply:
        if seen.path.endswith("/chat/completions"):
            top = [{"token": t, "logprob": v} for t, v in (("B", -0.1), ("A", -2.5), ("x", -4))]
            told = {"content": [{"token": "B", "logprob": -0.1, "top_logprobs": top}]}
            reply = message("B").body
            reply["choices"][0]["logprobs"] = told
            return Reply(body=reply)
        if seen.body.get("logprobs", 0) > 5:
            return error(400, "logprobs must be at most 5")
        return completion(" B", logprobs={"top_logprobs": [{" B": -0.2, " A": -3}]})

    turn = (Message(role="user", content="A or B?"),)
    asked = [
        Request(id="q0", kind="choose", prompt="A or B?", choices=(" A", " B", " C")),
        Request(id="q1", kind="choose", prompt=turn, choices=(" A", " B", " C"), top_tokens=2),
    ]
    with OpenAIServer(handle, models=SERVED) as server:
        bench.ask(server, asked)
        assert [seen.body["max_tokens"] for seen in server.asked()] == [1, 1]
    assert [(one.choice_logprobs, one.choice_greedy) for one in bench.completions()] == [
        ((-3.0, -0.2, -9999.0), (False, True, False)),
        ((-2.5, -0.1, -9999.0), (False, True, False)),
    ]
    assert [one.top_tokens for one in bench.completions()] == [(), (("B", -0.1), ("A", -2.5))]


def test_a_server_that_lists_fewer_tokens_than_a_task_looks_at_is_refused(home: Path) -> None:
    def handle(seen: Seen) -> Reply:
        if seen.body.get("logprobs", 0) > 5:
            return error(400, "logprobs must be at most 5")
        return completion(" B", logprobs={"top_logprobs": [{" B": -0.2, " A": -3}]})

    with OpenAIServer(handle, models=SERVED) as server:
        (run,) = evaluate(
            "m",
            "medqa:asft",
            engine="openai",
            settings={"base_url": server.base_url},
            home=home,
            offline_sample=True,
        )
    assert (run.status, run.cause) == ("failed", "unsupported")
    assert "the 10 likeliest first tokens, and the server tells of 5" in (run.error or "")


def test_a_model_of_a_server_can_stand_in_the_registry(home: Path) -> None:
    with OpenAIServer(say_prompt, models=models("gpt-x")) as server:
        home.mkdir()
        entry = {"path": "gpt-x", "base_url": server.base_url, "display_name": "X"}
        (home / "model_registry.json").write_text(json.dumps({"Hosted": entry}))
        (run,) = evaluate("Hosted", "arithmetic", limit=3, home=home)
        assert (run.status, run.engine, run.model_path) == ("done", "openai", "gpt-x")
        with pytest.raises(UsageError, match="which engine `hf` cannot load"):
            evaluate("Hosted", "arithmetic", engine="hf", home=home)


def test_a_question_of_which_no_choice_is_listed_is_no_answer() -> None:
    sample = Sample(id="0", input="?", target="A", choices=("A", "B"))

    def graded(*logprobs: float) -> Score:
        completion = Completion(
            request_id="0", finish_reason="scored", prompt_tokens=1, choice_logprobs=logprobs
        )
        return CHOICE(sample, completion)

    none, one = graded(UNLISTED, UNLISTED), graded(UNLISTED, -3.0)
    assert (none.value, none.answer, none.parsed) == (0.0, None, False)
    assert (one.value, one.answer) == (0.0, "B")


def test_the_command_line_registers_and_shows_a_model_of_a_server(home: Path) -> None:
    home.mkdir()
    entry = {"path": "gpt-x", "base_url": "https://api.example.com/v1", "api_key_env": "NO_KEY"}
    assert not add("Hosted", entry, home)
    assert model("Hosted", home).path == "gpt-x"
    (found,) = check(model("Hosted", home), home)
    assert (found.level, found.check) == ("ok", "server")
    with pytest.raises(UsageError, match="names is not set"):
        evaluate("Hosted", "arithmetic", home=home)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs the address of the server that has `m`"),
        ({"base_url": "localhost:8000"}, "`localhost:8000`, which is no address"),
        ({"base_url": "http://u:secret@h/v1"}, "holds more than an address"),
        ({"base_url": "http://h/v1?key=secret"}, "holds more than an address"),
        ({"base_url": "http://h", "api": "chatt"}, "unknown api `chatt`"),
        ({"base_url": "http://h", "concurrency": "0"}, "`concurrency=0` is too little"),
        ({"base_url": "http://h", "timeout_s": "nan"}, "`timeout_s=nan` is too little"),
        ({"base_url": "http://h", "retries": "-1"}, "`retries=-1` is too little"),
        ({"base_url": "http://h", "api_key_env": "sk-secret"}, "not the name of an environment"),
        ({"base_url": "http://h", "api_key_env": "SK_secret"}, "names is not set"),
        ({"url": "http://h"}, "unknown setting `url`"),
    ],
)
def test_settings_that_cannot_be_are_refused_without_repeating_a_secret(
    home: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(BenchError) as caught:
        evaluate("m", "arithmetic", engine="openai", settings=settings, home=home)
    assert message in caught.value.message
    assert "secret" not in caught.value.message + caught.value.hint
    assert runs.run_folders(home) == []
