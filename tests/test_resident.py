"""A worker of engine `hf` that goes on to the next checkpoint, beside one started for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import training

from harness.engines.base import HFSettings
from harness.engines.hf import HFEngine
from harness.shipped import shipped
from harness.types import Completion, ModelSpec, Request, SamplingParams

BASE = ModelSpec(name="base", path=str(shipped("harness/tiny/base")))
ASKED = (
    Request(id="c", kind="choose", prompt="Question: 3 + 4?\nAnswer:", choices=(" 7", " 9", " 12")),
    Request(
        id="g",
        kind="generate",
        prompt="Question: Otto has 3 balls and finds 4. How many has he?\nAnswer:",
        sampling=SamplingParams(max_tokens=24),
    ),
)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """Tiny with other weights, in float32."""
    model = training.tiny()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.05 * torch.randn_like(parameter))
    return saved(model, tmp_path_factory.mktemp("other") / "m", "other")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = tmp_path_factory.mktemp("adapted") / "a"
    training.tiny_lora().save_pretrained(folder)
    return ModelSpec(name="adapted", path=BASE.path, adapter=str(folder))


def saved(model: object, folder: Path, name: str) -> ModelSpec:
    model.save_pretrained(folder)  # type: ignore[attr-defined]
    training.tiny_tokenizer().save_pretrained(folder)
    return ModelSpec(name=name, path=str(folder))


def answers(engine: HFEngine) -> list[tuple[str, str, tuple[float, ...]]]:
    engine.tokenize(ASKED)
    engine.load()
    found: list[Completion] = sorted(engine.run(ASKED), key=lambda one: one.request_id)
    return [(one.request_id, one.text, one.choice_logprobs) for one in found]


def test_the_next_model_answers_as_in_a_worker_of_its_own(
    other: ModelSpec, adapted: ModelSpec
) -> None:
    engine = HFEngine(BASE, HFSettings(device="cpu"))
    first = answers(engine)
    resident = engine._resident._base
    for spec in (other, adapted, BASE, adapted, other):
        engine.switch(spec)
        assert answers(engine) == answers(HFEngine(spec, HFSettings(device="cpu")))
    assert engine._resident._base is resident, "weights were read into place"
    engine.switch(BASE)
    assert answers(engine) == first


def test_steering_does_not_add_up_over_the_models_of_a_worker(
    other: ModelSpec, tmp_path: Path
) -> None:
    width = training.tiny().config.hidden_size
    vectors = np.random.default_rng(0).normal(size=(1, width)).astype(np.float32)
    np.savez(tmp_path / "v.npz", layers=np.array([1]), vectors=vectors)
    settings = HFSettings(device="cpu", steer=str(tmp_path / "v.npz"), steer_lambda=1.0)
    engine = HFEngine(BASE, settings)
    first = answers(engine)
    assert first != answers(HFEngine(BASE, HFSettings(device="cpu")))
    for spec in (other, BASE):
        engine.switch(spec)
        last = answers(engine)
    assert last == first


def test_a_model_of_another_shape_is_loaded_anew(tmp_path: Path) -> None:
    import transformers

    config = transformers.AutoConfig.from_pretrained(BASE.path)
    config.num_hidden_layers = 2
    torch.manual_seed(2)
    small = saved(transformers.AutoModelForCausalLM.from_config(config), tmp_path / "s", "small")
    engine = HFEngine(BASE, HFSettings(device="cpu"))
    answers(engine)
    engine.switch(small)
    assert answers(engine) == answers(HFEngine(small, HFSettings(device="cpu")))
