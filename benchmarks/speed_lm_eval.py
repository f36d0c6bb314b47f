"""How fast our `hf` engine is beside lm-eval's `hf` model: same checkpoint, questions, batch size.

    python -m benchmarks.speed_lm_eval                          all of MMLU, 200 questions of GSM8K
    python -m benchmarks.speed_lm_eval --subjects 6 --size medium --repeats 3

lm-eval writes the requests of its own tasks (MMLU 5-shot, GSM8K). Each side then answers them in a
process of its own, in turn, `--repeats` times. Timed is everything from texts to answers
(tokenising, forwards, decoding), not the loading of data and weights. Needs lm-eval and the
benchmarks under --data-root, laid out like the hub. The result goes to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record

REPOSITORY = Path(__file__).resolve().parent.parent
DATA_ROOT = os.environ.get("BENCH_DATA_ROOT", str(REPOSITORY.parent / "shared" / "hub"))
# hidden size, layers, heads, key-value heads, tokens in the vocabulary
# hidden, layers, heads, key-value heads, vocabulary; the large ones have the vocabulary of Llama 2
SIZES = {
    "small": (128, 4, 4, 2, 2048),
    "medium": (512, 14, 8, 4, 8192),
    "llama60m": (512, 8, 8, 4, 32000),
}
SIDES = ("ours", "lm_eval")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}


def main() -> None:
    options = parse_options()
    if options.role:
        ROLES[options.role](options)
        return
    given = options.model
    with tempfile.TemporaryDirectory() as scratch:
        options.scratch = scratch
        spawn(options, "requests")
        if options.model:
            options.model = str(Path(options.model).resolve())
        else:
            options.model = str(Path(scratch) / "model")
            spawn(options, "model")
        report = measure(options, given)
    record(f"speed_lm_eval_{options.size if not given else Path(given).name}", report)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="", help="a checkpoint folder; default: a random Llama")
    parser.add_argument("--size", choices=SIZES, default="small", help="of the random Llama")
    parser.add_argument("--subjects", type=int, default=57, help="of MMLU")
    parser.add_argument("--only", default="", help="names of lm-eval's MMLU tasks, by commas")
    parser.add_argument("--questions", type=int, default=200, help="of GSM8K")
    parser.add_argument("--shots", type=int, default=5, help="of GSM8K")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--data-root", default=DATA_ROOT)
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def spawn(options: argparse.Namespace, role: str) -> dict[str, Any]:
    """Runs this file in one role, inside the data root, and reads the JSON object it writes."""
    answer = Path(options.scratch) / f"{role}.json"
    given = {k: v for k, v in vars(options).items() if k != "role"}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    environment = {**os.environ, **OFFLINE, "HF_HOME": str(Path(options.scratch) / "hf")}
    environment["PYTHONPATH"] = str(REPOSITORY)
    command = [sys.executable, str(Path(__file__).resolve()), *flags, f"--role={role}"]
    subprocess.run(command, cwd=options.data_root, env=environment, check=True, stdout=sys.stderr)
    return dict(json.loads(answer.read_text()))


def finish(options: argparse.Namespace, answer: Any) -> None:
    (Path(options.scratch) / f"{options.role}.json").write_text(json.dumps(answer))


def write_requests(options: argparse.Namespace) -> None:
    """The requests of lm-eval's own tasks, as (context, choices) and (context, settings)."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    names = options.only.split(",") if options.only else subjects(manager, options.subjects)
    questions: list[list[Any]] = []
    for name in names:
        by_document: dict[int, list[Any]] = {}
        for instance in instances(manager, name, 5, None):
            by_document.setdefault(instance.doc_id, []).append(instance.args)
        questions += [[asked[0][0], [a[1] for a in asked]] for asked in by_document.values()]
    prompts = []
    if options.questions:
        generated = instances(manager, "gsm8k", options.shots, options.questions)
        prompts = [instance.args[0] for instance in generated]
    stops = ["Question:", "</s>", "<|im_end|>"]
    finish(options, {"questions": questions, "prompts": prompts, "stops": stops})


