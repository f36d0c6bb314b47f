"""One sweep as a run: planned, taken, measured, stored; it goes on where it stopped."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness import runs, store
from harness.embedded import labels
from harness.errors import BenchError, WorkerError
from harness.evaluate import Options, evaluate
from harness.plan import Plan, fingerprint, write_plan
from harness.provenance import provenance
from harness.score import write_measures
from harness.session import Listener, Silent
from harness.steering import analysis, vectors
from harness.steering.asking import Asking, Steer, Take, layer_mean
from harness.steering.planning import Experiment, SteerOptions, checked
from harness.steering.points import UNSTEERED, Point, points
from harness.steering.result import SWEEP, as_json, run_measures
from harness.types import JSON, Measure, Run, RunStatus

_RANDOM_SEED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """result: what `bench steer --json` prints; empty where the run did not end well."""

    run: Run
    result: JSON


def steer(
    pair: str,
    lambdas: str,
    options: SteerOptions | None = None,
    listener: Listener | None = None,
    **changes: Any,
) -> Swept:
    """Sweep the vector between the two checkpoints of a pair.

    Raises BenchError for what can be known before a model is started.
    """
    options = replace(options or SteerOptions(), **changes)
    home = runs.home_folder(options.home)
    plan = checked(pair, lambdas, options, home)
    with _opened(plan, home, listener or Silent()) as (run, lock):
        if run.status == "done":
            return Swept(run=run, result=read_result(home, run))
        done = _Work(plan, home, run, lock, listener or Silent()).finish()
    store.sync(home, say=(listener or Silent()).note)
    return done


def read_result(home: Path, run: Run) -> JSON:
    path = runs.folder_of(home, run.run_id) / SWEEP
    result: JSON = json.loads(path.read_text(encoding="utf-8"))
    return result


@contextmanager
def _opened(plan: Experiment, home: Path, listener: Listener) -> Iterator[tuple[Run, int]]:
    """The run: one that is done, one to go on with, or a new one; with its lock."""
    folder = runs.runs_folder(home)
    with runs.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        drafts = Path(tempfile.mkdtemp(prefix=".plan-", dir=folder))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, drafts, ignore_errors=True)
        requests = write_plan(plan.asked, drafts / "requests.jsonl")
        run = _new_run(plan, requests)
        for other in () if plan.options.fresh else runs.earlier(home, run):
            if other.status == "done":
                listener.note(f"done already: {other.run_id} (--fresh repeats it)")
                yield other, -1
                return
            if other.status in ("failed", "interrupted"):
                lock = runs.lock(runs.folder_of(home, other.run_id))
                if lock is not None:
                    stack.callback(os.close, lock)
                    listener.note(f"going on with {other.run_id}")
                    again = replace(other, status="running", cause=None, error=None)
                    yield runs.write_manifest(home, again), lock
                    return
        lock = runs.create(home, run, requests.path)
        stack.callback(os.close, lock)
        yield run, lock


def _new_run(plan: Experiment, requests: Plan) -> Run:
    pair, task, options, origin = plan.pair, plan.asked.task, plan.options, provenance()
    recipe: JSON = {
        "base": pair.base.name,
        "tuned": pair.tuned.name,
        "tuned_fingerprint": pair.tuned.fingerprint,
        "lambdas": plan.lambdas,
        "layers": plan.layers,
        "texts": [plan.texts.revision, len(plan.texts.lines)],
        "tasks": plan.others,
        **{
            name: getattr(options, name)
            for name in ("mode", "vector", "side", "vector_pooling", "norm", "controls", "seeds")
        },
    }
    parts = {**requests.parts, **recipe}
    return Run(
        run_id=runs.new_run_id("steer", pair.name, task.id),
        kind="steer",
        status="running",
        model=pair.name,
        model_path=pair.base.path,
        model_revision=pair.base.revision,
        model_fingerprint=pair.base.fingerprint,
        task=task.name,
        variant=task.variant,
        task_version=task.version,
        dataset=f"{task.dataset.path}/{task.dataset.config}/{task.dataset.split}",
        dataset_revision=requests.dataset_revision,
        protocol=fingerprint(parts),
        protocol_parts=parts,
        primary_metric="separation_difference",
        n_samples=requests.n_samples,
        limit_n=requests.limit_n,
        engine="hf",
        engine_settings=plan.settings,
        recipe=recipe,
        seed=task.embedding.seed if task.embedding else None,
        started_at=runs.now(),
        git_commit=origin.git_commit,
        git_dirty=origin.git_dirty,
        packages=origin.packages,
        argv=origin.argv,
        flags=("offline_sample",) if options.offline_sample else (),
        key=fingerprint(
            {
                "protocol": parts,
                "model": pair.base.fingerprint,
                "settings": plan.settings,
                "limit": options.limit,
            }
        ),
    )


class _Work:
    """A sweep in progress. What ends it early is written into the manifest; the same command then
    finds the activations that were taken in the cache."""

    def __init__(
        self, plan: Experiment, home: Path, run: Run, lock: int, listener: Listener
    ) -> None:
        self.plan, self.home, self.run, self.listener = plan, home, run, listener
        self.folder = runs.folder_of(home, run.run_id)
        self.place = home / "steering"
        self.asking = Asking(
            self.place / "activations", self.folder, plan.settings, (lock,), listener.progress
        )
        self.begun = time.monotonic()

    def finish(self) -> Swept:
        try:
            result = self._sweep()
        except KeyboardInterrupt:
            self._close("interrupted", WorkerError("interrupted by the user", cause="interrupted"))
            raise
        except BenchError as error:
            run = self._close("failed", error)
            hint = f"\nhint: {error.hint}" if error.hint else ""
            self.listener.note(f"error: {error.message}{hint}")
            return Swept(run=run, result={})
        return Swept(run=self._close("done", None, result), result=result)

    def _close(
        self, status: RunStatus, error: BenchError | None, result: JSON | None = None
    ) -> Run:
        cause = error.cause if isinstance(error, WorkerError) else "data" if error else None
        halted = cause in ("killed", "interrupted")
        info = self.asking.info
        return runs.write_manifest(
            self.home,
            replace(
                self.run,
                status="interrupted" if halted else status,
                cause=cause,
                error=error.message if error else None,
                finished_at=runs.now(),
                seconds=round(self.run.seconds + time.monotonic() - self.begun, 3),
                engine_version=info.get("engine_version", self.run.engine_version),
                dtype=info.get("dtype", self.run.dtype),
                device=info.get("device", self.run.device),
                gpus=info.get("gpus", self.run.gpus),
                packages={**self.run.packages, **info.get("packages", {})},
                engine_stats={"passes": self.asking.stats},
                prompt_tokens=self.run.prompt_tokens + self.asking.prompt_tokens,
                flags=tuple(dict.fromkeys([*self.run.flags, *(result or {}).get("flags", ())])),
            ),
        )

    def _sweep(self) -> JSON:
        plan, pair = self.plan, self.plan.pair
        preferences = Take(
            texts=plan.texts.lines,
            layers=plan.layers,
            pooling=plan.options.vector_pooling,
        )
        prompts = self._prompts()
        self.asking.take(pair.base, [preferences], plan.width)
        self.asking.take(pair.tuned, [preferences, prompts], plan.width)
        ours, theirs = (
            self.asking.read(spec, preferences, None, plan.width)
            for spec in (pair.base, pair.tuned)
        )
        vector = vectors.difference(ours, theirs, plan.options.vector)
        where = vectors.save(self.place / "vectors", vector, plan.layers)
        everything = list(points(plan.lambdas, plan.options.controls))
        read = self._take_points(everything, vector, where)
        tuned = layer_mean(self.asking.read(pair.tuned, prompts, None, plan.width))
        labelled = labels(plan.asked.samples)
        task = plan.asked.task
        assert task.embedding is not None
        found = analysis.sweep(everything, read, tuned, labelled, task.embedding.reduction)
        trend = analysis.evidence(found, plan.options.seeds)
        beside = self._others(where)
        result = as_json(
            self.run.run_id,
            found,
            trend,
            analysis.flags(found, trend, task.embedding.reduction),
            vector={
                "file": str(where),
                "cosine": float(vectors.cosines(ours, theirs).mean()),
                "norms": [float(norm) for norm in np.linalg.norm(vector, axis=1)],
                "layers": list(plan.layers),
            },
            tasks=beside,
        )
        write_measures(self.folder, tuple(run_measures(found, trend, beside)))
        text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
        runs.write_atomically(self.folder / SWEEP, text)
        self._draw(found, trend, result)
        return result

    def _prompts(self, steers: tuple[Steer | None, ...] = (None,)) -> Take:
        embedding = self.plan.asked.task.embedding
        assert embedding is not None
        return Take(
            texts=tuple(str(sample.input) for sample in self.plan.asked.samples),
            layers=self.plan.taken,
            pooling=embedding.pooling,
            steers=steers,
        )

    def _take_points(
        self, everything: Sequence[Point], vector: np.ndarray[Any, Any], where: Path
    ) -> analysis.Read:
        """What reads the activations under what is added; each is taken once, all in one pass."""
        keep = self.plan.options.norm == "keep"
        files = {"v": where}
        for name in dict.fromkeys(point.vector for point in everything if point.vector != "v"):
            seed = _RANDOM_SEED + int(name.partition("_")[2])
            drawn = vectors.random_like(vector, seed)
            files[name] = vectors.save(self.place / "vectors", drawn, self.plan.layers)
        steers: dict[tuple[str, float], Steer | None] = {
            point.added: None
            if point.added[0] == UNSTEERED
            else Steer(path=files[point.added[0]], strength=point.added[1], keep_norm=keep)
            for point in everything
        }
        take = self._prompts(tuple(steers.values()))
        base, width = self.plan.pair.base, self.plan.width
        self.asking.take(base, [take], width)
        return lambda added: layer_mean(self.asking.read(base, take, steers[added], width))

    def _others(self, vector: Path) -> dict[float, list[tuple[Run, list[Measure]]]]:
        """The other tasks at each lambda: what steering costs."""
        if not self.plan.others:
            return {}
        options = self.plan.options
        found: dict[float, list[tuple[Run, list[Measure]]]] = {}
        for strength in self.plan.lambdas:
            steered = {
                "steer": str(vector),
                "steer_lambda": repr(strength),
                "steer_norm": options.norm,
            }
            finished = evaluate(
                [self.plan.pair.base.name],
                self.plan.others,
                Options(
                    engine="hf",
                    limit=options.limit,
                    fresh=options.fresh,
                    offline_sample=options.offline_sample,
                    settings={**options.settings, **(steered if strength else {})},
                    data_root=options.data_root,
                    home=options.home,
                ),
                listener=self.listener,
            )
            found[strength] = [(run, _measures(self.home, run)) for run in finished]
        return found

    def _draw(self, found: analysis.Sweep, trend: Any, result: JSON) -> None:
        try:
            from harness.steering.drawing import draw
        except ImportError as error:
            hint = "`pip install 'tunebench[steer]'`"
            self.listener.note(f"nothing is drawn: {error} ({hint})")
            return
        path = self.folder / "sweep.html"
        runs.write_atomically(path, draw(self.plan.pair.name, found, trend, result))
        self.listener.note(f"drawn: {path}")


def _measures(home: Path, run: Run) -> list[Measure]:
    if run.status != "done":
        return []
    path = runs.folder_of(home, run.run_id) / runs.MEASURES
    return [Measure(**value) for value in json.loads(path.read_text(encoding="utf-8"))]
