"""What only a GPU can show; skipped without one."""

from __future__ import annotations

import argparse

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_speed_on_a_gpu_can_be_measured() -> None:
    from benchmarks.gpu_engines import measure

    options = argparse.Namespace(models="tiny", prompts=16, prompt_words=2, max_tokens=8)
    figures = measure(options)
    assert figures["tiny"]["read_tokens_per_s"] > 0
    assert 0 < figures["tiny"]["share_of_bandwidth"] < 1
