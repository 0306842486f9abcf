"""Kinds of video files: containers, codecs, and what is damaged."""

from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import av
import numpy as np
import pytest
from data_video_cases import levels_of, write, write_moving
from video_reading import read_video

from stts_jax.config import DataConfig
from stts_jax.data.video import pyav as video_pyav
from stts_jax.data.video.frame_sampling import FrameSampler, TimeSampler
from stts_jax.data.video.reading import (
    DECODERS,
    VideoError,
    VideoOverrides,
    probe,
    read_sampled,
)


def decoded(path):
    """All frames, the plain way."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


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
