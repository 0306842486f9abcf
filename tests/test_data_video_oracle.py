"""Sampled frames are those that `ffmpeg` shows, whatever a file's container, codec and oddities.

Each picture carries its number, so that frames are compared by it, all of them.
"""

import functools

import av
import numpy as np
import pytest
from odd_videos import (
    between_key_frames,
    changed_times,
    copied,
    cut_bytes,
    fields,
    joined,
    not_coded,
    packed,
)
from video_oracle import encode, encode_twice, number_of, shown_by_ffmpeg

from stts_jax.data.video import index as video_index
from stts_jax.data.video.frame_sampling import FrameSampler, TimeSampler
from stts_jax.data.video.pyav import open_pyav
from stts_jax.data.video.reading import VideoOverrides, probe, read_sampled

H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-crf", 18, "-g", 12]
REORDERED = [*H264, "-bf", 2]
IN_ORDER = [*H264, "-bf", 0]
OPEN_GROUPS = [*REORDERED, "-x264-params", "open-gop=1:scenecut=0"]
BIT_BY_BIT = [*H264, "-x264-params", "intra-refresh=1:scenecut=0"]
INTERLACED = [*REORDERED, "-flags", "+ildct", "-x264-params", "interlaced=1"]
HEVC = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params"]
HEVC += ["log-level=none:keyint=12:min-keyint=12:bframes=3:open-gop=1:pools=none"]
MPEG4 = ["-c:v", "mpeg4", "-q:v", 3, "-g", 30]
MPEG2 = ["-c:v", "mpeg2video", "-q:v", 3, "-g", 12, "-bf", 2]
VP8 = ["-c:v", "libvpx", "-b:v", "100k", "-deadline", "realtime", "-cpu-used", 8]
VP9 = ["-c:v", "libvpx-vp9", "-b:v", "100k", "-cpu-used", 8]
HIDING = ["-deadline", "good", "-auto-alt-ref", 1, "-arnr-maxframes", 7, "-arnr-strength", 5]
HIDING_VP8 = ["-c:v", "libvpx", "-b:v", "100k", "-cpu-used", 5, "-g", 20, *HIDING]
HIDING_VP8 += ["-lag-in-frames", 16]
HIDING_VP9 = ["-c:v", "libvpx-vp9", "-b:v", "100k", "-cpu-used", 4, "-g", 60, *HIDING]
HIDING_VP9 += ["-lag-in-frames", 25]
AV1 = ["-c:v", "libaom-av1", "-b:v", "100k", "-cpu-used", 8, "-g", 20, "-lag-in-frames", 16]


