from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from checkpoint_folder import write_adapter, write_checkpoint, write_snapshot

from harness import models
from harness.errors import BenchError, UsageError
from harness.model_check import check
from harness.models import add, fingerprint, model, remove, resolve
from harness.types import ModelSpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def register(home: Path, **entries: Any) -> None:
    (home / "model_registry.json").write_text(json.dumps(entries))


# Names


def test_a_pair_has_two_members_and_its_bare_name_means_instruct(home: Path) -> None:
    base, instruct = model("Llama31_Tulu/base", home), model("Llama31_Tulu/instruct", home)
    assert model("Llama31_Tulu", home) == instruct
    assert instruct == ModelSpec(
        name="Llama31_Tulu/instruct",
        path="allenai/Llama-3.1-Tulu-3-8B-DPO",
        parent="Llama31_Tulu/base",
    )
    assert base == ModelSpec(
        name="Llama31_Tulu/base", path="allenai/Llama-3.1-Tulu-3-8B-SFT", parent="Llama3_8B/base"
    )


def test_tiny_is_package_data(home: Path) -> None:
    package = Path(models.__file__).parent
    assert model("Tiny/base", home).path == str(package / "tiny" / "base")
    assert model("Tiny", home).parent == "Tiny/base"


def test_every_shipped_name_has_a_model_whose_parent_is_one_too(home: Path) -> None:
    book = models.entries(home)
    for address in models.addresses(book):
        spec = model(address, home)
        assert spec.name == address
        if spec.parent is not None:
            assert model(spec.parent, home).name == spec.parent


def test_options_of_an_entry_reach_the_spec(home: Path) -> None:
    register(
        home,
        M={
            "path": "org/m",
            "revision": "v2",
            "dtype": "float32",
            "max_model_len": 128,
            "chat_template": "none",
            "tensor_parallel_size": 2,
            "trust_remote_code": True,
            "engine": "hf",
            "run": "r-1",
            "note": "for people",
        },
    )
    assert model("M", home) == ModelSpec(
        name="M",
        path="org/m",
        revision="v2",
        run="r-1",
        dtype="float32",
        max_model_len=128,
        chat_template="none",
        tensor_parallel_size=2,
        trust_remote_code=True,
        engine="hf",
    )


def test_options_of_a_pair_hold_for_both_members_unless_one_has_its_own(home: Path) -> None:
    register(
        home,
        P={
            "base": "org/base",
            "instruct": {"path": "org/tuned", "revision": "abc", "dtype": "float16"},
            "dtype": "float32",
            "max_model_len": 64,
            "parent": "Tiny",
            "run": "r-1",
        },
    )
    assert model("P/base", home) == ModelSpec(
        name="P/base", path="org/base", dtype="float32", max_model_len=64, parent="Tiny/instruct"
    )
    assert model("P", home) == ModelSpec(
        name="P/instruct",
        path="org/tuned",
        revision="abc",
        dtype="float16",
        max_model_len=64,
        parent="P/base",
        run="r-1",
    )


def test_the_projects_entry_wins_over_the_shipped_one(home: Path) -> None:
    register(home, Tiny={"path": "org/mine"}, Own={"path": "org/own"})
    assert model("Tiny", home) == ModelSpec(name="Tiny", path="org/mine")
    assert model("Own", home).path == "org/own"
    assert model("Qwen25_3B", home).path == "Qwen/Qwen2.5-3B"


