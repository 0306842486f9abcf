"""The examples of docs/CONTRIBUTING.md do what it says."""

from __future__ import annotations

import json
import re
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens_folder import REPOSITORY
from test_parity_scorer import frames_of

from stts_jax.config import PruneMethod
from stts_jax.data.datasets import base
from stts_jax.pruning import baselines
from stts_jax.pruning.selection import select

TEXT = (REPOSITORY / "docs" / "CONTRIBUTING.md").read_text()


def example(name):
    """Runs a block of the page; returns what it defines."""
    (code,) = re.findall(rf"<!-- {name} -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    defined = {}
    exec(code, defined)
    return defined


def test_the_dataset_of_the_page_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    example("dataset")
    folder = tmp_path / "StreetCrossings"
    folder.mkdir()
    record = {"video": "a.mp4", "question": "Who crosses?", "answer": "a dog"}
    (folder / "train.jsonl").write_text(json.dumps(record) + "\n")
    dataset = base.dataset_class("street_crossings")(tmp_path)
    (found,) = [dataset.example(record, np.random.RandomState(0)) for record in dataset.records]
    assert found.video == folder / "a.mp4"
    assert found.annotations[0]["answer"] == "a dog"


def test_the_baseline_of_the_page_keeps_the_last_frames(monkeypatch):
    monkeypatch.setitem(baselines.BASELINES, "newest", example("baseline")["scores"])
    frames = frames_of(np.array([4]), 4, np.array([2]))
    x = jnp.zeros((1, 4, 9, 2))
    inputs = baselines.BaselineInputs(x, frames, 3, 0.5, jax.random.key(0), x)
    scores = baselines.baseline_scores("newest", inputs)
    assert select(scores, frames)[0, :, 0].tolist() == [False, False, True, True]


def test_every_baseline_can_be_set_and_every_method_is_one():
    assert {*baselines.BASELINES} == {*get_args(PruneMethod)} - {"none", "scorer"}


@pytest.mark.parametrize("line", re.findall(r"^[-+ ]   ?_task\(.*|^[-]PruneMethod.*", TEXT, re.M))
def test_lines_that_a_diff_starts_from_are_there(line):
    if line[0] != "+":
        sources = "".join(
            (REPOSITORY / "stts_jax" / path).read_text()
            for path in ("config/model.py", "evaluation/suites.py")
        )
        assert line[1:].strip() in sources
