"""Judges: which model grades answers, with which prompt, from a small YAML file.

    model: Llama33_70B            # registry name, folder or hub id
    engine: auto                  # settings: {dtype: bfloat16} as with --set
    parser: judged_safe           # what reads the reply: the task's first grader
    system: …                     # optional
    user: |
      … {instruction} … {output} …
    sampling: {temperature: 0, max_tokens: 16}
    price: {prompt: 0.9, completion: 0.9}   # per million tokens, optional

The files under tasks/judges/ hold published prompts without a model. A file of yours needs no more
than a model: the task's own prompt fills in the rest.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from harness.errors import UsageError, did_you_mean
from harness.types import JSON, Message, Prompt, SamplingParams, to_json

_FIELD = re.compile(r"\{(\w+)\}")
_TEXTS = ("model", "engine", "parser", "system", "user")
_KEYS = (*_TEXTS, "settings", "sampling", "price")
_SAMPLING = {"temperature": float, "top_p": float, "max_tokens": int, "seed": int}
_PRICES = {"prompt": float, "completion": float}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """name: of its file or model. parser: name of the grader that understands its replies.
    settings: the engine's, as texts. price: per million prompt and completion tokens."""

    name: str
    model: str = ""
    engine: str = "auto"
    settings: dict[str, str] = field(default_factory=dict)
    parser: str = ""
    system: str = ""
    user: str = ""
    sampling: SamplingParams = SamplingParams()
    price: tuple[float, float] | None = None

    def prompt(self, shown: Mapping[str, str]) -> Prompt:
        """The messages, each `{field}` replaced once: braces in an answer stay what they are."""
        system = (Message(role="system", content=self.system),) if self.system else ()
        text = _FIELD.sub(lambda match: shown.get(match[1], match[0]), self.user)
        return (*system, Message(role="user", content=text))

    def to_json(self) -> JSON:
        return {**to_json(self), "sampling": to_json(self.sampling)}


def judge_from_json(value: JSON) -> Judge:
    sampling = {**value["sampling"], "stop": tuple(value["sampling"].get("stop", ()))}
    price = value.get("price")
    return Judge(
        **{
            **value,
            "sampling": SamplingParams(**sampling),
            "price": tuple(price) if price else None,
        }
    )


def shipped_judge(name: str) -> Judge:
    """A published prompt from tasks/judges/, without a model."""
    path = Path(str(resources.files("tasks") / "judges" / f"{name}.yaml"))
    return _judge(name, _read(path), path, Judge(name=name))


def judge_file(path: Path, base: Judge) -> Judge:
    """The judge of a file; what it does not say comes from `base`, the task's own.

    Raises UsageError, with the path of the bad field, for whatever cannot be.
    """
    return _judge(path.stem, _read(path), path, base)


def check_fields(judge: Judge, fields: tuple[str, ...], where: str) -> None:
    """Raises UsageError for a prompt that does not show what is to be judged."""
    found = set(_FIELD.findall(judge.user))
    for name in fields:
        if name not in found:
            raise UsageError(
                f"`user` of the judge {where} has no `{{{name}}}`",
                f"it must show {', '.join(f'`{{{one}}}`' for one in fields)}",
            )
    for name in sorted(found - set(fields)):
        known = ", ".join(f"`{{{one}}}`" for one in fields)
        raise UsageError(
            f"`user` of the judge {where} has the unknown field `{{{name}}}`",
            did_you_mean(name, fields, f"it can show {known}"),
        )


def _read(path: Path) -> JSON:
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"judge file `{path}` cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(
            f"judge file `{path}` is not YAML: {str(error).splitlines()[0]}", "correct the file"
        ) from None
    if not isinstance(value, dict):
        raise UsageError(f"judge file `{path}` holds no mapping", "for example `model: Tiny`")
    return value


def _judge(name: str, value: JSON, path: Path, base: Judge) -> Judge:
    _check_keys(value, _KEYS, path, "")
    changes: dict[str, Any] = {"name": name}
    for key in _TEXTS:
        if key in value:
            changes[key] = _text(value[key], path, key)
    if "settings" in value:
        settings = _mapping(value["settings"], path, "settings")
        changes["settings"] = {str(key): str(item) for key, item in settings.items()}
    if "sampling" in value:
        numbers = _numbers(value["sampling"], _SAMPLING, path, "sampling")
        changes["sampling"] = dataclasses.replace(base.sampling, **numbers)
    if "price" in value:
        prices = _numbers(value["price"], _PRICES, path, "price")
        changes["price"] = prices.get("prompt", 0.0), prices.get("completion", 0.0)
    return dataclasses.replace(base, **changes)


def _check_keys(value: Mapping[str, Any], known: tuple[str, ...], path: Path, at: str) -> None:
    for key in value:
        if key not in known:
            raise UsageError(
                f"judge file `{path}` has the unknown key `{at}{key}`",
                did_you_mean(str(key), known, f"it can have: {', '.join(known)}"),
            )


def _text(value: object, path: Path, key: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"`{key}` in judge file `{path}` should be text, but is {value!r}")
    return value.rstrip("\n") if key in ("system", "user") else value.strip()


def _mapping(value: object, path: Path, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"`{key}` in judge file `{path}` should be a mapping, but is {value!r}")
    return value


def _numbers(
    value: object, kinds: Mapping[str, type[int] | type[float]], path: Path, key: str
) -> dict[str, Any]:
    given = _mapping(value, path, key)
    _check_keys(given, tuple(kinds), path, f"{key}.")
    for name, number in given.items():
        whole = isinstance(number, int) and not isinstance(number, bool)
        fits = whole or (kinds[name] is float and isinstance(number, float))
        if not fits or number < (1 if name == "max_tokens" else 0):
            raise UsageError(
                f"`{key}.{name}` in judge file `{path}` is {number!r}",
                "give it a number, 1 or more" if name == "max_tokens" else "give it 0 or more",
            )
    return {name: kinds[name](number) for name, number in given.items()}
