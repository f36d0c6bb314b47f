"""Which device each worker trains on, and which it evaluates on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Names of GPUs, as CUDA_VISIBLE_DEVICES has them; '' for what is visible anyway, or the CPU.

    beside: whether a trial goes on learning while one of its points is evaluated.
    """

    train: str = ""
    evaluate: str = ""

    @property
    def beside(self) -> bool:
        return self.train != self.evaluate

    def variables(self, gpu: str) -> dict[str, str | None]:
        return {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}


def places(workers: int, gpus: list[str], processes: int = 1) -> list[Place]:
    """A place for each worker: two GPUs where there are enough, else one, else what there is.

    processes: that a trial trains with; several of them take the GPUs that are visible, and one
    that a worker has to itself would be too few.
    """
    if processes > 1 or len(gpus) < max(workers, 2):
        return [Place() for _ in range(workers)]
    if len(gpus) >= 2 * workers:
        return [Place(train=gpus[2 * i], evaluate=gpus[2 * i + 1]) for i in range(workers)]
    return [Place(train=gpus[i], evaluate=gpus[i]) for i in range(workers)]
