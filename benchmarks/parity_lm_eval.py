"""Are our runs those of lm-evaluation-harness 0.4.13, sample by sample?

    python -m benchmarks.parity_lm_eval                        Tiny/base and a random Llama
    python -m benchmarks.parity_lm_eval --model FOLDER --limit 200 --max-tokens 256

Both sides evaluate the same checkpoint in float32, each in a process of its own, as their users
would: `harness.evaluate` here, `lm_eval.simple_evaluate` there. Compared are, for every question,
the token ids that the model reads, the log-probability of each choice, the greedy answer, and the
grade of every metric; and the mean of every metric. The random Llama has a tokenizer of another
kind, like sentencepiece's. Needs lm-eval and the benchmarks under --data-root, laid out like the
hub. The result goes to benchmarks/results/; exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.record import record

REPOSITORY = Path(__file__).resolve().parent.parent
DATA_ROOT = os.environ.get("BENCH_DATA_ROOT", str(REPOSITORY.parent / "shared" / "hub"))
LOGPROB_TOLERANCE = 1e-4
EXACT = ("ids", "text", "grades")
CONTEXT = 16_384
# Our task, lm-eval's, the shots where lm-eval leaves them open, whether it is asked as a chat too.
TASKS: tuple[tuple[str, str, int | None, bool], ...] = (
    ("gsm8k", "gsm8k", None, True),
    ("mmlu", "mmlu", 5, False),
    ("medqa", "medqa_4options", None, True),
    ("medmcqa", "medmcqa", None, False),
    ("math", "hendrycks_math500", None, False),
)
# Runs of one start of our engine: tasks, shots, chat.
OUR_RUNS: tuple[tuple[list[str], int | None, bool], ...] = (
    ([name for name, _, shots, _ in TASKS if shots is None], None, False),
    ([name for name, *_, chat in TASKS if chat], None, True),
    (["mmlu"], 5, False),
)
# lm-eval's (metric, filter) under our names
METRICS = {
    ("exact_match", "strict-match"): "strict_match",
    ("exact_match", "flexible-extract"): "flexible_extract",
    ("exact_match", "none"): "exact_match",
    ("acc", "none"): "acc",
    ("acc_norm", "none"): "acc_norm",
}
# With the BOS token in it, as models have theirs: to a template without, lm-eval adds one.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]

# "task", or "task chat"; then the sample by its subject and its place in there.
Answers = dict[str, dict[str, Any]]


def main() -> int:
    options = parse_options()
    if options.role:
        ROLES[options.role](options)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        options.scratch = scratch
        models = given_models(options)
        report = {name: compare(options, folder) for name, folder in models.items()}
    record(options.name, report)
    parts = [one for model in report.values() for one in model.values()]
    return 0 if all(one["equal"] and one["equal_means"] for one in parts) else 1


def given_models(options: argparse.Namespace) -> dict[str, str]:
    if options.model:
        return {Path(options.model).name: str(Path(options.model).absolute())}
    options.model = str(Path(options.scratch) / "random")
    spawn(options, "model")
    return {"Tiny/base": str(REPOSITORY / "harness" / "tiny" / "base"), "random": options.model}


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="", help="a checkpoint folder; default: see above")
    every = ",".join(name for name, *_ in TASKS)
    parser.add_argument("--tasks", default=every, help="some of them, separated by commas")
    parser.add_argument("--limit", type=int, default=40, help="questions of each task")
    parser.add_argument("--subject-limit", type=int, default=1, help="of each subject of MMLU")
    parser.add_argument("--max-tokens", type=int, default=64, help="of each generated answer")
    # In a larger batch lm-eval may write on after a stop that is a special token (`<|im_end|>`),
    # until the whole batch has stopped, and then does not see it: the text has none.
    parser.add_argument("--batch-size", type=int, default=1, help="of lm-eval")
    parser.add_argument("--data-root", default=DATA_ROOT)
    parser.add_argument("--name", default="parity_lm_eval", help="of the file in results/")
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def spawn(options: argparse.Namespace, role: str) -> Any:
    """Runs this file in one role, inside the data root, and reads the JSON that it writes."""
    given = {k: v for k, v in vars(options).items() if k not in ("role", "name")}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(Path(options.scratch) / "hf"),
        "PYTHONPATH": str(REPOSITORY),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, str(Path(__file__).resolve()), *flags, f"--role={role}"]
    subprocess.run(command, cwd=options.data_root, env=environment, check=True, stdout=sys.stderr)
    answer = Path(options.scratch) / f"{role}.json"
    return json.loads(answer.read_text()) if answer.exists() else None


def finish(options: argparse.Namespace, answer: Any) -> None:
    (Path(options.scratch) / f"{options.role}.json").write_text(json.dumps(answer))


# ---- the two sides -----------------------------------------------------------------------------


def answer_ours(options: argparse.Namespace) -> None:
    from harness import runs
    from harness.evaluate import Options, evaluate

    home = Path(options.scratch) / "home"
    shutil.rmtree(home, ignore_errors=True)
    answers: Answers = {}
    means: dict[str, dict[str, float]] = {}
    for all_names, shots, chat in OUR_RUNS:
        names = [name for name in all_names if name in options.tasks.split(",")]
        if not names:
            continue
        asked = Options(
            engine="hf",
            limit=57 * options.subject_limit if names == ["mmlu"] else options.limit,
            shots=shots,
            max_tokens=options.max_tokens if {"gsm8k", "math"} & set(names) else None,
            chat=chat,
            settings={"dtype": "float32", "device": "cpu"},
            data_root=Path(options.data_root),
            home=home,
        )
        for name, run in zip(names, evaluate(options.model, names, asked), strict=True):
            if run.status != "done":
                raise SystemExit(f"{name}: {run.error}")
            folder = runs.folder_of(home, run.run_id)
            key = f"{name} chat" if chat else name
            answers[key] = our_samples(options, name, folder)
            measures = json.loads((folder / runs.MEASURES).read_text())
            means[key] = {m["metric"]: m["value"] for m in measures if not m.get("group")}
    finish(options, {"answers": answers, "means": means})


def our_samples(options: argparse.Namespace, name: str, folder: Path) -> dict[str, Any]:
    from harness import registry, runs
    from harness.engines.loading import load_tokenizer
    from harness.engines.tokenizing import PromptEncoder
    from harness.engines.trie import unpack
    from harness.types import ModelSpec, Sample, request_from_json

    task = registry.task(name)
    lines = list(runs.read_requests(folder))
    completions = {c.request_id: c for c in runs.read_completions(folder)}
    model = ModelSpec(name="model", path=options.model)
    encoder = PromptEncoder(load_tokenizer(model), model.name)
    prepared = encoder.prepare([request_from_json(line) for line in lines])
    keys = sample_keys(options, name)
    found = {}
    for line, tokens in zip(lines, prepared, strict=True):
        told, completion = line["sample"], completions[line["id"]]
        sample = Sample(
            id=line["id"], input="", target=told["target"], choices=tuple(told["choices"])
        )
        read = [context + answer for context, answer in tokens.choices] or [tokens.prompt]
        found[keys[line["id"]]] = {
            "ids": digest([unpack(path) for path in read]),
            "tokens": sum(len(unpack(path)) for path in read),
            "logprobs": completion.choice_logprobs,
            "text": completion.text,
            "grades": {s.metric: s(sample, completion).value for s in task.scorers},
        }
    return found


def sample_keys(options: argparse.Namespace, name: str) -> dict[str, str]:
    """The subject of MMLU, and the place in it or in the split, for every sample id."""
    from harness import registry
    from harness.questions import questions

    asked = questions(registry.task(name), data_root=Path(options.data_root), shots=0)
    places: dict[str, Iterator[int]] = defaultdict(count)
    groups = {sample.id: sample.group if name == "mmlu" else "" for sample in asked.samples}
    return {id: f"{group}/{next(places[group])}" for id, group in groups.items()}


def answer_lm_eval(options: argparse.Namespace) -> None:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(without_missing_splits(Path(options.scratch))))
    model = HFLM(
        pretrained=options.model, dtype="float32", device="cpu", batch_size=options.batch_size
    )
    # Of a task with groups we ask some of each, and lm-eval can be told which. Not so for one
    # with drawn examples: lm-eval draws them anew for the questions that it is told.
    ours = json.loads((Path(options.scratch) / "ours.json").read_text())["answers"].get("math", {})
    chosen = {"hendrycks_math500": sorted(int(key.strip("/")) for key in ours)}
    answers: Answers = {}
    means: dict[str, dict[str, float]] = {}
    for name, theirs, shots, with_chat in TASKS:
        if name not in options.tasks.split(","):
            continue
        for chat in (False, True) if with_chat else (False,):
            first = options.subject_limit if name == "mmlu" else options.limit
            done = lm_eval.simple_evaluate(
                model=model,
                tasks=[theirs],
                num_fewshot=shots,
                limit=None if theirs in chosen else first,
                samples=chosen if theirs in chosen else None,
                gen_kwargs={"max_gen_toks": options.max_tokens},
                bootstrap_iters=0,
                apply_chat_template=chat,
                task_manager=manager,
            )
            assert done is not None
            key = f"{name} chat" if chat else name
            answers[key] = their_samples(model, done["samples"], name)
            means[key] = their_means(done["results"][theirs])
    finish(options, {"answers": answers, "means": means})


def without_missing_splits(scratch: Path) -> Path:
    """The two medical tasks as they ship, but for splits that a data root may not have."""
    import lm_eval.tasks

    for name in ("medqa", "medmcqa"):
        folder = scratch / "tasks" / name
        shutil.copytree(Path(lm_eval.tasks.__file__).parent / name, folder, dirs_exist_ok=True)
        for config in folder.glob("*.yaml"):
            lines = config.read_text().splitlines(keepends=True)
            dropped = ("training_split", "validation_split")
            config.write_text("".join(x for x in lines if not x.startswith(dropped)))
    return scratch / "tasks"


def their_samples(model: Any, samples: dict[str, list[Any]], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for task, logged in samples.items():
        group = task.removeprefix("mmlu_") if name == "mmlu" else ""
        for sample in logged:
            one = found.setdefault(f"{group}/{sample['doc_id']}", their_sample(model, sample))
            for metric in sample["metrics"]:
                one["grades"][METRICS[metric, sample["filter"]]] = float(sample[metric])
    return found


def their_sample(model: Any, sample: dict[str, Any]) -> dict[str, Any]:
    if isinstance(sample["arguments"][0][1], str):
        pairs = [model._encode_pair(*pair) for pair in sample["arguments"]]
        logprobs = [responses[0][0] for responses in sample["resps"]]
        ids = digest([a + b for a, b in pairs])
        return {"ids": ids, "logprobs": logprobs, "text": "", "grades": {}}
    prompt = sample["arguments"][0][0]
    ids = digest([model.tok_batch_encode([prompt])[0][0].tolist()])
    return {"ids": ids, "logprobs": [], "text": sample["resps"][0][0], "grades": {}}


def digest(ids: list[list[int]]) -> str:
    """Of token ids, which for a whole benchmark are too many to be kept."""
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def their_means(results: dict[str, Any]) -> dict[str, float]:
    return {
        METRICS[metric, filter]: value
        for name, value in results.items()
        for metric, _, filter in [name.partition(",")]
        if (metric, filter) in METRICS
    }


# ---- the comparison ----------------------------------------------------------------------------


def compare(options: argparse.Namespace, folder: str) -> dict[str, dict[str, Any]]:
    options.model = folder
    ours, theirs = (spawn(options, side) for side in ("ours", "lm_eval"))
    return {
        key: compared(ours["answers"][key], theirs["answers"][key])
        | compared_means(ours["means"][key], theirs["means"][key])
        for key in theirs["answers"]
    }


def compared(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    if ours.keys() != theirs.keys():
        raise SystemExit(f"the two sides asked other questions: {ours.keys() ^ theirs.keys()}")
    pairs = [(ours[key], theirs[key]) for key in theirs]
    gaps = [abs(a - b) for x, y in pairs for a, b in zip(x["logprobs"], y["logprobs"], strict=True)]
    counts = {f"same_{what}": sum(x[what] == y[what] for x, y in pairs) for what in EXACT}
    other = [key for key in theirs if any(ours[key][k] != theirs[key][k] for k in EXACT)]
    gap = max(gaps, default=0.0)
    equal = gap <= LOGPROB_TOLERANCE and set(counts.values()) == {len(pairs)}
    tokens = sum(x["tokens"] for x, _ in pairs)
    told = {"questions": len(pairs), "tokens": tokens, **counts}
    answered = sum(bool(x["text"]) for x, _ in pairs)
    return told | {
        "texts": answered,
        "largest_logprob_gap": gap,
        "equal": equal,
        "differ": other,
    }


def compared_means(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, Any]:
    pairs = {metric: [ours[metric], value] for metric, value in theirs.items()}
    return {"means": pairs, "equal_means": all(abs(a - b) < 1e-9 for a, b in pairs.values())}


# ---- random checkpoints ------------------------------------------------------------------------


def make_model(options: argparse.Namespace) -> None:
    import torch
    import transformers

    tokenizer = make_tokenizer(Path(options.data_root))
    tokenizer.save_pretrained(options.model)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        # Large enough that positions, masks and every token of the prompt matter.
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(options.model)


def make_tokenizer(data_root: Path) -> Any:
    """Llama 2's way: spaces become `▁`, a text is one word, unknown bytes are tokens."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    strip = decoders.Strip(" ", 1, 0)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    tokenizer.decoder = decoders.Sequence(parts)
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=3000, special_tokens=[*SPECIALS, *byte_tokens], show_progress=False
    )
    # Trained over words, used over whole texts, as sentencepiece does.
    words = (" " + word for text in training_texts(data_root) for word in text.split())
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=SPECIALS[2:],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
    )


def training_texts(data_root: Path) -> list[str]:
    from harness import registry
    from harness.questions import questions

    asked = (questions(registry.task(name), data_root=data_root, shots=0) for name, *_ in TASKS)
    return [str(s.input) + " " + s.target for one in asked for s in one.samples[::10]]


ROLES = {
    "model": make_model,
    "ours": answer_ours,
    "lm_eval": answer_lm_eval,
}


if __name__ == "__main__":
    sys.exit(main())
