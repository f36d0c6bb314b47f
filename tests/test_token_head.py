"""The chunked head and loss against the plain formulas on whole logits."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from trainers import losses, token_head  # noqa: E402
from trainers.token_head import Head, Reference, TokenLoss  # noqa: E402

ROWS, DIM, VOCABULARY = 37, 16, 90


def drawn(*shape: int, seed: int, dtype: Any = torch.float32) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 positions and 32 columns, so that all of the loops go round."""
    monkeypatch.setattr(token_head, "CHUNK_BYTES", {"cpu": 1})
    monkeypatch.setattr(token_head, "TILE", 32)


def whole_logits(hidden: Any, weight: Any, bias: Any, scale: float, softcap: float | None) -> Any:
    logits = (hidden @ weight.t() + (0 if bias is None else bias)) * scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("transform", [(1.0, None), (0.5, 3.0)])
@pytest.mark.parametrize(
    "spec",
    [
        TokenLoss(),
        TokenLoss(weighting="probability"),
        TokenLoss(kl_weight=0.3),
        TokenLoss(weighting="probability", kl_weight=0.3),
        TokenLoss(weighting="probability", kl_weight=0.3, direction="reverse"),
    ],
    ids=["sft", "dft", "sft_kl", "asft", "asft_reverse"],
)
def test_loss_and_gradients_in_chunks_equal_those_of_whole_logits(
    spec: TokenLoss, transform: tuple[float, float | None], bias: bool
) -> None:
    scale, softcap = transform
    inputs = [drawn(ROWS, DIM, seed=1), drawn(VOCABULARY, DIM, seed=2)]
    inputs += [drawn(VOCABULARY, seed=3)] if bias else []
    start = [drawn(ROWS, DIM, seed=4), drawn(VOCABULARY, DIM, seed=5)]
    labels = torch.randint(0, VOCABULARY, (ROWS,), generator=torch.Generator().manual_seed(6))
    shares = drawn(ROWS, seed=7).abs()

    chunked = [each.clone().requires_grad_() for each in inputs]
    head = Head(weight=chunked[1], bias=chunked[2] if bias else None, scale=scale, softcap=softcap)
    start_head = Head(weight=start[1], scale=scale, softcap=softcap)
    reference = Reference(hidden=start[0], head=start_head) if spec.kl_weight else None
    sums = token_head.token_loss(chunked[0], head, labels, shares, spec, reference)
    (2 * sums.loss).backward()

    whole = [each.double().requires_grad_() for each in inputs]
    logits = whole_logits(whole[0], whole[1], whole[2] if bias else None, scale, softcap)
    other = whole_logits(start[0].double(), start[1].double(), None, scale, softcap)
    options = {"weighting": spec.weighting, "kl_weight": spec.kl_weight}
    per_token = losses.token_losses(
        logits,
        labels,
        other if spec.kl_weight else None,
        direction=spec.direction,
        **options,
    )
    loss = (per_token * shares).sum()
    (2 * loss).backward()

    assert sums.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for got, expected in zip(chunked, whole, strict=True):
        torch.testing.assert_close(got.grad.double(), expected.grad, atol=1e-5, rtol=1e-5)
    assert sums.entropy.item() == pytest.approx(losses.token_entropy(logits).sum().item(), 1e-5)
    assert sums.correct.item() == (logits.argmax(-1) == labels).sum().item()
    if spec.kl_weight:
        kl = losses.token_kl(logits, other, spec.direction).sum().item()
        assert sums.kl.item() == pytest.approx(kl, rel=1e-5)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_states_give_the_loss_of_their_float32_logits(dtype: Any) -> None:
    hidden, weight = drawn(ROWS, DIM, seed=1, dtype=dtype), drawn(VOCABULARY, DIM, seed=2)
    weight = weight.to(dtype).requires_grad_()
    labels = torch.arange(ROWS) % VOCABULARY
    start = Reference(hidden=hidden.flip(0), head=Head(weight=weight.detach()))
    spec = TokenLoss(weighting="probability", kl_weight=0.1)
    shares = torch.full((ROWS,), 1 / ROWS)
    sums = token_head.token_loss(hidden, Head(weight=weight), labels, shares, spec, start)
    sums.loss.backward()

    exact = weight.detach().float().requires_grad_()
    logits, other = hidden.float() @ exact.t(), hidden.flip(0).float() @ exact.detach().t()
    loss = losses.token_losses(logits, labels, other, weighting="probability", kl_weight=0.1).mean()
    loss.backward()
    assert sums.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert weight.grad.dtype == dtype
    torch.testing.assert_close(weight.grad.float(), exact.grad, atol=3e-3, rtol=2e-2)


def test_no_position_that_counts_gives_zero_and_zero_gradients() -> None:
    hidden, weight = drawn(0, DIM, seed=1).requires_grad_(), drawn(9, DIM, seed=2).requires_grad_()
    labels = torch.empty(0, dtype=torch.long)
    sums = token_head.token_loss(hidden, Head(weight=weight), labels, torch.empty(0), TokenLoss())
    sums.loss.backward()
    assert sums.loss.item() == 0
    assert weight.grad.abs().max().item() == 0


def test_a_frozen_head_gets_no_gradient_and_no_room_for_one() -> None:
    hidden, weight = drawn(4, DIM, seed=1).requires_grad_(), drawn(9, DIM, seed=2)
    sums = token_head.token_loss(
        hidden, Head(weight=weight), torch.arange(4), torch.ones(4), TokenLoss()
    )
    assert sums.loss.grad_fn.gradients.weight is None
    sums.loss.backward()
    assert hidden.grad is not None
    with torch.no_grad():
        quiet = token_head.token_loss(
            hidden, Head(weight=weight), torch.arange(4), torch.ones(4), TokenLoss()
        )
    assert not quiet.loss.requires_grad
