"""model_registry.json: the two shapes of an entry, and edits that leave the rest of the file alone.

    "Tulu": {"base": …, "instruct": …, …}    a pair: `Tulu/base`, `Tulu/instruct`; `Tulu` = instruct
    "Math": {"path": …, …}                    one checkpoint

A checkpoint is a hub id (`org/name`), a folder (relative ones count from the file's own folder) or
`tunebench:<path>`, a folder inside this package. In a pair, `base` and `instruct` are such a
string, or an object with `path` and options of that member alone. The options beside them hold for
both members, except: `parent` is what the base was trained from (the instruct model's parent is
the base), and `run` and `adapter` belong to the instruct model.

With `base_url` a checkpoint is the name of a model on that server.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictBool,
    ValidationError,
)

from harness.errors import BenchError, UsageError, did_you_mean
from harness.types import JSON

FILE_NAME = "model_registry.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LOCK_TIMEOUT_S = 10.0

Text = Annotated[str, Field(min_length=1, strict=True)]
Count = Annotated[int, Field(gt=0, strict=True)]


class Options(BaseModel):
    """How a checkpoint is loaded and where it came from; field names as in `ModelSpec`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    revision: Text | None = None
    parent: Text | None = None
    run: Text | None = None
    adapter: Text | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: Count | None = None
    chat_template: Text = "model"
    tensor_parallel_size: Count = 1
    pipeline_parallel_size: Count = 1
    data_parallel_size: Count = 1
    trust_remote_code: StrictBool = False
    engine: Text | None = None
    engine_args: dict[str, JsonValue] = Field(default_factory=dict)
    base_url: Text | None = None
    api_key_env: Text | None = None
    tokenizer: Text | None = None


class Member(Options):
    path: Text


class About(Options):
    """What an entry says for people and for `check`; hidden_dim and num_layers of the network."""

    display_name: Text | None = None
    hidden_dim: Count | None = None
    num_layers: Count | None = None
    note: Text | None = None


class Checkpoint(About):
    path: Text


