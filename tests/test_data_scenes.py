"""The procedural set: its files, its scenes, and the questions about them."""

import collections
import dataclasses
import runpy
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from procedural_set import VIDEOS, lines, make_set
from video_reading import read_video

from stts_jax.data import synthetic
from stts_jax.data.scene_questions import ask_picture, direction, region_of
from stts_jax.data.scenes import COLOURS, Actor, SceneConfig, plan_picture, render, shape_mask
from stts_jax.data.synthetic import (
    PICTURES_PER_VIDEO,
    SyntheticError,
    ensure_synthetic,
    plan_video,
)
from stts_jax.demo.guessing import value_of

SCENE = SceneConfig()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_set(tmp_path_factory)


@pytest.mark.parametrize("many", [VIDEOS, VIDEOS + 1], ids=["processes", "one process"])
def test_the_set_is_the_same_for_a_seed(many, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "MANY_VIDEOS", many)
    again = ensure_synthetic(tmp_path / "a", videos=VIDEOS, seed=1, progress=False)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert len(files) == VIDEOS * (1 + PICTURES_PER_VIDEO) + 6
    assert all((folder / f).read_bytes() == (again / f).read_bytes() for f in files)


def test_the_set_is_another_for_another_seed(folder, tmp_path):
    other = ensure_synthetic(tmp_path / "b", videos=VIDEOS, seed=2, progress=False)
    assert (other / "train.jsonl").read_bytes() != (folder / "train.jsonl").read_bytes()


def test_a_made_set_is_kept_and_other_files_are_not_overwritten(folder, tmp_path):
    before = (folder / "synthetic.json").stat().st_mtime_ns
    ensure_synthetic(folder, videos=VIDEOS, seed=1, progress=False)
    assert (folder / "synthetic.json").stat().st_mtime_ns == before
    with pytest.raises(SyntheticError, match="other settings"):
        ensure_synthetic(folder, videos=VIDEOS, seed=3, progress=False)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(SyntheticError, match="holds other files"):
        ensure_synthetic(tmp_path, videos=VIDEOS, progress=False)


def test_splits_share_no_video(folder):
    videos = [{x["video"] for x in lines(folder / f"{s}.jsonl")} for s in ("train", "test")]
    assert videos[0] and videos[1] and not videos[0] & videos[1]


def test_shapes_are_where_the_scene_file_says(folder):
    for scene in lines(folder / "scenes.jsonl")[:10]:
        frames = read_video(folder / scene["video"], 32, None).frames
        shown = np.arange(32) / SCENE.fps
        video = read_video(folder / scene["video"], 8, 2.0)
        assert len(frames) == 32 and len(video.frames) == 8
        for values in scene["actors"]:
            actor = Actor(**values)
            for time, image in zip(video.timestamps, video.frames, strict=True):
                shown_at = shown[np.searchsorted(shown, time, "right") - 1]
                if actor.appears <= shown_at < actor.goes:
                    assert_shows(image, actor, shown_at)


MASK_SHOWN = 0.6  # least share seen: 0.63


def assert_shows(image, actor, time):
    x, y = actor.position(time)
    window = image[y : y + actor.size, x : x + actor.size].astype(int)
    colour = np.array(COLOURS[actor.colour_at(time)])
    mask = shape_mask(actor.shape, actor.size)
    shown = np.abs(window - colour).max(-1)[mask] <= 24
    # The white leading edge of a shape that has moved covers some of it.
    assert shown.mean() >= MASK_SHOWN, (actor, time, shown.mean())


def test_answers_are_what_the_scene_holds():
    for index in range(100):
        scene, questions = plan_video(index, 5, SCENE)
        for q in questions:
            named = [a for a in scene.actors if a.shape in q.question or a.colour in q.question]
            if q.type == "direction":
                assert q.answer == f"{named[0].colour} {direction(named[0])}"
            elif q.type == "where":
                assert q.answer == f"{named[0].colour} {region_of(named[0], SCENE)}"
            elif q.type == "change":
                assert q.answer == f"{named[0].shape} {named[0].turns}"
            elif q.type == "order":
                briefs = sorted(scene.having("brief"), key=lambda a: a.appears)
                assert q.answer == briefs[0].shape
            if q.options:
                assert q.answer in q.options and len(set(q.options)) == len(q.options)


