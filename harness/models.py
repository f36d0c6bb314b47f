"""From the name of a model to a checkpoint that can be loaded, and to what identifies its weights.

A name is one of the registry (`Math`; of a pair `Tiny/base`, `Tiny/instruct` or `Tiny`, which means
instruct), a folder with a config.json, or a hub id (`org/name`, `org/name@revision`). The file
`<home>/model_registry.json` lies over the one that ships with tunebench: its entries win by name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import checkpoints, model_registry
from harness.errors import BenchError, UsageError, did_you_mean
from harness.model_registry import FILE_NAME, Checkpoint, Entry, Options, Pair
from harness.shipped import shipped
from harness.types import JSON, ModelSpec

MEMBERS = ("base", "instruct")
PACKAGE_PREFIX = "tunebench:"
HUB_TIMEOUT_S = 10.0

_PACKAGE = Path(__file__).resolve().parent
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB_ID = re.compile(rf"(?P<id>{_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9][\w./-]*))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """An entry, and where it stands. local: in the project's own file, not the shipped one."""

    entry: Entry
    file: Path
    local: bool


def entries(home: Path) -> dict[str, Registered]:
    """Every entry by name: the shipped ones, and those of the project's file over them."""
    files = {shipped(FILE_NAME).resolve(): False, (home / FILE_NAME).resolve(): True}
    return {
        name: Registered(entry=entry, file=file, local=local)
        for file, local in files.items()  # in a checkout both are one file, and it is local
        for name, entry in model_registry.read(file).items()
    }


def addresses(book: dict[str, Registered]) -> list[str]:
    """The name of every single checkpoint: both members of each pair."""
    return [
        address
        for name, found in book.items()
        for address in (
            [f"{name}/{member}" for member in MEMBERS] if isinstance(found.entry, Pair) else [name]
        )
    ]


def history_rows(home: Path) -> list[dict[str, str | None]]:
    """A row for each checkpoint of the registry, with the columns of the table `models`."""
    book = entries(home)
    specs = [(model(address, home), book[address.partition("/")[0]]) for address in addresses(book)]
    return [
        {
            "name": spec.name,
            "path": spec.path,
            "revision": spec.revision,
            "parent": spec.parent,
            "run_id": spec.run,
            "note": found.entry.note,
        }
        for spec, found in specs
    ]


