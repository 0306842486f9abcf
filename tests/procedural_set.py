"""A small procedural set, for tests of what is made of files."""

import json

from stts_jax.config import load_config
from stts_jax.data.synthetic import ensure_synthetic

VIDEOS = 30


def make_set(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "synthetic"
    return ensure_synthetic(path, videos=VIDEOS, seed=1, progress=False)


def config_for(folder, *overrides):
    sets = [f"data.{split}={folder}/{split}.jsonl" for split in ("train", "validation", "test")]
    room = ["data.row_text_tokens=256", "data.batch_rows=4", "eval.batch_rows=4"]
    return load_config("tiny", [*sets, *room, *overrides])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
