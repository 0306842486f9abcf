"""Folders that the converter must not guess about, or wait for: one sentence each."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_cases import SCORED, UNTIED
from safetensors.numpy import load_file, save_file
from test_convert import refused
from test_convert_native import native_config
from torch_files import model_pt

from convert.__main__ import main
from convert.hf_export import PROCESSOR, export_files
from convert.hf_folder import write_folder
from convert.measure import random_tensors
from convert.pipeline import plan
from convert.plain_yaml import read_yaml
from convert.reference_config import layers_of, model_config
from convert.safetensors_files import INDEX, SINGLE, read_folder
from convert.sources import Options, is_foreign, open_source
from convert.tensor_names import summarized
from convert.tensor_reader import ConvertError
from convert.tokenizer_files import tokenizer_of_run
from stts_jax.config import ConfigError, DataConfig, ModelConfig
from stts_jax.data.text.tokenizer import CONFIG_FILE, TINY_FILE, Tokenizer
from stts_jax.plain_files import FileError

FLOAT = np.dtype(np.float32)
HEAD = "lm_head.weight"


def hf(tmp_path: Path, config: ModelConfig = SCORED) -> Path:
    """A Hugging Face folder of one file, made without a model."""
    folder = tmp_path / "hf"
    folder.mkdir()
    write_folder(folder, random_tensors(config, FLOAT), config, FLOAT)
    return folder


def change_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = load_file(folder / SINGLE)
    changed = change(tensors)
    save_file(tensors if changed is None else changed, folder / SINGLE)


def change_config(folder: Path, *keys: str, value: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    inner = config
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


def message(folder: Path) -> str:
    with pytest.raises(ConvertError) as caught:
        plan(open_source(folder, Options()))
    return str(caught.value)


# -------------------------------------------------------------------------------- what is missing


def test_a_head_that_is_not_there_is_missing(tmp_path: Path) -> None:
    folder = hf(tmp_path, UNTIED)
    change_tensors(folder, without_head)
    assert f"llm.head: '{HEAD}' is missing" in message(folder)


@pytest.mark.parametrize("keys", [("tie_word_embeddings",), ("text_config", "tie_word_embeddings")])
def test_a_head_that_the_configuration_ties_may_be_absent(tmp_path: Path, keys) -> None:
    folder = hf(tmp_path, SCORED)
    change_tensors(folder, without_head)
    config = json.loads((folder / "config.json").read_text())
    del config["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    change_config(folder, *keys, value=True)
    assert plan(open_source(folder, Options())).model.llm.tied_head


def without_head(tensors: dict[str, np.ndarray]) -> None:
    del tensors[HEAD]


def test_a_whole_file_comes_before_a_stale_index(tmp_path: Path) -> None:
    folder = hf(tmp_path)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"x": "gone.safetensors"}}))
    source = open_source(folder, Options())
    assert any(INDEX in note and "stale" in note for note in source.notes)


def test_parts_without_an_index_are_named(tmp_path: Path) -> None:
    folder = hf(tmp_path)
    (folder / SINGLE).rename(folder / "model-00001-of-00003.safetensors")
    found = message(folder)
    assert "model-00001-of-00003.safetensors" in found and f"no '{INDEX}'" in found
    assert is_foreign(folder)


def test_an_adapter_alone_is_named(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "holds an adapter" in message(tmp_path)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("module.", ""), ("base_model.model.", ""), ("model.module.", "model."), ("", "model.")],
)
def test_a_beginning_that_a_wrapper_gave_all_names_is_named(tmp_path, theirs, ours) -> None:
    folder = hf(tmp_path)
    change_tensors(
        folder,
        lambda tensors: {theirs + name.removeprefix(ours): a for name, a in tensors.items()},
    )
    found = message(folder)
    assert f"begin with '{theirs}'" in found if theirs else "lack a beginning" in found
    assert "\n" not in found and "state_dict" in found


def test_many_names_are_summarized_by_pattern() -> None:
    names = [f"'model.blocks.{layer}.{part}' is missing" for layer in range(5000) for part in "ab"]
    lines = summarized([*names, "'x' is missing"])
    assert lines == [
        "'model.blocks.*.a' is missing (5000 of them)",
        "'model.blocks.*.b' is missing (5000 of them)",
        "'x' is missing",
    ]
    many = summarized([f"'{'x' * number}' is missing" for number in range(1000)])
    assert len(many) < 60 and "more" in many[-1]


def test_a_configuration_of_many_more_layers_than_the_files_hold_is_refused(tmp_path) -> None:
    folder = hf(tmp_path)
    for part, key in (("text_config", "language model"), ("vit_config", "vision transformer")):
        before = (folder / "config.json").read_text()
        change_config(folder, part, "num_hidden_layers", value=10**6)
        assert f"the {key} has 1000000 layers, but the files hold" in message(folder)
        (folder / "config.json").write_text(before)


def test_a_huge_table_of_positions_is_not_made(tmp_path: Path) -> None:
    folder = hf(tmp_path)
    change_config(folder, "vit_config", "image_num_pos", value=1000**2)
    assert "table of positions has the shape (1000000, 16), but the files hold (81, 16)" in message(
        folder
    )


# ------------------------------------------------------------------------- what nobody should send

ODD = [None, True, -1, 2.5, 10**30, float("nan"), "x" * 5000, [], {}, [[1]], "\ud800"]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:12])
def test_any_value_in_any_field_of_a_configuration_is_one_sentence(tmp_path: Path, odd) -> None:
    folder = hf(tmp_path)
    original = (folder / "config.json").read_text()
    config = json.loads(original)
    fields = [(key,) for key in config] + [
        (part, key) for part, table in config.items() if isinstance(table, dict) for key in table
    ]
    for keys in fields:
        change_config(folder, *keys, value=odd)
        try:
            # Shapes are compared elsewhere; that takes most of the time.
            open_source(folder, Options())
        except ConvertError as error:
            assert len(str(error)) < 700, keys
        (folder / "config.json").write_text(original)


@pytest.mark.parametrize("file", ["processor_config.json", INDEX, "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "5", "{", '{"a": 1, "a": 1}', "\udcff"])
def test_odd_files_beside_a_configuration_are_one_sentence(tmp_path, file, text) -> None:
    folder = hf(tmp_path)
    (folder / "tokenizer.json").write_bytes(TINY_FILE.read_bytes())
    if file == INDEX:
        (folder / SINGLE).unlink()
    (folder / file).write_bytes(text.encode(errors="surrogateescape"))
    found = message(folder)
    assert file in found and "\n" not in found and len(found) < 700


def pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


KINDS = {"pipe": pipe, "folder": Path.mkdir, "socket": unix_socket}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", ["config.json", SINGLE, "tokenizer.json", "processor_config.json"])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path, kind: str, file: str) -> None:
    folder = hf(tmp_path)
    (folder / file).unlink(missing_ok=True)
    KINDS[kind](folder / file)
    assert f"{file}' is a {kind} where a file belongs" in message(folder)


@pytest.mark.parametrize("file", ["model.pt", "config.yaml"])
def test_what_is_no_file_of_a_native_folder_is_named(tmp_path: Path, file: str) -> None:
    (tmp_path / "model.pt").write_bytes(model_pt({"x": np.zeros(1, FLOAT)}))
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / file).unlink()
    pipe(tmp_path / file)
    assert f"{file}' is a pipe where a file belongs" in message(tmp_path)


def test_a_device_behind_a_link_is_refused(tmp_path: Path) -> None:
    folder = hf(tmp_path)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")
    assert "leads out of the checkpoint's folder" in message(folder)


def merge_keys() -> str:
    lines = ["m0: &m0 {a: 1, b: 2}"]
    for level in range(1, 12):
        lines.append(f"m{level}: &m{level}\n  <<: [{','.join([f'*m{level - 1}'] * 9)}]")
    return "\n".join(lines)


def aliases() -> str:
    lines = ["m0: &m0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 9):
        lines.append(f"m{level}: &m{level} [{','.join([f'*m{level - 1}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        merge_keys(),
        aliases(),
        "[" * 5000,
        "a: 2001-13-45",
        "? [a]\n: b",
        "a: !!python/name:os.system x",
        "x" * (2 << 20),
        "a: \x00",
        "b: " + "9" * 5000,
    ],
    ids=["merge keys", "aliases", "deep", "date", "key", "tag", "huge", "null letter", "number"],
)
def test_yaml_that_does_harm_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(FileError) as caught:
        read_yaml(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:12])
def test_any_value_in_a_native_configuration_is_one_sentence(odd: Any) -> None:
    parts = [("llm",), ("vision_backbone",), ("vision_backbone", "vit"), ()]
    for part in parts:
        for key in inner(native_config(SCORED), part):
            config = native_config(SCORED)
            inner(config, part)[key] = odd
            try:
                layers_of(config)
                model_config(config)
            except ConfigError as error:
                assert len(str(error)) < 700, (part, key)


def inner(table: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    for key in keys:
        table = table[key]
    return table


# ------------------------------------------------------------------------------------ safetensors


def raw_file(header: bytes, values: bytes, stated: int | None = None) -> bytes:
    length = len(header) if stated is None else stated
    return length.to_bytes(8, "little") + header + values


ENTRY = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
DAMAGED = {
    "a header that is stated shorter": raw_file(f'{{"a":{ENTRY}}}    '.encode(), b"\0" * 8, 55),
    "bytes behind the last tensor": raw_file(f'{{"a":{ENTRY}}}'.encode(), b"\0" * 9),
    "two tensors at one position": raw_file(f'{{"a":{ENTRY},"b":{ENTRY}}}'.encode(), b"\0" * 8),
    "a name that is there twice": raw_file(f'{{"a":{ENTRY},"a":{ENTRY}}}'.encode(), b"\0" * 8),
    "a shape that is no whole number": raw_file(
        b'{"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', b"\0" * 8
    ),
    "an offset below zero": raw_file(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}', b"\0" * 8
    ),
    "an unknown type": raw_file(
        b'{"a":{"dtype":"Q7","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8
    ),
    "whole numbers": raw_file(b'{"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8),
    "a shape that overflows": raw_file(
        b'{"a":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8]}}', b"\0" * 8
    ),
    "deep nesting": raw_file(b"[" * 100_000, b""),
    "a header of exabytes": b"\xff" * 16,
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_safetensors_file_is_refused(tmp_path: Path, damage: str) -> None:
    (tmp_path / SINGLE).write_bytes(DAMAGED[damage])
    with pytest.raises(ConvertError, match=r"again|save it"):
        read_folder(tmp_path)


def test_tensors_are_read_in_the_order_of_the_file_and_not_of_its_header(tmp_path: Path) -> None:
    header = (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},'
        b'"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"c":{"dtype":"F32","shape":[0,3],"data_offsets":[12,12]}}'
    )
    (tmp_path / SINGLE).write_bytes(raw_file(header, np.arange(3, dtype=FLOAT).tobytes()))
    tensors, _ = read_folder(tmp_path)
    assert tensors["a"].read(0, 1).tolist() == [2]
    assert tensors["b"].read(0, 2).tolist() == [0, 1]
    assert tensors["c"].shape == (0, 3)


# -------------------------------------------------------------------------------------- tokenizers


def test_a_tokenizer_behind_a_link_does_not_go_along(tmp_path: Path, capsys) -> None:
    folder, private = hf(tmp_path), tmp_path / "private"
    private.write_text("secret")
    for name in ("tokenizer_config.json", "tokenizer.json"):
        (folder / "tokenizer.json").unlink(missing_ok=True)
        (folder / "tokenizer.json").write_bytes(TINY_FILE.read_bytes())
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(private)
        assert "leads out" in refused(capsys, folder, tmp_path / "out")


def test_a_private_file_that_a_run_names_does_not_go_along(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    private = tmp_path / "private"
    private.write_text("secret")
    files, notes = tokenizer_of_run(str(private), tmp_path / "run")
    assert files is None and "is not copied" in notes[0] and "secret" not in notes[0]


def test_of_a_tokenizer_outside_of_a_run_only_the_tokens_it_names_go_along(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    outside = tmp_path / "tokenizer.json"
    outside.write_bytes(TINY_FILE.read_bytes())
    (tmp_path / CONFIG_FILE).write_text('{"eos_token": "<|im_end|>", "secret": 1}')
    files, notes = tokenizer_of_run(str(outside), tmp_path / "run")
    assert files["tokenizer.json"] == TINY_FILE.read_text()
    assert json.loads(files[CONFIG_FILE]) == {"eos_token": "<|im_end|>"}
    assert "outside of its folder" in notes[0]


def test_an_export_holds_the_files_of_its_processor(tmp_path: Path) -> None:
    from model_cases import small_model_config

    model = small_model_config(llm__vocab_size=512)
    tokenizer = {"tokenizer.json": TINY_FILE.read_text(), CONFIG_FILE: '{"chat_template": "x"}'}
    data = DataConfig(max_frames=7, row_frames=7, frame_tokens="video", max_crops=3)
    files, note = export_files(tokenizer, model, data)
    assert note == ""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    processor = json.loads((tmp_path / PROCESSOR).read_text())
    assert processor["video_processor"]["num_frames"] == 7
    assert processor["image_processor"]["max_crops"] == 3
    assert not processor["use_frame_special_tokens"]
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == 2
    assert (tmp_path / "chat_template.jinja").read_text() == "x"
    back = Tokenizer.load(str(tmp_path / "tokenizer.json"), 512)
    assert back.special_ids == Tokenizer.load("tiny", 512).special_ids
    assert back.encode("left <im_patch>") == Tokenizer.load("tiny", 512).encode("left <im_patch>")


def test_an_export_without_a_fitting_tokenizer_says_what_to_copy() -> None:
    for tokenizer in (None, {"tokenizer.json": TINY_FILE.read_text()}):
        _, note = export_files(tokenizer, SCORED, DataConfig())
        assert "copy tokenizer.json" in note


def test_a_folder_that_cannot_be_read_is_one_sentence(tmp_path: Path, capsys, monkeypatch) -> None:
    def denied(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "somewhere")

    monkeypatch.setattr("convert.request.open_source", denied)
    assert main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert "Permission denied" in capsys.readouterr().err
