"""PPO in one process: what it computes from rollouts, and that it learns."""

from __future__ import annotations

import statistics
from typing import Any

import peft
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from harness.errors import UsageError
from harness.types import JSON, Recipe
from tests import rl_parts
from trainers.actor_critic import ActorCritic, Reference, Sequences, bare_model
from trainers.experience import as_sequences, drawn
from trainers.ppo import Params, check
from trainers.ppo_training import PPO
from trainers.problems import Problem
from trainers.rollouts import Rollout


def problems(n: int = 8) -> list[Problem]:
    encode = rl_parts.tokenizer().encode
    return [
        Problem(prompt=list(encode(s.input)), sample=s, example={})
        for s in rl_parts.short_samples(n)
    ]


def run(recipe: Recipe, policy: Any = None) -> PPO:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    policy = policy or rl_parts.model()
    return PPO(accelerator, recipe, policy, rl_parts.tokenizer(), problems())


def with_lora(targets: str = "all-linear") -> Any:
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    return peft.get_peft_model(rl_parts.model(), config)


def sequences() -> tuple[Sequences, list[list[int]]]:
    """Two rows of different lengths on both sides, and the same without padding."""
    encode = rl_parts.tokenizer().encode
    prompts = [list(encode(text)) for text in ("Question: 2+3?\nAnswer:", "Hi")]
    responses = [[7, 300, 2], [9, 12, 400, 33, 2]]
    made = [
        Problem(prompt=prompt, sample=sample, example={})
        for prompt, sample in zip(prompts, rl_parts.short_samples(2), strict=True)
    ]
    rollouts = [Rollout(ids=ids, text="", truncated=False) for ids in responses]
    return as_sequences(made, rollouts, 0, "cpu"), [
        prompt + response for prompt, response in zip(prompts, responses, strict=True)
    ]


def test_sequences_are_padded_on_the_outer_sides() -> None:
    padded, rows = sequences()
    assert padded.mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    for ids, attention, row in zip(padded.ids, padded.attention, rows, strict=True):
        assert ids[attention.bool()].tolist() == row


def log_probabilities(logits: Tensor, ids: list[int], n: int) -> Tensor:
    chosen = torch.log_softmax(logits[0, :-1].float(), dim=-1)[range(len(ids) - 1), ids[1:]]
    return chosen[-n:]


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_padding_changes_neither_log_probabilities_nor_values(critic: Any) -> None:
    model = rl_parts.model()
    actor = ActorCritic(model, critic, temperature=1.0).eval()
    torch.nn.init.normal_(actor.head.weight)
    padded, rows = sequences()
    with torch.no_grad():
        judged = actor(padded)
        for index, (ids, n) in enumerate(zip(rows, (3, 5), strict=True)):
            output = model(torch.tensor([ids]), output_hidden_states=True)
            expected = log_probabilities(output.logits, ids, n)
            torch.testing.assert_close(judged.logprobs[index, :n], expected, atol=1e-5, rtol=0)
            values = actor.head(output.hidden_states[-1])[0, -n - 1 : -1, 0]
            torch.testing.assert_close(judged.values[index, :n], values, atol=1e-4, rtol=0)


def test_log_probabilities_are_those_of_the_sampled_distribution() -> None:
    padded, rows = sequences()
    model = rl_parts.model()
    judged = ActorCritic(model, "shared", temperature=0.5)(padded)
    logits = model(torch.tensor([rows[1]])).logits
    expected = log_probabilities(logits / 0.5, rows[1], 5)
    torch.testing.assert_close(judged.logprobs[1], expected, atol=1e-5, rtol=0)


def test_the_reference_stays_what_the_policy_was() -> None:
    padded, _ = sequences()
    for policy in (rl_parts.model(), with_lora()):
        reference = Reference(policy, 1.0)
        before = ActorCritic(policy, "shared", 1.0)(padded).logprobs.detach()
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if parameter.requires_grad and "lora_A" not in name:
                    parameter.add_(0.05)
        after = ActorCritic(policy, "shared", 1.0)(padded).logprobs.detach()
        valid = padded.mask.bool()
        assert not torch.allclose(before[valid], after[valid], atol=1e-3)
        torch.testing.assert_close(reference.logprobs(padded)[valid], before[valid])


