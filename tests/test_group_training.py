"""GRPO, Dr. GRPO and RLOO on TRL: the advantages, the gradients, and that they learn."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from harness.errors import UsageError
from harness.types import JSON, Lora, Recipe, to_json
from tests import rl_parts
from trainers import dr_grpo, grpo, rloo
from trainers.group_params import GroupParams
from trainers.group_training import Parts, grpo_trainer, rloo_trainer

METHODS = ("grpo", "dr_grpo", "rloo")
WORKED = [1.0, 0, 0, 1, 0, 0, 0, 1]  # two groups of four


class Watching(transformers.TrainerCallback):  # type: ignore[misc]
    """Keeps the gradients of the last step and what was logged."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}
        self.logs: list[dict[str, float]] = []

    def on_pre_optimizer_step(self, *args: Any, model: Any, **others: Any) -> None:
        named = model.named_parameters()
        self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}

    def on_log(self, *args: Any, logs: dict[str, float], **others: Any) -> None:
        self.logs.append(dict(logs))


def parts(recipe: Recipe, folder: Path, watching: Watching) -> Parts:
    samples = rl_parts.short_samples(8)
    optimizer = recipe.optimizer
    return Parts(
        model=rl_parts.model(),
        tokenizer=rl_parts.tokenizer(),
        arguments={
            "output_dir": str(folder),
            "per_device_train_batch_size": recipe.micro_batch_size,
            "gradient_accumulation_steps": recipe.accumulation,
            "max_steps": recipe.max_steps,
            "learning_rate": optimizer.learning_rate,
            "adam_beta2": optimizer.beta2,
            "lr_scheduler_type": optimizer.schedule,
            "max_grad_norm": 0.0,
            "bf16": False,
            "use_cpu": True,
            "gradient_checkpointing": False,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "seed": recipe.seed,
        },
        examples=[{"prompt": s.input, "sample": to_json(s)} for s in samples],
        callbacks=[watching],
    )


def trainer(recipe: Recipe, folder: Path, watching: Watching | None = None) -> Any:
    made = parts(recipe, folder, watching or Watching())
    if recipe.method == "rloo":
        params = rloo.Params(**recipe.params)
        return rloo_trainer(recipe, params, made, whiten_advantages=params.whiten_advantages)
    if recipe.method == "dr_grpo":
        params = GroupParams(**recipe.params)
        return grpo_trainer(recipe, params, made, scale_rewards=False, reduction="constant")
    own = grpo.Params(**recipe.params)
    return grpo_trainer(recipe, own, made, scale_rewards=own.scale_rewards, reduction=own.reduction)


def worked_rewards(completions: list[str], **others: Any) -> list[float]:
    return WORKED[: len(completions)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("grpo", [0.8660239, -0.8660239, -0.8660239, 0.8660239, -0.499999] * 1
         + [-0.499999, -0.499999, 1.499997]),
        ("dr_grpo", [0.5, -0.5, -0.5, 0.5, -0.25, -0.25, -0.25, 0.75]),
        ("rloo", [2 / 3, -2 / 3, -2 / 3, 2 / 3, -1 / 3, -1 / 3, -1 / 3, 1]),
    ],
)  # fmt: skip
def test_the_trainer_computes_the_published_advantages(
    method: str, expected: list[float], tmp_path: Path
) -> None:
    made = trainer(rl_parts.recipe(method, params={"num_generations": 4}), tmp_path)
    made.reward_funcs = [worked_rewards]
    made.model.train()
    batch = next(iter(made.get_train_dataloader()))
    assert [row["prompt"] for row in batch] == [
        row["prompt"] for row in (batch[0], batch[4]) for _ in range(4)
    ]
    output = made._generate_and_score_completions(batch)
    torch.testing.assert_close(
        output["advantages"], torch.tensor(expected), atol=1e-5, rtol=0, check_dtype=False
    )


