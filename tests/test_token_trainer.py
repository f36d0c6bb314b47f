"""The trainer behind SFT, DFT and ASFT on a real model: what a step's gradient is."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from harness.errors import UsageError  # noqa: E402
from tests.training import (  # noqa: E402
    demonstrations,
    logged,
    sft_config,
    tiny,
    tiny_lora,
    tiny_tokenizer,
    weights,
)
from trainers import losses, reference  # noqa: E402
from trainers.token_head import TokenLoss  # noqa: E402
from trainers.token_trainer import TokenLossTrainer  # noqa: E402


@pytest.fixture(autouse=True, scope="module")
def quick_collections() -> Iterator[None]:
    """A trainer collects garbage at its end, and what is loaded already need not be looked at."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


SPECS = {
    "sft": TokenLoss(),
    "dft": TokenLoss(weighting="probability"),
    "sft_kl": TokenLoss(kl_weight=0.5),
    "asft": TokenLoss(weighting="probability", kl_weight=0.5),
    "asft_reverse": TokenLoss(weighting="probability", kl_weight=0.5, direction="reverse"),
}


def other_model() -> Any:
    """A reference that is not the start model, so that the divergence has a gradient at once."""
    torch.manual_seed(11)
    model = tiny()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def trainer_of(folder: Path, spec: TokenLoss, model: Any = None, **changes: Any) -> Any:
    options = {name: changes.pop(name) for name in ("reduction", "start") if name in changes}
    if spec.kl_weight:
        options.setdefault("start", reference.FrozenCopy(other_model()))
    return TokenLossTrainer(
        spec=spec,
        model=tiny() if model is None else model,
        args=sft_config(folder, **changes),
        train_dataset=demonstrations(8),
        processing_class=tiny_tokenizer(),
        **options,
    )


def step(trainer: Any) -> tuple[float, dict[str, Any]]:
    """The loss of one optimiser step and the weights after it."""
    trainer.train()
    return logged(trainer, "loss")[0], weights(trainer.model)


def gradients(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {name: before[name] - after[name] for name in before}


def assert_close(first: dict[str, Any], second: dict[str, Any], tolerance: float = 1e-5) -> None:
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=tolerance, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("method", "reduction"),
    [
        *((method, "token_global") for method in SPECS),
        ("sft", "sequence_sum"),
        ("asft", "sequence"),
    ],
)
def test_four_micro_batches_of_one_give_the_gradient_of_one_of_four(
    tmp_path: Path, method: str, reduction: str
) -> None:
    # A smaller step where losses are sums, lest rounding be what differs.
    options = {"reduction": reduction, "learning_rate": 0.02 if reduction == "sequence_sum" else 1}
    whole = trainer_of(tmp_path / "1x4", SPECS[method], **options)
    cut = trainer_of(
        tmp_path / "4x1",
        SPECS[method],
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        **options,
    )
    loss, after = step(whole)
    cut_loss, cut_after = step(cut)
    assert cut_loss == pytest.approx(loss, rel=1e-5)
    assert_close(after, cut_after)
    assert (after["model.norm.weight"] - tiny().model.norm.weight).abs().max() > 1e-5


def test_trls_own_loss_is_the_same_however_it_is_accumulated(tmp_path: Path) -> None:
    """Of method `sft` with its usual reduction, in sequences of unequal length."""
    from trl import SFTTrainer

    steps = []
    for size in (4, 1):
        changes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size}
        trainer = SFTTrainer(
            model=tiny(),
            args=sft_config(tmp_path, **changes),
            train_dataset=demonstrations(8),
            processing_class=tiny_tokenizer(),
        )
        steps.append(step(trainer))
    assert steps[1][0] == pytest.approx(steps[0][0], rel=1e-5)
    assert_close(steps[0][1], steps[1][1])


def test_a_batch_holds_ids_labels_and_mask_padded_on_the_right(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, SPECS["sft"])
    rows = [
        {"input_ids": [1, 5, 6, 2], "labels": [-100, -100, 6, 2]},
        {"input_ids": [1, 9], "labels": [-100, 9]},
    ]
    batch = {name: value.tolist() for name, value in trainer.data_collator(rows).items()}
    assert batch == {
        "input_ids": [[1, 5, 6, 2], [1, 9, 0, 0]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0]],
        "labels": [[-100, -100, 6, 2], [-100, 9, -100, -100]],
    }


def test_published_reduction_averages_micro_batches_whatever_they_hold(tmp_path: Path) -> None:
    cut = trainer_of(
        tmp_path,
        SPECS["dft"],
        reduction="token_micro",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
    )
    loss, _ = step(cut)
    # Each sequence is a micro-batch here: what `sequence` gives.
    other, _ = step(trainer_of(tmp_path, SPECS["dft"], reduction="sequence"))
    whole, _ = step(trainer_of(tmp_path, SPECS["dft"]))
    assert loss == pytest.approx(other, rel=1e-5)
    assert loss != pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("method", SPECS)
