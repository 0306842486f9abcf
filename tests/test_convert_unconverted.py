"""PyTorch checkpoints that are read where they are: the values, the types, and what is written."""

from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from convert_cases import SCORED, UNTIED, hf_arrays, write_hf

from convert.cache import local_checkpoint
from convert.unconverted import open_unconverted
from eval import main as evaluate
from stts_jax import calibrate, show
from stts_jax.parallel.mesh import make_mesh
from stts_jax.parallel.parameters import named_parameters
from stts_jax.training.checkpointing.checkpoint_errors import CheckpointError
from stts_jax.training.checkpointing.load import load_to_answer, load_to_score


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def quiet(text: str) -> None:
    pass


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("model", [SCORED, UNTIED], ids=["scored", "untied"])
def test_parameters_are_those_of_a_converted_copy(tmp_path: Path, model, dtype):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    arrays = {name: array.astype(kind) for name, array in hf_arrays(model).items()}
    source = write_hf(tmp_path / "hf", model, **arrays)
    copy, config = load_to_answer(local_checkpoint(source, quiet))
    opened = open_unconverted(source, quiet)
    found, own = load_to_answer(opened)
    assert own.model == config.model == model
    wanted = named_parameters(copy)
    for name, array in named_parameters(found).items():
        assert array.dtype == wanted[name].dtype, name
        np.testing.assert_array_equal(array, wanted[name], name)


def test_every_device_reads_its_part(tmp_path: Path):
    source = write_hf(tmp_path / "hf", SCORED)
    whole, _ = load_to_answer(open_unconverted(source, quiet))
    mesh = make_mesh({"fsdp": 4, "tensor": 2})
    shared, _ = load_to_answer(open_unconverted(source, quiet), mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, shared, whole)


def test_nothing_but_a_tokenizer_is_written(tmp_path: Path, cache: Path):
    source = write_hf(tmp_path / "hf", SCORED)
    load_to_score(open_unconverted(source, quiet))
    assert not cache.exists()


def test_a_checkpoint_of_ours_is_opened_as_ever(tmp_path: Path):
    copy = local_checkpoint(write_hf(tmp_path / "hf", SCORED), quiet)
    assert open_unconverted(copy).config.model == SCORED


def test_a_file_that_shrinks_is_one_sentence(tmp_path: Path):
    source = write_hf(tmp_path / "hf", SCORED)
    opened = open_unconverted(source, quiet)
    part = source / "model-00001-of-00002.safetensors"
    part.write_bytes(part.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match="ends before row"):
        load_to_answer(opened)


@pytest.mark.parametrize(
    "command",
    [
        lambda given: calibrate.main([*given, "--k", "50"]),
        lambda given: show.main(["a.mp4", *given, "--k", "50", "--auto"]),
        lambda given: evaluate([*given, "--k", "50", "--auto"]),
    ],
    ids=["calibrate", "show", "eval"],
)
def test_thresholds_are_of_a_converted_copy(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(calibrate, "open_encoder", lambda *_: pytest.fail("loaded"))
    (tmp_path / "a.mp4").write_bytes(b"video")
    monkeypatch.chdir(tmp_path)
    source = write_hf(tmp_path / "hf", SCORED)
    assert command(["--checkpoint", str(source), "--no-cache"]) == 2
    said = capsys.readouterr().err
    assert "thresholds are kept with a converted copy; leave out --no-cache" in said
