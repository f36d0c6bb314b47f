"""Tiny random checkpoints and tokenizers, written to a folder as a hub snapshot would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

TEXT = [
    "Question: which of the quick brown foxes jumps over the lazy dog?\nA. one\nB. two\nAnswer: A",
    "Natalia sold 48 clips in April, and half as many in May. How many did she sell?\n\n#### 72",
    "Die Größe der Straße überrascht; 日本語の問題：答えは何ですか。 Ça va? naïve café — “ok”.",
    "def f(x):\n    return {'a': [1, 2, 3]}  # don't, we'll, it's\n\n\n\tend\r\n",
] * 20
SPECIALS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CONTEXT = 256
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level_tokenizer(*, bos: bool = True, style: str = "gpt2") -> Any:
    """Byte-level BPE; style: the splitting of `gpt2`, the same with `digits` apart, or that of
    `llama3` with NFC."""
    tokenizer = Tokenizer(models.BPE())
    if style == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    elif style == "digits":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(_regex(r"\d"), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    else:
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(_regex(LLAMA3_PATTERN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXT, _trainer(initial_alphabet=alphabet))
    return _wrapped(tokenizer, bos)


def metaspace_tokenizer() -> Any:
    """Llama 2's way: spaces become `▁`, the whole text is one word, unknown bytes are tokens."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    # Trained over words, used over whole texts, as sentencepiece does.
    words = [" " + word for line in TEXT for word in line.split()]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(words, _trainer(extra=byte_tokens))
    return _wrapped(tokenizer, bos=True)


def _regex(pattern: str) -> Any:
    from tokenizers import Regex

    return Regex(pattern)


def _trainer(extra: list[str] | None = None, **options: Any) -> Any:
    return BpeTrainer(
        vocab_size=700, special_tokens=[*SPECIALS, *(extra or [])], show_progress=False, **options
    )


def _wrapped(tokenizer: Any, bos: bool) -> Any:
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>" if bos else None,
        eos_token="</s>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=CONTEXT,
    )


def causal_model(kind: str, vocabulary: int, **changes: Any) -> Any:
    """A random model with weights large enough that positions and masks matter."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    if kind == "gpt2":
        shape = {
            "vocab_size": vocabulary,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": CONTEXT,
            "initializer_range": 0.3,
        } | {"bos_token_id": 0, "eos_token_id": 1}
    if kind == "bloom":
        shape = {"vocab_size": vocabulary, "hidden_size": 32, "n_layer": 2, "n_head": 4}
        shape |= {"bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.3}
    if kind == "gemma2":
        shape |= {"head_dim": 8, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(kind, **(shape | changes))
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def save_checkpoint(folder: Path, model: Any, tokenizer: Any) -> Path:
    transformers.logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
