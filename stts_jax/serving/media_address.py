"""Gets the content that the address of a picture or video stands for, if it may be asked for."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stts_jax.serving.errors import ServingError
from stts_jax.serving.fetching import MediaHosts, fetch
from stts_jax.serving.limits import Limits
from stts_jax.serving.media_files import MediaFile, MediaFiles

# What an upload is called afterwards.
UPLOAD = "upload:"
logger = logging.getLogger(__name__)
ContentOf = Callable[[str, Limits], bytes]
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class MediaAddresses:
    """Says which addresses may be asked for, and gets their content.

    Attributes:
      files: to keep the content in.
      limits: on sizes and times.
      root: folder that `file:` addresses must be below; None to refuse them all.
      hosts: that http and https addresses may name.
    """

    files: MediaFiles
    limits: Limits
    root: Path | None = None
    hosts: MediaHosts = field(default_factory=MediaHosts)

    async def get(self, address: str) -> MediaFile:
        """Returns the file that an address stands for.

        Args:
          address: `data:`, `upload:`, `file:`, `http:` or `https:`.

        Raises:
          ServingError: if it may not be asked for, isn't there, or is too large.
        """
        scheme = address[:16].partition(":")[0].lower()
        if scheme == "data":
            return await asyncio.to_thread(self._add, address, _data_content)
        if scheme == "upload":
            return self._uploaded(address)
        if scheme == "file":
            return await asyncio.to_thread(self._add, address, self._local_content)
        if scheme in ("http", "https"):
            content = await fetch(address, self.hosts, self.limits)
            return await asyncio.to_thread(self.add, content)
        raise ServingError(
            "the address of a picture or video is of an unknown kind; use a data: address, or "
            "upload it to /v1/media and use the id that it gets",
            param="messages",
        )

    def add(self, content: bytes) -> MediaFile:
        """Keeps an uploaded content.

        Raises:
          ServingError: if it is empty or too large, or the disk is full.
        """
        require_size(len(content), self.limits)
        try:
            return self.files.add(content)
        except OSError as error:
            logger.error("a file of a client could not be written", exc_info=error)
            raise ServingError(
                "the server has no room for the file; come again later, or send a smaller one",
                503,
                "no_room",
                headers={"Retry-After": "30"},
            ) from error

    def _add(self, address: str, content_of: ContentOf) -> MediaFile:
        content = content_of(address, self.limits)
        return self.add(content)

    def _uploaded(self, address: str) -> MediaFile:
        digest = address.removeprefix(UPLOAD)
        file = self.files.get(digest) if _DIGEST.fullmatch(digest) else None
        if file is None:
            raise ServingError(
                "there is no such upload here, or no more; upload the file again",
                404,
                "upload_not_found",
                "messages",
            )
        return file

    def _local_content(self, address: str, limits: Limits) -> bytes:
        if self.root is None:
            raise ServingError(
                "file: addresses are not served; send a data: address, upload the file, or start "
                "the server with --media-root",
                403,
                "not_allowed",
                "messages",
            )
        return local_content(address, self.root, limits)


def local_content(address: str, root: Path, limits: Limits) -> bytes:
    """Returns the content of a file below a folder.

    Links are followed and must end below it: what was opened is what is looked at.

    Args:
      address: `file:///...`.
      root: the folder.
      limits: on its size.

    Raises:
      ServingError: if there is no such file below it. What lies elsewhere is not told apart from
        what isn't there.
    """
    missing = ServingError(
        "there is no such file below the folder that this server shows; check the address",
        404,
        "file_not_found",
        "messages",
    )
    try:
        split = urlsplit(address)
        named = unquote(split.path, errors="strict")
        if split.netloc not in ("", "localhost") or "\0" in named or not named.startswith("/"):
            raise missing
        path = Path(named).resolve()
        if not path.is_relative_to(root.resolve()):
            raise missing
        # A pipe would wait for its other end, were it not for O_NONBLOCK.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError, RuntimeError) as error:
        raise missing from error
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode) or not _is_below(descriptor, root):
        os.close(descriptor)
        raise missing
    with os.fdopen(descriptor, "rb") as opened:
        require_size(state.st_size, limits)
        content = opened.read(limits.bytes + 1)
    require_size(len(content), limits)
    return content


def _is_below(descriptor: int, root: Path) -> bool:
    """Returns whether an open file is below a folder, whatever was renamed since."""
    opened = Path(f"/proc/self/fd/{descriptor}").readlink()
    return opened.is_relative_to(root.resolve())


def require_size(nbytes: int, limits: Limits) -> None:
    """Refuses what is empty or too large.

    Raises:
      ServingError: if it is.
    """
    if not nbytes:
        raise ServingError("a picture or video is empty; send its content", param="messages")
    if nbytes > limits.bytes:
        raise ServingError(
            f"a picture or video has more than the {limits.bytes:,} bytes that this server takes; "
            "cut it, or scale it down",
            413,
            "too_large",
            "messages",
        )


def _data_content(address: str, limits: Limits) -> bytes:
    head, comma, body = address.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ServingError(
            "a data: address is not in base64; write data:video/mp4;base64, and the content",
            param="messages",
        )
    require_size(max(len(body) * 3 // 4 - 2, 1), limits)  # before it is decoded
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ServingError(
            "a data: address holds what is no base64; encode its content again", param="messages"
        ) from error
