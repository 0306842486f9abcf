"""Sampling times, reading video files, and clips."""

import numpy as np
import pytest
from data_video_cases import levels_of, write
from video_reading import read_video

from stts_jax.data.video.frame_sampling import FrameSampler, SamplingError, TimeSampler
from stts_jax.data.video.reading import (
    VideoError,
    VideoOverrides,
    probe,
    read_sampled,
    sample_times,
)


@pytest.mark.parametrize(
    ("duration", "count", "step"), [(10, 21, 0.5), (31.5, 64, 0.5), (31.6, 64, 0.50159)]
)
def test_times_keep_the_rate_until_there_are_too_many_frames(duration, count, step):
    times = sample_times(duration, 64, 2.0)
    assert len(times) == count
    assert times[0] == 0 and times[-1] == duration
    assert times[1] == pytest.approx(step, abs=1e-5)


def test_times_of_a_long_video_are_even():
    assert sample_times(120, 64, 2.0)[1] == pytest.approx(1.90476, abs=1e-5)
    assert sample_times(120, 1, 2.0).tolist() == [0.0]
    assert sample_times(0.1, 8, 2.0).tolist() == [0.0, 0.1]
    assert sample_times(3.0, 4, None).tolist() == [0.0, 1.0, 2.0, 3.0]


def test_rounding_adds_no_time_before_the_last():
    times = sample_times(5 / 3, 6, 3.0)
    np.testing.assert_allclose(times, [0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3])


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (lambda: TimeSampler(8, "evenly"), "evenly.*by time"),
        (lambda: TimeSampler(8, "uniform", max_fps=2.0), "max_fps is 2.0"),
        (lambda: TimeSampler(8, "uniform_last_frame_sample_fps", max_fps=2.0), "between two"),
        (lambda: TimeSampler(8, "uniform_last_frame", max_fps=[2.0, 0.0]), "max_fps is 0.0"),
        (lambda: TimeSampler(8, "fps", candidate_sampling_fps=()), "candidate_sampling_fps"),
        (lambda: TimeSampler(0, "fps"), "max_frames is 0"),
        (lambda: FrameSampler(8, "uniform_last_frame_min_fps"), "by frame number"),
        (lambda: FrameSampler(8, "uniform_last_frame", min_fps=-1.0), "min_fps is -1.0"),
        (lambda: FrameSampler(8, "uniform").sample(30.0, 0), "0 frames"),
        (lambda: FrameSampler(8, "debug").sample(30.0, 99), "needs a generator"),
        (lambda: FrameSampler(2, "uniform_last_frame_min_0.5fps").sample(30, 90), "3 frames"),
    ],
)
def test_settings_that_cannot_be_sampled_with_are_named(sampler, words):
    with pytest.raises(SamplingError, match=words):
        sampler()


def test_without_a_generator_the_first_rate_is_taken():
    for mode in ("uniform_last_frame", "uniform_last_frame_sample_fps"):
        sampler = TimeSampler(8, mode, max_fps=(1.0, 4.0))
        assert sampler.sample(2.0).positions.tolist() == [0.0, 1.0, 2.0]
    sampler = FrameSampler(8, "uniform_last_frame_max_fps_set_1-4")
    assert sampler.sample(10.0, 21).positions.tolist() == [0, 10, 20]


def test_frames_are_those_on_display_at_the_times(tmp_path):
    path = write(tmp_path / "a.mp4", [10 * k for k in range(20)])
    video = read_video(path, 8, 2.0)
    assert video.timestamps.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    # Error measured: 1 level, from the conversion to YUV and back.
    np.testing.assert_allclose(levels_of(video), [0, 50, 100, 150, 190], atol=2)


def test_a_varying_frame_rate_is_followed(tmp_path):
    path = write(tmp_path / "a.mp4", [0, 50, 100, 150, 200], pts=[0, 1, 12, 13, 19])
    video = read_video(path, 5, 2.0)
    times = np.array([0, 0.1, 1.2, 1.3, 1.9])
    expected = 50 * (np.searchsorted(times, np.minimum(video.timestamps, 1.95), "right") - 1)
    np.testing.assert_allclose(levels_of(video), expected, atol=2)


def test_long_gaps_are_crossed_by_seeking_to_the_same_frames(tmp_path):
    path = write(tmp_path / "a.mp4", [k % 240 for k in range(400)], gop=20)
    video = read_video(path, 4, None)
    np.testing.assert_allclose(levels_of(video), [0, 133, 26, 159], atol=2)


def test_rotation_is_undone(tmp_path):
    path = write(tmp_path / "a.mp4", [60] * 4, rotation=90)
    frames = read_video(path, 2, 2.0).frames
    assert frames.shape[1:3] == (48, 32)
    corner = frames[0].mean(-1) > 200
    assert corner[-10:, :6].all() and not corner[:30].any()


def test_probe_tells_length_and_size(tmp_path):
    info = probe(write(tmp_path / "a.mp4", [60] * 15))
    assert (info.duration, info.frames, info.width, info.height) == (1.5, 15, 48, 32)


# ---------------------------------------------------------------------- clips and other overrides


def test_times_of_a_clip_begin_with_it(tmp_path):
    path = write(tmp_path / "a.mp4", [10 * k for k in range(20)])
    sampler = TimeSampler(8, "uniform_last_frame", max_fps=2.0)
    video = read_sampled(path, sampler, VideoOverrides(clip=(0.5, 1.3)))
    np.testing.assert_allclose(video.timestamps, [0.0, 0.5, 0.8])
    np.testing.assert_allclose(levels_of(video), [50, 100, 130], atol=2)


