from __future__ import annotations

import json
import os
import struct
import time
from pathlib import Path

import pytest
from checkpoint_folder import safetensors, write_checkpoint

from harness import checkpoints
from harness.checkpoints import TornFileError, check_weights, fingerprint


def big_checkpoint(folder: Path, tensors: int = 4, size: int = 32 * 1024 * 1024) -> Path:
    """More than is read whole; the file is sparse, so it costs neither time nor disk."""
    write_checkpoint(folder)
    header = {
        f"t{i}": {"dtype": "U8", "shape": [size], "data_offsets": [i * size, (i + 1) * size]}
        for i in range(tensors)
    }
    raw = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + tensors * size)
    return folder


def test_a_copy_has_the_same_fingerprint(tmp_path: Path) -> None:
    one, two = write_checkpoint(tmp_path / "one"), write_checkpoint(tmp_path / "two")
    assert fingerprint(one) == fingerprint(two)
    assert len(fingerprint(one)) == 64


def test_new_weights_under_the_same_name_change_the_fingerprint(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", weights=b"weights!")
    before = fingerprint(folder)
    write_checkpoint(folder, weights=b"weights?")
    assert fingerprint(folder) != before


@pytest.mark.parametrize(
    "name",
    ["config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"],
)
def test_what_changes_answers_changes_the_fingerprint(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    before = fingerprint(folder)
    (folder / name).write_text('{"other": 1}')
    assert fingerprint(folder) != before


@pytest.mark.parametrize("name", ["trainer_state.json", "README.md", "optimizer.pt"])
def test_leftovers_of_training_do_not_change_the_fingerprint(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    before = fingerprint(folder)
    (folder / name).write_text("anything")
    assert fingerprint(folder) == before


def test_bytes_moved_between_files_change_the_fingerprint(tmp_path: Path) -> None:
    one, two = write_checkpoint(tmp_path / "one"), write_checkpoint(tmp_path / "two")
    (one / "vocab.txt").write_text("ab")
    (one / "merges.txt").write_text("c")
    (two / "vocab.txt").write_text("a")
    (two / "merges.txt").write_text("bc")
    assert fingerprint(one) != fingerprint(two)


@pytest.mark.parametrize("tensor", range(4))
def test_a_change_in_any_tensor_of_a_large_file_is_seen(tmp_path: Path, tensor: int) -> None:
    folder = big_checkpoint(tmp_path / "m")
    before = fingerprint(folder)
    header, start = checkpoints.read_header(folder / "model.safetensors")
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(start + header[f"t{tensor}"]["data_offsets"][0] + 100)
        file.write(b"changed")
    assert fingerprint(folder) != before


def test_a_large_file_without_a_header_still_has_a_fingerprint(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        file.truncate(checkpoints.WHOLE_FILE_BYTES + 1)
    before = fingerprint(folder)
    with (folder / "pytorch_model.bin").open("r+b") as file:
        file.write(b"changed")
    assert fingerprint(folder) != before


def test_sixteen_gigabytes_take_less_than_half_a_second(tmp_path: Path) -> None:
    folder = big_checkpoint(tmp_path / "m", tensors=291, size=55 * 1024 * 1024)
    assert os.path.getsize(folder / "model.safetensors") > 16e9
    start = time.process_time()
    fingerprint(folder)
    assert time.process_time() - start < 0.5


def test_whole_weights_are_counted(tmp_path: Path) -> None:
    found = check_weights(write_checkpoint(tmp_path / "m"))
    assert (found.level, found.text) == ("ok", "2 tensors in 1 file(s), 0.0 MB")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-1], "bytes, not"),
        (lambda raw: raw + b"0", "bytes, not"),
        (lambda raw: b"", "no safetensors header"),
        (lambda raw: raw[:40], "no safetensors header"),
        (lambda raw: struct.pack("<Q", 8) + b"not json", "cannot be read"),
        (lambda raw: struct.pack("<Q", 6) + b"[1, 2]", "cannot be read"),
        (lambda raw: raw.replace(b'"shape": [2]', b'"shape": [3]'), "cannot be read"),
    ],
    ids=["cut", "longer", "empty", "header cut", "no JSON", "no object", "shape"],
)
def test_a_torn_file_is_bad(tmp_path: Path, damage: object, message: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    path = folder / "model.safetensors"
    assert callable(damage)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TornFileError, match=message):
        checkpoints.read_header(path)
    assert check_weights(folder).level == "bad"


def sharded(folder: Path) -> Path:
    write_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for i, name in enumerate(names):
        (folder / name).write_bytes(safetensors({f"t{i}": b"1234"}))
    index = {"weight_map": {"t0": names[0], "t1": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_shards_are_whole_with_their_index(tmp_path: Path) -> None:
    found = check_weights(sharded(tmp_path / "m"))
    assert (found.level, found.text[:25]) == ("ok", "2 tensors in 2 file(s), 0")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert check_weights(folder).text == "`model-00002-of-00002.safetensors` is missing"


def test_a_tensor_that_the_index_names_but_no_shard_holds_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    (folder / "model-00002-of-00002.safetensors").write_bytes(safetensors({"other": b"1"}))
    assert "lacks the tensor `t1`" in check_weights(folder).text


def test_shards_without_an_index_are_bad(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    (folder / "model.safetensors.index.json").unlink()
    assert check_weights(folder).text == "shards of 2 but no model.safetensors.index.json"


def test_an_index_that_cannot_be_read_is_bad(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text("{")
    assert check_weights(folder).text == "`model.safetensors.index.json` cannot be read"


def test_pickled_weights_are_worth_a_warning(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert check_weights(folder).level == "warn"


def test_the_text_part_of_a_multimodal_config_counts(tmp_path: Path) -> None:
    inner = {"hidden_size": 16, "num_hidden_layers": 3, "max_position_embeddings": 99}
    config = checkpoints.read_config(write_checkpoint(tmp_path / "m", text_config=inner))
    assert config is not None
    assert (config.hidden_dim, config.num_layers, config.context) == (16, 3, 99)


def test_a_template_in_the_tokenizer_config_is_found(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", template=False)
    assert not checkpoints.has_chat_template(folder)
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert checkpoints.has_chat_template(folder)