def models(
    names: str, home: Path, find: Callable[[str], ModelSpec] | None = None
) -> list[ModelSpec]:
    """The models of a comma list, each once, in order. find: in place of `model`."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise UsageError("no model is named", "for example `--model Tiny`")
    found = (find(name) if find else model(name, home) for name in wanted)
    return list({spec.name: spec for spec in found}.values())


def model(name: str, home: Path) -> ModelSpec:
    """The model of that name; nothing is looked up on the hub yet (see `resolve`).

    Raises UsageError for a name that is none, and for a registry that does not hold together.
    """
    book = entries(home)
    spec = _registered(name, book) or _folder(name) or _on_hub(name, book)
    if spec is None:
        raise _unknown(name, book)
    return spec


def _unknown(name: str, book: dict[str, Registered]) -> UsageError:
    otherwise = "`bench models list` shows the names; a folder or a hub id `org/name` will do too"
    return UsageError(f"unknown model `{name}`", _near(name, book) or otherwise)


def _near(name: str, book: dict[str, Registered]) -> str:
    return did_you_mean(name, [*book, *addresses(book)])


def _registered(name: str, book: dict[str, Registered]) -> ModelSpec | None:
    head, slash, member = name.partition("/")
    found = book.get(head)
    if found is None:
        return None
    if isinstance(found.entry, Checkpoint):
        return None if slash else _spec(name, _options(found.entry), found, book)
    member = member if slash else "instruct"
    if member not in MEMBERS:
        raise UsageError(
            f"the pair `{head}` has no `{member}`", f"it has `{head}/base` and `{head}/instruct`"
        )
    return _spec(f"{head}/{member}", _member_options(head, found.entry, member), found, book)


def _options(entry: Checkpoint) -> dict[str, Any]:
    return entry.model_dump(include={"path", *Options.model_fields}, exclude_unset=True)


def _member_options(name: str, pair: Pair, member: str) -> dict[str, Any]:
    shared = pair.model_dump(include=set(Options.model_fields), exclude_unset=True)
    if member == "base":
        shared.pop("run", None)
        shared.pop("adapter", None)
    else:
        shared["parent"] = f"{name}/base"
    own = pair.base if member == "base" else pair.instruct
    return {**shared, **own.model_dump(exclude_unset=True)}


def _spec(
    name: str, options: dict[str, Any], found: Registered, book: dict[str, Registered]
) -> ModelSpec:
    hosted = options.get("base_url") is not None
    folder = found.file.parent if found.local else None
    path = options["path"] if hosted else _location(options["path"], folder)
    _check_revision(name, path, options.get("revision"), found.file)
    if adapter := options.get("adapter"):
        options["adapter"] = _absolute(adapter, found.file.parent)
    if (tokenizer := options.get("tokenizer")) is not None:
        options["tokenizer"] = _location(tokenizer, folder)
    if (template := options.get("chat_template", "model")) not in ("model", "none"):
        options["chat_template"] = _absolute(template, found.file.parent)
    parent = options.get("parent")
    if parent in book and isinstance(book[parent].entry, Pair):
        options["parent"] = f"{parent}/instruct"
    return ModelSpec(**{**options, "name": name, "path": path})


def _check_revision(name: str, path: str, revision: str | None, file: Path) -> None:
    entry = name.partition("/")[0]
    if os.path.isabs(path) and revision is not None:
        raise UsageError(
            f"`{name}` has a revision, but `{path}` is a folder",
            f"remove `revision` from `{entry}` in {file}",
        )
    match = _HUB_ID.fullmatch(path)
    if match is not None and match["revision"] is not None:
        raise UsageError(
            f"the path of `{name}` holds a revision: `{path}`",
            f'write "path": "{match["id"]}" and "revision": "{match["revision"]}"',
        )


def _location(path: str, folder: Path | None) -> str:
    """An absolute folder, or the hub id as it is. folder: where relative paths count from."""
    if path.startswith(PACKAGE_PREFIX):
        return _absolute(path.removeprefix(PACKAGE_PREFIX), _PACKAGE)
    if _HUB_ID.fullmatch(path) and not (folder and (folder / path).is_dir()):
        return path
    return _absolute(path, folder or _PACKAGE)


def _absolute(path: str, folder: Path) -> str:
    return os.path.abspath(folder / Path(path).expanduser())


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or name in (".", "..")


def _folder(name: str) -> ModelSpec | None:
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return ModelSpec(name=os.path.normpath(path), path=os.path.abspath(path))
    if not path.exists() and not _is_path(name):
        return None
    what = f"`{name}` has no config.json" if path.is_dir() else f"there is no folder `{name}`"
    raise UsageError(what, _folder_hint(path))


def _folder_hint(path: Path) -> str:
    adapter = checkpoints.read_json(path / "adapter_config.json")
    if adapter is not None:
        base = adapter.get("base_model_name_or_path") or "BASE"
        return f"a LoRA adapter: `bench models add NAME --path {base} --set adapter={path}`"
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    inner = sorted(p.parent for p in path.glob("*/config.json"))
    if inner:
        return f"did you mean `{inner[-1]}`?"
    near = did_you_mean(path.name, siblings) if not path.exists() else ""
    return near or "a checkpoint folder holds config.json, weights and the tokenizer"


def _on_hub(name: str, book: dict[str, Registered]) -> ModelSpec | None:
    match = _HUB_ID.fullmatch(name)
    if match is None or (name.endswith(("/base", "/instruct")) and _near(name, book)):
        return None
    return ModelSpec(name=name, path=match["id"], revision=match["revision"])


def resolve(spec: ModelSpec) -> ModelSpec:
    """The same model with its fingerprint, and as path a folder that is there, where there is one.

    A hub id becomes the snapshot in the local cache; one that is not downloaded keeps its id and
    gets the commit that the hub names, for the worker to download. Raises BenchError where neither
    is to be had.
    """
    if spec.base_url is not None:
        return dataclasses.replace(spec, fingerprint=_server_fingerprint(spec))
    if os.path.isabs(spec.path):
        _require(spec, Path(spec.path) / "config.json")
    found = _local(spec) or dataclasses.replace(spec, revision=_hub_commit(spec))
    return _identified(found)


def resolve_local(spec: ModelSpec) -> ModelSpec | None:
    """As `resolve`, without asking the hub; None where the model is not on this machine."""
    found = _local(spec)
    return _identified(found) if found is not None else None


def _local(spec: ModelSpec) -> ModelSpec | None:
    if spec.base_url is not None:
        return None
    if os.path.isabs(spec.path):
        return spec if (Path(spec.path) / "config.json").is_file() else None
    snapshot = cached_snapshot(spec)
    if snapshot is None or checkpoints.check_weights(snapshot).level == "bad":
        return None
    return dataclasses.replace(spec, path=str(snapshot), revision=snapshot.name)


def _identified(found: ModelSpec) -> ModelSpec:
    if found.adapter is not None:
        _require(found, Path(found.adapter) / "adapter_config.json")
    if found.chat_template not in ("model", "none"):
        _require(found, Path(found.chat_template))
    return dataclasses.replace(found, fingerprint=_fingerprint(found))


def fingerprint(spec: ModelSpec) -> str:
    """What identifies the weights: the hub commit, or a hash of the folder (and of the adapter)."""
    return resolve(spec).fingerprint


def _fingerprint(found: ModelSpec) -> str:
    weights = found.revision or checkpoints.fingerprint(Path(found.path))
    if found.adapter is None:
        return weights
    adapter = checkpoints.fingerprint(Path(found.adapter))
    return hashlib.sha256(f"{weights}\n{adapter}".encode()).hexdigest()


def _server_fingerprint(spec: ModelSpec) -> str:
    """Nobody sees the weights behind a server: its address and the model's name there stand for
    them."""
    text = "\n".join([spec.base_url or "", spec.path, spec.revision or ""])
    return hashlib.sha256(text.encode()).hexdigest()


def _require(spec: ModelSpec, path: Path) -> None:
    if not path.is_file():
        raise BenchError(
            f"`{spec.name}` needs `{path}`, which is not there",
            f"`bench models show {spec.name}` shows its entry",
        )


def hub_cache() -> Path:
    """Where huggingface_hub keeps downloads; read anew each time, unlike the library's constant."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    return Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()


