"""The command that measures a model of full size, at an eighth of its width."""

import json
from pathlib import Path

import pytest
from goldens_folder import REPOSITORY

from convert.__main__ import main as convert
from stts_jax.bench import full_size, full_size_parts
from stts_jax.bench.full_size_folder import of_width
from stts_jax.config import load_config

PARTS = full_size_parts.__name__
# Those that need neither torch nor a minute of compiling.
QUICK = ("write", "convert", "export")


@pytest.fixture
def within_this_process(monkeypatch):
    """Stages run without a process of their own, which would import JAX first."""

    def run(stage, folder):
        _, module, *arguments = stage.command
        code = {"convert": convert, PARTS: full_size_parts.main}[module](arguments)
        return {"code": code, "seconds": 1.0, "core_seconds": 1.0, "peak_bytes": 1, "said": ""}

    monkeypatch.setattr(full_size, "measured", run)


def test_weights_of_another_width_go_through_the_commands(
    tmp_path: Path, within_this_process, capsys
):
    sizes = [str(tmp_path), "--width", "0.03125", "--stages", *QUICK]
    assert full_size.main(sizes) == 0
    weights = sorted((tmp_path / "hugging_face").glob("*.safetensors"))
    back = sorted((tmp_path / "exported").glob("*.safetensors"))
    assert [path.read_bytes() for path in weights] == [path.read_bytes() for path in back]
    table = capsys.readouterr().out
    assert all(f"| {name} | 1.0 | 1.0 | 0.00 |" in table for name in QUICK)
    assert list(json.loads((tmp_path / full_size.RESULTS).read_text())) == list(QUICK)


def test_what_is_done_is_repeated_only_when_told_to(tmp_path: Path, monkeypatch):
    ran: list[str] = []

    def run(stage, folder):
        ran.append(stage.name)
        return {"code": 0, "seconds": 1.0, "core_seconds": 1.0, "peak_bytes": 1, "said": ""}

    monkeypatch.setattr(full_size, "measured", run)
    for more in ((), (), ("--again", "convert")):
        assert full_size.main([str(tmp_path), "--stages", "write", "convert", *more]) == 0
    assert ran == ["write", "convert", "convert"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--stages", "answer"), "there is no stage 'answer'; the stages are write, convert, ask"),
        (("--again", "all"), "there is no stage 'all'"),
        (("--width", "0.125"), "has results of molmo2_4b, 1 times as wide, 8 frames"),
        (("--frames", "4"), "and these are molmo2_4b, 1 times as wide, 4 frames"),
    ],
)
def test_results_of_other_sizes_and_unknown_stages_are_refused(
    tmp_path: Path, monkeypatch, capsys, options, said
):
    done = {"code": 0, "seconds": 1.0, "core_seconds": 1.0, "peak_bytes": 1, "said": ""}
    monkeypatch.setattr(full_size, "measured", lambda *_: dict(done))
    assert full_size.main([str(tmp_path), "--stages", "write"]) == 0
    assert full_size.main([str(tmp_path), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_random_folder_replaces_one_that_was_broken_off(tmp_path: Path, within_this_process):
    (tmp_path / "hugging_face").mkdir()
    (tmp_path / "hugging_face" / "left").write_text("")
    write = [str(tmp_path), "--width", "0.03125", "--stages", "write"]
    assert full_size.main(write) == 0
    assert not (tmp_path / "hugging_face" / "left").exists()


def test_a_stage_is_measured_in_a_process_of_its_own(tmp_path: Path):
    leaves = "import json, sys; json.dump({'a': 2}, open(sys.argv[1], 'w')); x = bytes(10**8)"
    program = ("-c", f"{leaves}; print('said')", str(tmp_path / "own.json"))
    found = full_size.measured(full_size.Stage("x", program, "own"), tmp_path)
    assert (found["code"], found["said"], found["a"]) == (0, "said", 2)
    assert found["peak_bytes"] > 10**8 and 0 < found["core_seconds"] < 5


@pytest.mark.slow
def test_an_eighth_of_the_width_answers(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".jax_cache"))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert full_size.main([str(tmp_path), "--width", "0.125", "--frames", "1"]) == 0
    results = json.loads((tmp_path / full_size.RESULTS).read_text())
    assert results["ask"]["said"] == results["ask again"]["said"] == results["ask in place"]["said"]
    if "compare" in results:
        assert results["compare"]["ours_float32 of transformers_float32"] < 1e-4
        assert results["compare"]["ours_bfloat16 of transformers_bfloat16"] < 0.1


def test_a_stage_that_fails_ends_the_command(tmp_path: Path, within_this_process, capsys):
    assert full_size.main([str(tmp_path), "--stages", "convert", "export"]) == 1
    assert "| convert | failed with 2 |" in capsys.readouterr().out


def test_a_missing_package_leaves_a_stage_out():
    assert full_size.Stage("x", (), needs=("json", "no_such_package")).missing == "no_such_package"
    assert full_size.Stage("x", (), needs=("json",)).missing == ""


def test_another_width_keeps_layers_and_the_width_of_heads():
    whole = load_config("molmo2_4b").model
    eighth = of_width(whole, 0.125)
    assert (eighth.llm.width, eighth.vit.width) == (320, 144)
    assert (eighth.llm.layers, eighth.vit.layers) == (whole.llm.layers, whole.vit.layers)
    assert eighth.llm.head_dim == whole.llm.head_dim
