"""The nouns that every part shares: plain frozen values, standard library only.

Workers under other interpreters import this module too, so nothing here may need a package.
JSON is the form between processes: `to_json` writes a value, the `*_from_json` functions read it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

JSON = dict[str, Any]

RequestKind = Literal["generate", "choose", "loglikelihood", "rolling", "embed"]
FinishReason = Literal["stop", "length", "scored"]
RunKind = Literal["eval", "train", "tune", "steer", "ladder", "import"]
RunStatus = Literal["running", "done", "failed", "interrupted"]
Precision = Literal["fp32", "bf16", "fp16"]
Launcher = Literal["single", "ddp", "zero2", "zero3", "fsdp"]
Schedule = Literal["constant", "linear", "cosine"]
Device = Literal["auto", "cpu", "cuda"]
Overlong = Literal["error", "drop", "truncate"]


UNLISTED = -9999.0
"""Log-probability of a choice that a server does not list among the likeliest tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Rows of one split.

    path: a hub id, or a local file or folder. config: several joined by `+` are read one after the
    other. revision: a hub commit.
    """

    path: str
    config: str = "default"
    split: str = "test"
    revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One item of a benchmark.

    input: the question as the model sees it. target: the reference answer, in the form in which
    a few-shot example shows it. choices: the answers of a multiple-choice item, without delimiter.
    group: the cluster that the item belongs to (MMLU subject), '' where there is none.
    tags: further parts of the benchmark that it counts in (MATH level), named like groups.
    """

    id: str
    input: Prompt
    target: str
    choices: tuple[str, ...] = ()
    group: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to decode, in vLLM's names. temperature 0 is greedy; n completions per prompt.

    include_stop: whether the stop string that ended a text stays at its end, for protocols that
    look for it (vLLM: include_stop_str_in_output).
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    n: int = 1
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to an engine.

    prompt: text, or messages that the engine renders with the model's chat template.
    choices: continuations to score, with their leading delimiter (' A'); for kind `loglikelihood`
    exactly one. Kind `rolling`: the prompt itself is scored, from its first token on, in windows of
    the whole context where it is longer than that. sampling: only for kind `generate`.
    top_tokens: only for kind `choose`; how many of the likeliest first tokens are to be told too.
    layers, pooling: only for kind `embed`; which layers' outputs are wanted (-1 is the last), and
    how their tokens become one vector (mean or last).
    """

    id: str
    kind: RequestKind
    prompt: Prompt
    choices: tuple[str, ...] = ()
    sampling: SamplingParams | None = None
    layers: tuple[int, ...] = ()
    pooling: str | None = None
    top_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What an engine answered to one request (to one of its n samples).

    prompt: the exact text after the chat template; None where it is the request's own text.
    choice_logprobs: summed over the tokens of each choice, in nats. choice_greedy: whether each
    choice is what greedy decoding would have written. finish_reason `length` means truncated.
    top_tokens: the likeliest first tokens of those asked for, likeliest first: each as it would
    stand in the text, with its log-probability in nats; `text` is then the first of them.
    latency_s: seconds from the start of the batch that held it. vectors: for kind `embed`, one of
    each wanted layer, as little-endian float32 in base64.
    """

    request_id: str
    index: int = 0
    text: str = ""
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int = 0
    choice_logprobs: tuple[float, ...] = ()
    choice_greedy: tuple[bool, ...] = ()
    prompt: str | None = None
    latency_s: float = 0.0
    vectors: tuple[str, ...] = ()
    top_tokens: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A grade. answer: what was read from the output; None means nothing could be read."""

    value: float
    answer: str | None
    grader: str
    version: int
    explanation: str = ""

    @property
    def parsed(self) -> bool:
        return self.answer is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A completion with its grade, as metrics see it."""

    sample_id: str
    index: int
    group: str
    score: Score
    truncated: bool
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A number fit for a table, over `n` samples; the interval is at 95 %."""

    metric: str
    value: float
    stderr: float
    ci_low: float
    ci_high: float
    n: int
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model to evaluate: one checkpoint of a registry entry, a folder, or a hub id.

    name: as it stands in the history (`Tiny/base`). path: folder or hub id that is loaded.
    revision: hub commit, where there is one. fingerprint: what identifies the weights.
    chat_template: 'model' (the tokenizer's), 'none', or the path of a Jinja file.
    engine_args: further arguments of vLLM by its own names.
    base_url: of the server that has the model, which is called `path` there; api_key_env: name of
    the environment variable with its key. tokenizer: where it is not the one in `path`.
    """

    name: str
    path: str
    revision: str | None = None
    fingerprint: str = ""
    parent: str | None = None
    run: str | None = None
    adapter: str | None = None
    dtype: str = "auto"
    max_model_len: int | None = None
    chat_template: str = "model"
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    trust_remote_code: bool = False
    engine: str | None = None
    engine_args: JSON = field(default_factory=dict)
    base_url: str | None = None
    api_key_env: str | None = None
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The manifest of a run folder: what was asked, by which versions, and how it ended.

    n_samples: questions asked. limit_n: the `--limit` that cut them, None for a whole benchmark.
    protocol: fingerprint; `protocol_parts` are the values it was made from, so that two runs can
    say what differs. key: equal keys are the same question to the same weights (resume, reuse).
    task_file: the user's file that the task is in, '' for one that is found by name.
    cause: label of a failure; error: its sentence. started_at, finished_at: UTC, ISO 8601.
    """

    run_id: str
    kind: RunKind
    status: RunStatus
    cause: str | None = None
    error: str | None = None
    model: str = ""
    model_path: str = ""
    model_revision: str | None = None
    model_fingerprint: str = ""
    parent: str | None = None
    task: str = ""
    variant: str = ""
    task_version: int = 0
    task_file: str = ""
    dataset: str = ""
    dataset_revision: str | None = None
    protocol: str = ""
    protocol_parts: JSON = field(default_factory=dict)
    primary_metric: str = ""
    n_samples: int = 0
    limit_n: int | None = None
    engine: str = ""
    engine_version: str = ""
    engine_settings: JSON = field(default_factory=dict)
    engine_stats: JSON = field(default_factory=dict)
    dtype: str = ""
    sampling: JSON = field(default_factory=dict)
    recipe: JSON | None = None
    seed: int | None = None
    started_at: str = ""
    finished_at: str | None = None
    seconds: float = 0.0
    device: str = ""
    gpus: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    git_commit: str | None = None
    git_dirty: bool | None = None
    packages: dict[str, str] = field(default_factory=dict)
    argv: tuple[str, ...] = ()
    outputs_sha256: str | None = None
    flags: tuple[str, ...] = ()
    notes: str = ""
    key: str = ""

    @property
    def task_id(self) -> str:
        """As `Task.id`: the task by which it is asked for."""
        return f"{self.task}:{self.variant}" if self.variant else self.task


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """AdamW with every constant written out, so that all launchers use the same one.

    warmup_ratio: share of all steps over which the learning rate rises from 0. min_lr_ratio: where
    the schedule ends, as a share of `learning_rate`. max_grad_norm: 0 does not clip.
    """

    learning_rate: float
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    schedule: Schedule = "linear"
    warmup_ratio: float = 0.0
    min_lr_ratio: float = 0.0
    max_grad_norm: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """targets: names of the modules that get an adapter, or `all-linear`."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = ("all-linear",)
    quantization: Literal["none", "4bit"] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A training run as resolved: what a trainer reads from `recipe.json`.

    model_path: folder or hub id of the start model. adapter: a LoRA folder that is merged into it
    before training. epochs or max_steps ends the training, what
    comes first. global_batch_size: sequences of one optimiser step over all processes;
    micro_batch_size: of one forward on one process; accumulation follows from both and
    `num_processes` (of all machines together). max_length: tokens of prompt and completion;
    overlong: what becomes of examples with more. device: `auto` is the GPU where there is one.
    pad_token: one of the vocabulary, for models that come without.
    save_steps: 0 saves at the end only. keep_checkpoints: how many of them stay, 0 = all.
    params: the method's own, checked against its `Params`.
    """

    method: str
    model: str
    model_path: str
    model_revision: str | None = None
    adapter: str | None = None
    trust_remote_code: bool = False
    chat_template: str = "model"
    pad_token: str | None = None
    template: str = "chat"
    launcher: Launcher = "single"
    num_processes: int = 1
    num_machines: int = 1
    device: Device = "auto"
    precision: Precision = "bf16"
    optimizer: Optimizer
    lora: Lora | None = None
    gradient_checkpointing: bool = False
    epochs: float | None = None
    max_steps: int | None = None
    global_batch_size: int = 32
    micro_batch_size: int = 1
    max_length: int = 1024
    overlong: Overlong = "error"
    seed: int = 42
    log_steps: int = 1
    save_steps: int = 0
    keep_checkpoints: int = 0
    report_to: tuple[str, ...] = ()
    params: JSON = field(default_factory=dict)

    @property
    def accumulation(self) -> int:
        """Forward passes of one process for one optimiser step."""
        return self.global_batch_size // (self.micro_batch_size * self.num_processes)


def to_json(value: Any) -> JSON:
    """The JSON object of any of the values above; fields at their empty default are left out."""
    return {
        f.name: _plain(item)
        for f in dataclasses.fields(value)
        if (item := getattr(value, f.name)) is not None and item != ()
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def prompt_from_json(value: Any) -> Prompt:
    return value if isinstance(value, str) else tuple(Message(**message) for message in value)


def sampling_from_json(value: JSON) -> SamplingParams:
    return SamplingParams(**{**value, "stop": tuple(value.get("stop", ()))})


def request_from_json(value: JSON) -> Request:
    sampling = value.get("sampling")
    return Request(
        id=value["id"],
        kind=value["kind"],
        prompt=prompt_from_json(value["prompt"]),
        choices=tuple(value.get("choices", ())),
        sampling=sampling_from_json(sampling) if sampling else None,
        layers=tuple(value.get("layers", ())),
        pooling=value.get("pooling"),
        top_tokens=value.get("top_tokens"),
    )


_TUPLES_OF_COMPLETIONS = ("choice_logprobs", "choice_greedy", "vectors")


def completion_from_json(value: JSON) -> Completion:
    tuples = {name: tuple(value[name]) for name in _TUPLES_OF_COMPLETIONS if name in value}
    if "top_tokens" in value:
        tuples["top_tokens"] = tuple((text, logprob) for text, logprob in value["top_tokens"])
    return Completion(**{**value, **tuples})


def run_from_json(value: JSON) -> Run:
    """Raises TypeError where the manifest has a field that this version does not know."""
    tuples = {name: tuple(value.get(name, ())) for name in ("argv", "flags")}
    return Run(**{**value, **tuples})


def recipe_from_json(value: JSON) -> Recipe:
    lora = value.get("lora")
    parts = {
        "optimizer": Optimizer(**value["optimizer"]),
        "lora": Lora(**{**lora, "targets": tuple(lora["targets"])}) if lora else None,
        "report_to": tuple(value.get("report_to", ())),
    }
    return Recipe(**{**value, **parts})
