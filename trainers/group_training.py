"""GRPO, Dr. GRPO and RLOO: TRL's trainers with every constant of the method written out.

What is not left to TRL 1.16:

- Rollouts of transformers end at stop strings, and where the evaluation would end them. TRL passes
  none on, and would train on the padding behind them.
- GRPO divides by the group's standard deviation plus 1e-6, as published; TRL adds 1e-4.
- A completion that a stop string ends is not counted as truncated.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.models.utils import unwrap_model_for_generation

from harness.task import Task
from harness.trainer import read_recipe
from harness.types import JSON, Recipe, SamplingParams
from trainers.advantages import grpo_advantages
from trainers.arguments import training_arguments
from trainers.group_params import GroupParams, check_groups
from trainers.loading import load_model, load_tokenizer
from trainers.problems import read_problems
from trainers.rewards import Answer, grade, reward_parts, reward_task, sample_from_json
from trainers.rollouts import Ending, Rollout, eos_ids, generate
from trainers.running import train
from trainers.watching import Watcher

Reduction = Literal["sequence", "token", "constant"]
LOSSES: dict[Reduction, str] = {"sequence": "grpo", "token": "dapo", "constant": "dr_grpo"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How completions are sampled and where they end."""

    ending: Ending
    sampling: SamplingParams
    pad_id: int
    min_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a trainer is made of. arguments: of transformers' `TrainingArguments`."""

    model: Any
    tokenizer: Any
    arguments: JSON
    examples: list[JSON]
    callbacks: list[Any]


class _Rollouts:
    """Writes completions with our own rollouts, where it is not vLLM that writes them."""

    writing: Writing

    def _written(self, prompt_ids: Sequence[Sequence[int]]) -> list[list[int]]:
        trainer: Any = self
        with (
            unwrap_model_for_generation(
                trainer.model_wrapped,
                trainer.accelerator,
                gradient_checkpointing_kwargs=trainer.args.gradient_checkpointing_kwargs,
            ) as model,
            trainer._dist.summon_full_params(trainer.model_wrapped, recurse=False),
        ):
            rollouts = generate(
                model,
                prompt_ids,
                self.writing.ending,
                self.writing.sampling,
                self.writing.pad_id,
                self.writing.min_tokens,
            )
        return [rollout.ids for rollout in rollouts]


class GRPO(_Rollouts, GRPOTrainer):  # type: ignore[misc]
    def _generate_single_turn(self, prompt_ids: Any, *rest: Any, **named: Any) -> Any:
        if self.use_vllm:
            return super()._generate_single_turn(prompt_ids, *rest, **named)
        return self._written(prompt_ids), None

    def _calculate_rewards(self, *inputs: Any) -> Any:
        self._rewards = super()._calculate_rewards(*inputs)  # of all processes
        return self._rewards

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        if self.scale_rewards == "group":
            advantages = grpo_advantages(self._rewards.squeeze(1), self.num_generations)
            start = self.accelerator.process_index * len(inputs)
            output["advantages"] = advantages[start : start + len(inputs)]
        return output


class RLOO(_Rollouts, RLOOTrainer):  # type: ignore[misc]
    def _generate_single_turn(self, prompt_ids: Any, *rest: Any, **named: Any) -> Any:
        if self.use_vllm:
            return super()._generate_single_turn(prompt_ids, *rest, **named)
        return self._written(prompt_ids)


def train_grpo(folder: Path, *, scale_rewards: bool, reduction: Reduction) -> None:
    recipe, params = _read(folder)
    parts = prepared(folder, recipe)
    trainer = grpo_trainer(recipe, params, parts, scale_rewards=scale_rewards, reduction=reduction)
    train(trainer, recipe, folder)


def train_rloo(folder: Path, *, whiten_advantages: bool) -> None:
    recipe, params = _read(folder)
    parts = prepared(folder, recipe)
    train(rloo_trainer(recipe, params, parts, whiten_advantages=whiten_advantages), recipe, folder)


def _read(folder: Path) -> tuple[Recipe, GroupParams]:
    """The recipe, and the parameters that all of these methods have."""
    recipe = read_recipe(folder)
    known = {field.name for field in dataclasses.fields(GroupParams)}
    params = GroupParams(**{name: recipe.params[name] for name in known & recipe.params.keys()})
    check_groups(recipe, params)
    return recipe, params


def prepared(folder: Path, recipe: Recipe) -> Parts:
    """Bad data is found before the model is loaded; the arguments are made before, too."""
    tokenizer = load_tokenizer(recipe)
    problems = read_problems(folder, recipe, tokenizer)
    arguments = training_arguments(recipe, folder)
    return Parts(
        model=load_model(recipe, tokenizer),
        tokenizer=tokenizer,
        arguments=arguments,
        examples=[one.example for one in problems],
        callbacks=[Watcher(folder)],
    )


