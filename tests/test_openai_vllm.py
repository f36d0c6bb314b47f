"""Engine `openai` against a real vLLM server: the same answers as from transformers.

Needs the interpreter of an environment with vLLM: BENCH_VLLM_PYTHON, or this one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness import runs
from harness.engines.base import parse_settings
from harness.errors import WorkerError
from harness.hosting import place
from harness.infer import Job, infer
from harness.launch import ended_on_exit
from harness.models import model
from harness.types import Completion, Message, Request, SamplingParams, to_json

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

TINY = Path(__file__).parent.parent / "harness" / "tiny" / "instruct"
START_S = 300.0
TEXT = "There are 12 lemons in a box. Anna takes 5 of them."


def vllm_python() -> str:
    python = os.environ.get("BENCH_VLLM_PYTHON", "")
    if not python and importlib.util.find_spec("vllm") is None:
        pytest.skip("no vLLM: set BENCH_VLLM_PYTHON to the python of an environment that has it")
    return python or sys.executable


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not the `vllm` script: it asks for package metadata that the CPU build has under another name.
    command = [vllm_python(), "-m", "vllm.entrypoints.openai.api_server", "--model", str(TINY)]
    command += ["--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("wb") as file:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=environment,
            start_new_session=True,
        )
    with ended_on_exit(child):
        wait_for(f"http://127.0.0.1:{port}/v1/models", child, log)
        yield f"http://127.0.0.1:{port}/v1"


def wait_for(url: str, child: subprocess.Popen[str], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and child.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"vLLM does not start: {log.read_text()[-2000:]}")


def answers(
    folder: Path, engine: str, requests: Sequence[Request], **given: str
) -> list[Completion]:
    folder.mkdir()
    lines = (json.dumps(to_json(request)) + "\n" for request in requests)
    (folder / runs.REQUESTS).write_text("".join(lines))
    settings = parse_settings(engine, given)
    spec = place(model("Tiny/instruct", folder), engine, settings)
    job = Job(model=spec, engine=engine, settings=settings, runs=((folder, ""),))
    for event in infer(job, log=folder / "log"):
        if event["event"] == "refused":
            raise WorkerError(event["message"], event["hint"], cause=event["cause"])
    return sorted(runs.read_completions(folder), key=lambda one: one.request_id)


def test_everything_is_answered_as_transformers_does(tmp_path: Path, base_url: str) -> None:
    turn = (Message(role="user", content=TEXT + " How many are left, A or B?"),)
    short = SamplingParams(max_tokens=40, stop=("\n\n", "####"))
    kept = SamplingParams(max_tokens=60, stop=("####",), include_stop=True)
    once = SamplingParams(max_tokens=1)
    asked = [
        Request(id="0", kind="choose", prompt=f"{TEXT}\nAnswer:", choices=(" A", " B", " C")),
        Request(id="1", kind="choose", prompt=TEXT, choices=(" Then Ben", " 7 are left. ", " x")),
        Request(id="2", kind="loglikelihood", prompt="", choices=(TEXT,)),
        Request(id="3", kind="rolling", prompt=TEXT),
        Request(id="4", kind="choose", prompt=turn, choices=("A", "B")),
        Request(id="5", kind="choose", prompt="One, two, ", choices=("three", "four")),
        Request(id="6", kind="generate", prompt=f"Question: {TEXT}\nAnswer:", sampling=short),
        Request(id="7", kind="generate", prompt=turn, sampling=short),
        Request(id="8", kind="generate", prompt=turn, sampling=kept),
        Request(id="9", kind="generate", prompt=TEXT, sampling=once),
    ]
    hf = answers(tmp_path / "hf", "hf", asked, dtype="float32")
    served = answers(tmp_path / "openai", "openai", asked, base_url=base_url, served_model="tiny")
    for one, other in zip(hf, served, strict=True):
        assert other.choice_logprobs == pytest.approx(one.choice_logprobs, abs=1e-4)
        assert other.choice_greedy == one.choice_greedy
        assert (other.text, other.finish_reason) == (one.text, one.finish_reason)
        assert other.prompt_tokens == one.prompt_tokens


def test_samples_are_the_same_whenever_they_are_drawn(tmp_path: Path, base_url: str) -> None:
    params = SamplingParams(max_tokens=12, n=4, temperature=1.0, seed=1)
    turn = (Message(role="user", content=TEXT),)
    asked = [Request(id="0", kind="generate", prompt=turn, sampling=params)]
    # Without a tokenizer nothing heavy is loaded.
    served = {"base_url": base_url, "served_model": "tiny", "api": "chat"}
    first = answers(tmp_path / "a", "openai", asked, **served)
    again = answers(tmp_path / "b", "openai", asked, **served, concurrency="1")
    assert {one.index: one.text for one in first} == {one.index: one.text for one in again}
    assert len({one.text for one in first}) > 1


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, base_url: str) -> None:
    from small_models import metaspace_tokenizer

    metaspace_tokenizer().save_pretrained(tmp_path / "other")
    asked = [Request(id="0", kind="generate", prompt=TEXT)]
    served = {"base_url": base_url, "served_model": "tiny", "tokenizer": str(tmp_path / "other")}
    with pytest.raises(WorkerError, match="is not that of `tiny`") as caught:
        answers(tmp_path / "a", "openai", asked, **served)
    assert caught.value.cause == "wrong_tokenizer"