def subjects(manager: Any, count: int) -> list[str]:
    """At equal distances in the alphabet: the first few have shorter prompts than most."""
    names = sorted(manager.load(["mmlu"])["tasks"])
    return [names[n * len(names) // count] for n in range(min(count, len(names)))]


def instances(manager: Any, name: str, shots: int, limit: int | None) -> list[Any]:
    (task,) = manager.load([name])["tasks"].values()
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests(limit=limit)
    return list(task.instances)


def read_requests(options: argparse.Namespace) -> dict[str, Any]:
    return dict(json.loads((Path(options.scratch) / "requests.json").read_text()))


def make_model(options: argparse.Namespace) -> None:
    """A random Llama, and a byte-level BPE tokenizer trained on questions of MMLU that nobody asks
    here: one that knew the prompts would write them, and what they share, in too few tokens."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    hidden, layers, heads, kv_heads, vocabulary = SIZES[options.size]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = unasked_questions(options.data_root)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(options.model)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,  # also where the text has fewer pairs to merge
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.05,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(options.model)
    finish(options, {})


def unasked_questions(data_root: str) -> list[str]:
    import duckdb

    files = Path(data_root) / "cais" / "mmlu" / "all" / "validation-*.parquet"
    found = duckdb.sql(f"SELECT question || '\n' || array_to_string(choices, '\n') FROM '{files}'")
    return [text for (text,) in found.fetchall()]


def answer_ours(options: argparse.Namespace) -> None:
    from harness.engines.base import HFSettings
    from harness.engines.hf import HFEngine
    from harness.types import ModelSpec, Request, SamplingParams

    asked = read_requests(options)
    sampling = SamplingParams(max_tokens=options.max_tokens, stop=tuple(asked["stops"]))
    work = {
        "choices": [
            Request(id=f"c{n}", kind="choose", prompt=context, choices=tuple(choices))
            for n, (context, choices) in enumerate(asked["questions"])
        ],
        "texts": [
            Request(id=f"g{n}", kind="generate", prompt=prompt, sampling=sampling)
            for n, prompt in enumerate(asked["prompts"])
        ],
    }
    set_threads(options)
    answer: dict[str, Any] = {}
    for name, requests in work.items():
        engine = HFEngine(
            ModelSpec(name="model", path=options.model), HFSettings(batch_size=options.batch_size)
        )
        engine.tokenize(requests[:1])
        engine.load()
        watch = Watch()
        counted = engine.tokenize(requests)
        answer[f"{name}_tokenize_s"] = watch.read()[0]
        found = {completion.request_id: completion for completion in engine.run(requests)}
        answer[f"{name}_s"], answer[f"{name}_cpu_s"] = watch.read()
        answer[f"{name}_prompt_tokens"] = counted.prompt_tokens
        answer[f"{name}_stats"] = engine.stats()
        ordered = [found[request.id] for request in requests]
        answer[name] = [c.choice_logprobs if name == "choices" else c.text for c in ordered]
        answer[f"{name}_completion_tokens"] = sum(c.completion_tokens for c in ordered)
    finish(options, answer)


def answer_lm_eval(options: argparse.Namespace) -> None:
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    set_threads(options)
    asked = read_requests(options)
    model = HFLM(
        pretrained=options.model,
        device="cuda" if torch.cuda.is_available() else "cpu",
        dtype="auto" if torch.cuda.is_available() else "float32",
        batch_size=options.batch_size,
    )
    pairs = [(context, c) for context, choices in asked["questions"] for c in choices]
    scored = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)]
    settings = {"until": asked["stops"], "do_sample": False, "max_gen_toks": options.max_tokens}
    generated = [
        Instance("generate_until", {}, (prompt, {**settings, "temperature": 0.0}), n)
        for n, prompt in enumerate(asked["prompts"])
    ]
    answer: dict[str, Any] = {}
    watch = Watch()
    logprobs = [logprob for logprob, _ in model.loglikelihood(scored, disable_tqdm=True)]
    answer["choices_s"], answer["choices_cpu_s"] = watch.read()
    watch = Watch()
    texts = model.generate_until(generated, disable_tqdm=True) if generated else []
    answer["texts_s"], answer["texts_cpu_s"] = watch.read()
    given = iter(logprobs)
    choices = [[next(given) for _ in choices] for _, choices in asked["questions"]]
    finish(options, {**answer, "choices": choices, "texts": texts})


class Watch:
    """Seconds since its start, on the clock and of this process's processors."""

    def __init__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._started[0], time.process_time() - self._started[1]


def set_threads(options: argparse.Namespace) -> None:
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)


ROLES = {
    "requests": write_requests,
    "model": make_model,
    "ours": answer_ours,
    "lm_eval": answer_lm_eval,
}


def measure(options: argparse.Namespace, given: str) -> dict[str, Any]:
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(options.repeats):
        for side, answers in runs.items():
            answers.append(spawn(options, side))
    return {
        "model": "/".join(Path(given).parts[-2:]) if given else f"random {options.size}",
        "threads": options.threads,
        "batch_size": options.batch_size,
        "repeats": options.repeats,
        "mmlu_5_shot": compare_choices(runs) if options.subjects else None,
        "gsm8k": compare_texts(runs) if options.questions else None,
    }


def seconds(runs: dict[str, list[dict[str, Any]]], name: str) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for clock in ("s", "cpu_s"):
        ours, theirs = ([run[f"{name}_{clock}"] for run in runs[side]] for side in SIDES)
        report[f"ours_{clock}"] = [round(s, 3) for s in ours]
        report[f"lm_eval_{clock}"] = [round(s, 3) for s in theirs]
        ratio = statistics.median(theirs) / statistics.median(ours)
        report[f"times_faster_{clock}"] = round(ratio, 2)
    return report


def compare_choices(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    ours, theirs = runs["ours"][0], runs["lm_eval"][0]
    stats = ours["choices_stats"]
    pairs = list(zip(ours["choices"], theirs["choices"], strict=True))
    differences = [abs(a - b) for x, y in pairs for a, b in zip(x, y, strict=True)]
    return seconds(runs, "choices") | {
        "questions": len(pairs),
        "tokenize_s": round(ours["choices_tokenize_s"], 3),
        "prompt_tokens": ours["choices_prompt_tokens"],
        "distinct_tokens": stats["distinct_tokens"],
        "forwarded_tokens": stats["forwarded_tokens"],
        "forwarded_per_distinct": round(stats["forwarded_tokens"] / stats["distinct_tokens"], 4),
        "forwards": stats["forwards"],
        "largest_logprob_difference": max(differences),
        "same_answer": sum(x.index(max(x)) == y.index(max(y)) for x, y in pairs),
    }


def compare_texts(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    ours, theirs = runs["ours"][0], runs["lm_eval"][0]
    return seconds(runs, "texts") | {
        "questions": len(ours["texts"]),
        "prompt_tokens": ours["texts_prompt_tokens"],
        "completion_tokens": ours["texts_completion_tokens"],
        "stats": ours["texts_stats"],
        "same_text": sum(a == b for a, b in zip(ours["texts"], theirs["texts"], strict=True)),
    }


if __name__ == "__main__":
    main()