def test_relative_folders_of_a_registry_count_from_its_file(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(home / "out" / "m")
    write_adapter(home / "lora")
    register(
        home,
        Dotted={"path": "./out/m"},
        Bare={"path": "out/m", "adapter": "lora", "chat_template": "chat.jinja"},
        Up={"path": "../elsewhere"},
    )
    monkeypatch.chdir(tmp_path)
    assert model("Dotted", home).path == str(home / "out" / "m")
    assert model("Up", home).path == str(tmp_path / "elsewhere")
    assert model("Bare", home) == ModelSpec(
        name="Bare",
        path=str(home / "out" / "m"),
        adapter=str(home / "lora"),
        chat_template=str(home / "chat.jinja"),
    )


def test_a_revision_of_a_folder_is_refused(home: Path) -> None:
    write_checkpoint(home / "m")
    register(home, M={"path": "./m", "revision": "main"})
    with pytest.raises(UsageError, match=r"`M` has a revision, but .* is a folder"):
        model("M", home)


def test_a_revision_inside_a_path_is_refused(home: Path) -> None:
    register(home, M={"path": "org/m@v1"})
    with pytest.raises(UsageError) as raised:
        model("M", home)
    assert raised.value.message == "the path of `M` holds a revision: `org/m@v1`"
    assert raised.value.hint == 'write "path": "org/m" and "revision": "v1"'


def test_a_folder_is_named_as_it_was_given(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path / "out" / "m")
    monkeypatch.chdir(tmp_path)
    spec = ModelSpec(name="out/m", path=str(folder))
    assert model("out/m", home) == model("./out/m/", home) == model("out//../out/m", home) == spec
    assert model(str(folder), home) == ModelSpec(name=str(folder), path=str(folder))


def test_a_hub_id_may_have_a_revision(home: Path) -> None:
    assert model("org/name", home) == ModelSpec(name="org/name", path="org/name")
    assert model("org/name@v1", home) == ModelSpec(
        name="org/name@v1", path="org/name", revision="v1"
    )


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("Tinny", "unknown model `Tinny`", "did you mean `Tiny`?"),
        ("tiny", "unknown model `tiny`", "did you mean `Tiny`?"),
        ("Tinny/base", "unknown model `Tinny/base`", "did you mean `Tiny/base`?"),
        (
            "Qwen25_Math_15B/base",
            "unknown model `Qwen25_Math_15B/base`",
            "did you mean `Qwen25_Math_15B`?",
        ),
        ("Tiny/bse", "the pair `Tiny` has no `bse`", "it has `Tiny/base` and `Tiny/instruct`"),
        (
            "zzzz",
            "unknown model `zzzz`",
            "`bench models list` shows the names; a folder or a hub id `org/name` will do too",
        ),
        (
            "./nowhere",
            "there is no folder `./nowhere`",
            "a checkpoint folder holds config.json, weights and the tokenizer",
        ),
        ("./out/checkpont-2", "there is no folder `./out/checkpont-2`", "did you mean"),
        ("out", "`out` has no config.json", "did you mean `out/checkpoint-20`?"),
        (
            "lora",
            "`lora` has no config.json",
            "a LoRA adapter: `bench models add NAME --path org/base --set adapter=lora`",
        ),
    ],
)
def test_a_name_that_is_none_is_refused_with_help(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str, hint: str
) -> None:
    write_checkpoint(tmp_path / "out" / "checkpoint-20")
    write_adapter(tmp_path / "lora")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as raised:
        model(name, home)
    assert raised.value.message == message
    assert raised.value.hint.startswith(hint)


def test_a_comma_list_is_each_model_once_in_order(home: Path) -> None:
    found = models.models("Tiny/base, Qwen25_3B,Tiny/base,Tiny,Tiny/instruct,", home)
    assert [spec.name for spec in found] == ["Tiny/base", "Qwen25_3B", "Tiny/instruct"]


def test_an_empty_list_of_models_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="no model is named"):
        models.models(" , ", home)


def test_the_history_gets_a_row_for_each_checkpoint(home: Path) -> None:
    register(home, M={"path": "org/m", "revision": "v1", "parent": "Tiny", "run": "r", "note": "n"})
    rows = {row["name"]: row for row in models.history_rows(home)}
    assert rows["M"] == {
        "name": "M",
        "path": "org/m",
        "revision": "v1",
        "parent": "Tiny/instruct",
        "run_id": "r",
        "note": "n",
    }
    assert rows["Tiny/instruct"]["parent"] == "Tiny/base"


# Resolving


