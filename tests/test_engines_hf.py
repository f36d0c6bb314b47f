from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import (
    CONTEXT,
    byte_level_tokenizer,
    causal_model,
    metaspace_tokenizer,
    save_checkpoint,
)

from harness.engines.base import HFSettings
from harness.engines.hf import HFEngine
from harness.engines.prompts import Prompts
from harness.errors import WorkerError
from harness.types import Completion, ModelSpec, Request, SamplingParams

SHOTS = "".join(f"Question: what is {n} plus {n}?\nAnswer: {2 * n}\n\n" for n in range(4))
CHOICES = (" A", " B", " the lazy dog", " Größe")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


Checkpoint = Callable[..., Path]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    made: dict[str, Path] = {}

    def make(kind: str = "llama", tokenizer: str = "byte", **changes: Any) -> Path:
        name = json.dumps([kind, tokenizer, changes])
        if name not in made:
            words = metaspace_tokenizer() if tokenizer == "metaspace" else byte_level_tokenizer()
            model = causal_model(kind, len(words), **changes)
            made[name] = save_checkpoint(tmp_path_factory.mktemp("model"), model, words)
        return made[name]

    return make


def engine_for(folder: Path, **settings: Any) -> HFEngine:
    return HFEngine(ModelSpec(name="m", path=str(folder)), HFSettings(**settings))


def answers(engine: HFEngine, requests: Sequence[Request]) -> dict[tuple[str, int], Completion]:
    engine.tokenize(requests)
    engine.load()
    completions = list(engine.run(requests))
    found = {(c.request_id, c.index): c for c in completions}
    assert len(found) == len(completions)
    return found


def questions(count: int = 12) -> list[Request]:
    """Some with a long shared start, some that stand alone, two that are the same."""
    return [
        Request(
            id=f"q{n}",
            kind="choose",
            prompt=(SHOTS if n % 3 else "") + f"Question: the fox {n % 10}\nAnswer:",
            choices=CHOICES,
        )
        for n in range(count)
    ]


def scored_alone(folder: Path, prompt: str, choice: str) -> tuple[float, bool]:
    """Sum of log-probabilities by one plain forward of one sequence, and whether it is greedy."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    context, whole = tokenizer.encode(prompt), tokenizer.encode(prompt + choice)
    with torch.inference_mode():
        logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    places = range(len(context), len(whole))
    total = sum(logprobs[n - 1, whole[n]].item() for n in places)
    return total, all(logprobs[n - 1].argmax().item() == whole[n] for n in places)


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("tree", {}),
    "gpt2": ("tree", {}),
    "qwen2": ("tree", {}),
    "gemma2": ("tree", {}),
    # Windows and distances that a packed sequence would get wrong.
    "gemma2-window": ("rows", {"sliding_window": 16}),
    "mistral-window": ("rows", {"sliding_window": 16}),
    "bloom": ("rows", {}),
    "mamba": ("rows", {}),
}


def model_folder(checkpoint: Checkpoint, name: str) -> Path:
    return checkpoint(name.partition("-")[0], **MODELS[name][1])


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_each_sequence_alone(checkpoint: Checkpoint, name: str) -> None:
    folder = model_folder(checkpoint, name)
    requests = questions()
    engine = engine_for(folder, chunk_tokens=64, max_model_len=CONTEXT)
    found = answers(engine, requests)
    assert engine.stats()["scoring"] == MODELS[name][0]
    for request in requests:
        assert isinstance(request.prompt, str)
        alone = [scored_alone(folder, request.prompt, choice) for choice in request.choices]
        completion = found[request.id, 0]
        assert completion.choice_logprobs == pytest.approx([lp for lp, _ in alone], abs=2e-5)
        assert completion.choice_greedy == tuple(greedy for _, greedy in alone)


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_likeliest_first_tokens_are_told_where_asked_for(checkpoint: Checkpoint, name: str) -> None:
    folder = model_folder(checkpoint, name)
    plain = questions()
    asked = [replace(one, top_tokens=5) for one in plain]
    told, scores = (answers(engine_for(folder, chunk_tokens=64), r) for r in (asked, plain))
    for request in asked:
        assert isinstance(request.prompt, str)
        found = told[request.id, 0]
        likely = likeliest_alone(folder, request.prompt, 5)
        assert [text for text, _ in found.top_tokens] == [text for text, _ in likely]
        logprobs = [logprob for _, logprob in found.top_tokens]
        assert logprobs == pytest.approx([logprob for _, logprob in likely], abs=2e-5)
        assert found.text == likely[0][0]
        assert found.choice_logprobs == scores[request.id, 0].choice_logprobs
        assert scores[request.id, 0].top_tokens == ()


def likeliest_alone(folder: Path, prompt: str, count: int) -> list[tuple[str, float]]:
    """The likeliest tokens after a prompt, by one plain forward."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        last = model(torch.tensor([tokenizer.encode(prompt)])).logits[0, -1].log_softmax(-1)
    values, ids = last.topk(count)
    return [(tokenizer.decode([i]), v) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]