def test_a_shape_that_changes_turns_to_a_colour_far_from_its_own():
    changers = [a for i in range(200) for a in plan_video(i, 6, SCENE)[0].having("changer")]
    apart = [np.abs(np.subtract(COLOURS[a.colour], COLOURS[a.turns])).sum() for a in changers]
    assert len(apart) > 50 and min(apart) >= SCENE.colour_change


def test_brief_shapes_show_in_one_sampled_frame_that_is_not_the_first():
    times = np.linspace(0, SCENE.seconds, SCENE.sampled_frames)
    for index in range(100):
        for actor in plan_video(index, 6, SCENE)[0].having("brief"):
            seen = np.flatnonzero((actor.appears <= times) & (times < actor.goes))
            assert len(seen) == SCENE.brief_frames and 0 < seen[0] < SCENE.sampled_frames - 1


def test_pictures_are_videos_of_one_frame_with_questions_about_what_they_show(folder):
    asked = lines(folder / "pictures.jsonl")
    assert {q["type"] for q in asked} == {"shape", "colour", "where", "count", "direction"}
    pictures = sorted({q["video"] for q in asked})
    assert len(pictures) == VIDEOS * PICTURES_PER_VIDEO
    for picture in pictures[:5]:
        with av.open(str(folder / picture)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 1
    for index in range(50):
        scene = plan_picture(np.random.default_rng(index), SCENE)
        cells = {tuple(np.array(actor.start) // SCENE.cell) for actor in scene.actors}
        assert len(cells) == len(scene.actors)
        for q in ask_picture(scene, np.random.default_rng(index), SCENE):
            named = [a for a in scene.actors if a.colour in q.question or a.shape in q.question]
            expected = {
                "shape": lambda a: f"{a.colour} {a.shape}",
                "colour": lambda a: f"{a.shape} {a.colour}",
                "where": lambda a: f"{a.colour} {region_of(a, SCENE)}",
                "direction": lambda a: f"{a.colour} {direction(a)}",
            }
            if q.type == "count":
                assert q.answer == str(len(scene.actors))
            else:
                assert len(named) == 1 and q.answer == expected[q.type](named[0])


def test_a_still_video_changes_in_fewer_cells_than_a_busy_one():
    def changes(activity: str, index: int) -> int:
        config = dataclasses.replace(SCENE, activities=(activity,))
        frames = render(plan_video(index, 8, config)[0], config).astype(int)
        times = np.linspace(0, SCENE.seconds, SCENE.sampled_frames, endpoint=False)
        seen = frames[(times * SCENE.fps).astype(int)]
        cells = np.abs(np.diff(seen, axis=0)).reshape(-1, 3, SCENE.cell, 3, SCENE.cell, 3)
        return int((cells.max((2, 4, 5)) > 0).sum())

    still, calm, busy = (
        [changes(activity, index) for index in range(20)] for activity in ("still", "calm", "busy")
    )
    assert max(still) < min(calm) and max(calm) < min(busy)


def test_text_alone_answers_at_most_a_third():
    answers = collections.defaultdict(collections.Counter)
    chances = []
    for index in range(1500):
        for q in plan_video(index, 7, SCENE)[1]:
            answers[q.type][value_of(q.question, q.answer)] += 1
            chances.extend([1 / len(q.options)] if q.options else [])
    total = sum(map(collections.Counter.total, answers.values()))
    best = sum(max(counter.values()) for counter in answers.values())
    # Measured 0.30 over all; every type is close to one in the number of its answers.
    assert best / total <= 0.35 and np.mean(chances) <= 0.35
    assert all(max(c.values()) / c.total() <= 1 / len(c) + 0.06 for c in answers.values())


def test_the_command_makes_the_set_with_functions_that_worker_processes_find(monkeypatch):
    made = []
    monkeypatch.setattr(synthetic, "ensure_synthetic", lambda folder, **_: made.append(folder))
    monkeypatch.setattr(sys, "argv", ["synthetic", "set"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(synthetic.__file__, run_name="__main__")
    assert made == [Path("set")]