def test_a_clip_ends_with_the_video(tmp_path):
    path = write(tmp_path / "a.mp4", [10 * k for k in range(20)])
    sampler = TimeSampler(8, "uniform_last_frame", max_fps=2.0)
    video = read_sampled(path, sampler, VideoOverrides(clip=(1.5, 99.0)))
    np.testing.assert_allclose(video.timestamps, [0.0, 0.5])
    np.testing.assert_allclose(levels_of(video), [150, 190], atol=2)


def test_a_clip_begins_after_the_first_frame_whatever_time_that_bears(tmp_path):
    pts = [k + 7 for k in range(20)]
    path = write(tmp_path / "a.mkv", [10 * k for k in range(20)], pts=pts)
    sampler = TimeSampler(8, "uniform_last_frame", max_fps=2.0)
    assert probe(path).duration == pytest.approx(2.0)
    video = read_sampled(path, sampler, VideoOverrides(clip=(0.5, 1.3)))
    np.testing.assert_allclose(levels_of(video), [50, 100, 130], atol=2)


def test_a_clip_by_frame_number_is_widened_to_whole_frames(tmp_path):
    path = write(tmp_path / "a.mp4", [10 * k for k in range(20)])
    sampler = FrameSampler(3, "uniform_last_frame")
    video = read_sampled(path, sampler, VideoOverrides(clip=(0.55, 0.95)))
    np.testing.assert_allclose(video.timestamps, [0.0, 0.2, 0.4])
    np.testing.assert_allclose(levels_of(video), [50, 70, 90], atol=2)


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        ((1.0, 1.0), "end after its start"),
        ((-0.5, 1.0), "start at 0 or later"),
        ((2.0, 3.0), "the video ends at 2 s"),
        ((float("nan"), 1.0), "start at 0 or later"),
    ],
)
def test_a_clip_without_frames_is_refused(tmp_path, clip, words):
    path = write(tmp_path / "a.mp4", [0] * 20)
    for sampler in (TimeSampler(4, "uniform"), FrameSampler(4, "uniform")):
        with pytest.raises(VideoError, match=words):
            read_sampled(path, sampler, VideoOverrides(clip=clip))


def test_one_and_two_frames_are_read(tmp_path):
    one = read_video(write(tmp_path / "one.mp4", [90]), 8, 2.0)
    np.testing.assert_allclose(levels_of(one), [90, 90], atol=2)  # at 0 s and at the end
    assert one.timestamps.tolist() == [0.0, 0.1]
    two = read_video(write(tmp_path / "two.mp4", [90, 150]), 8, 2.0)
    np.testing.assert_allclose(levels_of(two), [90, 150], atol=2)


def test_metadata_of_an_example_overrides_the_sampler(tmp_path):
    path = write(tmp_path / "a.mp4", [10 * k for k in range(20)])
    overrides = VideoOverrides.from_metadata(
        {
            "clip_start_time": 0,
            "clip_end_time": 1.5,
            "sampler_overrides": {"frame_sample_mode": "fps", "candidate_sampling_fps": [5.0]},
            "example_id": "a",
        }
    )
    video = read_sampled(path, TimeSampler(64, "uniform_last_frame", max_fps=2.0), overrides)
    np.testing.assert_allclose(video.timestamps, np.arange(8) / 5)
    assert video.target_fps == 5.0


def test_without_a_clip_start_the_whole_video_is_shown():
    assert VideoOverrides.from_metadata({"clip_start_time": None, "clip_end_time": 3}).clip is None
    with pytest.raises(SamplingError, match="no clip_end_time"):
        VideoOverrides.from_metadata({"clip_start_time": 3.0})


def test_unknown_overrides_are_named():
    with pytest.raises(SamplingError, match="'max_frame', 'rate'"):
        VideoOverrides.from_metadata({"sampler_overrides": {"rate": 1, "max_frame": 2}})


def test_overrides_of_the_other_sampler_have_no_effect():
    overrides = VideoOverrides(sampler={"min_fps": 3.0, "max_frames": 5})
    by_time = overrides.applied_to(TimeSampler(8, "fps"))
    by_number = overrides.applied_to(FrameSampler(8, "fps"))
    assert by_time == TimeSampler(5, "fps")
    assert by_number == FrameSampler(5, "fps", min_fps=3.0)


def test_frame_times_may_pretend_another_rate(tmp_path):
    path = write(tmp_path / "a.mp4", [0] * 23)
    sampler = TimeSampler(16, "uniform_last_frame", max_fps=2.0)
    video = read_sampled(path, sampler, VideoOverrides(fake_timestamp_fps=4))
    np.testing.assert_allclose(video.timestamps, np.arange(6) / 4)  # the last was 0.3 s after
    assert video.target_fps == 4.0


@pytest.mark.parametrize("max_fps", [1.0, 5.0])
def test_only_two_frames_a_second_may_pretend_another_rate(tmp_path, max_fps):
    path = write(tmp_path / "a.mp4", [0] * 23)
    sampler = TimeSampler(64, "uniform_last_frame", max_fps=max_fps)
    with pytest.raises(VideoError, match="fake_timestamp_fps=4"):
        read_sampled(path, sampler, VideoOverrides(fake_timestamp_fps=4))
