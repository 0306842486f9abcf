"""Batches of prompts, made of files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from procedural_set import config_for, lines, make_set
from video_reading import read_video

from stts_jax.budget import batch_arrays, video_budget
from stts_jax.config import load_config
from stts_jax.data.evaluation_batches import (
    PromptBatches,
    batches_of_prompts,
    examples_of,
    grown,
    text_room,
)
from stts_jax.data.images.image import resize, to_patches
from stts_jax.data.packing.rows import SIZES
from stts_jax.data.questions import question_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_set(tmp_path_factory)


def prompts_of(config, limit: int | None = None, **options: float) -> PromptBatches:
    examples = examples_of(config, "test")[:limit]
    return batches_of_prompts(config, enumerate(examples), **options)


def test_prompts_come_one_a_row_with_the_rest_of_the_batch_empty(folder):
    config = config_for(folder)
    prompts = prompts_of(config, limit=6)
    batches = list(prompts)
    assert [len(part) for _, part, _ in batches] == [4, 2] and len(prompts) == 2
    expected = lines(folder / "test.jsonl")[:6]
    asked = [question_of(p.source).question for _, part, _ in batches for p in part]
    assert asked == [x["question"] for x in expected]
    assert all(text in p.text for text, p in zip(asked, batches[0][1], strict=False))
    for batch, _, budget in batches:
        contract = batch_arrays(budget, config.model, 4) | {"to_prune": ((4, 1), np.int32)}
        assert {k: (v.shape, v.dtype) for k, v in batch.to_arrays().items()} == contract
        assert budget.text % 64 == 0
    assert (batches[1][0].text.input_ids[2:] == -1).all()


def test_of_a_conversation_the_last_question_is_asked(folder, tmp_path):
    video = lines(folder / "test.jsonl")[0]["video"]
    turns = [{"question": f"Question {n}?", "answer": f"answer {n}"} for n in range(2)]
    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps({"video": str(folder / video), "turns": turns}))
    config = config_for(folder, f"data.test={mine}")
    prompts = batches_of_prompts(config, enumerate(examples_of(config, "test")), rows=1)
    ((batch, (prompt,), _),) = prompts
    eos, visual = prompts.tokenizer.eos_id, set(prompts.tokenizer.special_ids.values())
    ids = [token for token in batch.text.input_ids[0].tolist() if token not in {eos, -1, *visual}]
    asked = prompts.tokenizer.decode(ids)
    assert "answer 0" in asked and "Question 1?" in asked and "answer 1" not in asked
    assert question_of(prompt.source).answer == "answer 1"


def test_budgets_of_prompts_only_grow_and_in_steps():
    budget = video_budget(load_config("tiny").model, frames=4, videos=1, text_tokens=64)
    sizes = {name: getattr(budget, name) for name in SIZES}
    assert grown(budget, sizes) == budget
    longer = grown(budget, {**sizes, "tokens_before": sizes["tokens_before"] + 1})
    assert longer.text == 128 and longer.visual == budget.visual
    assert [text_room(n) for n in (1, 65, 256, 257, 513, 1000)] == [64, 128, 256, 384, 768, 1024]
    assert grown(longer, sizes) == longer


def test_more_frames_can_be_asked_for_at_test_time(folder):
    config = config_for(folder)
    prompts = prompts_of(config, limit=1, frames_scale=2)
    batch, (prompt,), budget = next(iter(prompts))
    vit = config.model.vit
    twice = read_video(prompt.source.video, 16, config.data.fps)
    pixels = np.stack([resize(frame, vit.image_size) for frame in twice.frames])
    assert budget.frames == len(twice.timestamps) == batch.num_images[0, 0] == 16
    assert (batch.images[0] == to_patches(pixels, vit.patch_size)).all()


def test_a_prompt_about_a_bad_video_is_left_out(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    first = Path(lines(tmp_path / "set/test.jsonl")[0]["video"])
    (tmp_path / "set" / first).unlink()
    config = config_for(tmp_path / "set", "data.max_bad_share=1")
    prompts = prompts_of(config)
    count = sum(len(part) for _, part, _ in prompts)
    total = len(lines(tmp_path / "set/test.jsonl"))
    assert 0 < count < total and len(prompts.bad.reasons) == total - count
