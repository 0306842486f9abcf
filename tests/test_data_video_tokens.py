"""Frames, times and subtitles to tokens and patches."""

import dataclasses
import sys

import numpy as np
import pytest
from largest_sizes import largest_video_sizes
from qwen3_tokenizer import qwen3_tokenizer
from test_data_video import write
from video_reading import read_video

from stts_jax.budget import MultimodalType
from stts_jax.config import ConfigError, VitConfig
from stts_jax.data.images.image import resize, to_patches
from stts_jax.data.video.frame_sampling import FrameSampler, TimeSampler
from stts_jax.data.video.reading import VideoError, VideoOverrides
from stts_jax.data.video.settings import VideoSettings
from stts_jax.data.video.tokens import VideoPreprocessor, frame_prefix, subtitle_text

VIT = VitConfig(image_size=28, patch_size=4, positions=49)  # 7 x 7 patches, 9 tokens of 3 x 3
TIMES = np.array([0.0, 0.5, 61.25])
LINES = {(0.0, 1.5): "near", (30.0, 32.0): "far", (62.0, 70.0): "late"}


def preprocessor(**settings):
    return VideoPreprocessor(VideoSettings(**settings), VIT, 3, qwen3_tokenizer())


def text(tokens):
    """With each run of patches as one `#`."""
    tokenizer = qwen3_tokenizer()
    patch = tokenizer.special_ids["<im_patch>"]
    kept = [t for k, t in enumerate(tokens) if t != patch or tokens[k - 1] != patch]
    return tokenizer.decode(kept).replace("<im_patch>", "#")


def random_frames(count, height=20, width=30):
    shape = (count, height, width, 3)
    return np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)


# ---------------------------------------------------------------------------------------- tokens


def test_marks_stand_around_every_frame_after_its_time():
    found = text(preprocessor().token_ids(TIMES))
    assert found == (
        "0.0 <frame_start>#<frame_end> 0.5 <frame_start>#<frame_end> 61.2 <frame_start>#<frame_end>"
    )


def test_marks_can_stand_around_the_whole_video():
    found = text(preprocessor(frame_tokens="video").token_ids(TIMES))
    assert found == "<frame_start>0.0 # 0.5 # 61.2 #<frame_end>"


def test_marks_of_images_can_stand_there():
    found = preprocessor(frame_tokens="video", use_frame_special_tokens=False).token_ids(TIMES)
    assert text(found) == "<im_start>0.0 # 0.5 # 61.2 #<im_end>"


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("none", "#"),
        ("numbered-frames", "1: # 2: # 3: #"),
        ("per-frame", "time 0.00 # time 0.50 # time 61.25 #"),
        ("per-frame-compact", "0.0 # 0.5 # 61.2 #"),
    ],
)
def test_times_are_written_in_the_form_asked_for(mode, expected):
    tokens = preprocessor(frame_tokens="video", time_mode=mode).token_ids(TIMES)
    assert text(tokens) == f"<frame_start>{expected}<frame_end>"
    patch = qwen3_tokenizer().special_ids["<im_patch>"]
    assert np.count_nonzero(tokens == patch) == 3 * 9
    assert tokens.dtype == np.int32


def test_times_are_rounded_as_their_double_precision_values_are():
    assert frame_prefix(0.15, 0, "per-frame-compact") == "0.1 "
    assert frame_prefix(0.25, 3, "per-frame-compact") == " 0.2 "
    assert frame_prefix(2.675, 3, "per-frame") == " time 2.67 "


# ------------------------------------------------------------------------------------- subtitles


def test_subtitles_near_a_frame_follow_the_last_frame():
    found = text(preprocessor().token_ids(TIMES, LINES))
    assert found.endswith("<frame_end>subtitle\n0.0 - 1.5 near\n62.0 - 70.0 late\n")


@pytest.mark.parametrize(
    ("mode", "shown"),
    [
        ("frame_0", ["near"]),
        ("frame_1", ["near", "late"]),
        ("frame_30", ["near", "far", "late"]),
        ("all", ["near", "far", "late"]),
        ("truncate_1000", ["near", "far", "late"]),
        ("ignore", []),
    ],
)
def test_the_mode_says_which_subtitles_are_shown(mode, shown):
    found = text(preprocessor(subtitle_mode=mode).token_ids(TIMES, LINES))
    assert [line for line in LINES.values() if line in found] == shown
    assert ("subtitle\n" in found) == bool(shown)


def test_a_text_is_shown_whatever_the_times():
    assert subtitle_text("Hello", TIMES, seconds=0) == "subtitle\nHello"


@pytest.mark.parametrize(
    "settings", [{"subtitle_mode": "truncate_4"}, {"max_subtitle_tokens": 4}], ids=str
)
def test_subtitles_are_cut_to_their_tokens(settings):
    video = preprocessor(**settings)
    without = video.token_ids(TIMES)
    tokens = video.token_ids(TIMES, "one two three four five six")
    whole = qwen3_tokenizer().encode("subtitle\none two three four five six")
    assert tokens[len(without) :].tolist() == whole[:4]


