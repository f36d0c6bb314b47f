"""Activations and steering on random models: what is taken, what is changed, what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import byte_level_tokenizer, causal_model

from harness.engines.activations import Activations, Wanted
from harness.engines.layers import decoder_layers, pool
from harness.engines.steering import Steered, Steering, read_steering, steered
from harness.engines.trie import pack
from harness.errors import WorkerError
from harness.types import ModelSpec

SPEC = ModelSpec(name="random", path="random")
TEXTS = ["the quick brown fox", "Answer: A", "naïve café — “ok”.", "a b c d e f g h i j k l m n o"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_level_tokenizer()


def packed(tokenizer: Any) -> list[bytes]:
    return [pack(tokenizer(text)["input_ids"]) for text in TEXTS]


def taken(
    activations: Activations, texts: list[bytes], wanted: Wanted, steerings: Any = (None,)
) -> torch.Tensor:
    """(steerings, texts, layers, width)."""
    found: dict[tuple[int, int], torch.Tensor] = {}
    for one in activations.take(texts, wanted, steerings):
        found |= {
            (one.steering, row): vector for row, vector in zip(one.rows, one.vectors, strict=True)
        }
    rows = range(len(texts))
    return torch.stack(
        [torch.stack([found[s, row] for row in rows]) for s in range(len(steerings))]
    )


def steering(strength: float, layers: tuple[int, ...], width: int = 32, **changes: Any) -> Steering:
    generator = torch.Generator().manual_seed(0)
    vectors = {layer: torch.randn(width, generator=generator) for layer in layers}
    return Steering(vectors=vectors, strength=strength, **changes)


def test_steering_equals_the_worked_example() -> None:
    states, vector = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]]), torch.tensor([1.0, 1.0, 1.5])
    plain = [[3.5, 4.5, 0.75], [0.5, 0.5, 2.75]]
    kept = [[3.043478, 3.913043, 0.652174], [0.352180, 0.352180, 1.936992]]
    assert steered(states, vector, 0.5, keep_norm=False).tolist() == plain
    got = steered(states, vector, 0.5, keep_norm=True)
    assert got.flatten().tolist() == pytest.approx([*kept[0], *kept[1]], abs=1e-6)
    assert got.norm(dim=-1) == pytest.approx(states.norm(dim=-1), abs=1e-6)


def test_last_token_is_found_on_either_side_of_the_padding() -> None:
    states = torch.arange(12.0).reshape(2, 3, 2)
    right, left = torch.tensor([[1, 1, 0], [1, 1, 1]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    assert pool(states, right, "last").tolist() == [[2.0, 3.0], [10.0, 11.0]]
    assert pool(states, left, "last").tolist() == [[4.0, 5.0], [10.0, 11.0]]
    assert pool(states, right, "mean").tolist() == [[1.0, 2.0], [8.0, 9.0]]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "qwen2"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_activations_of_a_batch_are_those_of_each_text_alone(
    kind: str, pooling: str, tokenizer: Any
) -> None:
    model = causal_model(kind, len(tokenizer))
    layers = decoder_layers(model, SPEC)
    seen: list[torch.Tensor] = []
    hook = layers[1].register_forward_hook(
        lambda module, given, output: seen.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    with torch.inference_mode():
        for text in TEXTS:
            model(**tokenizer(text, return_tensors="pt"))
    hook.remove()
    alone = [one[0].mean(dim=0) if pooling == "mean" else one[0, -1] for one in seen]
    got = taken(Activations(model, SPEC), packed(tokenizer), Wanted(layers=(1,), pooling=pooling))
    assert got[0, :, 0] == pytest.approx(torch.stack(alone), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "qwen2", "bloom"])
def test_reused_prefix_gives_what_hooks_in_a_whole_pass_give(kind: str, tokenizer: Any) -> None:
    model = causal_model(kind, len(tokenizer))
    texts, wanted = packed(tokenizer), Wanted(layers=(0, 1), pooling="mean")
    strong = steering(0.7, (1,))
    reusing = Activations(model, SPEC)
    got = taken(reusing, texts, wanted, (None, strong))
    whole = Activations(model, SPEC)
    whole._reuses = False
    expected = taken(whole, texts, wanted, (None, strong))
    assert got == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert not torch.allclose(got[0, :, 1], got[1, :, 1], atol=1e-2)
    assert (reusing.layer_forwards, whole.layer_forwards) == (3, 4)


def test_five_strengths_of_the_last_5_of_32_layers_cost_less_than_2_2_passes(
    tokenizer: Any,
) -> None:
    model = causal_model("llama", len(tokenizer), num_hidden_layers=32)
    calls = [0]
    for layer in decoder_layers(model, SPEC):
        layer.register_forward_hook(lambda *given: calls.__setitem__(0, calls[0] + 1))
    activations = Activations(model, SPEC)
    sweep = [steering(s, (27, 28, 29, 30, 31)) for s in (0.0, 0.25, 0.5, 0.75, 1.0)]
    taken(activations, packed(tokenizer), Wanted(layers=(31,), pooling="mean"), sweep)
    assert activations.layer_forwards / activations.batches == 32 + 4 * 5
    # The hooks also saw the five layers of the trial that showed the prefix can be reused.
    assert calls[0] == activations.layer_forwards + 5
    assert calls[0] / activations.batches / 32 <= 2.2


def test_strength_zero_and_removed_hooks_leave_logits_as_they_were(tokenizer: Any) -> None:
    model = causal_model("llama", len(tokenizer))
    layers, ids = decoder_layers(model, SPEC), tokenizer(TEXTS[3], return_tensors="pt")
    with torch.inference_mode():
        before = model(**ids).logits
        with Steered(layers, steering(0.0, (0, 1))):
            assert (model(**ids).logits - before).abs().max() <= 1e-5
        with Steered(layers, steering(1.0, (0, 1))):
            assert (model(**ids).logits - before).abs().max() > 0.1
        assert torch.equal(model(**ids).logits, before)


def test_hooks_keep_the_norm_of_every_token_only_where_asked(tokenizer: Any) -> None:
    model = causal_model("llama", len(tokenizer), num_hidden_layers=1)
    layers, ids = decoder_layers(model, SPEC), tokenizer(TEXTS[3], return_tensors="pt")
    seen: dict[str, torch.Tensor] = {}

    def norms(name: str, change: Steering | None) -> None:
        hooks = Steered(layers, change) if change else None
        if hooks:
            hooks.install()
        look = layers[0].register_forward_hook(
            lambda module, given, output: seen.__setitem__(name, output.norm(dim=-1))
        )
        with torch.inference_mode():
            model(**ids)
        look.remove()
        if hooks:
            hooks.remove()

    norms("own", None)
    norms("kept", steering(0.8, (0,)))
    norms("free", steering(0.8, (0,), keep_norm=False))
    assert seen["kept"] == pytest.approx(seen["own"], rel=1e-5)
    assert not torch.allclose(seen["free"], seen["own"], rtol=0.05)


def test_vectors_leave_batch_by_batch_whatever_the_number_of_texts(tokenizer: Any) -> None:
    model = causal_model("llama", len(tokenizer))
    activations = Activations(model, SPEC, batch_tokens=64)
    texts = packed(tokenizer) * 25
    sizes = [len(one.rows) for one in activations.take(texts, Wanted(layers=(1,), pooling="mean"))]
    assert sum(sizes) == 100
    assert max(sizes) <= 64 // 4


def test_only_what_is_missing_is_computed(tokenizer: Any) -> None:
    model = causal_model("llama", len(tokenizer))
    activations = Activations(model, SPEC)
    asked = {(1, 0), (2, 1)}
    found = activations.take(
        packed(tokenizer),
        Wanted(layers=(1,), pooling="last"),
        (None, steering(1.0, (1,))),
        lambda row, place: (row, place) in asked,
    )
    assert {row for one in found for row in one.rows} == {1, 2}


def test_vector_file_for_another_model_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    np.savez(tmp_path / "v.npz", layers=np.array([1]), vectors=np.ones((1, 7), dtype=np.float32))
    own = read_steering(str(tmp_path / "v.npz"), 0.5, keep_norm=True)
    activations = Activations(causal_model("llama", len(tokenizer)), SPEC)
    with pytest.raises(WorkerError, match="7 dimensions"):
        list(activations.take([pack([5])], Wanted(layers=(1,), pooling="mean"), (own,)))
    with pytest.raises(WorkerError, match="no vector for layer 3"):
        read_steering(str(tmp_path / "v.npz"), 0.5, keep_norm=True, layers=(3,))
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(WorkerError, match="no steering vector"):
        read_steering(str(tmp_path / "text.npz"), 0.5, keep_norm=True)
    with pytest.raises(WorkerError, match="no layer 9"):
        activations.numbers((9,))
