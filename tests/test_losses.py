"""The losses against figures worked out by hand, and against plain formulas in float64."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from trainers import losses  # noqa: E402

LOGITS = [[2, 0, -1, 0.5], [0.5, 1.5, 0, -0.5], [0, 0, 3, 1]]
REFERENCE = [[1, 0.5, -0.5, 0], [0, 1, 0.5, 0], [0.5, -0.5, 1, 1]]
LABELS = [0, 3, 2]
KL_WEIGHT = 0.05

# The methods' losses and gradients at these logits, in float64.
SFT_GRADIENT = [
    [-0.09663336, 0.03203386, 0.01178460, 0.05281490],
    [0.07103243, 0.19308618, 0.04308335, -0.30720196],
    [0.01343879, 0.01343879, -0.06340800, 0.03653042],
]
DFT_GRADIENT = [
    [-0.06861934, 0.02274724, 0.00836824, 0.03750386],
    [0.00556853, 0.01513682, 0.00337748, -0.02408283],
    [0.01088241, 0.01088241, -0.05134628, 0.02958146],
]
SFT_KL_GRADIENT = [
    [-0.09238260, 0.02903548, 0.01068156, 0.05266556],
    [0.07196639, 0.19562494, 0.04092172, -0.30851306],
    [0.01053827, 0.01279650, -0.05580172, 0.03246695],
]
ASFT_GRADIENT = [
    [-0.06436858, 0.01974886, 0.00726520, 0.03735452],
    [0.00650248, 0.01767558, 0.00121585, -0.02539392],
    [0.00798189, 0.01024012, -0.04373999, 0.02551799],
]
ASFT_REVERSE_GRADIENT = [
    [-0.06534808, 0.02078742, 0.00764726, 0.03691340],
    [0.00630600, 0.01714148, 0.00167066, -0.02511809],
    [0.00945820, 0.01013014, -0.04621165, 0.02662331],
]
METHODS: dict[str, tuple[dict[str, Any], float, list[list[float]]]] = {
    "sft": ({}, 1.0331178652, SFT_GRADIENT),
    "dft": ({"weighting": "probability"}, 0.2045183817, DFT_GRADIENT),
    "sft_kl": ({"kl_weight": KL_WEIGHT}, 1.0472461736, SFT_KL_GRADIENT),
    "asft": (
        {"weighting": "probability", "kl_weight": KL_WEIGHT},
        0.2186466900,
        ASFT_GRADIENT,
    ),
    "asft_reverse": (
        {"weighting": "probability", "kl_weight": KL_WEIGHT, "direction": "reverse"},
        0.2164312688,
        ASFT_REVERSE_GRADIENT,
    ),
}


def exact(values: Any) -> Any:
    return torch.tensor(values, dtype=torch.float64)


def mean_loss(logits: Any, labels: list[int], options: dict[str, Any]) -> Any:
    reference = exact(REFERENCE) if "kl_weight" in options else None
    per_token = losses.token_losses(logits, torch.tensor(labels), reference, **options)
    return per_token.sum() / sum(label != losses.IGNORED for label in labels)


@pytest.mark.parametrize("method", METHODS)
def test_loss_and_gradient_equal_the_worked_example(method: str) -> None:
    options, value, gradient = METHODS[method]
    logits = exact(LOGITS).requires_grad_()
    loss = mean_loss(logits, LABELS, options)
    loss.backward()
    assert loss.item() == pytest.approx(value, abs=1e-6)
    torch.testing.assert_close(logits.grad, exact(gradient), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("sft", 1.3785020066),
        ("dft", 0.1852263665),
        ("sft_kl", 1.3945688576),
        ("asft", 0.2012932175),
    ],
)
def test_a_masked_token_counts_in_neither_loss_nor_gradient(method: str, value: float) -> None:
    logits = exact(LOGITS).requires_grad_()
    loss = mean_loss(logits, [losses.IGNORED, 3, 2], METHODS[method][0])
    loss.backward()
    assert loss.item() == pytest.approx(value, abs=1e-6)
    assert logits.grad[0].tolist() == [0.0] * 4


def test_token_measures_equal_the_worked_example() -> None:
    logits, reference, labels = exact(LOGITS), exact(REFERENCE), torch.tensor(LABELS)
    logprobs = losses.token_logprobs(logits, labels)
    measured = torch.stack(
        [
            -logprobs,
            logprobs.exp(),
            losses.token_kl(logits, reference),
            losses.token_kl(logits, reference, "reverse"),
        ]
    )
    expected = [
        [0.3423495824, 2.5460063899, 0.2109976232],
        [0.7100999229, 0.0783941172, 0.8097759915],
        [0.2050244625, 0.1108850381, 0.5317890022],
        [0.1685836832, 0.0974783321, 0.4487112126],
    ]
    torch.testing.assert_close(measured, exact(expected), atol=1e-9, rtol=0)


def test_the_weight_of_dft_has_no_gradient() -> None:
    logits = exact(LOGITS).requires_grad_()
    mean_loss(logits, LABELS, {"weighting": "probability"}).backward()
    probabilities = exact(LOGITS).softmax(-1)
    one_hot = torch.nn.functional.one_hot(torch.tensor(LABELS), 4)
    p = probabilities.gather(-1, torch.tensor(LABELS)[:, None])
    torch.testing.assert_close(logits.grad, p * (probabilities - one_hot) / 3)
    # What it would be if p were differentiated as well.
    trap = exact([-0.0451275381, 0.0149597320, 0.0055033778, 0.0246644283])
    assert (logits.grad[0] - trap).abs().max() > 0.01


def test_entropy_is_the_mean_surprise_and_has_no_gradient() -> None:
    logits = exact(LOGITS).requires_grad_()
    entropy = losses.token_entropy(logits)
    p = exact(LOGITS).softmax(-1)
    torch.testing.assert_close(entropy, -(p * p.log()).sum(-1))
    assert not entropy.requires_grad


def test_half_precision_logits_are_read_in_single_precision() -> None:
    logits = torch.randn(5, 4, 300, generator=torch.Generator().manual_seed(1)) * 4
    half = logits.bfloat16()
    labels = torch.randint(0, 300, (5, 4), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        losses.token_logprobs(half, labels), losses.token_logprobs(half.float(), labels)
    )


# Two sequences of 3 and 1 tokens that count, log-probabilities -1, -2, -3 and -0.5.
TWO_ROWS = torch.tensor(
    [
        [losses.IGNORED, 5, 6, 7, losses.IGNORED],
        [losses.IGNORED, losses.IGNORED, 5, losses.IGNORED, losses.IGNORED],
    ]
)
TOKEN_LOSSES = torch.tensor([[9.0, 1, 2, 3, 9], [9, 9, 0.5, 9, 9]])


@pytest.mark.parametrize(
    ("reduction", "value", "items"),
    [
        ("token_global", 6.5 / 4, 4),
        ("token_micro", 6.5 / 4, 1),
        ("sequence", (2 + 0.5) / 2, 2),
        ("sequence_sum", (6 + 0.5) / 2, 2),
    ],
)
def test_each_reduction_averages_over_what_its_name_says(
    reduction: losses.Reduction, value: float, items: int
) -> None:
    sequences = losses.rows(TWO_ROWS)
    shares = losses.token_shares(TWO_ROWS, sequences, reduction)
    count = losses.count_items(TWO_ROWS, sequences, reduction)
    assert count.item() == items
    assert ((TOKEN_LOSSES * shares).sum() / count).item() == pytest.approx(value)


def test_two_accumulated_halves_give_the_cs336_figures() -> None:
    """CS336 halves the loss of each of two micro-batches: 1.625 by sums, 0.625 by means."""
    sequences = losses.rows(TWO_ROWS)

    def halved(reduction: losses.Reduction) -> float:
        shares = losses.token_shares(TWO_ROWS, sequences, reduction)
        return float((TOKEN_LOSSES * shares).sum() / 2 / 2)

    assert (halved("sequence_sum"), halved("sequence")) == (1.625, 0.625)


def test_sequences_of_a_packed_row_are_told_apart_by_their_positions() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2]])
    sequences = losses.documents(positions)
    assert sequences.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2]]
    labels = torch.tensor([[-100, 4, 4, -100, -100, -100, 4, -100]])
    shares = losses.token_shares(labels, sequences, "sequence")
    assert shares.tolist() == [[0, 0.5, 0.5, 0, 0, 0, 1, 0]]
    assert losses.count_items(labels, sequences, "sequence").item() == 2


def test_micro_batches_of_dft_add_up_to_the_mean_over_all_tokens() -> None:
    """Means of the micro-batches {t0}, {t1, t2} would average to 0.214164."""
    options = METHODS["dft"][0]
    per_token = losses.token_losses(exact(LOGITS), torch.tensor(LABELS), **options)
    micro_batches = [slice(0, 1), slice(1, 3)]
    labels = [torch.tensor([LABELS[part]]) for part in micro_batches]

    def total(reduction: losses.Reduction) -> float:
        shares = [losses.token_shares(each, losses.rows(each), reduction) for each in labels]
        items = [losses.count_items(each, losses.rows(each), reduction) for each in labels]
        sums = [
            (per_token[part] * share[0]).sum()
            for part, share in zip(micro_batches, shares, strict=True)
        ]
        return float(sum(sums) / sum(items))

    assert total("token_global") == pytest.approx(0.2045183817, abs=1e-6)
    assert total("token_micro") == pytest.approx(0.2141643893, abs=1e-6)


SUMS = {"chosen": -6.0, "rejected": -4.0, "reference_chosen": -7.0, "reference_rejected": -3.5}
LENGTHS = {"chosen": 4, "rejected": 2, "reference_chosen": 4, "reference_rejected": 2}
MEANS = {name: value / LENGTHS[name] for name, value in SUMS.items()}


@pytest.mark.parametrize(
    ("logprobs", "options", "loss", "rewards"),
    [
        (SUMS, {"beta": 0.1}, 0.6209570478, (0.1, -0.05)),
        (SUMS, {"beta": 0.1, "label_smoothing": 0.1}, 0.6359570478, (0.1, -0.05)),
        (MEANS, {"beta": 5.0}, 0.0788897343, (1.25, -1.25)),
    ],
)
def test_dpo_of_sums_and_of_means_equals_the_worked_example(
    logprobs: dict[str, float],
    options: dict[str, float],
    loss: float,
    rewards: tuple[float, float],
) -> None:
    tensors = {name: exact([value]).requires_grad_() for name, value in logprobs.items()}
    pairs = losses.dpo(**tensors, **options)
    pairs.losses.sum().backward()
    assert pairs.losses.item() == pytest.approx(loss, abs=1e-6)
    assert (pairs.chosen_rewards.item(), pairs.rejected_rewards.item()) == pytest.approx(rewards)
    # d/dz of -(1-e) log s(z) - e log s(-z) is s(z) - (1 - e), times beta for a log-probability.
    beta, smoothing = options["beta"], options.get("label_smoothing", 0.0)
    slope = beta * (torch.sigmoid(pairs.margins).item() - (1 - smoothing))
    assert tensors["chosen"].grad.item() == pytest.approx(slope)
    assert tensors["rejected"].grad.item() == pytest.approx(-slope)


def test_sequence_logprobs_sum_over_what_counts() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 5, 11, generator=generator, dtype=torch.float64)
    labels = TWO_ROWS
    by_hand = [
        sum(
            torch.log_softmax(logits[row, place], -1)[labels[row, place]].item()
            for place in range(5)
            if labels[row, place] != losses.IGNORED
        )
        for row in range(2)
    ]
    assert losses.sequence_logprobs(logits, labels).tolist() == pytest.approx(by_hand)
