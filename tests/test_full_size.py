"""The command that measures a model of full size, at an eighth of its width."""

import json
import os
from pathlib import Path

import pytest
from goldens_folder import REPOSITORY

from stts_jax.bench import full_size
from stts_jax.bench.full_size_folder import of_width
from stts_jax.config import load_config

# Those that need neither torch nor a minute of compiling.
QUICK = ("write", "convert", "export")


@pytest.fixture
def kept_programs(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".jax_cache"))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def test_an_eighth_of_the_width_goes_through_the_commands(tmp_path: Path, kept_programs, capfd):
    sizes = [str(tmp_path), "--width", "0.03125", "--frames", "1"]
    assert full_size.main([*sizes, "--stages", *QUICK]) == 0
    results = json.loads((tmp_path / full_size.RESULTS).read_text())
    assert list(results) == list(QUICK)
    assert all(result["code"] == 0 and result["peak_bytes"] > 1e7 for result in results.values())
    weights = sorted((tmp_path / "hugging_face").glob("*.safetensors"))
    back = sorted((tmp_path / "exported").glob("*.safetensors"))
    assert [path.read_bytes() for path in weights] == [path.read_bytes() for path in back]
    table = capfd.readouterr().out
    assert all(f"| {name} | " in table for name in QUICK)
    # What is done isn't repeated.
    os.utime(weights[0], (1, 1))
    assert full_size.main([*sizes, "--stages", *QUICK]) == 0
    assert weights[0].stat().st_mtime == 1


@pytest.mark.slow
def test_an_eighth_of_the_width_answers(tmp_path: Path, kept_programs):
    assert full_size.main([str(tmp_path), "--width", "0.125", "--frames", "1"]) == 0
    results = json.loads((tmp_path / full_size.RESULTS).read_text())
    assert (
        results["ask"]["said"] == results["ask again"]["said"] == results["ask --no-cache"]["said"]
    )
    if "compare" in results:
        assert results["compare"]["ours_float32 of transformers_float32"] < 1e-4
        assert results["compare"]["ours_bfloat16 of transformers_bfloat16"] < 0.1


def test_a_stage_that_fails_ends_the_command(tmp_path: Path, capfd):
    assert full_size.main([str(tmp_path), "--stages", "convert", "export"]) == 1
    assert "| convert | failed with 2 |" in capfd.readouterr().out


def test_a_missing_package_leaves_a_stage_out():
    assert full_size.Stage("x", (), needs=("json", "no_such_package")).missing == "no_such_package"
    assert full_size.Stage("x", (), needs=("json",)).missing == ""


def test_another_width_keeps_layers_and_the_width_of_heads():
    whole = load_config("molmo2_4b").model
    eighth = of_width(whole, 0.125)
    assert (eighth.llm.width, eighth.vit.width) == (320, 144)
    assert (eighth.llm.layers, eighth.vit.layers) == (whole.llm.layers, whole.vit.layers)
    assert eighth.llm.head_dim == whole.llm.head_dim
