from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, to be filled up."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)
