"""The processes of a training: what starts them, how far they are, and why they ended.

`single` is one process; the other launchers are torchrun's workers, one for each GPU (or, with
`device: cpu`, as many as the recipe says), on one machine or on several that meet at an address.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import WorkerError
from harness.launch import ended_on_exit, explain, start
from harness.runs import WORKER_LOG, mend_tail
from harness.trainer import CHECK, EVALUATE, FAILURE, START, STEPS, WATCHED
from harness.types import JSON, Recipe

TORCHRUN = "torch.distributed.run"
POLL_S = 0.5
LOOK_S = 0.02
VISIBLE = "CUDA_VISIBLE_DEVICES"

Tell = Callable[[JSON], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """This machine among several. rank: from 0; the first one's run folder is everybody's, on a
    file system that all see."""

    rank: int = 0
    address: str = "127.0.0.1"
    port: int = 29500


def gpu_count() -> int:
    """GPUs that a trainer would see."""
    return len(visible_gpus())


def visible_gpus() -> list[str]:
    """As CUDA names them: nvidia-smi's, or those that CUDA_VISIBLE_DEVICES leaves."""
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    try:
        done = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i in range(sum(x.startswith("GPU ") for x in done.stdout.splitlines()))]


def own_gpus(recipe: Recipe) -> list[str]:
    """Those that the processes of this machine train on: the first ones."""
    if recipe.device == "cpu":
        return []
    return visible_gpus()[: recipe.num_processes // recipe.num_machines]


def on_cpu(recipe: Recipe) -> bool:
    """Whether its processes see no GPU."""
    return recipe.device == "cpu" or gpu_count() == 0


def command(recipe: Recipe, folder: Path, meeting: Meeting) -> tuple[str, list[str]]:
    """Module and arguments that start all processes of this machine."""
    module = f"trainers.{recipe.method}"
    if recipe.launcher == "single":
        return module, [str(folder)]
    here = recipe.num_processes // recipe.num_machines
    if recipe.num_machines == 1:
        place = ["--standalone", "--nnodes=1"]
    else:
        place = [
            f"--nnodes={recipe.num_machines}",
            f"--node-rank={meeting.rank}",
            f"--master-addr={meeting.address}",
            f"--master-port={meeting.port}",
        ]
    return TORCHRUN, [*place, f"--nproc-per-node={here}", "-m", module, str(folder)]


def variables(recipe: Recipe) -> dict[str, str | None]:
    """Of the environment: DeepSpeed on a CPU must be told, and must not look for a compiler; TRL
    would report each training to its makers."""
    given: dict[str, str | None] = {
        WATCHED: "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    cpu = on_cpu(recipe)
    if cpu:
        given |= {"DS_ACCELERATOR": "cpu", "CUDA_HOME": None, VISIBLE: ""}
        # Left to itself, accelerate numbers CPUs as it does GPUs, and torch knows no place
        # `cpu:0` to read an optimiser back to.
        given |= {"ACCELERATE_TORCH_DEVICE": "cpu"}
    if recipe.launcher != "single" and cpu:
        given |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return given


def check(recipe: Recipe, folder: Path) -> JSON:
    """What `trainers.checking` finds. Raises WorkerError where the training cannot begin."""
    log = folder / WORKER_LOG
    child = _started("trainers.checking", [str(folder)], log, variables(recipe))
    with ended_on_exit(child):
        status = child.wait()
    if status != 0:
        raise failure(folder, status, "the check of the recipe", log)
    found: JSON = json.loads((folder / CHECK).read_text(encoding="utf-8"))
    return found


def train(
    recipe: Recipe,
    folder: Path,
    meeting: Meeting,
    *,
    hold: Sequence[int],
    tell: Tell,
    look: Callable[[], None] | None = None,
) -> None:
    """Run the training to its end; steps are told as they come. Raises WorkerError.

    look: called again and again meanwhile, often where it is given.
    Machines after the first have a log of their own and leave the other files to it.
    """
    module, arguments = command(recipe, folder, meeting)
    log = folder / (f"worker-{meeting.rank}.log" if meeting.rank else WORKER_LOG)
    if meeting.rank == 0:
        for old in folder.glob(FAILURE.format(rank="*")):
            old.unlink()
        mend_tail(folder / STEPS)
        _merge(recipe, folder)
    steps = StepReader(folder)
    since = log.stat().st_size if log.exists() else 0
    given = variables(recipe)
    if not on_cpu(recipe) and _leaves_a_gpu(folder):
        given[VISIBLE] = ",".join(own_gpus(recipe))
    child = _started(module, arguments, log, given, hold)
    with ended_on_exit(child):
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL_S if look is None else LOOK_S)
            for step in steps.new():
                tell(step)
            if look is not None:
                look()
            if child.returncode is not None:
                break
    if child.returncode != 0:
        raise failure(folder, child.returncode, "the training", log, since)


def _merge(recipe: Recipe, folder: Path) -> None:
    """Make whole weights of a model that is an adapter. Raises WorkerError."""
    if recipe.adapter is None or (folder / START).is_dir():
        return
    log = folder / WORKER_LOG
    since = log.stat().st_size if log.exists() else 0
    child = _started("trainers.merging", [str(folder)], log, variables(recipe))
    with ended_on_exit(child):
        status = child.wait()
    if status != 0:
        raise failure(folder, status, "the merge of the adapter", log, since)


def _leaves_a_gpu(folder: Path) -> bool:
    """Whether checkpoints are evaluated beside the training, on a GPU that it must not take."""
    try:
        order = json.loads((folder / EVALUATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return bool(order["steps"]) and not order["wait"]


def _started(
    module: str,
    arguments: Sequence[str],
    log: Path,
    given: dict[str, str | None],
    hold: Sequence[int] = (),
) -> subprocess.Popen[str]:
    return start(module, arguments, log=log, hold=hold, talks=False, variables=given)


def failure(folder: Path, status: int, what: str, log: Path, since: int = 0) -> WorkerError:
    """Why processes ended: what they told, else what their exit status and their log say."""
    for path in sorted(folder.glob(FAILURE.format(rank="*"))):
        told = json.loads(path.read_text(encoding="utf-8"))
        return WorkerError(told["message"], told["hint"], cause=told["cause"])
    ending = explain(status, log, since)
    return WorkerError(
        f"{what} ended early: {ending.message}",
        f"the whole log is in {log}; the same command goes on from the last checkpoint",
        cause=ending.cause or "worker_error",
    )


class StepReader:
    """Reads steps.jsonl while it grows; a trainer that goes on may have made it shorter."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / STEPS
        self.position = 0

    def new(self) -> list[JSON]:
        """One mapping for each step that came since: {"step", measure: value, …}."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self.position:
                    self.position = 0
                file.seek(self.position)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.position += len(whole)
        return merged(json.loads(line) for line in whole.splitlines())


def merged(lines: Iterable[JSON]) -> list[JSON]:
    """The measures of each step together, in order of steps."""
    steps: dict[int, JSON] = {}
    for line in lines:
        steps.setdefault(line["step"], {"step": line["step"]})[line["metric"]] = line["value"]
    return list(steps.values())
