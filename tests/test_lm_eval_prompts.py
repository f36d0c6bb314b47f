"""The variants that lm-evaluation-harness 0.4.13 has too ask exactly what it asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from harness import registry
from harness.questions import questions
from harness.types import Request, to_json

pytestmark = [pytest.mark.data, pytest.mark.slow]

SCRIPT = Path(__file__).with_name("lm_eval_requests.py")
# Questions that lm-eval is asked for at least, and into how many parts it divides a task.
TASKS = {
    "gsm8k": (200, 1),
    "gsm8k:cot": (200, 1),
    "gsm8k:zeroshot": (200, 1),
    "mmlu": (4 * 57, 57),
    "mmlu:generative": (4 * 57, 57),
    "medqa": (200, 1),
    "medmcqa": (200, 1),
    "math": (200, 1),
    "math:minerva": (200, 1),
    "hendrycks_math": (4 * 7, 7),
    "minerva_math": (4 * 7, 7),
    "aime24:lm_eval": (30, 1),
    "aime25:lm_eval": (30, 1),
}
# LM_EVAL_PROMPTS=all compares every question of every task, which takes some minutes.
EVERYTHING = os.environ.get("LM_EVAL_PROMPTS") == "all"

Key = tuple[str, str, int]


@pytest.fixture(scope="module")
def theirs(
    data_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, bool], dict[Key, Any]]:
    """lm-eval's requests by task and form, and in them by (task, subject, place)."""
    pytest.importorskip("lm_eval")
    scratch = tmp_path_factory.mktemp("lm_eval")
    limits = ("0", "0") if EVERYTHING else ("200", "4")
    out = scratch / "requests.jsonl"
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(scratch / "hf")}
    subprocess.run(
        [sys.executable, str(SCRIPT), str(out), str(scratch), *limits],
        cwd=data_root,
        env={**os.environ, **offline},
        check=True,
        capture_output=True,
    )
    found: dict[tuple[str, bool], dict[Key, Any]] = defaultdict(dict)
    with out.open(encoding="utf-8") as file:
        for line in map(json.loads, file):
            key = (line["task"], line["group"], line["doc_id"])
            found[line["task"], line["chat"]][key] = line
    return found


@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
@pytest.mark.parametrize("name", TASKS)
def test_requests_are_those_of_lm_eval(
    name: str,
    chat: bool,
    theirs: dict[tuple[str, bool], dict[Key, Any]],
    data_root: Path,
) -> None:
    expected = theirs[name, chat]
    compared: Counter[str] = Counter()
    for key, request in _ours(name, chat, data_root):
        if key in expected:
            assert _as_theirs(request) == _comparable(expected[key])
            compared[key[1]] += 1
    least, parts = TASKS[name]
    assert compared.total() == len(expected) >= least
    assert len(compared) == parts


def _ours(name: str, chat: bool, data_root: Path) -> Iterator[tuple[Key, Request]]:
    asked = questions(registry.task(name), data_root=data_root, chat=chat)
    places: dict[str, Iterator[int]] = defaultdict(count)
    for sample, request in zip(asked.samples, asked.requests(), strict=True):
        group = _config_of(sample.group) if TASKS[name][1] > 1 else ""
        yield (name, group, next(places[group])), request


def _config_of(subject: str) -> str:
    return subject.lower().replace(" & ", "_and_").replace(" ", "_")


def _as_theirs(request: Request) -> dict[str, Any]:
    plain = to_json(request)
    asked: dict[str, Any] = {"prompt": plain["prompt"]}
    if request.sampling is None:
        return {**asked, "choices": list(request.choices)}
    greedy = request.sampling.temperature == 0
    return {**asked, "until": list(request.sampling.stop), "greedy": greedy}


def _comparable(line: dict[str, Any]) -> dict[str, Any]:
    prompt = json.loads(line["prompt"]) if line["chat"] else line["prompt"]
    if "choices" in line:
        return {"prompt": prompt, "choices": line["choices"]}
    settings = line["settings"]
    return {
        "prompt": prompt,
        "until": settings["until"],
        # What a task leaves out is greedy to lm-eval's engines.
        "greedy": not settings.get("do_sample") and settings.get("temperature", 0) == 0,
    }