def hub_offline() -> bool:
    flags = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(flag.upper() in ("1", "ON", "YES", "TRUE") for flag in flags)


def cached_snapshot(spec: ModelSpec) -> Path | None:
    """The snapshot of a hub id in the local cache; its folder name is the commit."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(
        spec.path, "config.json", cache_dir=hub_cache(), revision=spec.revision
    )
    return Path(config).parent if isinstance(config, str) else None


def is_local(spec: ModelSpec) -> bool:
    """Whether the model, or some revision of it, is on this machine; a quick look, no check."""
    if spec.base_url is not None:
        return False
    if os.path.isabs(spec.path):
        return (Path(spec.path) / "config.json").is_file()
    stored = hub_cache() / f"models--{spec.path.replace('/', '--')}" / "snapshots"
    return any(stored.glob("*/config.json"))


def _hub_commit(spec: ModelSpec) -> str:
    if hub_offline():
        raise _unreachable(spec, "the hub is switched off (HF_HUB_OFFLINE)")
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        info = api.model_info(spec.path, revision=spec.revision, timeout=HUB_TIMEOUT_S)
    except GatedRepoError:
        hint = f"ask for it at https://huggingface.co/{spec.path}, then `hf auth login`"
        raise BenchError(f"`{spec.path}` is gated: the hub wants your consent", hint) from None
    except RevisionNotFoundError:
        raise UsageError(f"`{spec.path}` has no revision `{spec.revision}` on the hub") from None
    except RepositoryNotFoundError:
        raise _unreachable(spec, "the hub has no such model that you may read") from None
    except (httpx.HTTPError, OSError):
        raise _unreachable(spec, "the hub cannot be reached") from None
    return str(info.sha)


def _unreachable(spec: ModelSpec, why: str) -> BenchError:
    revision = f" --revision {spec.revision}" if spec.revision else ""
    hint = f"`hf download {spec.path}{revision}` where there is a network, or `--model Tiny`"
    if spec.name.partition("@")[0] == spec.path:
        what = f"`{spec.path}` is neither a registry name, a folder, nor in the hub cache"
    else:
        what = f"`{spec.path}` (`{spec.name}`) is not in the hub cache"
    return BenchError(f"{what}, and {why}", hint)


def add(name: str, entry: JSON, home: Path, *, replace: bool = False) -> bool:
    """Registers a model in the project's file; True where that hides a shipped one of its name.

    Relative folders count from the current folder. They are stored relative to the file where they
    lie beside or below it. Raises UsageError for a bad entry, and for a name that is there already
    unless `replace`.
    """
    stored = {key: _stored(key, value, home) for key, value in entry.items()}
    parsed = model_registry.parse_entry(name, stored, "the new entry")
    if parsed.parent is not None:
        model(parsed.parent, home)
    _check_folders(name, parsed, home)
    model_registry.insert(home / FILE_NAME, name, stored, replace=replace)
    ship = shipped(FILE_NAME)
    in_checkout = ship.resolve() == (home / FILE_NAME).resolve()
    return not in_checkout and name in model_registry.names(ship)


def _stored(key: str, value: Any, home: Path) -> Any:
    """A path as it is written into the file."""
    if key in MEMBERS and isinstance(value, dict):
        return {inner: _stored(inner, given, home) for inner, given in value.items()}
    if not isinstance(value, str) or key not in ("path", "adapter", "chat_template", *MEMBERS):
        return value
    if key == "chat_template" and value in ("model", "none"):
        return value
    if key in ("path", *MEMBERS) and not (_is_path(value) or Path(value).is_dir()):
        return value
    path = Path(os.path.abspath(Path(value).expanduser()))
    root = Path(os.path.abspath(home))
    return f"./{path.relative_to(root)}" if path.is_relative_to(root) else str(path)


def _check_folders(name: str, entry: Entry, home: Path) -> None:
    found = Registered(entry=entry, file=home / FILE_NAME, local=True)
    for address in addresses({name: found}):
        spec = _registered(address, {name: found})
        if spec is not None and os.path.isabs(spec.path):
            _folder(spec.path)


def remove(name: str, home: Path) -> None:
    """Takes a model out of the project's file; the shipped ones stay."""
    path = home / FILE_NAME
    if name not in model_registry.names(path) and name in model_registry.names(shipped(FILE_NAME)):
        raise UsageError(
            f"`{name}` ships with tunebench and stays",
            f"an entry of that name in `{path}` would win over it",
        )
    model_registry.delete(path, name)
