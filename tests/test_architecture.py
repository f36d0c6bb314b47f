"""The direction of imports, and what the command line may load before a command runs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# The first package or module name after `harness.` → its layer. Imports go down or sideways.
LAYERS = {
    0: {"", "types", "errors", "shipped", "finding", "json_lines"},
    1: {
        "task",
        "trainer",
        "lm_eval_task",
        "datasets",
        "rows",
        "layout",
        "scorers",
        "metrics",
        "stats",
        "sample_size",
        "footprint",
        "judges",
        "logistic",
        "alpaca_eval",
        "templates",
        "halves",
        "geometry",
        "criteria",
    },
    2: {
        *("registry", "models", "model_registry", "model_check", "checkpoints"),
        *("recipes", "ladder_recipe", "search", "training_data", "engine_choice", "hosting"),
    },
    3: {
        "runs",
        "store",
        "database",
        "ingest",
        "export",
        "completions",
        "grades",
        "engines",
        "launch",
        "training_process",
        "activation_file",
        "provenance",
    },
    4: {
        *(
            "plan",
            "questions",
            "infer",
            "score",
            "ahead",
            "rescore",
            "disagreements",
            "session",
            "sharing",
            "together",
            "selfcheck",
            "evaluate",
            "dry_run",
            "compare",
            "power",
            "estimate",
            "data_check",
            "rejection",
            "forgetting",
            "verdict",
            "pipeline",
            "room",
            "stages",
            "points",
            "midway",
            "gates",
            "ladder",
            "rungs",
            "decisions",
            "recipe_gap",
            "embedded",
            "embedding_options",
            "steering",
            "tuning",
        ),
        *("judgements",),
        *("judging",),
        *("train", "training_plan", "recipe_check", "overlap", "outcome"),
        *("task_check", "bridge", "doctor", "packages"),
    },
    5: {"cli"},
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names}

# A text ends in training where it ends in a test.
SHARED_WITH_TRAINERS = {"harness.engines.stopping"}

HEAVY = {
    *("torch", "transformers", "tokenizers", "vllm", "trl", "datasets", "numpy", "pyarrow"),
    *("pandas", "duckdb", "pydantic", "yaml", "huggingface_hub", "rich", "lm_eval", "optuna"),
}
NEVER_IN_CLI = {"torch", "vllm", "transformers", "trl", "datasets", "pyarrow", "pandas"}


def modules(package: str) -> list[Path]:
    return sorted((REPOSITORY / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if node.module == "harness":
                yield from (f"harness.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


def part(dotted: str) -> str:
    """`harness.engines.hf` → `engines`; a name in harness/__init__.py (`__version__`) → ''."""
    second = dotted.split(".")[1] if "." in dotted else ""
    return "" if second.startswith("__") else second


@pytest.mark.parametrize("path", modules("harness"), ids=str)
def test_harness_imports_only_its_own_layer_and_below(path: Path) -> None:
    own = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    assert part(own) in LAYER, f"{own} has no layer: give it one in this test and in the design"
    for imported in imports(path):
        if imported == "harness" or imported.startswith("harness."):
            assert LAYER[part(imported)] <= LAYER[part(own)], f"{own} imports {imported}"
        root = imported.split(".")[0]
        if root in ("tasks", "trainers"):
            assert part(own) == "registry", f"{own} reaches {imported} past the registry"


@pytest.mark.parametrize("path", modules("tasks"), ids=str)
def test_tasks_import_only_the_two_lowest_layers(path: Path) -> None:
    for imported in imports(path):
        if imported.startswith("harness."):
            assert LAYER[part(imported)] <= 1, f"{path} imports {imported}"


@pytest.mark.parametrize("path", modules("trainers"), ids=str)
def test_trainers_reach_up_to_the_registry_for_the_task_that_rewards(path: Path) -> None:
    for imported in imports(path):
        if imported.startswith("harness.") and imported not in SHARED_WITH_TRAINERS:
            assert LAYER[part(imported)] <= 2, f"{path} imports {imported}"


@pytest.mark.parametrize("path", modules("harness"), ids=str)
def test_only_engines_import_what_the_command_line_must_never_load(path: Path) -> None:
    if "engines" not in path.parts:
        assert not {name.split(".")[0] for name in imports(path)} & NEVER_IN_CLI


def test_the_command_line_loads_no_heavy_module() -> None:
    program = "import sys, harness.cli.app; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not set(done.stdout.split()) & HEAVY


@pytest.mark.parametrize(
    "path", [*modules("harness"), *modules("tasks"), *modules("trainers")], ids=str
)
def test_no_module_has_a_name_that_says_nothing(path: Path) -> None:
    assert path.stem not in {"utils", "common", "helpers", "core", "manager", "misc"}