def test_rows_longer_than_those_known_at_load_are_tried_again(checkpoint: Checkpoint) -> None:
    folder = checkpoint("gemma2", sliding_window=64)
    short, long = questions(1), questions(3)[1:]
    engine = engine_for(folder, max_model_len=CONTEXT)
    answers(engine, short)
    assert engine.stats()["scoring"] == "tree"
    found = {c.request_id: c for c in engine.run(long)}
    assert engine.stats()["scoring"] == "rows"
    for request in long:
        alone = [scored_alone(folder, str(request.prompt), choice)[0] for choice in CHOICES]
        assert found[request.id].choice_logprobs == pytest.approx(alone, abs=2e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2-window"])
def test_a_choice_scored_as_loglikelihood_request_gets_the_same(
    checkpoint: Checkpoint, name: str
) -> None:
    together = questions(4)
    single = [
        Request(id=f"{r.id}-{n}", kind="loglikelihood", prompt=r.prompt, choices=(choice,))
        for r in together
        for n, choice in enumerate(r.choices)
    ]
    found = answers(engine_for(model_folder(checkpoint, name)), [*together, *single])
    for request in together:
        alone = [found[f"{request.id}-{n}", 0].choice_logprobs[0] for n in range(len(CHOICES))]
        assert found[request.id, 0].choice_logprobs == pytest.approx(alone, abs=2e-5)


def test_many_choices_below_one_long_prompt_outgrow_a_forward(checkpoint: Checkpoint) -> None:
    choices = tuple(f" {word} {n}" for n in range(25) for word in ("fox", "Straße"))
    request = Request(id="q", kind="choose", prompt=SHOTS + "Answer:", choices=choices)
    small = answers(engine_for(checkpoint(), chunk_tokens=32), [request])
    large = answers(engine_for(checkpoint(), chunk_tokens=4096), [request])
    assert small["q", 0].choice_logprobs == pytest.approx(large["q", 0].choice_logprobs, abs=2e-5)


def test_tokens_forwarded_are_hardly_more_than_the_distinct_ones(checkpoint: Checkpoint) -> None:
    requests = questions(200)
    engine = engine_for(checkpoint(), chunk_tokens=256)
    counted = engine.tokenize(requests)
    answers(engine, requests)
    stats = engine.stats()
    assert stats["distinct_tokens"] == counted.distinct_tokens
    assert counted.distinct_tokens <= stats["forwarded_tokens"] <= 1.05 * counted.distinct_tokens
    assert counted.prompt_tokens > 5 * counted.distinct_tokens


def test_tokenize_describes_the_prompts_without_weights(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    requests = [*questions(3), *prompts(2, max_tokens=70)]
    counted = engine_for(folder).tokenize(requests)
    assert counted.n_requests == 5
    assert counted.context == CONTEXT
    assert counted.first_prompt == requests[0].prompt
    assert counted.first_ids[0] == 0
    assert counted.bos_count == 1
    assert counted.longest[0] == "g1"
    assert counted.longest[2] == 70
    again = engine_for(folder).tokenize(requests)
    assert again == counted
    assert engine_for(folder).tokenize(requests[1:]).prompts_sha256 != counted.prompts_sha256


def prompts(count: int, **sampling: Any) -> list[Request]:
    return [
        Request(
            id=f"g{n}",
            kind="generate",
            prompt=SHOTS[: 90 * (n % 3)] + "The quick " + "brown fox " * (n % 5),
            sampling=SamplingParams(**sampling),
        )
        for n in range(count)
    ]


def greedy_ids(folder: Path, prompt: str, max_tokens: int) -> list[int]:
    """What transformers' own generate adds to one prompt."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([tokenizer.encode(prompt)])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False
    )
    return list(output[0, ids.shape[1] :].tolist())


def decoded(folder: Path, ids: Sequence[int]) -> str:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return str(tokenizer.decode(ids, skip_special_tokens=True))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gemma2-window", "bloom", "mamba"])
def test_greedy_text_is_that_of_transformers_generate(checkpoint: Checkpoint, name: str) -> None:
    folder = model_folder(checkpoint, name)
    requests = prompts(12, max_tokens=24)
    engine = engine_for(folder, batch_size=4, chunk_tokens=48, max_model_len=CONTEXT)
    found = answers(engine, requests)
    for request in requests:
        ids = greedy_ids(folder, str(request.prompt), 24)
        completion = found[request.id, 0]
        assert completion.text == decoded(folder, ids)
        assert completion.completion_tokens == len(ids)
        assert completion.finish_reason == ("stop" if ids[-1] == 1 else "length")


def test_prompts_are_read_once_however_many_samples_are_asked(checkpoint: Checkpoint) -> None:
    requests = prompts(6, max_tokens=4, n=5, temperature=1.0)
    engine = engine_for(checkpoint(), batch_size=4)
    found = answers(engine, requests)
    assert sorted(found) == [(f"g{n}", index) for n in range(6) for index in range(5)]
    stats = engine.stats()
    assert stats["forwarded_tokens"] <= 1.05 * stats["distinct_tokens"]


def test_a_model_that_ends_at_several_tokens_stops_at_each(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    request = prompts(1, max_tokens=30)[0]
    ids = greedy_ids(checkpoint(), str(request.prompt), 30)
    words = byte_level_tokenizer()
    model = causal_model("llama", len(words))
    model.generation_config.eos_token_id = [1, ids[7]]
    folder = save_checkpoint(tmp_path, model, words)
    found = answers(engine_for(folder), [request])["g0", 0]
    first = ids.index(ids[7])
    assert (found.text, found.finish_reason) == (decoded(folder, ids[:first]), "stop")


def test_sampling_settings_in_the_checkpoint_are_not_used(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    words = byte_level_tokenizer()
    model = causal_model("llama", len(words))
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0)
    changed = answers(engine_for(save_checkpoint(tmp_path, model, words)), prompts(3, max_tokens=9))
    plain = answers(engine_for(checkpoint()), prompts(3, max_tokens=9))
    assert [c.text for c in changed.values()] == [c.text for c in plain.values()]


def cut_by_hand(folder: Path, ids: Sequence[int], stops: Sequence[str]) -> tuple[str, str]:
    """Text and reason by decoding everything after every token."""
    for count in range(1, len(ids) + 1):
        text = decoded(folder, ids[:count])
        found = [text.index(stop) for stop in stops if stop in text]
        if found:
            return text[: min(found)], "stop"
    return decoded(folder, ids), "stop" if ids[-1] == 1 else "length"


@pytest.mark.parametrize(
    ("name", "tokenizer"),
    [("llama", "byte"), ("llama", "metaspace"), ("gemma2-window", "byte")],
)
def test_stop_strings_cut_where_they_first_appear(
    checkpoint: Checkpoint, name: str, tokenizer: str
) -> None:
    folder = checkpoint(name.partition("-")[0], tokenizer, **MODELS[name][1])
    request = prompts(3)[2]
    ids = greedy_ids(folder, str(request.prompt), 40)
    text = decoded(folder, ids)
    # Single characters, pieces over token borders, pieces inside of tokens, and none of them.
    stops = [text[at : at + width] for at in range(3, len(text) - 8, 5) for width in (1, 2, 7)]
    cases = [(stop,) for stop in stops] + [(stops[5], stops[-1]), ("never written",)]
    requests = [
        Request(
            id=str(n),
            kind="generate",
            prompt=request.prompt,
            sampling=SamplingParams(max_tokens=40, stop=stop),
        )
        for n, stop in enumerate(cases)
    ]
    found = answers(engine_for(folder, max_model_len=CONTEXT), requests)
    assert [(found[r.id, 0].text, found[r.id, 0].finish_reason) for r in requests] == [
        cut_by_hand(folder, ids, stop) for stop in cases
    ]


def texts(found: dict[tuple[str, int], Completion]) -> dict[tuple[str, int], str]:
    return {key: completion.text for key, completion in found.items()}


@pytest.mark.parametrize("name", ["llama", "gemma2-window"])
def test_samples_depend_on_the_seed_and_not_on_the_batch(checkpoint: Checkpoint, name: str) -> None:
    folder = model_folder(checkpoint, name)
    sampling = {"max_tokens": 12, "n": 3, "temperature": 1.0, "top_p": 0.9}
    requests = prompts(7, **sampling)
    whole = texts(answers(engine_for(folder, batch_size=8, chunk_tokens=512), requests))
    small = texts(answers(engine_for(folder, batch_size=2, chunk_tokens=32), requests[::-1]))
    other = texts(answers(engine_for(folder), prompts(7, **sampling, seed=1)))
    assert small == whole
    assert len(set(whole.values())) > 15
    assert other != whole


def test_what_is_answered_already_is_left_out_and_changes_nothing(checkpoint: Checkpoint) -> None:
    requests = [*questions(4), *prompts(3, max_tokens=6, n=3, temperature=1.0)]
    whole = answers(engine_for(checkpoint()), requests)
    done = {("q1", 0), ("g0", 0), ("g0", 2), ("g2", 0), ("g2", 1), ("g2", 2)}
    engine = engine_for(checkpoint())
    engine.tokenize(requests)
    engine.load()
    rest = {(c.request_id, c.index): c for c in engine.run(requests, done)}
    assert rest.keys() == whole.keys() - done
    assert texts(rest) == {key: whole[key].text for key in rest}


def test_greedy_sampling_with_a_tiny_nucleus_is_greedy(checkpoint: Checkpoint) -> None:
    greedy = texts(answers(engine_for(checkpoint()), prompts(4, max_tokens=9)))
    narrow = prompts(4, max_tokens=9, temperature=1.0, top_p=1e-6)
    assert texts(answers(engine_for(checkpoint()), narrow)) == greedy


class Starved:
    """Refuses forwards of more than `most` positions, as an allocator without memory would."""

    def __init__(self, engine: HFEngine, most: int, error: RuntimeError) -> None:
        self.refused = 0
        model = engine._tree.model
        inner = model.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if kwargs["input_ids"].numel() > most:
                self.refused += 1
                raise error
            return inner(*args, **kwargs)

        model.forward = forward


SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=["gpu", "cpu"])
@pytest.mark.parametrize(("name", "most"), [("llama", 40), ("gemma2-window", 260)])
def test_a_lack_of_memory_halves_sizes_and_loses_nothing(
    checkpoint: Checkpoint, name: str, most: int, error: RuntimeError
) -> None:
    folder = model_folder(checkpoint, name)
    requests = [*questions(10), *prompts(9, max_tokens=8)]
    expected = answers(engine_for(folder), requests)
    engine = engine_for(folder, batch_size=64, chunk_tokens=2048)
    engine.tokenize(requests)
    engine.load()
    starved = Starved(engine, most, error)
    found = {(c.request_id, c.index): c for c in engine.run(requests)}
    assert starved.refused > 1
    assert texts(found) == texts(expected)
    assert engine.stats()["chunk_tokens"] < most
    for key, completion in found.items():
        assert completion.choice_logprobs == pytest.approx(expected[key].choice_logprobs, abs=2e-5)


def test_no_memory_even_for_one_row_is_an_error_that_says_what_to_set(
    checkpoint: Checkpoint,
) -> None:
    engine = engine_for(checkpoint())
    engine.tokenize(questions(2))
    engine.load()
    Starved(engine, 3, SHORTAGES[0])
    with pytest.raises(WorkerError, match="memory") as error:
        list(engine.run(questions(2)))
    assert error.value.cause == "out_of_memory"
    assert "--set" in error.value.hint


def test_other_errors_of_the_model_are_not_taken_for_a_lack_of_memory(
    checkpoint: Checkpoint,
) -> None:
    engine = engine_for(checkpoint())
    engine.tokenize(questions(2))
    engine.load()
    Starved(engine, 3, RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(RuntimeError, match="device-side"):
        list(engine.run(questions(2)))


@pytest.mark.parametrize(
    ("kind", "sampling", "prompt"),
    [
        ("generate", SamplingParams(max_tokens=CONTEXT - 2), "The quick brown fox jumps over"),
        ("choose", None, "The quick brown fox; " * 60),
    ],
)
def test_what_exceeds_the_context_is_refused_with_counts_and_never_cut(
    checkpoint: Checkpoint, kind: Any, sampling: SamplingParams | None, prompt: str
) -> None:
    long = Request(id="long", kind=kind, prompt=prompt, choices=(" A",), sampling=sampling)
    with pytest.raises(WorkerError, match=r"1 of 4 requests exceed .* 256 tokens.*`long`") as error:
        engine_for(checkpoint()).tokenize([*questions(3), long])
    assert error.value.cause == "context_length"


def test_a_prompt_that_fills_the_context_exactly_is_answered(checkpoint: Checkpoint) -> None:
    words = byte_level_tokenizer()
    prompt = "The quick brown"
    room = CONTEXT - len(words.encode(prompt))
    request = Request(
        id="q", kind="generate", prompt=prompt, sampling=SamplingParams(max_tokens=room)
    )
    found = answers(engine_for(checkpoint()), [request])["q", 0]
    assert found.completion_tokens <= room


def test_a_context_larger_than_the_models_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(WorkerError, match="max_model_len") as error:
        engine_for(checkpoint(), max_model_len=CONTEXT + 1).tokenize(questions(1))
    assert error.value.cause == "context_length"


def test_an_engine_that_gives_no_hidden_states_says_so(checkpoint: Checkpoint) -> None:
    prompts = Prompts(ModelSpec(name="m", path=str(checkpoint())), "vllm", 0)
    with pytest.raises(WorkerError, match="engine `vllm` for hidden states") as error:
        prompts.take([Request(id="e", kind="embed", prompt="text")])
    assert (error.value.cause, error.value.hint) == ("unsupported", "use `--engine hf`")


def test_load_says_what_was_loaded(checkpoint: Checkpoint) -> None:
    import transformers

    info = engine_for(checkpoint()).load()
    assert info.engine_version == f"transformers {transformers.__version__}"
    assert (info.dtype, info.gpus) == ("float32", 0)
    assert info.packages.keys() == {"torch", "transformers", "tokenizers"}
    assert engine_for(checkpoint(), dtype="bfloat16").load().dtype == "bfloat16"


def test_bfloat16_scores_are_near_those_of_float32(checkpoint: Checkpoint) -> None:
    requests = questions(6)
    engine = engine_for(checkpoint(), dtype="bfloat16")
    rough = answers(engine, requests)
    exact = answers(engine_for(checkpoint()), requests)
    assert engine.stats()["scoring"] == "tree"
    for key, completion in rough.items():
        assert completion.choice_logprobs[0] == pytest.approx(
            exact[key].choice_logprobs[0], abs=1.0
        )
