from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from checkpoint_folder import write_checkpoint
from typer.testing import CliRunner, Result

from harness.cli.models import models_app
from harness.errors import BenchError, UsageError


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BENCH_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return folder


def bench_models(*arguments: str) -> Result:
    result = CliRunner().invoke(models_app, arguments)
    if isinstance(result.exception, BenchError):
        raise result.exception
    return result


def test_list_has_a_row_for_every_checkpoint(home: Path) -> None:
    write_checkpoint(home / "m")
    bench_models("add", "Mine", "--path", "m", "--set", "note=a, b")
    result = bench_models("list", "--format", "csv")
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(result.stdout))}
    assert rows["Mine"] == {
        "name": "Mine",
        "path": str(home / "m"),
        "here": "yes",
        "parent": "",
        "display_name": "",
        "note": "a, b",
    }
    assert rows["Llama31_Tulu/instruct"]["parent"] == "Llama31_Tulu/base"
    assert rows["Qwen25_3B"]["here"] == "no"


def test_list_knows_its_formats() -> None:
    names = [row["name"] for row in json.loads(bench_models("list", "--format", "json").stdout)]
    assert names[:2] == ["Tiny/base", "Tiny/instruct"]
    with pytest.raises(UsageError) as raised:
        bench_models("list", "--format", "jsn")
    assert raised.value.hint == "did you mean `json`?"


def test_show_of_a_pair_has_both_members() -> None:
    shown = json.loads(bench_models("show", "Llama31_Tulu", "--json").stdout)
    assert (shown["name"], shown["hidden_dim"], shown["num_layers"]) == ("Llama31_Tulu", 4096, 32)
    assert [(c["name"], c["path"], c["here"]) for c in shown["checkpoints"]] == [
        ("Llama31_Tulu/base", "allenai/Llama-3.1-Tulu-3-8B-SFT", False),
        ("Llama31_Tulu/instruct", "allenai/Llama-3.1-Tulu-3-8B-DPO", False),
    ]


def test_show_of_a_folder_has_its_fingerprint(home: Path) -> None:
    write_checkpoint(home / "m")
    (checkpoint,) = json.loads(bench_models("show", "./m", "--json").stdout)["checkpoints"]
    assert (checkpoint["name"], checkpoint["here"]) == ("m", True)
    assert len(checkpoint["fingerprint"]) == 64
    assert checkpoint["fingerprint"] in bench_models("show", "./m").stdout


def test_show_tells_what_an_entry_lacks(home: Path) -> None:
    write_checkpoint(home / "m")
    bench_models("add", "M", "--path", "m", "--set", "adapter=gone")
    (checkpoint,) = json.loads(bench_models("show", "M", "--json").stdout)["checkpoints"]
    assert "gone/adapter_config.json`, which is not there" in checkpoint["problem"]


def test_show_of_an_unknown_name_helps() -> None:
    with pytest.raises(UsageError) as raised:
        bench_models("show", "Tinny")
    assert raised.value.hint == "did you mean `Tiny`?"


def test_check_ends_with_1_only_for_what_is_bad(home: Path) -> None:
    write_checkpoint(home / "m")
    bench_models("add", "M", "--path", "m")
    assert bench_models("check", "M", "Qwen25_3B").exit_code == 0
    (home / "m" / "tokenizer.json").unlink()
    result = bench_models("check", "M", "--json")
    assert result.exit_code == 1
    bad = [f for f in json.loads(result.stdout) if f["level"] == "bad"]
    assert [(f["model"], f["check"]) for f in bad] == [("M", "tokenizer")]


def test_check_without_names_takes_the_whole_registry_and_a_pair_is_two() -> None:
    everything = json.loads(bench_models("check", "--json").stdout)
    assert {"Tiny/base", "Qwen25_3B"} <= {finding["model"] for finding in everything}
    pair = json.loads(bench_models("check", "Llama31_Tulu", "--json").stdout)
    assert {f["model"] for f in pair} == {"Llama31_Tulu/base", "Llama31_Tulu/instruct"}


def test_add_writes_the_entry_and_says_what_it_is(home: Path) -> None:
    result = bench_models(
        *("add", "P", "--base", "org/b", "--instruct", "org/i", "--parent", "Tiny/base"),
        *("--set", "max_model_len=512", "--set", "trust_remote_code=true", "--set", "note=x=y"),
    )
    assert result.stdout == ""
    assert "P/base is the hub id `org/b`" in result.stderr
    assert json.loads((home / "model_registry.json").read_text()) == {
        "P": {
            "base": "org/b",
            "instruct": "org/i",
            "parent": "Tiny/base",
            "max_model_len": 512,
            "trust_remote_code": True,
            "note": "x=y",
        }
    }


def test_add_says_when_it_hides_a_shipped_model() -> None:
    assert "hides the `Tiny`" in bench_models("add", "Tiny", "--path", "org/m").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--path", "o/m", "--base", "o/b"], "a checkpoint has `--path`, a pair has"),
        ([], "`M.path` is missing in the new entry"),
        (["--base", "o/b"], "`M.instruct` is missing in the new entry"),
        (["--path", "o/m", "--set", "dtype"], "`--set dtype` is not KEY=VALUE"),
        (["--path", "o/m", "--set", "dtyp=auto"], "unknown field `dtyp`"),
        (["--path", "o/m", "--set", "max_model_len=long"], '`M.max_model_len` is "long"'),
        (["--path", "o/m", "--parent", "Tiny", "--set", "parent=x"], "`parent` is given twice"),
        (["--path", "o/m", "--parent", "Tinny"], "unknown model `Tinny`"),
    ],
)
def test_add_refuses_what_is_wrong(home: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        bench_models("add", "M", *arguments)
    assert raised.value.message.startswith(message)
    assert not (home / "model_registry.json").exists()


def test_remove_takes_out_what_add_put_in(home: Path) -> None:
    bench_models("add", "M", "--path", "org/m")
    bench_models("add", "M", "--path", "org/n", "--replace")
    bench_models("remove", "M")
    assert json.loads((home / "model_registry.json").read_text()) == {}
    with pytest.raises(UsageError, match="no model `M`"):
        bench_models("remove", "M")


def test_home_may_be_given(home: Path, tmp_path: Path) -> None:
    bench_models("add", "M", "--path", "org/m", "--home", str(tmp_path / "other"))
    assert (tmp_path / "other" / "model_registry.json").is_file()
    assert list(home.iterdir()) == []
