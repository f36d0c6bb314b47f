"""Tokenizer and model of a recipe: pad token, chat template, precision, LoRA, 4-bit weights.

Where all weights learn they are float32 under every launcher, and bf16 or fp16 is what is computed
in (autocast, or DeepSpeed's own copies): updates below 2^-8 of a weight are then not lost, and
launchers do not differ in it. Weights that LoRA leaves alone are held in the precision itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from harness.errors import DataError, UsageError
from harness.types import Lora, Precision, Recipe
from trainers import keeping

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def load_config(recipe: Recipe) -> Any:
    return AutoConfig.from_pretrained(recipe.model_path, **where(recipe))


def load_tokenizer(recipe: Recipe) -> Any:
    """The tokenizer, padding on the right, with the recipe's chat template and pad token.

    Raises UsageError where there is no pad token.
    """
    tokenizer = AutoTokenizer.from_pretrained(recipe.model_path, **where(recipe))
    tokenizer.padding_side = "right"
    if recipe.chat_template == "none":
        tokenizer.chat_template = None
    elif recipe.chat_template != "model":
        tokenizer.chat_template = Path(recipe.chat_template).read_text(encoding="utf-8")
    if recipe.pad_token is not None:
        if recipe.pad_token not in tokenizer.get_vocab():
            raise UsageError(
                f"`pad_token: {recipe.pad_token}` is not in the vocabulary of `{recipe.model}`",
                _spare_tokens(tokenizer),
            )
        tokenizer.pad_token = recipe.pad_token
    if tokenizer.pad_token_id is None:
        raise UsageError(f"`{recipe.model}` has no pad token", _spare_tokens(tokenizer))
    return tokenizer


def _spare_tokens(tokenizer: Any) -> str:
    """A hint that names special tokens which stand for nothing else, as Llama 3 reserves some."""
    known = tokenizer.get_vocab()
    names = ("<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>", "<unk>")
    spare = [
        name
        for name in (*names, *tokenizer.all_special_tokens)
        if name in known and name not in (tokenizer.eos_token, tokenizer.bos_token)
    ]
    if not spare:
        return "`pad_token` in the recipe names a token of the vocabulary that no text ends with"
    return f"`--set pad_token='{spare[0]}'`, or another token that no text ends with"


def load_model(recipe: Recipe, tokenizer: Any) -> Any:
    """The causal model as it is trained, on the CPU or where the trainer will put it.

    Under ZeRO-3 the training arguments must have been made before, or every process loads it all.
    """
    quantization = _quantization(recipe)
    if quantization:  # such weights cannot be copied
        loaded = _read_model(recipe, held_in(recipe), quantization)
    else:
        loaded = start_model(recipe, held_in(recipe))
    if tokenizer.pad_token_id is not None:
        loaded.config.pad_token_id = tokenizer.pad_token_id
        loaded.generation_config.pad_token_id = tokenizer.pad_token_id
    loaded.config.use_cache = False
    return loaded if recipe.lora is None else with_lora(loaded, recipe, recipe.lora)


def start_model(recipe: Recipe, dtype: torch.dtype) -> Any:
    """The model that training starts from: read, or a copy of what the process has kept of it."""
    assert recipe.adapter is None, "an adapter is merged before its model is loaded"
    name = (recipe.model_path, recipe.model_revision, dtype)
    return keeping.copied(name, lambda: _read_model(recipe, dtype, {}))


def _read_model(recipe: Recipe, dtype: torch.dtype, quantization: dict[str, Any]) -> Any:
    loaded, report = AutoModelForCausalLM.from_pretrained(
        recipe.model_path, dtype=dtype, output_loading_info=True, **quantization, **where(recipe)
    )
    if missing := sorted(report["missing_keys"]):
        raise DataError(
            f"`{recipe.model}` lacks {len(missing)} weight(s), such as `{missing[0]}`",
            f"`bench models check {recipe.model}`",
        )
    return loaded


def held_in(recipe: Recipe) -> torch.dtype:
    return torch.float32 if recipe.lora is None else DTYPES[recipe.precision]


def with_lora(model: Any, recipe: Recipe, lora: Lora) -> Any:
    """The model with adapters in float32 beside frozen weights."""
    from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training

    check_targets(model, lora)
    if lora.quantization == "4bit":
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=recipe.gradient_checkpointing
        )
    every = lora.targets == ("all-linear",)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if every else list(lora.targets),
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )
    torch.manual_seed(recipe.seed)
    return get_peft_model(model, config)


def check_targets(model: Any, lora: Lora) -> None:
    """Raises UsageError for a target that names no linear layer of the model."""
    if lora.targets == ("all-linear",):
        return
    linear = [name for name, module in model.named_modules() if _is_linear(module)]
    for target in lora.targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear}))
            raise UsageError(
                f"`lora.targets`: no layer of the model is called `{target}`", f"it has: {known}"
            )


def _is_linear(module: Any) -> bool:
    # GPT-2 has its own Conv1D; quantised layers are named Linear4bit.
    return "Linear" in type(module).__name__ or type(module).__name__ == "Conv1D"


def where(recipe: Recipe) -> dict[str, Any]:
    return {"revision": recipe.model_revision, "trust_remote_code": recipe.trust_remote_code}


def _quantization(recipe: Recipe) -> dict[str, Any]:
    if recipe.lora is None or recipe.lora.quantization == "none":
        return {}
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[recipe.precision],
    )
    # Quantised weights cannot be moved later: each process puts them on its own GPU.
    return {"quantization_config": config, "device_map": {"": _own_device()}}


def _own_device() -> Any:
    return torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