@pytest.mark.slow
def test_rollouts_hold_what_was_sampled_up_to_the_stop_string_and_no_padding(
    tmp_path: Path,
) -> None:
    params = {"num_generations": 4, "stop": ["="], "max_tokens": 30}
    made = trainer(rl_parts.recipe("grpo", params=params), tmp_path)
    made.model.train()
    output = made._generate_and_score_completions(next(iter(made.get_train_dataloader())))
    decode = rl_parts.tokenizer().decode
    rows = [
        ids[mask.bool()]
        for ids, mask in zip(output["completion_ids"], output["completion_mask"], strict=True)
    ]
    assert sum("=" in decode(row) for row in rows) >= 4
    assert not any("=" in decode(row[:-1]) or "<pad>" in decode(row) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("advantage", "expected"),
    [(1.0, [-0.5, -0.9, -1.1, -1.2]), (-1.0, [0.8, 0.9, 1.1, 1.5])],
)
def test_the_trainer_clips_the_ratio_as_published(
    advantage: float, expected: list[float], tmp_path: Path
) -> None:
    made = trainer(rl_parts.recipe("grpo"), tmp_path)
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    prompt, answer = torch.tensor([[1, 5, 9]]), torch.tensor([[7]])
    ids, ones = torch.cat([prompt, answer], dim=1), torch.ones(1, 4, dtype=torch.long)
    logps, _, _ = made._get_per_token_logps_and_entropies(made.model, ids, ones, 1)
    for ratio, loss in zip((0.5, 0.9, 1.1, 1.5), expected, strict=True):
        inputs = {
            "prompt_ids": prompt,
            "prompt_mask": ones[:, :3],
            "completion_ids": answer,
            "completion_mask": ones[:, :1],
            "advantages": torch.tensor([advantage]),
            "old_per_token_logps": (logps - torch.tensor(ratio).log()).detach(),
        }
        assert made._compute_loss(made.model, inputs).item() == pytest.approx(loss, abs=1e-5)


def gradients(recipe: Recipe, folder: Path) -> dict[str, Tensor]:
    watching = Watching()
    trainer(recipe, folder, watching).train()
    return watching.gradients


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_accumulated_gradients_equal_those_of_one_large_batch(method: str, tmp_path: Path) -> None:
    whole, accumulated = (
        gradients(
            rl_parts.recipe(method, params={"num_generations": 4}, micro_batch_size=size), tmp_path
        )
        for size in (8, 2)
    )
    assert whole.keys() == accumulated.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(accumulated[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    assert max(float(gradient.abs().max()) for gradient in whole.values()) > 1e-4


def rewards_logged(recipe: Recipe, folder: Path) -> tuple[list[float], Any]:
    """The mean reward of each step, and the model."""
    watching = Watching()
    made = trainer(recipe, folder, watching)
    made.train()
    logs = [one for one in watching.logs if "reward" in one]
    for one in logs:
        assert {"reward_format", "reward_answer", "truncated", "entropy"} <= one.keys()
        product = one["reward_format"] * one["reward_answer"]
        assert one["reward"] == pytest.approx(product, abs=1e-4)
    return [one["reward"] for one in logs], made.model


@pytest.mark.slow
def test_grpo_raises_the_mean_reward(tmp_path: Path) -> None:
    recipe = rl_parts.recipe("grpo", max_steps=6, global_batch_size=64, micro_batch_size=64)
    rewards, _ = rewards_logged(recipe, tmp_path)
    assert statistics.fmean(rewards[-2:]) > rewards[0] + 0.2, rewards


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dr_grpo", "rloo"])
def test_the_other_methods_move_the_policy(method: str, tmp_path: Path) -> None:
    params = {"rollout_batch_size": 32, "rollout_epochs": 2, "beta": 0.01}
    recipe = rl_parts.recipe(
        method, max_steps=4, global_batch_size=16, micro_batch_size=16, params=params
    )
    rewards, model = rewards_logged(recipe, tmp_path)
    # Two steps for each of the passes over one round of rollouts.
    assert len(rewards) == 1
    assert not torch.equal(model.model.norm.weight, rl_parts.model().model.norm.weight)


@pytest.mark.slow
@pytest.mark.parametrize("method", [grpo, dr_grpo, rloo])
def test_a_training_runs_from_its_folder(method: Any, tmp_path: Path) -> None:
    params = {"num_generations": 4, "beta": 0.05, "min_tokens": 4}
    recipe = rl_parts.recipe(method.TRAINER.name, params=params, lora=Lora(rank=4, alpha=8))
    method.main(rl_parts.prepared(tmp_path / "run", recipe))
    for name in ("reward", "reward_format", "kl", "entropy", "grad_norm", "memory_bytes"):
        assert [step for step, _ in rl_parts.measured(tmp_path / "run", name)] == [1], name
    assert (tmp_path / "run" / "checkpoint" / "adapter_config.json").exists()


@pytest.mark.parametrize("method", [grpo, dr_grpo, rloo])
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"num_generations": 3}, "`global_batch_size` 8 is no multiple of `num_generations` 3"),
        ({"rollout_batch_size": 12, "num_generations": 4}, "`rollout_batch_size` 12 is no mult"),
        ({"num_generations": 1}, "`params.num_generations` is 1"),
        ({"epsilon": 1.5}, "`params.epsilon` is 1.5"),
        ({"reward": "medqa"}, "scores given choices"),
        ({"vllm_memory_share": 1.5}, "`params.vllm_memory_share` is 1.5"),
    ],
)
def test_a_recipe_that_does_not_fit_together_is_refused(
    method: Any, params: JSON, message: str
) -> None:
    recipe = rl_parts.recipe(method.TRAINER.name, params=params)
    with pytest.raises(UsageError, match=message):
        method.TRAINER.check(recipe)
