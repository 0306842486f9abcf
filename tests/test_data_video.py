"""Sampling times and reading video files."""

from fractions import Fraction

import av
import numpy as np
import pytest

from stts_jax.data.video import VideoError, probe, read_video, sample_times


def write(path, levels, pts=None, *, fps=10, codec="libx264", rotation=0, gop=250):
    """A grey video, one level a frame; `pts` in units of 1/fps make the rate vary."""
    header_first = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=header_first) as container:
        stream = container.add_stream(codec, rate=fps, options={"crf": "1", "g": str(gop)})
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
        "empty.mp4": "is empty",
        ".": "is a folder",
        "text.txt": "is no",
        "text.mp4": "is no",
        "noheader.mp4": "is no readable video",
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
    with pytest.raises(VideoError, match="no readable video"):
        read_video(path, 4, 2.0)


def test_a_damaged_frame_is_refused(tmp_path):
    path = write(tmp_path / "a.mp4", list(range(0, 200, 5)), gop=5)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 1500
    content[start : start + 3000] = bytes(3000)
    path.write_bytes(bytes(content))
    with pytest.raises(VideoError, match="no readable video"):
        read_video(path, 40, None)


def sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