def test_problems_come_in_a_new_order_each_time_around_and_from_any_place() -> None:
    whole = list(drawn(5, seed=1, start=0, count=15))
    assert [sorted(whole[i : i + 5]) for i in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert whole[:5] != whole[5:10]
    assert list(drawn(5, seed=1, start=7, count=8)) == whole[7:]


def test_the_first_round_has_no_kl_and_rewards_the_last_token() -> None:
    ppo = run(rl_parts.recipe("ppo", params={"whiten_advantages": False, "lam": 1.0}))
    experience = ppo.collector.collect(ppo.problems, 0.05)
    assert experience.measures["kl"] == pytest.approx(0, abs=1e-4)
    assert experience.measures["reward"] > 0
    # The critic says 0 at first, so that with lambda 1 every token gets the reward of its row.
    mask = experience.sequences.mask
    rewards = experience.advantages.sum(dim=1) / mask.sum(dim=1)
    assert float(rewards.mean()) == pytest.approx(experience.measures["reward"], abs=1e-4)
    torch.testing.assert_close(experience.advantages, rewards[:, None] * mask, atol=1e-4, rtol=0)


def gradients(micro_batch_size: int, params: JSON) -> dict[str, Tensor]:
    """Of the first optimiser step, from Adam's first moment."""
    settings = {"whiten_advantages": False, "critic": "separate", "ppo_epochs": 1} | params
    recipe = rl_parts.recipe("ppo", micro_batch_size=micro_batch_size, params=settings)
    ppo = run(recipe)
    with torch.no_grad():
        torch.nn.init.normal_(ppo.actor.head.weight, std=0.02)
    next(ppo.rounds())
    state = ppo.optimizer.state
    return {
        name: state[parameter]["exp_avg"] / (1 - recipe.optimizer.beta1)
        for name, parameter in ppo.actor.trained().items()
    }


@pytest.mark.parametrize("params", [{}, {"critic": "shared", "entropy_coef": 0.01}])
def test_accumulated_gradients_equal_those_of_one_large_batch(params: JSON) -> None:
    whole, parts = gradients(8, params), gradients(2, params)
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-4, msg=name)
    assert max(float(gradient.abs().max()) for gradient in whole.values()) > 1e-3


def test_rounds_go_on_until_the_steps_or_the_epochs_are_done() -> None:
    params = {"rollout_batch_size": 16, "ppo_epochs": 3}
    assert run(rl_parts.recipe("ppo", params=params, max_steps=100, epochs=4.0)).steps == 12
    assert run(rl_parts.recipe("ppo", params=params, max_steps=7, epochs=4.0)).steps == 7


def test_a_run_that_goes_on_ends_where_an_unbroken_one_does() -> None:
    recipe = rl_parts.recipe("ppo", max_steps=4, params={"kl_target": 1.0, "kl_horizon": 10})
    whole = run(recipe)
    expected = list(whole.rounds())
    broken = run(recipe)
    first = next(broken.rounds())
    resumed = run(recipe)
    resumed.restore(broken.state())
    measured = [first, *resumed.rounds()]
    for got, wanted in zip(measured, expected, strict=True):
        for of_machine in ("tokens_per_second", "memory_bytes"):
            del got[of_machine], wanted[of_machine]
    assert measured == expected
    for name, parameter in whole.actor.trained().items():
        assert torch.equal(resumed.actor.trained()[name], parameter), name


def test_under_lora_only_the_adapters_and_the_critic_learn() -> None:
    policy = with_lora()
    before = {name: p.clone() for name, p in bare_model(policy).named_parameters()}
    ppo = run(rl_parts.recipe("ppo", params={"ppo_epochs": 2}), policy)
    measures = next(ppo.rounds())
    assert measures["kl"] == pytest.approx(0, abs=1e-4)
    now = dict(bare_model(policy).named_parameters())
    moved = [name for name, parameter in before.items() if not torch.equal(now[name], parameter)]
    assert moved
    assert all("lora_" in name for name in moved)
    assert ppo.actor.head.weight.abs().max() > 0


@pytest.mark.slow
def test_ppo_raises_the_mean_reward() -> None:
    params = {"rollout_batch_size": 64, "rollout_micro_batch_size": 64}
    recipe = rl_parts.recipe(
        "ppo",
        max_steps=20,
        global_batch_size=32,
        micro_batch_size=32,
        params=params | {"value_coef": 0.1, "kl_coef": 0.005},
    )
    rewards = [measures["reward"] for measures in run(recipe).rounds()]
    assert len(rewards) == 5
    assert statistics.fmean(rewards[-2:]) > rewards[0] + 0.2, rewards


@pytest.mark.parametrize(
    ("params", "changes", "message"),
    [
        ({}, {"launcher": "zero3"}, "`ppo` does not run under launcher `zero3`"),
        ({"rollout_batch_size": 12}, {}, "`params.rollout_batch_size` 12 is no multiple"),
        ({"reward": "medqa"}, {}, "scores given choices"),
    ],
)
def test_a_recipe_that_does_not_fit_together_is_refused(
    params: JSON, changes: JSON, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check(rl_parts.recipe("ppo", params=params, **changes))


@pytest.mark.parametrize(
    "wrong",
    [{"ppo_epochs": 0}, {"gamma": 1.5}, {"clip": 0}, {"kl_target": 0}, {"value_coef": -1}],
)
def test_parameters_out_of_range_are_refused(wrong: JSON) -> None:
    with pytest.raises(UsageError, match=rf"`params.{next(iter(wrong))}` is"):
        Params(reward="arithmetic", **wrong)
