"""Videos in which a packet is not a picture, or time stamps are odd, made from plain ones."""

from fractions import Fraction

import av
import numpy as np
from video_oracle import HEIGHT, WIDTH, ffmpeg, picture, remux


def between_key_frames(source, target, skip=5):
    """A recording that begins behind the first key frame."""
    return remux(source, target, lambda number, packet: [packet] if number >= skip else [])


def cut_bytes(source, target, start=0.13, end=1.0):
    """A recording that begins (and ends) inside a packet."""
    content = source.read_bytes()
    target.write_bytes(content[int(start * len(content)) : int(end * len(content))])
    return target


def joined(target, *sources):
    """Recordings one after another, whose clocks start anew."""
    target.write_bytes(b"".join(source.read_bytes() for source in sources))
    return target


def changed_times(source, target, change):
    """Times of packets as `change(number, pts, dts, unit)` gives them."""

    def copy(number, packet):
        unit = round(1 / 25 / packet.time_base)
        packet.pts, packet.dts = change(number, packet.pts, packet.dts, unit)
        return [packet]

    return remux(source, target, copy)


def with_content(packet, content):
    """A packet with other content."""
    made = av.Packet(content)
    made.pts, made.dts, made.duration = packet.pts, packet.dts, packet.duration
    made.time_base, made.is_keyframe = packet.time_base, packet.is_keyframe
    return made


# ---------------------------------------------------------------------------------- MPEG-4 part 2


def _not_coded(content):
    """The picture of a packet, marked as not coded."""
    start = content.rfind(b"\0\0\1\xb6") + 4
    bits = "".join(f"{byte:08b}" for byte in content[start : start + 16])
    end = 2
    while bits[end] == "1":  # seconds that passed
        end += 1
    end += 2 + 5 + 1  # end of seconds, marker, 25ths of a second (5 bits), marker
    made = bits[:end] + "0" + "0"
    made += "1" * (-len(made) % 8)
    return content[:start] + int(made, 2).to_bytes(len(made) // 8, "big")


def not_coded(source, target, which):
    """MPEG-4 part 2 whose encoder coded nothing for some pictures (N-VOPs)."""

    def copy(number, packet):
        return [with_content(packet, _not_coded(bytes(packet)))] if number in which else [packet]

    return remux(source, target, copy)


def packed(source, target):
    """MPEG-4 part 2 with the packets of two pictures in one, as DivX packs them into AVI."""
    held, marker = [], b"\0\0\1\xb2DivX503b1393p"

    def copy(number, packet):
        content = bytes(packet)
        if number == 0:
            at = content.find(b"\0\0\1\xb6")
            return [with_content(packet, content[:at] + marker + content[at:])]
        if number % 2:  # a P picture: the B picture behind it goes into the same packet
            held.append(packet)
            return []
        first = held.pop()
        placeholder = with_content(packet, _not_coded(bytes(first)))
        return [with_content(first, bytes(first) + content), placeholder]

    return remux(source, target, copy)


# -------------------------------------------------------------------------------- fields of H.264


class _Bits:
    def __init__(self):
        self.bits = []

    def put(self, value, count):
        self.bits += [value >> bit & 1 for bit in reversed(range(count))]
        return self

    def golomb(self, *values):
        for value in values:
            self.put(0, (value + 1).bit_length() - 1).put(value + 1, (value + 1).bit_length())
        return self

    def aligned(self):
        self.bits += [0] * (-len(self.bits) % 8)
        return np.packbits(np.array(self.bits, np.uint8)).tobytes()


def _unit(kind, content):
    """A NAL unit, with bytes put in where zeros would look like the start of another."""
    made, zeros = bytearray([0, 0, 0, 1, 0x60 | kind]), 0
    for byte in content:
        if zeros >= 2 and byte <= 3:
            made.append(3)
            zeros = 0
        made.append(byte)
        zeros = 0 if byte else zeros + 1
    return bytes(made)


def _headers():
    """Sequence (Main profile, pictures may be fields) and picture parameters."""
    sequence = _Bits().put(77, 8).put(0, 8).put(30, 8).golomb(0, 0, 0, 4, 1).put(0, 1)
    sequence.golomb(WIDTH // 16 - 1, HEIGHT // 32 - 1).put(0b00100, 5)
    parameters = _Bits().golomb(0, 0).put(0, 2).golomb(0, 0, 0).put(0, 3).golomb(0, 0, 0)
    parameters.put(0b100, 3)
    return b"".join(
        _unit(kind, bits.put(1, 1).aligned()) for kind, bits in ((7, sequence), (8, parameters))
    )


def _coded(planes, fields, parity, frame_number, order):
    """A picture of raw blocks: a field, or a whole frame where `fields` is false."""
    key = frame_number == 0 and not parity
    head = _Bits().golomb(0, 7, 0).put(frame_number, 4).put(fields, 1)
    if fields:
        head.put(parity, 1)
    if key:
        head.golomb(0)
    head.put(order, 8).put(0, 2 if key else 1).golomb(0, 1)
    luma, *chroma = [plane[parity::2] for plane in planes] if fields else planes
    pieces = []
    for top in range(0, luma.shape[0], 16):
        for left in range(0, luma.shape[1], 16):
            bits = (head if not pieces else _Bits()).golomb(25)
            pieces += [bits.aligned(), luma[top : top + 16, left : left + 16].tobytes()]
            at = np.s_[top // 2 : top // 2 + 8, left // 2 : left // 2 + 8]
            pieces += [plane[at].tobytes() for plane in chroma]
    return _unit(5 if key else 1, b"".join([*pieces, b"\x80"]))


def _planes(number):
    frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(format="yuv420p")
    made = []
    for plane, scale in zip(frame.planes, (1, 2, 2), strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(HEIGHT // scale, -1)[:, : WIDTH // scale]
        made.append(np.maximum(rows, 16))
    return made


def fields(path, count=40, whole=(), together=False):
    """Interlaced H.264 with a field in each packet (PAFF), but for the frames in `whole`."""
    unit = Fraction(1, 90000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.time_base = unit
        stream.codec_context.extradata = _headers()
        for number in range(count):
            in_group = number % 12
            parts = (0,) if number in whole else (0, 1)
            coded = [
                _coded(
                    _planes(number), number not in whole, parity, in_group, 2 * in_group + parity
                )
                for parity in parts
            ]
            if in_group == 0:
                coded[0] = _headers() + coded[0]
            coded = [b"".join(coded)] if together else coded
            for part, content in enumerate(coded):
                packet = av.Packet(content)
                packet.stream, packet.time_base = stream, unit
                packet.pts = packet.dts = number * 3600 + part * 1800
                packet.duration = 3600 // len(coded)
                packet.is_keyframe = in_group == 0 and part == 0
                container.mux(packet)
    return path


def copied(source, target, *options, before=()):
    """A copy of the coded pictures by ffmpeg."""
    ffmpeg(*before, "-i", source, "-c", "copy", *options, target)
    return target
