"""Methods without parameters prune a model that was trained without pruning, by `--set`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from arbitrary_models import arbitrary_model
from command_cases import refused
from training_cases import small_config

import eval as evaluate
from stts_jax import ask, show
from stts_jax.training.checkpointing.load import save_model
from stts_jax.training.checkpointing.run_folder import config_of

pytest_plugins = ["command_fixtures"]


@pytest.fixture(scope="module")
def unpruned(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a model without a scorer, beside the one with it."""
    like = config_of(checkpoint)
    config = small_config(
        "model.vit.patch_size=8",
        "model.prune.pooling=2",
        "model.prune.method=none",
        "model.prune.topk=0",
        "model.llm.vocab_size=512",
        "eval.max_new_tokens=1",
        f"data.test={like.data.test}",
    )
    folder = tmp_path_factory.mktemp("unpruned") / "run"
    save_model(arbitrary_model(config.model), config, folder)
    return folder


def by(method: str, k: int = 50) -> list[str]:
    return ["--k", str(k), "--set", f"model.prune.method={method}"]


def test_eval_merges_tokens_of_an_unpruned_model(unpruned, tmp_path):
    arguments = ["--checkpoint", str(unpruned), "--output", str(tmp_path), "--limit", "1"]
    assert evaluate.main([*arguments, *by("tome")]) == 0
    assert json.loads((tmp_path / "k50" / "metrics.json").read_text())["visual_tokens"] == 8


def test_a_question_about_an_unpruned_model_takes_evs(unpruned, video, capsys):
    given = [str(video), "What?", "--checkpoint", str(unpruned)]
    assert ask.main([*given, *by("evs")]) == 0
    assert capsys.readouterr().out


def test_show_keeps_what_the_heuristic_keeps_of_an_unpruned_model(
    unpruned, video, tmp_path, capsys
):
    given = [str(video), "--checkpoint", str(unpruned), "--output", str(tmp_path)]
    assert show.main([*given, *by("heuristic")]) == 0
    assert capsys.readouterr().out.startswith("kept 8 of 16 tokens (50%)")


@pytest.mark.parametrize("command", [evaluate, show])
def test_a_scorer_that_was_never_trained_is_missed_in_a_sentence(command, unpruned, video, capsys):
    given = ["--checkpoint", str(unpruned), *by("scorer")]
    said = refused(capsys, command.main([str(video), *given] if command is show else given))
    assert "has no scorer" in said and "heuristic, tome, evs, random" in said


def test_a_ratio_alone_is_refused_with_the_methods_that_can_be_set(unpruned, video, capsys):
    said = refused(capsys, show.main([str(video), "--checkpoint", str(unpruned), "--k", "50"]))
    assert "model.prune.method is 'none'" in said and "heuristic" in said