@pytest.mark.parametrize("empty", [None, "", {}], ids=repr)
def test_without_subtitles_nothing_is_added(empty):
    video = preprocessor(subtitle_mode="all")
    np.testing.assert_array_equal(video.token_ids(TIMES, empty), video.token_ids(TIMES))


def test_subtitles_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="of type list"):
        preprocessor().token_ids(TIMES, ["a line"])


# --------------------------------------------------------------------------------------- patches


def test_frames_are_squashed_and_cut():
    frames = random_frames(3)
    found = preprocessor().vision_input(frames, TIMES)
    expected = to_patches(np.stack([resize(frame, 28) for frame in frames]), 4)
    np.testing.assert_array_equal(found.patches, expected)
    assert found.patches.dtype == np.uint8
    assert found.kind == MultimodalType.VIDEO


@pytest.mark.parametrize("pooling", [1, 2, 3, 7])
def test_every_patch_of_every_frame_is_pooled_once(pooling):
    video = dataclasses.replace(preprocessor(), pooling=pooling)
    found = video.vision_input(random_frames(3), TIMES)
    assert found.token_pooling.shape[1] == pooling**2
    pooled = found.token_pooling[found.token_pooling >= 0]
    assert sorted(pooled.tolist()) == list(range(3 * VIT.patches))


def test_pooled_tokens_follow_the_frames():
    found = preprocessor().vision_input(random_frames(3), TIMES)
    frame_of_token = found.token_pooling.max(axis=1) // VIT.patches
    assert frame_of_token.tolist() == sorted(frame_of_token.tolist())
    patch = qwen3_tokenizer().special_ids["<im_patch>"]
    assert np.count_nonzero(found.tokens == patch) == len(found.token_pooling)


@pytest.mark.parametrize(("frames", "times"), [(2, TIMES), (0, TIMES[:0])])
def test_each_frame_needs_a_time(frames, times):
    with pytest.raises(ValueError, match=f"{frames} frames with {len(times)} times"):
        preprocessor().vision_input(random_frames(frames), times)


def test_the_largest_sizes_are_those_of_a_long_video():
    video = preprocessor(max_frames=16)
    sizes = largest_video_sizes(video)
    made = video.vision_input(random_frames(16), np.arange(16) * 32.5)
    assert sizes.tokens == len(made.tokens)
    assert (sizes.frames, sizes.pooled) == (len(made.patches), len(made.token_pooling))


# --------------------------------------------------------------------------------------- reading


def test_a_file_is_read_in_the_size_of_the_model(tmp_path):
    path = write(tmp_path / "a.mp4", [10 * k for k in range(20)])
    video = preprocessor(max_frames=8).read(path)
    plain = read_video(path, 8, 2.0)
    np.testing.assert_array_equal(video.timestamps, plain.timestamps)
    for found, frame in zip(video.frames, plain.frames, strict=True):
        np.testing.assert_array_equal(found, resize(frame, 28))


def test_reading_follows_the_example_and_draws_from_its_generator(tmp_path):
    path = write(tmp_path / "a.mp4", [0] * 20)
    video = preprocessor(max_fps=(1.0, 5.0))
    overrides = VideoOverrides(clip=(0.0, 1.0))
    counts = {
        len(video.read(path, overrides, np.random.RandomState(seed)).frames) for seed in range(8)
    }
    assert counts == {2, 6}
    assert len(video.read(path, overrides).frames) == 2


def test_reading_uses_the_decoder_of_the_settings(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    path = write(tmp_path / "a.mp4", [0] * 20)
    with pytest.raises(VideoError, match="decoder 'decord2'"):
        preprocessor(decoder="decord2").read(path)


# -------------------------------------------------------------------------------------- settings


def test_the_defaults_are_those_of_the_stts_run():
    settings = VideoSettings()
    assert settings.sampler() == TimeSampler(64, "uniform_last_frame", max_fps=2.0)
    assert (settings.frame_tokens, settings.time_mode) == ("frame", "per-frame-compact")
    assert (settings.subtitle_seconds, settings.subtitle_tokens) == (1, None)


def test_frames_can_be_sampled_by_number():
    settings = VideoSettings(time_sampling=False, frame_sample_mode="fps")
    assert settings.sampler() == FrameSampler(64, "fps")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_frames": 0}, "max_frames is 0"),
        ({"frame_sample_mode": "evenly"}, "'evenly'"),
        ({"frame_sample_mode": "fps_uniform"}, "by time"),
        ({"max_fps": -2.0}, "max_fps is -2.0"),
        ({"frame_tokens": "both"}, "frame_tokens is 'both'"),
        ({"time_mode": "clock"}, "time_mode is 'clock'"),
        ({"subtitle_mode": "frame"}, "subtitle_mode is 'frame'"),
        ({"subtitle_mode": "truncate_x"}, "subtitle_mode is 'truncate_x'"),
        ({"max_subtitle_tokens": -1}, "max_subtitle_tokens is -1"),
        ({"subtitle_mode": "truncate_4", "max_subtitle_tokens": 9}, "only one of"),
        ({"decoder": "opencv"}, "decoder is 'opencv'"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        VideoSettings(**settings)
