"""The procedural set, and batches made of files."""

import collections
import json
import multiprocessing
import re
import shutil
from pathlib import Path

import av
import grain
import jax
import numpy as np
import pytest
from deadly_worker import length_or_death
from video_reading import read_video

from stts_jax.budget import batch_arrays, row_budget, video_budget
from stts_jax.config import ConfigError, load_config
from stts_jax.data import synthetic
from stts_jax.data.bad_examples import BadExamples, BadExamplesError, Unreadable
from stts_jax.data.datasets.base import DatasetError
from stts_jax.data.evaluation_batches import (
    PromptBatches,
    batches_of_prompts,
    examples_of,
    grown,
    text_room,
)
from stts_jax.data.images.image import resize, to_patches
from stts_jax.data.mixture_order import Draw
from stts_jax.data.packing.rows import SIZES
from stts_jax.data.pipeline import TrainingBatches, _accept_flags, training_batches
from stts_jax.data.questions import question_of
from stts_jax.data.scene_questions import ask_picture, direction, region_of
from stts_jax.data.scenes import COLOURS, Actor, SceneConfig, plan_picture, shape_mask
from stts_jax.data.sources.configured import changed_sources
from stts_jax.data.synthetic import (
    PICTURES_PER_VIDEO,
    SyntheticError,
    ensure_synthetic,
    plan_video,
)
from stts_jax.demo.guessing import value_of

SCENE = SceneConfig()
VIDEOS = 30


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "synthetic"
    return ensure_synthetic(path, videos=VIDEOS, seed=1, progress=False)


def config_for(folder, *overrides):
    sets = [f"data.{split}={folder}/{split}.jsonl" for split in ("train", "validation", "test")]
    room = ["data.row_text_tokens=256", "data.batch_rows=4", "eval.batch_rows=4"]
    return load_config("tiny", [*sets, *room, *overrides])


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# --------------------------------------------------------------------------- the procedural set


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
    assert {q["type"] for q in asked} == {"shape", "colour", "where", "count"}
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
            }
            if q.type == "count":
                assert q.answer == str(len(scene.actors))
            else:
                assert len(named) == 1 and q.answer == expected[q.type](named[0])


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


# ------------------------------------------------------------------------------------- training


def test_batches_are_what_the_contract_says(folder):
    config = config_for(folder)
    with training_batches(config) as batches:
        batch = next(batches)
        contract = batch_arrays(batches.budget, config.model, 4)
    assert {k: (v.shape, v.dtype) for k, v in batch.to_arrays().items()} == contract
    assert (batch.num_images == 8).all() and (batch.text.loss_masks > 0).any(1).all()


def test_the_stream_goes_on_where_it_was_saved(folder):
    for overrides in ([], ["data.row_frames=24", "data.row_examples=3", "data.max_frames=5"]):
        config = config_for(folder, "data.row_text_tokens=600", *overrides)
        with training_batches(config) as batches:
            for _ in range(3):
                next(batches)
            state = json.loads(json.dumps(batches.get_state()))
            expected = [next(batches) for _ in range(2)]
        with training_batches(config) as batches:
            batches.set_state(state)
            for batch in expected:
                jax.tree.map(np.testing.assert_array_equal, batch, next(batches))


def test_a_place_without_fingerprints_is_gone_on_from(folder):
    with training_batches(config_for(folder)) as batches:
        next(batches)
        state = batches.get_state()
        expected = next(batches)
    older = state["stream"]
    with training_batches(config_for(folder)) as batches:
        assert changed_sources(batches.get_state(), older) == []
        batches.set_state(older)
        assert (next(batches).text.input_ids == expected.text.input_ids).all()