def test_a_folder_is_resolved_with_its_fingerprint(home: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    found = resolve(model(str(folder), home))
    assert (found.path, found.revision) == (str(folder), None)
    assert found.fingerprint == fingerprint(found)
    assert len(found.fingerprint) == 64


def test_an_adapter_changes_the_fingerprint(home: Path, tmp_path: Path) -> None:
    write_checkpoint(home / "m")
    register(home, Plain={"path": "./m"}, Tuned={"path": "./m", "adapter": "lora"})
    write_adapter(home / "lora", b"one")
    first = fingerprint(model("Tuned", home))
    write_adapter(home / "lora", b"two")
    second = fingerprint(model("Tuned", home))
    assert len({first, second, fingerprint(model("Plain", home))}) == 3


@pytest.mark.parametrize(
    ("entry", "missing"),
    [
        ({"path": "./gone"}, "gone/config.json"),
        ({"path": "./m", "adapter": "lora"}, "lora/adapter_config.json"),
        ({"path": "./m", "chat_template": "x.jinja"}, "x.jinja"),
    ],
)
def test_files_that_an_entry_needs_and_are_gone(
    home: Path, entry: dict[str, str], missing: str
) -> None:
    write_checkpoint(home / "m")
    register(home, M=entry)
    with pytest.raises(BenchError) as raised:
        resolve(model("M", home))
    assert raised.value.message == f"`M` needs `{home / missing}`, which is not there"


def test_a_downloaded_hub_id_becomes_its_snapshot(home: Path, tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path / "cache", "org/name", COMMIT)
    for name in ("org/name", "org/name@main", f"org/name@{COMMIT}"):
        found = resolve(model(name, home))
        assert (found.path, found.revision) == (str(snapshot), COMMIT)
        assert found.fingerprint == COMMIT
        assert found.name == name
    assert resolve(found) == found


@pytest.mark.parametrize("name", ["org/other", "org/name@other"])
def test_a_hub_id_that_is_nowhere_is_told_in_one_sentence(
    home: Path, tmp_path: Path, name: str
) -> None:
    write_snapshot(tmp_path / "cache", "org/name", COMMIT)
    with pytest.raises(BenchError) as raised:
        resolve(model(name, home))
    assert raised.value.message == (
        f"`{name.partition('@')[0]}` is neither a registry name, a folder, nor in the hub cache, "
        "and the hub is switched off (HF_HUB_OFFLINE)"
    )
    assert raised.value.hint.startswith("`hf download org/")


def test_a_torn_snapshot_is_not_taken(home: Path, tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path / "cache", "org/name", COMMIT)
    (snapshot / "model.safetensors").unlink()
    assert models.resolve_local(model("org/name", home)) is None
    with pytest.raises(BenchError, match="nor in the hub cache"):
        resolve(model("org/name", home))


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as is asked: one model, one gated, all else unknown."""

    def do_GET(self) -> None:
        path = self.path.removeprefix("/api/models/").partition("?")[0]
        known = {"org/name": COMMIT, "org/name/revision/v1": "1" * 40}
        if path in known:
            self._answer(200, {"id": "org/name", "sha": known[path]}, "")
        elif path == "org/gated":
            self._answer(403, {"error": "gated"}, "GatedRepo")
        else:
            code = "RevisionNotFound" if path.startswith("org/name/") else "RepoNotFound"
            self._answer(404, {"error": "no"}, code)

    def _answer(self, status: int, value: dict[str, str], code: str) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def go_online(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    # The library read the switch when it was imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    go_online(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(("name", "commit"), [("org/name", COMMIT), ("org/name@v1", "1" * 40)])
def test_a_hub_id_that_is_not_downloaded_gets_its_commit(
    home: Path, name: str, commit: str
) -> None:
    found = resolve(model(name, home))
    assert (found.path, found.revision, found.fingerprint) == ("org/name", commit, commit)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/gated", "`org/gated` is gated: the hub wants your consent"),
        ("org/name@v9", "`org/name` has no revision `v9` on the hub"),
        (
            "org/none",
            "`org/none` is neither a registry name, a folder, nor in the hub cache, and the hub "
            "has no such model that you may read",
        ),
        (
            "Qwen25_3B",
            "`Qwen/Qwen2.5-3B` (`Qwen25_3B`) is not in the hub cache, and the hub has no such "
            "model that you may read",
        ),
    ],
)
def test_what_the_hub_refuses_is_told(home: Path, name: str, message: str) -> None:
    with pytest.raises(BenchError) as raised:
        resolve(model(name, home))
    assert raised.value.message == message


def test_a_hub_that_does_not_answer_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_online(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(BenchError, match="the hub cannot be reached"):
        resolve(model("org/name", home))


# Adding and removing


def test_a_folder_beside_the_file_is_stored_relative_to_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(home / "runs" / "r" / "checkpoint")
    outside = write_checkpoint(tmp_path / "outside")
    monkeypatch.chdir(home)
    add("Inside", {"path": "runs/r/checkpoint", "parent": "Tiny"}, home)
    add("Outside", {"base": "../outside", "instruct": "org/name"}, home)
    stored = json.loads((home / "model_registry.json").read_text())
    assert stored == {
        "Inside": {"path": "./runs/r/checkpoint", "parent": "Tiny"},
        "Outside": {"base": str(outside), "instruct": "org/name"},
    }
    monkeypatch.chdir(tmp_path)
    assert model("Inside", home).path == str(home / "runs" / "r" / "checkpoint")
    assert model("Inside", home).parent == "Tiny/instruct"


def test_add_tells_whether_it_hides_a_shipped_model(home: Path) -> None:
    assert add("Tiny", {"path": "org/name"}, home) is True
    assert add("Mine", {"path": "org/name"}, home) is False


def test_a_name_is_replaced_only_on_demand(home: Path) -> None:
    add("Mine", {"path": "org/one"}, home)
    with pytest.raises(UsageError, match="`Mine` is in"):
        add("Mine", {"path": "org/two"}, home)
    add("Mine", {"path": "org/two"}, home, replace=True)
    assert model("Mine", home).path == "org/two"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "./nowhere"}, "there is no folder"),
        ({"path": "org/name", "parent": "Tinny"}, "unknown model `Tinny`"),
        ({"path": "org/name", "dtyp": "auto"}, "unknown field `M.dtyp` in the new entry"),
    ],
)
def test_a_bad_entry_is_not_written(home: Path, entry: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        add("M", entry, home)
    assert list(home.iterdir()) == []


def test_removing_uncovers_the_shipped_model(home: Path) -> None:
    add("Tiny", {"path": "org/name"}, home)
    remove("Tiny", home)
    assert model("Tiny", home).name == "Tiny/instruct"
    with pytest.raises(UsageError, match="`Tiny` ships with tunebench and stays"):
        remove("Tiny", home)


def test_an_entry_that_is_not_valid_can_still_be_removed(home: Path) -> None:
    register(home, Bad={"paht": "org/name"})
    with pytest.raises(UsageError, match=r"unknown field `Bad\.paht`"):
        model("Tiny", home)
    remove("Bad", home)
    assert model("Tiny", home).name == "Tiny/instruct"


# Checking


def levels(name: str, home: Path) -> dict[str, str]:
    return {found.check: found.level for found in check(model(name, home), home)}


def test_a_whole_checkpoint_has_nothing_to_complain_about(home: Path) -> None:
    write_checkpoint(home / "m")
    register(home, M={"path": "./m", "hidden_dim": 8, "num_layers": 2, "parent": "Tiny"})
    names = ("config", "hidden_dim", "num_layers", "weights", "tokenizer", "chat_template")
    assert levels("M", home) == dict.fromkeys((*names, "context", "parent"), "ok")


def test_sizes_that_differ_from_the_registry_are_bad(home: Path) -> None:
    write_checkpoint(home / "m", hidden_size=16)
    register(home, M={"path": "./m", "hidden_dim": 8, "num_layers": 2})
    found = {f.check: f for f in check(model("M", home), home)}
    assert found["hidden_dim"].level == "bad"
    assert found["hidden_dim"].text == "the registry says 8, config.json says 16"
    assert found["num_layers"].level == "ok"


@pytest.mark.parametrize(
    ("option", "check_name", "level"),
    [
        ({"max_model_len": 64}, "context", "ok"),
        ({"max_model_len": 65}, "context", "bad"),
        ({"chat_template": "none"}, "chat_template", "ok"),
        ({"chat_template": "gone.jinja"}, "chat_template", "bad"),
        ({"parent": "Tinny"}, "parent", "warn"),
        ({"adapter": "gone"}, "adapter", "bad"),
        ({"adapter": "lora"}, "adapter", "ok"),
        ({"adapter": "torn"}, "adapter", "bad"),
    ],
)
def test_what_an_entry_asks_for_is_checked(
    home: Path, option: dict[str, Any], check_name: str, level: str
) -> None:
    write_checkpoint(home / "m")
    write_adapter(home / "lora")
    torn = write_adapter(home / "torn") / "adapter_model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    register(home, M={"path": "./m", **option})
    assert levels("M", home)[check_name] == level


def test_a_folder_with_holes_is_told_hole_by_hole(home: Path) -> None:
    folder = write_checkpoint(home / "m", template=False, auto_map={"AutoModel": "x.Y"})
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").unlink()
    register(home, M={"base": "./m", "instruct": "./m"})
    assert levels("M", home) == {
        "config": "warn",
        "weights": "bad",
        "tokenizer": "bad",
        "chat_template": "warn",
        "context": "ok",
        "parent": "ok",
    }
    assert levels("M/base", home)["chat_template"] == "ok"


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_config_that_cannot_be_read_ends_the_check(home: Path, text: str) -> None:
    write_checkpoint(home / "m")
    register(home, M={"path": "./m"})
    (home / "m" / "config.json").write_text(text)
    assert levels("M", home) == {"config": "bad"}


def test_a_hub_id_is_checked_as_far_as_it_is_downloaded(home: Path, tmp_path: Path) -> None:
    assert levels("org/name", home) == {"download": "warn"}
    snapshot = write_snapshot(tmp_path / "cache", "org/name", COMMIT)
    assert set(levels("org/name", home).values()) == {"ok"}
    (snapshot / "model.safetensors").unlink()
    assert levels("org/name", home) == {"download": "warn"}


def test_the_shipped_pair_is_whole(home: Path) -> None:
    for name in ("Tiny/base", "Tiny/instruct"):
        assert "bad" not in levels(name, home).values()
