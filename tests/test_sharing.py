"""Which models share an engine start, and which engine `auto` takes; nothing heavy is needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_folder import write_adapter, write_checkpoint

from harness import engine_choice
from harness.engine_choice import automatic, has_gpu, parameters
from harness.engines.base import parse_settings
from harness.errors import UsageError
from harness.infer import Job, Part
from harness.sharing import Started, groups
from harness.types import JSON, ModelSpec


def started(folder: Path, name: str, engine: str = "vllm", **fields: object) -> Started:
    path = fields.pop("path", str(folder / name))
    settings: JSON = dict(fields.pop("settings", {}))  # type: ignore[call-overload]
    return ModelSpec(name=name, path=str(path), **fields), engine, settings  # type: ignore[arg-type]


def names(found: list[list[Started]]) -> list[list[str]]:
    return [[spec.name for spec, _, _ in group] for group in found]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        write_checkpoint(tmp_path / name, weights=name.encode() * 8)
    write_checkpoint(tmp_path / "wide", hidden_size=16)
    write_checkpoint(tmp_path / "packed", quantization_config={"bits": 4})
    write_checkpoint(tmp_path / "words")
    (tmp_path / "words" / "tokenizer.json").write_text(json.dumps({"other": 1}))
    write_adapter(tmp_path / "lora")
    return tmp_path


def test_checkpoints_of_one_shape_and_tokenizer_share_a_start(folder: Path) -> None:
    models = [started(folder, name) for name in ("a", "wide", "b", "packed", "words", "c")]
    assert names(groups(models)) == [["a", "b", "c"], ["wide"], ["packed"], ["words"]]


def test_adapters_share_a_start_with_their_base_alone(folder: Path) -> None:
    base = str(folder / "a")
    models = [
        started(folder, "a"),
        started(folder, "b"),
        started(folder, "x", path=base, adapter=str(folder / "lora")),
        started(folder, "y", path=base, adapter=str(folder / "lora")),
    ]
    assert names(groups(models)) == [["a", "x", "y"], ["b"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "bfloat16"},
        {"max_model_len": 32},
        {"tensor_parallel_size": 2},
        {"engine_args": {"max_num_seqs": 4}},
    ],
)
def test_models_that_ask_for_other_starts_do_not_share_one(folder: Path, changes: JSON) -> None:
    assert names(groups([started(folder, "a"), started(folder, "b", **changes)])) == [["a"], ["b"]]


def test_fixed_weights_and_engines_that_hold_none_never_share(folder: Path) -> None:
    fixed = {"engine_args": {"quantization": "fp8"}}
    assert names(groups([started(folder, n, settings=fixed) for n in "ab"])) == [["a"], ["b"]]
    assert names(groups([started(folder, n, engine="mock") for n in "ab"])) == [["a"], ["b"]]
    assert names(groups([started(folder, n, engine="hf") for n in "ab"])) == [["a", "b"]]


def test_what_is_left_of_a_job_keeps_its_order() -> None:
    parts = [Part(model=ModelSpec(name=n, path=n), runs=((Path(n), "t"),)) for n in "abc"]
    first, *others = parts
    whole = Job(model=first.model, engine="vllm", settings={}, runs=first.runs, then=tuple(others))
    assert whole.parts == tuple(parts)
    assert whole.without(1).parts == tuple(parts[1:])


Installed = Callable[[bool], None]


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Whether a module vllm is there; importing it is an error."""

    def install(there: bool) -> None:
        site = tmp_path / "site"
        (site / "vllm").mkdir(parents=True, exist_ok=True)
        (site / "vllm" / "__init__.py").write_text("raise RuntimeError('must not be imported')")
        path = [p for p in sys.path if not (Path(p) / "vllm").is_dir()]
        monkeypatch.setattr(sys, "path", [str(site), *path] if there else path)
        engine_choice.has_vllm.cache_clear()

    return install


def test_auto_takes_vllm_for_large_models_or_where_a_gpu_is(
    vllm: Installed, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModelSpec(name="a", path=str(folder / "a"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    vllm(False)
    assert automatic(spec) == "hf"
    vllm(True)
    assert parameters(spec) == 10
    assert automatic(spec) == "hf"
    monkeypatch.setattr(engine_choice, "LARGE", 9)
    assert automatic(spec) == "vllm"
    engine_choice.has_vllm.cache_clear()


def test_gpus_that_are_hidden_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert not has_gpu(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert has_gpu(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert not has_gpu(tmp_path)


def test_engine_args_are_a_mapping_by_name_or_whole() -> None:
    given = {
        "engine_args.max_num_seqs": "64",
        "engine_args.quantization": "fp8",
        "kv_cache_gib": "2",
    }
    assert parse_settings("vllm", given) == {
        "engine_args": {"max_num_seqs": 64, "quantization": "fp8"},
        "kv_cache_gib": 2.0,
    }
    whole = {"engine_args": '{"seed": 3}'}
    assert parse_settings("vllm", whole) == {"engine_args": {"seed": 3}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engine_args": "[1]"}, "`engine_args=[1]` is not a JSON object"),
        ({"dtype.x": "1"}, "`dtype` holds no `x`"),
        ({"enforce_eager": "yes"}, "unknown enforce_eager `yes`"),
        ({"tensor_parallel_size": "two"}, "`tensor_parallel_size=two` is not a whole number"),
        ({"batch_size": "8"}, "unknown setting `batch_size` for engine `vllm`"),
    ],
)
def test_settings_that_vllm_has_not_are_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_settings("vllm", given)
    assert caught.value.message == said