def test_a_file_of_other_content_is_noticed_and_a_copy_is_not(folder, tmp_path):
    def state_of(config):
        with training_batches(config) as batches:
            return json.loads(json.dumps(batches.get_state()))

    before = state_of(config_for(folder))
    shutil.copytree(folder, tmp_path / "set")
    assert changed_sources(state_of(config_for(tmp_path / "set")), before) == []
    path = tmp_path / "set" / "train.jsonl"
    path.write_text(path.read_text().replace("left", "LEFT").replace("blue", "BLUE"))
    assert changed_sources(state_of(config_for(tmp_path / "set")), before) == ["train.jsonl"]


def test_short_videos_fill_a_row_together(folder):
    config = config_for(
        folder, "data.max_frames=4", "data.row_frames=12", "data.row_examples=3",
        "data.row_text_tokens=700", "data.batch_rows=2",
    )  # fmt: skip
    with training_batches(config) as batches:
        batch = next(batches)
    assert (batch.num_images == 4).all()
    assert set(np.unique(batch.text.subsegment_ids // 100000)) == {-1, 0, 1, 2}


def test_rows_are_counted_as_they_are_handed_over(folder):
    with training_batches(config_for(folder)) as batches:
        found = [next(batches) for _ in range(3)]
        rates = batches.fill_rates
    assert rates.rows == 12
    used = sum((batch.num_images.clip(0)).sum() for batch in found)
    assert rates.as_dict()["frames"] == used / (12 * rates.budget.frames)


def test_epochs_see_every_example_once_in_a_new_order(folder):
    def seen(batch):
        return [row.tobytes() for row in batch.images]

    config = config_for(folder)
    with training_batches(config) as batches:
        assert batches.examples == 24
        epochs = [[v for _ in range(6) for v in seen(next(batches))] for _ in range(2)]
    assert set(epochs[0]) == set(epochs[1]) and len(set(epochs[0])) == 24
    assert epochs[0] != epochs[1]


def test_processes_share_the_examples(folder):
    config = config_for(folder)
    seen = []
    for index in range(2):
        with training_batches(config, process_index=index, process_count=2) as batches:
            seen.append([r.tobytes() for _ in range(6) for r in next(batches).images])
    assert len(seen[0]) == 12 and len(set(seen[0]) | set(seen[1])) == 24
    with pytest.raises(ConfigError, match="not a multiple of the 3 processes"):
        training_batches(config, process_count=3)


def test_worker_processes_make_equal_batches_without_jax(folder):
    """Importing it would be over half of their memory, and most of their start."""
    with training_batches(config_for(folder, "data.workers=1")) as batches:
        with_workers = next(batches)
        (worker,) = multiprocessing.active_children()
        assert "jaxlib" not in Path(f"/proc/{worker.pid}/maps").read_text()
    with training_batches(config_for(folder)) as batches:
        without = next(batches)
    jax.tree.map(np.testing.assert_array_equal, with_workers, without)


def broken_copy(folder, target, count):
    shutil.copytree(folder, target)
    broken = sorted((target / "train").glob("*.mp4"))[:count]
    for path in broken:
        path.write_bytes(b"")
    return broken


def test_a_bad_video_is_left_out_and_named(folder, tmp_path):
    (broken,) = broken_copy(folder, tmp_path / "set", 1)
    with training_batches(config_for(tmp_path / "set")) as batches:
        for _ in range(12):
            next(batches)
        assert len(batches.bad.reasons) == 1 and str(broken) in batches.bad.report()


def test_too_many_bad_videos_stop_the_run_with_a_report(folder, tmp_path):
    broken = broken_copy(folder, tmp_path / "set", 8)
    with (
        training_batches(config_for(tmp_path / "set")) as batches,
        pytest.raises(BadExamplesError, match=r"data.max_bad_share=0\.1") as raised,
    ):
        for _ in range(12):
            next(batches)
    assert any(str(path) in str(raised.value) for path in broken)


def test_a_file_that_ends_a_worker_process_is_one_sentence_with_the_remedy(folder):
    config = config_for(folder)
    stream = grain.MapDataset.source(["deadly"]).map(length_or_death).to_iter_dataset()
    _accept_flags()
    stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=1))
    stream = grain.experimental.ThreadPrefetchIterDataset(stream, prefetch_buffer_size=1)
    budget = row_budget(config.model, config.data)
    with (
        TrainingBatches(stream, budget, BadExamples(1, 0.1), config.model) as batches,
        pytest.raises(DatasetError, match=r"died \(exit code -9\); .*stts_jax.data check --decode"),
    ):
        next(batches)


