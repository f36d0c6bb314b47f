from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The real benchmarks, laid out like the hub; tests that need them skip where they are not."""
    root = Path(os.environ.get("BENCH_DATA_ROOT", REPOSITORY.parent / "shared" / "hub"))
    if not (root / "openai" / "gsm8k").is_dir():
        pytest.skip(
            f"no benchmarks at {root}: set BENCH_DATA_ROOT to a folder laid out like the hub"
        )
    return root
