"""Scoring of tasks of kind `embed`: saved activations become indices of safe and unsafe prompts.

Needs no model. Prompts have no grade of their own: only all of them together do.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.geometry.distances import Points
from harness.geometry.measuring import Labelled, Portrait, flags_of, measures, portrait
from harness.geometry.reduction import is_fixed, reduction, tsne
from harness.score import Graded, Tally, answers, prompt_text, write_measures
from harness.store import write_samples
from harness.task import Embedding, Task
from harness.types import JSON, Completion, Sample


def score_embedded(folder: Path, task: Task) -> Graded:
    """Measure the completions of a run folder; writes samples and measures.

    Raises StoreError where a request has no completion.
    """
    embedding = task.embedding
    assert embedding is not None
    reading = _Reading(Tally(), [], [])
    write_samples(folder, reading.rows(folder))
    labelled = labels(reading.samples)
    found = measured(np.stack(reading.vectors), labelled, embedding)
    everything = tuple(measures(found))
    write_measures(folder, everything)
    return replace(reading.tally.graded(everything), flags=flags_of(found))


def labels(samples: Sequence[Sample]) -> Labelled:
    return Labelled(
        safe=np.array([sample.target == "safe" for sample in samples]),
        groups=tuple(sample.group for sample in samples),
    )


def measured(activations: Points, labelled: Labelled, embedding: Embedding) -> Portrait:
    """activations: (prompts, width)."""
    if not is_fixed(embedding.reduction):
        keys = labelled.keys().items()
        return portrait({key: tsne(activations[places]) for key, places in keys}, labelled)
    return portrait(reduction(embedding.reduction, activations)(activations), labelled)


def vector_of(completion: Completion) -> Points:
    """(width,): the mean over the wanted layers."""
    layers = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in completion.vectors]
    return np.asarray(np.mean(layers, axis=0, dtype=float))


@dataclass(frozen=True, slots=True)
class _Reading:
    """Samples and vectors, kept while the rows stream by."""

    tally: Tally
    samples: list[Sample]
    vectors: list[Points]

    def rows(self, folder: Path) -> Iterator[JSON]:
        for request, sample, completion in answers(folder):
            self.tally.add(completion)
            self.samples.append(sample)
            self.vectors.append(vector_of(completion))
            yield _row(request, sample, completion)


def _row(request: JSON, sample: Sample, completion: Completion) -> JSON:
    return {
        "sample_id": sample.id,
        "sample_index": completion.index,
        "group_name": sample.group,
        "prompt": completion.prompt or prompt_text(request),
        "output": "",
        "target": sample.target,
        "answer": None,
        "score": None,
        "parsed": True,
        "truncated": completion.finish_reason == "length",
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": 0,
        "choice_logprobs": (),
        "grader": "separation@1",
        "explanation": "",
    }
