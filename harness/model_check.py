"""Checks without loading: is the model whole, and is it what the registry says."""

from __future__ import annotations

import os
from pathlib import Path

from harness import checkpoints
from harness.errors import UsageError
from harness.finding import Finding, Level
from harness.model_registry import FILE_NAME, Entry
from harness.models import Registered, cached_snapshot, entries, model
from harness.types import ModelSpec


def check(spec: ModelSpec, home: Path) -> list[Finding]:
    """One finding per question; hub ids are judged by the local cache, the hub is not asked."""
    if spec.base_url is not None:
        text = f"`{spec.path}` at {spec.base_url}: the first run asks the server"
        return [Finding(check="server", level="ok", text=text)]
    book = entries(home)
    if os.path.isabs(spec.path):
        findings = _check_folder(Path(spec.path), spec, book)
    else:
        findings = _check_cached(spec, book)
    if spec.adapter is not None:
        findings.append(_check_adapter(Path(spec.adapter)))
    if spec.parent is not None:
        findings.append(_check_parent(spec.parent, home))
    return findings


def _check_cached(spec: ModelSpec, book: dict[str, Registered]) -> list[Finding]:
    snapshot = cached_snapshot(spec)
    hint = f"`hf download {spec.path}`"
    if snapshot is None:
        text = f"`{spec.path}` is not downloaded"
        return [Finding(check="download", level="warn", text=text, hint=hint)]
    weights = checkpoints.check_weights(snapshot)
    if weights.level == "bad":
        text = f"`{spec.path}` is downloaded in part: {weights.text}"
        return [Finding(check="download", level="warn", text=text, hint=hint)]
    text = f"`{spec.path}` at commit {snapshot.name}"
    found = Finding(check="download", level="ok", text=text)
    return [found, *_check_folder(snapshot, spec, book)]


def _check_folder(folder: Path, spec: ModelSpec, book: dict[str, Registered]) -> list[Finding]:
    config = checkpoints.read_config(folder)
    if config is None:
        text = f"`{folder}` has no config.json that can be read"
        return [Finding(check="config", level="bad", text=text, hint="save the model there again")]
    about = book.get(spec.name.partition("/")[0])
    return [
        _check_architecture(config, spec),
        *(_check_sizes(config, about.entry) if about else ()),
        checkpoints.check_weights(folder),
        _check_tokenizer(folder),
        _check_template(folder, spec),
        _check_context(config, spec),
    ]


def _check_architecture(config: checkpoints.Config, spec: ModelSpec) -> Finding:
    if config.architecture is None:
        return Finding(check="config", level="bad", text="config.json names no architecture")
    if config.own_code and not spec.trust_remote_code:
        text = f"{config.architecture}, which comes with code of its own"
        hint = "if it does not load: `trust_remote_code`: true in its entry, after reading the code"
        return Finding(check="config", level="warn", text=text, hint=hint)
    return Finding(check="config", level="ok", text=config.architecture)


def _check_sizes(config: checkpoints.Config, entry: Entry) -> list[Finding]:
    pairs = (
        ("hidden_dim", config.hidden_dim, entry.hidden_dim),
        ("num_layers", config.num_layers, entry.num_layers),
    )
    return [
        Finding(check=name, level="ok", text=str(real))
        if real == stated
        else Finding(
            check=name,
            level="bad",
            text=f"the registry says {stated}, config.json says {real}",
            hint=f"correct `{name}` in {FILE_NAME}, or the path",
        )
        for name, real, stated in pairs
        if stated is not None
    ]


def _check_tokenizer(folder: Path) -> Finding:
    if checkpoints.has_tokenizer(folder):
        return Finding(check="tokenizer", level="ok", text="present")
    hint = "save it beside the weights: `tokenizer.save_pretrained(folder)`"
    return Finding(check="tokenizer", level="bad", text="there is none", hint=hint)


def _check_template(folder: Path, spec: ModelSpec) -> Finding:
    if spec.chat_template not in ("model", "none"):
        there = Path(spec.chat_template).is_file()
        text = f"`{spec.chat_template}`" + ("" if there else " is not there")
        return Finding(check="chat_template", level="ok" if there else "bad", text=text)
    if spec.chat_template == "none":
        return Finding(check="chat_template", level="ok", text="not used")
    if checkpoints.has_chat_template(folder):
        return Finding(check="chat_template", level="ok", text="present")
    level: Level = "warn" if spec.name.endswith("/instruct") else "ok"
    text = "there is none: questions are asked as plain text"
    return Finding(check="chat_template", level=level, text=text)


def _check_context(config: checkpoints.Config, spec: ModelSpec) -> Finding:
    if config.context is None:
        text = "config.json does not say how long it is"
        return Finding(check="context", level="ok", text=text)
    asked = spec.max_model_len or 0
    if asked > config.context and not config.scaled_rope:
        text = f"max_model_len {asked} exceeds {config.context}"
        hint = f"set `max_model_len` of `{spec.name}` to {config.context} or less"
        return Finding(check="context", level="bad", text=text, hint=hint)
    used = f", of which {asked} are used" if asked else ""
    return Finding(check="context", level="ok", text=f"{config.context} tokens{used}")


def _check_adapter(folder: Path) -> Finding:
    if checkpoints.read_json(folder / "adapter_config.json") is None:
        text = f"`{folder}` has no adapter_config.json that can be read"
        return Finding(check="adapter", level="bad", text=text)
    try:
        tensors, size = checkpoints.whole_file(folder / "adapter_model.safetensors")
    except checkpoints.TornFileError as error:
        return Finding(check="adapter", level="bad", text=str(error), hint="save it again")
    return Finding(check="adapter", level="ok", text=f"{tensors} tensors, {size / 1e6:,.1f} MB")


def _check_parent(parent: str, home: Path) -> Finding:
    try:
        return Finding(check="parent", level="ok", text=model(parent, home).name)
    except UsageError as error:
        text = f"`{parent}` cannot be found: {error.message}"
        return Finding(check="parent", level="warn", text=text, hint=error.hint)
