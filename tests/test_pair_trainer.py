"""DPO and its length-normalised form: masks of pairs, and what a step's loss and gradient are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from harness.errors import DataError, UsageError  # noqa: E402
from harness.trainer import Trainer, read_params, read_recipe  # noqa: E402
from harness.types import JSON  # noqa: E402
from tests.training import (  # noqa: E402
    logged,
    rightly_and_wrongly,
    sft_config,
    tiny,
    tiny_lora,
    tiny_tokenizer,
    training_folder,
    weights,
)
from trainers import dpo, dpo_norm, losses  # noqa: E402
from trainers.pair_trainer import PairTrainer  # noqa: E402
from trainers.preferences import PairCollator, pairs, tokenized_pairs  # noqa: E402
from trainers.tokenizing import Counts, Tokenizing  # noqa: E402

QUESTION = [{"role": "user", "content": "What is 2+2?"}]
PAIR: JSON = {"prompt": "2+2=", "chosen": " 4", "rejected": " five of them"}
CHAT: JSON = {
    "prompt": QUESTION,
    "chosen": "4",
    "rejected": [{"role": "assistant", "content": "5"}],
}


def tokenized(examples: list[JSON], **options: Any) -> list[Any]:
    tokenizing = Tokenizing(**({"tokenizer": tiny_tokenizer(), "max_length": 64} | options))
    return list(pairs(examples, tokenizing, Counts()))


@pytest.mark.parametrize("example", [PAIR, CHAT], ids=["text", "chat"])
def test_both_sides_learn_their_answer_and_nothing_of_the_prompt(example: JSON) -> None:
    (pair,) = tokenized([example])
    tokenizer = tiny_tokenizer()
    for side in (pair.chosen, pair.rejected):
        learnt = [i for i, label in zip(side.ids, side.labels, strict=True) if label >= 0]
        assert [label for label in side.labels if label >= 0] == learnt
        first = next(i for i, label in enumerate(side.labels) if label >= 0)
        assert set(side.labels[:first]) == {losses.IGNORED}
        assert side.labels[first:] == side.ids[first:]
        prompt = tokenizer.decode(side.ids[:first])
        assert prompt.endswith("2+2=" if example is PAIR else "<|im_start|>assistant\n")
    answers = [
        tokenizer.decode([label for label in side.labels if label >= 0]).removesuffix("\n")
        for side in (pair.chosen, pair.rejected)
    ]
    if example is PAIR:
        assert answers == [" 4</s>", " five of them</s>"]
    else:
        assert answers == ["4<|im_end|>", "5<|im_end|>"]


def test_a_batch_holds_the_chosen_answers_then_the_rejected_padded_on_the_right() -> None:
    rows = [
        {"chosen_ids": [5, 6, 7], "chosen_labels": [-100, 6, 7]}
        | {"rejected_ids": [5, 8], "rejected_labels": [-100, 8]},
        {"chosen_ids": [9, 9], "chosen_labels": [-100, 9]}
        | {"rejected_ids": [9, 4, 4, 4], "rejected_labels": [-100, 4, 4, 4]},
    ]
    batch = {name: value.tolist() for name, value in PairCollator(pad_token_id=0)(rows).items()}
    assert batch == {
        "input_ids": [[5, 6, 7, 0], [9, 9, 0, 0], [5, 8, 0, 0], [9, 4, 4, 4]],
        "attention_mask": [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]],
        "labels": [
            [-100, 6, 7, -100],
            [-100, 9, -100, -100],
            [-100, 8, -100, -100],
            [-100, 4, 4, 4],
        ],
    }


def test_overlong_pairs_are_refused_dropped_whole_or_cut() -> None:
    long = {**PAIR, "rejected": " five" * 30}
    with pytest.raises(DataError, match=r"1 of 2 pairs are longer than `max_length` 20"):
        tokenized([PAIR, long], max_length=20)
    assert len(tokenized([PAIR, long], max_length=20, overlong="drop")) == 1
    kept = tokenized([PAIR, long], max_length=20, overlong="truncate")
    assert [pair.length for pair in kept] == [tokenized([PAIR])[0].length, 20]
    lost = {**PAIR, "prompt": "2+2=" * 30}
    assert tokenized([lost], max_length=20, overlong="truncate") == []


def test_an_empty_answer_is_refused_by_its_number() -> None:
    with pytest.raises(DataError, match="the rejected answer of example 2 is empty"):
        tokenized([PAIR, {**PAIR, "rejected": " \n"}])


@pytest.mark.parametrize(
    ("trainer", "params", "message"),
    [
        (dpo, {"beta": 0.0}, "`params.beta: 0.0` is not above 0"),
        (dpo_norm, {"label_smoothing": 0.5}, "is not from 0 to below 0.5"),
    ],
)
def test_parameters_out_of_range_are_refused(
    tmp_path: Path, trainer: Any, params: JSON, message: str
) -> None:
    recipe = read_recipe(training_folder(tmp_path / "run", trainer.TRAINER.name, [], params=params))
    with pytest.raises(UsageError, match=message):
        trainer.check(recipe)


def test_the_published_betas_are_the_defaults(tmp_path: Path) -> None:
    def beta(trainer: Trainer) -> float:
        folder = training_folder(tmp_path / trainer.name, trainer.name, [])
        return float(read_params(read_recipe(folder), trainer).beta)

    assert (beta(dpo.TRAINER), beta(dpo_norm.TRAINER)) == (0.1, 5.0)


def moved_model() -> Any:
    torch.manual_seed(11)
    model = tiny()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def trainer_of(folder: Path, *, normalise: bool, model: Any = None, **changes: Any) -> Any:
    from trl import DPOConfig

    place = training_folder(folder / "data", "dpo", rightly_and_wrongly(8))
    model = moved_model() if model is None else model
    settings = {name: changes.pop(name) for name in ("beta",) if name in changes}
    config = sft_config(folder, kind=DPOConfig, max_length=None, **settings, **changes)
    return PairTrainer(
        normalise=normalise,
        label_smoothing=0.1,
        model=model,
        ref_model=None if hasattr(model, "peft_config") else tiny(),
        args=config,
        train_dataset=tokenized_pairs(place, read_recipe(place), tiny_tokenizer()),
        data_collator=PairCollator(pad_token_id=0),
        processing_class=tiny_tokenizer(),
    )


@pytest.mark.parametrize(("normalise", "beta"), [(False, 0.1), (True, 5.0)])
def test_a_step_has_the_loss_and_gradient_of_the_plain_formula(
    tmp_path: Path, normalise: bool, beta: float
) -> None:
    trainer = trainer_of(tmp_path, normalise=normalise, beta=beta, learning_rate=0.1)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.train()

    def logprobs(model: Any) -> tuple[Any, ...]:
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        labels = batch["labels"][:, 1:]
        sums = losses.sequence_logprobs(logits, labels)
        lengths = (labels != losses.IGNORED).sum(1) if normalise else 1
        return tuple((sums / lengths).chunk(2))

    model, start = moved_model(), tiny()
    with torch.no_grad():
        reference = logprobs(start)
    expected = losses.dpo(*logprobs(model), *reference, beta=beta, label_smoothing=0.1)
    loss = expected.losses.mean()
    loss.backward()
    assert logged(trainer, "loss") == pytest.approx([loss.item()], rel=1e-4)
    after = weights(trainer.model)
    for name, parameter in model.named_parameters():
        moved = (parameter.detach() - after[name]) / 0.1
        torch.testing.assert_close(moved, parameter.grad, atol=3e-5, rtol=1e-3, msg=name)
    measures = {
        "rewards/chosen": expected.chosen_rewards.mean(),
        "rewards/rejected": expected.rejected_rewards.mean(),
        "rewards/margins": expected.margins.mean(),
        "rewards/accuracies": (expected.margins > 0).float().mean(),
    }
    for name, value in measures.items():
        assert logged(trainer, name) == pytest.approx([value.item()], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("normalise", [False, True])
def test_four_micro_batches_of_one_give_the_gradient_of_one_of_four(
    tmp_path: Path, normalise: bool
) -> None:
    options = {"normalise": normalise, "learning_rate": 0.1}
    whole = trainer_of(tmp_path / "1x4", **options)
    cut = trainer_of(
        tmp_path / "4x1", per_device_train_batch_size=1, gradient_accumulation_steps=4, **options
    )
    whole.train()
    cut.train()
    assert logged(cut, "loss") == pytest.approx(logged(whole, "loss"), rel=1e-5)
    for name, value in weights(whole.model).items():
        torch.testing.assert_close(weights(cut.model)[name], value, atol=3e-6, rtol=1e-4)


def test_under_lora_the_reference_is_the_model_without_adapters(tmp_path: Path) -> None:
    model = tiny_lora()
    trainer = trainer_of(tmp_path, normalise=False, model=model, max_steps=2)
    assert list(model.peft_config) == ["default"]
    trainer.train()
    # The adapter does something from the start here, so the policy is not its reference.
    assert abs(logged(trainer, "rewards/chosen")[0]) > 1e-3
    trainable = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trainable
    assert all("lora_" in name and ".default." in name for name in trainable)
