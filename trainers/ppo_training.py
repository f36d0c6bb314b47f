"""The loop of PPO: a round of experience, then a few passes over it, until the steps are done."""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from harness.types import Recipe
from trainers.actor_critic import ActorCritic, Reference
from trainers.advantages import AdaptiveKL, clipped_policy_loss, clipped_value_loss
from trainers.experience import Collector, Experience, chunks, drawn
from trainers.optimizing import adamw, schedule
from trainers.ppo import Params
from trainers.problems import Problem
from trainers.rewards import reward_task
from trainers.rollouts import Ending, eos_ids
from trainers.watching import NotFiniteLossError, peak_memory_bytes

# What is summed over the tokens of an optimiser step.
_SUMS = ("loss", "policy_loss", "value_loss", "clip_fraction", "update_kl")


class PPO:
    """A training run as one process sees it."""

    def __init__(
        self,
        accelerator: Accelerator,
        recipe: Recipe,
        policy: Any,
        tokenizer: Any,
        problems: Sequence[Problem],
    ) -> None:
        self.accelerator, self.recipe, self.problems = accelerator, recipe, problems
        self.params = params = Params(**recipe.params)
        self.kl = AdaptiveKL(params.kl_coef, params.kl_target, params.kl_horizon)
        self.step = self.round = self.skipped = 0
        learns = params.entropy_coef > 0
        actor = ActorCritic(policy, params.critic, params.temperature, entropy_learns=learns)
        self.actor = actor.to(accelerator.device)
        task = reward_task(params.reward)
        self.collector = Collector(
            accelerator=accelerator,
            actor=actor,
            reference=Reference(policy, params.temperature),
            task=task,
            params=params,
            ending=Ending(tokenizer, eos_ids(policy, tokenizer), params.sampling(task)),
            pad_id=tokenizer.pad_token_id,
            micro_batch_size=recipe.micro_batch_size,
        )
        optimizer = adamw(self.actor, recipe.optimizer)
        self.schedule = schedule(optimizer, recipe.optimizer, self.steps)
        self.model, self.optimizer = accelerator.prepare(self.actor, optimizer)

    @property
    def round_size(self) -> int:
        """Completions of one round over all processes."""
        return self.params.round_size(self.recipe)

    @property
    def steps_per_round(self) -> int:
        return self.params.ppo_epochs * self.round_size // self.recipe.global_batch_size

    @property
    def steps(self) -> int:
        """Optimiser steps until `epochs` passes over the problems, or `max_steps`, are done."""
        ends: list[int] = [] if self.recipe.max_steps is None else [self.recipe.max_steps]
        if self.recipe.epochs is not None:
            rounds = math.ceil(self.recipe.epochs * len(self.problems) / self.round_size)
            ends.append(rounds * self.steps_per_round)
        return min(ends)

    @property
    def epoch(self) -> float:
        return self.round * self.round_size / len(self.problems)

    def rounds(self) -> Iterator[dict[str, float]]:
        """Trains, and gives what was measured in each round once it is over."""
        while self.step < self.steps:
            begun = time.perf_counter()
            # The state of a run is its step and its weights: every round draws anew.
            torch.manual_seed(self._seed())
            experience = self.collector.collect(self._problems(), self.kl.coefficient)
            updates = self._learn(experience)
            self.round += 1
            self.kl.update(experience.measures["kl"], self.round_size)
            yield {**experience.measures, **updates, **self._cost(experience, begun)}

    def _seed(self) -> int:
        ranks, rank = int(self.accelerator.num_processes), int(self.accelerator.process_index)
        return self.recipe.seed * 1_000_003 + self.round * ranks + rank

    def _problems(self) -> list[Problem]:
        """This process's share of the round's problems."""
        start = self.round * self.round_size
        places = drawn(len(self.problems), self.recipe.seed, start, self.round_size)
        mine = list(places)[self.accelerator.process_index :: self.accelerator.num_processes]
        return [self.problems[place] for place in mine]

    def _learn(self, experience: Experience) -> dict[str, float]:
        """A few passes over the round, and the means of what its optimiser steps measured."""
        measured: dict[str, list[float]] = defaultdict(list)
        for _ in range(self.params.ppo_epochs):
            for rows in self._minibatches(len(experience.values)):
                if self.step < self.steps:
                    for name, value in self._update(experience, rows).items():
                        measured[name].append(value)
        return {name: sum(values) / len(values) for name, values in measured.items()}

    def _minibatches(self, n: int) -> list[Tensor]:
        size = self.recipe.global_batch_size // self.accelerator.num_processes
        return chunks(torch.randperm(n), size)

    def _update(self, experience: Experience, rows: Tensor) -> dict[str, float]:
        """One optimiser step from all of `rows`, whatever the size of a forward pass."""
        self.model.train()
        tokens = self.collector.total(experience.sequences.mask[rows].sum())
        parts = chunks(rows, self.recipe.micro_batch_size)
        sums = torch.zeros(len(_SUMS), device=self.accelerator.device)
        for number, part in enumerate(parts, start=1):
            with self._synchronised(number == len(parts)):
                sums += self._backward(experience, part, tokens)
        norm = self.accelerator.clip_grad_norm_(self.actor.parameters(), self._max_norm())
        rate = self.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.skipped += self.optimizer.step_was_skipped  # fp16 gradients that overflowed
        self.schedule.step()
        self.optimizer.zero_grad()
        self.step += 1
        means = (self.collector.total(sums) / tokens).tolist()
        measured = dict(zip(_SUMS, means, strict=True))
        if not math.isfinite(measured["loss"]):
            raise NotFiniteLossError(f"the loss is {measured['loss']} at step {self.step}")
        return {**measured, "grad_norm": float(norm), "learning_rate": rate}

    def _backward(self, experience: Experience, rows: Tensor, tokens: Tensor) -> Tensor:
        """Gradients of these rows' share of the loss, a mean over the `tokens` of the step.

        Gives the sums of `_SUMS` over the rows' tokens.
        """
        params, mask = self.params, experience.sequences.mask[rows]
        with self.accelerator.autocast():
            judged = self.model(experience.sequences.rows(rows))
        difference = judged.logprobs - experience.logprobs[rows]
        ratio = difference.exp()
        policy = clipped_policy_loss(ratio, experience.advantages[rows], params.clip, params.clip)
        value = clipped_value_loss(
            judged.values, experience.values[rows], experience.returns[rows], params.value_clip
        )
        loss = policy + params.value_coef * value - params.entropy_coef * judged.entropy
        # DDP takes the mean over the processes, and the tokens are those of all of them.
        share = self.accelerator.num_processes / tokens
        self.accelerator.backward((loss * mask).sum() * share)
        clipped = (ratio - 1).abs() > params.clip
        columns = (loss, policy, value, clipped.float(), ratio - 1 - difference)
        return torch.stack([(column.detach() * mask).sum() for column in columns])

    def _synchronised(self, last: bool) -> Any:
        """Gradients cross between processes once a step."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(self.model)

    def _max_norm(self) -> float:
        return self.recipe.optimizer.max_grad_norm or math.inf

    def _cost(self, experience: Experience, begun: float) -> dict[str, float]:
        tokens = self.collector.total(experience.sequences.attention.sum())
        return {
            "tokens_per_second": float(tokens) / (time.perf_counter() - begun),
            "memory_bytes": float(peak_memory_bytes()),
            "skipped_steps": float(self.skipped),
        }

    def state(self) -> dict[str, Any]:
        """All that a run goes on from."""
        return {
            "step": self.step,
            "round": self.round,
            "skipped": self.skipped,
            "kl_coef": self.kl.coefficient,
            "trained": {name: tensor.detach() for name, tensor in self.actor.trained().items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.step, self.round, self.skipped = state["step"], state["round"], state["skipped"]
        self.kl.coefficient = state["kl_coef"]
        with torch.no_grad():
            for name, tensor in self.actor.trained().items():
                tensor.copy_(state["trained"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