def test_a_step_has_the_loss_and_gradient_of_the_plain_formula(tmp_path: Path, method: str) -> None:
    spec, start = SPECS[method], other_model()
    trainer = trainer_of(tmp_path, spec, start=reference.FrozenCopy(start))
    batch = next(iter(trainer.get_train_dataloader()))
    loss, after = step(trainer)

    model = tiny()
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    labels = batch["labels"][:, 1:]
    with torch.no_grad():
        other = start(**inputs).logits[:, :-1] if spec.kl_weight else None
    per_token = losses.token_losses(
        model(**inputs).logits[:, :-1],
        labels,
        other,
        weighting=spec.weighting,
        kl_weight=spec.kl_weight,
        direction=spec.direction,
    )
    expected = per_token.sum() / (labels != losses.IGNORED).sum()
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    moved = gradients(weights(model), after)
    assert_close(moved, {name: value.grad for name, value in model.named_parameters()})


@pytest.mark.parametrize(("method", "loss_type"), [("sft", "nll"), ("dft", "dft")])
@pytest.mark.parametrize(
    # A second step of 1 would magnify how each processor rounds the first.
    ("steps", "rate"),
    [(1, 1.0), (2, 0.01)],
)
def test_sft_and_dft_take_the_steps_of_trl(
    tmp_path: Path, method: str, loss_type: str, steps: int, rate: float
) -> None:
    from trl import SFTTrainer

    options = {"max_steps": steps, "learning_rate": rate}
    ours = trainer_of(tmp_path / "ours", SPECS[method], **options)
    theirs = SFTTrainer(
        model=tiny(),
        args=sft_config(tmp_path / "trl", loss_type=loss_type, **options),
        train_dataset=demonstrations(8),
        processing_class=tiny_tokenizer(),
    )
    ours.train()
    theirs.train()
    for measure in ("loss", "entropy", "mean_token_accuracy", "num_tokens", "grad_norm"):
        assert logged(ours, measure) == pytest.approx(logged(theirs, measure), rel=1e-4)
    assert_close(weights(ours.model), weights(theirs.model), tolerance=1e-6)


def test_adapters_switched_off_and_a_frozen_copy_give_the_same_steps(tmp_path: Path) -> None:
    steps = []
    for kind in ("adapters_off", "frozen"):
        model = tiny_lora()
        start: Any = reference.AdaptersOff(peft=model)
        if kind == "frozen":
            start = reference.FrozenCopy(tiny())
        trainer = trainer_of(tmp_path, SPECS["asft"], model, start=start, max_steps=3)
        trainer.train()
        assert model.training
        steps.append((logged(trainer, "loss"), logged(trainer, "kl"), weights(model)))
    assert steps[0][0] == pytest.approx(steps[1][0], rel=1e-5)
    assert steps[0][1] == pytest.approx(steps[1][1], rel=1e-4)
    assert steps[0][1][0] > 1e-3
    assert_close(steps[0][2], steps[1][2])


def test_kl_is_zero_at_the_start_model_and_logged_each_step(tmp_path: Path) -> None:
    start = reference.FrozenCopy(tiny())
    trainer = trainer_of(tmp_path, SPECS["sft_kl"], start=start, max_steps=3, learning_rate=0.3)
    trainer.train()
    divergences = logged(trainer, "kl")
    assert divergences[0] == pytest.approx(0, abs=1e-6)
    assert divergences[1] > 1e-5
    assert len(divergences) == 3
    assert {"entropy", "mean_token_accuracy", "num_tokens"} <= set(trainer.state.log_history[0])


def test_the_frozen_copy_is_in_no_tree_that_is_sharded_or_saved(tmp_path: Path) -> None:
    start = reference.FrozenCopy(tiny())
    trainer = trainer_of(tmp_path, SPECS["asft"], start=start)
    held = {id(parameter) for parameter in start.model.parameters()}
    assert not held & {id(parameter) for parameter in trainer.model.parameters()}
    assert not any(parameter.requires_grad for parameter in start.model.parameters())
    assert not start.model.training


def test_asft_without_a_reference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a reference"):
        trainer_of(tmp_path, SPECS["asft"], start=None)


def test_cached_states_give_the_steps_of_the_copy_that_wrote_them(tmp_path: Path) -> None:
    copy = reference.FrozenCopy(other_model())
    direct = trainer_of(tmp_path, SPECS["asft"], start=copy, max_steps=3)
    rows = [direct.train_dataset[i] for i in range(len(direct.train_dataset))]
    # Two processes with half of the rows each, in batches other than those of training.
    for rank in (0, 1):
        share = rows[rank::2]
        batches = [direct.data_collator(share[i : i + 3]) for i in range(0, len(share), 3)]
        reference.fill_cache(tmp_path / "states", copy, batches, rank=rank, processes=2)
    assert reference.cache_is_whole(tmp_path / "states", 2)
    assert not reference.cache_is_whole(tmp_path / "states", 1)
    cache = reference.CachedStates(tmp_path / "states", reference.head_of(copy.model))
    cached = trainer_of(tmp_path, SPECS["asft"], start=cache, max_steps=3)
    direct.train()
    cached.train()
    for measure in ("loss", "kl"):
        assert logged(cached, measure) == pytest.approx(logged(direct, measure), rel=1e-4)
    assert_close(weights(cached.model), weights(direct.model))
