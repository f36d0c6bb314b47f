"""One round of experience: completions of the current policy, graded, with their advantages."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from harness.task import Task
from trainers.actor_critic import ActorCritic, Reference, Sequences
from trainers.advantages import (
    explained_variance,
    gae,
    kl_estimate,
    masked_mean,
    token_rewards,
    whiten,
)
from trainers.ppo import Params
from trainers.problems import Problem
from trainers.rewards import Answer, grade, reward_parts
from trainers.rollouts import Ending, Rollout, generate, left_padded, right_padded


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """What a round is learned from: a row for each completion, a column for each response token.

    logprobs, values: of the policy and the critic that the round began with. measures: of the
    round, over all processes; kl among them is in nats a completion.
    """

    sequences: Sequences
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    measures: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Makes experience on one process. micro_batch_size: rows of one forward pass."""

    accelerator: Accelerator
    actor: ActorCritic
    reference: Reference
    task: Task
    params: Params
    ending: Ending
    pad_id: int
    micro_batch_size: int

    def collect(self, problems: Sequence[Problem], kl_coef: float) -> Experience:
        rollouts = self._rollouts(problems)
        sequences = as_sequences(problems, rollouts, self.pad_id, self.accelerator.device)
        logprobs, values, entropy, reference = self._judged(sequences)
        mask = sequences.mask
        kl = kl_estimate(logprobs, reference, self.params.kl_estimator) * mask
        scores = [
            grade(self.task, _answer(problem, rollout))
            for problem, rollout in zip(problems, rollouts, strict=True)
        ]
        earned = mask.new_tensor([score.value for score in scores])
        rewards = token_rewards(earned, kl, mask, kl_coef)
        advantages, returns = gae(rewards, values, mask, self.params.gamma, self.params.lam)
        if self.params.whiten_advantages:
            advantages = whiten(advantages, mask, self.total)
        measures = {
            **reward_parts(gather_object(scores)),
            "kl": self._mean(kl.sum(dim=1)),
            "kl_coef": kl_coef,
            "entropy": float(masked_mean(entropy, mask, self.total)),
            "response_length": self._mean(mask.sum(dim=1)),
            "truncated": self._mean(mask.new_tensor([one.truncated for one in rollouts])),
            "explained_variance": float(explained_variance(values, returns, mask, self.total)),
        }
        return Experience(
            sequences=sequences,
            logprobs=logprobs,
            values=values,
            advantages=advantages,
            returns=returns,
            measures=measures,
        )

    def total(self, sums: Tensor) -> Tensor:
        """The sum over all processes of each entry."""
        return self.accelerator.reduce(sums, reduction="sum")  # type: ignore[no-any-return]

    def _mean(self, of_rows: Tensor) -> float:
        return float(masked_mean(of_rows, torch.ones_like(of_rows), self.total))

    def _rollouts(self, problems: Sequence[Problem]) -> list[Rollout]:
        sampling, size = self.params.sampling(self.task), self.params.rollout_micro_batch_size
        rollouts: list[Rollout] = []
        for start in range(0, len(problems), size):
            prompts = [problem.prompt for problem in problems[start : start + size]]
            with self.accelerator.autocast():
                rollouts += generate(
                    self.actor.policy,
                    prompts,
                    self.ending,
                    sampling,
                    self.pad_id,
                    self.params.min_tokens,
                )
        return rollouts

    @torch.no_grad()
    def _judged(self, sequences: Sequences) -> tuple[Tensor, ...]:
        """Log-probabilities, values, entropies and the reference's log-probabilities."""
        self.actor.eval()
        parts = []
        for rows in chunks(torch.arange(len(sequences.ids)), self.micro_batch_size):
            part = sequences.rows(rows)
            with self.accelerator.autocast():
                judged = self.actor(part)
                reference = self.reference.logprobs(part)
            parts.append((judged.logprobs, judged.values, judged.entropy, reference))
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def as_sequences(
    problems: Sequence[Problem], rollouts: Sequence[Rollout], pad_id: int, device: Any
) -> Sequences:
    prompts, prompt_mask = left_padded([problem.prompt for problem in problems], pad_id, device)
    responses, mask = right_padded([rollout.ids for rollout in rollouts], pad_id, device)
    return Sequences(
        ids=torch.cat([prompts, responses], dim=1),
        attention=torch.cat([prompt_mask, mask], dim=1),
        mask=mask.float(),
    )


def chunks(rows: Tensor, size: int) -> list[Tensor]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _answer(problem: Problem, rollout: Rollout) -> Answer:
    return Answer(
        sample=problem.sample,
        text=rollout.text,
        tokens=len(rollout.ids),
        truncated=rollout.truncated,
    )


def drawn(n: int, seed: int, start: int, count: int) -> Iterator[int]:
    """Which of n problems come at places start, start + 1, …: all of them, shuffled anew, again
    and again. It follows from the seed alone, so that a resumed run goes on where it stopped."""
    order: list[int] = []
    shuffled = -1
    for place in range(start, start + count):
        if place // n != shuffled:
            shuffled = place // n
            order = random.Random(seed + shuffled).sample(range(n), n)
        yield order[place % n]
