"""Videos whose pictures carry their number, and what `ffmpeg` shows of a video."""

import functools
import re
import subprocess

import av
import imageio_ffmpeg
import numpy as np

WIDTH, HEIGHT, BITS = 64, 64, 8
SHOWN = re.compile(rb"n: *\d+ pts: *\S+ pts_time:(\S+)")


def picture(number):
    """(HEIGHT, WIDTH, 3) uint8: the bits of a number as columns, black or white."""
    bits = np.array([number >> bit & 1 for bit in range(BITS)], np.uint8)
    columns = np.where(bits, 225, 30).astype(np.uint8).repeat(WIDTH // BITS)
    return np.broadcast_to(columns[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_of(image):
    """The number that a picture carries."""
    bits = image.reshape(HEIGHT, BITS, -1).mean((0, 2)) > 127
    return int(sum(1 << bit for bit in range(BITS) if bits[bit]))


def ffmpeg(*arguments, content=None):
    """Runs ffmpeg; what it writes to its output, and to its log."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y", "-threads", "1"]
    if content is not None:
        command.remove("-nostdin")
    made = subprocess.run([*command, *map(str, arguments)], input=content, capture_output=True)
    assert made.returncode == 0, made.stderr[-2000:].decode(errors="replace")
    return made.stdout, made.stderr


@functools.cache
def _raw(count):
    return b"".join(picture(number).tobytes() for number in range(count))


def encode(path, *options, count=60, rate=25):
    """Writes a video of `count` pictures, numbered from 0; returns its path."""
    size = f"{WIDTH}x{HEIGHT}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", "-"]
    defaults = ["-pix_fmt", "yuv420p", "-threads", 1]
    ffmpeg(*source, *defaults, *options, path, content=_raw(count))
    return path


def encode_twice(path, *options):
    """As `encode`, in two passes, which lets encoders add pictures that are never shown."""
    log = ["-passlogfile", path.with_suffix("")]
    encode(path.with_name(f"first-{path.name}"), *options, "-pass", 1, *log)
    return encode(path, *options, "-pass", 2, *log)


def remux(source, target, change, **options):
    """Copies the packets that `change(number, packet)` returns, in a list; returns `target`."""
    with av.open(str(source)) as read, av.open(str(target), "w", **options) as written:
        stream = read.streams.video[0]
        copy = written.add_stream_from_template(stream)
        packets = (packet for packet in read.demux(stream) if packet.dts is not None)
        for number, packet in enumerate(packets):
            for changed in change(number, packet):
                changed.stream = copy
                written.mux(changed)
    return target


def shown_by_ffmpeg(path):
    """Numbers of all pictures that ffmpeg shows, and their times from the first (seconds)."""
    output, log = ffmpeg(
        "-i", path, "-map", "0:V:0", "-vf", "showinfo", "-fps_mode", "passthrough",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-",
    )  # fmt: skip
    images = np.frombuffer(output, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)
    times = np.array([float(time) for time in SHOWN.findall(log)])
    assert len(times) == len(images)
    return np.array([number_of(image) for image in images]), times - times[0]
