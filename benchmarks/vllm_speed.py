"""Engine `vllm` beside lm-eval's vllm model and beside the bare engine, with random Llamas.

    python -m benchmarks.vllm_speed mmlu --subjects 3     5-shot, against lm-eval's `vllm`
    python -m benchmarks.vllm_speed raw --size medium     gsm8k and 16 samples, against LLM.generate
    python -m benchmarks.vllm_speed six                   six tasks, one start
    python -m benchmarks.vllm_speed ten                   ten checkpoints of one shape

Needs vLLM, lm-eval and the benchmarks under --data-root. lm-eval asks package metadata for a
distribution called vllm, which the CPU build does not have: its process is shown one. Times are of
inference without starts, except in `six` and `ten`. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import speed_lm_eval as shared
from benchmarks.record import record

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
SIX = "arithmetic,gsm8k,math,mmlu,medqa,medmcqa"


def main() -> None:
    options = parse_options()
    if options.role:
        ROLES[options.role](options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        options.scratch, options.model = scratch, str(Path(scratch) / "model")
        spawn(options, "requests")
        spawn(options, "model")
        figures = PARTS[options.part](options)
    record(f"vllm_{options.part}_{options.size}", {"model": f"random {options.size}", **figures})


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--size", choices=shared.SIZES, default="small")
    parser.add_argument("--subjects", type=int, default=3, help="of MMLU")
    parser.add_argument("--questions", type=int, default=64, help="of GSM8K, and of each of six")
    parser.add_argument("--shots", type=int, default=5, help="of GSM8K")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data-root", default=shared.DATA_ROOT)
    parser.add_argument("--model", default="", help=argparse.SUPPRESS)
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def spawn(options: argparse.Namespace, role: str) -> dict[str, Any]:
    """One role in a process of its own; see `speed_lm_eval.spawn`."""
    import json
    import subprocess
    import sys

    given = {k: v for k, v in vars(options).items() if k not in ("role", "part")}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    command = [sys.executable, "-m", "benchmarks.vllm_speed", options.part, *flags]
    environment = {**os.environ, **shared.OFFLINE, "HF_HOME": str(Path(options.scratch) / "hf")}
    environment["PYTHONPATH"] = str(shared.REPOSITORY)
    if role == "lm_eval":
        environment["PYTHONPATH"] += os.pathsep + str(stated_distribution(options))
    subprocess.run(
        [*command, f"--role={role}"],
        cwd=options.data_root,
        env=environment,
        check=True,
        stdout=sys.stderr,
    )
    return dict(json.loads((Path(options.scratch) / f"{role}.json").read_text()))


def stated_distribution(options: argparse.Namespace) -> Path:
    import vllm

    folder = Path(options.scratch) / "site"
    stated = folder / f"vllm-{vllm.__version__}.dist-info"
    stated.mkdir(parents=True, exist_ok=True)
    (stated / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {vllm.__version__}\n"
    )
    return folder


# Roles


def answer_ours(options: argparse.Namespace) -> None:
    from harness.engines.base import VLLMSettings
    from harness.engines.vllm import VLLMEngine
    from harness.types import ModelSpec, Request

    asked = shared.read_requests(options)
    requests = [
        Request(id=f"c{n}", kind="choose", prompt=context, choices=tuple(choices))
        for n, (context, choices) in enumerate(asked["questions"])
    ]
    engine = VLLMEngine(ModelSpec(name="model", path=options.model), VLLMSettings())
    engine.tokenize(requests)
    engine.load()
    started = time.perf_counter()
    counted = engine.tokenize(requests)
    tokenized = time.perf_counter()
    found = {c.request_id: c for c in engine.run(requests)}
    ended = time.perf_counter()
    shared.finish(
        options,
        {
            "seconds": ended - started,
            "tokenize_seconds": tokenized - started,
            "choices": [found[request.id].choice_logprobs for request in requests],
            "prompt_tokens": counted.prompt_tokens,
            "stats": engine.stats(),
        },
    )


def answer_lm_eval(options: argparse.Namespace) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.vllm_causallms import VLLM

    asked = shared.read_requests(options)
    model = VLLM(
        pretrained=options.model, dtype="float32", enforce_eager=True, max_model_len=4096, seed=0
    )
    pairs = [(context, c) for context, choices in asked["questions"] for c in choices]
    scored = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)]
    started = time.perf_counter()
    logprobs = [logprob for logprob, _ in model.loglikelihood(scored, disable_tqdm=True)]
    seconds = time.perf_counter() - started
    given = iter(logprobs)
    choices = [[next(given) for _ in choices] for _, choices in asked["questions"]]
    shared.finish(options, {"seconds": seconds, "choices": choices})


def answer_raw(options: argparse.Namespace) -> None:
    """Our loop and vLLM's own over one engine, in turn, each with an empty prefix cache."""
    from harness.types import Request, SamplingParams

    asked = shared.read_requests(options)
    greedy = SamplingParams(max_tokens=options.max_tokens, stop=tuple(asked["stops"]))
    many = SamplingParams(max_tokens=options.max_tokens, temperature=1.0, n=16)
    work = {
        "gsm8k": [
            Request(id=f"g{n}", kind="generate", prompt=prompt, sampling=greedy)
            for n, prompt in enumerate(asked["prompts"])
        ],
        "samples_16": [
            Request(id=f"m{n}", kind="generate", prompt=prompt[-400:], sampling=many)
            for n, prompt in enumerate(asked["prompts"][:8])
        ],
    }
    answer: dict[str, Any] = {}
    llm, engine = _both(options, [request for own in work.values() for request in own])
    for name, requests in work.items():
        ours: list[float] = []
        theirs: list[float] = []
        prompts = _token_ids(engine, requests)
        for _ in range(options.repeats):
            llm.reset_prefix_cache()
            ours.append(_seconds(lambda r=requests: list(engine.run(r))))
            llm.reset_prefix_cache()
            theirs.append(_seconds(lambda p=prompts, r=requests[0]: _generate(llm, p, r)))
        engine._queue.forget_counts()
        engine._distinct_tokens = 0
        llm.reset_prefix_cache()
        list(engine.run(requests))
        answer[name] = {"ours": ours, "raw": theirs, "stats": engine.stats()}
    shared.finish(options, answer)


def _both(options: argparse.Namespace, requests: Sequence[Any]) -> tuple[Any, Any]:
    from harness.engines import vllm_start
    from harness.engines.base import VLLMSettings
    from harness.engines.vllm import VLLMEngine
    from harness.types import ModelSpec

    model, settings = ModelSpec(name="model", path=options.model), VLLMSettings()
    engine = VLLMEngine(model, settings)
    engine.tokenize(requests)
    engine.load()
    vllm_start.import_vllm()
    from vllm import LLM

    # vLLM's own loop around the engine that runs already: the same caches, threads and weights.
    llm = LLM.__new__(LLM)
    made = LLM.__init__
    LLM.__init__ = made
    llm.__dict__.update(_llm_fields(engine._engine))
    return llm, engine


def _llm_fields(engine: Any) -> dict[str, Any]:
    raise NotImplementedError


def _token_ids(engine: Any, requests: Sequence[Any]) -> list[list[int]]:
    from harness.engines.trie import unpack

    return [unpack(one.prompt) for one in engine._prompts.of(requests)]


def _generate(llm: Any, prompts: Sequence[list[int]], request: Any) -> None:
    from vllm import SamplingParams

    sampling = request.sampling
    params = SamplingParams(
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        n=sampling.n,
        stop=list(sampling.stop) or None,
        seed=0 if sampling.temperature else None,
    )
    llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
