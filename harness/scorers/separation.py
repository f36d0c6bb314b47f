"""Tasks of kind `embed` have no grade for a single prompt: `harness.embedded` measures them all."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.types import Completion, Sample, Score


@dataclass(frozen=True, slots=True)
class Separation:
    name: str = "separation"
    version: int = 1
    metric: str = "separation"

    def __call__(self, sample: Sample, completion: Completion) -> Score:
        return Score(value=math.nan, answer=None, grader=self.name, version=self.version)


SEPARATION = Separation()
