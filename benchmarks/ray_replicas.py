"""What two replicas on a Ray cluster cost beside one engine.

    python -m benchmarks.ray_replicas

Every question takes 20 ms of waiting, so that only the harness can make a difference on a machine
of two cores: 1,200 of them with one engine, then with two replicas of it. Answers must be the
same; the overhead is what two replicas take beyond half of the time of one. Starting the cluster
and the replicas is shown apart.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.record import record
from harness.engines.worker import make_engine
from harness.types import ModelSpec, Request, SamplingParams

QUESTIONS, DELAY_S = 1200, 0.02
MODEL = ModelSpec(name="m", path="m")


def asked() -> list[Request]:
    return [
        Request(
            id=f"q{n}",
            kind="generate",
            prompt=f"Subject {n % 6}. Question {n}?",
            sampling=SamplingParams(seed=n),
        )
        for n in range(QUESTIONS)
    ]


def answered(**settings: Any) -> tuple[float, float, dict[str, str]]:
    """Seconds to load and to answer, and the answers."""
    engine = make_engine("mock", MODEL, {"delay_s": DELAY_S, **settings})
    requests = asked()
    engine.tokenize(requests)
    began = time.perf_counter()
    engine.load()
    loaded = time.perf_counter()
    texts = {completion.request_id: completion.text for completion in engine.run(requests)}
    return loaded - began, time.perf_counter() - loaded, texts


def main() -> None:
    _, one_s, one = answered()
    start_s, two_s, two = answered(replicas=2, ray_address="local")
    assert one == two, "two replicas answer otherwise than one"
    figures = {
        "questions": QUESTIONS,
        "one_engine_s": round(one_s, 2),
        "two_replicas_s": round(two_s, 2),
        "overhead": round(two_s / (one_s / 2) - 1, 4),
        "start_of_cluster_and_replicas_s": round(start_s, 2),
    }
    record("ray_replicas", figures)


if __name__ == "__main__":
    main()
