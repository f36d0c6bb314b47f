"""Which engine `--engine auto` takes: asked of files and modules, with nothing heavy imported."""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import subprocess
from pathlib import Path

from harness.checkpoints import check_weights, read_header
from harness.types import ModelSpec

LARGE = 1_000_000_000  # parameters from which on vLLM is worth its start on a CPU
_DEVICES = Path("/dev")


def automatic(spec: ModelSpec, python: str = "") -> str:
    """vllm where it is installed and either a GPU is there or the model is large; else hf.

    python: interpreter of the worker, '' for this one.
    """
    if not has_vllm(python):
        return "hf"
    return "vllm" if has_gpu() or parameters(spec) > LARGE else "hf"


@functools.cache
def has_vllm(python: str = "") -> bool:
    """The module, not its distribution: the CPU build goes by another name."""
    if not python:
        return importlib.util.find_spec("vllm") is not None
    program = "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"
    try:
        return subprocess.run([python, "-c", program], check=False).returncode == 0
    except OSError:
        return False


def has_gpu(devices: Path = _DEVICES) -> bool:
    """Whether a GPU is there that may be used."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return False
    return any(devices.glob("nvidia[0-9]*")) or (devices / "kfd").exists()


def parameters(spec: ModelSpec) -> int:
    """Numbers in the checkpoint, 0 where it is not on this machine or cannot be read."""
    folder = Path(spec.path)
    if not os.path.isabs(spec.path) or check_weights(folder).level == "bad":
        return 0
    return sum(_numbers(file) for file in folder.glob("*.safetensors"))


def _numbers(file: Path) -> int:
    tensors, _ = read_header(file)
    return sum(math.prod(tensor["shape"]) for tensor in tensors.values())
