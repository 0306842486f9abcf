"""Decoders other than the default, and how fast the default one is."""

import sys
import time
from types import SimpleNamespace

import av
import numpy as np
import pytest
from data_video_cases import write, write_moving
from video_reading import read_video

from stts_jax.data.video.frame_sampling import FrameSampler, SamplingError
from stts_jax.data.video.reading import (
    VideoError,
    read_sampled,
)


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
