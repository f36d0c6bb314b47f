"""Engine `vllm` beside lm-eval's vllm model and beside the bare engine, with random Llamas.

    python -m benchmarks.vllm_speed mmlu --subjects 12    5-shot, against lm-eval's `vllm`
    python -m benchmarks.vllm_speed raw --size medium     gsm8k and 16 samples, against LLM.generate
    python -m benchmarks.vllm_speed six                   six tasks, one start
    python -m benchmarks.vllm_speed ten                   ten checkpoints of one shape

Needs vLLM, lm-eval and the benchmarks under --data-root. lm-eval asks package metadata for a
distribution called vllm, which the CPU build does not have: its process is shown one. Times are of
inference without starts, except in `six` and `ten`. Results go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil

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
    parser.add_argument("--subjects", type=int, default=12, help="of MMLU, spread over all")
    parser.add_argument("--only", default="", help="names of lm-eval's MMLU tasks, by commas")
    parser.add_argument("--questions", type=int, default=64, help="of GSM8K, and of each of six")
    parser.add_argument("--shots", type=int, default=5, help="of GSM8K")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    parser.add_argument("--data-root", default=shared.DATA_ROOT)
    parser.add_argument("--model", default="", help=argparse.SUPPRESS)
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def spawn(options: argparse.Namespace, role: str) -> dict[str, Any]:
    """One role in a process of its own; see `speed_lm_eval.spawn`."""
    given = {k: v for k, v in vars(options).items() if k not in ("role", "part")}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    command = [sys.executable, "-m", "benchmarks.vllm_speed", options.part, *flags]
    environment = {**os.environ, **shared.OFFLINE, "HF_HOME": str(Path(options.scratch) / "hf")}
    environment["PYTHONPATH"] = str(shared.REPOSITORY)
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    if options.threads:
        environment["OMP_NUM_THREADS"] = str(options.threads)
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
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {vllm.__version__}+cpu\n"
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
    spec = ModelSpec(name="model", path=options.model)
    engine = VLLMEngine(spec, VLLMSettings())
    engine.tokenize(requests)
    engine.load()
    list(engine.run(requests[:1]))  # what is made at first use, as for the other side
    engine._engine.reset_prefix_cache()
    engine.switch(spec)
    watch = Watch()
    counted = engine.tokenize(requests)
    tokenized = watch.read()
    engine.load()
    found = {c.request_id: c for c in engine.run(requests)}
    shared.finish(
        options,
        {
            "times": watch.read(),
            "tokenize_seconds": tokenized["s"],
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
    model.loglikelihood(scored[:1], disable_tqdm=True)  # what is compiled at first use
    watch = Watch()
    logprobs = [logprob for logprob, _ in model.loglikelihood(scored, disable_tqdm=True)]
    times = watch.read()
    tokens = sum(len(model.tok_encode(context + choice)) for context, choice in pairs)
    given = iter(logprobs)
    choices = [[next(given) for _ in choices] for _, choices in asked["questions"]]
    shared.finish(options, {"times": times, "choices": choices, "tokens": tokens})


class Watch:
    """Seconds since its start: on the clock, and of the processors of this process and of those
    that it has started (vLLM's engine is one of them for lm-eval)."""

    def __init__(self) -> None:
        self._started = self._now()

    def read(self) -> dict[str, float]:
        now = self._now()
        return {name: round(now[name] - self._started[name], 2) for name in now}

    @staticmethod
    def _now() -> dict[str, float]:
        own = psutil.Process()
        used = [one.cpu_times() for one in (own, *own.children(recursive=True))]
        return {"s": time.perf_counter(), "cpu_s": sum(t.user + t.system for t in used)}


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
            Request(id=f"m{n}", kind="generate", prompt=prompt[-600:], sampling=many)
            for n, prompt in enumerate(asked["prompts"][:8])
        ],
    }
    llm, engine = both_loops(options, [request for own in work.values() for request in own])
    answer: dict[str, Any] = {}
    for name, requests in work.items():
        prompts = token_ids(engine, requests)
        times: dict[str, list[dict[str, float]]] = {"ours": [], "raw": []}
        for _ in range(options.repeats + 1):  # the first round warms up
            llm.reset_prefix_cache()
            times["raw"].append(timed(partial(generate, llm, prompts, requests[0])))
            llm.reset_prefix_cache()
            engine.switch(engine.model)
            engine.tokenize(requests)
            engine.load()
            times["ours"].append(timed(lambda r=requests: list(engine.run(r))))
        answer[name] = {key: values[1:] for key, values in times.items()}
        answer[name]["stats"] = engine.stats()
    shared.finish(options, answer)


def both_loops(options: argparse.Namespace, requests: Sequence[Any]) -> tuple[Any, Any]:
    """vLLM's `LLM`, and our engine around the very engine that it has started."""
    from harness.engines import vllm_start
    from harness.engines.base import VLLMSettings
    from harness.engines.vllm import VLLMEngine
    from harness.types import ModelSpec

    vllm_start.import_vllm()
    vllm_start.forget_compilers()
    from vllm import LLM

    from harness.engines.vllm_queue import Queue

    spec, settings = ModelSpec(name="model", path=options.model), VLLMSettings()
    made = vllm_start.arguments(spec, settings, dtype="float32", tokens=4096, cpu=True)
    llm = LLM(**made)

    class Around(VLLMEngine):
        model = spec

        def _start(self) -> None:
            self._engine, self._loaded_path = llm.llm_engine, spec.path
            self._queue = Queue(llm.llm_engine)

    engine = Around(spec, settings)
    engine.tokenize(requests)
    engine.load()
    return llm, engine


