"""Video files as users have them: odd names, mirrors, bare streams, playlists, absurd sizes."""

import os
import socket
import struct
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
from video_oracle import HEIGHT, WIDTH, encode, ffmpeg, number_of, remux
from video_reading import read_video

from stts_jax.data.video import input as video_input
from stts_jax.data.video.boxes import samples_named
from stts_jax.data.video.decoders import DecordDecoder, TorchcodecDecoder
from stts_jax.data.video.reading import VideoError, probe

H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-g", 12]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("clip") / "clip.mp4", *H264, count=30)


# ------------------------------------------------------------------------------------------ names

NAMES = ["12:30:05.mp4", "pipe:0", "concat:a.mp4", "file:x.mp4", "-x.mp4", "http:x", "%03d.mp4"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_named_like_an_address_is_a_file(tmp_path, monkeypatch, clip, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(clip.read_bytes())
    assert probe(name).frames == 30
    assert [number_of(frame) for frame in read_video(name, 3, None).frames] == [0, 15, 29]


@pytest.mark.parametrize("kind", [TorchcodecDecoder, DecordDecoder])
def test_other_decoders_get_names_that_are_no_addresses(tmp_path, monkeypatch, kind):
    asked = []

    class Package:
        def VideoDecoder(self, name, **options):  # noqa: N802 - torchcodec's
            asked.append(name)
            raise RuntimeError

        VideoReader = VideoDecoder

        def cpu(self, number):
            return number

    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError):
        kind("pipe:0", Package())
    assert asked == [str(tmp_path / "pipe:0")]


# ---------------------------------------------------------------------------- what is not a video


def test_lists_of_other_files_are_not_followed(tmp_path, monkeypatch, clip):
    (tmp_path / "part.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile part.mp4\n")
    segment = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\npart.mp4\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(segment)
    for name in ("list.mp4", "list.m3u8"):
        with pytest.raises(VideoError, match=rf"{name}' is not a video file, or is a list"):
            read_video(tmp_path / name, 2, None)


def test_no_address_is_asked(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n"
        (tmp_path / "list.m3u8").write_text(text)
        with pytest.raises(VideoError):
            read_video(tmp_path / "list.m3u8", 2, None)
        with pytest.raises(TimeoutError):
            server.accept()


def test_pipes_sockets_devices_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    (tmp_path / "link.mp4").symlink_to("pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.mp4"))
    kinds = {"pipe": "a pipe", "device": "a device", "link": "a pipe", "socket": "a socket"}
    for name, kind in kinds.items():
        with pytest.raises(VideoError, match=rf"{name}.mp4' is {kind}.*give the path of a video"):
            probe(tmp_path / f"{name}.mp4")


# ---------------------------------------------------------------------------------------- mirrors


@pytest.mark.parametrize("mirror", ["none", "hflip", "vflip"])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_turned_and_mirrored_frames_are_shown_as_ffmpeg_shows_them(tmp_path, clip, turn, mirror):
    path = tmp_path / "a.mp4"
    flip = [] if mirror == "none" else [f"-display_{mirror}"]
    ffmpeg("-display_rotation", turn, *flip, "-i", clip, "-c", "copy", path)
    raw, _ = ffmpeg("-i", path, "-frames:v", 1, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    frame = read_video(path, 1, None).frames[0]
    expected = np.frombuffer(raw, np.uint8).reshape(frame.shape)
    assert np.abs(frame.astype(int) - expected).max() <= 2  # between two builds of FFmpeg


def test_the_clip_of_the_mirrors_looks_different_in_every_position(clip):
    frame = read_video(clip, 9, None).frames[7]
    positions = [np.rot90(side, turn) for side in (frame, frame[:, ::-1]) for turn in range(4)]
    assert len({image.tobytes() for image in positions}) >= 4


# ------------------------------------------------------------------------------- rates and sizes


@pytest.mark.parametrize("kind", ["h264", "hevc", "m2v"])
def test_bare_streams_are_read_at_the_rate_that_they_declare(tmp_path, kind):
    codec = {"h264": H264, "hevc": ["-c:v", "libx265", "-x265-params", "log-level=none:pools=none"],
             "m2v": ["-c:v", "mpeg2video", "-q:v", 3]}[kind]  # fmt: skip
    info = probe(encode(tmp_path / f"a.{kind}", *codec, count=30, rate=30))
    assert (info.frames, info.duration) == (30, pytest.approx(1.0))


def test_a_bare_stream_without_a_rate_is_refused_with_the_remedy(tmp_path):
    path = encode(tmp_path / "a.mjpeg", "-c:v", "mjpeg", count=30)
    remedy = "ffmpeg -framerate 25 -i IN OUT.mp4"
    with pytest.raises(VideoError, match=f"mjpeg that declares no frame rate.*{remedy}"):
        read_video(path, 2, None)
    made = str(tmp_path / "a.mp4")
    words = remedy.replace("IN", str(path)).replace("OUT.mp4", made).split()
    words[0] = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([*words, "-loglevel", "error"], check=True)
    assert probe(made).frames == 30


def test_frames_that_are_too_large_are_refused_before_they_are_decoded(tmp_path, monkeypatch, clip):
    monkeypatch.setattr(video_input, "MAX_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(VideoError, match=r"frames of 64 x 64 pixels, more than 4,095; scale it"):
        read_video(clip, 2, None)


def test_time_stamps_that_never_end_are_refused(tmp_path, clip):
    def late(number, packet):
        if number == 29:
            packet.pts = packet.dts = packet.pts + int(2_000_000 / packet.time_base)
        return [packet]

    source = encode(tmp_path / "a.mkv", *H264, "-bf", 0, count=30)
    path = remux(source, tmp_path / "b.mkv", late)
    with pytest.raises(
        VideoError, match=r"lasts 200000\d s by its time stamps, more than 1,000,000"
    ):
        read_video(path, 2, None)


def named(content, box, at, count):
    """A copy whose header names so many samples."""
    made = bytearray(content)
    struct.pack_into(">I", made, made.find(box) + 4 + at, count)
    return bytes(made)


def test_a_header_that_names_more_samples_than_there_are_bytes_is_refused(tmp_path, clip):
    ffmpeg("-i", clip, "-c", "copy", "-movflags", "frag_keyframe+empty_moov", tmp_path / "a.mp4")
    fragments = (tmp_path / "a.mp4").read_bytes()
    assert samples_named(clip) == samples_named(tmp_path / "a.mp4") == 30
    for content, box, at in ((clip.read_bytes(), b"stsz", 8), (fragments, b"trun", 4)):
        (tmp_path / "b.mp4").write_bytes(named(content, box, at, 50_000_000))
        with pytest.raises(VideoError, match=r"names 50,000,0\d\d samples, more than it has bytes"):
            read_video(tmp_path / "b.mp4", 2, None)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_boxes_of_odd_sizes_do_not_loop(tmp_path, size):
    head = size.to_bytes(4) + b"moov"
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x08ftyp" + head * 50)
    assert samples_named(tmp_path / "a.mp4") == 0


def test_too_many_frames_are_refused(monkeypatch, clip):
    monkeypatch.setattr(video_input, "MAX_FRAMES", 20)
    with pytest.raises(VideoError, match="more than 20 frames; cut it into parts"):
        read_video(clip, 2, None)
