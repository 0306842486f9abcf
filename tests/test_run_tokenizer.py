"""A run that starts from a checkpoint finds the checkpoint's tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_cases import ENDED

import train
from stts_jax.config import Config, load_config, replace
from stts_jax.data.text.tokenizer import TINY_FILE
from stts_jax.training.checkpointing.run_folder import config_of, save_config
from stts_jax.training.checkpointing.run_tokenizer import with_checkpoint_tokenizer

SETUP = load_config("molmo2_4b_stts_50")


def write_checkpoint(folder: Path, tokenizer: str) -> Path:
    """Writes the files of a run's folder that are read here, without arrays."""
    step = folder / "checkpoints" / "0"
    (step / "model").mkdir(parents=True)
    (step / "_CHECKPOINT_METADATA").touch()
    save_config(replace(SETUP, {"data.tokenizer": tokenizer}), folder)
    return folder


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """A folder as `python -m convert` leaves it, with the tokenizer in it."""
    folder = tmp_path / "converted"
    write_checkpoint(folder, str(folder / "tokenizer.json"))
    (folder / "tokenizer.json").write_bytes(TINY_FILE.read_bytes())
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a tokenizer."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_published_setup_takes_the_tokenizer_of_the_checkpoint_it_starts_from(
    converted, elsewhere, tmp_path, monkeypatch, capsys
):
    def instead(config: Config, output: Path, **_: object) -> dict[str, object]:
        output.mkdir()
        save_config(config, output)
        return ENDED

    monkeypatch.setattr(train, "train", instead)
    output = tmp_path / "run"
    line = ["--config", SETUP.name, "--init-from", str(converted), "--output", str(output)]
    assert train.main([*line, "--set", "train.evaluate_every=0"]) == 0
    assert load_config(str(output / "config.json")).data.tokenizer == str(
        converted / "tokenizer.json"
    )
    (told, _) = capsys.readouterr().out.splitlines()
    assert "'tokenizer.json' does not exist: using" in told and str(converted) in told


def test_the_evaluations_of_a_run_use_that_tokenizer_too(
    converted, elsewhere, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(train, "train", lambda *_, **__: ENDED)
    monkeypatch.setattr(train, "evaluation", lambda config, _: seen.append(config.data.tokenizer))
    line = ["--config", SETUP.name, "--init-from", str(converted), "--output", str(tmp_path)]
    assert train.main([*line, "--set", "train.evaluate_every=1"]) == 0
    assert seen == [str(converted / "tokenizer.json")]


def taken(output: Path, init_from: Path | None, *, resume: bool = True) -> str:
    found = with_checkpoint_tokenizer(SETUP, output, init_from=init_from, resume=resume)
    return found.data.tokenizer


def test_a_checkpoint_that_was_moved_has_its_tokenizer_with_it(converted, elsewhere, tmp_path):
    moved = converted.rename(tmp_path / "moved")
    assert taken(tmp_path / "run", moved) == str(moved / "tokenizer.json")


def test_a_run_that_goes_on_keeps_its_tokenizer(converted, elsewhere, tmp_path):
    own = tmp_path / "own.json"
    own.write_bytes(TINY_FILE.read_bytes())
    run = write_checkpoint(tmp_path / "run", str(own))
    assert taken(run, converted) == taken(run, None) == str(own) == config_of(run).data.tokenizer
    assert taken(run, converted, resume=False) == str(converted / "tokenizer.json")


def test_a_tokenizer_that_exists_is_the_one_that_is_used(converted, elsewhere, tmp_path):
    (elsewhere / "tokenizer.json").write_bytes(TINY_FILE.read_bytes())
    assert taken(tmp_path / "run", converted) == "tokenizer.json"


def test_without_any_tokenizer_the_setting_stays_as_it_is(elsewhere, tmp_path):
    nothing = write_checkpoint(tmp_path / "start", "tokenizer.json")
    assert taken(tmp_path / "run", None) == taken(tmp_path / "run", nothing) == "tokenizer.json"
