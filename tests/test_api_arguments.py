"""What the public API takes and refuses, before a model computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from arbitrary_models import arbitrary_model
from goldens_folder import REPOSITORY
from PIL import Image
from training_cases import small_config

import stts_jax as stts
from stts_jax.api.many import paired
from stts_jax.api.media import clip_of, image_of, is_given, pictures_of, subtitle_of, video_of
from stts_jax.api.questions import Question
from stts_jax.api.settings import asked_with, with_settings
from stts_jax.data.images.file import load_image
from stts_jax.data.stored_media import GivenFrames, StoredClip
from stts_jax.data.text.pieces import pieces
from stts_jax.data.text.tokenizer import Tokenizer
from stts_jax.training.checkpointing.load import save_model
from stts_jax.training.checkpointing.thresholds import RATIOS, save_thresholds

FRAMES = np.zeros((4, 6, 8, 3), np.uint8)

# ----------------------------------------------------------------------------------------- import


def test_the_package_is_imported_without_its_libraries():
    program = (
        "import sys, time; began = time.process_time(); import stts_jax as stts; "
        "assert time.process_time() - began < 0.3; assert 'train' in dir(stts); "
        "print(sorted({'jax', 'numpy', 'flax', 'av'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there():
    assert set(stts.__all__) == {*stts._MODULES, "pruning"}
    assert all(getattr(stts, name) is not None for name in stts.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        stts.lode  # noqa: B018


# --------------------------------------------------------------------------------------- settings

CONFIG = small_config()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prune": 50}, "prune is 50, but it is a share from 0 to below 1; did you mean 0.5?"),
        ({"prune": 1.0}, "leaves nothing of a video; give a share below 1"),
        ({"prune": -0.1}, "prune is -0.1, but it is a share from 0 to below 1, such as 0.5"),
        ({"prune": float("nan")}, "prune is nan; give the share of a video's tokens to drop"),
        ({"prune": "half"}, "prune is 'half'; give the share of a video's tokens to drop"),
        ({"prune": True}, "prune is True; give the share of a video's tokens to drop"),
        ({"prune": "auto"}, "no calibrated threshold; load it with one, such as"),
        ({"frames": 0}, "frames is 0; give a whole number from 1"),
        ({"frames": 2.5}, "frames is 2.5; give a whole number from 1"),
        ({"fps": 0}, "fps is 0; give frames per second, above 0"),
        ({"max_new_tokens": "4"}, "max_new_tokens is '4'; give a whole number from 1"),
    ],
)
def test_a_wrong_setting_is_one_sentence(changes, said):
    with pytest.raises(stts.UsageError) as refused:
        asked_with(CONFIG, **changes)
    assert said in str(refused.value)


def test_a_model_that_drops_nothing_says_what_to_load_it_with():
    config = small_config("model.prune.method=none", "model.prune.topk=0")
    assert asked_with(config, prune=0) == config
    with pytest.raises(stts.UsageError, match="tome"):
        asked_with(config, prune=0.5)


def test_settings_of_a_question_change_nothing_else():
    config = asked_with(CONFIG, prune=0.25, frames=np.int64(9), fps=1, max_new_tokens=7)
    assert (config.model.prune.topk, config.data.max_frames, config.data.fps) == (0.25, 9, 1.0)
    assert (config.data.row_frames, config.eval.max_new_tokens) == (9, 7)
    assert asked_with(CONFIG) == CONFIG


def test_auto_drops_by_the_threshold_that_the_checkpoint_was_calibrated_to(tmp_path):
    checkpoint = save_model(arbitrary_model(CONFIG.model), CONFIG, tmp_path)
    with pytest.raises(stts.CheckpointError, match="run `stts calibrate --checkpoint"):
        asked_with(CONFIG, prune="auto", checkpoint=checkpoint)
    save_thresholds(checkpoint, RATIOS)  # of scores that are evenly spread
    found = asked_with(CONFIG, prune="auto", checkpoint=checkpoint).model.prune
    assert (found.threshold, found.topk) == (0.5, 0.5)
    with pytest.raises(stts.UsageError, match="drops nothing in the mean"):
        asked_with(small_config("model.prune.topk=0"), prune="auto", checkpoint=checkpoint)


def test_a_ratio_takes_the_place_of_a_threshold_and_auto_leaves_it():
    config = small_config("model.prune.threshold=0.4")
    assert asked_with(config, prune="auto") == config == asked_with(config)
    for ratio in (0.3, 0):
        found = asked_with(config, prune=ratio).model.prune
        assert (found.topk, found.threshold) == (ratio, 0.0)


def test_settings_are_given_by_name_or_as_the_commands_take_them():
    for given in ({"model.prune.topk": 0.3}, ["model.prune.topk=0.3"], "model.prune.topk=0.3"):
        assert with_settings(CONFIG, given).model.prune.topk == 0.3
    with pytest.raises(stts.ConfigError, match="did you mean 'topk'"):
        with_settings(CONFIG, {"model.prune.topj": 0.3})
    for given in (7, [7]):
        with pytest.raises(stts.UsageError, match="give changes by name"):
            with_settings(CONFIG, given)


@pytest.mark.parametrize(
    ("refuse", "said"),
    [
        (lambda: stts.evaluate("none", limit=0), "limit is 0; give a whole number from 1"),
        (lambda: stts.evaluate("none", 7), "7 is no path of a folder"),
        (lambda: stts.evaluate("none", "exam"), "split is 'exam'; use train"),
        (lambda: stts.evaluate("none", output=7), "7 is no path of a folder"),
        (lambda: stts.train(7, output="run"), "config is 7; give a Config, a name, or a file"),
        (lambda: stts.train("tiny", output=7), "7 is no path of a folder"),
    ],
)
def test_a_run_of_wrong_arguments_is_one_sentence_before_a_model_is_loaded(refuse, said):
    with pytest.raises((stts.UsageError, stts.ConfigError)) as refused:
        refuse()
    assert said in str(refused.value)


# ------------------------------------------------------------------------------------------ media


@pytest.mark.parametrize(
    ("video", "said"),
    [
        (FRAMES.astype(np.float32), "an array of float32; give uint8 from 0 to 255, for example "),
        (FRAMES.transpose(0, 3, 1, 2), "colours first; give frames.transpose(0, 2, 3, 1)"),
        (FRAMES[0], "the frames have shape (6, 8, 3); give (T, H, W, 3)"),
        (FRAMES[:0], "which holds no pixel"),
        (np.repeat(FRAMES, 3, 0), "12 frames, and the model takes 4; give fewer, such as frames[:"),
        (b"", "the video is empty bytes"),
        (7, "a video is 7; give a path, the bytes of a file, or an array of uint8"),
    ],
)
def test_a_wrong_video_is_one_sentence(video, said):
    with pytest.raises(stts.UsageError) as refused:
        video_of(video, fps=2.0, most=4)
    assert said in str(refused.value)


def test_a_video_is_a_path_bytes_or_frames():
    assert video_of("a.mp4", 2.0, 4) == (Path("a.mp4"), None)
    assert isinstance(video_of(b"abc", 2.0, 4)[1], StoredClip)
    given = video_of(FRAMES, 2.0, 4)[1]
    assert isinstance(given, GivenFrames)
    assert given.timestamps.tolist() == [0.0, 0.5, 1.0, 1.5]


@pytest.mark.parametrize(
    ("take", "given", "said"),
    [
        (clip_of, 7, "clip is 7; give the first and the last second, such as (2, 9.5)"),
        (clip_of, "29", "clip is '29'; give the first and the last second"),
        (clip_of, (2, 3, 4), "clip is (2, 3, 4); give the first and the last second"),
        (clip_of, (2, None), "clip is (2, None); give the first and the last second"),
        (subtitle_of, 7, "subtitle is 7; give a text, or the path of a .srt or .vtt file"),
        (pictures_of, "a.png", "images is 'a.png', which is no list; give one, images=[...]"),
        (pictures_of, 7, "images is 7, which is no list; give one, images=[...]"),
    ],
)
def test_a_wrong_part_of_what_is_shown_is_one_sentence(take, given, said):
    with pytest.raises(stts.UsageError) as refused:
        take(given)
    assert said in str(refused.value)


def test_seconds_are_any_pair_of_numbers_and_subtitles_any_path():
    assert clip_of(np.array([2, 9], np.int32)) == (2.0, 9.0) == clip_of([2, 9])
    assert subtitle_of(Path("a.srt")) == "a.srt" == subtitle_of("a.srt")
    assert pictures_of([Path("a.png"), "b.png"]) == (Path("a.png"), Path("b.png"))


def test_an_array_is_given_though_it_is_neither_true_nor_false():
    assert is_given(np.zeros(2)) and is_given("") is is_given(()) is is_given(None) is False


def test_pictures_are_read_from_arrays_and_from_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    for given in (pixels, Image.fromarray(pixels)):
        np.testing.assert_array_equal(load_image(image_of(given, 1)), pixels)
    with pytest.raises(stts.UsageError, match=r"picture 2 has shape \(5, 7\)"):
        image_of(pixels[..., 0], 2)


# -------------------------------------------------------------------------------------- questions


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((None, None, ()), "there is no question; write ask(video, question)"),
        (("  ", None, ()), "question is '  ', which asks nothing; write one"),
        ((7, None, ()), "question is 7, which is no text"),
        (("Who?", "yes", ()), "options is 'yes'; give a list of texts"),
        (("Who?", 7, ()), "options is 7; give a list of texts"),
        (("Who?", [], ()), "options is []; give a list of texts"),
        (("Who?", ["a", "a"], ()), "give two or more that are different"),
        (("Who?", None, 7), "history is 7; give pairs"),
        (("Who?", None, ["Before?"]), "history holds 'Before?'; give pairs"),
        (("Who?", ["a", "b"], [("x", "y")]), "options go with one question"),
    ],
)
def test_a_wrong_question_is_one_sentence(asked, said):
    with pytest.raises(stts.UsageError) as refused:
        Question.of(*asked)
    assert said in str(refused.value)


def test_videos_and_questions_are_paired_or_one_stands_for_all():
    assert paired(["a", "b"], "Q") == [("a", "Q"), ("b", "Q")]
    assert paired("a", ["Q", "R"]) == [("a", "Q"), ("a", "R")]
    assert paired(["a", "b"], ["Q", "R"]) == [("a", "Q"), ("b", "R")]
    with pytest.raises(stts.UsageError, match="there are 2 videos and 1 questions"):
        paired(["a", "b"], ["Q"])
    with pytest.raises(stts.UsageError, match=r"np\.stack"):
        paired(list(FRAMES), "Q")


def test_the_pieces_of_an_answer_hold_whole_letters():
    tokenizer = Tokenizer.load("tiny", 512)
    text = "Zwölf 🎈 Bälle"
    ids = [*tokenizer.encode(text), tokenizer.eos_id, 5]
    found = list(pieces(tokenizer, ids))
    assert "".join(found) == text and len(found) > 3
    assert not any("\ufffd" in piece for piece in found)
    assert "".join(pieces(tokenizer, ids[:8])) == tokenizer.decode(ids[:8])
