"""Replicas on a real Ray cluster of several nodes, on one machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import runs
from harness.errors import UsageError, WorkerError
from harness.evaluate import evaluate
from harness.infer import Job, infer
from harness.models import model
from harness.types import JSON, Completion, Request, SamplingParams, to_json

psutil = pytest.importorskip("psutil")
pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": 2**27, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for `fatal_answers`
        made = Cluster(initialize_head=True, head_node_args=head)
        made.add_node(num_cpus=1, object_store_memory=2**27)
        yield made
        made.shutdown()


def ask(folder: Path, engine: str, requests: Sequence[Request], **settings: Any) -> Iterator[JSON]:
    folder.mkdir(exist_ok=True)
    lines = (json.dumps(to_json(request)) + "\n" for request in requests)
    (folder / runs.REQUESTS).write_text("".join(lines))
    spec = model("Tiny/instruct", folder)
    job = Job(model=spec, engine=engine, settings=settings, runs=((folder, "t"),))
    yield from infer(job, log=folder / "log")


def answers(folder: Path) -> list[Completion]:
    found = runs.read_completions(folder)
    return sorted(found, key=lambda one: (one.request_id, one.index))


def replicas_of(node: Any) -> list[Any]:
    """Processes of our actors on a node."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [
        child
        for child in raylet.children(recursive=True)
        if "ray::Replica" in " ".join(child.cmdline())
    ]


@pytest.mark.slow
def test_replicas_and_nodes_may_come_and_go_and_every_answer_comes_once(
    cluster: Any, tmp_path: Path
) -> None:
    sampling = SamplingParams(n=2, temperature=1.0)
    asked = [
        Request(id=f"q{i:03}", kind="generate", prompt=f"What is {i}?", sampling=sampling)
        for i in range(400)
    ]
    for _ in ask(tmp_path / "one", "mock", asked):
        pass
    stats: JSON = {}
    steps = iter(range(3))
    step = next(steps)
    for event in ask(
        tmp_path / "two", "mock", asked, delay_s=0.02, replicas=2, ray_address=cluster.address
    ):
        done = event.get("done", 0)
        if step == 0 and done > 100:  # a replica dies
            killed = [child for node in cluster.list_all_nodes() for child in replicas_of(node)]
            killed[0].kill()
            step = next(steps)
        elif step == 1 and done > 250:  # a node joins, and one with a replica leaves
            (leaving,) = cluster.worker_nodes
            cluster.add_node(num_cpus=1, object_store_memory=2**27)
            cluster.remove_node(leaving, allow_graceful=False)
            step = next(steps)
        stats = event.get("stats", stats)
    assert step == 2
    assert [(one.request_id, one.index, one.text) for one in answers(tmp_path / "two")] == [
        (one.request_id, one.index, one.text) for one in answers(tmp_path / "one")
    ]
    assert stats["replicas"] == 2
    assert stats["deaths"] >= 2


@pytest.mark.slow
def test_two_replicas_answer_as_one_engine_does(cluster: Any, tmp_path: Path) -> None:
    from harness.questions import questions
    from harness.registry import task

    asked = [
        request
        for name in ("arithmetic", "mmlu")
        for request in questions(task(name), offline=True, limit=8, shots=1).requests()
    ]
    for _ in ask(tmp_path / "one", "hf", asked, dtype="float32"):
        pass
    two = {"replicas": 2, "ray_address": cluster.address}
    for _ in ask(tmp_path / "two", "hf", asked, dtype="float32", **two):
        pass
    for one, other in zip(answers(tmp_path / "one"), answers(tmp_path / "two"), strict=True):
        assert (other.request_id, other.text) == (one.request_id, one.text)
        assert other.finish_reason == one.finish_reason
        assert other.choice_logprobs == pytest.approx(one.choice_logprobs, abs=1e-4)
        assert other.choice_greedy == one.choice_greedy


@pytest.mark.slow
def test_a_request_that_ends_every_replica_ends_the_run_and_keeps_the_rest(
    cluster: Any, tmp_path: Path
) -> None:
    asked = [Request(id=f"q{i:03}", kind="generate", prompt=f"{i}") for i in range(40)]
    two = {"replicas": 2, "ray_address": cluster.address}
    with pytest.raises(WorkerError, match="replicas ended early over") as caught:
        for _ in ask(tmp_path / "a", "mock", asked, answers="fatal_answers:deadly", **two):
            pass
    assert caught.value.cause == "killed"


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    asked = [Request(id="q", kind="generate", prompt="1")]
    with pytest.raises(WorkerError, match=r"the Ray cluster at `127\.0\.0\.1:9`") as caught:
        for _ in ask(tmp_path / "a", "mock", asked, replicas=2, ray_address="127.0.0.1:9"):
            pass
    assert caught.value.cause == "server_unreachable"


def test_engines_without_replicas_refuse_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown setting `replicas` for engine `openai`"):
        evaluate(
            "m",
            "arithmetic",
            engine="openai",
            settings={"base_url": "http://h"},
            replicas=2,
            home=tmp_path,
        )
    with pytest.raises(UsageError, match="`replicas=-1` is too little"):
        evaluate("Tiny", "arithmetic", replicas=-1, home=tmp_path)
