"""Measuring how fast data are read."""

import json
import shutil

import pytest

from stts_jax.config import load_config
from stts_jax.data.__main__ import main
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.speed import STAGES, Speed, lines, measure
from stts_jax.data.synthetic import ensure_synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return ensure_synthetic(tmp_path_factory.mktemp("speed") / "set", videos=6, progress=False)


def test_every_stage_is_measured_and_every_frame_counted(folder):
    config = load_config("tiny", [f"data.train={folder}/train.jsonl"])
    speed = measure(config, 5)
    assert set(speed.seconds) == set(STAGES) and min(speed.seconds.values()) > 0
    assert (speed.examples, speed.unreadable) == (5, 0)
    assert speed.frames == 5 * config.data.max_frames
    assert speed.per_second == 5 / sum(speed.seconds.values())


def test_examples_that_cannot_be_read_are_counted_apart(folder, tmp_path):
    mine = shutil.copytree(folder, tmp_path / "set")
    entries = [json.loads(line) for line in (mine / "train.jsonl").read_text().splitlines()]
    names = sorted({entry["video"] for entry in entries})
    (mine / names[0]).unlink()
    config = load_config("tiny", [f"data.train={mine}/train.jsonl", "data.questions_per_video=99"])
    speed = measure(config, len(names))
    assert (speed.examples, speed.unreadable) == (len(names) - 1, 1)
    for name in names[1:]:
        (mine / name).unlink()
    with pytest.raises(DatasetError, match=r"none of 3 examples"):
        measure(config, 3)


def test_cores_are_rounded_up():
    speed = Speed(dict.fromkeys(STAGES, 1.0), examples=6, frames=60, unreadable=2)
    assert speed.per_second == 2.0
    assert [speed.cores_for(rate) for rate in (0.5, 2.0, 2.1)] == [1, 1, 2]
    told = lines(speed, rate=5)
    assert told[-2:] == ["2 others could not be read", "5 examples a second need 3 cores"]


def test_a_made_clip_stands_in_for_data(capsys):
    assert main(["speed", "--made-clip", "0.5", "--examples", "1"]) == 0
    assert "1 examples of 2.0 frames" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--examples", "0"], "--examples is 0; it must be above 0"),
        (["--rate", "-1"], "--rate is -1.0; it must be above 0"),
        (["--config", "none"], "'none'"),
        (["--set", "data.train=/no.jsonl"], "/no.jsonl"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(flags, message, capsys):
    assert main(["speed", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_start_with_many_lines_is_measured(tmp_path, capsys):
    assert main(["speed", "--lines", "300", "--workers", "0", "1", "--work", str(tmp_path)]) == 0
    index, head, *rows = capsys.readouterr().out.splitlines()
    assert index.startswith("the index of 300 lines (300 examples")
    assert [row.split()[:2] for row in rows] == [["300", "0"], ["300", "1"]]
    assert head.split()[:2] == ["lines", "workers"]
    assert not list(tmp_path.iterdir())