def grpo_trainer(
    recipe: Recipe,
    params: GroupParams,
    parts: Parts,
    *,
    scale_rewards: bool,
    reduction: Reduction,
) -> GRPO:
    """A trainer that is ready to train."""
    task = reward_task(params.reward)
    writing = _writing(task, params, parts)
    config = GRPOConfig(
        **parts.arguments,
        **_settings(recipe, params, writing),
        loss_type=LOSSES[reduction],
        scale_rewards="group" if scale_rewards else "none",
        importance_sampling_level="token",
        use_bias_correction_kl=False,
        top_entropy_quantile=1.0,
        entropy_coef=0.0,
        vllm_importance_sampling_correction=True,
    )
    return _trainer(GRPO, config, task, writing, parts)  # type: ignore[no-any-return]


def rloo_trainer(
    recipe: Recipe, params: GroupParams, parts: Parts, *, whiten_advantages: bool
) -> RLOO:
    """A trainer that is ready to train."""
    task = reward_task(params.reward)
    writing = _writing(task, params, parts)
    config = RLOOConfig(
        **parts.arguments,
        **_settings(recipe, params, writing),
        normalize_advantages=whiten_advantages,
    )
    return _trainer(RLOO, config, task, writing, parts)  # type: ignore[no-any-return]


def _writing(task: Task, params: GroupParams, parts: Parts) -> Writing:
    sampling = params.sampling(task)
    return Writing(
        ending=Ending(parts.tokenizer, eos_ids(parts.model, parts.tokenizer), sampling),
        sampling=sampling,
        pad_id=parts.tokenizer.pad_token_id,
        min_tokens=params.min_tokens,
    )


def _trainer(trainer: Any, config: Any, task: Task, writing: Writing, parts: Parts) -> Any:
    made = trainer(
        model=parts.model,
        reward_funcs=_reward(task, writing.ending),
        args=config,
        train_dataset=Dataset.from_list([_row(example) for example in parts.examples]),
        processing_class=parts.tokenizer,
        callbacks=parts.callbacks,
    )
    made.writing = writing
    return made


def _row(example: JSON) -> JSON:
    """The sample becomes text, since its fields have no one type."""
    return {"prompt": example["prompt"], "sample": json.dumps(example["sample"])}


def _settings(recipe: Recipe, params: GroupParams, writing: Writing) -> JSON:
    """What the configurations of GRPO and RLOO have in common."""
    return {
        "num_generations": params.num_generations,
        "generation_batch_size": params.round_size(recipe),
        "num_iterations": params.rollout_epochs,
        "max_completion_length": writing.sampling.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "epsilon": params.epsilon,
        "epsilon_high": params.epsilon_high,
        "beta": params.beta,
        # The reference model is loaded anew, from the same commit.
        "model_init_kwargs": {"revision": recipe.model_revision} if params.beta else None,
        "trust_remote_code": recipe.trust_remote_code,
        "mask_truncated_completions": False,
        "disable_dropout": False,
        "shuffle_dataset": True,
        "remove_unused_columns": False,
        "log_completions": False,
        **(_vllm(recipe, params, writing) if params.rollouts == "vllm" else {"use_vllm": False}),
    }


def _vllm(recipe: Recipe, params: GroupParams, writing: Writing) -> JSON:
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": params.vllm_memory_share,
        "vllm_enable_sleep_mode": params.vllm_sleep,
        "vllm_max_model_length": recipe.max_length,
        "generation_kwargs": {
            "stop": list(writing.sampling.stop),
            "stop_token_ids": sorted(writing.ending.ids),
            "min_tokens": writing.min_tokens,
        },
    }


def _reward(task: Task, ending: Ending) -> Callable[..., list[float]]:
    """A reward function of TRL: the grades of the task, with their parts as measures."""

    def task_reward(
        completion_ids: list[list[int]],
        sample: list[str],
        log_metric: Callable[[str, float], None],
        **others: Any,
    ) -> list[float]:
        rollouts = [ending.rollout(ids) for ids in completion_ids]
        scores = [
            grade(task, _answer(json.loads(line), rollout))
            for line, rollout in zip(sample, rollouts, strict=True)
        ]
        parts = reward_parts(scores)
        log_metric("reward_format", parts["reward_format"])
        log_metric("reward_answer", parts["reward_answer"])
        log_metric("truncated", sum(one.truncated for one in rollouts) / len(rollouts))
        return [score.value for score in scores]

    return task_reward


def _answer(sample: JSON, rollout: Rollout) -> Answer:
    return Answer(
        sample=sample_from_json(sample),
        text=rollout.text,
        tokens=len(rollout.ids),
        truncated=rollout.truncated,
    )
