"""Limits on what clients send."""

from __future__ import annotations

from dataclasses import dataclass, fields

from stts_jax.config import ConfigError

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What a client may send, and what a request may take.

    Attributes:
      bytes: of one picture or video.
      bodies_bytes: of the bodies of all requests under way.
      pixels: of a frame or picture, by its header, before it is decoded.
      seconds: of a video.
      frames: of a video that are looked at.
      images: in a request.
      request_seconds: from the first byte of a request to the last of its answer.
      header_seconds: until the head of a request is there.
      fetch_seconds: to fetch a picture or video from a named host.
      decode_seconds: to decode one; the process that does it is killed then.
      decode_bytes: of memory that this process may take.
      decoders: processes that decode.
      waiting: pictures and videos that may wait for one.
      stored_bytes: of uploaded files that are kept, the least recently used leave first.
      prepared_bytes: of decoded frames that are kept for further questions.
    """

    bytes: int = 64 * MIB
    bodies_bytes: int = 1024 * MIB
    pixels: int = 3840 * 2160
    seconds: float = 3600.0
    frames: int = 128
    images: int = 8
    request_seconds: float = 300.0
    header_seconds: float = 20.0
    fetch_seconds: float = 20.0
    decode_seconds: float = 30.0
    decode_bytes: int = 1024 * MIB
    decoders: int = 2
    waiting: int = 32
    stored_bytes: int = 1024 * MIB
    prepared_bytes: int = 512 * MIB

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ConfigError(f"the limit {field.name} is {value}; make it more than 0")

    @property
    def body_bytes(self) -> int:
        """Returns the bytes of a request: base64 takes four thirds, and text comes with it."""
        return self.bytes * 4 // 3 + 4 * MIB
