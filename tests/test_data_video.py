"""Sampling times and reading video files."""

import sys
import time
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import av
import numpy as np
import pytest
from video_reading import read_video

from stts_jax.config import DataConfig
from stts_jax.data import video_pyav
from stts_jax.data.frame_sampling import FrameSampler, SamplingError, TimeSampler
from stts_jax.data.video import (
    DECODERS,
    VideoError,
    VideoOverrides,
    probe,
    read_sampled,
    sample_times,
)


def write(path, levels, pts=None, *, fps=10, codec="libx264", rotation=0, gop=250, **options):
    """A grey video, one level a frame; `pts` in units of 1/fps make the rate vary."""
    header_first = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    options = {"crf": "1", "g": str(gop), **options}
    with av.open(str(path), "w", options=header_first) as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.time_base = Fraction(1, fps)
        stream.codec_context.time_base = Fraction(1, fps)
        if rotation:
            stream.set_display_rotation(rotation)
        for k, level in enumerate(levels):
            image = np.full((32, 48, 3), level, np.uint8)
            image[:8, :12] = 250  # bright top left corner
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (pts or range(len(levels)))[k], Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_moving(path, size, frames, *, fps=30, codec="libx264", pixels="yuv420p", **options):
    """A video of coarse noise that moves; returns the file."""
    width, height = size
    grain = np.random.RandomState(0).randint(0, 256, (height // 8 + 9, width // 8 + 9, 3))
    picture = np.kron(grain.astype(np.uint8), np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for k in range(frames):
            top, left = k % 60, 2 * k % 60
            image = np.ascontiguousarray(picture[top : top + height, left : left + width])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decoded(path):
    """All frames, the plain way."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def levels_of(video):
    return np.rint(video.frames[:, 20:, 20:].mean((1, 2, 3))).astype(int)


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


# ------------------------------------------------------------------------------- kinds of files


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("reordered.mp4", "libx264", {"bf": "8", "b-pyramid": "normal", "g": "30"}),
        ("open_groups.mp4", "libx264", {"x264-params": "open-gop=1:keyint=20:bframes=3"}),
        ("tiny_groups.mp4", "libx264", {"g": "4", "bf": "3"}),
        ("key_frames_only.mov", "libx264", {"g": "1"}),
        ("never_a_whole_picture.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=30"}),
        ("interlaced.mp4", "libx264", {"x264-params": "interlaced=1:keyint=25"}),
        ("reordered.mkv", "libx264", {"bf": "8", "g": "30"}),
        ("reordered.ts", "libx264", {"bf": "8", "g": "30"}),
        ("reordered.avi", "libx264", {"bf": "8", "g": "30"}),
        ("reordered.flv", "libx264", {"bf": "3", "g": "30"}),
        ("old.avi", "mpeg4", {"g": "25"}),
        ("disc.mpg", "mpeg2video", {"g": "25", "bf": "2"}),
        ("web.webm", "libvpx-vp9", {"g": "25"}),
    ],
)
def test_all_samples_are_the_frames_of_a_plain_decode(tmp_path, name, codec, options):
    path = write_moving(tmp_path / name, (96, 64), 120, fps=25, codec=codec, **options)
    frames = decoded(path)
    assert probe(path).frames == len(frames)
    for count in (1, 3, 7, 40, 120):  # from long leaps to every frame
        sampler = FrameSampler(count, "uniform_last_frame")
        numbers = sampler.sample(25.0, len(frames)).positions
        found = read_sampled(path, sampler).frames
        assert [
            k for k, frame in zip(numbers, found, strict=True) if (frame != frames[k]).any()
        ] == []


def test_odd_sizes_are_kept(tmp_path):
    path = write_moving(tmp_path / "a.mp4", (47, 33), 10, pixels="yuv444p")
    video = read_video(path, 4, 2.0)
    assert video.frames.shape[1:] == (33, 47, 3)
    assert np.array_equal(video.frames[0], decoded(path)[0])


def test_sound_and_a_cover_picture_are_passed_over(tmp_path):
    path = write_with_sound(tmp_path / "a.mp4", cover=True, levels=[10 * k for k in range(20)])
    video = read_video(path, 8, 2.0)
    np.testing.assert_allclose(levels_of(video), [0, 50, 100, 150, 190], atol=2)


def test_a_song_with_a_cover_is_no_video(tmp_path):
    path = write_with_sound(tmp_path / "a.mp4", cover=True, levels=[])
    with pytest.raises(VideoError, match="only sound"):
        read_video(path, 4, 2.0)


def test_subtitles_alone_are_no_video(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text("1\n00:00:00,000 --> 00:00:02,000\nHello.\n\n")
    with pytest.raises(VideoError, match=r"a\.srt' has no pictures, only subtitles"):
        read_video(path, 4, 2.0)


def test_the_config_knows_the_decoders_that_there_are():
    assert get_args(get_type_hints(DataConfig)["decoder"]) == tuple(DECODERS)


def test_a_picture_size_that_changes_is_refused(tmp_path, monkeypatch):
    images = [np.zeros((4, 6, 3), np.uint8), np.zeros((2, 6, 3), np.uint8)]
    fake = SimpleNamespace(begin=0.0, end=1.0, frame_count=2)
    fake.frames_shown_at = lambda seconds: iter(images)
    stand_in(monkeypatch, fake)
    with pytest.raises(VideoError, match=r"from \(4, 6\) to \(2, 6\)"):
        read_video(tmp_path / "a.mp4", 2, None, decoder="stand-in")


def test_frames_that_nobody_wants_are_not_converted(tmp_path, monkeypatch):
    converted = []

    class Counting:
        def __init__(self):
            self.converter = av.video.reformatter.VideoReformatter()

        def reformat(self, frame, **options):
            converted.append(frame.pts)
            return self.converter.reformat(frame, **options)

    monkeypatch.setattr(video_pyav, "VideoReformatter", Counting)
    path = write(tmp_path / "a.mp4", [0] * 40)
    read_video(path, 6, None)
    assert len(converted) == 6


def test_a_frame_shown_twice_is_transformed_once(tmp_path):
    path = write(tmp_path / "a.mp4", [0, 100, 200], pts=[0, 1, 19])
    seen = []
    video = read_video(path, 5, 2.0, transform=lambda image: seen.append(1) or image[:8, :8])
    assert video.frames.shape == (5, 8, 8, 3)
    assert len(seen) == 3


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_files_are_closed_after_good_and_bad_reads(tmp_path):
    good = write(tmp_path / "good.mp4", list(range(0, 200, 5)), gop=5)
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    damage(good, tmp_path / "damaged.mp4")
    (tmp_path / "text.mp4").write_text("hello\n" * 100)
    sound(tmp_path / "sound.mp4")
    names = ("good.mp4", "cut.mp4", "damaged.mp4", "text.mp4", "sound.mp4")

    def read_all():
        failed = 0
        for name in names:
            for clip in (None, (99.0, 100.0)):
                sampler = TimeSampler(40, "uniform_last_frame")
                try:
                    read_sampled(tmp_path / name, sampler, VideoOverrides(clip=clip))
                except VideoError:
                    failed += 1
        return failed

    assert read_all() == 9
    before = open_files()
    for _ in range(20):
        read_all()
    assert open_files() == before


def test_unreadable_files_are_named_with_the_reason(tmp_path):
    good = write(tmp_path / "good.mp4", list(range(200)) * 2, fps=25, gop=10)
    content = good.read_bytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.txt").write_text("hello\n" * 100)
    (tmp_path / "text.mp4").write_text("hello\n" * 100)
    (tmp_path / "noheader.mp4").write_bytes(content[-len(content) // 2 :])
    sound(tmp_path / "sound.mp4")
    cases = {
        "missing.mp4": "does not exist",
        "long" * 100: "cannot be looked at: File name too long; check its name",
        "empty.mp4": "is empty",
        ".": "is a folder",
        "text.txt": "is not a video file but a text",
        "text.mp4": "is not a readable video file",
        "noheader.mp4": "is not a readable video file",
        "sound.mp4": "only sound",
    }
    for name, reason in cases.items():
        with pytest.raises(VideoError, match=reason) as raised:
            read_video(tmp_path / name, 4, 2.0)
        assert str(tmp_path / name) in str(raised.value)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_file_cut_off_after_its_header_is_refused(tmp_path, name):
    path = write(tmp_path / name, list(range(200)) * 2, fps=25, gop=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match="not a readable video file"):
        read_video(path, 4, 2.0)


def test_a_damaged_frame_is_refused(tmp_path):
    good = write(tmp_path / "good.mp4", list(range(0, 200, 5)), gop=5)
    path = damage(good, tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="not a readable video file"):
        read_video(path, 40, None)


def damage(path, damaged):
    """A copy with zeros in the middle of its frames."""
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 1500
    content[start : start + 3000] = bytes(3000)
    damaged.write_bytes(bytes(content))
    return damaged


def write_with_sound(path, cover, levels):
    """Sound, then the cover picture, then frames."""
    with av.open(str(path), "w") as container:
        audio = container.add_stream("aac", rate=16000)
        picture = container.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 16, 16, "yuvj420p"
        if cover:
            picture.disposition = av.stream.Disposition.attached_pic
        video = container.add_stream("libx264", rate=10, options={"crf": "1"}) if levels else None
        if video:
            video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        image = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        image.pts, image.time_base = 0, Fraction(1, 1)
        container.mux(picture.encode(image))
        container.mux(picture.encode())
        for k, level in enumerate(levels):
            image = np.full((32, 48, 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 10)
            container.mux(video.encode(frame))
        if video:
            container.mux(video.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.rate = 16000
        container.mux(audio.encode(silence))
        container.mux(audio.encode())
    return path


def sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


# ------------------------------------------------------------------------------- other decoders


def stand_in(monkeypatch, decoder):
    """Make `decoder` known under the name `stand-in`."""

    @contextmanager
    def open_it(path):
        yield decoder

    monkeypatch.setitem(DECODERS, "stand-in", open_it)


def test_an_unknown_decoder_is_named(tmp_path):
    with pytest.raises(SamplingError, match=r"'opencv'.*pyav, torchcodec, decord2"):
        read_video(tmp_path / "a.mp4", 2, None, decoder="opencv")


@pytest.mark.parametrize(
    ("decoder", "module"), [("torchcodec", "torchcodec.decoders"), ("decord2", "decord")]
)
def test_a_decoder_that_is_not_installed_says_how_to_get_it(tmp_path, monkeypatch, decoder, module):
    monkeypatch.setitem(sys.modules, module, None)
    path = write(tmp_path / "a.mp4", [0] * 5)
    with pytest.raises(VideoError, match=f"`pip install {decoder}`"):
        read_video(path, 2, None, decoder=decoder)


class FakeTensor:
    def __init__(self, array):
        self.array = array

    def numpy(self):
        return self.array

    asnumpy = numpy


STARTS = np.array([0.75, 0.875, 1.25, 1.5])  # of the frames of both stand-ins below
END = 1.75


def frame_image(number):
    return FakeTensor(np.full((2, 3, 3), number, np.uint8))


class FakeTorchcodec:
    """The part of `torchcodec.decoders.VideoDecoder` that is used."""

    def __init__(self, path, *, dimension_order, num_ffmpeg_threads, seek_mode):
        assert (dimension_order, num_ffmpeg_threads, seek_mode) == ("NHWC", 1, "exact")
        if "bad" in path:
            raise RuntimeError("no moov\nmore about it")
        self.metadata = SimpleNamespace(
            begin_stream_seconds_from_content=STARTS[0],
            end_stream_seconds_from_content=END,
            num_frames=len(STARTS),
        )

    def get_frame_played_at(self, seconds):
        number = int(np.searchsorted(STARTS, seconds, side="right")) - 1
        return SimpleNamespace(data=frame_image(number))

    def get_frame_at(self, index):
        return SimpleNamespace(data=frame_image(index))


class FakeDecord:
    """The part of `decord.VideoReader` that is used."""

    def __init__(self, path, *, ctx, num_threads):
        assert (ctx, num_threads) == ("cpu 0", 1)
        if "bad" in path:
            raise RuntimeError("no moov\nmore about it")

    def __len__(self):
        return len(STARTS)

    def get_frame_timestamp(self, numbers):
        ends = np.append(STARTS[1:], END)
        return np.stack([STARTS, ends], axis=1)[numbers].astype(np.float32)

    def __getitem__(self, number):
        return frame_image(number)


@pytest.fixture(params=["torchcodec", "decord2"])
def other_decoder(request, monkeypatch):
    """Name of a decoder whose package is a stand-in."""
    torchcodec = SimpleNamespace(VideoDecoder=FakeTorchcodec)
    decord = SimpleNamespace(VideoReader=FakeDecord, cpu=lambda number: f"cpu {number}")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", torchcodec)
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace(decoders=torchcodec))
    monkeypatch.setitem(sys.modules, "decord", decord)
    return request.param


def test_other_decoders_give_the_frames_by_time(tmp_path, other_decoder):
    (tmp_path / "a.mp4").write_bytes(b"video")
    video = read_video(tmp_path / "a.mp4", 5, None, decoder=other_decoder)
    np.testing.assert_allclose(video.timestamps, [0, 0.25, 0.5, 0.75, 1.0], atol=1e-6)
    assert video.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 3]


def test_other_decoders_give_the_frames_by_number(tmp_path, other_decoder):
    (tmp_path / "a.mp4").write_bytes(b"video")
    sampler = FrameSampler(3, "uniform_last_frame")
    video = read_sampled(tmp_path / "a.mp4", sampler, decoder=other_decoder)
    assert video.frames[:, 0, 0, 0].tolist() == [0, 1, 3]


def test_other_decoders_name_bad_files(tmp_path, other_decoder):
    (tmp_path / "bad.mp4").write_bytes(b"video")
    with pytest.raises(VideoError, match=r"bad.mp4' is not a readable video file: no moov; copy"):
        read_video(tmp_path / "bad.mp4", 2, None, decoder=other_decoder)
    with pytest.raises(VideoError, match="does not exist"):
        read_video(tmp_path / "missing.mp4", 2, None, decoder=other_decoder)


# ---------------------------------------------------------------------------------------- speed


def seconds_of(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def decode_all(path):
    with av.open(str(path)) as container:
        for _ in container.decode(video=0):
            pass


@pytest.mark.slow
def test_sampling_costs_little_more_than_decoding_once(tmp_path, report_error):
    path = write_moving(tmp_path / "a.mp4", (1280, 720), 300, preset="veryfast")

    def sample():  # a corner is kept, so that it is decoding and conversion that are measured
        assert len(read_video(path, 64, None, transform=lambda image: image[:8, :8]).frames) == 64

    times = [(seconds_of(sample), seconds_of(lambda: decode_all(path))) for _ in range(8)]
    sampling, plain = np.median(times[1:], axis=0)  # the first warms up
    # Measured: 0.7 to 1.0, as frames that no other needs are not decoded.
    report_error("time of 64 frames, in plain decodes", sampling / plain, 1.3)
    assert sampling <= 1.3 * plain