# Each kind of coding is made once, and copied into the containers.
SOURCES = {
    "h264": ("mkv", REORDERED),
    "h264-in-order": ("mkv", IN_ORDER),
    "h264-open": ("mkv", OPEN_GROUPS),
    "h264-refreshed": ("mkv", BIT_BY_BIT),
    "h264-interlaced": ("mkv", INTERLACED),
    "hevc": ("mkv", HEVC),
    "mpeg4": ("avi", MPEG4),
    "mpeg4-reordered": ("avi", [*MPEG4, "-bf", 1, "-b_strategy", 0]),
    "mpeg2": ("ts", MPEG2),
    "vp8": ("webm", VP8),
    "vp9": ("webm", VP9),
    "av1": ("mkv", AV1),
    "mjpeg": ("avi", ["-c:v", "mjpeg", "-q:v", 3]),
    "theora": ("ogv", ["-c:v", "libtheora", "-q:v", 8]),
    "wmv2": ("asf", ["-c:v", "wmv2", "-q:v", 3]),
    "flv1": ("flv", ["-c:v", "flv", "-q:v", 3]),
}  # fmt: skip
COPIES = {
    "h264": "mp4 mov mkv ts flv avi h264",
    "h264-interlaced": "mp4 ts",
    "hevc": "mp4 ts hevc",
    "mpeg4": "mp4 avi",
    "mpeg4-reordered": "avi m4v",
    "mpeg2": "ts mpg mkv m2v",
    "vp8": "webm ivf",
    "vp9": "webm mp4",
    "av1": "mp4 webm",
    "mjpeg": "avi mov",
    "theora": "ogv",
    "wmv2": "asf",
    "flv1": "flv",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("oracle")


@functools.cache
def _source(folder, name):
    extension, options = SOURCES[name]
    count = 61 if name == "mpeg4-reordered" else 60
    return encode(folder / f"source-{name}.{extension}", *options, count=count)


def copy_of(folder, name, extension):
    as_stream = ["-bsf:v", "h264_mp4toannexb"] if (name, extension) == ("h264", "avi") else []
    return copied(_source(folder, name), folder / f"{name}.{extension}", *as_stream)


def later(number, pts, dts, unit):
    """The clock is set forward by 80 s behind picture 30."""
    on = 2000 * unit if number > 30 else 0
    return pts + on, dts + on


def gap(number, pts, dts, unit):
    """Two seconds in which nothing new is shown."""
    on = 50 * unit if number > 30 else 0
    return pts + on, dts + on


def equal(number, pts, dts, unit):
    """Every two pictures bear the same time."""
    return pts - pts % (2 * unit), dts - dts % (2 * unit)


SKIPPED = {5, 6, 25, 26, 59}
ODD = {
    "begins-between.ts": lambda f, to: between_key_frames(copy_of(f, "h264", "ts"), to),
    "begins-between.mkv": lambda f, to: between_key_frames(_source(f, "h264"), to),
    "begins-between.mp4": lambda f, to: between_key_frames(_source(f, "h264"), to),
    "begins-between.flv": lambda f, to: between_key_frames(_source(f, "h264"), to),
    "begins-between-hevc.ts": lambda f, to: between_key_frames(copy_of(f, "hevc", "ts"), to),
    "begins-between-vp9.webm": lambda f, to: between_key_frames(
        encode(f / "short-groups.webm", *VP9, "-g", 20), to
    ),
    "begins-between-mpeg2.ts": lambda f, to: between_key_frames(_source(f, "mpeg2"), to),
    "begins-in-open-group.mp4": lambda f, to: between_key_frames(_source(f, "h264-open"), to, 12),
    "begins-in-open-hevc.mp4": lambda f, to: between_key_frames(_source(f, "hevc"), to, 12),
    "begins-refreshing.mkv": lambda f, to: between_key_frames(_source(f, "h264-refreshed"), to, 12),
    "begins-in-a-packet.ts": lambda f, to: cut_bytes(copy_of(f, "h264", "ts"), to),
    "ends-in-a-packet.ts": lambda f, to: cut_bytes(copy_of(f, "h264", "ts"), to, 0.13, 0.9),
    "begins-in-a-packet.mpg": lambda f, to: cut_bytes(copy_of(f, "mpeg2", "mpg"), to),
    "not-coded.avi": lambda f, to: not_coded(_source(f, "mpeg4"), to, SKIPPED),
    "not-coded.mp4": lambda f, to: not_coded(_source(f, "mpeg4"), to, SKIPPED),
    "not-coded.mkv": lambda f, to: not_coded(_source(f, "mpeg4"), to, SKIPPED),
    "packed.avi": lambda f, to: packed(_source(f, "mpeg4-reordered"), to),
    "fields.ts": lambda f, to: fields(to),
    "fields.mkv": lambda f, to: fields(to),
    "fields.mp4": lambda f, to: fields(to),
    "fields-together.mp4": lambda f, to: fields(to, together=True),
    "fields-later.ts": lambda f, to: fields(to, whole=range(20)),
    "fields-later.mp4": lambda f, to: copied(fields(f / "fields-source.ts", whole=range(20)), to),
    "clock-starts-anew.ts": lambda f, to: joined(to, *[copy_of(f, "h264", "ts")] * 2),
    "clock-starts-anew.mpg": lambda f, to: joined(to, *[copy_of(f, "mpeg2", "mpg")] * 2),
    "clock-set.ts": lambda f, to: changed_times(encode(f / "in-order.ts", *IN_ORDER), to, later),
    "clock-overflows.ts": lambda f, to: copied(
        copy_of(f, "h264", "ts"), to, "-output_ts_offset", 95442.5
    ),
    "gap.mkv": lambda f, to: changed_times(_source(f, "h264-in-order"), to, gap),
    "equal-times.mkv": lambda f, to: changed_times(_source(f, "h264-in-order"), to, equal),
    "edited.mp4": lambda f, to: copied(copy_of(f, "h264", "mp4"), to, before=("-ss", 0.7)),
    "edited.mov": lambda f, to: copied(copy_of(f, "h264", "mp4"), to, before=("-ss", 0.7)),
    "hidden-vp8.webm": lambda f, to: encode_twice(to, *HIDING_VP8),
    "hidden-vp9.nut": lambda f, to: copied(
        encode_twice(f / "hiding.webm", *HIDING_VP9), to, "-bsf:v", "vp9_superframe_split"
    ),
    "hidden-av1.mp4": lambda f, to: copied(_source(f, "av1"), to, "-bsf:v", "av1_frame_split"),
}
CELLS = [f"{name}.{kind}" for name, kinds in COPIES.items() for kind in kinds.split()] + list(ODD)

# Most frames and frames a second, and the clip, in seconds.
SAMPLES = [
    (8, 2.0, None),
    (64, None, None),
    (64, 7.0, None),
    (16, 4.0, (0.3, 1.3)),
    (9, None, (0.7, 99.0)),
]

LEAST_COMPARED = 110  # frames of each cell
ROUNDING = (-1e-9, 1e-6)  # seconds; ffmpeg prints microseconds


def made(folder, cell):
    path = folder / cell
    if not path.exists():
        if cell in ODD:
            ODD[cell](folder, path)
        else:
            copy_of(folder, *cell.split("."))
    return path


@pytest.mark.parametrize("cell", CELLS)
def test_frames_are_those_that_ffmpeg_shows(folder, cell):
    path = made(folder, cell)
    numbers, times = shown_by_ffmpeg(path)
    every = FrameSampler(len(numbers), "uniform_last_frame")
    assert probe(path).frames == len(numbers)
    assert [number_of(frame) for frame in read_sampled(path, every).frames] == numbers.tolist()
    compared = len(numbers)
    for most, rate, clip in SAMPLES:
        sampler = TimeSampler(most, "uniform_last_frame", max_fps=rate)
        video = read_sampled(path, sampler, VideoOverrides(clip=clip))
        at = video.timestamps + (clip[0] if clip else 0)
        found = np.array([number_of(frame) for frame in video.frames])
        # Of a time that rounding put just below a frame's start, that or the one before it.
        either = [numbers[np.searchsorted(times, at + x, "right").clip(1) - 1] for x in ROUNDING]
        assert ((found == either[0]) | (found == either[1])).all(), (
            most,
            rate,
            clip,
            found,
            either,
        )
        compared += len(found)
    assert compared >= LEAST_COMPARED


@pytest.mark.parametrize("cell", ["hidden-vp8.webm", "hidden-vp9.nut", "hidden-av1.mp4"])
def test_there_are_more_packets_than_pictures(folder, cell):
    with av.open(str(made(folder, cell))) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) > 60


@pytest.mark.parametrize("cell", ["hidden-vp9.nut", "hidden-av1.mp4"])
def test_packets_that_mislead_after_all_cost_no_frame(folder, monkeypatch, cell):
    path, sampler = made(folder, cell), TimeSampler(50, "uniform_last_frame")
    right = read_sampled(path, sampler)
    monkeypatch.setattr(video_index, "is_shown", lambda codec: None)
    assert probe(path).frames > 60
    misled = read_sampled(path, sampler)
    assert misled.timestamps.tolist() == right.timestamps.tolist()
    assert (misled.frames == right.frames).all()


def test_the_matrix_is_whole():
    assert (len(CELLS), len(ODD), len(SAMPLES)) == (65, 34, 5)


def test_usual_files_are_sought_and_odd_ones_decoded(folder):
    decoded = set()
    for cell in ("h264.mp4", "h264.mkv", "hevc.mp4", "vp9.webm", "av1.mp4", "fields.mp4"):
        with open_pyav(made(folder, cell)) as video:
            if video.was_decoded:
                decoded.add(cell)
    assert decoded == {"fields.mp4"}
