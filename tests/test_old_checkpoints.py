"""A checkpoint that earlier code wrote loads, keeps the same tokens and answers the same.

`fixtures/checkpoint` is a run of 20 steps, and `expected.npz` what the code that wrote it made of
the demo's clip.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from goldens_folder import REPOSITORY

from stts_jax.evaluation.single import ask, kept_tokens
from stts_jax.training.checkpointing.load import load_to_answer
from stts_jax.training.checkpointing.run_folder import config_of

FOLDER = Path(__file__).with_name("fixtures") / "checkpoint"
CLIP = REPOSITORY / "stts_jax" / "demo" / "bigbuckbunny.mp4"
# Worst seen: 9e-8.
SCORES = 1e-5


@pytest.fixture(scope="module")
def opened():
    return load_to_answer(FOLDER, config_of(FOLDER))


def test_an_old_checkpoint_keeps_the_same_tokens(opened, report_error):
    kept = kept_tokens(*opened, CLIP)
    with np.load(FOLDER / "expected.npz") as expected:
        error = float(np.abs(kept.scores - expected["scores"]).max())
        report_error("scores of an old checkpoint", error, SCORES)
        assert error <= SCORES and (kept.keep == expected["keep"]).all()


def test_an_old_checkpoint_answers_the_same(opened):
    with np.load(FOLDER / "expected.npz") as expected:
        assert ask(*opened, CLIP, "Which animal is it?") == str(expected["answer"])
