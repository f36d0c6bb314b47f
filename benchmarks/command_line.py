"""Start-up time of the command line, and its memory while a whole MMLU runs.

    python -m benchmarks.command_line --data-root DIR

Targets: `bench --help` under 150 ms; at most 300 MB in the process of the command line.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import record

HELP_REPEATS = 15


def help_seconds() -> float:
    """The best of several starts: other work on the machine only ever adds."""
    times = []
    for _ in range(HELP_REPEATS):
        started = time.perf_counter()
        subprocess.run([_bench(), "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)


def bare_python_seconds() -> float:
    started = time.perf_counter()
    for _ in range(HELP_REPEATS):
        subprocess.run([sys.executable, "-c", "pass"], check=True)
    return (time.perf_counter() - started) / HELP_REPEATS


def peak_mib_of_mmlu(data_root: Path, model: str, engine: str) -> tuple[float, float]:
    """(peak MiB of the command-line process alone, seconds) of a whole MMLU run."""
    with tempfile.TemporaryDirectory() as home:
        command = [_bench(), "eval", "--model", model, "--tasks", "mmlu", "--engine", engine]
        command += ["--data-root", str(data_root), "--home", home]
        started = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        peak = 0.0
        while child.poll() is None:
            peak = max(peak, _own_peak_mib(child.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - started
    if child.returncode != 0:
        raise SystemExit(f"bench eval ended with {child.returncode}")
    return peak, seconds


def _own_peak_mib(pid: int) -> float:
    """The high-water mark so far; rusage would count the worker that the process waited for."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0


def _bench() -> str:
    return str(Path(sys.executable).parent / "bench")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("BENCH_DATA_ROOT"))
    parser.add_argument("--model", default="Tiny/base")
    parser.add_argument("--engine", default="hf")
    arguments = parser.parse_args()
    figures = {
        "help_ms": round(help_seconds() * 1000, 1),
        "bare_python_ms": round(bare_python_seconds() * 1000, 1),
    }
    if arguments.data_root:
        peak, seconds = peak_mib_of_mmlu(arguments.data_root, arguments.model, arguments.engine)
        figures |= {"mmlu_peak_mib": round(peak, 1), "mmlu_seconds": round(seconds, 1)}
    record("command_line", figures)


if __name__ == "__main__":
    main()
