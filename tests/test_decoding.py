"""Sampling, stop strings and the cache that decoding stands on; the loop is tested in
test_engines_hf.py."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch
from small_models import byte_level_tokenizer, metaspace_tokenizer

from harness.engines.kv_cache import BufferCache, is_out_of_memory
from harness.engines.sampling import Stream, pick
from harness.engines.stopping import Stops, Vocabulary
from harness.engines.tokenizing import Prepared
from harness.engines.trie import pack
from harness.types import Request, SamplingParams


@pytest.fixture(scope="module", params=[byte_level_tokenizer, metaspace_tokenizer])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(byte_level_tokenizer())


def stream(vocabulary: Vocabulary, index: int = 0, name: str = "q", **sampling: Any) -> Stream:
    params = SamplingParams(**sampling)
    prepared = Prepared(Request(id=name, kind="generate", prompt="x"), None, pack([5]))
    stops = Stops(vocabulary, params.stop)
    return Stream(prepared, index, params, stops, frozenset({1}), vocabulary, 0.0)


PROBABILITIES = torch.tensor([0.05, 0.4, 0.1, 0.25, 0.2])


def drawn(vocabulary: Vocabulary, count: int, **sampling: Any) -> Counter[int]:
    streams = [stream(vocabulary, n, **sampling) for n in range(count)]
    return Counter(pick(PROBABILITIES.log().expand(count, -1), streams).tolist())


@pytest.mark.parametrize("top_p", [1.0, 0.999])
def test_samples_follow_the_distribution(vocabulary: Vocabulary, top_p: float) -> None:
    counts = drawn(vocabulary, 8000, temperature=1.0, top_p=top_p)
    for token, probability in enumerate(PROBABILITIES.tolist()):
        # Four standard errors.
        margin = 4 * (probability * (1 - probability) / 8000) ** 0.5
        assert counts[token] / 8000 == pytest.approx(probability, abs=margin)


def test_the_nucleus_is_the_least_set_that_reaches_top_p(vocabulary: Vocabulary) -> None:
    assert drawn(vocabulary, 400, temperature=1.0, top_p=0.6).keys() == {1, 3}
    assert drawn(vocabulary, 400, temperature=1.0, top_p=0.7).keys() == {1, 3, 4}
    assert drawn(vocabulary, 50, temperature=1.0, top_p=0.3).keys() == {1}


def test_a_nucleus_wider_than_the_first_guess_is_found(vocabulary: Vocabulary) -> None:
    streams = [stream(vocabulary, n, temperature=1.0, top_p=0.99) for n in range(3000)]
    tokens = pick(torch.zeros(1, 3000).expand(3000, -1), streams)
    assert len(set(tokens.tolist())) > 1500


def test_temperature_sharpens_and_zero_is_greedy(vocabulary: Vocabulary) -> None:
    assert drawn(vocabulary, 20) == {1: 20}
    cold = drawn(vocabulary, 2000, temperature=0.25)
    assert cold[1] / 2000 == pytest.approx(0.4**4 / (PROBABILITIES**4).sum().item(), abs=0.04)


def test_rows_with_different_settings_share_a_batch(vocabulary: Vocabulary) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0},
        {"temperature": 0.5, "top_p": 0.9},
        {},
    ]

    def streams() -> list[Stream]:
        return [stream(vocabulary, n, **s) for n, s in enumerate(settings)]

    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    together = pick(logits, streams()).tolist()
    alone = [pick(logits[n : n + 1], [one]).item() for n, one in enumerate(streams())]
    assert together == alone


def test_streams_differ_by_seed_request_and_index(vocabulary: Vocabulary) -> None:
    streams = [
        stream(vocabulary),
        stream(vocabulary, seed=1),
        stream(vocabulary, index=1),
        stream(vocabulary, name="p"),
    ]
    assert len({one.generator.random() for one in streams}) == 4
    assert stream(vocabulary).generator.random() == stream(vocabulary).generator.random()


def test_a_token_that_may_end_a_stop_string_is_never_overlooked(tokenizer: Any) -> None:
    vocabulary = Vocabulary(tokenizer)
    draw = random.Random(0)
    for _ in range(300):
        ids = [draw.randrange(4, len(tokenizer)) for _ in range(12)]
        text = vocabulary.decode(ids)
        start = draw.randrange(max(1, len(text)))
        stop = text[start : start + draw.randrange(1, 6)]
        stops = Stops(vocabulary, [stop, "\n\nQuestion:"])
        first = next((n for n in range(12) if stops.cut(vocabulary.decode(ids[: n + 1]))), None)
        if first is not None:
            assert stops.may_end_with(ids[first]), (stop, vocabulary.text(ids[first]))


def test_most_tokens_need_no_decoding(vocabulary: Vocabulary) -> None:
    stops = Stops(vocabulary, ["Question:", "</s>", "\n\n"])
    ascii_tokens = [t for t in range(4, 600) if vocabulary.text(t).isascii()]
    assert sum(map(stops.may_end_with, ascii_tokens)) < 0.1 * len(ascii_tokens)
    assert not any(map(Stops(vocabulary, []).may_end_with, range(600)))


def test_a_special_token_named_as_stop_string_stops(vocabulary: Vocabulary) -> None:
    tokenizer = byte_level_tokenizer()
    token = tokenizer.convert_tokens_to_ids("<|im_end|>")
    fox = tokenizer.encode(" fox", add_special_tokens=False)
    one = stream(vocabulary, stop=("<|im_end|>",))
    assert [one.push(t) for t in fox] == [None] * len(fox)
    completion = one.push(token)
    assert completion is not None
    assert (completion.text, completion.finish_reason) == (" fox", "stop")


def test_the_stop_that_ended_a_text_stays_in_it_where_the_protocol_wants_it(
    vocabulary: Vocabulary,
) -> None:
    tokenizer = byte_level_tokenizer()
    ids = tokenizer.encode("7 </answer>", add_special_tokens=False)
    one = stream(vocabulary, stop=("</answer>",), include_stop=True, max_tokens=50)
    assert [one.push(token) for token in ids][:-1] == [None] * (len(ids) - 1)
    assert one.completion is not None
    assert (one.completion.text, one.completion.finish_reason) == ("7 </answer>", "stop")
    ended = stream(vocabulary, stop=("</answer>",), include_stop=True)
    assert [ended.push(token) for token in (*ids[:2], 1)][-1] is ended.completion
    assert ended.completion is not None
    assert ended.completion.text == vocabulary.decode(ids[:2])


def test_a_special_token_that_stops_stays_where_the_protocol_wants_it(
    vocabulary: Vocabulary,
) -> None:
    token = byte_level_tokenizer().convert_tokens_to_ids("<|im_end|>")
    completion = stream(vocabulary, stop=("<|im_end|>",), include_stop=True).push(token)
    assert completion is not None
    assert completion.text == "<|im_end|>"


def test_characters_of_several_tokens_come_out_whole(vocabulary: Vocabulary) -> None:
    tokenizer = byte_level_tokenizer()
    ids = tokenizer.encode("🙂é", add_special_tokens=False)
    assert len(ids) > 2
    one = stream(vocabulary, stop=("é",), max_tokens=50)
    pushed = [one.push(token) for token in ids]
    assert pushed[:-1] == [None] * (len(ids) - 1)
    assert one.completion is not None
    assert one.completion.text == "🙂"


def states(tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(1, 2, tokens, 3, generator=torch.Generator().manual_seed(seed))


def test_a_cache_that_was_cut_back_goes_on_from_there() -> None:
    cache, kept, lost, new = BufferCache(), states(300, 0), states(50, 1), states(400, 2)
    cache.update(kept, -kept, 0)
    cache.update(lost, -lost, 0)
    cache.cut(300)
    keys, values = cache.update(new, -new, 0)
    assert torch.equal(keys, torch.cat([kept, new], dim=2))
    assert torch.equal(values, -keys)
    assert cache.get_seq_length() == 700
    cache.cut(0)
    assert cache.get_seq_length() == 0


def test_rows_are_gathered_from_their_places() -> None:
    cache, whole = BufferCache(), states(10, 0)
    cache.update(whole, -whole, 0)
    places = torch.tensor([[0, 1, 2], [0, 7, 3]])
    ((keys, values),) = cache.rows(places)
    assert torch.equal(keys, torch.stack([whole[0][:, row] for row in places]))
    assert torch.equal(values, -keys)


def test_allocation_failures_are_told_from_other_errors() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
