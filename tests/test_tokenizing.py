from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from small_models import CHATML, byte_level_tokenizer, metaspace_tokenizer

from harness.engines.tokenizing import PromptEncoder, cuts_at_lines
from harness.engines.trie import unpack
from harness.errors import WorkerError
from harness.types import Message, Request

TOKENIZERS = {
    "gpt2": lambda: byte_level_tokenizer(),
    "gpt2-without-bos": lambda: byte_level_tokenizer(bos=False),
    "digits": lambda: byte_level_tokenizer(style="digits"),
    "llama3": lambda: byte_level_tokenizer(style="llama3"),
    "metaspace": metaspace_tokenizer,
}
FRAGMENTS = [
    "Question: what is it?", "Answer:", " A", "A", "  ", " ", "\n", "\n\n", "\r\n", "\t", "\u00a0",
    "</s>", "<s>", "<|im_start|>", "<|im_", "e\u0301", "\u0301", "日本語", "\u2028", "'s", "don't",
    "#### 72", "1234", "½", "🙂", "\n Answer", "\nÉcole", "\x00", "{}", "\n\nThe", "def f(x):\n",
]  # fmt: skip


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return TOKENIZERS[request.param]()


def choose(prompt: Any, choices: Sequence[str], name: str = "q") -> Request:
    return Request(id=name, kind="choose", prompt=prompt, choices=tuple(choices))


def lm_eval_encode(tokenizer: Any, text: str) -> list[int]:
    """One text, as lm-eval 0.4.13 encodes it for scoring."""
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else 1
    if text.startswith(tokenizer.decode(prefix)):
        return list(tokenizer.encode(text, add_special_tokens=False))
    return list(tokenizer.encode(text))


def lm_eval_pair(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    whole = lm_eval_encode(tokenizer, stripped + continuation)
    tokens = lm_eval_encode(tokenizer, stripped)
    return tokens, whole[len(tokens) :]


def nasty_text(draw: random.Random, least: int = 0) -> str:
    return "".join(draw.choice(FRAGMENTS) for _ in range(draw.randrange(least, 14)))


def test_pairs_are_those_of_lm_eval_for_any_text(tokenizer: Any) -> None:
    draw = random.Random(0)
    requests: list[Request] = []
    expected: list[list[tuple[list[int], list[int]]]] = []
    while len(requests) < 400:
        context, choices = nasty_text(draw, 1), [nasty_text(draw, 1) for _ in range(3)]
        pairs = [lm_eval_pair(tokenizer, context, choice) for choice in choices]
        if context.strip() and all(answer for _, answer in pairs):
            requests.append(choose(context, choices, str(len(requests))))
            expected.append(pairs)
    prepared = PromptEncoder(tokenizer, "m").prepare(requests)
    assert [
        [(unpack(context), unpack(answer)) for context, answer in one.choices] for one in prepared
    ] == expected


def test_generation_prompts_are_the_tokenizers_own_encoding(tokenizer: Any) -> None:
    draw = random.Random(1)
    texts = ["Question: one\nAnswer:\n", *(nasty_text(draw, 1) for _ in range(300))]
    requests = [Request(id=str(n), kind="generate", prompt=text) for n, text in enumerate(texts)]
    bos = tokenizer.bos_token
    assert [unpack(one.prompt) for one in PromptEncoder(tokenizer, "m").prepare(requests)] == [
        tokenizer.encode(text, add_special_tokens=not (bos and text.startswith(bos)))
        for text in texts
    ]


def test_only_tokenizers_that_split_lines_are_encoded_by_line() -> None:
    accepted = {name: cuts_at_lines(make().backend_tokenizer) for name, make in TOKENIZERS.items()}
    assert accepted == {
        "gpt2": True,
        "gpt2-without-bos": True,
        "digits": True,
        "llama3": True,
        "metaspace": False,
    }


def test_an_added_token_that_strips_spaces_forbids_encoding_by_line() -> None:
    from tokenizers import AddedToken

    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([AddedToken("Answer", lstrip=True)])
    assert not cuts_at_lines(tokenizer.backend_tokenizer)


def test_an_empty_context_becomes_the_prefix_token() -> None:
    tokenizer = byte_level_tokenizer()
    (one,) = PromptEncoder(tokenizer, "m").prepare([choose("", ["The fox", "<s> The"])])
    bos = tokenizer.bos_token_id
    assert [unpack(context) for context, _ in one.choices] == [[bos], [bos]]
    assert unpack(one.choices[0][1]) == tokenizer.encode("The fox", add_special_tokens=False)
    assert unpack(one.choices[1][1]) == tokenizer.encode(" The", add_special_tokens=False)


def test_without_a_bos_the_prefix_is_the_end_token() -> None:
    tokenizer = byte_level_tokenizer(bos=False)
    (one,) = PromptEncoder(tokenizer, "m").prepare([choose("", ["The fox"])])
    assert unpack(one.choices[0][0]) == [tokenizer.eos_token_id]


def test_a_choice_without_tokens_is_refused() -> None:
    with pytest.raises(WorkerError, match="adds no token") as error:
        list(PromptEncoder(byte_level_tokenizer(), "m").prepare([choose("Answer:", ["", " B"])]))
    assert error.value.cause == "empty_choice"


MESSAGES = (Message(role="user", content="Hello"), Message(role="assistant", content="Hi"))


def test_messages_get_the_template_and_no_second_bos() -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = "<s>" + CHATML
    request = Request(id="q", kind="generate", prompt=MESSAGES[:1])
    (one,) = PromptEncoder(tokenizer, "m").prepare([request])
    assert one.text == "<s><|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert unpack(one.prompt) == tokenizer.encode(one.text, add_special_tokens=False)
    assert unpack(one.prompt).count(tokenizer.bos_token_id) == 1


def test_a_template_file_replaces_the_tokenizers_own(tmp_path: Any) -> None:
    (tmp_path / "own.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}>")
    encoder = PromptEncoder(byte_level_tokenizer(), "m", str(tmp_path / "own.jinja"))
    (one,) = encoder.prepare([Request(id="q", kind="generate", prompt=MESSAGES)])
    assert one.text == "[Hello][Hi]>"


@pytest.mark.parametrize("setting", ["model", "none", "/no/such/file.jinja"])
def test_messages_without_a_template_are_refused(setting: str) -> None:
    encoder = PromptEncoder(byte_level_tokenizer(), "m", setting)
    with pytest.raises(WorkerError, match="chat template") as error:
        list(encoder.prepare([Request(id="q", kind="generate", prompt=MESSAGES)]))
    assert error.value.cause == "no_chat_template"
    assert error.value.hint


def test_a_template_that_takes_no_system_turn_is_named_not_worked_around() -> None:
    tokenizer = byte_level_tokenizer()
    refusal = "{{ raise_exception('System role not supported') }}"
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}" + refusal + "{% endif %}" + CHATML
    )
    prompt = (Message(role="system", content="Be kind."), *MESSAGES)
    with pytest.raises(WorkerError, match="System role not supported") as error:
        list(PromptEncoder(tokenizer, "m").prepare([choose(prompt, ["A"])]))
    assert error.value.cause == "chat_template"
