"""What on this machine would stop a run, or make one slower or different."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import packages
from harness.errors import BenchError
from harness.finding import Finding, Level

LOW_DISK_GB, NO_DISK_GB = 20.0, 1.0
LOW_MEMORY_GB = 4.0
OLDEST_PYTHON = (3, 11)
NVIDIA_SMI_TIMEOUT_S = 5.0

_CGROUP = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def diagnose(home: Path) -> Iterator[Finding]:
    """Every finding about this machine and about `home`; starts no model and asks no hub."""
    yield check_python()
    yield from packages.diagnose()
    yield check_script()
    yield from check_gpus()
    yield check_memory()
    yield check_home(home)
    yield check_disk(home, shutil.disk_usage(_nearest(home)).free / 1e9)
    yield check_database(home)
    yield from check_models(home)
    yield check_data_root(os.environ.get("BENCH_DATA_ROOT"))
    yield from check_hub()


def check_python() -> Finding:
    text = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info >= OLDEST_PYTHON:
        return Finding(check="python", level="ok", text=text)
    wanted = ".".join(map(str, OLDEST_PYTHON))
    return Finding(
        check="python", level="bad", text=text, hint=f"make an environment with python {wanted}"
    )


def check_script() -> Finding:
    """Whether typing `bench` starts this program: another package ships a script of that name."""
    from importlib.metadata import entry_points

    scripts = entry_points(group="console_scripts", name="bench")
    others = sorted({s.dist.name for s in scripts if s.dist and s.dist.name != "tunebench"})
    found = shutil.which("bench")
    own = Path(sysconfig.get_path("scripts"))
    level: Level = "warn"
    hint = "type `tunebench` instead of `bench`"
    if found is None:
        text, hint = "`bench` is not on PATH", f"`export PATH={own}:$PATH`, or type `{own}/bench`"
    elif b"harness.cli" not in Path(found).read_bytes()[:4096]:
        text = f"`bench` is {found}, another program"
    elif others:
        text = f"{', '.join(others)} installs a `bench` too: which one stays is a matter of order"
    elif Path(found).parent.resolve() != own.resolve():
        text = f"`bench` is {found}, of another environment than {sys.prefix}"
        hint = f"`export PATH={own}:$PATH`, or type `{own}/bench`"
    else:
        level, text, hint = "ok", f"`bench` is {found}", ""
    return Finding(check="script", level=level, text=text, hint=hint)


def check_gpus() -> Iterator[Finding]:
    """One finding per GPU, from nvidia-smi: torch would take seconds to load."""
    fields = "name,memory.total,memory.free,driver_version"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        text = "no NVIDIA GPU: models run on the CPU"
        yield Finding(check="gpu", level="ok", text=text)
        return
    except (OSError, subprocess.TimeoutExpired):
        text = "nvidia-smi does not answer"
        yield Finding(check="gpu", level="warn", text=text, hint="look at `dmesg`; reboot may help")
        return
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.count(", ") == 3]
    if done.returncode != 0 or not rows:
        said = (done.stdout + done.stderr).strip().partition("\n")[0] or "it names no GPU"
        yield Finding(check="gpu", level="warn", text=f"nvidia-smi: {said}", hint="`nvidia-smi`")
        return
    yield from (_gpu(*row) for row in rows)


def _gpu(name: str, total: str, free: str, driver: str) -> Finding:
    if not (total.isdecimal() and free.isdecimal()):  # a partitioned GPU does not say
        return Finding(check="gpu", level="ok", text=f"{name}, driver {driver}")
    text = f"{name}, {int(free) / 1024:.1f} of {int(total) / 1024:.1f} GiB free, driver {driver}"
    if int(free) * 10 >= int(total):
        return Finding(check="gpu", level="ok", text=text)
    hint = "another process holds its memory: `nvidia-smi` names it"
    return Finding(check="gpu", level="warn", text=text, hint=hint)


def check_memory(proc: Path = _PROC, cgroup: Path = _CGROUP) -> Finding:
    """Memory that may be used: of the machine, or of the container where that is less."""
    cpus = len(os.sched_getaffinity(0))
    available = min([_machine_bytes(proc), *_container_bytes(cgroup)]) / 1e9
    text = f"{available:.1f} GB free, {cpus} CPUs"
    if available >= LOW_MEMORY_GB:
        return Finding(check="memory", level="ok", text=text)
    hint = "a model needs twice its size in billions of parameters, in GB (bfloat16)"
    return Finding(check="memory", level="warn", text=text, hint=hint)


def _machine_bytes(proc: Path) -> float:
    for line in (proc / "meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024.0
    return float("inf")


def _container_bytes(cgroup: Path) -> list[float]:
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        counts = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        cached = int(counts.get("inactive_file", 0))  # counted as used, given back when wanted
    except (OSError, ValueError):
        return []
    return [float(int(limit) - used + cached)] if limit.isdecimal() else []


def check_home(home: Path) -> Finding:
    """Whether files can be made in `home`, or it in the nearest folder that is there."""
    folder = _nearest(home)
    text = f"{home} can be written" if folder == home else f"{home}: the first run makes it"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Finding(check="home", level="ok", text=text)
    except OSError as error:
        text = f"`{folder}` cannot be written: {error.strerror}"
        hint = "set BENCH_HOME to a folder of your own"
        return Finding(check="home", level="bad", text=text, hint=hint)


def _nearest(home: Path) -> Path:
    """What is there of the path; a file in the way is no folder to write into."""
    return next(path for path in (home, *home.parents) if path.exists())


def check_disk(home: Path, free_gb: float) -> Finding:
    text = f"{free_gb:.1f} GB free at {home}"
    if free_gb >= LOW_DISK_GB:
        return Finding(check="disk", level="ok", text=text)
    level: Level = "warn" if free_gb >= NO_DISK_GB else "bad"
    hint = "a checkpoint of 8B parameters takes 16 GB; delete old ones, or set BENCH_HOME"
    return Finding(check="disk", level=level, text=text, hint=hint)


def check_database(home: Path) -> Finding:
    """Whether the history opens; one of another version is built anew by opening it."""
    from harness import store

    path = store.database(home)
    if not path.exists():
        return Finding(check="history", level="ok", text="none yet: the first run makes it")
    try:
        with store.connect(home, read_only=True) as connection:
            (count,) = connection.execute("SELECT count(*) FROM runs").fetchone() or (0,)
    except BenchError as error:
        hint = error.hint or "`bench runs rebuild` makes it anew from the run folders"
        return Finding(check="history", level="bad", text=error.message, hint=hint)
    return Finding(check="history", level="ok", text=f"{path} holds {count} run(s)")


def check_models(home: Path) -> Iterator[Finding]:
    """The registry, and the pair that ships with the project."""
    from harness import models
    from harness.model_check import check

    try:
        book = models.entries(home)
        tiny = [models.model(f"Tiny/{member}", home) for member in models.MEMBERS]
    except BenchError as error:
        yield Finding(check="models", level="bad", text=error.message, hint=error.hint)
        return
    files = sorted({str(found.file) for found in book.values()})
    text = f"{len(book)} in {' and '.join(files)}"
    yield Finding(check="models", level="ok", text=text)
    wrong = [found for spec in tiny for found in check(spec, home) if found.level == "bad"]
    if wrong:
        text = f"the shipped pair is not whole: {wrong[0].text}"
        hint = "`pip install --force-reinstall tunebench`"
        yield Finding(check="Tiny", level="bad", text=text, hint=hint)


def check_data_root(root: str | None) -> Finding:
    """Which datasets of the known tasks lie in the data root."""
    if not root:
        text = "BENCH_DATA_ROOT is not set: datasets come from the hub"
        return Finding(check="data root", level="ok", text=text)
    if not Path(root).is_dir():
        text = f"BENCH_DATA_ROOT is `{root}`, which is not a folder"
        return Finding(check="data root", level="bad", text=text, hint="`unset BENCH_DATA_ROOT`")
    known = _known_datasets()
    lacking = sorted(name for name in known if not (Path(root) / name).is_dir())
    text = f"{root} has {len(known) - len(lacking)} of {len(known)} datasets"
    if not lacking:
        return Finding(check="data root", level="ok", text=text)
    hint = f"put there, or they come from the hub: {', '.join(lacking)}"
    return Finding(check="data root", level="warn", text=text, hint=hint)


def _known_datasets() -> set[str]:
    from harness.registry import all_tasks

    paths = {task.dataset.path for task in all_tasks()}
    return {path for path in paths if path.count("/") == 1}


def check_hub() -> Iterator[Finding]:
    from harness.models import hub_cache

    cache = hub_cache()
    kept = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    yield Finding(check="hub cache", level="ok", text=f"{cache} has {kept} model(s)")
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    flags = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
    if flags:
        text = f"{', '.join(flags)}: nothing is downloaded"
        yield Finding(check="hub", level="ok", text=text)