def long_answer(folder, target, tokens):
    """The set, with an answer of so many digits."""
    shutil.copytree(folder, target)
    path = target / "train.jsonl"
    first, *rest = lines(path)
    first["answer"] = "7" * tokens
    path.write_text("\n".join(map(json.dumps, [first, *rest])))


def test_an_example_that_fits_no_row_is_left_out_and_named(folder, tmp_path, caplog):
    long_answer(folder, tmp_path / "set", 1000)
    with training_batches(config_for(tmp_path / "set")) as batches:
        for _ in range(12):
            next(batches)
        ((name, reason),) = batches.bad.reasons.items()
    assert re.match(
        r"it has \d+ tokens, \d+ more than a row holds; raise data.row_text_tok",
        reason,
    )
    assert f"skipping {name}: {reason}" in caplog.text


def test_rows_too_small_for_many_examples_stop_the_run_with_the_remedy(folder):
    with (
        training_batches(config_for(folder, "data.row_text_tokens=64")) as batches,
        pytest.raises(BadExamplesError, match=r"raise data.row_text_tokens"),
    ):
        for _ in range(12):
            next(batches)


def test_a_line_that_is_too_long_costs_itself_alone(folder, tmp_path, caplog):
    video = folder / lines(folder / "train.jsonl")[0]["video"]
    asked = [{"video": str(video), "question": f"q{n}", "answer": "a"} for n in range(5)]
    asked[3]["question"] = "word " * 900
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(map(json.dumps, asked)))
    config = config_for(folder, f"data.train={path}", "data.batch_rows=1", "data.max_bad_share=0.2")
    with training_batches(config) as batches:
        batch = next(batches)
        assert list(batches.bad.reasons) == ["long.jsonl:4"]
    # Four branches and the trunk that they share.
    assert len(set(batch.text.subsegment_ids.ravel().tolist()) - {-1}) == 5
    assert re.search(r"skipping long.jsonl:4: it has \d+ tokens.* raise data.row_text", caplog.text)


def test_a_run_ends_where_nothing_is_of_use_though_all_may_be_bad(tmp_path):
    path = tmp_path / "bad.jsonl"
    asked = [{"video": f"{n}.mp4", "question": "q", "answer": "a"} for n in range(3)]
    path.write_text("\n".join(map(json.dumps, asked)))
    config = load_config("tiny", [f"data.train={path}", "data.max_bad_share=1"])
    with (
        training_batches(config) as batches,
        pytest.raises(BadExamplesError, match=r"not one of the 3 examples can be used") as raised,
    ):
        next(batches)
    assert all(f"bad.jsonl:{n}: " in str(raised.value) for n in (1, 2, 3))


def test_a_dataset_of_a_mixture_of_which_nothing_is_of_use_ends_the_run():
    bad = BadExamples(1002, 1.0, (1000, 2))
    for index in (0, 0, 1):
        bad.see("a", Draw(0, index, 0))
        bad.add(Unreadable(f"b{index % 2}", "empty", draw=Draw(1, 0, index)))
    with pytest.raises(BadExamplesError, match="not one of the 2 examples of one of the datasets"):
        bad.add(Unreadable("b1", "empty", draw=Draw(1, 1, 0)))


def test_one_example_that_is_of_use_is_enough():
    bad = BadExamples(3, 1.0, (3,))
    for epoch in range(3):
        for index in (1, 2):
            bad.add(Unreadable(f"b{index}", "empty", draw=Draw(0, index, epoch)))
        bad.see("b0", Draw(0, 0, epoch))
    assert len(bad.reasons) == 2


# ----------------------------------------------------------------------------------- evaluation


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