def token_ids(engine: Any, requests: Sequence[Any]) -> list[list[int]]:
    from harness.engines.trie import unpack

    return [unpack(one.prompt) for one in engine._prompts.of(requests)]


def generate(llm: Any, prompts: Sequence[list[int]], request: Any) -> None:
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


def timed(work: Callable[[], object]) -> dict[str, float]:
    watch = Watch()
    work()
    return watch.read()


def copy_checkpoints(options: argparse.Namespace) -> None:
    """Ten random checkpoints of the model's shape."""
    import torch
    import transformers

    for number in range(10):
        folder = Path(options.scratch) / f"step{number}"
        shutil.copytree(options.model, folder)
        torch.manual_seed(number)
        config = transformers.AutoConfig.from_pretrained(folder)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    shared.finish(options, {})


# Parts


def mmlu(options: argparse.Namespace) -> dict[str, Any]:
    ours, theirs = spawn(options, "ours"), spawn(options, "lm_eval")
    pairs = list(zip(ours["choices"], theirs["choices"], strict=True))
    differences = [abs(a - b) for x, y in pairs for a, b in zip(x, y, strict=True)]
    stats = ours["stats"]
    return {
        "subjects": options.only or options.subjects,
        "questions": len(pairs),
        "prompt_tokens": ours["prompt_tokens"],
        "lm_eval_tokens_per_ours": round(theirs["tokens"] / stats["forwarded_tokens"], 1),
        "threads": options.threads or os.cpu_count(),
        "ours": ours["times"],
        "of_that_tokenizing_s": ours["tokenize_seconds"],
        "lm_eval": theirs["times"],
        "times_faster": {
            name: round(theirs["times"][name] / ours["times"][name], 1) for name in ours["times"]
        },
        "largest_logprob_difference": max(differences),
        "same_choice": sum(x.index(max(x)) == y.index(max(y)) for x, y in pairs),
        **prefill(stats),
    }


def prefill(stats: dict[str, Any]) -> dict[str, Any]:
    """Tokens computed for prompts, beside the least: each distinct prefix once, and for every
    request what lies in its last, unfinished block of the prefix cache."""
    rounding = stats["requests"] * (stats["block_tokens"] - 1)
    least = stats["distinct_tokens"]
    return {
        "forwarded_tokens": stats["forwarded_tokens"],
        "distinct_tokens": least,
        "most_lost_to_blocks": rounding,
        "beyond_distinct_and_blocks": round(
            max(0, stats["forwarded_tokens"] - rounding) / least, 3
        ),
        "scored": stats["scored"],
    }


def raw(options: argparse.Namespace) -> dict[str, Any]:
    return {name: raw_figures(found) for name, found in spawn(options, "raw").items()}


def raw_figures(found: dict[str, Any]) -> dict[str, Any]:
    """The median ratio of neighbouring rounds: what else runs on the machine meets both."""
    pairs = list(zip(found["ours"], found["raw"], strict=True))
    return {
        "ours": found["ours"],
        "raw": found["raw"],
        "ours_per_raw": {
            clock: round(statistics.median(a[clock] / b[clock] for a, b in pairs), 3)
            for clock in ("s", "cpu_s")
        },
        **prefill(found["stats"]),
    }


def six(options: argparse.Namespace) -> dict[str, Any]:
    """The whole of `bench eval`, beside what its worker spent starting and answering."""
    return whole_evaluation(options, [options.model], SIX)


def ten(options: argparse.Namespace) -> dict[str, Any]:
    spawn(options, "checkpoints")
    models = [str(Path(options.scratch) / f"step{number}") for number in range(10)]
    figures = whole_evaluation(options, models, "arithmetic")
    starts = (figures["wall_s"] - figures["inference_s"]) / figures["one_start_s"]
    return {**figures, "starts_beyond_inference": round(starts, 2)}


class Clock:
    """When each model was loaded, and when its first and last answers came."""

    def __init__(self) -> None:
        self.notes: list[tuple[float, str]] = []
        self.spans: dict[str, list[float]] = {}

    def note(self, text: str) -> None:
        self.notes.append((time.perf_counter(), text))

    def progress(self, model: str, counts: dict[str, Any]) -> None:
        self.spans.setdefault(model, []).append(time.perf_counter())


def whole_evaluation(
    options: argparse.Namespace, models: Sequence[str], tasks: str
) -> dict[str, Any]:
    from harness.evaluate import evaluate

    clock, home = Clock(), Path(options.scratch) / "home"
    started = time.perf_counter()
    runs = evaluate(
        models,
        tasks,
        limit=options.questions,
        max_tokens=options.max_tokens,
        engine="vllm",
        data_root=Path(options.data_root),
        home=home,
        listener=clock,
    )
    wall = time.perf_counter() - started
    assert all(run.status == "done" for run in runs), [run.error for run in runs]
    loaded = [at for at, text in clock.notes if ": loaded on" in text]
    ends = [max(span) for span in clock.spans.values()]
    inference = sum(end - at for end, at in zip(ends, loaded, strict=True))
    one_start = loaded[0] - started
    return {
        "models": len(models),
        "tasks": tasks,
        "questions_each": options.questions,
        "wall_s": round(wall, 2),
        "one_start_s": round(one_start, 2),
        "inference_s": round(inference, 2),
        "engine_starts": 1 + sum("engine start of its own" in text for _, text in clock.notes),
        "wall_per_start_and_inference": round(wall / (one_start + inference), 3),
    }


ROLES = {
    "requests": shared.write_requests,
    "model": shared.make_model,
    "ours": answer_ours,
    "lm_eval": answer_lm_eval,
    "raw": answer_raw,
    "checkpoints": copy_checkpoints,
}
PARTS = {"mmlu": mmlu, "raw": raw, "six": six, "ten": ten}

if __name__ == "__main__":
    main()