def _as_member(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


class Pair(About):
    base: Annotated[Member, BeforeValidator(_as_member)]
    instruct: Annotated[Member, BeforeValidator(_as_member)]


Entry = Pair | Checkpoint


def parse_entry(name: str, value: object, source: str) -> Entry:
    """The entry as a checked value. Raises UsageError with the path of the bad field."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"`{name}` in {source} cannot be the name of a model",
            "use letters, digits, `.`, `_` and `-`, starting with a letter or digit",
        )
    if not isinstance(value, dict):
        raise UsageError(
            f"`{name}` in {source} is not an object",
            f'write "{name}": {{"path": "org/name"}}',
        )
    shape: type[Entry] = Pair if "base" in value or "instruct" in value else Checkpoint
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise _usage_error(name, value, source, shape, error) from None


def _usage_error(
    name: str, value: JSON, source: str, shape: type[Entry], error: ValidationError
) -> UsageError:
    # An unknown field first: it is often the misspelling of the one that is missing.
    errors = error.errors(include_url=False)
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    place = [str(part) for part in first["loc"]]
    path = ".".join([name, *place])
    if first["type"] == "extra_forbidden":
        fields = (shape if len(place) == 1 else Member).model_fields
        otherwise = f"it may have: {', '.join(fields)}"
        return UsageError(
            f"unknown field `{path}` in {source}", did_you_mean(place[-1], fields, otherwise)
        )
    if first["type"] == "missing":
        need = "`base` and `instruct`" if shape is Pair else "`path`, or `base` and `instruct`"
        return UsageError(f"`{path}` is missing in {source}", f"an entry needs {need}")
    given = json.dumps(first["input"], ensure_ascii=False, default=str)
    return UsageError(f"`{path}` is {given} in {source}: {_lower(first['msg'])}")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def read(path: Path) -> dict[str, Entry]:
    """Every entry of the file, in its order; an absent file has none."""
    text = _read_text(path)
    if text is None:
        return {}
    return {
        name: parse_entry(name, value, str(path)) for name, value in _values(text, path).items()
    }


def names(path: Path) -> list[str]:
    """The names in the file, whether or not their entries are valid."""
    text = _read_text(path)
    return list(_values(text, path)) if text is not None else []


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"`{path}` is not UTF-8: byte {error.start} cannot be read", "save the file as UTF-8"
        ) from None
    except OSError as error:
        raise BenchError(f"`{path}` cannot be read: {error.strerror}") from None


def _values(text: str, path: Path) -> JSON:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"`{path}` is not valid JSON at line {error.lineno}, column {error.colno}: "
            f"{_lower(error.msg)}",
            "correct that line; `python -m json.tool <file>` shows the place too",
        ) from None
    if not isinstance(values, dict):
        raise UsageError(f"`{path}` is not a JSON object", "it holds name → entry")
    found = [member.name for member in _scan(text).members]
    if len(found) > len(values):
        twice = next(name for name in found if found.count(name) > 1)
        raise UsageError(f"`{twice}` stands twice in `{path}`", "keep one of the two")
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """Where `"name": value` stands in the text: start of the key, start and end of the value."""

    name: str
    start: int
    value: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Object:
    """Members of the outermost object, and where its braces stand."""

    open: int
    close: int
    members: tuple[_Member, ...]


def _scan(text: str) -> _Object:
    """The places of the top-level members, in text that is known to be a valid JSON object."""
    decoder = json.JSONDecoder()
    opening = position = _skip(text, 0)
    members = []
    while text[position] != "}":
        start = _skip(text, position + 1)
        if text[start] == "}":
            position = start
            break
        name, after_key = decoder.raw_decode(text, start)
        value = _skip(text, _skip(text, after_key) + 1)
        _, end = decoder.raw_decode(text, value)
        members.append(_Member(name=name, start=start, value=value, end=end))
        position = _skip(text, end)
    return _Object(open=opening, close=position, members=tuple(members))


def _skip(text: str, position: int) -> int:
    while text[position] in " \t\r\n":
        position += 1
    return position


def insert(path: Path, name: str, entry: Mapping[str, Any], *, replace: bool) -> None:
    """Writes the entry: at the end of the file, or in its old place where it is replaced.

    Every other byte of the file stays. Raises UsageError for a name that is there already.
    """
    with _locked(path):
        text = _read_text(path) or "{}\n"
        if name in _values(text, path) and not replace:
            raise UsageError(
                f"`{name}` is in `{path}` already", f"`bench models remove {name}` first"
            )
        _write(path, _with_entry(text, name, entry))


def _with_entry(text: str, name: str, entry: Mapping[str, Any]) -> str:
    found = _scan(text)
    indent = _indent(text, found)
    written = json.dumps(entry, indent=2, ensure_ascii=False).replace("\n", f"\n{indent}")
    for member in found.members:
        if member.name == name:
            return text[: member.value] + written + text[member.end :]
    line = f"\n{indent}{json.dumps(name, ensure_ascii=False)}: {written}"
    if found.members:
        end = found.members[-1].end
        return f"{text[:end]},{line}{text[end:]}"
    return f"{text[: found.open + 1]}{line}\n{text[found.close :]}"


def _indent(text: str, found: _Object) -> str:
    """What stands before the first key on its line, where that is only white space."""
    start = found.members[0].start if found.members else 0
    before = text[text.rfind("\n", 0, start) + 1 : start]
    return before if before and not before.strip() else "  "


def delete(path: Path, name: str) -> None:
    """Takes the entry out of the file. Raises UsageError where it has none of that name."""
    with _locked(path):
        text = _read_text(path)
        values = _values(text, path) if text is not None else {}
        if text is None or name not in values:
            raise UsageError(
                f"no model `{name}` in `{path}`",
                did_you_mean(name, values, "only entries of that file can be removed"),
            )
        _write(path, _without_entry(text, name))


def _without_entry(text: str, name: str) -> str:
    found = _scan(text)
    index = [member.name for member in found.members].index(name)
    if len(found.members) == 1:
        return f"{text[: found.open + 1]}{text[found.close :]}"
    if index == 0:
        return text[: found.members[0].start] + text[found.members[1].start :]
    return text[: found.members[index - 1].end] + text[found.members[index].end :]


def _write(path: Path, text: str) -> None:
    """Replaces the file in one step, so that a reader sees the old or the new one, never a part."""
    target = path.resolve()  # a link stays a link
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BenchError(f"`{path}` cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the file for one edit. The lock is a file of its own, since the other is replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise BenchError(f"`{path}` cannot be written: {error.strerror}") from None
    try:
        _wait_for_lock(handle, path)
        yield
    finally:
        os.close(handle)


def _wait_for_lock(handle: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise BenchError(
                    f"another process has held `{path}` for {LOCK_TIMEOUT_S:.0f} s", "try again"
                ) from None
            time.sleep(0.01)


_COUNTS = (
    *("hidden_dim", "num_layers", "max_model_len"),
    *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"),
)


def field_value(key: str, text: str) -> Any:
    """The text of `--set key=value` as the type of that field; the check of its value comes later.

    >>> field_value("max_model_len", "4096"), field_value("note", "12")
    (4096, '12')
    """
    if key in _COUNTS:
        return int(text) if text.isdecimal() else text
    if key == "trust_remote_code":
        return {"true": True, "false": False}.get(text.casefold(), text)
    if key == "engine_args":
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return text


def field_names() -> Iterable[str]:
    """Fields that both shapes of an entry may have."""
    return About.model_fields
