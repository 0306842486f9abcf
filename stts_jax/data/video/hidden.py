"""Whether a packet of VP8, VP9 or AV1 shows a picture, or holds one that others are made from.

Sources: RFC 6386, 9.1 (VP8); VP9 bitstream specification, 6.2 and annex B; AV1 bitstream
specification, 5.3 and 5.9.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import av

FRAME_HEADER, FRAME = 3, 6  # kinds of AV1's units


def is_shown(codec: str) -> Callable[[av.Packet], bool] | None:
    """Returns a function that tells if a packet with content shows a picture; None if all do.

    Args:
      codec: its name.
    """
    return _CODECS.get(codec)


def _vp8(packet: av.Packet) -> bool:
    return bool(_content(packet)[0] & 0x10)


def _vp9(packet: av.Packet) -> bool:
    content = _content(packet)
    if content[-1] & 0xE0 == 0xC0:  # several frames, of which the last is shown
        return True
    header = content[0] << (1 if content[0] & 0x30 == 0x30 else 0)  # a reserved bit of profile 3
    return bool(header & 0x0A)  # shows a frame that came before, or this one


def _av1(packet: av.Packet) -> bool:
    try:
        # The first bits: show_existing_frame, two of the frame's type, show_frame.
        return any(first & 0x90 for first in _frames(_content(packet)))
    except IndexError:  # damaged, which the decoder finds out
        return True


def _frames(content: memoryview) -> Iterator[int]:
    """Yields the first byte of each unit that begins a frame."""
    at = 0
    while at < len(content):
        header = content[at]
        kind, at = header >> 3 & 15, at + (2 if header & 4 else 1)
        size = len(content) - at
        if header & 2:
            size, at = _leb128(content, at)
        if kind in (FRAME_HEADER, FRAME):
            yield content[at]
        at += size


def _leb128(content: memoryview, at: int) -> tuple[int, int]:
    """Returns a number in little-endian groups of 7 bits, and the position after it."""
    value = shift = 0
    while True:
        value, shift = value | (content[at] & 127) << shift, shift + 7
        at += 1
        if content[at - 1] < 128 or shift > 56:
            return value, at


def _content(packet: av.Packet) -> memoryview:
    return memoryview(cast(bytes, packet))


_CODECS = {"vp8": _vp8, "vp9": _vp9, "av1": _av1}
