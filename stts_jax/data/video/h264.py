"""Reads the headers of an H.264 stream for what FFmpeg's libraries tell only after decoding.

Sources: ITU-T H.264, 7.3.2.1.1 (sequence parameter set) and annex B (byte stream); ISO/IEC
14496-15, 5.3.3 (parameters in MP4).
"""

from __future__ import annotations

WHOLE, SEQUENCE = 5, 7  # kinds of NAL units: of a picture that needs no other, and parameters
# Profiles whose parameters say how colours are sampled.
WITH_CHROMA = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}


def codes_frames_only(extradata: bytes | None) -> bool:
    """Returns whether all sequence parameter sets rule fields out; false if none can be read.

    Args:
      extradata: of the codec, as MP4 or as a byte stream has it.
    """
    try:
        sets = list(_sequence_sets(extradata or b""))
        return bool(sets) and all(_frame_mbs_only(content) for content in sets)
    except (IndexError, ValueError):
        return False


def begins_whole(content: bytes, extradata: bytes | None) -> bool:
    """Returns whether a packet's picture is one that neither it nor any later one needs others for.

    Args:
      content: of the packet.
      extradata: of the codec.
    """
    if not extradata or extradata[:1] != b"\1":
        kinds = [unit[0] & 31 for unit in content.split(b"\0\0\1")[1:] if unit]
        return WHOLE in kinds
    size, at = (extradata[4] & 3) + 1, 0
    while at + size < len(content):
        if content[at + size] & 31 == WHOLE:
            return True
        at += size + int.from_bytes(content[at : at + size])
    return False


def _sequence_sets(extradata: bytes) -> list[bytes]:
    if extradata[:1] != b"\1":
        units = extradata.split(b"\0\0\1")[1:]
        return [unit[1:] for unit in units if unit and unit[0] & 31 == SEQUENCE]
    sets, at = [], 6
    for _ in range(extradata[5] & 31):
        length = int.from_bytes(extradata[at : at + 2])
        sets.append(extradata[at + 3 : at + 2 + length])
        at += 2 + length
    return sets


class _Bits:
    def __init__(self, content: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in content.replace(b"\0\0\3", b"\0\0"))
        self._at = 0

    def take(self, count: int) -> int:
        self._at += count
        return int(self._bits[self._at - count : self._at], 2)

    def golomb(self) -> int:
        zeros = self._bits.index("1", self._at) - self._at
        self._at += zeros
        return self.take(zeros + 1) - 1

    def signed(self) -> int:
        value = self.golomb()
        return (value + 1) // 2 if value % 2 else -(value // 2)


def _frame_mbs_only(content: bytes) -> bool:
    bits = _Bits(content)
    profile = bits.take(8)
    bits.take(16)  # constraints, level
    bits.golomb()  # its number
    if profile in WITH_CHROMA:
        _pass_chroma(bits)
    bits.golomb()  # bits of frame_num
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.take(1)
        bits.golomb()
        bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()  # reference frames
    bits.take(1)
    bits.golomb()  # width
    bits.golomb()  # height
    return bits.take(1) == 1


def _pass_chroma(bits: _Bits) -> None:
    chroma = bits.golomb()
    if chroma == 3:
        bits.take(1)
    bits.golomb()  # depth of luma
    bits.golomb()  # depth of chroma
    bits.take(1)
    if bits.take(1):
        for number in range(12 if chroma == 3 else 8):
            if bits.take(1):
                _pass_scaling_list(bits, 16 if number < 6 else 64)


def _pass_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
