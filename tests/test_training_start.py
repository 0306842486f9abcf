"""What a run starts from, and what must not be lost in starting."""

import pytest
from training_cases import (
    FakeBatches,
    fresh_state,
    random_state,
    single_mesh,
    small_config,
    train_step,
)

from stts_jax.training import loop, start
from stts_jax.training.checkpoint import CheckpointError, checkpoint_steps, save_model
from stts_jax.training.loop import train


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    """One device, and what is compiled is compiled once for all tests."""
    monkeypatch.setattr(loop, "run_mesh", lambda _: single_mesh())
    monkeypatch.setattr(start, "training_batches", FakeBatches)
    monkeypatch.setattr(start, "init_state", lambda *_: fresh_state())
    monkeypatch.setattr(loop, "make_train_step", lambda *_: train_step())


def short(output, **options):
    """A run of one step."""
    return train(small_config("train.steps=1", "train.log_every=0"), output, **options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("run", r"lies in --output .*; choose another --output"),
        ("run/checkpoints/1", r"lies in --output .*; choose another --output"),
        ("nothing", "there is no checkpoint in"),
        ("other", "doesn't fit this setup"),
    ],
)
def test_a_run_that_cannot_start_anew_deletes_nothing(tmp_path, source, message):
    short(tmp_path / "run")
    other = small_config("model.llm.mlp_width=40")
    save_model(random_state(other).model, other, tmp_path / "other")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match=message):
        short(tmp_path / "run", resume=False, init_from=tmp_path / source)
    assert checkpoint_steps(tmp_path / "run") == [1]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
