"""Folders that are refused, and what a conversion leaves behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from convert_cases import SCORED, UNTIED, hf_arrays, native_arrays, write_hf
from convert_commands import FIRST, INDEX, converted, refused, same
from native_arrays import to_native

from convert import pipeline
from convert.__main__ import main
from convert.init import ArrayRows
from convert.names import name_table
from convert.tensor_reader import NonFinite, count_non_finite, join_parts
from stts_jax.data.text.tokenizer import TINY_FILE
from stts_jax.training.checkpointing.load import load_model
from stts_jax.training.checkpointing.run_folder import MODEL, find_checkpoint
from stts_jax.training.checkpointing.stored_arrays import open_arrays


def test_a_truncated_file_is_named(tmp_path: Path, capsys) -> None:
    source = write_hf(tmp_path / "hf", SCORED)
    data = (source / FIRST).read_bytes()
    (source / FIRST).write_bytes(data[: len(data) // 2])
    message = refused(capsys, source, tmp_path / "ours")
    assert FIRST in message and "truncated" in message


def test_a_missing_file_is_named(tmp_path: Path, capsys) -> None:
    source = write_hf(tmp_path / "hf", SCORED)
    (source / FIRST).unlink()
    message = refused(capsys, source, tmp_path / "ours")
    assert FIRST in message and "is missing" in message


@pytest.mark.parametrize(
    "damage", [b"", b"\x00" * 4, b"\xff" * 64, b"\x08" + b"\x00" * 7 + b"{nonsense"]
)
def test_a_damaged_header_is_a_clear_error(tmp_path: Path, capsys, damage: bytes) -> None:
    source = write_hf(tmp_path / "hf", SCORED)
    (source / FIRST).write_bytes(damage)
    assert FIRST in refused(capsys, source, tmp_path / "ours")


def test_an_index_must_not_lead_out_of_the_folder(tmp_path: Path, capsys) -> None:
    source = write_hf(tmp_path / "hf", SCORED)
    (source / FIRST).rename(tmp_path / FIRST)
    index = (source / INDEX).read_text().replace(FIRST, f"../{FIRST}")
    (source / INDEX).write_text(index)
    assert "not in the folder itself" in refused(capsys, source, tmp_path / "ours")


def test_a_link_must_not_lead_out_of_the_folder(tmp_path: Path, capsys) -> None:
    source = write_hf(tmp_path / "hf", SCORED)
    (source / FIRST).rename(tmp_path / FIRST)
    (source / FIRST).symlink_to(tmp_path / FIRST)
    assert "leads out of the checkpoint's folder" in refused(capsys, source, tmp_path / "ours")


def test_links_of_a_hugging_face_cache_are_followed(tmp_path: Path) -> None:
    written = write_hf(tmp_path / "hf", SCORED)
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b/snapshots/rev"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in list(written.iterdir()):
        file.rename(blobs / f"hash-of-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/hash-of-{file.name}")
    assert main([str(snapshot), str(tmp_path / "ours")]) == 0


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_and_infinity_of_either_sign_are_counted(dtype: type, sign: int) -> None:
    values = np.linspace(-3, 3, 12).reshape(3, 4).astype(dtype)
    values[0, 0], values[1, 1] = ml_dtypes.finfo(dtype).max, ml_dtypes.finfo(dtype).min
    assert not count_non_finite(values) and not count_non_finite(values.T)
    values[2, 3] = values[0, 2] = np.copysign(dtype(np.nan), dtype(sign))
    assert count_non_finite(values) == count_non_finite(values.T) == NonFinite(nan=2)
    values[1, 0] = np.copysign(dtype(np.inf), dtype(sign))
    assert count_non_finite(values) == NonFinite(nan=2, infinite=1)
    values = np.full((2, 2), np.copysign(dtype(np.inf), dtype(sign)))
    assert count_non_finite(values) == NonFinite(infinite=4)


def test_nan_is_warned_of(tmp_path: Path, capsys) -> None:
    name = "model.transformer.ln_f.weight"
    array = hf_arrays(SCORED)[name].copy()
    array[1] = np.nan
    source = write_hf(tmp_path / "hf", SCORED, **{name: array})
    assert main([str(source), str(tmp_path / "ours")]) == 0
    assert "llm.final_norm.scale holds 1 values that are not a number" in capsys.readouterr().out
    assert main([str(source), str(tmp_path / "back"), "--to", "hf"]) == 0
    assert f"{name} holds 1 values that are not a number" in capsys.readouterr().out


def test_an_unknown_folder_says_what_is_looked_for(tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    message = refused(capsys, tmp_path / "empty", tmp_path / "ours")
    assert "model.pt" in message and "model.safetensors" in message


def test_a_config_of_another_model_is_refused(tmp_path: Path, capsys) -> None:
    source = write_hf(tmp_path / "hf", SCORED)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    assert "'llama'" in refused(capsys, source, tmp_path / "ours")


def test_token_numbers_that_contradict_the_vocabulary_are_refused(tmp_path: Path, capsys) -> None:
    source = write_hf(tmp_path / "hf", SCORED)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "image_patch_id": 7}))
    assert "image_patch_id is 7" in refused(capsys, source, tmp_path / "ours")


# ------------------------------------------------------------------------------- what is left


def test_an_existing_folder_is_not_overwritten(tmp_path: Path, capsys) -> None:
    ours = converted(tmp_path)
    assert "is there already" in refused(capsys, tmp_path / "hf", ours)


def test_an_interrupted_conversion_leaves_nothing_and_the_next_finishes(
    tmp_path: Path, monkeypatch
) -> None:
    source, target = write_hf(tmp_path / "hf", SCORED), tmp_path / "ours"

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "output_config", interrupted)
    assert main([str(source), str(target)]) == 130
    assert not target.exists()
    monkeypatch.undo()
    # A process that was killed outright leaves its folder; the next one takes its place.
    (tmp_path / ".ours.converting").mkdir()
    assert main([str(source), str(target)]) == 0
    assert same(to_native(load_model(target)[0], name_table(SCORED)), native_arrays(SCORED))
    assert not (tmp_path / ".ours.converting").exists()


def test_a_full_disk_is_said_before_and_while_writing(tmp_path: Path, capsys, monkeypatch) -> None:
    source = write_hf(tmp_path / "hf", SCORED)

    class Usage:
        free = 10

    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda path: Usage)
    assert "will take" in refused(capsys, source, tmp_path / "ours")
    monkeypatch.undo()

    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline, "write_arrays", full)
    assert "is full" in refused(capsys, source, tmp_path / "ours")
    assert list(tmp_path.iterdir()) == [source]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys) -> None:
    source = write_hf(tmp_path / "hf", SCORED)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(capsys, source, tmp_path / "file" / "ours")


def test_training_takes_a_hugging_face_folder_and_keeps_the_copy(
    tmp_path: Path, monkeypatch
) -> None:
    from convert.cache import local_checkpoint

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = write_hf(tmp_path / "hf", SCORED)
    said: list[str] = []
    copy = local_checkpoint(source, said.append)
    assert load_model(copy)[1].model == SCORED
    assert any("converting it once" in line for line in said)
    said.clear()
    assert local_checkpoint(source, said.append) == copy
    assert any("converted before" in line for line in said)
    assert local_checkpoint(copy, said.append) == copy
    os.utime(source / "config.json", (1, 1))
    assert local_checkpoint(source) != copy


def test_the_kept_copy_of_a_bfloat16_folder_is_bfloat16(tmp_path: Path, monkeypatch) -> None:
    from convert.cache import local_checkpoint

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    half = {name: a.astype(ml_dtypes.bfloat16) for name, a in hf_arrays(SCORED).items()}
    copy = local_checkpoint(write_hf(tmp_path / "hf", SCORED, **half), lambda text: None)
    arrays = open_arrays(find_checkpoint(copy) / MODEL)
    assert {array.dtype.name for array in arrays.values()} == {"bfloat16"}


def test_flags_must_not_contradict_the_checkpoint(tmp_path: Path, capsys) -> None:
    ours = converted(tmp_path)
    for source in (tmp_path / "hf", ours):
        message = refused(capsys, source, tmp_path / "x", "--topk", "0.9")
        assert f"--topk is 0.9, but '{source}" in message
        message = refused(capsys, ours, tmp_path / "x", "--bidirectional", "within_image")
        assert "--bidirectional is within_image" in message


def test_pooling_windows_are_read_from_the_processor(tmp_path: Path, capsys) -> None:
    source = write_hf(tmp_path / "hf", UNTIED)
    processor = source / "processor_config.json"
    processor.write_text(json.dumps({"video_processor": {"pooling_size": [9, 9]}}))
    assert main([str(source), str(tmp_path / "ours")]) == 0
    assert load_model(tmp_path / "ours")[1].model.prune.pooling == 9
    processor.write_text(json.dumps({"video_processor": {"pooling_size": [3, 9]}}))
    assert "only square windows" in refused(capsys, source, tmp_path / "other")


def test_the_tokenizer_goes_along(tmp_path: Path, capsys) -> None:
    source = write_hf(tmp_path / "hf", UNTIED)
    (source / "tokenizer.json").write_text(TINY_FILE.read_text())
    (source / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    chain = [source, tmp_path / "ours", tmp_path / "moved", tmp_path / "back"]
    assert main([str(chain[0]), str(chain[1])]) == 0
    assert main([str(chain[1]), str(chain[2])]) == 0
    assert main([str(chain[2]), str(chain[3]), "--to", "hf"]) == 0
    assert (chain[3] / "tokenizer.json").read_text() == TINY_FILE.read_text()
    assert "<|im_end|>" in (chain[3] / "tokenizer_config.json").read_text()
    (chain[1] / "tokenizer.json").unlink()
    assert main([str(chain[1]), str(tmp_path / "bare")]) == 0
    assert "is not there" in capsys.readouterr().out


def test_missing_flags_are_named(tmp_path: Path, capsys) -> None:
    source = write_hf(tmp_path / "hf", SCORED)
    assert "DST is missing" in refused(capsys, source)
    assert "needs --config" in refused(capsys, "--init", source, source, tmp_path / "x")


def test_tensors_joined_from_several_types_have_one_that_holds_them_all() -> None:
    half = ArrayRows(np.ones((2, 3), ml_dtypes.bfloat16))
    tensors = join_parts({"a": {0: half, 2: ArrayRows(np.ones((2, 3), np.float32))}})
    assert tensors["a"].dtype == np.float32
    assert join_parts({"a": {0: half, 2: half}})["a"].dtype == ml_dtypes.bfloat16
