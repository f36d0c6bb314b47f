"""How far `bench estimate` is from training times that were reported.

    python -m benchmarks.estimate_error

The lengths of the data are assumptions (they were not reported): PKU-SafeRLHF 190 tokens a row,
Tulu's SFT mixture 450, its preference mixture 600 an answer. All models are Llama-3.1-8B.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.record import record
from harness.estimate import USUAL_EFFICIENCY, Speed, Workload, estimate, gpus
from harness.footprint import Shape
from harness.types import Lora, Optimizer, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A training whose time somebody reported. measured: False for a plan's own estimate."""

    name: str
    recipe: Recipe
    shape: Shape
    work: Workload
    gpu: str
    hours: float
    measured: bool


def reference_errors(references: Sequence[Reference]) -> list[tuple[Reference, float]]:
    """Each with the hours that we would have estimated."""
    speed = Speed(efficiency=USUAL_EFFICIENCY, source="")
    found = []
    for one in references:
        (cards,) = gpus(one.gpu)
        hours = estimate(one.recipe, one.shape, one.work, cards, speed).hours
        found.append((one, hours or 0.0))
    return found


LLAMA = Shape(layers=32, hidden=4096, intermediate=14336, vocabulary=128256, kv_share=0.25)
LORA = Lora(rank=16)


def recipe(method: str, **changes: Any) -> Recipe:
    fields: dict[str, Any] = {
        "model": "Llama3_8B/base",
        "model_path": "meta-llama/Llama-3.1-8B",
        "optimizer": Optimizer(learning_rate=1e-5),
        "gradient_checkpointing": True,
        "epochs": 1.0,
        "max_length": 4096,
    }
    return Recipe(method=method, **{**fields, **changes})


def work(examples: int, tokens: int) -> Workload:
    return Workload(examples=examples, tokens=tokens, source="assumed")


REFERENCES = (
    Reference(
        name="PKU 12K, SFT with LoRA",
        recipe=recipe("sft", lora=LORA),
        shape=LLAMA,
        work=work(12_000, 190),
        gpu="A40-48GB",
        hours=40 / 60,
        measured=True,
    ),
    Reference(
        name="PKU 12K, DPO with LoRA",
        recipe=recipe("dpo", lora=LORA),
        shape=LLAMA,
        work=work(12_000, 190),
        gpu="A40-48GB",
        hours=2.2,
        measured=True,
    ),
    Reference(
        name="Tulu 939K, SFT, 2 epochs",
        recipe=recipe("sft", epochs=2.0, launcher="zero3"),
        shape=LLAMA,
        work=work(939_344, 450),
        gpu="A100-80GB×8",
        hours=8.0,
        measured=False,
    ),
    Reference(
        name="Tulu 10 %, SFT, 2 epochs",
        recipe=recipe("sft", epochs=2.0, launcher="zero3"),
        shape=LLAMA,
        work=work(93_934, 450),
        gpu="A100-80GB×8",
        hours=5 + 11 / 60,
        measured=True,
    ),
    Reference(
        name="Tulu 10 %, DPO, 844 steps of 32",
        recipe=recipe("dpo_norm", launcher="zero3"),
        shape=LLAMA,
        work=work(844 * 32, 600),
        gpu="A100-80GB×2",
        hours=3 + 5 / 60,
        measured=True,
    ),
)


def main() -> None:
    rows = [
        {
            "run": one.name,
            "gpu": one.gpu,
            "reported_hours": round(one.hours, 2),
            "measured": one.measured,
            "estimated_hours": round(hours, 2),
            "ratio": round(hours / one.hours, 2),
        }
        for one, hours in reference_errors(REFERENCES)
    ]
    logs = [abs(math.log(hours / one.hours)) for one, hours in reference_errors(REFERENCES)]
    spread = {
        "typical_factor": math.exp(sum(logs) / len(logs)),
        "largest_factor": math.exp(max(logs)),
    }
    record("estimate_error", {"runs": rows, **{name: round(v, 2) for name, v in spread.items()}})


if __name__ == "__main__":
    main()
